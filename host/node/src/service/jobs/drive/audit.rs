//! Audits: whose result is drawn or may come to be looked at, and what happens to those whose results were wrong.
//!
//! Which leases are made out for it, and what follows from what came, is `skep_market`'s to say. This
//! draws, keeps what was signed, and turns it into accusations that every third node can judge.
//!
//! It must never accuse where the statements that it holds do not show a fraud.

use skep_evidence::following::{Observation, Script, Transcript};
use skep_evidence::{
    AccountId, Accusation, Agreed, Audit, Candidates, Evidence, FollowedAudit, Keys, Lease,
    ResultCommitment, Signed, Statement as _, Verdict, judge,
};
use skep_market::{AttemptId, Conduct, Operation, Outcome, PostError, Trail};
use skep_registry::Digest;

use super::super::talk::Delivered;
use super::super::{failed, money};
use super::{Driver, SMALLEST_PANEL};
use crate::failure::{Failure, FailureKind};

/// Who may audit a result.
#[derive(Default)]
pub(super) struct Auditors {
    pub(super) list: Vec<AccountId>,
    /// Whether it was not drawn, so that they look at it only if enough replicas are another.
    pub(super) only_if_odd: bool,
}

impl Driver {
    /// What is kept of what was signed for a result that has come, if somebody may be charged by it. It is on disk
    /// with the event that it has come: whoever is killed before that is sent the same again, and nobody is charged
    /// by what was not written down.
    pub(super) fn trail_of(
        &self,
        id: AttemptId,
        delivered: &Delivered,
    ) -> Option<(AttemptId, Trail)> {
        let trail = || Trail {
            lease: delivered.lease.encode(),
            commitment: delivered.commitment.encode(),
        };
        self.spec.charges().then(|| (id, trail()))
    }

    /// Who may audit a result that has come, if it is drawn or may be odd; what is shown of it is on disk then.
    pub(super) fn auditors(
        &self,
        id: AttemptId,
        delivered: &Delivered,
    ) -> Result<Auditors, Failure> {
        if !self.spec.charges() {
            return Ok(Auditors::default());
        }
        let (lease, commitment) = (&delivered.lease, &delivered.commitment);
        let draw = self.secret(id).draw(commitment.digest());
        // An auditor's own result is compared with another anyway.
        let audits = self.job.audits(id).is_some();
        let is_drawn = !audits && draw.is_audited(self.spec.audit);
        // A lease of a time at which nobody was looked at for being odd says so by its rate.
        let may_be_odd = !audits && self.spec.looks_at_odd && draw.is_audited(lease.audit.rate);
        if self.spec.followed && (audits || is_drawn) {
            tokio::task::block_in_place(|| self.folder.keep_shown(id, &delivered.shown))?;
        }
        if !is_drawn && !may_be_odd {
            return Ok(Auditors::default());
        }
        let candidates = self.candidates_of(lease)?;
        let count = lease.audit.drawn();
        let list = draw.auditors(&candidates, count, &[lease.provider, lease.requester]);
        Ok(match is_drawn || list.len() + 1 >= SMALLEST_PANEL {
            true => Auditors {
                list,
                only_if_odd: !is_drawn,
            },
            // Too few machines of its kind are known to tell that it is wrong.
            false => Auditors::default(),
        })
    }

    /// What a result that has come claims. One that follows another claims that other's, if it agrees.
    pub(super) fn claim(&self, id: AttemptId, delivered: &Delivered) -> Result<Digest, Failure> {
        match self.followed_by(id) {
            None => Ok(delivered.commitment.claim()),
            // There may be thousands of texts to be read and compared.
            Some(audited) => tokio::task::block_in_place(|| self.vote(audited, delivered)),
        }
    }

    /// What a result that follows another says of that.
    fn vote(&self, audited: AttemptId, delivered: &Delivered) -> Result<Digest, Failure> {
        let (transcript, (_, result)) = (self.transcript(audited)?, self.trail(audited)?);
        let seen = Observation::decode(&delivered.shown).map_err(failed)?;
        let follower = &delivered.commitment;
        if let Err(reason) = transcript.agrees(&result, follower, &seen) {
            let (provider, auditor) = (result.worker, follower.worker);
            tracing::info!(%provider, %auditor, %reason, "who followed a result does not agree");
        }
        Ok(transcript.vote(&result, follower, &seen))
    }

    /// The lease whose result this one's work follows.
    fn followed_by(&self, id: AttemptId) -> Option<AttemptId> {
        let attempt = self.job.audits(id).filter(|_| self.spec.followed)?;
        Some(AttemptId { attempt, ..id })
    }

    fn transcript(&self, id: AttemptId) -> Result<Transcript, Failure> {
        Transcript::decode(&self.folder.shown(id)?).map_err(failed)
    }

    /// The script of the result that this lease's work follows.
    pub(super) fn script_for(&self, id: AttemptId) -> Result<Script, Failure> {
        let gone = || Failure::new(FailureKind::Failed, "the journal lacks a lease");
        self.script_of(self.followed_by(id).ok_or_else(gone)?)
    }

    /// The script of a result.
    pub(super) fn script_of(&self, id: AttemptId) -> Result<Script, Failure> {
        tokio::task::block_in_place(|| Ok(self.transcript(id)?.script()))
    }

    fn candidates_of(&self, lease: &Lease) -> Result<Candidates, Failure> {
        let bytes = self.folder.candidates(lease.audit.candidates)?;
        Candidates::decode(&bytes).map_err(failed)
    }

    /// What was signed for a result that came.
    fn trail(&self, id: AttemptId) -> Result<(Agreed<Lease>, Signed<ResultCommitment>), Failure> {
        let trail = match self.journal.trail(id).map_err(failed)? {
            Some(trail) => trail,
            None => self.folder.trail(id)?,
        };
        let mut keys = Keys::default();
        let lease = Agreed::decode(&trail.lease, &mut keys).map_err(failed)?;
        let commitment = Signed::decode(&trail.commitment, &mut keys).map_err(failed)?;
        Ok((lease, commitment))
    }

    /// Remembers those whose results an audit found wrong, accuses them, and has this node's ledger judge them.
    pub(super) fn charge(&self, outcome: &Outcome) -> Result<(), Failure> {
        let wrong: Vec<AttemptId> = outcome.wrong().collect();
        if wrong.is_empty() {
            return Ok(());
        }
        let liars = wrong.iter().filter_map(|id| self.job.provider(*id));
        let lied: Vec<_> = liars.map(|liar| (liar, Conduct::Lied)).collect();
        self.remember(&lied)?;
        let evidence = tokio::task::block_in_place(|| match self.spec.followed {
            false => self.divergence(outcome),
            true => self.unfollowed(outcome),
        });
        let evidence = match evidence {
            Ok(evidence) => evidence,
            Err(failure) => {
                // The shard is done elsewhere all the same.
                tracing::warn!(%failure, "what was found cannot be shown to others");
                return Ok(());
            }
        };
        for id in wrong {
            let gone = || Failure::new(FailureKind::Failed, "the journal lacks a lease");
            let accused = self.job.provider(id).ok_or_else(gone)?;
            self.accuse(accused, id, &evidence)?;
        }
        Ok(())
    }

    /// What shows that the results of a panel are not the same.
    fn divergence(&self, outcome: &Outcome) -> Result<Evidence, Failure> {
        let (lease, result) = self.trail(outcome.id)?;
        let audits = outcome.audits.iter().map(|(id, _)| {
            let (lease, result) = self.trail(*id)?;
            Ok(Audit { lease, result })
        });
        Ok(Evidence::Divergence {
            secret: self.secret(outcome.id),
            candidates: self.candidates_of(&lease)?,
            lease,
            result,
            audits: audits.collect::<Result<_, Failure>>()?,
        })
    }

    /// What shows that a panel that followed a result does not agree.
    fn unfollowed(&self, outcome: &Outcome) -> Result<Evidence, Failure> {
        let (lease, result) = self.trail(outcome.id)?;
        let audits = outcome.audits.iter().map(|(id, _)| {
            let (lease, result) = self.trail(*id)?;
            let seen = Observation::decode(&self.folder.shown(*id)?).map_err(failed)?;
            Ok(FollowedAudit {
                lease,
                result,
                seen,
            })
        });
        Ok(Evidence::Unfollowed {
            secret: self.secret(outcome.id),
            candidates: self.candidates_of(&lease)?,
            lease,
            result,
            transcript: self.transcript(outcome.id)?,
            audits: audits.collect::<Result<_, Failure>>()?,
        })
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
        let verdict = tokio::task::block_in_place(|| judge(&accusation, &mut Keys::default()));
        if let Verdict::FalseAccusation { reason, .. } = verdict {
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
