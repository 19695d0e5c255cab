//! The models that guests may open, as the sandbox sees them.
//!
//! A node loads a model once and shares it among all runs. Small traits stand between: what an
//! encoder does for a run that pays for it, and where models are found by name. What a language
//! model does is in [`language`](crate::language).

use std::sync::Arc;

use skep_model::Encoder;
use skep_tensor::{Account, QuotaError, Tensor};
use thiserror::Error;

use crate::language::{LanguageModel, TextAdapter};

/// What an encoder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderInfo {
    /// The name under which the node knows it.
    pub name: String,
    /// The digest of the model's manifest.
    pub digest: String,
    /// The number of elements of an embedding.
    pub dimensions: u32,
    /// Longer texts are cut to this many tokens.
    pub max_tokens: u32,
    /// Bytes of its weights, which all runs share.
    pub weights_bytes: u64,
}

/// Why a model did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ModelError {
    /// There is no such model or adapter on this node.
    #[error("there is no model or adapter named {0} on this node")]
    NotFound(String),
    /// A limit of the run would have been passed.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The arguments do not fit the model.
    #[error("{0}")]
    Invalid(String),
    /// The host could not do it.
    #[error("{0}")]
    Failed(String),
}

/// A sentence encoder that runs share.
pub trait TextEncoder: Send + Sync + 'static {
    /// What it is.
    fn info(&self) -> EncoderInfo;

    /// The number of tokens in each text.
    ///
    /// # Errors
    /// [`ModelError`].
    fn count_tokens(&self, texts: &[String], account: &Account) -> Result<Vec<u32>, ModelError>;

    /// The embeddings, an `f32` tensor [texts, dimensions] with rows of length 1. Activations
    /// and work are charged to the account, which is also asked between pieces of the work
    /// whether to go on.
    ///
    /// # Errors
    /// [`ModelError`].
    fn embed(&self, texts: &[String], account: &Account) -> Result<Tensor, ModelError>;

    /// The same encoder as an adapter changes it.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for an adapter of another model.
    fn adapted(&self, adapter: &dyn TextAdapter) -> Result<Arc<dyn TextEncoder>, ModelError> {
        let (adapter, own) = (adapter.info(), self.info());
        Err(ModelError::Invalid(format!(
            "the adapter {} changes {} ({}), and this encoder is {} ({}); open its own base",
            adapter.name, adapter.base_name, adapter.base, own.name, own.digest
        )))
    }

    /// What its classes are called, if it has an adapter that tells some apart.
    fn classes(&self) -> Vec<String> {
        Vec::new()
    }

    /// The natural logarithms of the classes' probabilities, an `f32` tensor [texts, classes],
    /// charged as embeddings are.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] without classes; otherwise as [`TextEncoder::embed`].
    fn classify(&self, _texts: &[String], _account: &Account) -> Result<Tensor, ModelError> {
        Err(ModelError::Invalid(format!(
            "{} tells no classes apart; open an adapter of it that was trained on labels",
            self.info().name
        )))
    }

    /// The network, for whoever trains an adapter for it; none if it is not in this process.
    fn encoder(&self) -> Option<Encoder> {
        None
    }
}

/// A model that an adapter is trained for.
#[derive(Clone)]
pub enum BaseModel {
    /// One that writes.
    Language(Arc<dyn LanguageModel>),
    /// One that embeds.
    Encoder(Arc<dyn TextEncoder>),
}

/// Where models and adapters are found. Loading a model is charged to nobody. An adapter with magnitudes has to
/// be measured when it is read, which takes work by its shapes alone: that is charged to the account of whoever
/// opens it, or a model that does everything with it, each time and whether it was read already or not, so that
/// a run comes to the same on every node. Reading one ends when the account may not go on.
pub trait Models: Send + Sync + 'static {
    /// The encoder that this run knows as `name`: `default`, a name or a digest. May load it,
    /// and so may take long.
    ///
    /// # Errors
    /// [`ModelError`].
    fn open(&self, name: &str, account: &Account) -> Result<Arc<dyn TextEncoder>, ModelError>;

    /// The language model that this run knows as `name`: `default`, a name or a digest. May load
    /// it, and so may take long.
    ///
    /// # Errors
    /// [`ModelError`].
    fn open_text(
        &self,
        name: &str,
        account: &Account,
    ) -> Result<Arc<dyn LanguageModel>, ModelError>;

    /// The model that an adapter is trained for: a language model, unless whoever started the run
    /// chose an encoder.
    ///
    /// # Errors
    /// [`ModelError`].
    fn open_base(&self, name: &str, account: &Account) -> Result<BaseModel, ModelError> {
        self.open_text(name, account).map(BaseModel::Language)
    }

    /// The adapter of this name or digest; and begins to bring it to where it is used.
    ///
    /// # Errors
    /// [`ModelError`].
    fn open_adapter(
        &self,
        name: &str,
        account: &Account,
    ) -> Result<Arc<dyn TextAdapter>, ModelError>;
}

/// An encoder that a guest has opened.
pub struct OpenEncoder(pub(crate) Arc<dyn TextEncoder>);
