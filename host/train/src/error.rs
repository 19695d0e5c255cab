//! What can go wrong with a training.

use std::path::PathBuf;

use skep_accounts::QuotaError;
use skep_decoder::{AdapterError, ForwardError, LoadError};
use skep_kernels::ShapeError;
use skep_weights::FolderError;

/// Why a step of a training was not made. Unless it says otherwise, nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The account has no room, work or time left for it.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// Lengths do not fit together.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The base could not be loaded.
    #[error(transparent)]
    Base(#[from] LoadError),
    /// The file of an encoder's weights could not be read.
    #[error(transparent)]
    Weights(#[from] FolderError),
    /// An encoder's weights are none that can be trained on.
    #[error("{path} cannot be trained on: {reason}")]
    Encoder {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An adapter could not be loaded, or was made for another base.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A token or a position is none of the model's.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// What was asked cannot be done, whatever the model.
    #[error("{what} is {got}; it must be {want}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// Its value.
        got: String,
        /// What it may be.
        want: &'static str,
    },
    /// No linear layer of the model is a target.
    #[error(
        "no linear layer of the model matches the target modules {patterns:?}; the layers are \
         named like {like}"
    )]
    NoTarget {
        /// How names look.
        like: String,
        /// The modules that were asked for.
        patterns: Vec<String>,
    },
    /// An example cannot be learned from.
    #[error("example {number}: {reason}")]
    Example {
        /// Which of the batch, counted from 0.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The batch has nothing to learn from.
    #[error("the batch has no token with a weight: there is nothing to learn from")]
    NothingToLearn,
    /// A loss or a gradient is NaN or infinite.
    #[error(
        "the training has diverged: {what} is not finite. Gradients were dropped and the weights \
         are those of the last step; go back to the last good checkpoint and use a smaller \
         learning rate"
    )]
    Diverged {
        /// What.
        what: &'static str,
    },
    /// A device that computes passes has failed. Gradients were dropped and the weights are those of
    /// the last step.
    #[error("the device that computes the training has failed: {reason}")]
    Device {
        /// What it said.
        reason: String,
    },
    /// There is no gradient to make a step with.
    #[error("no gradient has been computed since the last step; call forward-backward first")]
    NoGradient,
    /// A file could not be read or written. What lay there before is whole.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A checkpoint is damaged, or is one of another training.
    #[error("{path} is no checkpoint of this training: {reason}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Bytes do not say where this training could be.
    #[error("these bytes are no state of this training: {reason}")]
    State {
        /// What is wrong with them.
        reason: String,
    },
}

impl TrainError {
    /// Something was asked of an encoder that it has no words for.
    pub(crate) fn only_decoders() -> Self {
        Self::Setting {
            what: "the base",
            got: "a sentence encoder".to_owned(),
            want: "a language model, for this; an encoder learns classes",
        }
    }

    pub(crate) fn shape(
        operator: &'static str,
        what: &'static str,
        got: usize,
        want: usize,
    ) -> Self {
        Self::Shape(ShapeError {
            operator,
            what,
            got,
            want,
        })
    }
}
