//! Opening a ledger: all entries are added up again, and the file has to say the same.

use std::path::Path;

use redb::{Database, ReadableDatabase as _, ReadableTable as _};
use skep_evidence::Credits;
use skep_registry::Digest;

use super::State;
use super::books::{Book, Books, Escrow};
use super::entry::{Entry, EntryKind};
use super::error::LedgerError;
use super::store::{BALANCES, BOOKS, ENTRIES, HEAD, META, POSTED, storage};

/// The hash over all entries up to one more.
pub(super) fn extend(head: Digest, entry: &[u8]) -> Digest {
    let mut hash = blake3::Hasher::new_derive_key("skep ledger, hash over its entries v1");
    hash.update(head.as_bytes());
    hash.update(entry);
    Digest::from_bytes(*hash.finalize().as_bytes())
}

/// What an entry means for what is held for its job.
pub(super) fn note_escrow(entry: &Entry, books: &mut Books) {
    let Some(job) = entry.escrow else {
        return;
    };
    for movement in &entry.movements {
        match (movement.from, movement.to) {
            (_, Book::Escrowed(requester)) if entry.kind == EntryKind::Escrow => {
                let escrow = books.escrows.entry(job).or_insert(Escrow {
                    requester,
                    left: Credits::ZERO,
                });
                // What is held is part of the supply, so the sum fits.
                escrow.left = escrow
                    .left
                    .checked_add(movement.amount)
                    .unwrap_or(Credits::MAX);
            }
            (Book::Escrowed(_), _) => {
                if let Some(escrow) = books.escrows.get_mut(&job) {
                    escrow.left = escrow.left.checked_sub(movement.amount).unwrap_or_default();
                }
            }
            _ => {}
        }
    }
    if entry.kind == EntryKind::Refund {
        books.escrows.remove(&job);
    }
}

/// What an entry means for the stakes that stay where they are: the longest time counts.
pub(super) fn note_bound(entry: &Entry, books: &mut Books) {
    for (account, until) in &entry.bound {
        let known = books.bound.entry(*account).or_default();
        *known = (*known).max(*until);
    }
}

/// What an entry, whose movements were carried out, means for since when accounts have something at stake.
pub(super) fn note_staked(entry: &Entry, sequence: u64, books: &mut Books) {
    let moved = entry.movements.iter();
    for book in moved.flat_map(|movement| [movement.from, movement.to]) {
        let Book::Staked(account) = book else {
            continue;
        };
        if books.balance(book) == Credits::ZERO {
            books.staked_since.remove(&account);
        } else {
            books.staked_since.entry(account).or_insert(sequence);
        }
    }
}

/// Adds up all entries, and compares with what the file says they come to.
pub(super) fn recover(
    database: &Database,
    path: &Path,
    supply: Credits,
) -> Result<State, LedgerError> {
    let fail = |error| storage::<redb::Error>(path)(error);
    let damaged = |what: String| LedgerError::Damaged {
        path: path.to_owned(),
        what,
    };
    let transaction = database.begin_read().map_err(|e| fail(e.into()))?;
    let mut books = Books::with_supply(supply);
    let table = transaction.open_table(BOOKS).map_err(|e| fail(e.into()))?;
    for (expected, row) in (0..).zip(table.iter().map_err(|e| fail(e.into()))?) {
        let (number, bytes) = row.map_err(|e| fail(e.into()))?;
        let book = Book::from_bytes(bytes.value());
        let opened = book.map(|book| books.open(book));
        if number.value() != expected || opened != Some(expected) {
            return Err(damaged(format!(
                "book {} is not what it was",
                number.value()
            )));
        }
    }
    let books_written = books.books.len();

    let mut state = State {
        books,
        books_written,
        next: 0,
        head: Digest::of(b""),
    };
    let mut identifiers: Vec<([u8; 32], u64)> = Vec::new();
    let table = transaction
        .open_table(ENTRIES)
        .map_err(|e| fail(e.into()))?;
    for row in table.iter().map_err(|e| fail(e.into()))? {
        let (sequence, bytes) = row.map_err(|e| fail(e.into()))?;
        let sequence = sequence.value();
        if sequence != state.next {
            return Err(damaged(format!("entry {} is missing", state.next)));
        }
        let all = &state.books.books;
        let book = |number: u32| all.get(number as usize).map(|(book, _)| *book);
        let entry = Entry::decode(bytes.value(), book)
            .map_err(|reason| damaged(format!("entry {sequence} cannot be read: {reason}")))?;
        state
            .books
            .carry_out(&entry.movements)
            .map_err(|refusal| damaged(format!("entry {sequence}: {refusal}")))?;
        note_escrow(&entry, &mut state.books);
        note_bound(&entry, &mut state.books);
        note_staked(&entry, sequence, &mut state.books);
        state.head = extend(state.head, bytes.value());
        state.next += 1;
        identifiers.push((*entry.id.as_bytes(), sequence));
        for paid in &entry.settled {
            identifiers.push((*paid.payment.as_bytes(), sequence));
        }
    }

    let meta = transaction.open_table(META).map_err(|e| fail(e.into()))?;
    let head = meta.get(HEAD).map_err(|e| fail(e.into()))?;
    if head.is_none_or(|head| head.value() != state.head.as_bytes()) {
        return Err(damaged("the hash over its entries is another".to_owned()));
    }
    identifiers.sort_unstable();
    let mut expected = identifiers.into_iter();
    let table = transaction.open_table(POSTED).map_err(|e| fail(e.into()))?;
    for row in table.iter().map_err(|e| fail(e.into()))? {
        let (id, sequence) = row.map_err(|e| fail(e.into()))?;
        if expected.next() != Some((*id.value(), sequence.value())) {
            return Err(damaged(
                "its index of identifiers is not that of its entries".to_owned(),
            ));
        }
    }
    if expected.next().is_some() {
        return Err(damaged("its index of identifiers lacks some".to_owned()));
    }
    let table = transaction
        .open_table(BALANCES)
        .map_err(|e| fail(e.into()))?;
    let mut balances = vec![0; state.books.books.len()];
    for row in table.iter().map_err(|e| fail(e.into()))? {
        let (number, balance) = row.map_err(|e| fail(e.into()))?;
        match balances.get_mut(number.value() as usize) {
            Some(slot) => *slot = balance.value(),
            None => return Err(damaged("there is a balance of no book".to_owned())),
        }
    }
    for ((book, balance), written) in state.books.books.iter().zip(balances) {
        if balance.micro() != written {
            return Err(damaged(format!(
                "its entries come to {balance} in {book:?}, and it says {}",
                Credits::from_micro(written)
            )));
        }
    }
    match state.books.total() == u128::from(supply.micro()) {
        true => Ok(state),
        false => Err(damaged("its books do not add up to the supply".to_owned())),
    }
}
