//! Fine-tuning: low-rank adapters of language models and sentence encoders, trained on plain
//! buffers over the base's packed weights (LoRA, arXiv 2106.09685; QLoRA, arXiv 2305.14314; DoRA,
//! arXiv 2402.09353).
//!
//! | module | what it is |
//! |---|---|
//! | [`base`] | a frozen decoder or encoder, as it is stored or in NF4 |
//! | [`nf4`] | 4-bit weights with double quantization |
//! | [`lora`] | which matrices an adapter changes, and its parameters |
//! | [`batch`] | examples and losses |
//! | [`trainer`] | forward-backward, steps, evaluation, samples |
//! | [`optimizer`] | AdamW in 32 and in 8 bits, schedules |
//! | [`device`] | passes that something else than the processor computes |
//!
//! A [`Trainer`] saves adapters as folders that PEFT and the engine load, and itself as a
//! checkpoint to go on from.
//!
//! The base has no gradients: they flow through it to the adapters and no further, which is why
//! there is a backward pass for each operator by hand rather than a tape of tensors
//! (`docs/decisions/0012`).
//!
//! What this crate must never do: keep a dense copy of a quantized base; change the weights on a
//! failed call; trust an example, an adapter or a checkpoint; know anything of guests or networks.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod again;
pub mod base;
pub mod batch;
mod bf16;
mod checkpoint;
mod decoder;
pub mod device;
pub mod dynamic8;
mod encoder;
mod error;
mod files;
mod gemm;
pub mod lora;
mod loss;
pub mod nf4;
mod operators;
pub mod optimizer;
mod pass;
mod peft;
mod pool;
mod random;
#[cfg(test)]
mod testing;
pub mod trainer;

pub use again::Made;
pub use base::Base;
pub use batch::{Divisor, Example, Loss, Outcome};
pub use bf16::Precision;
pub use checkpoint::{LARGEST_NOTE, steps_in};
pub use error::TrainError;
pub use lora::{LoraConfig, Targets};
pub use optimizer::{
    HyperParameters, Optimizer, OptimizerKind, Schedule, ScheduleKind, StepOutcome,
};
pub use trainer::{Checkpointing, Sampling, Trainer, TrainerOptions};
