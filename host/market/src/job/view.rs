//! A job as a person looks at it: each shard, and what became of its leases.

use skep_evidence::{AccountId, Credits};

use super::{Job, State};

/// What became of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// The provider has it.
    Open,
    /// It failed, or was withdrawn.
    Ended,
    /// The provider delivered, at this price.
    Delivered(Credits),
    /// What it delivered is not what the shard's output is.
    Outvoted,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardView {
    /// Its leases, in order: to whom, and what became of each.
    pub attempts: Vec<(AccountId, AttemptState)>,
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

    /// Every shard, in order.
    #[must_use]
    pub fn view(&self) -> Vec<ShardView> {
        let view = |shard: &super::Shard| ShardView {
            finished: shard.accepted.is_some(),
            attempts: shard
                .attempts
                .iter()
                .map(|attempt| {
                    let state = match attempt.state {
                        State::Open => AttemptState::Open,
                        State::Ended => AttemptState::Ended,
                        State::Wrong => AttemptState::Outvoted,
                        State::Audited(output) => AttemptState::Delivered(output.price),
                        State::Delivered(output) => match shard.accepted {
                            Some(accepted) if accepted != output.digest => AttemptState::Outvoted,
                            _ => AttemptState::Delivered(output.price),
                        },
                    };
                    (attempt.provider, state)
                })
                .collect(),
        };
        self.shards.iter().map(view).collect()
    }
}
