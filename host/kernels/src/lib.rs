//! What the forward pass of a language model is made of, on CPUs.
//!
//! | module | what it computes |
//! |---|---|
//! | [`linear`] | products of activations with packed weights, which are never expanded |
//! | [`attention`] | attention with grouped heads over keys and values that lie in pages |
//! | [`kv`] | keys and values in those pages |
//! | [`lora`] | what low-rank adapters add, each token with its own, from the same pages |
//! | [`operators`] | all of these as a trait, which other devices implement too |
//! | [`pages`] | the memory of those pages |
//! | [`rows`] | norms, rotary positions, gates, softmax |
//! | [`team`] | the threads that share the work of one product |
//!
//! A token's results do not depend on which other tokens are computed with it: every sum is made
//! in one order, whatever the batch.
//!
//! What this crate must never do: read or write outside the slices that it is given, whatever
//! their lengths; let a result depend on the batch or the number of threads, or on whose mathematics
//! the system brings along (sines and powers are those of `libm`, the same bits wherever nodes compare
//! what they made); allocate in a kernel; know anything of files, models or accounts.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod activations;
pub mod attention;
mod isa;
pub mod kv;
pub mod linear;
pub mod lora;
pub mod operators;
pub mod pages;
pub mod rows;
pub mod team;

pub use activations::{Activations, Precision};
pub use isa::Isa;
pub use linear::{PackedMatrix, linear};
pub use pages::PageMemory;
pub use team::Team;

/// Lengths that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operator}: {what} has {got} elements where {want} are needed")]
pub struct ShapeError {
    /// The operator.
    pub operator: &'static str,
    /// Which of its arguments.
    pub what: &'static str,
    /// Elements that were given.
    pub got: usize,
    /// Elements that the other arguments imply.
    pub want: usize,
}

/// Checks that there is an element of this number among so many. The error says that one more
/// than the number would be needed.
///
/// # Errors
/// When there is none.
pub fn expect_below(
    operator: &'static str,
    what: &'static str,
    number: usize,
    limit: usize,
) -> Result<(), ShapeError> {
    if number < limit {
        return Ok(());
    }
    Err(ShapeError {
        operator,
        what,
        got: limit,
        want: number.saturating_add(1),
    })
}

/// Checks a length; one that overflowed is none that fits.
///
/// # Errors
/// When it is another.
pub fn expect_len(
    operator: &'static str,
    what: &'static str,
    got: usize,
    want: Option<usize>,
) -> Result<(), ShapeError> {
    match want {
        Some(want) if want == got => Ok(()),
        want => Err(ShapeError {
            operator,
            what,
            got,
            want: want.unwrap_or(usize::MAX),
        }),
    }
}
