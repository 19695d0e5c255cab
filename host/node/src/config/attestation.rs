//! The table `[attestation]` of a node's configuration: how this node shows on what hardware it runs,
//! and which of others' quotes are believed.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer};
use skep_attest::{Firmware, Requirement, Roots};

/// How this node shows what it runs on, and what it believes of others.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Attestation {
    /// A program, and arguments for it, that has the processor make a report. It is run in an empty
    /// folder with a file `request` of 64 bytes, and leaves `report`, `vcek.der`, `ask.der` and
    /// `ark.der` there. None is for machines that have no such processor.
    pub command: Vec<PathBuf>,
    /// The root keys that are believed, each as SHA-256 in hex of its `SubjectPublicKeyInfo`; none
    /// named is those of AMD.
    #[serde(deserialize_with = "digests")]
    pub roots: Vec<[u8; 32]>,
    /// Measurements in hex of the software that others have to run; none named is any software.
    #[serde(deserialize_with = "digests")]
    pub measurements: Vec<[u8; 48]>,
    /// The oldest firmware that others may have.
    pub firmware: OldestFirmware,
}

/// Versions of the parts of a processor's firmware.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct OldestFirmware {
    /// Of the boot loader of the security processor.
    pub boot_loader: u8,
    /// Of its operating system.
    pub tee: u8,
    /// Of SEV-SNP.
    pub snp: u8,
    /// Of the microcode.
    pub microcode: u8,
}

impl Attestation {
    /// The keys that are trusted without a signature.
    pub fn trusted(&self) -> Roots {
        match self.roots.is_empty() {
            true => Roots::amd(),
            false => Roots::of(self.roots.iter().copied()),
        }
    }

    /// What a quote has to say.
    pub fn requirement(&self) -> Requirement {
        let OldestFirmware {
            boot_loader,
            tee,
            snp,
            microcode,
        } = self.firmware;
        Requirement {
            measurements: self.measurements.iter().copied().collect(),
            firmware: Firmware {
                fmc: None,
                boot_loader,
                tee,
                snp,
                microcode,
            },
        }
    }
}

fn digests<'de, D: Deserializer<'de>, const N: usize>(
    deserializer: D,
) -> Result<Vec<[u8; N]>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let digest = |text: &String| {
        let bytes = hex::decode(text).ok();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| {
                let digits = 2 * N;
                serde::de::Error::custom(format!("`{text}` is not {digits} hexadecimal digits"))
            })
    };
    texts.iter().map(digest).collect()
}
