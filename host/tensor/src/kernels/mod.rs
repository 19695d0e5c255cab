//! CPU kernels: the inner loops that decide the speed of host inference, written once over a
//! small vector trait and instantiated per instruction set, chosen at run time.
//!
//! What lives here works on raw `f32`/`i16` memory and knows neither tensors nor accounts; the
//! safe, shape-checked face of it is [`crate::operators`]. A kernel must never read or write
//! outside the ranges its caller promises, must never allocate, and must give the same bits for
//! a row whatever other rows are in the call: the order of every reduction depends on the row's
//! own length only.

pub(crate) mod attention;
pub(crate) mod gemm;
mod isa;
pub(crate) mod rows;
pub(crate) mod simd;

pub use isa::Isa;
