//! Audits: whose result is drawn, and what happens to those whose results were wrong.
//!
//! Which leases are made out for it, and what follows from what came, is `skep_market`'s to say. This
//! draws, keeps what was signed, and turns it into accusations that every third node can judge.
//!
//! It must never accuse where the statements that it holds do not show a fraud.

use skep_evidence::{
    AccountId, Accusation, Agreed, Audit, Candidates, Evidence, Keys, Lease, ResultCommitment,
    Signed, Statement as _, Verdict, judge,
};
use skep_market::{AttemptId, Operation, Outcome, PostError};

use super::super::folder::Trail;
use super::super::talk::Delivered;
use super::super::{failed, money};
use super::Driver;
use crate::failure::{Failure, FailureKind};

impl Driver {
    /// Who may audit a result that has come, if it is drawn; what was signed for it is on disk then.
    pub(super) fn auditors(
        &self,
        id: AttemptId,
        delivered: &Delivered,
    ) -> Result<Vec<AccountId>, Failure> {
        if self.spec.audit == 0 {
            return Ok(Vec::new());
        }
        let (lease, commitment) = (&delivered.lease, &delivered.commitment);
        let trail = Trail {
            lease: lease.encode(),
            commitment: commitment.encode(),
        };
        tokio::task::block_in_place(|| self.folder.keep_trail(id, &trail))?;
        let draw = self.secret(id).draw(commitment.digest());
        // An auditor's own result is compared with another anyway.
        if self.job.audits(id).is_some() || !draw.is_audited(lease.audit.rate) {
            return Ok(Vec::new());
        }
        let candidates = self.candidates_of(lease)?;
        let count = lease.audit.panel.saturating_sub(1) as usize;
        Ok(draw.auditors(&candidates, count, &[lease.provider, lease.requester]))
    }

    fn candidates_of(&self, lease: &Lease) -> Result<Candidates, Failure> {
        let bytes = self.folder.candidates(lease.audit.candidates)?;
        Candidates::decode(&bytes).map_err(failed)
    }

    /// What was signed for a result that came.
    fn trail(&self, id: AttemptId) -> Result<(Agreed<Lease>, Signed<ResultCommitment>), Failure> {
        let trail = self.folder.trail(id)?;
        let mut keys = Keys::default();
        let lease = Agreed::decode(&trail.lease, &mut keys).map_err(failed)?;
        let commitment = Signed::decode(&trail.commitment, &mut keys).map_err(failed)?;
        Ok((lease, commitment))
    }

    /// Accuses those whose results an audit found wrong, and has this node's ledger judge them.
    pub(super) fn charge(&self, outcome: &Outcome) -> Result<(), Failure> {
        let wrong: Vec<AttemptId> = outcome.wrong().collect();
        if wrong.is_empty() {
            return Ok(());
        }
        let (lease, result) = self.trail(outcome.id)?;
        let audits = outcome.audits.iter().map(|(id, _)| {
            let (lease, result) = self.trail(*id)?;
            Ok(Audit { lease, result })
        });
        let audits = audits.collect::<Result<_, Failure>>()?;
        let evidence = Evidence::Divergence {
            secret: self.secret(outcome.id),
            candidates: self.candidates_of(&lease)?,
            lease,
            result,
            audits,
        };
        for id in wrong {
            let gone = || Failure::new(FailureKind::Failed, "the journal lacks a lease");
            let accused = self.job.provider(id).ok_or_else(gone)?;
            self.accuse(accused, id, &evidence)?;
        }
        Ok(())
    }

    /// Accuses who delivered under a lease, keeps the accusation, and has this node's ledger judge it.
    pub(super) fn accuse(
        &self,
        accused: AccountId,
        id: AttemptId,
        evidence: &Evidence,
    ) -> Result<(), Failure> {
        let accusation = Accusation::new(self.account.id(), accused, evidence);
        let accusation = accusation.sign(&self.account).map_err(failed)?;
        if let Verdict::FalseAccusation { reason, .. } = judge(&accusation, &mut Keys::default()) {
            // The shard is done elsewhere all the same; only the proof is not one.
            tracing::warn!(%accused, %reason, "what was found is no evidence");
            return Ok(());
        }
        let (shard, attempt) = (id.shard, id.attempt);
        tracing::info!(%accused, shard, attempt, "a fraud is proven");
        tokio::task::block_in_place(|| {
            self.folder.keep_evidence(accused, id, &accusation.encode())
        })?;
        match money::post(&self.service, &Operation::Judge(&accusation))? {
            // Who has nothing at stake here may have elsewhere.
            Ok(_) | Err(PostError::NothingAtStake { .. }) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}
