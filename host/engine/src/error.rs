//! What can go wrong with a request.

use skep_accounts::QuotaError;
use skep_decoder::{AdapterError, ForwardError};
use skep_text::{ChatError, GrammarError, TokenizerError};

use crate::adapters::StoreError;
use crate::runner::RunnerError;

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
    /// The device that computes the model failed.
    #[error(
        "{device} failed, and the text that it was computing with it: {reason}; ask again, or let \
         the node compute the model on its processor"
    )]
    Device {
        /// What people call it.
        device: String,
        /// Why.
        reason: String,
    },
    /// Whoever asked does not want it any more.
    #[error("the request was cancelled")]
    Cancelled,
    /// A fault of the engine's own.
    #[error("the engine failed: {0}")]
    Failed(String),
}

impl From<RunnerError> for EngineError {
    fn from(error: RunnerError) -> Self {
        match error {
            RunnerError::Batch(error) => Self::Forward(error),
            RunnerError::Device { device, reason } => Self::Device { device, reason },
        }
    }
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The system refused a thread.
    #[error("no thread for the engine: {0}")]
    Thread(#[from] std::io::Error),
    /// The store of adapters could not be made.
    #[error(transparent)]
    Adapters(#[from] StoreError),
    /// The model could not be put where it is to be computed.
    #[error("{name} cannot be computed there: {source}")]
    Load {
        /// The model.
        name: String,
        /// Why.
        source: RunnerError,
    },
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unknown { name } => Self::NoAdapter(name),
            StoreError::Load(AdapterError::Quota(error)) => Self::Quota(error),
            other => Self::Adapter(other.to_string()),
        }
    }
}
