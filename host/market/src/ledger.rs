//! The ledger: who has how many credits, and every entry that led to it, on disk.
//!
//! Each operation is one entry of movements between books ([`Book`]), and each movement takes from
//! one book what it gives to another. So the sum over all books never changes, no book falls below
//! zero, and the books are nothing but what the entries come to: opening a ledger adds all of them
//! up again and compares.
//!
//! Every operation has an identifier, and is carried out once however often it is posted. That of
//! a payment comes from its lease and from the two whose it is ([`Debt`]): a lease is paid once between them, whatever
//! receipts turn up, and whatever lease others name in theirs.
//!
//! # What it must never do
//!
//! - Change a book without an entry, or an entry once it is written.
//! - Tell of an operation before it is on disk. Operations that are posted together get there
//!   together or not at all.
//! - Let a stake be taken back while a lease that its account worked under can be disputed.
//! - Take anyone's word. Receipts and accusations carry their proof in their type; who may make
//!   deposits and move stakes is for whoever holds the ledger to know.
//!
//! See `docs/decisions/0015` for why it is a redb file.

mod books;
mod entry;
mod error;
mod operation;
mod recovery;
mod store;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, WriteTransaction};
use skep_evidence::{AccountId, Credits, Keys};
use skep_registry::Digest;

use books::Books;
pub use books::{Book, Escrow, Movement};
pub use entry::{Entry, EntryKind, PaidLease};
pub use error::{LedgerError, PostError};
pub use operation::Operation;
use operation::{Planned, earlier_payment_of, payment_of};
use store::{BALANCES, BOOKS, ENTRIES, META, POSTED, storage};

use crate::balance::Debt;

/// For how long after its deadline a lease can be disputed, in milliseconds: a week. For so long nobody who worked under
/// it takes back what it has at stake. Who brings evidence later may find nothing there.
pub const DISPUTE: u64 = 7 * 24 * 60 * 60 * 1000;

/// What a ledger is made with, and keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// All credits there will ever be.
    pub supply: Credits,
    /// What one proven fraud costs, or all that is at stake if that is less.
    pub fine: Credits,
    /// How many millionths of a fine go to whoever was right: the accuser, or the falsely accused.
    /// The rest is burned.
    pub reward: u32,
}

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It was carried out.
    New {
        /// The number of its entry.
        sequence: u64,
    },
    /// It had been carried out before, and nothing was changed.
    Already {
        /// The number of the entry that did it.
        sequence: u64,
    },
}

/// What became of operations, in their order.
pub type Outcomes = Vec<Result<Posted, PostError>>;

/// A ledger on disk. One process has it open at a time.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    database: Database,
    terms: Terms,
    keys: Keys,
    state: State,
    /// Set while a write is under way, and stays if it fails.
    broken: bool,
}

/// What all entries so far have led to.
#[derive(Debug)]
struct State {
    books: Books,
    /// How many books are on disk.
    books_written: usize,
    /// The number of the next entry.
    next: u64,
    /// A hash over all entries, in order.
    head: Digest,
}

impl Ledger {
    /// Opens the ledger at `path`, or makes it. An existing one is checked from its first entry
    /// to its last.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is damaged, or was made with other terms.
    pub fn open(path: &Path, terms: Terms) -> Result<Self, LedgerError> {
        let database = Database::create(path).map_err(storage(path))?;
        store::begin(&database, path, &terms)?;
        let state = recovery::recover(&database, path, terms.supply)?;
        Ok(Self {
            path: path.to_owned(),
            database,
            terms,
            keys: Keys::default(),
            state,
            broken: false,
        })
    }

    /// Posts operations, in order. When this returns, those that were not refused are on disk.
    ///
    /// # Errors
    ///
    /// When the file cannot be written. Then none of them counts, and the ledger has to be opened
    /// again.
    pub fn post(&mut self, operations: &[Operation<'_>]) -> Result<Outcomes, LedgerError> {
        if self.broken {
            return Err(LedgerError::Broken);
        }
        self.broken = true;
        let outcome = self.write(operations)?;
        self.broken = false;
        Ok(outcome)
    }

    fn write(&mut self, operations: &[Operation<'_>]) -> Result<Outcomes, LedgerError> {
        let first = self.state.next;
        let transaction = self.database.begin_write().map_err(storage(&self.path))?;
        let (outcome, changed) = self.write_entries(&transaction, operations)?;
        if self.state.next == first {
            transaction.abort().map_err(storage(&self.path))?;
            return Ok(outcome);
        }
        self.write_books(&transaction, &changed)?;
        transaction.commit().map_err(storage(&self.path))?;
        self.state.books_written = self.state.books.books.len();
        Ok(outcome)
    }

    /// Writes an entry for each operation, and tells which books it moved.
    fn write_entries(
        &mut self,
        transaction: &WriteTransaction,
        operations: &[Operation<'_>],
    ) -> Result<(Outcomes, BTreeSet<Book>), LedgerError> {
        let fail = |error| LedgerError::Storage {
            path: self.path.clone(),
            error: Box::new(error),
        };
        let mut entries = transaction
            .open_table(ENTRIES)
            .map_err(|e| fail(e.into()))?;
        let mut posted = transaction.open_table(POSTED).map_err(|e| fail(e.into()))?;
        let mut outcome = Vec::with_capacity(operations.len());
        let mut changed = BTreeSet::new();
        for operation in operations {
            let Planned { entry, verdict } = operation.plan(&mut self.keys);
            let mut before = None;
            for id in operation.identifiers(&entry) {
                let found = posted.get(id.as_bytes()).map_err(|e| fail(e.into()))?;
                if let Some(found) = found {
                    before = Some((id, found.value()));
                    break;
                }
            }
            if let Some((id, sequence)) = before {
                let bytes = entries.get(sequence).map_err(|e| fail(e.into()))?;
                let books = &self.state.books.books;
                let earlier = bytes.and_then(|bytes| {
                    let book = |number| books.get(number as usize).map(|(book, _)| *book);
                    Entry::decode(bytes.value(), book).ok()
                });
                outcome.push(operation.found(&entry, earlier.as_ref(), id, sequence));
                continue;
            }
            let planned = operation
                .movements(&self.state.books, &self.terms, verdict.as_ref())
                .and_then(|movements| {
                    self.state.books.carry_out(&movements)?;
                    Ok(movements)
                });
            let movements = match planned {
                Ok(movements) => movements,
                Err(refusal) => {
                    outcome.push(Err(refusal));
                    continue;
                }
            };
            let entry = Entry { movements, ..entry };
            recovery::note_escrow(&entry, &mut self.state.books);
            recovery::note_bound(&entry, &mut self.state.books);
            let sequence = self.state.next;
            recovery::note_staked(&entry, sequence, &mut self.state.books);
            let bytes = entry.encode(&mut self.state.books);
            self.state.head = recovery::extend(self.state.head, &bytes);
            self.state.next += 1;
            entries
                .insert(sequence, bytes.as_slice())
                .map_err(|e| fail(e.into()))?;
            posted
                .insert(entry.id.as_bytes(), sequence)
                .map_err(|e| fail(e.into()))?;
            for paid in &entry.settled {
                posted
                    .insert(paid.payment.as_bytes(), sequence)
                    .map_err(|e| fail(e.into()))?;
            }
            for movement in &entry.movements {
                changed.extend([movement.from, movement.to]);
            }
            outcome.push(Ok(Posted::New { sequence }));
        }
        Ok((outcome, changed))
    }

    fn write_books(
        &mut self,
        transaction: &WriteTransaction,
        changed: &BTreeSet<Book>,
    ) -> Result<(), LedgerError> {
        let fail = |error| LedgerError::Storage {
            path: self.path.clone(),
            error: Box::new(error),
        };
        let mut meta = transaction.open_table(META).map_err(|e| fail(e.into()))?;
        meta.insert(store::HEAD, self.state.head.as_bytes().as_slice())
            .map_err(|e| fail(e.into()))?;
        let mut books = transaction.open_table(BOOKS).map_err(|e| fail(e.into()))?;
        let all = &self.state.books.books;
        for (number, (book, _)) in (0..).zip(all).skip(self.state.books_written) {
            books
                .insert(number, &book.to_bytes())
                .map_err(|e| fail(e.into()))?;
        }
        let mut balances = transaction
            .open_table(BALANCES)
            .map_err(|e| fail(e.into()))?;
        for book in changed {
            if let Some(number) = self.state.books.numbers.get(book) {
                balances
                    .insert(*number, self.state.books.balance(*book).micro())
                    .map_err(|e| fail(e.into()))?;
            }
        }
        Ok(())
    }

    /// What is in a book.
    #[must_use]
    pub fn balance(&self, book: Book) -> Credits {
        self.state.books.balance(book)
    }

    /// All that an account has: to spend, at stake and in escrow.
    #[must_use]
    pub fn holdings(&self, account: AccountId) -> u128 {
        let books = [
            Book::Available(account),
            Book::Staked(account),
            Book::Escrowed(account),
        ];
        books
            .map(|book| u128::from(self.balance(book).micro()))
            .iter()
            .sum()
    }

    /// What is held for a job.
    #[must_use]
    pub fn escrow(&self, job: Digest) -> Option<Escrow> {
        self.state.books.escrows.get(&job).copied()
    }

    /// Until when what an account has at stake stays there, in milliseconds since 1970; nothing if it never had to.
    #[must_use]
    pub fn bound(&self, account: AccountId) -> Option<u64> {
        self.state.books.bound.get(&account).copied()
    }

    /// The number of the entry since which an account has always had something at stake; nothing if it has nothing
    /// there. Whatever is known to have happened after that entry, it had something to lose then.
    #[must_use]
    pub fn staked_since(&self, account: AccountId) -> Option<u64> {
        self.state.books.staked_since.get(&account).copied()
    }

    /// Every book that was ever opened, with what is in it.
    pub fn books(&self) -> impl Iterator<Item = (Book, Credits)> {
        self.state.books.books.iter().copied()
    }

    /// The sum over all books, which is the supply.
    #[must_use]
    pub fn total(&self) -> u128 {
        self.state.books.total()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.state.next
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.next == 0
    }

    /// A hash over all entries: two ledgers with the same have the same entries.
    #[must_use]
    pub fn head(&self) -> Digest {
        self.state.head
    }

    /// The entry that paid what is owed for a lease, if it was paid.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn paid(&self, debt: Debt) -> Result<Option<u64>, LedgerError> {
        let fail = storage(&self.path);
        let transaction = self
            .database
            .begin_read()
            .map_err(|e| fail(redb::Error::from(e)))?;
        let posted = transaction
            .open_table(POSTED)
            .map_err(|e| fail(redb::Error::from(e)))?;
        for id in [payment_of(debt), earlier_payment_of(debt.lease)] {
            let found = posted
                .get(id.as_bytes())
                .map_err(|e| fail(redb::Error::from(e)))?;
            if let Some(sequence) = found {
                return Ok(Some(sequence.value()));
            }
        }
        Ok(None)
    }

    /// Reads one entry.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or the entry in it.
    pub fn entry(&self, sequence: u64) -> Result<Option<Entry>, LedgerError> {
        let fail = storage(&self.path);
        let transaction = self
            .database
            .begin_read()
            .map_err(|e| fail(redb::Error::from(e)))?;
        let entries = transaction
            .open_table(ENTRIES)
            .map_err(|e| fail(redb::Error::from(e)))?;
        let bytes = entries
            .get(sequence)
            .map_err(|e| fail(redb::Error::from(e)))?;
        let Some(bytes) = bytes else {
            return Ok(None);
        };
        let books = &self.state.books.books;
        let book = |number| books.get(number as usize).map(|(book, _)| *book);
        Entry::decode(bytes.value(), book)
            .map(Some)
            .map_err(|reason| LedgerError::Damaged {
                path: self.path.clone(),
                what: format!("entry {sequence} cannot be read: {reason}"),
            })
    }
}

#[cfg(test)]
mod tests;
