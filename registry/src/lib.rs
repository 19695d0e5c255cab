//! What a skep package is: its manifest, its publisher, its canonical signed form and the chain
//! of its versions.
//!
//! A package is a component, a model or an adapter with a [`Manifest`] (`skep.toml`). Publishing turns it
//! into a release: the manifest's facts and the digest of every file, encoded canonically and
//! signed by the publisher. Each release names the one before it, so that a publisher cannot
//! quietly take one back or put another in its place.
//!
//! This crate is pure. It knows no network, no wasm and no clock; but for publisher keys, which
//! live in files, it reads and writes nothing. Everything it parses comes from strangers: no
//! input makes it panic, hang, or allocate more than the input's own size bounds.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod digest;
mod grants;
mod history;
mod kind;
mod limits;
mod manifest;
mod name;
mod path;
mod publisher;
mod release;
mod text;
pub mod units;

pub use digest::{Digest, DigestError};
pub use grants::{
    GrantKind, Grants, JobsGrant, MissingGrant, ModelGrant, ModelGrantError, SwarmRead,
};
pub use history::{History, HistoryError, KnownHead};
pub use kind::{ModelTask, UnknownModelTask, UnknownWorld, World};
pub use limits::{LimitError, Limits};
pub use manifest::{Manifest, ManifestError, Problem, Source};
pub use name::{Identifier, MAX_NAME, NameError, PackageName, PackageRef, PackageRefError};
pub use path::{MAX_PATH, PackagePath, PathError};
pub use publisher::{KeyError, PublisherId, PublisherIdError, PublisherKey};
pub use release::{
    Adapter, Base, Component, Content, Draft, FileEntry, Model, Release, ReleaseError,
    SignedRelease,
};
