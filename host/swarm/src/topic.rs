//! What nodes are found by: 32 bytes for each thing that one may have or be.
//!
//! A topic is a hash of the thing, so that whoever passes it on learns the thing only if it knows
//! it already.

use skep_registry::{Digest, PackageName, PublisherId};

use crate::announcement::Need;
use crate::discovery::Want;

/// A hash of what is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Topic([u8; 32]);

impl Topic {
    fn of(kind: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("skep 2026 topics of announcements");
        for part in [kind.as_bytes()].iter().chain(parts) {
            // With its length, so that no two lists of parts are one text.
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// Being a node.
    pub(crate) fn node() -> Self {
        Self::of("node", &[])
    }

    /// Taking jobs.
    pub(crate) fn jobs() -> Self {
        Self::of("jobs", &[])
    }

    /// Taking jobs on such a device.
    pub(crate) fn device(name: &str) -> Self {
        Self::of("device", &[name.as_bytes()])
    }

    /// Taking jobs, with this package, model or adapter ready.
    pub(crate) fn ready(digest: &Digest) -> Self {
        Self::of("ready", &[digest.as_bytes()])
    }

    /// Serving a blob.
    pub(crate) fn blob(digest: &[u8; 32]) -> Self {
        Self::of("blob", &[digest])
    }

    /// Offering a release.
    pub(crate) fn release(digest: &Digest) -> Self {
        Self::of("release", &[digest.as_bytes()])
    }

    /// Offering a release of a package.
    pub(crate) fn package(publisher: &PublisherId, name: &PackageName) -> Self {
        let name = name.to_string();
        Self::of("package", &[publisher.as_bytes(), name.as_bytes()])
    }

    /// The rarest single thing that whoever satisfies `want` has.
    pub(crate) fn rarest(want: &Want) -> Self {
        match want {
            Want::Anything => Self::node(),
            Want::Blob(digest) => Self::blob(digest.as_bytes()),
            Want::Release(digest) => Self::release(digest),
            Want::Package { publisher, name } => Self::package(publisher, name),
            Want::Jobs(Need { ready, device, .. }) => match (ready.first(), device) {
                (Some(digest), _) => Self::ready(digest),
                (None, Some(device)) => Self::device(device),
                (None, None) => Self::jobs(),
            },
        }
    }

    /// Something that whoever satisfies `want` had better have as well, if it names any.
    pub(crate) fn rather(want: &Want) -> Option<Self> {
        match want {
            Want::Jobs(need) => need.rather.first().map(Self::ready),
            _ => None,
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}
