//! AMD's chain: a root key (ARK) signs an intermediate one (ASK), which signs the key of one
//! processor at one version of its firmware (VCEK).
//!
//! Source: AMD, "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification",
//! publication 57230, chapter 3.

use std::collections::BTreeSet;

use x509_cert::der::Decode as _;
use x509_cert::der::asn1::{Ia5StringRef, ObjectIdentifier, OctetStringRef};

use crate::certificate::Certificate;
use crate::error::QuoteError;
use crate::report::Firmware;

/// `1.3.6.1.4.1.3704.1`, and then which.
const PRODUCT: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
const BOOT_LOADER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const MICROCODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const FMC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const HARDWARE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");

/// The roots of AMD's processors, each as SHA-256 of its public key (`SubjectPublicKeyInfo`). The
/// certificates are at `https://kdsintf.amd.com/vcek/v1/<product>/cert_chain`.
const AMD: [(&str, [u8; 32]); 3] = [
    (
        "Milan",
        *b"\x9f\x05\x6b\xee\x44\x37\x7e\x29\x30\x8c\xb5\xff\xa8\x95\xbd\xfb\
           \x62\xd1\x88\x81\xfa\x6b\xed\x8d\x6f\x07\x5b\x02\x04\x08\x9c\xb9",
    ),
    (
        "Genoa",
        *b"\x42\x9a\x69\xc9\x42\x2a\xa2\x58\xee\x4d\x8d\xb5\xfc\xda\x9c\x64\
           \x70\xef\x15\xf8\xcd\x5a\x9c\xeb\xd6\xcb\xc7\xd9\x0b\x86\x38\x31",
    ),
    (
        "Turin",
        *b"\x4f\x12\x54\x10\x56\x3a\x2a\xb9\xa5\x03\x56\xf9\x24\x3f\x6f\xe0\
           \xb6\xf7\x3d\xe9\x86\x03\xf5\x3f\x90\x33\x9c\x70\xe9\xd7\xad\x08",
    ),
];

/// The roots that are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots(BTreeSet<[u8; 32]>);

impl Roots {
    /// The roots of AMD's third to fifth generation of server processors (Milan, Genoa with Bergamo
    /// and Siena, Turin).
    #[must_use]
    pub fn amd() -> Self {
        Self(AMD.iter().map(|(_, fingerprint)| *fingerprint).collect())
    }

    /// Roots of one's own choice, each as SHA-256 of its public key (`SubjectPublicKeyInfo`).
    #[must_use]
    pub fn of(fingerprints: impl IntoIterator<Item = [u8; 32]>) -> Self {
        Self(fingerprints.into_iter().collect())
    }
}

/// A processor's key, and what its maker says of the processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endorsement {
    /// The key, a point of NIST P-384 by SEC 1: 97 bytes.
    pub(crate) key: Vec<u8>,
    /// The product, `Milan-B0` for example.
    pub product: String,
    /// The firmware that the key is for.
    pub firmware: Firmware,
    /// Which processor it is: 64 bytes, and 8 from Turin on.
    pub hardware: Vec<u8>,
    /// The last second in which its whole chain counts, since 1970.
    pub until: u64,
}

impl Endorsement {
    /// Follows a chain of certificates in DER, processor first and root last, at a time in seconds
    /// since 1970.
    ///
    /// # Errors
    ///
    /// When the root is not trusted, or anything on the way down from it does not hold.
    pub fn of(chain: [&[u8]; 3], roots: &Roots, now: u64) -> Result<Self, QuoteError> {
        let [processor, intermediate, root] = chain;
        let root = Certificate::read(root, "the root (ARK)")?;
        let fingerprint = root.fingerprint()?;
        if !roots.0.contains(&fingerprint) {
            return Err(QuoteError::UnknownRoot { fingerprint });
        }
        let intermediate = Certificate::read(intermediate, "the intermediate (ASK)")?;
        let processor = Certificate::read(processor, "the processor (VCEK)")?;
        root.check_issuer(&root)?;
        intermediate.check_issuer(&root)?;
        processor.check_issuer(&intermediate)?;
        for certificate in [&root, &intermediate, &processor] {
            certificate.check_time(now)?;
        }
        let until = root.until().min(intermediate.until());
        read(&processor, until.min(processor.until()))
    }
}

fn read(processor: &Certificate, until: u64) -> Result<Endorsement, QuoteError> {
    let wrong = |reason| QuoteError::Certificate {
        whose: "the processor (VCEK)",
        reason,
    };
    let key = processor.key()?.to_vec();
    if key.len() != 97 {
        return Err(wrong("is not for a key of NIST P-384"));
    }
    let value = |oid| {
        let found = processor.extension(oid)?;
        found.ok_or_else(|| wrong("lacks what AMD says of the processor"))
    };
    let version = |oid| u8::from_der(value(oid)?).map_err(|_| wrong("has a version that is none"));
    let product = Ia5StringRef::from_der(value(PRODUCT)?);
    let product = product.map_err(|_| wrong("has a product that is no text"))?;
    let hardware = value(HARDWARE_ID)?;
    // As it is, or wrapped once more.
    let hardware = match hardware.len() {
        64 | 8 => hardware,
        _ => <&OctetStringRef>::from_der(hardware)
            .map_err(|_| wrong("has a number of the processor that is none"))?
            .as_bytes(),
    };
    if !matches!(hardware.len(), 64 | 8) {
        return Err(wrong("has a number of the processor that is none"));
    }
    let firmware = Firmware {
        fmc: match processor.extension(FMC)? {
            Some(_) => Some(version(FMC)?),
            None => None,
        },
        boot_loader: version(BOOT_LOADER)?,
        tee: version(TEE)?,
        snp: version(SNP)?,
        microcode: version(MICROCODE)?,
    };
    Ok(Endorsement {
        key,
        product: product.as_str().to_owned(),
        firmware,
        hardware: hardware.to_vec(),
        until,
    })
}
