//! Why an operator did not do what it was asked.

use skep_accounts::QuotaError;
use thiserror::Error;

/// Why an operator did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TensorError {
    /// A limit of the account would have been passed. Drop tensors, work in smaller pieces, or
    /// ask for a larger limit.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The arguments do not fit together; the text names the operator, shapes and dtypes.
    #[error("{0}")]
    Invalid(String),
    /// The device could not do it, through no fault of the caller's.
    #[error("the device failed: {0}")]
    Failed(String),
}
