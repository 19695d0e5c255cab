//! The table `[engine]` of a node's configuration: where language models are computed.

use std::num::NonZeroUsize;

use serde::Deserialize;
use skep_devices::DeviceName;
use skep_kernels::Isa;

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
    /// The instructions that the processor computes with, by their name: by default the best
    /// that it has. With plainer ones a node is of the same kind as machines that have no others.
    pub instructions: Option<Instructions>,
}

/// A set of instructions, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Instructions(pub Isa);

impl TryFrom<String> for Instructions {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let available = Isa::available();
        let found = available.iter().find(|isa| isa.name() == name);
        found.copied().map(Self).ok_or_else(|| {
            let names: Vec<&str> = available.iter().map(|isa| isa.name()).collect();
            format!(
                "this processor has no instructions {name:?}; it has {}",
                names.join(", ")
            )
        })
    }
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
        let plain = read("instructions = \"portable\"").unwrap().instructions;
        assert_eq!(plain, Some(Instructions(Isa::Portable)));
        let unknown = read("instructions = \"mmx\"").unwrap_err().to_string();
        assert!(
            unknown.contains("no instructions \"mmx\"; it has portable"),
            "{unknown}"
        );
        assert!(read("pages = 0").is_err());
        assert!(read("devcie = \"cuda\"").is_err());
    }
}
