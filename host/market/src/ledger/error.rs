//! Why something is not posted, and what can be wrong with a ledger.

use std::path::PathBuf;

use skep_evidence::{AccountId, Credits};
use skep_registry::Digest;

use super::books::Book;

/// Why an operation is refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// Less than is to be taken.
    #[error("{} has {has} credits, and this takes {needs}", describe(.book))]
    Short {
        /// Whose.
        book: Book,
        /// What is there.
        has: Credits,
        /// What is to be taken.
        needs: Credits,
    },
    /// The same identifier stands for something else already.
    #[error(
        "entry {sequence} has the identifier {id} and says something else; give each operation an \
         identifier of its own"
    )]
    Conflict {
        /// The identifier.
        id: Digest,
        /// The entry.
        sequence: u64,
    },
    /// A receipt for a lease that another receipt was paid for.
    #[error(
        "lease {lease} was paid in entry {sequence} by another receipt; whoever signed both has \
         cheated"
    )]
    PaidOtherwise {
        /// The lease.
        lease: Digest,
        /// The entry.
        sequence: u64,
    },
    /// A job without an escrow.
    #[error("nothing is held for job {job}; put credits in escrow before its shards are paid")]
    NoEscrow {
        /// The job.
        job: Digest,
    },
    /// A job of someone else.
    #[error("what is held for job {job} is {owner}'s, and the receipt is to be paid by {payer}")]
    OtherPayer {
        /// The job.
        job: Digest,
        /// Who put it there.
        owner: AccountId,
        /// Who is to pay.
        payer: AccountId,
    },
    /// A stake that may still be lost.
    #[error(
        "what account {account} has at stake stays there for now: it worked under leases that can be disputed still; \
         ask for it when none of them can"
    )]
    Bound {
        /// Whose.
        account: AccountId,
        /// Until when, in milliseconds since 1970.
        until: u64,
    },
    /// An amount of nothing.
    #[error("the amount is nothing; give an amount above zero")]
    Nothing,
    /// An account that has nothing at stake cannot be fined.
    #[error("account {account} has nothing at stake, so it cannot be fined")]
    NothingAtStake {
        /// Whose.
        account: AccountId,
    },
}

fn describe(book: &Book) -> String {
    match book {
        Book::Treasury => "the treasury".to_owned(),
        Book::Burned => "what was burned".to_owned(),
        Book::Available(account) => format!("account {account}"),
        Book::Staked(account) => format!("the stake of {account}"),
        Book::Escrowed(account) => format!("the escrow of {account}"),
    }
}

/// Why a ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be read or written.
    #[error(
        "the ledger {} cannot be read or written: {}; see that the disk has room and nothing \
         else uses the file",
        path.display(),
        crate::stored::reason(.error)
    )]
    Storage {
        /// Where it is.
        path: PathBuf,
        /// What the store says.
        error: Box<redb::Error>,
    },
    /// Its entries do not lead to what it says it holds.
    #[error(
        "the ledger {} is damaged: {what}; bring back a copy of it, or make it again from receipts",
        path.display()
    )]
    Damaged {
        /// Where it is.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// An earlier write failed, so that what is in memory may be ahead of the disk.
    #[error("an earlier write to the ledger failed; open it again")]
    Broken,
    /// Its terms are not the ones that were given.
    #[error(
        "the ledger {} was made with other terms; open it with the terms that it was made with",
        path.display()
    )]
    OtherTerms {
        /// Where it is.
        path: PathBuf,
    },
}
