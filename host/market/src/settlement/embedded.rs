//! Settlement on one node's own ledger.

use std::collections::{BTreeMap, BTreeSet, btree_map};

use skep_evidence::{Agreed, Receipt};
use skep_registry::Digest;

use super::batch::{Batch, NetError, net};
use super::{Settled, Settlement};
use crate::balance::Debt;
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

impl EmbeddedSettlement<'_> {
    /// Those of these receipts that nothing has paid yet: who adds receipts to a file, and settles it from time to
    /// time, pays with each batch what is new.
    ///
    /// # Errors
    ///
    /// When one was paid by another receipt of the same two for the same lease, or the ledger cannot be read.
    pub fn unpaid(
        &self,
        receipts: &[Agreed<Receipt>],
    ) -> Result<Vec<Agreed<Receipt>>, SettleError> {
        let mut entries: BTreeMap<u64, BTreeSet<Digest>> = BTreeMap::new();
        let mut unpaid = Vec::new();
        for receipt in receipts {
            let Some(sequence) = self.0.paid(Debt::of(receipt))? else {
                unpaid.push(receipt.clone());
                continue;
            };
            let paid = match entries.entry(sequence) {
                btree_map::Entry::Occupied(known) => known.into_mut(),
                btree_map::Entry::Vacant(new) => new.insert(self.paid_in(sequence)?),
            };
            if !paid.contains(&receipt.digest()) {
                let lease = receipt.lease;
                return Err(PostError::PaidOtherwise { lease, sequence }.into());
            }
        }
        Ok(unpaid)
    }

    /// The receipts that an entry paid, one or a batch of them.
    fn paid_in(&self, sequence: u64) -> Result<BTreeSet<Digest>, SettleError> {
        let mut paid = BTreeSet::new();
        if let Some(entry) = self.0.entry(sequence)? {
            paid.insert(entry.content);
            paid.extend(entry.settled.iter().map(|paid| paid.receipt));
        }
        Ok(paid)
    }
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

    fn is_paid(&self, debt: Debt) -> Result<bool, SettleError> {
        Ok(self.0.paid(debt)?.is_some())
    }
}
