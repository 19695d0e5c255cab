//! Why a quote is not believed.

/// Why a quote is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// It is longer than any of its format.
    #[error("a quote of {bytes} bytes is longer than any may be ({limit})")]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// How long one may be.
        limit: usize,
    },
    /// Its parts are not where its format has them.
    #[error("it is no quote of this format: {0}")]
    Form(&'static str),
    /// A certificate that is none, or not as the chain has it.
    #[error("the certificate of {whose} {reason}")]
    Certificate {
        /// Whose it is in the chain.
        whose: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nobody here trusts its root.
    #[error(
        "its root is not one that is trusted here: SHA-256 of the key {}",
        hex(fingerprint)
    )]
    UnknownRoot {
        /// SHA-256 of the root's public key, as its certificate has it.
        fingerprint: [u8; 32],
    },
    /// A signature that is not its signer's.
    #[error("the signature of {of} is not that of {by}")]
    Signature {
        /// What was signed.
        of: &'static str,
        /// Who should have.
        by: &'static str,
    },
    /// What the report says is not what its certificate is for.
    #[error("the report and the processor's certificate differ in the {0}")]
    Differs(&'static str),
    /// Something that this verifier does not know how to check.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
