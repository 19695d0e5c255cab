//! What a run may use up, as a package asks for it and as a node's owner allows it.
//!
//! This is the amounts and their text only; who enforces them is no business of this crate.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::nearest;
use crate::units::{self, UnitError};

/// Limits on a run. `None` is not limited here: the package asks for nothing in particular, or
/// the owner sets no cap.
///
/// Durations count to the millisecond. With serde, a table of texts such as `memory = "256 MiB"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory and tables of the guest, in bytes.
    pub memory: Option<u64>,
    /// Time that the guest itself computes.
    pub cpu_time: Option<Duration>,
    /// Wall time of the whole run, host calls included.
    pub time: Option<Duration>,
    /// Tensors, activations and caches on the device at one moment, in bytes.
    pub device_memory: Option<u64>,
    /// Floating-point operations on the device, in total.
    pub device_work: Option<u64>,
    /// Resources that the guest holds at one moment.
    pub handles: Option<u64>,
    /// Bytes that one call carries between guest and host.
    pub call_bytes: Option<u64>,
    /// Bytes of result, in total.
    pub output: Option<u64>,
    /// Bytes stored in the node's blob store, in total.
    pub storage: Option<u64>,
    /// Bytes of log, in total.
    pub log: Option<u64>,
}

/// How an amount is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bytes,
    Duration,
    Work,
    Count,
}

/// The number of limits there are.
pub(crate) const COUNT: usize = 10;

/// Every limit: its key in `skep.toml` and its unit. The order is that of the fields, and part of
/// the canonical encoding: a new limit is added at the end.
const TABLE: [(&str, Unit); COUNT] = [
    ("memory", Unit::Bytes),
    ("cpu-time", Unit::Duration),
    ("time", Unit::Duration),
    ("device-memory", Unit::Bytes),
    ("device-work", Unit::Work),
    ("handles", Unit::Count),
    ("call-bytes", Unit::Bytes),
    ("output", Unit::Bytes),
    ("storage", Unit::Bytes),
    ("log", Unit::Bytes),
];

impl Limits {
    /// The keys of all limits, in the order in which they are printed.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|(key, _)| *key)
    }

    /// These limits, none of them above the owner's: for each the smaller of the two, and the
    /// one that is set where only one is.
    #[must_use]
    pub fn capped_by(&self, owner: &Self) -> Self {
        let (mine, theirs) = (self.amounts(), owner.amounts());
        Self::from_amounts(std::array::from_fn(|i| match (mine[i], theirs[i]) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }))
    }

    /// Sets one limit from its key and its text, as `skep.toml` and the command line do:
    /// `memory`, `256 MiB`.
    ///
    /// # Errors
    ///
    /// When there is no such limit, or the text is no amount of its unit.
    pub fn set(&mut self, key: &str, text: &str) -> Result<(), LimitError> {
        let Some(index) = TABLE.iter().position(|(known, _)| *known == key) else {
            return Err(LimitError::Unknown {
                key: key.chars().take(40).collect(),
                nearest: nearest(key, Self::keys()),
            });
        };
        let (key, unit) = TABLE[index];
        let amount = match unit {
            Unit::Bytes => units::parse_bytes(text),
            Unit::Duration => units::parse_duration(text).map(millis),
            Unit::Work => units::parse_work(text),
            Unit::Count => return self.set_count(index, key, text),
        };
        self.put(
            index,
            amount.map_err(|source| LimitError::Amount { key, source })?,
        );
        Ok(())
    }

    fn set_count(&mut self, index: usize, key: &'static str, text: &str) -> Result<(), LimitError> {
        let count = text
            .trim()
            .replace('_', "")
            .parse()
            .map_err(|_| LimitError::Count {
                key,
                text: text.chars().take(40).collect(),
            })?;
        self.put(index, count);
        Ok(())
    }

    fn put(&mut self, index: usize, amount: u64) {
        let mut amounts = self.amounts();
        amounts[index] = Some(amount);
        *self = Self::from_amounts(amounts);
    }

    /// Every limit that is set: its key, and its amount as [`Limits::set`] reads it.
    #[must_use]
    pub fn entries(&self) -> Vec<(&'static str, String)> {
        let amounts = self.amounts();
        TABLE
            .iter()
            .zip(amounts)
            .filter_map(|((key, unit), amount)| {
                let amount = amount?;
                let text = match unit {
                    Unit::Bytes => units::format_bytes(amount),
                    Unit::Duration => units::format_duration(Duration::from_millis(amount)),
                    Unit::Work => units::format_work(amount),
                    Unit::Count => amount.to_string(),
                };
                Some((*key, text))
            })
            .collect()
    }

    /// Whether the limit under `key` is a plain number, which TOML writes without quotes.
    pub(crate) fn is_count(key: &str) -> bool {
        TABLE
            .iter()
            .any(|(known, unit)| *known == key && *unit == Unit::Count)
    }

    /// The amounts in the order of [`TABLE`], each in the smallest unit of its kind.
    pub(crate) fn amounts(&self) -> [Option<u64>; COUNT] {
        [
            self.memory,
            self.cpu_time.map(millis),
            self.time.map(millis),
            self.device_memory,
            self.device_work,
            self.handles,
            self.call_bytes,
            self.output,
            self.storage,
            self.log,
        ]
    }

    pub(crate) fn from_amounts(amounts: [Option<u64>; COUNT]) -> Self {
        let [
            memory,
            cpu_time,
            time,
            device_memory,
            device_work,
            handles,
            call_bytes,
            output,
            storage,
            log,
        ] = amounts;
        Self {
            memory,
            cpu_time: cpu_time.map(Duration::from_millis),
            time: time.map(Duration::from_millis),
            device_memory,
            device_work,
            handles,
            call_bytes,
            output,
            storage,
            log,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Serialize for Limits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.entries())
    }
}

impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Amount {
            Count(u64),
            Text(String),
        }
        let mut limits = Self::default();
        for (key, amount) in BTreeMap::<String, Amount>::deserialize(deserializer)? {
            let text = match amount {
                Amount::Count(count) => count.to_string(),
                Amount::Text(text) => text,
            };
            limits.set(&key, &text).map_err(D::Error::custom)?;
        }
        Ok(limits)
    }
}

/// Why a limit could not be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// There is no limit of this name.
    #[error("there is no limit `{key}`; {}", hint(*nearest))]
    Unknown {
        /// What was asked for.
        key: String,
        /// The limit that was probably meant.
        nearest: Option<&'static str>,
    },
    /// The text is no amount of the limit's unit.
    #[error("limit `{key}`: {source}")]
    Amount {
        /// The limit.
        key: &'static str,
        /// What is wrong with the text.
        source: UnitError,
    },
    /// The text is no number.
    #[error("limit `{key}`: `{text}` is not a number; write for example `1000`")]
    Count {
        /// The limit.
        key: &'static str,
        /// What stood for the number.
        text: String,
    },
}

impl LimitError {
    /// What is wrong, for a place that names the limit already.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Amount { source, .. } => source.to_string(),
            Self::Count { .. } | Self::Unknown { .. } => self.to_string(),
        }
    }
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || {
            format!(
                "the limits are {}",
                Limits::keys().collect::<Vec<_>>().join(", ")
            )
        },
        |key| format!("did you mean `{key}`?"),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Limits of every kind, set and not set, of every magnitude.
    pub(crate) fn any_limits() -> impl Strategy<Value = Limits> {
        let amount = (any::<u64>(), 0_u32..64).prop_map(|(amount, shift)| amount >> shift);
        proptest::array::uniform10(proptest::option::of(amount)).prop_map(Limits::from_amounts)
    }

    fn limits(entries: &[(&str, &str)]) -> Limits {
        let mut limits = Limits::default();
        for (key, text) in entries {
            limits.set(key, text).unwrap();
        }
        limits
    }

    #[test]
    fn the_smaller_limit_wins_and_one_alone_holds() {
        let package = limits(&[("memory", "1 GiB"), ("time", "10 s"), ("handles", "10")]);
        let owner = limits(&[("memory", "256 MiB"), ("time", "1 min"), ("log", "1 MiB")]);
        assert_eq!(
            package.capped_by(&owner),
            limits(&[
                ("memory", "256 MiB"),
                ("time", "10 s"),
                ("handles", "10"),
                ("log", "1 MiB")
            ])
        );
    }

    #[test]
    fn each_key_sets_its_own_field() {
        let set = limits(&[
            ("memory", "1 B"),
            ("cpu-time", "2 ms"),
            ("time", "3 ms"),
            ("device-memory", "4 B"),
            ("device-work", "5 FLOP"),
            ("handles", "6"),
            ("call-bytes", "7 B"),
            ("output", "8 B"),
            ("storage", "9 B"),
            ("log", "10 B"),
        ]);
        assert_eq!(
            set,
            Limits {
                memory: Some(1),
                cpu_time: Some(Duration::from_millis(2)),
                time: Some(Duration::from_millis(3)),
                device_memory: Some(4),
                device_work: Some(5),
                handles: Some(6),
                call_bytes: Some(7),
                output: Some(8),
                storage: Some(9),
                log: Some(10),
            }
        );
    }

    #[test]
    fn the_errors_say_what_to_do() {
        let error = |key, text| Limits::default().set(key, text).unwrap_err();
        insta::assert_snapshot!(error("memroy", "1 B"), @"there is no limit `memroy`; did you mean `memory`?");
        insta::assert_snapshot!(error("cpu_time", "1 s"), @"there is no limit `cpu_time`; did you mean `cpu-time`?");
        insta::assert_snapshot!(error("colour", "red"), @"there is no limit `colour`; the limits are memory, cpu-time, time, device-memory, device-work, handles, call-bytes, output, storage, log");
        insta::assert_snapshot!(error("memory", "much"), @"limit `memory`: `much` is not a size: it does not start with a number of at most 20 digits; write for example `256 MiB`, `1.5 GB` or `4096 B`");
        insta::assert_snapshot!(error("handles", "many"), @"limit `handles`: `many` is not a number; write for example `1000`");
    }

    proptest! {
        #[test]
        fn entries_are_what_set_reads(limits in any_limits()) {
            let mut read = Limits::default();
            for (key, text) in limits.entries() {
                read.set(key, &text).unwrap();
            }
            prop_assert_eq!(&read, &limits);
            let json = serde_json::to_string(&limits).unwrap();
            prop_assert_eq!(serde_json::from_str::<Limits>(&json).unwrap(), limits);
        }

        #[test]
        fn a_cap_is_never_exceeded(a in any_limits(), b in any_limits()) {
            let capped = a.capped_by(&b);
            for (limit, owner) in capped.amounts().into_iter().zip(b.amounts()) {
                if let Some(owner) = owner {
                    prop_assert!(limit.is_some_and(|limit| limit <= owner));
                }
            }
            prop_assert_eq!(capped, b.capped_by(&a));
        }
    }
}
