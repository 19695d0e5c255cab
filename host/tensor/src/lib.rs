//! Tensors that cannot hurt the machine they run on.
//!
//! A [`Tensor`] is a burn tensor of any rank up to 6 and any [`DType`] that checks its
//! arguments before burn sees them and charges an [`Account`] before memory is allocated or
//! work is launched. It is what the `skep:tensor` contract is made of, and what model code
//! runs on.
//!
//! What this crate must never do: panic, hang or allocate what untrusted arguments say; leave
//! an allocation uncharged; know anything of components, models or networks.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod arrange;
mod compare;
mod convert;
pub mod cost;
mod device;
mod dtype;
mod element;
mod elementwise;
mod error;
mod few;
mod index;
mod kernels;
mod launch;
mod normalise;
pub mod operators;
mod product;
mod random;
mod reduce;
mod rows;
mod shape;
mod tensor;

pub use arrange::Span;
pub use device::Device;
pub use dtype::DType;
pub use error::TensorError;
pub use shape::MAX_RANK;
pub use skep_accounts::{Account, Limits, MemoryCharge, QuotaError, QuotaKind, Usage};
pub use tensor::Tensor;
