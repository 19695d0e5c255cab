//! Charging: what an audit found wrong is brought before the ledger, with what shows it.

use skep_evidence::following::Observation;
use skep_evidence::{
    AccountId, Accusation, Audit, Evidence, FollowedAudit, Keys, Statement as _, Verdict, judge,
};
use skep_market::{Operation, Outcome, PostError};

use super::super::Fault;
use super::Swarm;

impl Swarm {
    /// Accuses those whose results an audit found wrong before the ledger.
    pub(super) fn charge(&mut self, outcome: &Outcome) -> Result<(), Fault> {
        if outcome.wrong().next().is_none() {
            return Ok(());
        }
        let evidence = match self.job.plan().followed {
            true => self.unfollowed(outcome)?,
            false => self.divergence(outcome)?,
        };
        for id in outcome.wrong() {
            let accused = self.job.provider(id).ok_or("a lease is missing")?;
            self.accuse(accused, &evidence)?;
        }
        Ok(())
    }

    fn divergence(&self, outcome: &Outcome) -> Result<Evidence, Fault> {
        let own = self.trail(outcome.id)?.clone();
        let audits = outcome.audits.iter().map(|(id, _)| {
            let trail = self.trail(*id)?.clone();
            Ok(Audit {
                lease: trail.lease,
                result: trail.result,
            })
        });
        Ok(Evidence::Divergence {
            lease: own.lease,
            secret: self.secret(outcome.id),
            candidates: self.candidates.clone(),
            result: own.result,
            audits: audits.collect::<Result<_, Fault>>()?,
        })
    }

    fn unfollowed(&self, outcome: &Outcome) -> Result<Evidence, Fault> {
        let own = self.trail(outcome.id)?.clone();
        let audits = outcome.audits.iter().map(|(id, _)| {
            let trail = self.trail(*id)?.clone();
            Ok(FollowedAudit {
                lease: trail.lease,
                result: trail.result,
                seen: Observation::decode(&trail.shown)?,
            })
        });
        Ok(Evidence::Unfollowed {
            lease: own.lease,
            secret: self.secret(outcome.id),
            candidates: self.candidates.clone(),
            result: own.result,
            transcript: self.transcript(outcome.id)?,
            audits: audits.collect::<Result<_, Fault>>()?,
        })
    }

    pub(super) fn accuse(&mut self, accused: AccountId, evidence: &Evidence) -> Result<(), Fault> {
        let accusation = Accusation::new(self.requester.id(), accused, evidence);
        let accusation = accusation.sign(&self.requester)?;
        if !matches!(
            judge(&accusation, &mut Keys::default()),
            Verdict::Guilty { .. }
        ) {
            return Err("somebody was found wrong, and the evidence does not show it".into());
        }
        for posted in self.ledger.post(&[Operation::Judge(&accusation)])? {
            match posted {
                Ok(_) | Err(PostError::NothingAtStake { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
