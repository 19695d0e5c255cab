//! The table `[trainings]` of a node's configuration: whether others' adapters are trained here.

use serde::{Deserialize, Deserializer};
use skep_registry::units;

/// What of others' trainings is done here.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Trainings {
    /// Whether this node takes part in any.
    pub accept: bool,
    /// The most that the examples for this node may have, such as `64 MiB`.
    #[serde(deserialize_with = "bytes")]
    pub largest_data: u64,
    /// How many it takes part in at once.
    pub at_once: u32,
}

impl Default for Trainings {
    fn default() -> Self {
        Self {
            accept: false,
            largest_data: 64 << 20,
            at_once: 1,
        }
    }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    units::parse_bytes(&text).map_err(serde::de::Error::custom)
}
