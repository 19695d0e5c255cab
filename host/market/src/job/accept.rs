//! When an output counts: once enough providers agree on it, and who got something else was looked at.
//!
//! Of two replicas that differ a third tells which is odd. That is no proof: two who lie alike can have an honest one
//! odd, and a requester could be both of them. So whoever is odd is not charged for that. Its result is audited as
//! if it had been drawn, by a panel of which neither side could know beforehand, and who is not with the majority of that pays:
//! the one that is odd, or those against whom it was. Until that is over nothing counts as the shard's output.
//!
//! It must never have one result looked at twice for being odd: the shard would have no end.

use skep_registry::Digest;

use super::{Accepted, Attempt, Job, Look, Shard, State, Unfit};

impl Job {
    /// Accepts an output of a shard once enough providers agree on it and nobody that got something else is to be
    /// looked at, as things are at this time.
    pub(super) fn accept(&mut self, number: u32, at: u64) -> Result<(), Unfit> {
        let replicas = self.plan.replicas.max(1);
        let looks_at_odd =
            self.plan.looks_at_odd && replicas > 1 && !self.plan.followed && self.gave_up.is_none();
        let shard = self.shard(number)?;
        if shard.accepted.is_none() && !shard.is_under_audit() {
            // After an audit there may be several with enough votes; the panel's majority has
            // the most.
            let votes = shard.votes().into_iter();
            let most = votes
                .filter(|(_, (votes, _))| *votes >= replicas)
                .max_by_key(|(_, (votes, _))| *votes)
                .map(|(vote, (_, output))| Accepted { output, vote });
            let waits = most.is_some_and(|most| looks_at_odd && shard.call_odd(most.vote, at));
            shard.accepted = most.filter(|_| !waits);
            if shard.accepted.is_some() {
                self.unfinished.remove(&number);
            }
        }
        match self.shard(number)?.is_under_audit() {
            true => self.under_audit.insert(number),
            false => self.under_audit.remove(&number),
        };
        Ok(())
    }
}

impl Shard {
    /// What is looked at for being odd stands as it did.
    pub(super) fn look_no_more(&mut self) {
        for attempt in &mut self.attempts {
            if let (State::Audited(output), Some(Look::Odd)) = (attempt.state, attempt.look) {
                attempt.state = State::Delivered(output);
                attempt.look = Some(Look::Undecided);
            }
        }
    }

    fn is_under_audit(&self) -> bool {
        let mut attempts = self.attempts.iter();
        attempts.any(|attempt| matches!(attempt.state, State::Audited(_)))
    }

    /// Has the results looked at that are others than what enough agree on, and where a panel found one of those
    /// right, those that agree as well; unless that was done or nobody can. Whether there are any.
    fn call_odd(&mut self, vote: Digest, at: u64) -> bool {
        let is_other = |attempt: &Attempt| match attempt.state {
            State::Delivered(output) => output.vote != vote,
            _ => false,
        };
        let mut attempts = self.attempts.iter();
        let is_doubted = attempts.any(|its| its.look == Some(Look::Odd) && is_other(its));
        let mut are_any = false;
        for attempt in &mut self.attempts {
            let State::Delivered(output) = attempt.state else {
                continue;
            };
            let was_called = matches!(attempt.look, Some(Look::Odd | Look::Undecided));
            let is_right = output.vote == vote && !is_doubted;
            if is_right || was_called || attempt.auditors.is_empty() {
                continue;
            }
            attempt.state = State::Audited(output);
            attempt.look = Some(Look::Odd);
            // From now on it waits for its auditors.
            attempt.since = at;
            are_any = true;
        }
        are_any
    }
}
