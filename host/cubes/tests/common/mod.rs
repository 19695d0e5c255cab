//! The devices that tests run on, and numbers for them.
#![allow(dead_code)] // Each test file uses a part of it.

use skep_accounts::Account;
use skep_cubes::{Gpu, GpuKind};
use skep_weights::PackedFormat;

/// Every device that this build has a way to: as it is, and without sums by planes and tensor
/// cores. A way without a device behind it fails the test: a build with a feature promises to have
/// tested it.
pub fn devices() -> Vec<Gpu> {
    let mut kinds = Vec::new();
    if cfg!(feature = "cuda") {
        kinds.push(GpuKind::Cuda(0));
    }
    if cfg!(feature = "wgsl") {
        kinds.push(GpuKind::VulkanBest);
    }
    let mut all = Vec::new();
    for kind in kinds {
        let gpu = Gpu::open(kind, Account::unlimited()).unwrap();
        if gpu.has_planes() || gpu.has_tensor_cores() {
            all.push(gpu.without_planes().without_tensor_cores());
        }
        all.push(gpu);
    }
    assert!(!all.is_empty());
    all
}

/// A generator of numbers that repeats itself from a seed.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// From -2 to 2.
    pub fn float(&mut self) -> f32 {
        (self.next() % (1 << 24)) as f32 / (1 << 22) as f32 - 2.0
    }

    pub fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}

/// Blocks of random bits. Scales are as small as those of real weights are, which as 16-bit
/// floats may be below the smallest normal one.
pub fn weights(format: PackedFormat, rows: usize, columns: usize, seed: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let blocks = rows * columns / format.block_len();
    let mut bytes: Vec<u8> = (0..blocks * format.block_bytes())
        .map(|_| numbers.next() as u8)
        .collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        let value = numbers.float();
        let places: &[usize] = match format {
            PackedFormat::F32 => {
                block.copy_from_slice(&value.to_le_bytes());
                &[]
            }
            PackedFormat::F16 => {
                block.copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
                &[]
            }
            PackedFormat::BF16 => {
                block.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes());
                &[]
            }
            PackedFormat::Q4_1 | PackedFormat::Q5_1 | PackedFormat::Q4_K | PackedFormat::Q5_K => {
                &[0, 2]
            }
            PackedFormat::Q6_K => &[208],
            _ => &[0],
        };
        for place in places {
            // Half of them below 6.1e-5, and some negative.
            let size = 2.0_f32.powi(-(numbers.below(12) as i32) - 8);
            let scale = half::f16::from_f32(size * numbers.float());
            block[*place..place + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}
