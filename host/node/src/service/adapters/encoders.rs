//! Adapters of sentence encoders: weights that a training goes on from. No engine holds them.

use std::path::PathBuf;
use std::sync::Arc;

use skep_registry::{Base, Digest};
use skep_sandbox::{AdapterInfo, ModelError, Residency, TextAdapter};
use skep_swarm::Installed;

/// An adapter on the disk.
struct OnDisk {
    name: String,
    digest: Digest,
    base: Base,
    bytes: u64,
    files: PathBuf,
}

/// Opens a release that was trained for this encoder.
pub fn of_encoder(
    encoder: &Digest,
    installed: &Installed,
) -> Result<Arc<dyn TextAdapter>, ModelError> {
    let release = &installed.release;
    let name = release.name().to_string();
    let Some(adapter) = release.adapter() else {
        return Err(ModelError::Invalid(format!("{name} is no adapter")));
    };
    if adapter.base.digest != *encoder {
        return Err(ModelError::Invalid(format!(
            "the adapter {name} changes {} ({}), and this training's base is {encoder}",
            adapter.base, adapter.base.digest
        )));
    }
    Ok(Arc::new(OnDisk {
        digest: release.digest(),
        base: adapter.base.clone(),
        bytes: release.total_size(),
        files: installed.files.clone(),
        name,
    }))
}

impl TextAdapter for OnDisk {
    fn info(&self) -> AdapterInfo {
        AdapterInfo {
            name: self.name.clone(),
            digest: self.digest.to_string(),
            base: self.base.digest.to_string(),
            base_name: self.base.name.to_string(),
            // What it is made like is for the trainer to read.
            rank: 0,
            bytes: self.bytes,
        }
    }

    fn residency(&self) -> Residency {
        Residency::Disk
    }

    fn engine_name(&self) -> String {
        self.digest.to_string()
    }

    fn folder(&self) -> Option<PathBuf> {
        Some(self.files.clone())
    }
}
