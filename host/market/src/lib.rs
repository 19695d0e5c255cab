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
//! | `split`, `shard` | [`split`]: records into shards; what a shard's input is, as bytes |
//! | `choose`, `reputation` | whom to ask; what was seen of whom |
//! | `dealings` | [`Dealings`]: what a requester remembers of others, on disk |
//! | `message` | what requester and provider say to each other, as data |
//! | `quote` | whose a quotation is |
//! | `seal` | input and output closed so that only the other side of the lease opens them |
//! | `engage` | one lease from its offer to its receipt, on both sides |
//! | `policy` | what a provider's owner lets in, and for how much |
//! | `earnings` | what a provider has begun, signed and was paid for |
//! | `job` | [`Job`]: what is where and what is next; its [`Journal`] |
//! | `ledger` | [`Ledger`]: books, entries, recovery |
//! | `balance` | [`recompute`]: what receipts alone say |
//! | `receipts` | files of receipts, written and read as a stranger's |
//! | `merkle`, `settlement` | proofs of membership; netting, and where nets are settled |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod balance;
mod choose;
mod dealings;
mod earnings;
mod engage;
mod job;
mod ledger;
mod merkle;
mod message;
mod policy;
mod quote;
mod receipts;
mod reputation;
mod seal;
mod settlement;
mod shard;
mod split;
mod stored;
#[cfg(test)]
mod testing;

pub use balance::{Debt, Turnover, recompute, turnover};
pub use choose::{Offer, Warmth, ahead, rank};
pub use dealings::{Dealings, DealingsError};
pub use earnings::{Earnings, EarningsError, Finished, Owed, Unfinished};
pub use engage::{
    BadDelivery, Delivery, Done, Sent, affordable, conclude, divides, division, examine, hand_over,
    most_shown, receive, typical,
};
pub use job::{
    AttemptId, AttemptState, AttemptView, Decision, Event, Finding, GaveUp, Job, JobPlan, Journal,
    JournalError, Kept, Outcome, Outstanding, ShardView, Trail, Unfit,
};
pub use ledger::{
    Book, DISPUTE, Entry, EntryKind, Escrow, Ledger, LedgerError, Movement, Operation, Outcomes,
    PaidLease, PostError, Posted, Terms,
};
pub use merkle::{Inclusion, Tree};
pub use message::{
    Answer, Ask, MAX_MESSAGE, MAX_SOURCES, MessageError, NUMERICS, Quotation, Refusal, Undertaking,
    machine_kind, said,
};
pub use policy::Policy;
pub use quote::Unproven;
pub use receipts::{MAX_RECEIPTS, ReceiptFiles, ReceiptsError, write_receipts};
pub use reputation::{Conduct, Reputation};
pub use seal::{CHUNK, Gathered, MAX_SEALED, Opener, SealError, SealSecret, Sealed, Sealer};
pub use settlement::{
    Batch, BatchProof, EmbeddedSettlement, NetError, Position, SettleError, Settled, Settlement,
    Transfer, net,
};
pub use shard::{ShardError, ShardInput};
pub use split::{MAX_RECORD, ShardLimits, SplitError, limits_for, split};
