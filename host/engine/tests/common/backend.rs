//! Who computes in tests: the processor, or a graphics processor where the build has a way to one.
//! What a text has to be is said by the processor in either case.

use std::sync::Arc;

#[cfg(any(feature = "cuda", feature = "wgsl"))]
use skep_engine::OnDevice;
#[cfg(not(any(feature = "cuda", feature = "wgsl")))]
use skep_engine::Processor;
use skep_engine::{Backend, Engine, LanguageModel, Options};
use skep_kernels::Team;
use skep_kernels::kv::KvFormat;

/// Whether a device computes whose last bits depend on the batch.
pub const IS_DEVICE: bool = cfg!(any(feature = "cuda", feature = "wgsl"));

/// How far a token that a device chooses may fall short of the one that the processor would have
/// chosen, in logits divided by the temperature; none for the processor itself. An element of keys
/// and values that lies between two that the format has may be rounded to either.
pub fn tie(format: KvFormat) -> f64 {
    match (IS_DEVICE, format) {
        (false, _) => 0.0,
        (true, KvFormat::F32) => 1e-3,
        (true, KvFormat::F16) => 1e-2,
        (true, KvFormat::Int8) => 1e-1,
    }
}

/// The processor's threads.
#[cfg(not(any(feature = "cuda", feature = "wgsl")))]
pub fn backend(threads: usize) -> Box<dyn Backend> {
    Box::new(Processor(Arc::new(Team::new(threads).unwrap())))
}

/// The device. Without one the tests fail: a build with a way to one promises to have used it.
#[cfg(any(feature = "cuda", feature = "wgsl"))]
pub fn backend(_threads: usize) -> Box<dyn Backend> {
    Box::new(device(skep_accounts::Account::unlimited()))
}

/// The device, whose memory is charged to this account.
#[cfg(any(feature = "cuda", feature = "wgsl"))]
pub fn device(account: skep_accounts::Account) -> OnDevice<skep_cubes::Gpu> {
    use skep_cubes::{Gpu, GpuKind};
    let kind = match cfg!(feature = "cuda") {
        true => GpuKind::Cuda(0),
        false => GpuKind::VulkanBest,
    };
    OnDevice::new("device", Gpu::open(kind, account).unwrap())
}

/// An engine on it.
pub fn start(model: Arc<LanguageModel>, options: Options) -> Engine {
    Engine::start_on(model, &*backend(2), options).unwrap()
}

/// An engine on the processor, whatever the build has: for what has to be equal to the last bit,
/// and for comparisons with a device.
pub fn processor(model: Arc<LanguageModel>, options: Options) -> Engine {
    Engine::start(model, Arc::new(Team::new(2).unwrap()), options).unwrap()
}
