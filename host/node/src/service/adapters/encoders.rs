//! Adapters of sentence encoders that are kept for use.
//!
//! They are small, and their encoder needs to know nothing of them before a text comes with one. So they
//! are read once, and stay until a newer release of the same package was opened or too much lies here
//! that nobody has open.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_evidence::lineage::{FILE, Lineage};
use skep_model::{AdapterError, Encoder, EncoderAdapter};
use skep_registry::{Base, Digest};
use skep_sandbox::{AdapterInfo, EncoderChange, ModelError, Residency, TextAdapter};
use skep_swarm::Installed;
use skep_tensor::Account;

use super::{Package, package_of};

/// Bytes of adapters that are kept although nobody has them open.
const KEPT: u64 = 256 << 20;

/// All adapters of encoders that this node has read, those that were opened last at the end.
#[derive(Default)]
pub(super) struct EncoderAdapters(Mutex<Vec<Held>>);

/// A release that was read.
struct Held {
    package: Package,
    open: Arc<OfEncoder>,
}

impl Held {
    /// Whether somebody has it open, or an encoder that it changes.
    fn in_use(&self) -> bool {
        Arc::strong_count(&self.open) > 1 || Arc::strong_count(&self.open.change.adapter) > 1
    }
}

impl EncoderAdapters {
    /// Opens a release that was trained for this encoder, which the node knows by `base`. What reading
    /// it takes is charged to the account, whether it was read already or not.
    pub fn open(
        &self,
        encoder: &Encoder,
        base: &Digest,
        installed: &Installed,
        account: &Account,
    ) -> Result<Arc<dyn TextAdapter>, ModelError> {
        let read = || OfEncoder::read(encoder, base, installed, account);
        self.open_by(installed, account, read)
    }

    /// Opens a release, which `read` reads, charging what that takes to the account.
    pub(super) fn open_by(
        &self,
        installed: &Installed,
        account: &Account,
        read: impl FnOnce() -> Result<OfEncoder, ModelError>,
    ) -> Result<Arc<dyn TextAdapter>, ModelError> {
        let (package, digest) = (package_of(&installed.release), installed.release.digest());
        let known = {
            let held = self.lock();
            let mut all = held.iter();
            let found = all.find(|held| held.open.digest == digest);
            found.map(|held| Arc::clone(&held.open))
        };
        let open = match known {
            Some(open) => {
                account.goes_on(open.change.adapter.measuring_flops())?;
                open
            }
            // Without the lock: two who open it at the same time read it twice.
            None => Arc::new(read()?),
        };
        let mut held = self.lock();
        held.retain(|other| {
            other.open.digest != digest && (other.package != package || other.in_use())
        });
        let mut bytes = open.bytes;
        let mut kept: Vec<bool> = Vec::with_capacity(held.len());
        for other in held.iter().rev() {
            bytes = bytes.saturating_add(other.open.bytes);
            kept.push(bytes <= KEPT || other.in_use());
        }
        // Decided for the newest first, and asked for the oldest.
        held.retain(|_| kept.pop().unwrap_or(true));
        held.push(Held {
            package,
            open: Arc::clone(&open),
        });
        Ok(open)
    }

    /// Whether this release is here.
    pub fn holds(&self, release: &Digest) -> bool {
        self.lock().iter().any(|held| held.open.digest == *release)
    }

    /// Lets all releases of a package go.
    pub fn forget(&self, package: &Package) {
        self.lock().retain(|held| held.package != *package);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Held>> {
        // The list is consistent after every statement, so a poisoned lock is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An adapter of an encoder.
pub(super) struct OfEncoder {
    name: String,
    digest: Digest,
    base: Base,
    bytes: u64,
    files: PathBuf,
    change: EncoderChange,
}

impl OfEncoder {
    /// Reads a release of this encoder, which the node knows by a digest, for whoever has this account.
    pub(super) fn read(
        encoder: &Encoder,
        encoder_digest: &Digest,
        installed: &Installed,
        account: &Account,
    ) -> Result<Self, ModelError> {
        let release = &installed.release;
        let name = release.name().to_string();
        let Some(of) = release.adapter() else {
            return Err(ModelError::Invalid(format!("{name} is no adapter")));
        };
        if of.base.digest != *encoder_digest {
            return Err(ModelError::Invalid(format!(
                "the adapter {name} changes {} ({}), and the base that was opened is {encoder_digest}",
                of.base, of.base.digest
            )));
        }
        let failed = |error: &dyn std::error::Error| {
            ModelError::Failed(format!("the adapter {name}: {error}"))
        };
        let goes_on = |flops| account.goes_on(flops);
        let adapter = EncoderAdapter::load_while(&installed.files, encoder, &goes_on);
        let adapter = adapter.map_err(|error| match error {
            AdapterError::Quota(error) => ModelError::Quota(error),
            error => failed(&error),
        })?;
        let path = installed.path(FILE);
        let lineage = Lineage::of(release, || match path {
            Some(path) => std::fs::read(path),
            None => Err(std::io::ErrorKind::NotFound.into()),
        });
        let lineage = lineage.map_err(|error| failed(&error))?;
        let classes = adapter.classes().unwrap_or(0);
        let named = lineage.map(|lineage| lineage.classes).unwrap_or_default();
        Ok(Self {
            digest: release.digest(),
            base: of.base.clone(),
            bytes: adapter.bytes(),
            files: installed.files.clone(),
            change: EncoderChange {
                adapter: Arc::new(adapter),
                classes: match named.len() == classes {
                    true => named,
                    false => (0..classes).map(|class| class.to_string()).collect(),
                },
            },
            name,
        })
    }
}

impl TextAdapter for OfEncoder {
    fn info(&self) -> AdapterInfo {
        AdapterInfo {
            name: self.name.clone(),
            digest: self.digest.to_string(),
            base: self.base.digest.to_string(),
            base_name: self.base.name.to_string(),
            rank: u32::try_from(self.change.adapter.rank()).unwrap_or(u32::MAX),
            bytes: self.bytes,
        }
    }

    fn residency(&self) -> Residency {
        // Encoders compute on the processor, whose pool is the node's memory.
        Residency::Device
    }

    fn engine_name(&self) -> String {
        self.digest.to_string()
    }

    fn of_encoder(&self) -> Option<EncoderChange> {
        Some(self.change.clone())
    }

    fn folder(&self) -> Option<PathBuf> {
        Some(self.files.clone())
    }
}
