//! What can go wrong with a request.

use skep_accounts::QuotaError;
use skep_decoder::ForwardError;
use skep_text::{ChatError, GrammarError, TokenizerError};

use crate::adapters::StoreError;

/// Why a request was not taken, or not finished.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The engine has as many requests waiting as it takes.
    #[error(
        "the engine has {waiting} requests waiting, which is as many as it takes; try again later"
    )]
    Busy {
        /// Requests that wait.
        waiting: usize,
    },
    /// A limit of the caller's account would be passed.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The request asks for what cannot be.
    #[error("{0}")]
    Invalid(String),
    /// The request names an adapter that is not there.
    #[error("there is no adapter {0:?} here; add it first")]
    NoAdapter(String),
    /// The adapter cannot be used.
    #[error("{0}")]
    Adapter(String),
    /// The text could not be cut into tokens.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The conversation could not be laid out.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The text cannot be held to the constraint.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// The model refused the batch.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// Whoever asked does not want it any more.
    #[error("the request was cancelled")]
    Cancelled,
    /// A fault of the engine's own.
    #[error("the engine failed: {0}")]
    Failed(String),
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unknown { name } => Self::NoAdapter(name),
            other => Self::Adapter(other.to_string()),
        }
    }
}
