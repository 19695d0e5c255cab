//! What the forward pass of a language model is made of, on graphics processors.
//!
//! These are the operators of `skep-kernels` written in CubeCL, over the same packed weights and
//! the same pages of keys, values and adapters, and held against them by tests. One source serves
//! every runtime that CubeCL has: CUDA with the feature `cuda`, Vulkan with `wgsl`, or with `vulkan`
//! by way of SPIR-V. With none the crate is empty and costs a build nothing. What has been run, and on
//! what, is in `docs/decisions/0013`.
//!
//! | module | what it computes |
//! |---|---|
//! | [`linear`] | products of activations with packed weights, and rows of an embedding |
//! | [`attention`] | keys and values into pages, and attention over them with grouped heads |
//! | [`lora`] | what low-rank adapters add, each token with its own |
//! | [`rows`] | norms, rotary positions, gates, sums |
//! | [`choose`] | the largest logits of each row, so that not all of them travel |
//! | [`packed`] | how packed weights are taken apart, for other kernels too; [`numbers`] in words |
//!
//! Weights of 4 to 8 bits are multiplied as integers with activations rounded to 8 bits, as on
//! the CPU: what differs is the order in which blocks are summed, and with it the last bits.
//!
//! What this crate must never do: launch a kernel before every shape and every number in its
//! tables has been checked; allocate on a device without charging an account first; let a fault
//! of a device's driver take the host down.

#![cfg(any(feature = "cuda", feature = "wgsl"))]
// What the kernels' own language asks for: places are counted, not iterated over, its functions
// take as many arguments as a kernel has buffers, and it has neither of these methods of integers.
// Nor has it `is_nan`: what does not equal itself is no number.
#![allow(
    clippy::needless_range_loop,
    clippy::too_many_arguments,
    clippy::manual_div_ceil,
    clippy::manual_is_multiple_of,
    clippy::eq_op
)]

pub mod attention;
mod batch;
pub mod choose;
mod device;
mod error;
pub mod linear;
pub mod lora;
pub mod numbers;
mod operators;
pub mod packed;
mod pages;
mod reduce;
mod round;
pub mod rows;

pub use batch::{BatchPlan, Kept};
pub use device::{Buffer, Gpu, GpuKind};
pub use error::GpuError;
pub use operators::{Layer, Rows};
