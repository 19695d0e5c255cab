//! Why a release is refused.

use semver::Version;

use super::SignedRelease;
use crate::publisher::PublisherId;

/// Why bytes are no release, or a draft cannot become one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Longer than any release.
    #[error(
        "this is not a release: it has {size} bytes, and a release has at most {}",
        SignedRelease::MAX_BYTES
    )]
    TooLarge {
        /// The number of bytes.
        size: usize,
    },
    /// Not the form of a release at all.
    #[error("this is not a release: {reason}")]
    Malformed {
        /// Where reading it stopped.
        reason: String,
    },
    /// A form that this version does not know.
    #[error(
        "this release is written in format {found}, and this version of skep reads format 1; update skep"
    )]
    UnknownFormat {
        /// The format's number.
        found: u64,
    },
    /// The same facts in another spelling than the canonical one.
    #[error(
        "this release is not written in its one canonical form; it was altered, or made by something else than skep"
    )]
    NotCanonical,
    /// The publisher did not sign this.
    #[error(
        "the signature is not that of publisher {publisher}: the release was altered or forged; \
         do not use it, and get it from another node"
    )]
    BadSignature {
        /// Who is said to have published it.
        publisher: PublisherId,
    },
    /// A rule that every release keeps is broken.
    #[error("{field}: {reason}")]
    Invalid {
        /// What is at fault.
        field: &'static str,
        /// The rule, and how it is broken.
        reason: String,
    },
    /// It belongs to another package's history.
    #[error("the release is one of {found}, and the history is that of {expected}")]
    OtherPackage {
        /// Whose history it is.
        expected: String,
        /// Whose release it is.
        found: String,
    },
    /// Its number is not the next one.
    #[error(
        "release number {found} cannot follow number {after}: one in between is missing, or the order is wrong"
    )]
    OutOfSequence {
        /// The number of the release before.
        after: u64,
        /// Its own number.
        found: u64,
    },
    /// It names another release as the one before it.
    #[error(
        "release number {sequence} names another release as the one before it: the history was altered, \
         or the publisher signed two different ones"
    )]
    OtherPast {
        /// Its own number.
        sequence: u64,
    },
    /// Its version is not above that of the release before.
    #[error(
        "version {found} is not above {latest}, the latest that was published; raise the version in skep.toml"
    )]
    VersionNotAbove {
        /// The version of the release before.
        latest: Version,
        /// Its own version.
        found: Version,
    },
}
