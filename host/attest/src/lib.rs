//! What a processor says of the software that runs on it, and whether to believe it: the attestation
//! tier.
//!
//! Some server processors run a virtual machine whose memory the owner of the machine cannot read,
//! and sign what was loaded into it. A node in such a machine shows a [`Quote`]; whoever hands it
//! work checks the signature up to a root that the maker of the processor publishes, that the quote
//! was made for this node and this question ([`binding`]), and that it says what the requester asks
//! for ([`Requirement`]). For whoever asked, the node then carries the label "attested" ([`Attested`]).
//!
//! What a quote shows is that a genuine processor with firmware of at least some version started
//! software with this measurement, without a debugger. It does not show that the software is free of
//! faults, that nobody watches the memory bus or the power, or anything at all about graphics
//! cards: consumers' cards have no such thing, and nothing here pretends that they do.
//!
//! # What it must never do
//!
//! - Touch a network, a file or a clock: the same quote, roots and time give the same answer
//!   everywhere.
//! - Panic, hang or allocate what a stranger's bytes say. All of it is read from strangers.
//! - Take a field that was not signed for one that was.
//!
//! # Code map
//!
//! | module | what is in it |
//! |---|---|
//! | `certificate` | certificates as far as a chain needs them |
//! | `endorsement` | AMD's chain from its root to one processor |
//! | `report` | the layout of SEV-SNP's report |
//! | `snp` | a report and its chain, as one quote |
//! | `requirement` | what a requester asks of a quote |
//! | `label` | the label of a node whose quote is that |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod certificate;
mod endorsement;
mod error;
mod label;
mod report;
mod requirement;
mod snp;

pub use endorsement::{Endorsement, Roots};
pub use error::QuoteError;
pub use label::{Attested, NotAttested};
pub use report::{Claims, Firmware, REPORT_BYTES};
pub use requirement::{Requirement, Unmet};
pub use snp::{MAX_QUOTE, SnpQuote};

/// Bytes that whoever makes a quote chooses, and that the processor signs with it.
pub const BOUND_BYTES: usize = 64;

/// A statement of a processor about the software that runs on it.
///
/// One implementation for each format. Decoding checks a quote's form alone; what it says counts
/// only once [`Quote::check`] has returned it.
pub trait Quote: Sized {
    /// The keys that are trusted without a signature.
    type Roots;

    /// The format, for people.
    const FORMAT: &'static str;

    /// Reads a quote that a stranger sent.
    ///
    /// # Errors
    ///
    /// When it is none of this format.
    fn decode(bytes: &[u8]) -> Result<Self, QuoteError>;

    /// The bytes that [`Quote::decode`] reads.
    fn encode(&self) -> Vec<u8>;

    /// Follows the signatures from a root down to the quote, at a time in seconds since 1970 in
    /// UTC, and returns what it says.
    ///
    /// # Errors
    ///
    /// When any of it does not hold.
    fn check(&self, roots: &Self::Roots, now: u64) -> Result<Claims, QuoteError>;
}

/// What a quote has to carry to be for this account and this question: BLAKE3 in its mode for
/// deriving keys, 64 bytes of it, of the account's public key and the challenge.
///
/// Without the account a node could show another's quote, without the challenge an old one.
#[must_use]
pub fn binding(account: &[u8; 32], challenge: &[u8; 32]) -> [u8; BOUND_BYTES] {
    let mut hasher = blake3::Hasher::new_derive_key("skep 2026-11 attestation of an account");
    hasher.update(account);
    hasher.update(challenge);
    let mut bound = [0; BOUND_BYTES];
    hasher.finalize_xof().fill(&mut bound);
    bound
}
