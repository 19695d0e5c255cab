//! A release: one version of one package, signed by its publisher.
//!
//! *Architecture invariant:* a [`Release`] can only be had out of a [`SignedRelease`], and that
//! can only be had by checking a signature or by making one. No code can mistake what a stranger
//! sent for what a publisher said.
//!
//! The encoding is canonical: one release has one encoding, and any other spelling of the same
//! facts is refused. See `wire.rs` for the format.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use semver::Version;

use crate::digest::Digest;
use crate::grants::Grants;
use crate::limits::Limits;
use crate::name::{Identifier, PackageName};
use crate::path::PackagePath;
use crate::publisher::{PublisherId, PublisherKey};

pub(crate) mod check;
mod error;
#[cfg(test)]
pub(crate) mod tests;
mod wire;

pub use error::ReleaseError;

/// A file of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Where it lies within the package.
    pub path: PackagePath,
    /// The hash of its content.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// What a package contains.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per package, and boxes would be in every reader's way"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Something to run.
    Component(Component),
    /// Something to run on.
    Model(Model),
    /// Something that changes what a model does.
    Adapter(Adapter),
}

/// What a release says of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// The world it is made for, such as `batch-classifier`.
    pub world: Identifier,
    /// Which of the files is the component.
    pub entry: PackagePath,
    /// What it may touch.
    pub grants: Grants,
    /// What it asks to use up at most.
    pub limits: Limits,
    /// The interfaces that it imports, such as `skep:tensor/tensors@0.1.0`, sorted.
    pub imports: Vec<String>,
}

/// What a release says of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// What it does, such as `sentence-encoder`.
    pub task: Identifier,
}

/// What a release says of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// The model that it changes.
    pub base: Base,
}

/// The model that an adapter changes. The digest is what counts; the name is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// What the model is called.
    pub name: PackageName,
    /// The digest that a node knows it by: of its release, if it is a package; of its file, if it
    /// is one.
    pub digest: Digest,
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.digest)
    }
}

/// A release in the making, before it has a publisher and a place in its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The package's name under its publisher.
    pub name: PackageName,
    /// Its version, without build metadata.
    pub version: Version,
    /// What it is, in at most 280 characters.
    pub description: Option<String>,
    /// Its licence, as an SPDX expression.
    pub license: Option<String>,
    /// Which of the files is for people to read first.
    pub readme: Option<PackagePath>,
    /// What it contains.
    pub content: Content,
    /// Its files, in any order.
    pub files: Vec<FileEntry>,
}

impl Draft {
    /// Signs the draft as the release that follows `after`, or as the first of its package.
    ///
    /// # Errors
    ///
    /// When the draft breaks a rule of releases, or cannot follow `after`: another publisher or
    /// name, or a version that is not above.
    pub fn sign(
        self,
        key: &PublisherKey,
        after: Option<&SignedRelease>,
    ) -> Result<SignedRelease, ReleaseError> {
        let release = Release {
            publisher: key.id(),
            sequence: after.map_or(0, |after| after.sequence.saturating_add(1)),
            previous: after.map(SignedRelease::digest),
            name: self.name,
            version: self.version,
            description: self.description,
            license: self.license,
            readme: self.readme,
            content: self.content,
            files: self.files,
        };
        if let Some(after) = after {
            release.check_follows(after)?;
        }
        release.sign(key)
    }
}

/// What a publisher says of one version of one package. See [`SignedRelease`] for how to get one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    publisher: PublisherId,
    name: PackageName,
    version: Version,
    sequence: u64,
    previous: Option<Digest>,
    description: Option<String>,
    license: Option<String>,
    readme: Option<PackagePath>,
    content: Content,
    files: Vec<FileEntry>,
}

impl Release {
    /// Who published it.
    #[must_use]
    pub fn publisher(&self) -> PublisherId {
        self.publisher
    }

    /// The package's name under its publisher.
    #[must_use]
    pub fn name(&self) -> &PackageName {
        &self.name
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Its place in the package's history, counted from 0.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The digest of the release before it; the first has none.
    #[must_use]
    pub fn previous(&self) -> Option<Digest> {
        self.previous
    }

    /// What the package is, in a sentence for people.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The licence, as the publisher wrote it.
    #[must_use]
    pub fn license(&self) -> Option<&str> {
        self.license.as_deref()
    }

    /// Which of the files is for people to read first.
    #[must_use]
    pub fn readme(&self) -> Option<&PackagePath> {
        self.readme.as_ref()
    }

    /// What the package contains.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The component, when it is one.
    #[must_use]
    pub fn component(&self) -> Option<&Component> {
        match &self.content {
            Content::Component(component) => Some(component),
            Content::Model(_) | Content::Adapter(_) => None,
        }
    }

    /// The model, when it is one.
    #[must_use]
    pub fn model(&self) -> Option<&Model> {
        match &self.content {
            Content::Model(model) => Some(model),
            Content::Component(_) | Content::Adapter(_) => None,
        }
    }

    /// The adapter, when it is one.
    #[must_use]
    pub fn adapter(&self) -> Option<&Adapter> {
        match &self.content {
            Content::Adapter(adapter) => Some(adapter),
            Content::Component(_) | Content::Model(_) => None,
        }
    }

    /// Its files, sorted by path: at least one, no two with the same path.
    #[must_use]
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// The file at a path.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&FileEntry> {
        let index = self
            .files
            .binary_search_by(|file| file.path.as_str().cmp(path))
            .ok()?;
        self.files.get(index)
    }

    /// The sizes of all files together, in bytes.
    #[must_use]
    pub fn total_size(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |total, file| total.saturating_add(file.size))
    }

    /// Whether this release can stand right after `before` in a history.
    pub(crate) fn check_follows(&self, before: &SignedRelease) -> Result<(), ReleaseError> {
        if (self.publisher, &self.name) != (before.publisher, &before.name) {
            return Err(ReleaseError::OtherPackage {
                expected: format!("{}/{}", before.publisher, before.name),
                found: format!("{}/{}", self.publisher, self.name),
            });
        }
        if Some(self.sequence) != before.sequence.checked_add(1) {
            return Err(ReleaseError::OutOfSequence {
                after: before.sequence,
                found: self.sequence,
            });
        }
        if self.previous != Some(before.digest()) {
            return Err(ReleaseError::OtherPast {
                sequence: self.sequence,
            });
        }
        if self.version <= before.version {
            return Err(ReleaseError::VersionNotAbove {
                latest: before.version.clone(),
                found: self.version.clone(),
            });
        }
        Ok(())
    }

    /// Encodes and signs. Going through `decode` holds a publisher to the very rules that every
    /// reader checks.
    pub(crate) fn sign(mut self, key: &PublisherKey) -> Result<SignedRelease, ReleaseError> {
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        if let Content::Component(component) = &mut self.content {
            component.imports.sort_unstable();
            component.imports.dedup();
        }
        let body = wire::encode(&self);
        let signature = key.sign(&signed_message(&body));
        SignedRelease::decode(&wire::seal(&body, &signature))
    }
}

/// What is signed: the body behind words that keep this signature from meaning anything else.
fn signed_message(body: &[u8]) -> Vec<u8> {
    [b"skep release v1\0".as_slice(), body].concat()
}

/// A release whose signature has been checked, with its encoding.
///
/// Cheap to clone. Two are equal when their encodings are.
#[derive(Clone)]
pub struct SignedRelease(Arc<Signed>);

struct Signed {
    release: Release,
    encoding: Box<[u8]>,
    digest: Digest,
}

impl SignedRelease {
    /// The greatest length of an encoding, in bytes.
    pub const MAX_BYTES: usize = 1 << 20;

    /// Reads a release from its encoding and checks everything about it that it alone can show:
    /// the canonical form, the rules, and the publisher's signature.
    ///
    /// # Errors
    ///
    /// When anything at all is wrong with it.
    pub fn decode(encoding: &[u8]) -> Result<Self, ReleaseError> {
        if encoding.len() > Self::MAX_BYTES {
            return Err(ReleaseError::TooLarge {
                size: encoding.len(),
            });
        }
        let (body, signature) = wire::open(encoding)?;
        let release = wire::decode(body)?;
        // Any other spelling of the same facts differs from the one spelling that we write.
        if wire::encode(&release) != body || wire::seal(body, &signature) != encoding {
            return Err(ReleaseError::NotCanonical);
        }
        if !release.publisher.verify(&signed_message(body), &signature) {
            return Err(ReleaseError::BadSignature {
                publisher: release.publisher,
            });
        }
        release.check()?;
        Ok(Self(Arc::new(Signed {
            release,
            encoding: encoding.into(),
            digest: Digest::of(encoding),
        })))
    }

    /// The encoding: what is stored, sent and hashed.
    #[must_use]
    pub fn encode(&self) -> &[u8] {
        &self.0.encoding
    }

    /// The digest of the encoding, signature included: the release's name in the swarm.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// What it says.
    #[must_use]
    pub fn release(&self) -> &Release {
        &self.0.release
    }
}

impl Deref for SignedRelease {
    type Target = Release;

    fn deref(&self) -> &Release {
        self.release()
    }
}

impl PartialEq for SignedRelease {
    fn eq(&self, other: &Self) -> bool {
        self.0.digest == other.0.digest
    }
}

impl Eq for SignedRelease {}

impl fmt::Debug for SignedRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedRelease")
            .field("digest", &self.0.digest)
            .field("release", &self.0.release)
            .finish_non_exhaustive()
    }
}
