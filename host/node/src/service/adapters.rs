//! The adapters of a node, as guests see them: each release that somebody opens is handed to the
//! engine of its base, and stays there until another release has taken its name and nobody has it
//! open any more. Those of encoders are kept beside them.
//!
//! What this module must never do: change what a name stands for while somebody has it open. The
//! engine knows every release by its own digest, so a newer one stands beside it.

mod applied;
mod encoders;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;

pub use applied::{Applied, ENCODERS, TEXT, has_to_change};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use skep_engine::{Engine, EngineError, Lease};
use skep_model::Encoder;
use skep_registry::{Base, Digest, PackageName, PublisherId, SignedRelease};
use skep_sandbox::{AdapterInfo, ModelError, Residency, TextAdapter};
use skep_swarm::Installed;
use skep_tensor::Account;

use self::encoders::EncoderAdapters;
use super::language::NodeLanguages;
use crate::embedded::{self, Embedded};
use crate::home::Home;

/// All adapters that engines and encoders of this node hold.
#[derive(Default)]
pub struct NodeAdapters {
    held: Mutex<BTreeMap<Digest, Held>>,
    encoders: EncoderAdapters,
}

/// A release that an engine holds.
struct Held {
    package: Package,
    engine: Engine,
    open: Weak<Open>,
}

/// Whose package it is; one that comes with skep has no publisher.
type Package = (Option<PublisherId>, PackageName);

/// An adapter that is to be opened.
struct Wanted {
    package: Package,
    digest: Digest,
    version: String,
    base: Base,
    files: PathBuf,
}

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
    /// Other releases of its package that nobody has open leave the engine. What reading it takes is
    /// charged to the account, whether it is here already or not.
    pub fn open(
        &self,
        languages: &NodeLanguages,
        installed: &Installed,
        account: &Account,
    ) -> Result<Arc<dyn TextAdapter>, ModelError> {
        let release = &installed.release;
        let Some(adapter) = release.adapter() else {
            let name = release.name();
            return Err(ModelError::Invalid(format!("{name} is no adapter")));
        };
        let wanted = Wanted {
            package: package_of(release),
            digest: release.digest(),
            version: release.version().to_string(),
            base: adapter.base.clone(),
            files: installed.files.clone(),
        };
        self.open_wanted(languages, wanted, account)
    }

    /// Opens a release that changes this encoder, which the node knows by `base`. Others of its package
    /// that nobody has open go.
    pub fn open_for_encoder(
        &self,
        encoder: &Encoder,
        base: &Digest,
        installed: &Installed,
        account: &Account,
    ) -> Result<Arc<dyn TextAdapter>, ModelError> {
        self.encoders.open(encoder, base, installed, account)
    }

    /// The same of an adapter that comes with skep, of the language model that does, which has to
    /// be known.
    pub fn open_embedded(
        &self,
        languages: &NodeLanguages,
        home: &Home,
        adapter: &Embedded,
        account: &Account,
    ) -> Result<Arc<dyn TextAdapter>, ModelError> {
        let name = |name: &str| {
            name.parse::<PackageName>()
                .map_err(|error| ModelError::Failed(format!("{name}: {error}")))
        };
        let files = adapter.folder(home).map_err(|error| {
            ModelError::Failed(format!("cannot write out {}: {error}", adapter.name))
        })?;
        let wanted = Wanted {
            package: (None, name(adapter.name)?),
            digest: adapter.digest(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            base: Base {
                name: name(embedded::LANGUAGE.name)?,
                digest: embedded::LANGUAGE.digest(),
            },
            files,
        };
        self.open_wanted(languages, wanted, account)
    }

    fn open_wanted(
        &self,
        languages: &NodeLanguages,
        wanted: Wanted,
        account: &Account,
    ) -> Result<Arc<dyn TextAdapter>, ModelError> {
        // It may load a model.
        let engine = languages.engine(&wanted.base.digest)?.ok_or_else(|| {
            let (base, name) = (&wanted.base, &wanted.package.1);
            ModelError::NotFound(format!("{base}, which the adapter {name} changes,"))
        })?;
        let add = |wanted: &Wanted| {
            let (name, version) = (wanted.digest.to_string(), &wanted.version);
            engine.add_adapter_for(account, &name, version, &wanted.files)
        };
        self.open_in(engine.clone(), wanted, account, add)
    }

    /// Opens a release in the engine of its base, to which `add` gives it if it is not there, charging
    /// what that takes to the account.
    fn open_in(
        &self,
        engine: Engine,
        wanted: Wanted,
        account: &Account,
        add: impl Fn(&Wanted) -> Result<(), EngineError>,
    ) -> Result<Arc<dyn TextAdapter>, ModelError> {
        let (open, was_charged) = self.opened_in(engine, wanted, add)?;
        if !was_charged {
            account.goes_on(open.lease.measuring_flops())?;
        }
        Ok(open)
    }

    /// The release as somebody has it open, and whether `add` was called for it.
    fn opened_in(
        &self,
        engine: Engine,
        wanted: Wanted,
        add: impl Fn(&Wanted) -> Result<(), EngineError>,
    ) -> Result<(Arc<Open>, bool), ModelError> {
        let digest = wanted.digest;
        let failed = |error: EngineError| match error {
            EngineError::Quota(error) => ModelError::Quota(error),
            error => ModelError::Failed(format!("the adapter {}: {error}", wanted.package.1)),
        };
        let opened = |held: &BTreeMap<Digest, Held>| {
            let held = held.get(&digest)?;
            held.open.upgrade()
        };
        let mut is_known = {
            let held = self.lock();
            if let Some(open) = opened(&held) {
                return Ok((open, false));
            }
            held.contains_key(&digest)
        };
        let mut was_charged = false;
        let (mut held, lease) = loop {
            // Without the lock, because reading one with magnitudes measures what it changes of the base. Two
            // that read the same get the same.
            if !is_known {
                add(&wanted).map_err(failed)?;
                was_charged = true;
            }
            let held = self.lock();
            if let Some(open) = opened(&held) {
                return Ok((open, was_charged));
            }
            match engine.open_adapter(&digest.to_string()) {
                Ok(lease) => break (held, lease),
                // It was let go meanwhile.
                Err(_) if is_known => is_known = false,
                Err(error) => return Err(failed(error)),
            }
        };
        let Wanted {
            package,
            base,
            files,
            ..
        } = wanted;
        let open = Arc::new(Open {
            lease,
            engine: engine.clone(),
            name: package.1.to_string(),
            digest,
            base,
            files,
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
        Ok((open, was_charged))
    }

    /// Whether an engine or an encoder holds this release.
    pub fn holds(&self, release: &Digest) -> bool {
        self.lock().contains_key(release) || self.encoders.holds(release)
    }

    /// Lets all releases of a package go that nobody has open.
    pub fn forget(&self, release: &SignedRelease) {
        let package = package_of(release);
        self.lock()
            .retain(|digest, held| held.package != package || !held.leave(digest));
        self.encoders.forget(&package);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Held>> {
        // The map is consistent after every statement, so a poisoned lock is still good.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn package_of(release: &SignedRelease) -> Package {
    (Some(release.publisher()), release.name().clone())
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
