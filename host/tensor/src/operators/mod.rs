//! Operators of transformer encoders over ragged batches on the CPU: the safe face of
//! [`crate::kernels`].
//!
//! A batch is the concatenation of its sequences, `[tokens, width]` row-major, without padding;
//! where sequences matter, their offsets in tokens are given beside it. All functions check
//! lengths before they touch memory. Each row of a result depends on its own sequence only, to
//! the last bit, so batches can be cut and merged freely.
//!
//! These work on host memory and not on burn tensors, because a ragged batch has no rectangular
//! shape and because on the CPU the time lies in kernels that burn does not have. They charge no
//! account: who calls them knows what a batch costs and charges before the first of them.

mod attention;
mod linear;
mod normalize;
mod pooling;

pub use crate::kernels::Isa;
pub use crate::kernels::rows::Activation;
pub use attention::{AttentionScratch, self_attention};
pub use linear::{Linear, LinearScratch, Precision};
pub use normalize::LayerNorm;
pub use pooling::{Pooling, normalize_rows, pool};

/// Lengths that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operator}: {what} has {got} elements where {want} are needed")]
pub struct ShapeError {
    /// The operator that was asked.
    pub operator: &'static str,
    /// The argument that does not fit.
    pub what: &'static str,
    /// Its length.
    pub got: usize,
    /// The length that would fit.
    pub want: usize,
}

/// `got == want`, or an error that says what is wrong.
fn expect_len(
    operator: &'static str,
    what: &'static str,
    got: usize,
    want: Option<usize>,
) -> Result<(), ShapeError> {
    match want {
        Some(want) if want == got => Ok(()),
        _ => Err(ShapeError {
            operator,
            what,
            got,
            want: want.unwrap_or(usize::MAX),
        }),
    }
}

/// Sequence offsets ascend from 0 to `tokens`.
fn expect_offsets(
    operator: &'static str,
    offsets: &[usize],
    tokens: usize,
) -> Result<(), ShapeError> {
    let ascending = offsets.windows(2).all(|w| w[0] <= w[1]);
    let ends = (offsets.first().copied(), offsets.last().copied());
    if ascending && ends == (Some(0), Some(tokens)) {
        return Ok(());
    }
    Err(ShapeError {
        operator,
        what: "the list of offsets, which must ascend from 0 to the number of tokens,",
        got: ends.1.unwrap_or(0),
        want: tokens,
    })
}
