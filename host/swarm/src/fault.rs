//! What other nodes do wrong.
//!
//! A fault is a reason to turn to another provider, never a reason to stop; only when nobody is
//! left do the faults become part of an error.

use std::time::Duration;

use skep_registry::Digest;

use crate::ids::{NodeId, ProviderAddr};

/// What a provider did that made this node turn away from it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderFault {
    /// No connection.
    #[error("no connection: {reason}")]
    Unreachable {
        /// The reason.
        reason: String,
    },
    /// The connection ended.
    #[error("the connection ended: {reason}")]
    Closed {
        /// The reason.
        reason: String,
    },
    /// It has not got the blob, or cannot read it.
    #[error("it has not got blob {digest}")]
    NotThere {
        /// The blob.
        digest: Digest,
    },
    /// It does not offer the blob.
    #[error("it does not offer blob {digest}")]
    NotOffered {
        /// The blob.
        digest: Digest,
    },
    /// It serves as many as it may.
    #[error("it is busy")]
    Busy,
    /// It stopped in the middle.
    #[error("it stopped sending blob {digest} after {received} bytes")]
    Truncated {
        /// The blob.
        digest: Digest,
        /// How many verified bytes arrived in that request.
        received: u64,
    },
    /// It sent something else.
    #[error("what it sent is not blob {digest}")]
    WrongContent {
        /// The blob.
        digest: Digest,
    },
    /// It says that the blob has another size than the publisher signed.
    #[error("it says that blob {digest} has {claimed} bytes, and the publisher signed {signed}")]
    WrongSize {
        /// The blob.
        digest: Digest,
        /// The size it claims, in bytes.
        claimed: u64,
        /// The signed size, in bytes.
        signed: u64,
    },
    /// It says how large the blob is, and cannot prove it.
    #[error("it says that blob {digest} has {claimed} bytes, and what it sent does not prove it")]
    FalseSize {
        /// The blob.
        digest: Digest,
        /// The size it claims, in bytes.
        claimed: u64,
    },
    /// Nothing arrived for too long.
    #[error("nothing of blob {digest} arrived for {after:?}")]
    Stalled {
        /// The blob.
        digest: Digest,
        /// How long this node waited.
        after: Duration,
    },
    /// It knows nothing of the package.
    #[error("it knows nothing of the package")]
    Unknown,
    /// It broke the protocol.
    #[error("it broke the protocol: {reason}")]
    Protocol {
        /// What it did.
        reason: String,
    },
    /// It shows a release that is longer than is read of one.
    #[error("the package's description is larger than {} KiB", .most >> 10)]
    TooLong {
        /// How many bytes are read.
        most: usize,
    },
    /// It showed a release with a bad signature, or a history that does not hold together.
    #[error("it shows a false history: {reason}")]
    FalseHistory {
        /// What is wrong with it.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer within {after:?}")]
    NoAnswer {
        /// How long this node waited.
        after: Duration,
    },
}

/// A provider and what it did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {fault}", .node.fmt_short())]
pub struct FaultOf {
    /// The provider.
    pub node: NodeId,
    /// What it did.
    #[source]
    pub fault: ProviderFault,
}

pub(crate) fn list(faults: &[FaultOf]) -> String {
    if faults.is_empty() {
        return "nobody was asked".to_owned();
    }
    faults
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// An error of a library with its causes, each said once.
pub(crate) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// A provider's fault, with its name.
pub(crate) fn of(provider: &ProviderAddr, fault: ProviderFault) -> FaultOf {
    FaultOf {
        node: provider.id,
        fault,
    }
}
