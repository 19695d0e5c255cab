//! What nodes were found to run on lately, so that nobody is asked for it again and again.
//!
//! A quote takes the node that shows it a program and a signature, and holds for longer than a moment.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use skep_evidence::AccountId;
use skep_swarm::NodeId;

use crate::requests::hardware::{AttestedLine, Hardware};

/// How long a quote that held is believed.
pub const BELIEVED: Duration = Duration::from_secs(10 * 60);
/// After how long a node that showed nothing, or nothing that holds, is asked again.
pub const AGAIN: Duration = Duration::from_secs(60);

/// What came of asking a node what it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Its quote holds.
    Attested(AttestedLine),
    /// It showed a quote that does not, and why.
    Refuted(String),
    /// It showed none, and why.
    Nothing(String),
}

impl Finding {
    /// What is shown of it. A node without such hardware is as most are, and no reason is given.
    pub fn hardware(self) -> Hardware {
        let (attested, not_attested) = match self {
            Self::Attested(line) => (Some(line), None),
            Self::Refuted(why) => (None, Some(why)),
            Self::Nothing(_) => (None, None),
        };
        Hardware {
            attested,
            not_attested,
        }
    }

    fn lasts(&self) -> Duration {
        match self {
            Self::Attested(_) => BELIEVED,
            Self::Refuted(_) | Self::Nothing(_) => AGAIN,
        }
    }
}

/// A node, and the account that it says is its own. Only a quote that holds shows that it is, so that
/// a node which claims another's account takes no label from it.
type Who = (NodeId, AccountId);

/// What was found of each.
#[derive(Debug, Default)]
pub struct Found(Mutex<BTreeMap<Who, (Instant, Finding)>>);

impl Found {
    /// What was found of a node, if that still counts.
    pub fn recall(&self, who: Who, now: Instant) -> Option<Finding> {
        let all = self.lock();
        let (at, finding) = all.get(&who)?;
        counts(*at, finding, now).then(|| finding.clone())
    }

    /// Remembers it for a while.
    pub fn keep(&self, who: Who, finding: Finding, now: Instant) {
        let mut all = self.lock();
        all.retain(|_, (at, finding)| counts(*at, finding, now));
        all.insert(who, (now, finding));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Who, (Instant, Finding)>> {
        // The map is whole after every statement, so a poisoned lock is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn counts(at: Instant, finding: &Finding, now: Instant) -> bool {
    now.duration_since(at) < finding.lasts()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use skep_evidence::AccountKey;

    use super::*;
    use crate::requests::hardware::FirmwareLine;

    fn attested() -> Finding {
        Finding::Attested(AttestedLine {
            format: "AMD SEV-SNP".to_owned(),
            product: "Milan-B0".to_owned(),
            measurement: "ab".repeat(48),
            firmware: FirmwareLine {
                fmc: None,
                boot_loader: 3,
                tee: 0,
                snp: 8,
                microcode: 115,
            },
            checked_ms: 1,
            certified_until_ms: 2,
        })
    }

    #[test]
    fn what_was_found_counts_for_its_node_and_account_and_for_a_while() {
        let account = |seed| AccountKey::from_seed(&[seed; 32]).id();
        let node = |seed| NodeId::from_bytes(account(seed).as_bytes()).unwrap();
        let (one, other) = ((node(1), account(3)), (node(2), account(3)));
        let found = Found::default();
        let start = Instant::now();
        let refuted = Finding::Refuted("it does not hold".to_owned());
        found.keep(one, attested(), start);
        // Whoever says that the account is its own does not take the label away.
        found.keep(other, refuted.clone(), start);
        assert_eq!(found.recall(one, start), Some(attested()));
        assert_eq!(found.recall(other, start), Some(refuted));
        assert_eq!(found.recall((node(1), account(4)), start), None);

        let moment = Duration::from_millis(1);
        assert_eq!(found.recall(other, start + AGAIN), None);
        assert_eq!(
            found.recall(one, start + BELIEVED - moment),
            Some(attested())
        );
        assert_eq!(found.recall(one, start + BELIEVED), None);
        // What does not count any more takes no room.
        let nothing = Finding::Nothing("it has none".to_owned());
        found.keep(other, nothing, start + BELIEVED);
        assert_eq!(found.lock().len(), 1);
    }

    #[test]
    fn only_a_quote_that_does_not_hold_is_a_reason() {
        assert!(attested().hardware().attested.is_some());
        let refuted = Finding::Refuted("it does not hold".to_owned()).hardware();
        assert_eq!(refuted.attested, None);
        assert_eq!(refuted.not_attested.as_deref(), Some("it does not hold"));
        let nothing = Finding::Nothing("it has none".to_owned()).hardware();
        assert_eq!(nothing, Hardware::default());
        // A script finds both fields whatever is known.
        assert_eq!(
            serde_json::to_string(&nothing).unwrap(),
            r#"{"attested":null,"not_attested":null}"#
        );
    }
}
