//! Passes of a fine-tuning on a graphics processor, beside the processor's own in `skep-train`.
//!
//! A [`DeviceDecoder`] is a frozen decoder on a device: its matrices lie there in the four to eight
//! bits that they are kept in, and one at a time is expanded to the floats that products take. A
//! pass keeps the input of each layer and, on the way back, makes the layer again from it (arXiv
//! 1604.06174). Backward passes are by hand, as on the processor, so that there is no tape that
//! would keep what they do not need (`docs/decisions/0034`).
//!
//! | module | what it is |
//! |---|---|
//! | [`place`] | which device, and what it computes with |
//! | `frozen` | frozen matrices, and how they are expanded |
//! | `operators` | norms, rotary positions, gates, attention: there and back |
//! | `layer` | one layer with its adapter, there and back |
//! | `device` | a place as what a node's owner names |
//! | `pass` | a whole pass: layers, output layer, gradients |
//!
//! Products go through burn: its processor backend without any feature, which is for tests, and
//! CUDA with the feature `cuda`, Vulkan with `wgsl`.
//!
//! What this crate must never do: keep a dense copy of a quantized base; take memory of a device
//! before it has been charged; let a fault of a driver take the host down.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod device;
mod frozen;
#[cfg(any(feature = "cuda", feature = "wgsl"))]
mod kernels;
mod layer;
mod operators;
mod pass;
pub mod place;

pub use device::TrainingPlace;
pub use pass::DeviceDecoder;
pub use place::{Compute, Place};
