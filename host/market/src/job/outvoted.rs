//! Who is not asked again for what it delivered: others were to agree with it, and did not.
//!
//! It must never name anybody for having been late. Where one result is enough, a shard has two only because one was
//! late or an audit called for another. Of two that differ nobody can tell which is right, and whoever makes results
//! up is the quicker one; what an audit finds is another matter. And what comes when a shard's output counts already is
//! as if its lease had been withdrawn ([`super::Job::apply`]).

use skep_evidence::AccountId;

use super::{Accepted, Attempt, Job, Look, State};

impl Job {
    /// Providers that delivered something else than what was accepted, where several have to agree on that, in its
    /// bytes or in what it took, before it was; or something that an audit found wrong, each with the shard. Who was
    /// looked at for that and found right is not among them.
    #[must_use]
    pub fn outvoted(&self) -> Vec<(u32, AccountId)> {
        let all = (0..self.plan.shards).flat_map(|shard| {
            let odd = self.outvoted_of(shard).into_iter();
            odd.map(move |provider| (shard, provider))
        });
        all.collect()
    }

    /// Those of one shard.
    #[must_use]
    pub fn outvoted_of(&self, shard: u32) -> Vec<AccountId> {
        let Some(shard) = self.shards.get(shard as usize) else {
            return Vec::new();
        };
        let have_to_agree = self.plan.replicas > 1;
        // Nor is who was with such a one when it was looked at.
        let stood_by = |attempt: &Attempt| {
            let audited = attempt.audits.and_then(|n| shard.attempts.get(n as usize));
            audited.is_some_and(|audited| audited.look == Some(Look::Odd))
        };
        let is_odd = |attempt: &&Attempt| match attempt.state {
            State::Wrong(_) => true,
            State::Delivered(output) => {
                let other = |accepted: Accepted| accepted.vote != output.vote;
                let was_found_right = attempt.look == Some(Look::Odd) || stood_by(attempt);
                have_to_agree && !was_found_right && shard.accepted.is_some_and(other)
            }
            _ => false,
        };
        let odd = shard.attempts.iter().filter(is_odd);
        odd.map(|attempt| attempt.provider).collect()
    }
}
