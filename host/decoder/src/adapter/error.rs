//! What can go wrong with an adapter.

use std::path::PathBuf;

use skep_accounts::QuotaError;
use skep_kernels::ShapeError;
use skep_weights::{FolderError, PeftError};

/// Why an adapter could not be loaded or placed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file of weights is unsound.
    #[error(transparent)]
    Weights(#[from] FolderError),
    /// A file is not what an adapter's looks like.
    #[error("{path} is not an adapter's: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The adapter does something that there is no implementation of.
    #[error(
        "{path}: {what} is not supported; an adapter here is LoRA or DoRA on the linear layers"
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What.
        what: String,
    },
    /// The adapter was made for a model of other shapes.
    #[error(
        "{path} does not fit the base {base:?}: {reason}. It says that it was made for {named:?}; \
         attach it to that model"
    )]
    WrongBase {
        /// The adapter.
        path: PathBuf,
        /// The base that it was to be attached to.
        base: String,
        /// The base that it names itself.
        named: String,
        /// What does not fit.
        reason: String,
    },
    /// An element is NaN or infinite, or the elements and their scale are too large to be
    /// multiplied.
    #[error("{path}: {tensor:?} has elements that are not finite, or too large to be used")]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Whoever it is read for may not have the work done, or does not wait for it any more.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The pages are not those of an adapter.
    #[error("an adapter cannot lie in these pages: {what} are {got}, not {want}")]
    Pages {
        /// What of them.
        what: &'static str,
        /// As they are.
        got: usize,
        /// As they should be.
        want: usize,
    },
    /// Lengths do not fit together.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl From<PeftError> for AdapterError {
    fn from(error: PeftError) -> Self {
        match error {
            PeftError::Read { path, source } => Self::Read { path, source },
            PeftError::Unsupported { path, what } => Self::Unsupported { path, what },
            PeftError::Malformed { path, reason } => Self::Malformed { path, reason },
        }
    }
}
