//! Where an owner wants language models computed: the names of devices, and the way to each.
//!
//! The engine takes whatever implements its `Backend` and knows no device; `skep-cubes` knows
//! devices and no engine. Here the two meet, so that whoever starts an engine says a name.
//!
//! What this crate must never do: take another device than the one that was named. An owner who
//! names a card that is not there is told so, and does not get the processor in its place.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use skep_engine::{Backend, Processor};
use skep_kernels::Team;

/// Which device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum DeviceName {
    /// The processors of this machine: `processor`.
    #[default]
    Processor,
    /// The NVIDIA device of this index, through CUDA: `cuda` is the first, `cuda:1` the second.
    Cuda(usize),
    /// Through Vulkan: `vulkan` is the best device, which may be a program that plays one;
    /// `vulkan:0` is the first card.
    Vulkan(Option<usize>),
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Processor => write!(f, "processor"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Vulkan(None) => write!(f, "vulkan"),
            Self::Vulkan(Some(index)) => write!(f, "vulkan:{index}"),
        }
    }
}

/// What was said is no device's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no device; devices are \"processor\", \"cuda\" or \"cuda:1\" for an NVIDIA card, and \
     \"vulkan\" or \"vulkan:1\" for any other"
)]
pub struct NoSuchName(String);

impl FromStr for DeviceName {
    type Err = NoSuchName;

    fn from_str(name: &str) -> Result<Self, NoSuchName> {
        let wrong = || NoSuchName(name.chars().take(40).collect());
        let (way, index) = match name.split_once(':') {
            None => (name, None),
            Some((way, index)) => {
                let digits = index.bytes().all(|byte| byte.is_ascii_digit());
                let index = index.parse().ok().filter(|_| digits);
                (way, Some(index.ok_or_else(wrong)?))
            }
        };
        match (way, index) {
            ("processor", None) => Ok(Self::Processor),
            ("cuda", index) => Ok(Self::Cuda(index.unwrap_or(0))),
            ("vulkan", index) => Ok(Self::Vulkan(index)),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for DeviceName {
    type Error = NoSuchName;

    fn try_from(name: String) -> Result<Self, NoSuchName> {
        name.parse()
    }
}

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// This program has no way to devices of that kind.
    #[error(
        "this skep was built without a way to {device}; build it with `cargo build --release -p \
         skep-node --features {feature}`, or name the device \"processor\""
    )]
    NotBuilt {
        /// The device.
        device: DeviceName,
        /// What it has to be built with.
        feature: &'static str,
    },
    /// There is no such device, or its driver does not work.
    #[error("{device}: {reason}")]
    NoDevice {
        /// The device.
        device: DeviceName,
        /// What is wrong.
        reason: String,
    },
}

/// Whether this program has a way to a device. Whether that is there, only [`open`] finds out.
///
/// # Errors
/// When it has none, with the feature that it has to be built with.
pub fn is_built(device: DeviceName) -> Result<(), OpenError> {
    match device {
        DeviceName::Cuda(_) if !cfg!(feature = "cuda") => Err(OpenError::NotBuilt {
            device,
            feature: "cuda",
        }),
        DeviceName::Vulkan(_) if !cfg!(any(feature = "wgsl", feature = "vulkan")) => {
            Err(OpenError::NotBuilt {
                device,
                feature: "wgsl",
            })
        }
        DeviceName::Processor | DeviceName::Cuda(_) | DeviceName::Vulkan(_) => Ok(()),
    }
}

/// Opens a device. On the processor `team` computes.
///
/// # Errors
/// When this program has no way to it, or there is none.
pub fn open(device: DeviceName, team: Arc<Team>) -> Result<Box<dyn Backend>, OpenError> {
    is_built(device)?;
    match device {
        DeviceName::Processor => Ok(Box::new(Processor(team))),
        #[cfg(any(feature = "cuda", feature = "wgsl", feature = "vulkan"))]
        DeviceName::Cuda(_) | DeviceName::Vulkan(_) => on_device(device),
        #[cfg(not(any(feature = "cuda", feature = "wgsl", feature = "vulkan")))]
        DeviceName::Cuda(_) | DeviceName::Vulkan(_) => Err(OpenError::NoDevice {
            device,
            reason: "no way leads there".to_owned(),
        }),
    }
}

#[cfg(any(feature = "cuda", feature = "wgsl", feature = "vulkan"))]
fn on_device(device: DeviceName) -> Result<Box<dyn Backend>, OpenError> {
    use skep_cubes::{Gpu, GpuKind};

    let kind = match device {
        DeviceName::Cuda(index) => GpuKind::Cuda(index),
        DeviceName::Vulkan(Some(index)) => GpuKind::Vulkan(index),
        DeviceName::Vulkan(None) | DeviceName::Processor => GpuKind::VulkanBest,
    };
    // The card is the owner's, so nobody sets it a limit: what does not fit is refused by the
    // device itself.
    let gpu = Gpu::open(kind, skep_accounts::Account::unlimited());
    let gpu = gpu.map_err(|error| OpenError::NoDevice {
        device,
        reason: error.to_string(),
    })?;
    Ok(Box::new(skep_engine::OnDevice::new(
        device.to_string(),
        gpu,
    )))
}
