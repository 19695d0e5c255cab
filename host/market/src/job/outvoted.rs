//! What is remembered of those who delivered something: who lied, with whom others were to agree and did not, and with
//! whom they did.
//!
//! A lie is what an audit found, by a panel that no side could choose; it is remembered for good. Whoever is outvoted
//! and not more has not been shown to lie: the others may be two that lie alike, and be one and the same, at no cost.
//! If one such vote ended all dealings with a node, they could take everybody honest away from a requester, one after
//! the other. So it is a doubt, which ends when others agree with that node ([`Conduct`]).
//!
//! It must never name anybody for having been late. Where one result is enough, a shard has two only because one was
//! late or an audit called for another. Of two that differ nobody can tell which is right, and whoever makes results
//! up is the quicker one; what an audit finds is another matter. And what comes when a shard's output counts already is
//! as if its lease had been withdrawn ([`super::Job::apply`]).

use std::collections::BTreeSet;

use skep_evidence::AccountId;
use skep_registry::Digest;

use super::{Attempt, Event, Job, JobPlan, Look, Shard, State};
use crate::reputation::Conduct;

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
        let conducts = self.conducts_of(shard).into_iter();
        let odd = conducts.filter(|(_, conduct)| *conduct != Conduct::Agreed);
        odd.map(|(provider, _)| provider).collect()
    }

    /// What is to be remembered of those who delivered something for a shard: that an audit found it wrong, and once an
    /// output counts who got that and who did not, of whom others were to get the same. It is to be taken in when it
    /// comes to count, and not again: later dealings may have lifted a doubt.
    #[must_use]
    pub fn conducts_of(&self, shard: u32) -> Vec<(AccountId, Conduct)> {
        let Some(shard) = self.shards.get(shard as usize) else {
            return Vec::new();
        };
        let have_to_agree = self.plan.replicas > 1;
        let found_right = shard.found_right();
        let conduct = |attempt: &Attempt| match attempt.state {
            State::Wrong(_) => Some(Conduct::Lied),
            State::Delivered(output) => {
                let counts = shard.accepted?.vote == output.vote;
                let was_compared =
                    have_to_agree || attempt.look.is_some() || attempt.audits.is_some();
                match (counts && was_compared) || found_right.contains(&output.vote) {
                    true => Some(Conduct::Agreed),
                    false => (have_to_agree && !counts).then_some(Conduct::Outvoted),
                }
            }
            _ => None,
        };
        let attempts = shard.attempts.iter();
        let conducts = attempts.filter_map(|its| conduct(its).map(|seen| (its.provider, seen)));
        conducts.collect()
    }

    /// The same of these shards, as it will be once these events are taken in, of which nothing has been: so that it
    /// can be remembered before they are written down. What does not fit the job changes nothing of it.
    #[must_use]
    pub fn conducts_after(
        &self,
        events: &[Event],
        shards: &BTreeSet<u32>,
    ) -> Vec<(AccountId, Conduct)> {
        let conducts = shards.iter().flat_map(|number| {
            let Some(mut alone) = self.alone(*number) else {
                return Vec::new();
            };
            for event in events.iter().filter_map(|event| event.of_shard(*number)) {
                if alone.apply(&event).is_err() {
                    break;
                }
            }
            alone.conducts_of(0)
        });
        conducts.collect()
    }

    /// A job that has nothing but this shard. None if there is no such shard, or nobody is compared with others in it.
    fn alone(&self, number: u32) -> Option<Self> {
        let shard = self.shards.get(number as usize)?;
        let is_compared = |attempt: &Attempt| attempt.look.is_some() || attempt.audits.is_some();
        if self.plan.replicas <= 1 && !shard.attempts.iter().any(is_compared) {
            return None;
        }
        let mut alone = Self::new(JobPlan {
            shards: 1,
            ..self.plan
        });
        alone.shards = vec![shard.clone()];
        alone.gave_up = self.gave_up;
        if self.under_audit.contains(&number) {
            alone.under_audit.insert(0);
        }
        Some(alone)
    }
}

impl Shard {
    /// What panels that looked at one that is odd found right: what that one got, or those that were heard. Who got the
    /// same is not doubted, whatever counts in the end. Who was asked and came when the panel had decided was not heard,
    /// and what it got is only right if others got it.
    fn found_right(&self) -> BTreeSet<Digest> {
        let looks_at_odd = |attempt: &Attempt| {
            let audited = attempt.audits.and_then(|n| self.attempts.get(n as usize));
            audited.is_some_and(|audited| audited.look == Some(Look::Odd))
        };
        let was_found = |attempt: &Attempt| {
            attempt.look == Some(Look::Odd) || (attempt.has_vote && looks_at_odd(attempt))
        };
        let right = self.attempts.iter().filter(|its| was_found(its));
        right
            .filter_map(|attempt| match attempt.state {
                State::Delivered(output) => Some(output.vote),
                _ => None,
            })
            .collect()
    }
}
