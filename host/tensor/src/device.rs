//! The devices that tensors live on: the processor always, graphics processors when they are
//! compiled in.

use burn::backend::DispatchDevice;

/// A device that tensors live on. Naming one opens nothing; it is opened by its first tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(u16),
    #[cfg(feature = "vulkan")]
    Vulkan(u16),
}

impl Device {
    /// The processor of this machine.
    pub const fn cpu() -> Self {
        Device(Kind::Cpu)
    }

    /// The NVIDIA device of the given index, through CUDA.
    #[cfg(feature = "cuda")]
    pub const fn cuda(index: u16) -> Self {
        Device(Kind::Cuda(index))
    }

    /// The discrete graphics processor of the given index, through Vulkan.
    #[cfg(feature = "vulkan")]
    pub const fn vulkan(index: u16) -> Self {
        Device(Kind::Vulkan(index))
    }

    /// A name for a person: `cpu`, `cuda:0`, `vulkan:1`.
    pub fn name(&self) -> String {
        match self.0 {
            Kind::Cpu => "cpu".to_owned(),
            #[cfg(feature = "cuda")]
            Kind::Cuda(index) => format!("cuda:{index}"),
            #[cfg(feature = "vulkan")]
            Kind::Vulkan(index) => format!("vulkan:{index}"),
        }
    }

    /// Whether this is the processor.
    pub const fn is_cpu(&self) -> bool {
        matches!(self.0, Kind::Cpu)
    }

    /// The same device as burn names it.
    pub fn to_burn(&self) -> burn::tensor::Device {
        match self.0 {
            Kind::Cpu => burn::tensor::Device::flex(),
            #[cfg(feature = "cuda")]
            Kind::Cuda(index) => burn::tensor::Device::cuda(usize::from(index)),
            #[cfg(feature = "vulkan")]
            Kind::Vulkan(index) => burn::tensor::Device::vulkan(
                burn::tensor::DeviceKind::DiscreteGpu(usize::from(index)),
            ),
        }
    }

    pub(crate) fn dispatch(&self) -> DispatchDevice {
        self.to_burn().as_dispatch().clone()
    }
}

impl Default for Device {
    fn default() -> Self {
        Device::cpu()
    }
}
