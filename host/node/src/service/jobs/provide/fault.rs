//! What fails here by a fault of this node's own: its disk, its books, its keys or its machine. Whoever asked for
//! the work hears that it failed, and owes nothing for it; what it was is for the owner alone.

use skep_evidence::StatementError;
use skep_market::{DealingsError, EarningsError, Refusal, SealError, Unproven};
use skep_swarm::BringError;

use super::Stop;
use crate::failure::Failure;

/// A fault of this node's own.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Fault {
    /// What it signed and is owed cannot be read or written.
    #[error(transparent)]
    Earnings(#[from] EarningsError),
    /// What it remembers of those who work for it cannot be read.
    #[error(transparent)]
    Dealings(#[from] DealingsError),
    /// A statement of its own does not hold, or cannot be signed.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// Its own price cannot be signed.
    #[error(transparent)]
    Price(#[from] Unproven),
    /// What it sends cannot be closed, or there is no randomness for a key.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// What a lease needs has no place on its disk, or cannot be read there.
    #[error(transparent)]
    Package(#[from] BringError),
    /// Something else of its machine.
    #[error(transparent)]
    Machine(#[from] Failure),
}

impl Fault {
    /// What whoever asked is told. Paths and whatever else says something of this machine are not its business.
    pub(super) fn told(&self) -> Refusal {
        Refusal::Failed("a fault of the node; its owner can see which".to_owned())
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Broken(fault)
    }
}
