//! The table `[trainings]` of a node's configuration: whether others' adapters are trained here, and
//! where the node's own are.

use serde::{Deserialize, Deserializer};
use skep_devices::DeviceName;
use skep_registry::units;

/// Trainings on this node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Trainings {
    /// Where decoders are trained that no other node trains with: `processor`, `cuda`, `cuda:1`,
    /// `vulkan`, `vulkan:1`. A card has to hold the base beside whatever `[engine]` has on it.
    pub device: DeviceName,
    /// Whether this node takes part in those of others.
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
            device: DeviceName::Processor,
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
