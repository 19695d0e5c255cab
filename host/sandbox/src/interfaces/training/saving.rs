//! What is checked before an adapter is saved, and told when it cannot be.

use std::path::Path;

use super::convert;
use crate::bindings::fine_tune::skep::train::training::Metadata;
use crate::interfaces::HostError;
use crate::interfaces::text::requests::at_most;

/// The longest model card, in bytes.
const CARD: usize = 64 << 10;
/// Names and values that may be said of an adapter, and bytes of each.
const FACTS: usize = 256;
const FACT: usize = 1024;

pub(super) fn cannot_save(error: std::io::Error) -> HostError {
    HostError::failed(format!("the adapter cannot be saved: {error}"))
}

/// The digest of an adapter's weights.
pub(super) fn digest_of(folder: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap(folder.join("adapter_model.safetensors"))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// An error that says no more of where something lies than its name.
pub(super) fn error_beside(error: skep_train::TrainError, folder: &Path) -> HostError {
    match HostError::from(error) {
        HostError::Typed(typed) => HostError::Typed(convert::without(typed, folder)),
        other => other,
    }
}

pub(super) fn check_metadata(metadata: &Metadata) -> Result<(), HostError> {
    at_most("bytes of a model card", metadata.card.len(), CARD)?;
    at_most("hyper-parameters", metadata.hyper_parameters.len(), FACTS)?;
    at_most("metrics", metadata.metrics.len(), FACTS)?;
    for (name, value) in &metadata.hyper_parameters {
        at_most("bytes of a hyper-parameter", name.len() + value.len(), FACT)?;
    }
    for (name, _) in &metadata.metrics {
        at_most("bytes of a metric's name", name.len(), FACT)?;
    }
    Ok(())
}
