//! What the leases of one shard come to: what they cost, what is to be paid, and how many agree.
//!
//! It must never count what an auditor says of another's result for a result of the shard.

use std::collections::{BTreeMap, BTreeSet};

use skep_evidence::{AccountId, Credits};
use skep_registry::Digest;

use super::{Attempt, Shard, State, sum};

impl Shard {
    /// Its leases that are not for audits.
    pub(super) fn ordinary(&self) -> impl Iterator<Item = &Attempt> {
        let attempts = self.attempts.iter();
        attempts.filter(|attempt| attempt.audits.is_none())
    }

    /// How many of the leases that it may have are spent: to be busy is nothing that a shard is given up for.
    pub(super) fn spent(&self) -> u32 {
        let spent = self.ordinary().filter(|attempt| !attempt.moved).count();
        u32::try_from(spent).unwrap_or(u32::MAX)
    }

    /// What is to be paid, and what may come to be paid beside that. What does not count yet when a job
    /// is given up never will.
    pub(super) fn costs(&self, is_given_up: bool) -> (Credits, Credits) {
        let (mut spent, mut reserved) = (Credits::ZERO, Credits::ZERO);
        for attempt in &self.attempts {
            match attempt.state {
                State::Open => reserved = sum(reserved, attempt.limit),
                State::Followed(output) => spent = sum(spent, output.price),
                State::Audited(output) | State::Follows(output) if !is_given_up => {
                    reserved = sum(reserved, output.price);
                }
                State::Delivered(output) => match self.accepted {
                    None if is_given_up => {}
                    None => reserved = sum(reserved, output.price),
                    Some(accepted) if accepted.vote == output.vote => {
                        spent = sum(spent, output.price);
                    }
                    Some(_) => {}
                },
                State::Audited(_) | State::Follows(_) | State::Ended | State::Wrong(_) => {}
            }
        }
        (spent, reserved)
    }

    /// The leases that delivered the accepted output, or were right of another, and are not paid, by
    /// their numbers.
    pub(super) fn unpaid(&self) -> impl Iterator<Item = (u32, &Attempt)> {
        let attempts = (0..).zip(&self.attempts);
        attempts.filter(|(_, attempt)| match attempt.state {
            State::Delivered(output) => {
                let accepted = self.accepted;
                accepted.is_some_and(|accepted| accepted.vote == output.vote) && !attempt.paid
            }
            State::Followed(_) => !attempt.paid,
            _ => false,
        })
    }

    /// How long the accepted output is.
    pub(super) fn accepted_bytes(&self) -> Option<u64> {
        let accepted = self.accepted?;
        self.attempts
            .iter()
            .find_map(|attempt| match attempt.state {
                State::Delivered(output) if output.vote == accepted.vote => Some(output.bytes),
                _ => None,
            })
    }

    /// How many providers delivered what counts as the same, each with its output.
    pub(super) fn votes(&self) -> BTreeMap<Digest, (u32, Digest)> {
        let mut votes: BTreeMap<Digest, (BTreeSet<AccountId>, Digest)> = BTreeMap::new();
        for attempt in &self.attempts {
            if let (State::Delivered(output), true) = (attempt.state, attempt.has_vote) {
                let alike = votes.entry(output.vote);
                let (voters, _) = alike.or_insert_with(|| (BTreeSet::new(), output.digest));
                voters.insert(attempt.provider);
            }
        }
        let count = |voters: BTreeSet<AccountId>| u32::try_from(voters.len()).unwrap_or(u32::MAX);
        votes
            .into_iter()
            .map(|(vote, (voters, output))| (vote, (count(voters), output)))
            .collect()
    }
}
