//! The report of AMD SEV-SNP, version 2 and later.
//!
//! Source: AMD, "SEV Secure Nested Paging Firmware ABI Specification", publication 56860, tables
//! "ATTESTATION_REPORT Structure", "TCB_VERSION" and "Guest Policy". Integers are little-endian.

use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

use crate::BOUND_BYTES;
use crate::endorsement::Endorsement;
use crate::error::QuoteError;

/// Bytes of a report.
pub const REPORT_BYTES: usize = 0x4A0;
/// Those of them that are signed; the signature is behind them.
const SIGNED: usize = 0x2A0;
/// Bytes that each of the two numbers of a signature has there, and on the curve.
const WIDE: usize = 72;
const NARROW: usize = 48;

/// Versions of the parts that a processor trusts, larger is newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    /// The first mutable code, from Turin on.
    pub fmc: Option<u8>,
    /// The boot loader of the security processor.
    pub boot_loader: u8,
    /// Its operating system.
    pub tee: u8,
    /// The firmware of SEV-SNP.
    pub snp: u8,
    /// The microcode of all cores.
    pub microcode: u8,
}

impl Firmware {
    /// Whether each part is at least as new. One that other processors do not have counts as
    /// version 0.
    #[must_use]
    pub fn is_at_least(&self, least: &Firmware) -> bool {
        self.fmc.unwrap_or(0) >= least.fmc.unwrap_or(0)
            && self.boot_loader >= least.boot_loader
            && self.tee >= least.tee
            && self.snp >= least.snp
            && self.microcode >= least.microcode
    }
}

/// What a processor says of a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Digest of what was loaded at its start.
    pub measurement: [u8; 48],
    /// What the machine itself gave to be signed: see [`crate::binding`].
    pub bound: [u8; BOUND_BYTES],
    /// The privilege level within the machine that asked for the report, 0 (most) to 3.
    pub privilege: u32,
    /// Whether the owner of the hardware may debug the machine, that is, read its memory.
    pub debugged: bool,
    /// Whether another machine may move it, and so has its keys.
    pub migratable: bool,
    /// The firmware of the processor.
    pub firmware: Firmware,
    /// The product, `Milan-B0` for example.
    pub product: String,
    /// The last second in which the certificates of the processor count, since 1970.
    pub until: u64,
}

/// A report's bytes.
pub(crate) struct Report([u8; REPORT_BYTES]);

impl Report {
    pub(crate) fn new(bytes: [u8; REPORT_BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8; REPORT_BYTES] {
        &self.0
    }

    /// `N` bytes at a place within the report.
    fn at<const N: usize>(&self, place: usize) -> [u8; N] {
        std::array::from_fn(|n| self.0.get(place + n).copied().unwrap_or(0))
    }

    fn u32_at(&self, place: usize) -> u32 {
        u32::from_le_bytes(self.at(place))
    }

    /// What it says, if the processor of this endorsement signed it.
    pub(crate) fn claims(&self, endorsement: &Endorsement) -> Result<Claims, QuoteError> {
        if !(2..=5).contains(&self.u32_at(0x00)) {
            return Err(QuoteError::Unsupported("this version of the report"));
        }
        if self.u32_at(0x34) != 1 {
            return Err(QuoteError::Unsupported(
                "a signature other than ECDSA on P-384 with SHA-384",
            ));
        }
        // Bits 2 to 4 say which key: that of the processor is 0.
        if (self.u32_at(0x48) >> 2) & 7 != 0 {
            return Err(QuoteError::Unsupported(
                "a report signed with a key that a cloud provider has from AMD (VLEK)",
            ));
        }
        self.check_signature(&endorsement.key)?;
        let firmware = self.firmware(endorsement.hardware.len() == 8);
        if firmware != endorsement.firmware {
            return Err(QuoteError::Differs("versions of the firmware"));
        }
        let chip: [u8; 64] = self.at(0x1A0);
        let (number, rest) = chip.split_at(endorsement.hardware.len().min(64));
        // Owners of machines may have it left out.
        let masked = chip.iter().all(|byte| *byte == 0);
        let same = number == endorsement.hardware && rest.iter().all(|byte| *byte == 0);
        if !masked && !same {
            return Err(QuoteError::Differs("number of the processor"));
        }
        let policy = u64::from_le_bytes(self.at(0x08));
        Ok(Claims {
            measurement: self.at(0x90),
            bound: self.at(0x50),
            privilege: self.u32_at(0x30),
            debugged: policy & (1 << 19) != 0,
            migratable: policy & (1 << 18) != 0,
            firmware,
            product: endorsement.product.clone(),
            until: endorsement.until,
        })
    }

    /// The versions that the signing key is for (`REPORTED_TCB`).
    fn firmware(&self, has_fmc: bool) -> Firmware {
        let tcb: [u8; 8] = self.at(0x180);
        match has_fmc {
            true => Firmware {
                fmc: Some(tcb[0]),
                boot_loader: tcb[1],
                tee: tcb[2],
                snp: tcb[3],
                microcode: tcb[7],
            },
            false => Firmware {
                fmc: None,
                boot_loader: tcb[0],
                tee: tcb[1],
                snp: tcb[6],
                microcode: tcb[7],
            },
        }
    }

    fn check_signature(&self, key: &[u8]) -> Result<(), QuoteError> {
        let wrong = QuoteError::Signature {
            of: "the report",
            by: "the processor (VCEK)",
        };
        let mut signature = [0; 2 * NARROW];
        for (n, half) in signature.chunks_exact_mut(NARROW).enumerate() {
            let number: [u8; WIDE] = self.at(SIGNED + n * WIDE);
            let (low, high) = number.split_at(NARROW);
            if high.iter().any(|byte| *byte != 0) {
                return Err(wrong);
            }
            for (to, from) in half.iter_mut().zip(low.iter().rev()) {
                *to = *from;
            }
        }
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key)
            .verify(&self.0[..SIGNED], &signature)
            .map_err(|_| wrong)
    }
}
