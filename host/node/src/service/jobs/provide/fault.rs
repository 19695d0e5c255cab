//! What fails here by a fault of this node's own: its disk, its books, its keys or its machine. Whoever asked for
//! the work hears that it failed, and owes nothing for it; what it was is for the owner alone.

use std::error::Error;
use std::io;

use skep_evidence::StatementError;
use skep_market::{DealingsError, EarningsError, Refusal, SealError, Unproven};
use skep_swarm::BringError;

use super::super::OWN_FAULT;
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

/// What systems say of a full disk. The store of blobs hands on no more of an error than its text.
const FULL: &str = "No space left on device";

impl Fault {
    /// What whoever asked is told. Paths and whatever else says something of this machine are not its business; that
    /// its disk is full says only that the same may be done there later.
    pub(super) fn told(&self) -> Refusal {
        let told = match self.is_for_want_of_room() {
            true => format!("its disk is full ({FULL})"),
            false => OWN_FAULT.to_owned(),
        };
        Refusal::Failed(told)
    }

    fn is_for_want_of_room(&self) -> bool {
        let mut next: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = next {
            let system = error.downcast_ref::<io::Error>();
            if system.is_some_and(|error| error.kind() == io::ErrorKind::StorageFull) {
                return true;
            }
            next = error.source();
        }
        self.to_string().contains(FULL)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Broken(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_work_hears_of_a_full_disk_and_not_of_where_it_is() {
        let told = |kind| {
            let path = "/home/somebody/.skep/swarm/brought".into();
            let source = io::Error::from(kind);
            Fault::from(BringError::Disk { path, source })
                .told()
                .to_string()
        };
        let full = told(io::ErrorKind::StorageFull);
        assert!(
            full.contains("its disk is full (No space left on device)"),
            "{full}"
        );
        let other = told(io::ErrorKind::PermissionDenied);
        assert!(other.contains("a fault of the node"), "{other}");
        for told in [full, other] {
            assert!(!told.contains("somebody"), "{told}");
        }
    }
}
