//! The table `[engine]` of a node's configuration: where language models are computed.

use std::num::NonZeroUsize;

use serde::Deserialize;
use skep_devices::DeviceName;

/// Where language models are computed, and how many pages of keys and values each has.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Engine {
    /// `processor`, `cuda`, `cuda:1`, `vulkan`, `vulkan:1`. A card has to hold a model's weights and
    /// all its pages.
    pub device: DeviceName,
    /// Pages of 16 tokens each, of all texts of one model together; by default the engine's own
    /// number. A device of its own memory has room for all of them taken at once.
    pub pages: Option<NonZeroUsize>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_and_a_wrong_one_is_refused() {
        let read = |text: &str| toml::from_str::<Engine>(text);
        let engine = read("device = \"cuda:1\"\npages = 512").unwrap();
        assert_eq!(engine.device, DeviceName::Cuda(1));
        assert_eq!(engine.pages, NonZeroUsize::new(512));
        assert_eq!(read("").unwrap().device, DeviceName::Processor);
        let wrong = read("device = \"gpu\"").unwrap_err().to_string();
        assert!(wrong.contains("\"gpu\" is no device"), "{wrong}");
        assert!(read("pages = 0").is_err());
        assert!(read("devcie = \"cuda\"").is_err());
    }
}
