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
