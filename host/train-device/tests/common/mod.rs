//! What the tests of passes share: which device there is, how near it has to come, and bases.
#![allow(dead_code, reason = "each test takes a part of it")]

#[path = "../../../decoder/tests/common/gguf.rs"]
mod gguf;

use std::path::PathBuf;
use std::sync::Arc;

use safetensors::SafeTensors;
use skep_accounts::Account;
use skep_decoder::Decoder;
use skep_train::{Base, Example, LoraConfig, Targets, Trainer, TrainerOptions};
use skep_train_device::{Compute, DeviceDecoder, Place};

/// The device of this build. Without one the tests fail: a build with a way to one promises to have
/// used it.
pub fn place() -> Place {
    #[cfg(feature = "cuda")]
    return Place::Cuda(0);
    #[cfg(all(feature = "wgsl", not(feature = "cuda")))]
    return Place::Vulkan(None);
    #[cfg(not(any(feature = "cuda", feature = "wgsl")))]
    return Place::Processor;
}

/// Whether the device has products of 16 bits. Burn's on the processor are there for their numbers.
pub fn has_sixteen_bits() -> bool {
    !cfg!(feature = "wgsl")
}

/// How near a device has to come to the processor's 32 bits.
pub struct Bounds {
    /// Relative.
    pub losses: f64,
    /// The largest difference in a matrix, over its largest gradient.
    pub gradients: f32,
    /// Of logarithms of probabilities.
    pub logs: f32,
}

/// A card rounds what goes into products of 32 bits to 10 bits after the point, and into those of
/// 16 bits to 7.
pub fn bounds(compute: Compute) -> Bounds {
    match (compute, cfg!(feature = "cuda")) {
        (Compute::F32, false) => Bounds {
            losses: 1e-5,
            gradients: 1e-4,
            logs: 2e-4,
        },
        (Compute::F32, true) => Bounds {
            losses: 1e-3,
            gradients: 2e-2,
            logs: 2e-2,
        },
        (Compute::Bf16, _) => Bounds {
            losses: 1e-2,
            gradients: 2e-1,
            logs: 2e-1,
        },
    }
}

fn beside(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

fn decoder(name: &str) -> Decoder {
    Decoder::load(&beside("decoder/tests/models").join(name)).unwrap()
}

/// A tiny model as it is stored.
pub fn base(name: &str) -> Arc<Base> {
    Arc::new(Base::stored(Arc::new(decoder(name))))
}

/// The same in NF4.
pub fn nf4(name: &str) -> Arc<Base> {
    Arc::new(Base::nf4(&decoder(name), &Account::unlimited()).unwrap())
}

/// A small Llama with a matrix of every quantized format of GGUF.
pub fn blocks() -> Arc<Base> {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.gguf");
    gguf::mixture(false).write(&path);
    Arc::new(Base::stored(Arc::new(Decoder::load(&path).unwrap())))
}

/// A trained adapter of it, so that no gradient is nothing.
pub fn adapter(name: &str) -> PathBuf {
    beside("train/tests/training").join(name)
}

/// That of these adapters.
pub fn lora() -> LoraConfig {
    LoraConfig {
        rank: 4,
        alpha: 6.0,
        targets: Targets::AllLinear,
        ..LoraConfig::default()
    }
}

pub fn options() -> TrainerOptions {
    TrainerOptions {
        threads: 2,
        ..TrainerOptions::default()
    }
}

/// Texts with weights, of lengths of their own.
pub fn examples(name: &str) -> Vec<Example> {
    let file = adapter(name).join("reference.safetensors");
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| {
        tensors
            .tensor(name)
            .unwrap()
            .data()
            .as_chunks::<4>()
            .0
            .to_vec()
    };
    let tokens: Vec<u32> = words("tokens")
        .into_iter()
        .map(u32::from_le_bytes)
        .collect();
    let weights: Vec<f32> = words("weights")
        .into_iter()
        .map(f32::from_le_bytes)
        .collect();
    let mut start = 0;
    let lengths = words("lengths").into_iter().map(u32::from_le_bytes);
    lengths
        .map(|length| {
            let range = start..start + length as usize;
            start = range.end;
            Example {
                tokens: tokens[range.clone()].to_vec(),
                weights: weights[range].to_vec(),
                ..Example::default()
            }
        })
        .collect()
}

/// Texts of so many words.
pub fn texts_of(vocabulary: usize) -> Vec<Example> {
    [9, 9, 5]
        .iter()
        .map(|length| Example {
            tokens: (0..*length)
                .map(|n| (n * 37 + length) % vocabulary as u32)
                .collect(),
            ..Example::default()
        })
        .collect()
}

pub fn open(base: &Arc<Base>, lora: LoraConfig) -> Trainer {
    Trainer::open(Arc::clone(base), lora, &options()).unwrap()
}

/// The same on the device, which charges this account.
pub fn on_device(
    base: &Arc<Base>,
    lora: LoraConfig,
    compute: Compute,
    account: &Account,
) -> Trainer {
    let device = DeviceDecoder::upload(base, place(), compute, account).unwrap();
    let mut trainer = open(base, lora);
    trainer.compute_on(Arc::new(device)).unwrap();
    trainer
}

/// The largest difference, over the largest magnitude of what is wanted.
pub fn relative(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let size = want.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let pairs = got.iter().zip(want);
    pairs.fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / size.max(1e-30)
}
