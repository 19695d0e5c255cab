//! What a provider signed, and what it was paid for: a file of its own, beside the ledger of what
//! it spends. `owing` holds what is owed, `unfinished` what it has begun, and `clock` says
//! by which clock anything of that is forgotten.
//!
//! # What it must never do
//!
//! - Let two receipts be signed for one lease: that is evidence against whoever signed both. What
//!   was signed is on disk before it is sent, and sent again as it is.
//! - Hold anything of an input or an output.
//! - Keep for ever what strangers have it sign: only receipts that are worth something stay.

mod clock;
mod owing;
mod unfinished;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction,
};
use skep_evidence::{AccountId, Agreed, Credits, Keys, Receipt};
use skep_registry::Digest;

pub use unfinished::Unfinished;

const SIGNED: TableDefinition<'_, &[u8; 32], (&[u8], &[u8])> = TableDefinition::new("signed");
const RECEIPTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("receipts");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const NEXT: &str = "next";

/// A provider's statements on disk. One process has them open at a time.
#[derive(Debug)]
pub struct Earnings {
    path: PathBuf,
    /// `None` after the disk has failed: the file is then opened anew.
    database: Mutex<Option<Arc<Database>>>,
    /// What is to be written, by those who wait for the disk: who comes first writes for all.
    waiting: Mutex<Vec<Arc<Waiting>>>,
    /// One of them at a time.
    writing: Mutex<()>,
    /// The number of the next receipt, once somebody has asked for one.
    next: Mutex<Option<u64>>,
    /// How many leases this process has begun.
    begun: AtomicU64,
}

/// A change that waits for the disk.
#[derive(Debug)]
struct Waiting {
    change: Change,
    /// Once it is on disk: what is there for the lease, if something was signed.
    written: OnceLock<Option<Finished>>,
}

/// What is to be written.
#[derive(Debug)]
enum Change {
    /// Something was signed for a lease.
    Signed {
        lease: Digest,
        finished: Finished,
        owed: Owed,
    },
    /// The work of a lease begins, as one of `most` at once.
    Begun {
        number: u64,
        work: Unfinished,
        most: usize,
    },
    /// It is over.
    Ended { number: u64 },
}

/// What was signed for a lease, as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The commitment.
    pub commitment: Vec<u8>,
    /// The receipt.
    pub receipt: Vec<u8>,
}

/// Work that was done and of which no receipt has come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Who is to pay.
    pub requester: AccountId,
    /// How much.
    pub price: Credits,
    /// Since when, in milliseconds since 1970.
    pub since: u64,
    /// The ticket of the node that asked for it, by which it can be asked; empty if that was too long to be
    /// kept.
    pub node: String,
}

/// Why earnings cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum EarningsError {
    /// The file cannot be read or written.
    #[error(
        "the earnings in {} cannot be read or written: {}; see that the disk has room and \
         nothing else uses the file",
        path.display(),
        crate::stored::reason(.error)
    )]
    Storage {
        /// Where they are.
        path: PathBuf,
        /// What the store says.
        error: Box<redb::Error>,
    },
    /// A receipt in it does not hold.
    #[error("the earnings in {} are damaged: {reason}", path.display())]
    Damaged {
        /// Where they are.
        path: PathBuf,
        /// What does not hold.
        reason: String,
    },
}

impl Earnings {
    /// Opens the file at `path`, or makes it.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Self, EarningsError> {
        let database = create(path).map_err(|error| storage(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            database: Mutex::new(Some(Arc::new(database))),
            waiting: Mutex::default(),
            writing: Mutex::default(),
            next: Mutex::default(),
            begun: AtomicU64::new(0),
        })
    }

    /// Does something with the file. After an error the next one opens it anew: one that could not
    /// write, because the disk was full, does not write again.
    fn with<T>(
        &self,
        act: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, EarningsError> {
        let fail = |error| storage(&self.path, error);
        let database = {
            let mut opened = lock(&self.database);
            match &*opened {
                Some(database) => Arc::clone(database),
                None => {
                    let database = Arc::new(create(&self.path).map_err(fail)?);
                    Arc::clone(opened.insert(database))
                }
            }
        };
        // Whoever only reads does not wait for who writes.
        let done = act(&database).map_err(fail);
        if done.is_err() {
            let mut opened = lock(&self.database);
            if opened
                .as_ref()
                .is_some_and(|now| Arc::ptr_eq(now, &database))
            {
                *opened = None;
            }
        }
        done
    }

    /// The number of the next receipt, which nobody gets again. It is on disk with what is signed
    /// under it, and before that only in memory: what was not signed needs no number.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn number(&self) -> Result<u64, EarningsError> {
        let mut next = lock(&self.next);
        let number = match *next {
            Some(number) => number,
            None => self.with(|database| {
                let meta = database.begin_read()?.open_table(META)?;
                Ok(meta.get(NEXT)?.map_or(0, |found| found.value()))
            })?,
        };
        *next = Some(number.saturating_add(1));
        Ok(number)
    }

    /// Keeps what was signed for a lease. If something was kept already, that is what counts, and
    /// it is given back. What several keep at one moment waits for the disk once.
    ///
    /// # Errors
    ///
    /// When the file cannot be written. Then nothing may be sent.
    pub fn keep(
        &self,
        lease: Digest,
        finished: Finished,
        owed: &Owed,
    ) -> Result<Finished, EarningsError> {
        let written = self.write_with_others(Change::Signed {
            lease,
            finished: finished.clone(),
            owed: owed.clone(),
        })?;
        Ok(written.unwrap_or(finished))
    }

    /// Writes a change, and with it those of others that wait; what is on disk for the lease then, if
    /// something was signed.
    fn write_with_others(&self, change: Change) -> Result<Option<Finished>, EarningsError> {
        let own = Arc::new(Waiting {
            change,
            written: OnceLock::new(),
        });
        lock(&self.waiting).push(Arc::clone(&own));
        let _one_at_a_time = lock(&self.writing);
        // Whoever wrote before may have written this too.
        if let Some(written) = own.written.get() {
            return Ok(written.clone());
        }
        let mut all = std::mem::take(&mut *lock(&self.waiting));
        // It is not among them if whoever took it could not write.
        if !all.iter().any(|waiting| Arc::ptr_eq(waiting, &own)) {
            all.push(Arc::clone(&own));
        }
        let next = *lock(&self.next);
        let written = self.with(|database| write(database, &all, next))?;
        for (waiting, written) in all.iter().zip(written) {
            // Nobody else sets it: who writes has the lock.
            let _ = waiting.written.set(written);
        }
        Ok(own.written.get().cloned().flatten())
    }

    /// What was signed for a lease, if anything was.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn finished(&self, lease: Digest) -> Result<Option<Finished>, EarningsError> {
        self.with(|database| {
            let signed = database.begin_read()?.open_table(SIGNED)?;
            Ok(signed
                .get(lease.as_bytes())?
                .map(|found| owned(found.value())))
        })
    }

    /// Keeps receipts that the requester has countersigned, all or none, but those that are worth nothing. Once
    /// is as good as twice.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn paid(&self, receipts: &[Agreed<Receipt>]) -> Result<(), EarningsError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            {
                let mut paid = transaction.open_table(RECEIPTS)?;
                let worth = |receipt: &&Agreed<Receipt>| receipt.price > Credits::ZERO;
                for receipt in receipts.iter().filter(worth) {
                    paid.insert(receipt.lease.as_bytes(), receipt.encode().as_slice())?;
                    owing::remove(&transaction, receipt.lease.as_bytes())?;
                }
            }
            transaction.commit()?;
            Ok(())
        })
    }

    /// Whether the receipt for a lease has come back with both signatures.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn is_paid(&self, lease: Digest) -> Result<bool, EarningsError> {
        self.with(|database| {
            let receipts = database.begin_read()?.open_table(RECEIPTS)?;
            Ok(receipts.get(lease.as_bytes())?.is_some())
        })
    }

    /// Every receipt that was countersigned, with both signatures checked.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or a receipt in it does not hold.
    pub fn receipts(&self) -> Result<Vec<Agreed<Receipt>>, EarningsError> {
        let encoded: Vec<Vec<u8>> = self.with(|database| {
            let receipts = database.begin_read()?.open_table(RECEIPTS)?;
            let mut all = Vec::new();
            for row in receipts.iter()? {
                all.push(row?.1.value().to_vec());
            }
            Ok(all)
        })?;
        let mut keys = Keys::default();
        let decode = |bytes: &Vec<u8>| Agreed::<Receipt>::decode(bytes, &mut keys);
        let receipts: Result<_, _> = encoded.iter().map(decode).collect();
        receipts.map_err(|error| EarningsError::Damaged {
            path: self.path.clone(),
            reason: error.to_string(),
        })
    }
}

/// Writes changes, and says what is on disk then for each lease for which something was signed.
fn write(
    database: &Database,
    all: &[Arc<Waiting>],
    next: Option<u64>,
) -> Result<Vec<Option<Finished>>, redb::Error> {
    let transaction = database.begin_write()?;
    let mut written = Vec::with_capacity(all.len());
    for waiting in all {
        written.push(match &waiting.change {
            Change::Signed {
                lease,
                finished,
                owed,
            } => Some(write_signed(&transaction, *lease, finished, owed)?),
            Change::Begun { number, work, most } => {
                unfinished::write(&transaction, *number, work, *most)?;
                None
            }
            Change::Ended { number } => {
                unfinished::remove(&transaction, *number)?;
                None
            }
        });
    }
    if let Some(next) = next {
        transaction.open_table(META)?.insert(NEXT, next)?;
    }
    transaction.commit()?;
    Ok(written)
}

/// Writes what was signed for a lease, unless something was before; what is there then.
fn write_signed(
    transaction: &WriteTransaction,
    lease: Digest,
    finished: &Finished,
    owes: &Owed,
) -> Result<Finished, redb::Error> {
    let mut signed = transaction.open_table(SIGNED)?;
    let earlier = signed
        .get(lease.as_bytes())?
        .map(|found| owned(found.value()));
    if let Some(earlier) = earlier {
        return Ok(earlier);
    }
    let both = (finished.commitment.as_slice(), finished.receipt.as_slice());
    signed.insert(lease.as_bytes(), both)?;
    owing::add(transaction, lease, owes)?;
    Ok(finished.clone())
}

/// What is behind these locks is whole after every statement, so a poisoned one is still good.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the file with its tables, or makes it.
fn create(path: &Path) -> Result<Database, redb::Error> {
    let database = Database::create(path)?;
    let transaction = database.begin_write()?;
    transaction.open_table(SIGNED)?;
    transaction.open_table(RECEIPTS)?;
    transaction.open_table(META)?;
    owing::create(&transaction)?;
    unfinished::create(&transaction)?;
    transaction.commit()?;
    Ok(database)
}

fn owned((commitment, receipt): (&[u8], &[u8])) -> Finished {
    Finished {
        commitment: commitment.to_vec(),
        receipt: receipt.to_vec(),
    }
}

fn storage(path: &Path, error: impl Into<redb::Error>) -> EarningsError {
    EarningsError::Storage {
        path: path.to_owned(),
        error: Box::new(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recompute;
    use crate::testing::{account, credits, digest, receipt};

    #[test]
    fn of_what_many_keep_at_once_each_has_its_own_and_one_lease_its_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("earnings");
        let earnings = Earnings::open(&path).unwrap();
        let owed = Owed {
            requester: account(1),
            price: credits(7),
            since: 1,
            node: "skep1…".to_owned(),
        };
        // Each of eight keeps something of its own for twenty leases, four times over.
        let kept: Vec<Vec<Finished>> = std::thread::scope(|scope| {
            let threads = (0..8_u8).map(|thread| {
                let (earnings, owed) = (&earnings, &owed);
                scope.spawn(move || {
                    let keep = |n: u64| {
                        let finished = Finished {
                            commitment: vec![thread],
                            receipt: vec![u8::try_from(n / 20).unwrap()],
                        };
                        earnings.number().unwrap();
                        earnings
                            .keep(digest("lease", n % 20), finished, owed)
                            .unwrap()
                    };
                    (0..80).map(keep).collect::<Vec<_>>()
                })
            });
            let threads: Vec<_> = threads.collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        for n in 0..80 {
            let first = earnings.finished(digest("lease", n % 20)).unwrap().unwrap();
            let all = kept.iter().map(|kept| &kept[usize::try_from(n).unwrap()]);
            assert!(all.into_iter().all(|kept| *kept == first));
        }
        assert_eq!(earnings.unpaid(account(1), 0).unwrap(), credits(7 * 20));
        drop(earnings);
        let earnings = Earnings::open(&path).unwrap();
        assert_eq!(earnings.number().unwrap(), 8 * 80);
    }

    #[test]
    fn one_lease_is_signed_once_and_a_receipt_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("earnings");
        let finished = |n: u8| Finished {
            commitment: vec![n],
            receipt: vec![n, n],
        };
        {
            let earnings = Earnings::open(&path).unwrap();
            assert_eq!(earnings.number().unwrap(), 0);
            assert_eq!(earnings.number().unwrap(), 1);
            let lease = digest("lease", 1);
            assert_eq!(earnings.finished(lease).unwrap(), None);
            let owed = |since| Owed {
                requester: account(1),
                price: credits(7),
                since,
                node: "skep1…".to_owned(),
            };
            let keep = |lease, n, since| earnings.keep(lease, finished(n), &owed(since)).unwrap();
            assert_eq!(keep(lease, 1, 10), finished(1));
            assert_eq!(keep(lease, 2, 10), finished(1));
            let paid = receipt(1, 2, 2, 1, 1_000);
            keep(paid.lease, 3, 20);
            let unpaid = |who, since| earnings.unpaid(account(who), since).unwrap();
            assert_eq!(unpaid(1, 0), credits(14));
            assert_eq!(unpaid(1, 11), credits(7));
            assert_eq!(unpaid(2, 0), Credits::ZERO);
            let paid = [paid];
            assert!(!earnings.is_paid(paid[0].lease).unwrap());
            earnings.paid(&paid).unwrap();
            assert!(earnings.is_paid(paid[0].lease).unwrap());
            assert!(!earnings.is_paid(lease).unwrap());
            assert_eq!(earnings.owed(0).unwrap(), [(lease, owed(10))]);
            earnings.paid(&paid).unwrap();
        }
        let earnings = Earnings::open(&path).unwrap();
        assert_eq!(earnings.number().unwrap(), 2);
        assert_eq!(
            earnings.finished(digest("lease", 1)).unwrap(),
            Some(finished(1))
        );
        let receipts = earnings.receipts().unwrap();
        assert_eq!(receipts.len(), 1);
        assert_eq!(recompute(&receipts)[&account(2)], 850);
    }
}
