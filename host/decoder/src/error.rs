//! What can go wrong with a language model.

use std::path::PathBuf;

use skep_kernels::ShapeError;
use skep_weights::{GgufError, WeightsError};

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The weights cannot be read or are unsound.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The metadata of a GGUF file are unsound.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration is not what a model's configuration looks like.
    #[error("{path} is not a language model's configuration: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An architecture that there is no implementation of.
    #[error(
        "{path}: the architecture {architecture:?} is not supported; supported are {}",
        crate::config::Architecture::names()
    )]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What it says.
        architecture: String,
    },
    /// Something of a known architecture that there is no implementation of.
    #[error("{path}: {what} is not supported")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What.
        what: String,
    },
}

/// Why a forward pass could not be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// A token that the model does not have.
    #[error("token {token} is none of the model's {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// Tokens that there are.
        vocabulary: usize,
    },
    /// A position beyond the longest text that the model was made for.
    #[error("position {position} is beyond the model's context of {context} tokens")]
    Context {
        /// The position.
        position: usize,
        /// Positions that there are.
        context: usize,
    },
    /// An adapter of the batch was loaded for a model of other shapes.
    #[error("an adapter of the batch was loaded for a model of other shapes; load it for this one")]
    OtherBase,
    /// The pages of an adapter of the batch are none of the pool's.
    #[error("an adapter of the batch does not lie in this pool: {0}")]
    AdapterPages(String),
    /// Lengths do not fit together.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}
