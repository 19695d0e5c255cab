//! Settlement on one node's own ledger.

use skep_evidence::{Agreed, Receipt};
use skep_registry::Digest;

use super::batch::{Batch, NetError, net};
use super::{Settled, Settlement};
use crate::ledger::{Ledger, LedgerError, Operation, PostError, Posted};

/// Settles on a ledger of this machine.
#[derive(Debug)]
pub struct EmbeddedSettlement<'a>(pub &'a mut Ledger);

/// Why a batch is not settled on the ledger.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The receipts cannot be netted.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The batch is not what these receipts come to.
    #[error("the batch is not that of these receipts; net them again")]
    OtherBatch,
    /// There is nothing in it.
    #[error("there is nothing to settle")]
    Empty,
    /// The ledger refuses it.
    #[error(transparent)]
    Refused(#[from] PostError),
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Settlement for EmbeddedSettlement<'_> {
    type Error = SettleError;

    fn settle(
        &mut self,
        batch: &Batch,
        receipts: &[Agreed<Receipt>],
    ) -> Result<Settled, SettleError> {
        if receipts.is_empty() {
            return Err(SettleError::Empty);
        }
        if net(receipts)? != *batch {
            return Err(SettleError::OtherBatch);
        }
        let outcome = self.0.post(&[Operation::Settle(batch)])?;
        let posted = outcome.into_iter().next().ok_or(SettleError::Empty)??;
        let (Posted::New { sequence } | Posted::Already { sequence }) = posted;
        Ok(Settled {
            root: batch.root(),
            at: sequence,
        })
    }

    fn is_paid(&self, lease: Digest) -> Result<bool, SettleError> {
        Ok(self.0.paid(lease)?.is_some())
    }
}
