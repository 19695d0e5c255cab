//! Who has how much, and the one way in which that changes: a [`Movement`] out of one book into
//! another.
//!
//! *Architecture invariant:* nothing here can make or lose credits. A movement takes from one
//! book what it gives to another, or is refused; the sum over all books is the supply, for ever.

use std::collections::HashMap;

use skep_evidence::{AccountId, Credits};
use skep_registry::Digest;

use super::error::PostError;

/// Where credits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Book {
    /// Given to nobody yet, or given back.
    Treasury,
    /// Taken from those who cheated, and nobody's since.
    Burned,
    /// An account's, to spend.
    Available(AccountId),
    /// An account's, held against its cheating.
    Staked(AccountId),
    /// An account's, held for jobs that it has begun.
    Escrowed(AccountId),
}

impl Book {
    pub(super) fn to_bytes(self) -> [u8; 33] {
        let (kind, account) = match self {
            Self::Treasury => (0, [0; 32]),
            Self::Burned => (1, [0; 32]),
            Self::Available(account) => (2, *account.as_bytes()),
            Self::Staked(account) => (3, *account.as_bytes()),
            Self::Escrowed(account) => (4, *account.as_bytes()),
        };
        let mut bytes = [kind; 33];
        bytes[1..].copy_from_slice(&account);
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; 33]) -> Option<Self> {
        let mut account = [0; 32];
        account.copy_from_slice(&bytes[1..]);
        let account = AccountId::from_bytes(account);
        Some(match bytes[0] {
            0 => Self::Treasury,
            1 => Self::Burned,
            2 => Self::Available(account),
            3 => Self::Staked(account),
            4 => Self::Escrowed(account),
            _ => return None,
        })
    }
}

/// Credits that go from one book to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Movement {
    /// Whose book has less afterwards.
    pub from: Book,
    /// Whose book has more afterwards.
    pub to: Book,
    /// How much. A movement of nothing is never written.
    pub amount: Credits,
}

/// What is held for one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escrow {
    /// Who put it there, and gets back what is left.
    pub requester: AccountId,
    /// What is left.
    pub left: Credits,
}

/// The number of a book, in the order in which books were opened.
pub(super) type BookNumber = u32;

/// The state that all entries so far have led to.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) numbers: HashMap<Book, BookNumber>,
    pub(super) books: Vec<(Book, Credits)>,
    pub(super) escrows: HashMap<Digest, Escrow>,
    /// Until when an account's stake stays where it is.
    pub(super) bound: HashMap<AccountId, u64>,
    /// Of each account that has something at stake, the entry since which it always had.
    pub(super) staked_since: HashMap<AccountId, u64>,
}

impl Books {
    /// The books of a ledger with this supply, all of it in the treasury.
    pub(super) fn with_supply(supply: Credits) -> Self {
        let mut books = Self::default();
        books.open(Book::Treasury);
        books.books[0].1 = supply;
        books
    }

    pub(super) fn balance(&self, book: Book) -> Credits {
        self.numbers
            .get(&book)
            .and_then(|number| self.books.get(*number as usize))
            .map_or(Credits::ZERO, |(_, balance)| *balance)
    }

    /// The number of a book, which is opened if it is new.
    pub(super) fn open(&mut self, book: Book) -> BookNumber {
        let next = BookNumber::try_from(self.books.len()).unwrap_or(BookNumber::MAX);
        *self.numbers.entry(book).or_insert_with(|| {
            self.books.push((book, Credits::ZERO));
            next
        })
    }

    /// Carries out all movements, one after the other, or none.
    pub(super) fn carry_out(&mut self, movements: &[Movement]) -> Result<(), PostError> {
        for (done, movement) in movements.iter().enumerate() {
            if let Err(refusal) = self.carry(movement.from, movement.to, movement.amount) {
                for undo in movements[..done].iter().rev() {
                    // It goes back to where it came from, and there it was before.
                    let _ = self.carry(undo.to, undo.from, undo.amount);
                }
                return Err(refusal);
            }
        }
        Ok(())
    }

    fn carry(&mut self, from: Book, to: Book, amount: Credits) -> Result<(), PostError> {
        let short = PostError::Short {
            book: from,
            has: self.balance(from),
            needs: amount,
        };
        let left = self.balance(from).checked_sub(amount).ok_or(short)?;
        let (from, to) = (self.open(from) as usize, self.open(to) as usize);
        self.books[from].1 = left;
        // All credits together fit, so this sum does.
        let sum = self.books[to].1.checked_add(amount);
        self.books[to].1 = sum.unwrap_or(Credits::MAX);
        Ok(())
    }

    /// The sum over all books.
    pub(super) fn total(&self) -> u128 {
        self.books
            .iter()
            .map(|(_, balance)| u128::from(balance.micro()))
            .sum()
    }
}
