//! A graphics processor and the memory on it.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use cubecl::device::WgpuDeviceKind;
use cubecl::features::{MmaConfig, Plane};
use cubecl::prelude::*;
use cubecl::server::Handle;
use half::f16;
use skep_accounts::{Account, MemoryCharge};
use skep_kernels::expect_len;

use crate::error::GpuError;

/// Shared memory that the kernels take at most, on every device.
const SHARED_BYTES: usize = 24 << 10;

/// Units side by side where a device has no planes of one size.
const LANES: u32 = 32;

/// Held while a pass is recorded, and for reading by whoever waits for a device: CUDA refuses every wait
/// of a process while one of its threads records.
static RECORDING: RwLock<()> = RwLock::new(());

/// Words that every part of a buffer has to begin at a multiple of.
pub(crate) const ALIGNED: usize = 64;

/// Which graphics processor, and by which way it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GpuKind {
    /// The NVIDIA device of this index, through CUDA. Needs the feature `cuda`.
    Cuda(usize),
    /// The discrete device of this index, through Vulkan. Needs the feature `wgsl` or `vulkan`.
    Vulkan(usize),
    /// The best device that Vulkan has, which may be a program that plays one. Needs the feature
    /// `wgsl` or `vulkan`.
    VulkanBest,
}

/// A graphics processor, and the account that pays for memory on it. Clones are the same device.
#[derive(Clone)]
pub struct Gpu {
    client: Client,
    account: Account,
    name: Arc<str>,
    /// Units that work on one row together.
    pub(crate) lanes: u32,
    /// Whether they are a plane, whose units add up without shared memory.
    pub(crate) planes: bool,
    /// Whether it turns 16-bit floats into longer ones exactly, small ones too.
    pub(crate) halves: bool,
    shared_bytes: usize,
    most_units: usize,
    tensor_cores: bool,
}

impl Gpu {
    /// Opens a device. What is allocated on it is charged to `account`.
    ///
    /// # Errors
    /// [`GpuError::NoDevice`] when the machine has none or this build knows no way to it;
    /// [`GpuError::Unsupported`] when it cannot run the kernels.
    pub fn open(kind: GpuKind, account: Account) -> Result<Self, GpuError> {
        // Drivers that are half installed make the runtime panic rather than return.
        let client = guard("opening a device", || {
            let device = match kind {
                GpuKind::Cuda(index) => cubecl::Device::cuda(index),
                GpuKind::Vulkan(index) => {
                    cubecl::Device::vulkan(WgpuDeviceKind::DiscreteGpu(index))
                }
                GpuKind::VulkanBest => cubecl::Device::vulkan(WgpuDeviceKind::DefaultDevice),
            };
            device.map(|device| device.client())
        })
        .map_err(|error| GpuError::NoDevice(error.to_string()))?
        .map_err(|error| GpuError::NoDevice(error.to_string()))?;
        let mut client = client;
        // Otherwise every thread has a stream of its own, and what one wrote is waited for when
        // another reads it. This thread's serves them all.
        let stream = guard("allocating", || client.empty(4))?.stream;
        // SAFETY: the client is used for nothing but this crate's work, all of it on this stream.
        unsafe { client.set_stream(stream) };
        let properties = client.properties();
        let hardware = &properties.hardware;
        if hardware.max_shared_memory_size < SHARED_BYTES || hardware.max_units_per_cube < 256 {
            return Err(GpuError::Unsupported(format!(
                "a device with {} bytes of shared memory and {} units in a cube",
                hardware.max_shared_memory_size, hardware.max_units_per_cube
            )));
        }
        let planes = properties.features.plane.contains(Plane::Ops)
            && hardware.plane_size_min == hardware.plane_size_max
            && (8..=64).contains(&hardware.plane_size_min);
        let most_units = hardware.max_units_per_cube.min(1024) as usize;
        let half = f16::elem_type_native();
        let tensor_cores = cfg!(feature = "cuda")
            && matches!(kind, GpuKind::Cuda(_))
            && properties.features.matmul.cmma.contains(&MmaConfig {
                a_type: half,
                b_type: half,
                cd_type: f32::elem_type_native(),
                m: 16,
                n: 16,
                k: 16,
            });
        Ok(Self {
            tensor_cores,
            lanes: if planes {
                hardware.plane_size_min
            } else {
                LANES
            },
            planes,
            most_units: 1 << most_units.ilog2(),
            halves: matches!(kind, GpuKind::Cuda(_)),
            shared_bytes: hardware.max_shared_memory_size,
            name: client.name().into(),
            client,
            account,
        })
    }

    /// The same device, with another account to pay.
    pub fn charged_to(&self, account: Account) -> Self {
        Self {
            account,
            ..self.clone()
        }
    }

    /// Whether sums over units go without shared memory, by the device's planes.
    pub fn has_planes(&self) -> bool {
        self.planes
    }

    /// The same device, whose sums go through shared memory as on devices without planes.
    pub fn without_planes(&self) -> Self {
        Self {
            lanes: LANES,
            planes: false,
            ..self.clone()
        }
    }

    /// Whether products of many tokens go by units that multiply matrices of 16-bit floats.
    pub fn has_tensor_cores(&self) -> bool {
        self.tensor_cores
    }

    /// The same device, whose products go as on devices without such units.
    pub fn without_tensor_cores(&self) -> Self {
        Self {
            tensor_cores: false,
            ..self.clone()
        }
    }

    /// The way by which it is reached: the runtime's name and its compiler's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who pays for memory on it.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Bytes of memory that the units of a cube can share.
    pub(crate) fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    /// Units that a cube has at most, a power of two.
    pub(crate) fn most_units(&self) -> usize {
        self.most_units
    }

    /// Units of a plane, or 0 where sums do not go by planes.
    pub(crate) fn plane_lanes(&self) -> u32 {
        if self.planes { self.lanes } else { 0 }
    }

    /// Runs a task with the device to itself: what it launches is not handed from thread to thread
    /// one by one, and nothing of others comes between.
    pub(crate) fn alone<R: Send + 'static>(
        &self,
        task: impl FnOnce() -> R + Send,
    ) -> Result<R, GpuError> {
        guard("a task", || self.client.exclusive(task))?
            .map_err(|error| GpuError::Failed(error.to_string()))
    }

    /// Runs a task with the device to itself, while nobody waits for any device.
    pub(crate) fn recording<R: Send + 'static>(
        &self,
        task: impl FnOnce() -> R + Send,
    ) -> Result<R, GpuError> {
        // It guards nothing that a panic could leave half done.
        let _nobody_waits = RECORDING.write().unwrap_or_else(PoisonError::into_inner);
        self.alone(task)
    }

    /// Writes words over those of a buffer of the same length.
    pub(crate) fn write(&self, buffer: &Buffer, words: &[u32]) -> Result<(), GpuError> {
        expect_len("write", "the words", words.len(), Some(buffer.words))?;
        let bytes = bytemuck::cast_slice(words).to_vec();
        guard("uploading", || {
            self.client
                .write(&buffer.handle, cubecl::bytes::Bytes::from_bytes_vec(bytes));
        })
    }

    /// Memory for so many words: what is there already if it has that length.
    pub(crate) fn room<'b>(
        &self,
        buffer: &'b mut Option<Buffer>,
        words: usize,
    ) -> Result<&'b Buffer, GpuError> {
        if buffer.as_ref().is_none_or(|there| there.words != words) {
            // The old one goes first, so that there is room.
            *buffer = None;
        }
        match buffer {
            Some(there) => Ok(there),
            None => Ok(buffer.insert(self.empty(words)?)),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Memory for so many words, holding whatever was there.
    ///
    /// # Errors
    /// When the account has no room or the buffer is too long.
    pub fn empty(&self, words: usize) -> Result<Buffer, GpuError> {
        let (charge, some) = self.charge(words)?;
        let handle = guard("allocating", || self.client.empty(4 * some))?;
        Ok(Buffer {
            handle,
            words,
            charge: Arc::new(charge),
        })
    }

    /// The bytes as words, in memory of the device. A last word that is not whole is filled with
    /// zeros, and one of zeros comes after it.
    ///
    /// # Errors
    /// As [`Gpu::empty`].
    pub fn upload_bytes(&self, bytes: &[u8]) -> Result<Buffer, GpuError> {
        let (charge, words) = self.charge((bytes.len() / 4).saturating_add(2))?;
        let mut padded = Vec::with_capacity(4 * words);
        padded.extend_from_slice(bytes);
        padded.resize(4 * words, 0);
        let handle = guard("uploading", || {
            self.client
                .create(cubecl::bytes::Bytes::from_bytes_vec(padded))
        })?;
        Ok(Buffer {
            handle,
            words,
            charge: Arc::new(charge),
        })
    }

    /// These numbers, in memory of the device.
    ///
    /// # Errors
    /// As [`Gpu::empty`].
    pub fn upload(&self, numbers: &[f32]) -> Result<Buffer, GpuError> {
        self.upload_words(bytemuck::cast_slice(numbers))
    }

    /// These words, in memory of the device.
    ///
    /// # Errors
    /// As [`Gpu::empty`].
    pub fn upload_words(&self, words: &[u32]) -> Result<Buffer, GpuError> {
        // A buffer of nothing has no address.
        let some = if words.is_empty() { &[0][..] } else { words };
        let (charge, _) = self.charge(some.len())?;
        let handle = guard("uploading", || {
            self.client.create_from_slice(bytemuck::cast_slice(some))
        })?;
        Ok(Buffer {
            handle,
            words: words.len(),
            charge: Arc::new(charge),
        })
    }

    /// Reads a buffer of numbers. Waits for everything that was launched before.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn read(&self, buffer: &Buffer) -> Result<Vec<f32>, GpuError> {
        Ok(self
            .read_words(buffer)?
            .into_iter()
            .map(f32::from_bits)
            .collect())
    }

    /// Reads a buffer of words. Waits for everything that was launched before.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn read_words(&self, buffer: &Buffer) -> Result<Vec<u32>, GpuError> {
        let _nobody_records = RECORDING.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = guard("reading", || self.client.read_one(buffer.handle.clone()))?
            .map_err(|error| GpuError::Failed(error.to_string()))?;
        let words: Vec<u32> = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .take(buffer.words)
            .map(|word| u32::from_le_bytes(*word))
            .collect();
        expect_len("read", "the buffer", words.len(), Some(buffer.words))?;
        Ok(words)
    }

    /// Waits for everything that was launched.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn wait(&self) -> Result<(), GpuError> {
        let _nobody_records = RECORDING.read().unwrap_or_else(PoisonError::into_inner);
        guard("waiting", || cubecl::future::block_on(self.client.sync()))?
            .map_err(|error| GpuError::Failed(error.to_string()))
    }

    fn charge(&self, words: usize) -> Result<(MemoryCharge, usize), GpuError> {
        let words = words.max(1);
        // Kernels count words in 32 bits.
        if u32::try_from(words).is_err() {
            return Err(GpuError::Unsupported(format!(
                "a buffer of {} bytes",
                words.saturating_mul(4)
            )));
        }
        Ok((self.account.charge_memory(4 * words as u64)?, words))
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} lanes)", self.name, self.lanes)
    }
}

/// Words of 32 bits in memory of a device. Dropping it, and every part of it, gives the memory
/// back.
#[derive(Clone)]
pub struct Buffer {
    handle: Handle,
    words: usize,
    charge: Arc<MemoryCharge>,
}

impl Buffer {
    /// The words that begin at this one, a multiple of [`ALIGNED`], as far as there are any.
    pub(crate) fn part(&self, start: usize, words: usize) -> Self {
        let start = start.min(self.words);
        Self {
            handle: self.handle.clone().offset_start(4 * start as u64),
            words: words.min(self.words - start),
            charge: Arc::clone(&self.charge),
        }
    }

    /// Words, or numbers.
    pub fn len(&self) -> usize {
        self.words
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// The buffer as a kernel's argument of four words an element; words beyond the last four are
    /// none of it.
    pub(crate) fn fours(&self) -> BufferArg {
        // SAFETY: as of `arg`; a kernel that takes it reads whole rows of fours alone.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), (self.words / 4).max(1)) }
    }

    /// The buffer as a kernel's argument.
    pub(crate) fn arg(&self) -> BufferArg {
        // SAFETY: the handle was made for so many words, and for one where there are none.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.words.max(1)) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} words", self.words)
    }
}

/// So many cubes, in a form that every device takes: none has more than 65,535 in a direction.
pub(crate) fn cubes(count: usize) -> CubeCount {
    const WIDEST: usize = 32_768;
    let wide = count.clamp(1, WIDEST);
    // Buffers have fewer than 2³² words, so there are fewer cubes than that.
    CubeCount::Static(wide as u32, count.div_ceil(wide) as u32, 1)
}

/// Runs what may panic in the runtime, and turns that into an error.
pub(crate) fn guard<T>(what: &str, run: impl FnOnce() -> T) -> Result<T, GpuError> {
    catch_unwind(AssertUnwindSafe(run))
        .map_err(|panic| GpuError::Failed(format!("{what}: {}", reason(&*panic))))
}

fn reason(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it gave no reason")
}
