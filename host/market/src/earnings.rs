//! What a provider signed, and what it was paid for: a file of its own, beside the ledger of what
//! it spends.
//!
//! # What it must never do
//!
//! - Let two receipts be signed for one lease: that is evidence against whoever signed both. What
//!   was signed is on disk before it is sent, and sent again as it is.
//! - Hold anything of an input or an output.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use skep_evidence::{Agreed, Keys, Receipt};
use skep_registry::Digest;

const SIGNED: TableDefinition<'_, &[u8; 32], (&[u8], &[u8])> = TableDefinition::new("signed");
const RECEIPTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("receipts");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const NEXT: &str = "next";

/// A provider's statements on disk. One process has them open at a time.
#[derive(Debug)]
pub struct Earnings {
    path: PathBuf,
    /// `None` after the disk has failed: the file is then opened anew.
    database: Mutex<Option<Database>>,
}

/// What was signed for a lease, as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The commitment.
    pub commitment: Vec<u8>,
    /// The receipt.
    pub receipt: Vec<u8>,
}

/// Why earnings cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum EarningsError {
    /// The file cannot be read or written.
    #[error(
        "the earnings in {} cannot be read or written: {error}; see that the disk has room and \
         nothing else uses the file",
        path.display()
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
            database: Mutex::new(Some(database)),
        })
    }

    /// Does something with the file. After an error the next one opens it anew: one that could not
    /// write, because the disk was full, does not write again.
    fn with<T>(
        &self,
        act: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, EarningsError> {
        let mut kept = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let fail = |error| storage(&self.path, error);
        let database = match kept.take() {
            Some(database) => database,
            None => create(&self.path).map_err(fail)?,
        };
        let done = act(&database).map_err(fail);
        if done.is_ok() {
            *kept = Some(database);
        }
        done
    }

    /// The number of the next receipt, which nobody gets again.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn number(&self) -> Result<u64, EarningsError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            let number = {
                let mut meta = transaction.open_table(META)?;
                let number = meta.get(NEXT)?.map_or(0, |found| found.value());
                meta.insert(NEXT, number.saturating_add(1))?;
                number
            };
            transaction.commit()?;
            Ok(number)
        })
    }

    /// Keeps what was signed for a lease. If something was kept already, that is what counts, and
    /// it is given back.
    ///
    /// # Errors
    ///
    /// When the file cannot be written. Then nothing may be sent.
    pub fn keep(&self, lease: Digest, finished: Finished) -> Result<Finished, EarningsError> {
        let earlier = self.with(|database| {
            let transaction = database.begin_write()?;
            let earlier = {
                let mut signed = transaction.open_table(SIGNED)?;
                let earlier = signed
                    .get(lease.as_bytes())?
                    .map(|found| owned(found.value()));
                if earlier.is_none() {
                    let both = (finished.commitment.as_slice(), finished.receipt.as_slice());
                    signed.insert(lease.as_bytes(), both)?;
                }
                earlier
            };
            transaction.commit()?;
            Ok(earlier)
        })?;
        Ok(earlier.unwrap_or(finished))
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

    /// Keeps a receipt that the requester has countersigned. Once is as good as twice.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn paid(&self, receipt: &Agreed<Receipt>) -> Result<(), EarningsError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            {
                let mut receipts = transaction.open_table(RECEIPTS)?;
                receipts.insert(receipt.lease.as_bytes(), receipt.encode().as_slice())?;
            }
            transaction.commit()?;
            Ok(())
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

/// Opens the file with its tables, or makes it.
fn create(path: &Path) -> Result<Database, redb::Error> {
    let database = Database::create(path)?;
    let transaction = database.begin_write()?;
    transaction.open_table(SIGNED)?;
    transaction.open_table(RECEIPTS)?;
    transaction.open_table(META)?;
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
    use crate::testing::{account, digest, receipt};

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
            assert_eq!(earnings.keep(lease, finished(1)).unwrap(), finished(1));
            assert_eq!(earnings.keep(lease, finished(2)).unwrap(), finished(1));
            let paid = receipt(1, 1, 2, 1, 1_000);
            earnings.paid(&paid).unwrap();
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
