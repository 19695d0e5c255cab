//! The adapters of a node, as guests see them: each release that somebody opens is handed to the
//! engine of its base, and stays there until another release has taken its name and nobody has it
//! open any more.
//!
//! What this module must never do: change what a name stands for while somebody has it open. The
//! engine knows every release by its own digest, so a newer one stands beside it.

mod applied;
mod encoders;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;

pub use applied::Applied;
pub use encoders::of_encoder;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use skep_engine::{Engine, EngineError, Lease};
use skep_registry::{Base, Digest, PackageName, PublisherId, SignedRelease};
use skep_sandbox::{AdapterInfo, ModelError, Residency, TextAdapter};
use skep_swarm::Installed;

use super::language::NodeLanguages;

/// All adapters that engines of this node hold.
#[derive(Default)]
pub struct NodeAdapters {
    held: Mutex<BTreeMap<Digest, Held>>,
}

/// A release that an engine holds.
struct Held {
    package: Package,
    engine: Engine,
    open: Weak<Open>,
}

type Package = (PublisherId, PackageName);

impl Held {
    /// Takes the release from its engine, unless somebody has it open.
    fn leave(&self, digest: &Digest) -> bool {
        if self.open.strong_count() > 0 {
            return false;
        }
        // Nothing else takes it away, so it is there.
        let _ = self.engine.remove_adapter(&digest.to_string());
        true
    }
}

impl NodeAdapters {
    /// Opens a release, whose base has to be known, and begins to bring it to where it is used.
    /// Other releases of its package that nobody has open leave the engine.
    pub fn open(
        &self,
        languages: &NodeLanguages,
        installed: &Installed,
    ) -> Result<Arc<dyn TextAdapter>, ModelError> {
        let release = &installed.release;
        let name = release.name().to_string();
        let Some(adapter) = release.adapter() else {
            return Err(ModelError::Invalid(format!("{name} is no adapter")));
        };
        let base = &adapter.base;
        // Before the lock, because it may load a model.
        let engine = languages.engine(&base.digest)?.ok_or_else(|| {
            ModelError::NotFound(format!("{base}, which the adapter {name} changes,"))
        })?;
        let failed =
            |error: EngineError| ModelError::Failed(format!("the adapter {name}: {error}"));
        let (digest, package) = (release.digest(), package_of(release));
        let engine_name = digest.to_string();
        let mut held = self.lock();
        if let Some(open) = held.get(&digest).and_then(|held| held.open.upgrade()) {
            return Ok(open);
        }
        if !held.contains_key(&digest) {
            let version = release.version().to_string();
            engine
                .add_adapter(&engine_name, &version, &installed.files)
                .map_err(failed)?;
        }
        let open = Arc::new(Open {
            lease: engine.open_adapter(&engine_name).map_err(failed)?,
            engine: engine.clone(),
            name: name.clone(),
            digest,
            base: base.clone(),
            files: installed.files.clone(),
        });
        held.retain(|other, held| {
            *other == digest || held.package != package || !held.leave(other)
        });
        let open_now = Arc::downgrade(&open);
        held.insert(
            digest,
            Held {
                package,
                engine,
                open: open_now,
            },
        );
        Ok(open)
    }

    /// Whether an engine holds this release.
    pub fn holds(&self, release: &Digest) -> bool {
        self.lock().contains_key(release)
    }

    /// Lets all releases of a package go that nobody has open.
    pub fn forget(&self, release: &SignedRelease) {
        let package = package_of(release);
        self.lock()
            .retain(|digest, held| held.package != package || !held.leave(digest));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Held>> {
        // The map is consistent after every statement, so a poisoned lock is still good.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn package_of(release: &SignedRelease) -> Package {
    (release.publisher(), release.name().clone())
}

/// An adapter that somebody has open: its engine keeps this very release.
struct Open {
    engine: Engine,
    lease: Lease,
    name: String,
    digest: Digest,
    base: Base,
    files: PathBuf,
}

impl TextAdapter for Open {
    fn info(&self) -> AdapterInfo {
        AdapterInfo {
            name: self.name.clone(),
            digest: self.digest.to_string(),
            base: self.base.digest.to_string(),
            base_name: self.base.name.to_string(),
            rank: u32::try_from(self.lease.rank()).unwrap_or(u32::MAX),
            bytes: self.lease.bytes(),
        }
    }

    fn residency(&self) -> Residency {
        match self.engine.residency(&self.lease) {
            skep_engine::Residency::Device => Residency::Device,
            skep_engine::Residency::Memory => Residency::Memory,
            skep_engine::Residency::Disk => Residency::Disk,
        }
    }

    fn engine_name(&self) -> String {
        self.digest.to_string()
    }

    fn folder(&self) -> Option<PathBuf> {
        Some(self.files.clone())
    }
}
