//! What a requester remembers of its dealings with others, beyond one process: how each of those who
//! worked for it behaved, and the receipts that it countersigned.
//!
//! # What it must never do
//!
//! - Forget a lie, or a doubt that nobody has lifted, once it is on disk.
//! - Count anybody's word but this node's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use skep_evidence::{AccountId, Agreed, Receipt};
use skep_registry::Digest;

use crate::reputation::{Conduct, Reputation};

const SEEN: TableDefinition<'_, &[u8; 32], (u32, u32, bool)> = TableDefinition::new("seen");
/// Those who are doubted.
const DOUBTED: TableDefinition<'_, &[u8; 32], ()> = TableDefinition::new("doubted");
const PAID: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("paid");

/// A requester's memory on disk. One process has it open at a time.
#[derive(Debug)]
pub struct Dealings {
    path: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// `None` after the disk has failed: the file is then opened anew.
    database: Option<Database>,
    seen: BTreeMap<AccountId, Reputation>,
}

/// A memory cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error(
    "what this node remembers of others, in {}, cannot be read or written: {}; see that the disk \
     has room and nothing else uses the file",
    path.display(),
    crate::stored::reason(.error)
)]
pub struct DealingsError {
    path: PathBuf,
    error: Box<redb::Error>,
}

impl Dealings {
    /// Opens the file at `path`, or makes it.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Self, DealingsError> {
        let fail = |error| failed(path, error);
        let database = create(path).map_err(fail)?;
        let seen = read(&database).map_err(fail)?;
        let kept = Kept {
            database: Some(database),
            seen,
        };
        Ok(Self {
            path: path.to_owned(),
            kept: Mutex::new(kept),
        })
    }

    fn with<T>(
        &self,
        act: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, DealingsError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        self.with_kept(&mut kept, act)
    }

    fn with_kept<T>(
        &self,
        kept: &mut Kept,
        act: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, DealingsError> {
        let fail = |error| failed(&self.path, error);
        let database = match kept.database.take() {
            Some(database) => database,
            None => create(&self.path).map_err(fail)?,
        };
        let done = act(&database).map_err(fail);
        if done.is_ok() {
            kept.database = Some(database);
        }
        done
    }

    /// What was seen of an account.
    #[must_use]
    pub fn seen(&self, account: AccountId) -> Reputation {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.seen.get(&account).copied().unwrap_or_default()
    }

    /// Adds what was seen. A lie, and that somebody is doubted or is so no more, are on disk when this returns;
    /// whatever else was seen is with what is written next, and lost if the machine stops before that.
    ///
    /// # Errors
    ///
    /// When the file cannot be written. Until the process ends it counts all the same.
    pub fn note(&self, conduct: &[(AccountId, Conduct)]) -> Result<(), DealingsError> {
        let (mut changed, mut is_grave) = (BTreeMap::new(), false);
        // Nobody else comes in between: what another job saw meanwhile would be written first, and then what this one
        // remembered before that in its place.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (account, conduct) in conduct {
            let seen = kept.seen.entry(*account).or_default();
            let before = *seen;
            seen.note(*conduct);
            is_grave |= before.is_trusted() != seen.is_trusted()
                || before.is_doubted() != seen.is_doubted();
            if *seen != before {
                changed.insert(*account, *seen);
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        self.with_kept(&mut kept, |database| {
            let mut transaction = database.begin_write()?;
            if !is_grave {
                transaction.set_durability(Durability::None)?;
            }
            {
                let mut table = transaction.open_table(SEEN)?;
                let mut doubted = transaction.open_table(DOUBTED)?;
                for (account, seen) in &changed {
                    table.insert(account.as_bytes(), seen.parts())?;
                    match seen.is_doubted() {
                        true => doubted.insert(account.as_bytes(), ())?,
                        false => doubted.remove(account.as_bytes())?,
                    };
                }
            }
            transaction.commit()?;
            Ok(())
        })
    }

    /// Keeps receipts that this node has countersigned, for providers who were away. Once is as good
    /// as twice.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn keep(&self, receipts: &[Agreed<Receipt>]) -> Result<(), DealingsError> {
        if receipts.is_empty() {
            return Ok(());
        }
        self.with(|database| {
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(PAID)?;
                for receipt in receipts {
                    table.insert(receipt.lease.as_bytes(), receipt.encode().as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(())
        })
    }

    /// The receipt for a lease as both signed it, if there is one.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn receipt(&self, lease: Digest) -> Result<Option<Vec<u8>>, DealingsError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(PAID)?;
            let found = table.get(lease.as_bytes())?;
            Ok(found.map(|found| found.value().to_vec()))
        })
    }

    /// Every receipt that was kept, as both signed it, in the order of the leases.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn receipts(&self) -> Result<Vec<Vec<u8>>, DealingsError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(PAID)?;
            let mut all = Vec::new();
            for row in table.iter()? {
                all.push(row?.1.value().to_vec());
            }
            Ok(all)
        })
    }
}

fn failed(path: &Path, error: redb::Error) -> DealingsError {
    DealingsError {
        path: path.to_owned(),
        error: Box::new(error),
    }
}

/// Opens the file with its tables, or makes it.
fn create(path: &Path) -> Result<Database, redb::Error> {
    let database = Database::create(path)?;
    let transaction = database.begin_write()?;
    transaction.open_table(SEEN)?;
    transaction.open_table(DOUBTED)?;
    transaction.open_table(PAID)?;
    transaction.commit()?;
    Ok(database)
}

fn read(database: &Database) -> Result<BTreeMap<AccountId, Reputation>, redb::Error> {
    let transaction = database.begin_read()?;
    let (table, doubted) = (
        transaction.open_table(SEEN)?,
        transaction.open_table(DOUBTED)?,
    );
    let mut seen = BTreeMap::new();
    for row in table.iter()? {
        let (account, parts) = row?;
        let is_doubted = doubted.get(account.value())?.is_some();
        let account = AccountId::from_bytes(*account.value());
        let reputation = Reputation::from_parts(parts.value(), is_doubted);
        seen.insert(account, reputation);
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::testing::{account, receipt};

    #[test]
    fn a_lie_and_a_receipt_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dealings");
        let paid = receipt(1, 1, 2, 1, 1_000);
        {
            let dealings = Dealings::open(&path).unwrap();
            let delivered = (account(1), Conduct::Delivered);
            dealings.note(&[delivered, delivered]).unwrap();
            let both = [(account(2), Conduct::Lied), (account(1), Conduct::Failed)];
            dealings.note(&both).unwrap();
            assert_eq!(dealings.receipt(paid.lease).unwrap(), None);
            dealings.keep(std::slice::from_ref(&paid)).unwrap();
        }
        let dealings = Dealings::open(&path).unwrap();
        let mut expected = Reputation::default();
        for conduct in [Conduct::Delivered, Conduct::Delivered, Conduct::Failed] {
            expected.note(conduct);
        }
        assert_eq!(dealings.seen(account(1)), expected);
        assert!(!dealings.seen(account(2)).is_trusted());
        assert_eq!(dealings.seen(account(3)), Reputation::default());
        let kept = dealings.receipt(paid.lease).unwrap();
        assert_eq!(kept, Some(paid.encode()));
        assert_eq!(dealings.receipts().unwrap(), [paid.encode()]);
    }

    #[test]
    fn a_doubt_outlives_the_process_until_it_is_lifted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dealings");
        let noted = |conduct: &[(AccountId, Conduct)]| {
            Dealings::open(&path).unwrap().note(conduct).unwrap();
            let dealings = Dealings::open(&path).unwrap();
            [1, 2].map(|node| dealings.seen(account(node)).is_doubted())
        };
        let both = [1, 2].map(|node| (account(node), Conduct::Outvoted));
        assert_eq!(noted(&both), [true; 2]);
        assert_eq!(noted(&[(account(1), Conduct::Agreed)]), [false, true]);
        // Whatever else was seen changes nothing of it.
        let delivered = [1, 2].map(|node| (account(node), Conduct::Delivered));
        assert_eq!(noted(&delivered), [false, true]);
    }

    /// Each time that one remembers something before the other has written, and writes after it, would be seen.
    #[test]
    fn what_two_jobs_see_of_somebody_at_once_is_kept_of_both() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dealings");
        let nodes: Vec<AccountId> = (1..=100).map(account).collect();
        let seen = [Conduct::Delivered, Conduct::Lied];
        {
            let dealings = Dealings::open(&path).unwrap();
            let together = Barrier::new(seen.len());
            let note_all = |conduct| {
                let noted = nodes.iter().map(|node| {
                    together.wait();
                    dealings.note(&[(*node, conduct)])
                });
                // All of them are noted whatever fails, or the other one would wait for ever.
                noted.filter(Result::is_err).count()
            };
            let failed = std::thread::scope(|scope| {
                let threads = seen.map(|conduct| scope.spawn(move || note_all(conduct)));
                threads.map(|thread| thread.join().unwrap())
            });
            assert_eq!(failed, [0; 2]);
            // What is no lie is on disk with the next that is one.
            dealings.note(&[(account(101), Conduct::Lied)]).unwrap();
        }
        let dealings = Dealings::open(&path).unwrap();
        let mut both = Reputation::default();
        seen.iter().for_each(|conduct| both.note(*conduct));
        for node in nodes {
            assert_eq!(dealings.seen(node), both);
        }
    }
}
