//! What a provider's owner lets in, and for how much.

use std::collections::BTreeSet;

use skep_evidence::{Credits, Share, Tariff};
use skep_registry::PublisherId;

use crate::message::Refusal;

/// An owner's rules for the jobs of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether any are taken.
    pub take: bool,
    /// Whose packages are run; none named is everybody's.
    pub publishers: BTreeSet<PublisherId>,
    /// The worlds that are run; none named is all that jobs are made of.
    pub worlds: BTreeSet<String>,
    /// The most bytes of one shard's input.
    pub largest_input: u64,
    /// The most bytes of one shard's output.
    pub largest_output: u64,
    /// How many shards run at once.
    pub slots: u32,
    /// The most seconds for which one lease may have things kept ready.
    pub residency: u64,
    /// What it costs.
    pub tariff: Tariff,
    /// Who takes a part of every price that this node earns, for operating it or the market that it
    /// is found on.
    pub operator: Option<Share>,
    /// The most that one requester may owe for work of the last day.
    pub unpaid: Credits,
}

/// The worlds of which jobs can be made: those that turn an input into an output.
const WORLDS: [&str; 3] = ["batch-classifier", "task", "async-task"];

impl Policy {
    /// Whether a shard of such a package may run here.
    ///
    /// # Errors
    ///
    /// The first rule against it.
    pub fn admit(
        &self,
        publisher: PublisherId,
        world: &str,
        input_bytes: u64,
    ) -> Result<(), Refusal> {
        if !self.take || self.slots == 0 {
            return Err(Refusal::NoJobs);
        }
        if !self.publishers.is_empty() && !self.publishers.contains(&publisher) {
            return Err(Refusal::Publisher);
        }
        let named = self.worlds.is_empty() || self.worlds.contains(world);
        if !named || !WORLDS.contains(&world) {
            return Err(Refusal::World(world.to_owned()));
        }
        if input_bytes > self.largest_input {
            return Err(Refusal::InputTooLarge {
                bytes: input_bytes,
                limit: self.largest_input,
            });
        }
        Ok(())
    }

    /// Whether things may be kept ready for so many seconds.
    ///
    /// # Errors
    ///
    /// [`Refusal::Residency`]
    pub fn keep(&self, residency: u64) -> Result<(), Refusal> {
        match residency > self.residency {
            true => Err(Refusal::Residency {
                asked: residency,
                limit: self.residency,
            }),
            false => Ok(()),
        }
    }

    /// Whether one who owes so much may have more done.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unpaid`]
    pub fn trust(&self, owed: Credits) -> Result<(), Refusal> {
        match owed > self.unpaid {
            true => Err(Refusal::Unpaid {
                owed: owed.micro(),
                limit: self.unpaid.micro(),
            }),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::account;

    fn publisher(seed: u8) -> PublisherId {
        PublisherId::from_bytes(account(seed).as_bytes()).unwrap()
    }

    #[test]
    fn each_rule_keeps_out_what_it_names() {
        let open = Policy {
            take: true,
            publishers: BTreeSet::new(),
            worlds: BTreeSet::new(),
            largest_input: 100,
            largest_output: 100,
            slots: 1,
            residency: 60,
            tariff: Tariff::default(),
            operator: None,
            unpaid: Credits::from_micro(5),
        };
        let owing = |micro| open.trust(Credits::from_micro(micro));
        assert_eq!(open.keep(60), Ok(()));
        let long = Refusal::Residency {
            asked: 61,
            limit: 60,
        };
        assert_eq!(open.keep(61), Err(long));
        assert_eq!(owing(5), Ok(()));
        assert_eq!(owing(6), Err(Refusal::Unpaid { owed: 6, limit: 5 }));
        let ask = |policy: &Policy, world| policy.admit(publisher(1), world, 100);
        assert_eq!(ask(&open, "task"), Ok(()));
        assert_eq!(
            ask(&open, "village"),
            Err(Refusal::World("village".to_owned()))
        );
        assert_eq!(
            open.admit(publisher(1), "task", 101),
            Err(Refusal::InputTooLarge {
                bytes: 101,
                limit: 100
            })
        );
        let shut = Policy {
            take: false,
            ..open.clone()
        };
        assert_eq!(ask(&shut, "task"), Err(Refusal::NoJobs));
        let choosy = Policy {
            publishers: [publisher(2)].into(),
            ..open.clone()
        };
        assert_eq!(ask(&choosy, "task"), Err(Refusal::Publisher));
        let narrow = Policy {
            worlds: ["task".to_owned()].into(),
            ..open
        };
        assert_eq!(ask(&narrow, "task"), Ok(()));
        assert!(ask(&narrow, "batch-classifier").is_err());
    }
}
