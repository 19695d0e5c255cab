//! A job as a person looks at it: each shard, and what became of its leases.

use std::collections::BTreeSet;

use skep_evidence::{AccountId, Credits};
use skep_registry::Digest;

use super::{AttemptId, Finding, Job, Look, State};

/// What became of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// The provider has it.
    Open,
    /// It failed, was withdrawn, or brought something else when the shard's output counted already.
    Ended,
    /// The provider delivered, at this price.
    Delivered(Credits),
    /// The provider delivered, and others are to look at it first, or it has to say something of another's
    /// result that is being audited.
    Audited,
    /// It followed another's result, and was right of it, at this price.
    Followed(Credits),
    /// What it delivered, or what it says that it took, is not what counts.
    Outvoted,
}

/// One lease of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptView {
    /// To whom.
    pub provider: AccountId,
    /// What became of it.
    pub state: AttemptState,
    /// Which lease's result it audits, if it was made out for that.
    pub audits: Option<u32>,
    /// Whether its own result was drawn to be audited, or is audited since it is odd, and what was found of it so
    /// far.
    pub audit: Option<Option<Finding>>,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardView {
    /// Its leases, in order.
    pub attempts: Vec<AttemptView>,
    /// Whether its output is accepted.
    pub finished: bool,
}

impl Job {
    /// The receipts that were countersigned and posted, as their providers signed them.
    pub fn paid(&self) -> impl Iterator<Item = &[u8]> {
        let attempts = self.shards.iter().flat_map(|shard| &shard.attempts);
        let paid = attempts.filter(|attempt| attempt.paid);
        paid.map(|attempt| attempt.encoding.as_slice())
    }

    /// Whether nothing comes of a lease any more: it failed, was withdrawn, or brought something else when the shard's
    /// output counted already.
    #[must_use]
    pub fn has_ended(&self, id: AttemptId) -> bool {
        let shard = self.shards.get(id.shard as usize);
        let lease = shard.and_then(|shard| shard.attempts.get(id.attempt as usize));
        lease.is_some_and(|lease| lease.state == State::Ended)
    }

    /// Whether a lease was made out to audit another's result.
    #[must_use]
    pub fn is_audit(&self, id: AttemptId) -> bool {
        let shard = self.shards.get(id.shard as usize);
        let lease = shard.and_then(|shard| shard.attempts.get(id.attempt as usize));
        lease.is_some_and(|lease| lease.audits.is_some())
    }

    /// Whose leases can still be disputed: those that are out, and those under which something was signed, whatever
    /// became of it. Of a lease that failed or was withdrawn there is nothing that anybody could show; where what came
    /// of it was a fraud, that was charged before it was written down as failed.
    #[must_use]
    pub fn disputable(&self) -> BTreeSet<AccountId> {
        let attempts = self.shards.iter().flat_map(|shard| &shard.attempts);
        let can_be =
            attempts.filter(|lease| lease.state != State::Ended || !lease.encoding.is_empty());
        can_be.map(|lease| lease.provider).collect()
    }

    /// What was delivered for a shard, and by whom, in the order of its leases. Outputs that lost against
    /// others are among it; those that came when another counted already, and those of leases that followed another's
    /// texts, are not.
    #[must_use]
    pub fn outputs(&self, shard: u32) -> Vec<(AccountId, Digest)> {
        let attempts = self.shards.get(shard as usize).map(|shard| &shard.attempts);
        let made = attempts.into_iter().flatten();
        let made = made.filter(|attempt| !self.follows(attempt));
        let delivered = made.filter_map(|attempt| {
            let (State::Delivered(output) | State::Audited(output) | State::Wrong(output)) =
                attempt.state
            else {
                return None;
            };
            Some((attempt.provider, output.digest))
        });
        delivered.collect()
    }

    /// Outputs that were delivered and do not count, since others delivered something else.
    #[must_use]
    pub fn lost_outputs(&self) -> BTreeSet<Digest> {
        let mut lost = BTreeSet::new();
        for number in 0..self.plan.shards {
            if let Some(accepted) = self.accepted(number) {
                let outputs = self.outputs(number).into_iter();
                lost.extend(
                    outputs
                        .map(|(_, output)| output)
                        .filter(|output| *output != accepted),
                );
            }
        }
        lost
    }

    /// Where the accepted output of each shard that is put together lies in the result: its first byte,
    /// and how many it has.
    #[must_use]
    pub fn places(&self) -> Vec<(u64, u64)> {
        let assembled = self.shards.iter().take(self.assembled as usize);
        let lengths = assembled.map(|shard| shard.accepted_bytes().unwrap_or(0));
        let places = lengths.scan(0_u64, |start, bytes| {
            let place = (*start, bytes);
            *start = start.saturating_add(bytes);
            Some(place)
        });
        places.collect()
    }

    /// Every shard, in order.
    #[must_use]
    pub fn view(&self) -> Vec<ShardView> {
        let view = |shard: &super::Shard| ShardView {
            finished: shard.accepted.is_some(),
            attempts: shard
                .attempts
                .iter()
                .map(|attempt| AttemptView {
                    provider: attempt.provider,
                    state: match attempt.state {
                        State::Open => AttemptState::Open,
                        State::Ended => AttemptState::Ended,
                        State::Wrong(_) => AttemptState::Outvoted,
                        State::Audited(_) | State::Follows(_) => AttemptState::Audited,
                        State::Followed(output) => AttemptState::Followed(output.price),
                        State::Delivered(output) => match shard.accepted {
                            Some(accepted) if accepted.vote != output.vote => {
                                AttemptState::Outvoted
                            }
                            _ => AttemptState::Delivered(output.price),
                        },
                    },
                    audits: attempt.audits,
                    audit: attempt.look.map(|look| match attempt.state {
                        State::Open | State::Audited(_) | State::Follows(_) => None,
                        State::Delivered(_) if look == Look::Undecided => Some(Finding::Undecided),
                        State::Delivered(_) | State::Followed(_) => Some(Finding::Passed),
                        State::Wrong(_) => Some(Finding::Wrong),
                        State::Ended => Some(Finding::Undecided),
                    }),
                })
                .collect(),
        };
        self.shards.iter().map(view).collect()
    }
}
