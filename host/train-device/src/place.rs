//! Which device computes, and in what.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[cfg(feature = "wgsl")]
use burn::tensor::DeviceKind;
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use skep_train::TrainError;

/// A device that passes run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// The processor, by way of burn. `skep-train` is several times as fast there: this is what tests
    /// run on where there is no other device.
    Processor,
    /// The NVIDIA device of this index.
    #[cfg(feature = "cuda")]
    Cuda(u16),
    /// The card of this index that Vulkan has, or its best device, which may be a program that plays
    /// one. In 32 bits only.
    #[cfg(feature = "wgsl")]
    Vulkan(Option<usize>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Processor => write!(f, "the processor"),
            #[cfg(feature = "cuda")]
            Place::Cuda(index) => write!(f, "cuda:{index}"),
            #[cfg(feature = "wgsl")]
            Place::Vulkan(None) => write!(f, "vulkan"),
            #[cfg(feature = "wgsl")]
            Place::Vulkan(Some(index)) => write!(f, "vulkan:{index}"),
        }
    }
}

/// What products take. Sums, norms, probabilities and the residual stream are in 32 bits always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compute {
    /// 32 bits. Where a device has units for products of matrices, they round to 19 of these bits.
    F32,
    /// The upper 16 of these.
    Bf16,
}

impl Compute {
    /// Bytes of a number.
    pub fn bytes(self) -> u64 {
        match self {
            Compute::F32 => 4,
            Compute::Bf16 => 2,
        }
    }

    #[cfg(any(feature = "cuda", feature = "wgsl"))]
    pub(crate) fn dtype(self) -> DType {
        match self {
            Compute::F32 => DType::F32,
            Compute::Bf16 => DType::BF16,
        }
    }
}

/// A device, and what it computes with.
#[derive(Debug, Clone)]
pub(crate) struct On {
    pub place: Place,
    pub compute: Compute,
    pub device: Device,
}

impl On {
    /// Opens the device.
    ///
    /// # Errors
    /// When there is no such device, or its driver refuses. Drivers that are half installed panic.
    pub fn open(place: Place, compute: Compute) -> Result<Self, TrainError> {
        let device = match place {
            Place::Processor => Device::flex(),
            #[cfg(feature = "cuda")]
            Place::Cuda(index) => {
                let found = cubecl::Device::cuda(usize::from(index));
                // A device is opened by whoever first asks for its client.
                found
                    .map(|device| device.client())
                    .map_err(failed_to_open)?;
                Device::cuda(usize::from(index))
            }
            #[cfg(feature = "wgsl")]
            Place::Vulkan(_) if compute == Compute::Bf16 => {
                return Err(TrainError::Setting {
                    what: "what a device computes in",
                    got: "bfloat16".to_owned(),
                    want: "32 bits with Vulkan, whose kernels know no other floats",
                });
            }
            #[cfg(feature = "wgsl")]
            Place::Vulkan(index) => {
                let kind = index.map_or(DeviceKind::DefaultDevice, DeviceKind::DiscreteGpu);
                Device::wgpu(kind)
            }
        };
        Ok(Self {
            place,
            compute,
            device,
        })
    }

    /// Numbers of 32 bits, on the device.
    pub fn floats<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), (&self.device, DType::F32))
    }

    /// As what products take.
    pub fn round<const D: usize>(&self, values: Tensor<D>) -> Tensor<D> {
        match self.compute {
            Compute::F32 => values.cast(FloatDType::F32),
            Compute::Bf16 => values.cast(FloatDType::BF16),
        }
    }
}

#[cfg(feature = "cuda")]
fn failed_to_open(error: impl std::fmt::Display) -> TrainError {
    TrainError::Device {
        reason: error.to_string(),
    }
}

/// As 32 bits, whatever they were.
pub(crate) fn widened<const D: usize>(values: Tensor<D>) -> Tensor<D> {
    values.cast(FloatDType::F32)
}

/// Runs what may panic in burn or in a driver, and turns that into an error.
pub(crate) fn guard<T>(
    what: &str,
    run: impl FnOnce() -> Result<T, TrainError>,
) -> Result<T, TrainError> {
    // Nothing that `run` borrows outlives it half made: a pass adds to gradients at its very end.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(failed(what, &*panic)))
}

fn failed(what: &str, panic: &(dyn Any + Send)) -> TrainError {
    let reason = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it gave no reason");
    TrainError::Device {
        reason: format!("{what}: {reason}"),
    }
}
