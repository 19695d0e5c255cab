//! The least of what a panel saw that convicts: what nobody's vote rests on is left out, so that an accusation
//! holds it however much was shown.
//!
//! It must never leave out what the verdict takes.

use skep_registry::Digest;

use super::{Evidence, MAX_EVIDENCE};
use crate::account::AccountId;
use crate::audit::{Candidates, MAX_PANEL};
use crate::following::{Observation, Transcript, doubt};
use crate::lease::Lease;
use crate::result::ResultCommitment;
use crate::statement::Statement as _;

/// The most bytes of what is signed for one result, and of what is around it.
const SIGNED: usize = Lease::MAX_BYTES + ResultCommitment::MAX_BYTES + 1024;
/// The most bytes of one candidate.
const CANDIDATE: usize = 48;
/// The most results that the conviction of one account takes beside the provider's: the majority of the
/// largest panel if that account is the provider, and itself and the majority without the provider if not.
const RESULTS: usize = MAX_PANEL as usize / 2 + 1;
const _: () = assert!(
    Transcript::MAX_BYTES
        + RESULTS * (Observation::MAX_BYTES + SIGNED)
        + Candidates::MAX * CANDIDATE
        + SIGNED
        <= MAX_EVIDENCE,
    "what a panel saw of a run that shows as much as it may fits an accusation"
);

impl Evidence {
    /// The same as far as it takes to convict this account. Of what a panel followed that is its majority
    /// and who is accused, and no more.
    pub(super) fn against(&self, accused: AccountId) -> Self {
        let Self::Unfollowed {
            lease,
            secret,
            candidates,
            result,
            transcript,
            audits,
        } = self
        else {
            return self.clone();
        };
        let votes = audits
            .iter()
            .map(|audit| transcript.vote(result, &audit.result, &audit.seen));
        let votes: Vec<Digest> = votes.collect();
        let (own, enough) = (result.claim(), lease.audit.panel as usize / 2 + 1);
        let own_vote = |vote| usize::from(own == vote);
        let count = |vote| own_vote(vote) + votes.iter().filter(|other| **other == vote).count();
        let mut all = votes.iter().copied().chain([own]);
        let Some(majority) = all.find(|vote| *vote != doubt() && count(*vote) >= enough) else {
            return self.clone();
        };
        let mut missing = enough - own_vote(majority);
        let convicting = audits.iter().zip(&votes).filter(|(audit, vote)| {
            let is_needed = **vote == majority && missing > 0;
            missing -= usize::from(is_needed);
            is_needed || audit.result.worker == accused
        });
        Self::Unfollowed {
            audits: convicting.map(|(audit, _)| audit.clone()).collect(),
            lease: lease.clone(),
            secret: *secret,
            candidates: candidates.clone(),
            result: result.clone(),
            transcript: transcript.clone(),
        }
    }
}
