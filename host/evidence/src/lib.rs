//! What the parties of a job sign, and what anyone can check of it afterwards.
//!
//! A requester and a provider who do not trust each other leave a trail of signed statements: a
//! [`Lease`] says what is to be done and at what price, a [`ResultCommitment`] binds a worker to
//! an output before it knows who will look at it, a [`Receipt`] says what was done and what it
//! costs. Whoever holds them can tell whether they agree with each other: that is what balances,
//! audits and [`Accusation`]s rest on, and it takes no trust in whoever handed them over.
//!
//! Beside statements there are two checks of model work whose bytes may differ between machines,
//! [`activations`] and [`sampling`], and [`following`], which makes a whole run out of them.
//!
//! # What it must never do
//!
//! - Touch a network, a file or a clock, or draw randomness: everything here is a function of its
//!   arguments, so that everyone who checks comes to the same answer.
//! - Let an unverified statement pass for a verified one. [`Signed`] and [`Agreed`] exist only
//!   with signatures that hold.
//! - Panic, hang or allocate what a stranger's bytes say. All of it is read from strangers.
//!
//! # Code map
//!
//! | module | what is in it |
//! |---|---|
//! | `account`, `signature` | keys that sign and get paid; checking many signatures at once |
//! | `wire`, `statement` | the canonical encoding; signed and agreed statements |
//! | `credits`, `meter` | amounts, shares of them; what was used and what that costs |
//! | `lease`, `receipt`, `result`, `handover`, `sealing`, `quoting` | the statements of a job |
//! | `audit` | who audits which result: committed first, revealed later |
//! | `fraud` | statements that contradict each other, and accusations of that |
//! | `report` | that somebody saw an output which does not stand |
//! | [`lineage`] | where an adapter comes from, and what its family gets of a price |
//! | [`activations`] | commitments to the largest activations (TOPLOC) |
//! | [`sampling`] | which token shared randomness makes a model choose |
//! | [`following`] | what a run shows of its texts, and what others see who go over them |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod account;
pub mod activations;
mod audit;
mod credits;
pub mod following;
mod fraud;
mod handover;
mod lease;
pub mod lineage;
mod meter;
mod quoting;
mod receipt;
mod report;
mod result;
pub mod sampling;
mod sealing;
mod signature;
mod statement;
#[cfg(test)]
mod testing;
mod wire;

pub use account::{AccountId, AccountIdError, AccountKey};
pub use audit::{AuditError, AuditSecret, AuditTerms, Candidate, Candidates, Draw, MAX_PANEL};
pub use credits::{Credits, MAX_SHARES, Share, Split};
pub use fraud::{Accusation, Audit, Evidence, FollowedAudit, NoFraud, Verdict, judge};
pub use handover::Handover;
pub use lease::{Lease, Work};
pub use meter::{Meter, Tariff};
pub use quoting::Quoting;
pub use receipt::Receipt;
pub use report::Report;
pub use result::ResultCommitment;
pub use sealing::SealingKey;
pub use signature::Keys;
pub use statement::{
    Agreed, Agreement, Signed, Statement, StatementError, Unverified, verify_agreed,
};
