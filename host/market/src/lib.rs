//! The market: jobs over nodes that do not trust each other, and what they owe each other.
//!
//! A job is a list of records that is cut into shards; each shard goes to another node under a
//! lease, some to more than one; results come back in any order and are put together in the
//! input's. Who did what is in receipts, and receipts are paid in the [`Ledger`] or settled in
//! batches ([`Settlement`]). Whoever was caught loses stake and standing.
//!
//! # What it must never do
//!
//! - Touch a network or a clock: events come in with the time they happened at, and what is to be
//!   done goes out as data. Only the ledger and the journal of jobs are on disk.
//! - Pay one lease twice, or make credits out of nothing.
//! - Know how work is run: `sandbox` and `node` do.
//!
//! # Code map
//!
//! | module | what is in it |
//! |---|---|
//! | `split` | [`split`]: records into shards |
//! | `choose`, `reputation` | whom to ask; what was seen of whom |
//! | `job` | [`Job`]: what is where and what is next; its [`Journal`] |
//! | `ledger` | [`Ledger`]: books, entries, recovery |
//! | `balance` | [`recompute`]: what receipts alone say |
//! | `merkle`, `settlement` | proofs of membership; netting, and where nets are settled |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod balance;
mod choose;
mod job;
mod ledger;
mod merkle;
mod reputation;
mod settlement;
mod split;
#[cfg(test)]
mod testing;

pub use balance::recompute;
pub use choose::{Offer, Warmth, rank};
pub use job::{
    AttemptId, Decision, Event, GaveUp, Job, JobPlan, Journal, JournalError, Outstanding, Unfit,
};
pub use ledger::{
    Book, Entry, EntryKind, Escrow, Ledger, LedgerError, Movement, Operation, Outcomes, PostError,
    Posted, Terms,
};
pub use merkle::{Inclusion, Tree};
pub use reputation::{Conduct, Reputation};
pub use settlement::{
    Batch, BatchProof, EmbeddedSettlement, NetError, Position, SettleError, Settled, Settlement,
    Transfer, net,
};
pub use split::{MAX_RECORD, ShardLimits, SplitError, limits_for, split};
