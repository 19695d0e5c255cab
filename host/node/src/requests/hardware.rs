//! What a node was found to run on: the label "attested", as it is answered.

use serde::{Deserialize, Serialize};

/// What is known of a node's hardware. Of one that has shown no quote, neither is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// The label, if the node carries it.
    #[serde(default)]
    pub attested: Option<AttestedLine>,
    /// Why it does not, if there is a reason beside that it shows nothing.
    #[serde(default)]
    pub not_attested: Option<String>,
}

/// The label "attested", and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestedLine {
    /// The format of the quote: `AMD SEV-SNP`.
    pub format: String,
    /// The processor, `Milan-B0` for example.
    pub product: String,
    /// The digest of the software that was started, in hex.
    pub measurement: String,
    /// The processor's firmware.
    pub firmware: FirmwareLine,
    /// When the quote was made and checked, in milliseconds since 1970.
    pub checked_ms: u64,
    /// Until when the certificates of the processor count, in milliseconds since 1970.
    pub certified_until_ms: u64,
}

/// Versions of the parts of a processor's firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareLine {
    /// Of the first mutable code; none is of processors before Turin.
    pub fmc: Option<u8>,
    /// Of the boot loader of the security processor.
    pub boot_loader: u8,
    /// Of its operating system.
    pub tee: u8,
    /// Of SEV-SNP.
    pub snp: u8,
    /// Of the microcode.
    pub microcode: u8,
}
