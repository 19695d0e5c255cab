//! The models of a node, as guests see them: loaded once, shared by all runs.

use std::path::Path;
use std::sync::Arc;

use skep_model::{Catalog, CatalogEntry, EncodeError, Encoder, LoadError};
use skep_registry::{Digest, ModelTask};
use skep_sandbox::{EncoderInfo, LanguageModel, ModelError, Models, TextAdapter, TextEncoder};
use skep_tensor::{Account, Device, Tensor};

use super::kind::Found;
use super::language::NodeLanguages;
use crate::embedded;
use crate::failure::{Failure, FailureKind};
use crate::home::Home;

/// All models that this node has open.
pub struct NodeModels {
    /// The device that encoders put their results on.
    pub device: Device,
    /// The language models.
    pub languages: NodeLanguages,
    catalog: Catalog,
}

impl NodeModels {
    /// No models yet, on this device.
    pub fn new(device: Device) -> Self {
        Self {
            catalog: Catalog::new(device),
            languages: NodeLanguages::default(),
            device,
        }
    }

    /// Makes a model's folder or file known under its name and digest, and says what it does. One
    /// that is known stays loaded.
    pub fn add(&self, name: &str, digest: Digest, path: &Path) -> Result<ModelTask, Failure> {
        let found = Found::at(path)?;
        match found.task {
            ModelTask::SentenceEncoder => self.add_encoder(name, digest, &found.path)?,
            ModelTask::LanguageModel => self.languages.add(name, digest, &found.path),
        }
        Ok(found.task)
    }

    fn add_encoder(&self, name: &str, digest: Digest, folder: &Path) -> Result<(), Failure> {
        if self
            .catalog
            .find(name)
            .is_ok_and(|entry| entry.digest == digest)
        {
            return Ok(());
        }
        let name = name
            .parse()
            .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
        self.catalog.add(name, digest, folder.to_path_buf());
        Ok(())
    }

    /// Opens an encoder by name or digest.
    fn open(&self, name: &str) -> Result<(CatalogEntry, Encoder), LoadError> {
        let entry = self.catalog.find(name)?;
        let (_, encoder) = self.catalog.open(&entry.digest.to_string())?;
        Ok((entry, encoder))
    }
}

/// The models that one run may open: those of the node, and one of each kind as `default`.
pub struct RunModels {
    /// The node's.
    pub node: Arc<NodeModels>,
    /// The digest of the encoder that is the default one.
    pub encoder: String,
    /// The language model that is the default one.
    pub language: DefaultLanguage,
}

/// The language model that a run gets as `default`.
pub enum DefaultLanguage {
    /// The one of this digest, which the node knows.
    Chosen(String),
    /// The one that comes with skep. It is written out to this home only for a guest that opens it.
    Embedded(Home),
}

impl RunModels {
    fn default_language(&self) -> Result<Arc<dyn LanguageModel>, ModelError> {
        let home = match &self.language {
            DefaultLanguage::Chosen(digest) => return self.node.languages.open(digest),
            DefaultLanguage::Embedded(home) => home,
        };
        let model = &embedded::LANGUAGE;
        let folder = model.folder(home).map_err(|error| {
            ModelError::Failed(format!("cannot write out {}: {error}", model.name))
        })?;
        let added = self.node.add(model.name, model.digest(), &folder);
        added.map_err(|failure| ModelError::Failed(failure.to_string()))?;
        self.node.languages.open(&model.digest().to_string())
    }
}

impl Models for RunModels {
    fn open(&self, name: &str) -> Result<Arc<dyn TextEncoder>, ModelError> {
        let wanted = if name == "default" {
            &self.encoder
        } else {
            name
        };
        let (entry, encoder) = self.node.open(wanted).map_err(|error| match error {
            LoadError::Unknown { .. } => ModelError::NotFound(name.to_owned()),
            other => ModelError::Failed(other.to_string()),
        })?;
        Ok(Arc::new(Open { entry, encoder }))
    }

    fn open_text(&self, name: &str) -> Result<Arc<dyn LanguageModel>, ModelError> {
        match name {
            "default" => self.default_language(),
            _ => self.node.languages.open(name),
        }
    }

    fn open_adapter(&self, name: &str) -> Result<Arc<dyn TextAdapter>, ModelError> {
        Err(ModelError::NotFound(name.to_owned()))
    }
}

/// An encoder with what the node knows of it.
struct Open {
    entry: CatalogEntry,
    encoder: Encoder,
}

impl TextEncoder for Open {
    fn info(&self) -> EncoderInfo {
        let info = self.encoder.info();
        EncoderInfo {
            name: self.entry.name.to_string(),
            digest: self.entry.digest.to_string(),
            dimensions: info.dimensions,
            max_tokens: info.max_tokens,
            weights_bytes: info.resident_bytes,
        }
    }

    fn count_tokens(&self, texts: &[String], _: &Account) -> Result<Vec<u32>, ModelError> {
        self.encoder.count_tokens(texts).map_err(explain)
    }

    fn embed(&self, texts: &[String], account: &Account) -> Result<Tensor, ModelError> {
        self.encoder.embed(texts, account).map_err(explain)
    }
}

fn explain(error: EncodeError) -> ModelError {
    match error {
        EncodeError::Quota(quota) => ModelError::Quota(quota),
        other => ModelError::Failed(other.to_string()),
    }
}
