//! Settling receipts between nodes: many debts become few transfers.
//!
//! Nodes that work for each other all day sign a receipt for each shard and pay none of them by
//! itself. From time to time the receipts are netted: all that an account earned less all that it
//! spent is one position, and positions add up to zero. A [`Batch`] binds receipts and positions
//! under one Merkle root, so that whoever has the batch can prove to others that a receipt was counted
//! ([`BatchProof`]).

mod batch;
mod embedded;

use skep_evidence::{Agreed, Receipt};
use skep_registry::Digest;

use crate::balance::Debt;
pub use batch::{Batch, BatchProof, NetError, Position, Transfer, net};
pub use embedded::{EmbeddedSettlement, SettleError};

/// Where batches are settled: a ledger that all sides accept.
///
/// [`EmbeddedSettlement`] does it on one node's [`crate::Ledger`], which all others trust to be
/// kept. A backend on a chain takes that trust away, and has to guarantee this much:
///
/// 1. **Finality.** When [`Self::settle`] returns, what it settled stays settled. A chain that can
///    still reorganise waits until it cannot.
/// 2. **All or nothing.** Every transfer of a batch takes place, or none; a batch that one side
///    cannot pay changes nothing.
/// 3. **Once.** No [`Debt`] is paid twice, whether by the same batch, another one, or outside of
///    batches, however often and by whomever it is sent, after any crash of either side. Sending
///    the same batch again is answered as the first time. A receipt of others that names the lease
///    pays nothing of it.
/// 4. **By signatures alone.** It pays nothing that the payer did not sign. It checks both
///    signatures of every receipt itself (or a proof that someone did), that positions follow from
///    the receipts, and that the root is theirs: whoever sends a batch is nobody in particular.
/// 5. **Conservation.** Transfers make and lose nothing. Fees of the chain are the sender's, and
///    are not taken out of positions.
/// 6. **Availability.** The receipts behind a root can be had by everyone for as long as a lease
///    in it can be disputed; a root without its receipts settles nothing.
/// 7. **Stakes.** What an account has at stake cannot be taken back while a lease under which it
///    worked can be disputed, which is for [`crate::DISPUTE`] from the end of the work of what is
///    settled, and evidence ([`skep_evidence::judge`]) is judged by the same rules.
/// 8. **Amounts.** It counts in whole micro-credits, exactly; where its own unit is another, the
///    rate is fixed for a batch and rounding is the sender's.
pub trait Settlement {
    /// Why a batch is not settled.
    type Error;

    /// Settles a batch of receipts; what it was answered as before if it is settled already.
    ///
    /// # Errors
    ///
    /// When the batch is not that of the receipts, one of them was paid, or a side cannot
    /// pay. Nothing is changed then.
    fn settle(
        &mut self,
        batch: &Batch,
        receipts: &[Agreed<Receipt>],
    ) -> Result<Settled, Self::Error>;

    /// Whether what is owed for a lease was paid, in whatever way.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be reached.
    fn is_paid(&self, debt: Debt) -> Result<bool, Self::Error>;
}

/// A batch that is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The batch's root.
    pub root: Digest,
    /// Where in the ledger it was settled: an entry, a block.
    pub at: u64,
}

#[cfg(test)]
mod tests;
