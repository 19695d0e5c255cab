//! What can go wrong on a graphics processor.

use skep_accounts::QuotaError;
use skep_kernels::ShapeError;

/// Why an operator was not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// There is no such device.
    #[error(
        "there is no graphics processor to use ({0}); install its driver, or run on the processor"
    )]
    NoDevice(String),
    /// A limit of the account would have been passed.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// Lengths do not fit together.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The operator exists, but not for this.
    #[error("{0} is not supported on graphics processors; use the processor for it")]
    Unsupported(String),
    /// The device could not do it, through no fault of the caller's.
    #[error("the graphics processor failed: {0}")]
    Failed(String),
}

/// Checks a length.
pub(crate) fn expect_len(
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

/// Checks that there is an element of this number among so many.
pub(crate) fn expect_below(
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
