//! Sentence encoders of the node.

use crate::bindings::imports::skep::model::encoders as wit;
use crate::{Result, Tensor};

/// A sentence encoder: it turns a text into a vector whose direction is its meaning.
///
/// The node holds the weights, and shares them among all runs. A run pays for the activations
/// and for the work.
pub struct Encoder(wit::Encoder);

/// What an [`Encoder`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderInfo {
    /// The name under which the node knows it.
    pub name: String,
    /// The digest of the model's manifest: 64 lower-case hexadecimal digits.
    pub digest: String,
    /// The number of elements of an embedding.
    pub dimensions: u32,
    /// Longer texts are cut to this many tokens.
    pub max_tokens: u32,
}

impl Encoder {
    /// Opens an encoder by name or digest; `"default"` is the one that was chosen for the run.
    ///
    /// # Errors
    /// [`Error::Denied`](crate::Error::Denied) without a grant for the model.
    pub fn open(name: &str) -> Result<Self> {
        Ok(Encoder(wit::Encoder::open(name)?))
    }

    /// What this encoder is.
    pub fn info(&self) -> EncoderInfo {
        let info = self.0.info();
        EncoderInfo {
            name: info.name,
            digest: info.digest,
            dimensions: info.dimensions,
            max_tokens: info.max_tokens,
        }
    }

    /// The number of tokens in each text, before any cut.
    pub fn count_tokens<T: AsRef<str>>(&self, texts: &[T]) -> Result<Vec<u32>> {
        let texts: Vec<&str> = texts.iter().map(T::as_ref).collect();
        Ok(self.0.count_tokens(&texts)?)
    }

    /// The embedding of each text: an `f32` tensor [texts, dimensions] whose rows have length 1.
    ///
    /// The more texts a call has, the better the device is used: the node batches them by
    /// length, and an embedding does not depend on its neighbours.
    pub fn embed<T: AsRef<str>>(&self, texts: &[T]) -> Result<Tensor> {
        let texts: Vec<&str> = texts.iter().map(T::as_ref).collect();
        Ok(Tensor(self.0.embed(&texts)?))
    }

    /// The same encoder as an adapter of it changes it, by name or digest.
    ///
    /// # Errors
    /// [`Error::Denied`](crate::Error::Denied) without a grant for the adapter, and
    /// [`Error::Invalid`](crate::Error::Invalid) for one of another model.
    pub fn with_adapter(&self, name: &str) -> Result<Self> {
        Ok(Encoder(self.0.with_adapter(name)?))
    }

    /// What the classes are called that its adapter tells apart; empty without one that was trained
    /// on classes.
    pub fn classes(&self) -> Vec<String> {
        self.0.classes()
    }

    /// For each text the natural logarithm of each class's probability: an `f32` tensor [texts,
    /// classes].
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) without classes.
    pub fn classify<T: AsRef<str>>(&self, texts: &[T]) -> Result<Tensor> {
        let texts: Vec<&str> = texts.iter().map(T::as_ref).collect();
        Ok(Tensor(self.0.classify(&texts)?))
    }
}
