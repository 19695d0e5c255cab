//! The tables of a ledger's file.

use std::path::Path;

use redb::{Database, ReadableTable as _, TableDefinition};

use super::error::LedgerError;
use super::{Digest, Terms};

/// What the ledger is, by name.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Each entry under its number.
pub(super) const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
/// The number of the entry that has an identifier.
pub(super) const POSTED: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("posted");
/// Which book has a number.
pub(super) const BOOKS: TableDefinition<'_, u32, &[u8; 33]> = TableDefinition::new("books");
/// What is in each book.
pub(super) const BALANCES: TableDefinition<'_, u32, u64> = TableDefinition::new("balances");

/// The hash over all entries.
pub(super) const HEAD: &str = "head";
const TERMS: &str = "terms";

/// Turns an error of the store into one of the ledger.
pub(super) fn storage<E: Into<redb::Error>>(path: &Path) -> impl Fn(E) -> LedgerError {
    move |error| LedgerError::Storage {
        path: path.to_owned(),
        error: Box::new(error.into()),
    }
}

/// Makes the tables, if this is a new file, and compares the terms.
pub(super) fn begin(database: &Database, path: &Path, terms: &Terms) -> Result<(), LedgerError> {
    let fail = |error| storage::<redb::Error>(path)(error);
    let transaction = database.begin_write().map_err(|e| fail(e.into()))?;
    let is_new = {
        let mut meta = transaction.open_table(META).map_err(|e| fail(e.into()))?;
        let mine = encode(terms);
        let found = meta.get(TERMS).map_err(|e| fail(e.into()))?;
        let found = found.map(|found| found.value().to_vec());
        match found {
            Some(found) if found == mine => false,
            Some(_) => {
                return Err(LedgerError::OtherTerms {
                    path: path.to_owned(),
                });
            }
            None => {
                meta.insert(TERMS, mine.as_slice())
                    .map_err(|e| fail(e.into()))?;
                meta.insert(HEAD, Digest::of(b"").as_bytes().as_slice())
                    .map_err(|e| fail(e.into()))?;
                let mut books = transaction.open_table(BOOKS).map_err(|e| fail(e.into()))?;
                books
                    .insert(0, &super::Book::Treasury.to_bytes())
                    .map_err(|e| fail(e.into()))?;
                let mut balances = transaction
                    .open_table(BALANCES)
                    .map_err(|e| fail(e.into()))?;
                balances
                    .insert(0, terms.supply.micro())
                    .map_err(|e| fail(e.into()))?;
                transaction
                    .open_table(ENTRIES)
                    .map_err(|e| fail(e.into()))?;
                transaction.open_table(POSTED).map_err(|e| fail(e.into()))?;
                true
            }
        }
    };
    match is_new {
        true => transaction.commit().map_err(|e| fail(e.into())),
        false => transaction.abort().map_err(|e| fail(e.into())),
    }
}

fn encode(terms: &Terms) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend(terms.supply.micro().to_be_bytes());
    bytes.extend(terms.fine.micro().to_be_bytes());
    bytes.extend(terms.reward.to_be_bytes());
    bytes
}
