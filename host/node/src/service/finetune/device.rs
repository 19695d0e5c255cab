//! The device that the node's owner has named for trainings.
//!
//! What this module must never do: take another device than the one that was named.

use std::sync::Arc;

use skep_devices::{DeviceName, OpenError};
use skep_train::device::TrainingDevice;

use crate::failure::{Failure, FailureKind};

/// The device of this name; none is the processor. Whether it is there is found out when a base is
/// copied to it.
///
/// # Errors
/// When this program has no way to it.
pub fn open(device: DeviceName) -> Result<Option<Arc<dyn TrainingDevice>>, Failure> {
    let not_built = |feature| {
        let error = OpenError::NotBuilt { device, feature };
        let text = format!("device in [trainings] of config.toml: {error}");
        Err(Failure::new(FailureKind::Failed, text))
    };
    match device {
        DeviceName::Processor => Ok(None),
        DeviceName::Cuda(index) => cuda(index).map_or_else(|| not_built("cuda"), |on| Ok(Some(on))),
        DeviceName::Vulkan(index) => {
            vulkan(index).map_or_else(|| not_built("wgsl"), |on| Ok(Some(on)))
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Option<Arc<dyn TrainingDevice>> {
    use skep_train_device::{Compute, Place, TrainingPlace};
    // A card of a larger index than this is nowhere, and the driver says so of the largest.
    let index = u16::try_from(index).unwrap_or(u16::MAX);
    Some(Arc::new(TrainingPlace {
        place: Place::Cuda(index),
        compute: Compute::Bf16,
    }))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Option<Arc<dyn TrainingDevice>> {
    None
}

#[cfg(feature = "wgsl")]
fn vulkan(index: Option<usize>) -> Option<Arc<dyn TrainingDevice>> {
    use skep_train_device::{Compute, Place, TrainingPlace};
    Some(Arc::new(TrainingPlace {
        place: Place::Vulkan(index),
        compute: Compute::F32,
    }))
}

#[cfg(not(feature = "wgsl"))]
fn vulkan(_: Option<usize>) -> Option<Arc<dyn TrainingDevice>> {
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_no_device_and_what_was_not_built_is_said() {
        assert!(open(DeviceName::Processor).unwrap().is_none());
        for (device, feature) in [
            (DeviceName::Cuda(1), "cuda"),
            (DeviceName::Vulkan(None), "wgsl"),
        ] {
            let opened = open(device);
            let built = match feature {
                "cuda" => cfg!(feature = "cuda"),
                _ => cfg!(feature = "wgsl"),
            };
            match opened {
                Ok(on) => assert!(built && on.is_some()),
                Err(failure) => {
                    let text = failure.to_string();
                    assert!(
                        !built && text.contains(&format!("--features {feature}")),
                        "{text}"
                    );
                    assert!(text.contains("[trainings]"), "{text}");
                }
            }
        }
    }
}
