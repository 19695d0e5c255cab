//! Why a model could not be loaded, and why a text could not be embedded.

use std::path::PathBuf;

use skep_tensor::operators::ShapeError;
use skep_tensor::{QuotaError, TensorError};

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file of the folder could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is larger than any honest one of its kind.
    #[error("{path} has {bytes} bytes; at most {limit} are read")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The size up to which it is read.
        limit: u64,
    },
    /// A file is not what its name says, or contradicts itself.
    #[error("{path} is malformed: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder holds a sound model of a kind that is not supported.
    #[error("{path} asks for {feature}, which is not supported")]
    Unsupported {
        /// The file that asks for it.
        path: PathBuf,
        /// What it asks for.
        feature: String,
    },
    /// A number of the configuration is out of its range.
    #[error("{path}: {field} is {value}, but must be {range}")]
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        range: String,
    },
    /// The weights lack a tensor.
    #[error("{path} has no tensor {name:?}, which the configuration needs")]
    MissingTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name, without the prefix that some files put before all names.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{path}: tensor {name:?} has shape {got:?}, but the configuration says {want:?}")]
    WrongShape {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        got: Vec<usize>,
        /// The shape it should have.
        want: Vec<usize>,
    },
    /// A tensor has a type that is not supported.
    #[error("{path}: tensor {name:?} is {dtype}; weights must be F32, F16 or BF16")]
    WrongType {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A weight is NaN or infinite.
    #[error("{path}: tensor {name:?} holds a NaN or an infinity")]
    NotFinite {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// The tokenizer gives out tokens that the model has no embedding for.
    #[error("{path}: token {token} lies outside the model's vocabulary of {vocabulary}")]
    TokenOutsideVocabulary {
        /// The tokenizer file.
        path: PathBuf,
        /// The greatest token of the tokenizer.
        token: u32,
        /// The number of tokens that the model knows.
        vocabulary: u32,
    },
    /// The catalog has no such model.
    #[error("no model {0:?} here; `skep model list` shows those that are")]
    Unknown(String),
    /// A model's name is not a name.
    #[error("{name:?} is no model name: {reason}")]
    BadName {
        /// What was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A bug in this crate or one it stands on; nothing the folder should be able to cause.
    #[error("loading {path} failed inside: {reason}")]
    Internal {
        /// The folder or file.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
}

/// Why texts could not be embedded.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A limit of the account would have been passed.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The result could not be made into a tensor.
    #[error(transparent)]
    Tensor(TensorError),
    /// The tokenizer refused a text.
    #[error("text {text} could not be cut into tokens: {reason}")]
    Tokenizer {
        /// The text's place in the call, from 0.
        text: usize,
        /// What the tokenizer said.
        reason: String,
    },
    /// The network gave no finite vector for a text: the model is broken.
    #[error("the embedding of text {text} is not finite: the model's weights are broken")]
    NotFinite {
        /// The text's place in the call, from 0.
        text: usize,
    },
    /// The adapter was read for an encoder of other shapes.
    #[error("the adapter was made for an encoder of other shapes; attach it to its own base")]
    Adapter,
    /// Nothing makes classes of what the encoder makes of a text.
    #[error(
        "the encoder has no adapter with a layer for classes: take one that was trained on labels, or \
         embed the texts"
    )]
    NoClasses,
    /// More texts, or longer ones, than one call may bring.
    #[error("{texts} texts of {bytes} bytes are too many for one call; split them")]
    TooMany {
        /// Texts of the call.
        texts: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// A bug in this crate or one it stands on.
    #[error("the encoder failed inside: {0}")]
    Internal(String),
}

impl From<TensorError> for EncodeError {
    fn from(error: TensorError) -> Self {
        match error {
            TensorError::Quota(quota) => EncodeError::Quota(quota),
            other => EncodeError::Tensor(other),
        }
    }
}

impl From<ShapeError> for EncodeError {
    fn from(error: ShapeError) -> Self {
        EncodeError::Internal(error.to_string())
    }
}
