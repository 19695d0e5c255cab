//! The models of a node, as guests see them: loaded once, shared by all runs.

mod for_others;

use std::path::Path;
use std::sync::Arc;

use skep_model::{Catalog, CatalogEntry, EncodeError, Encoder, LoadError};
use skep_registry::{Base, Digest, ModelTask};
use skep_sandbox::{
    BaseModel, EncoderInfo, LanguageModel, ModelError, Models, TextAdapter, TextEncoder,
};
use skep_swarm::Swarm;
use skep_tensor::{Account, Device, Tensor};
use tokio::runtime::Handle;

pub use self::for_others::ForOthers;
use super::adapters::{Applied, NodeAdapters};
use super::kind::Found;
use super::language::NodeLanguages;
use super::locate;
use crate::config;
use crate::embedded::{self, Embedded};
use crate::failure::{Failure, FailureKind};
use crate::home::Home;

/// All models that this node has open.
pub struct NodeModels {
    /// The device that encoders put their results on.
    pub device: Device,
    /// The language models.
    pub languages: NodeLanguages,
    /// Their adapters.
    pub adapters: NodeAdapters,
    catalog: Catalog,
}

impl NodeModels {
    /// No models yet: encoders on this device, language models where the owner wants them, which texts
    /// of others' jobs may have so many percent of the time of.
    pub fn new(device: Device, engine: config::Engine, background_percent: u8) -> Self {
        Self {
            catalog: Catalog::new(device),
            languages: NodeLanguages::new(engine, background_percent),
            adapters: NodeAdapters::default(),
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

    /// Whether an encoder of this digest is loaded.
    pub fn has_encoder(&self, digest: &Digest) -> bool {
        let found = self.catalog.find(&digest.to_string());
        found.is_ok_and(|entry| entry.loaded)
    }

    /// The names of all models that are loaded.
    pub fn loaded(&self) -> Vec<String> {
        let encoders = self.catalog.list().into_iter();
        let encoders = encoders.filter(|entry| entry.loaded);
        let encoders = encoders.map(|entry| entry.name.as_str().to_owned());
        encoders.chain(self.languages.loaded()).collect()
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
    /// The encoder that the run trains an adapter for, if it does.
    pub trained_encoder: Option<Digest>,
    /// Its adapters, if it may open any.
    pub adapters: Option<Adapters>,
    /// The adapters that come with skep and that the run may open, beside or instead of installed
    /// ones of their names.
    pub voices: Vec<&'static Embedded>,
    /// The adapter with which the default model that is its base does everything, if there is one.
    pub applied: Option<Applied>,
    /// Where models that come with skep are written out.
    pub home: Home,
}

/// The language model that a run gets as `default`.
pub enum DefaultLanguage {
    /// The one of this digest, which the node knows.
    Chosen(String),
    /// The one that comes with skep.
    Embedded,
}

/// Where a run's adapters are found: by what is installed at the moment, so that a guest that opens
/// a name once more gets a version that has come since.
pub struct Adapters {
    /// The packages of the node.
    pub swarm: Swarm,
    /// Where looking for one runs.
    pub runtime: Handle,
}

impl RunModels {
    fn default_language(&self, account: &Account) -> Result<Arc<dyn LanguageModel>, ModelError> {
        let model = match &self.language {
            DefaultLanguage::Chosen(digest) => self.node.languages.open(digest),
            DefaultLanguage::Embedded => {
                self.add_embedded(&embedded::LANGUAGE)?;
                let digest = embedded::LANGUAGE.digest().to_string();
                self.node.languages.open(&digest)
            }
        }?;
        match &self.applied {
            Some(applied) if !self.applied_to_encoder(applied) => {
                applied.to(&self.node, model, account)
            }
            _ => Ok(model),
        }
    }

    fn applied_to_encoder(&self, applied: &Applied) -> bool {
        let encoder = self.encoder.parse::<Digest>();
        encoder.is_ok_and(|encoder| applied.changes(&encoder))
    }

    /// Makes a model known that comes with skep, written out only now that somebody needs it.
    fn add_embedded(&self, model: &Embedded) -> Result<(), ModelError> {
        let folder = model.folder(&self.home).map_err(|error| {
            ModelError::Failed(format!("cannot write out {}: {error}", model.name))
        })?;
        let added = self.node.add(model.name, model.digest(), &folder);
        added.map_err(failed)?;
        Ok(())
    }

    /// Makes the base of an adapter known, if it is here.
    fn add_base(&self, adapters: &Adapters, base: &Base) -> Result<(), ModelError> {
        for model in [&embedded::LANGUAGE, &embedded::ENCODER] {
            if base.digest == model.digest() {
                return self.add_embedded(model);
            }
        }
        let digest = base.digest.to_string();
        let found = locate::installed_in(&adapters.swarm, &digest);
        // One that is not here as a package may be known by its file.
        if let Ok(installed) = adapters.runtime.block_on(found) {
            let name = installed.release.name().as_str();
            let added = self.node.add(name, base.digest, &installed.files);
            added.map_err(failed)?;
        }
        Ok(())
    }
}

fn failed(failure: Failure) -> ModelError {
    ModelError::Failed(failure.to_string())
}

impl Models for RunModels {
    fn open(&self, name: &str, account: &Account) -> Result<Arc<dyn TextEncoder>, ModelError> {
        let wanted = if name == "default" {
            &self.encoder
        } else {
            name
        };
        let (entry, encoder) = self.node.open(wanted).map_err(|error| match error {
            LoadError::Unknown { .. } => ModelError::NotFound(name.to_owned()),
            other => ModelError::Failed(other.to_string()),
        })?;
        let digest = entry.digest;
        let open = Open {
            entry,
            encoder,
            classes: Vec::new(),
        };
        match &self.applied {
            // By whatever name it was opened: a run does everything with its adapter.
            Some(applied) if applied.changes(&digest) => {
                applied.to_encoder(&self.node, &digest, &open, account)
            }
            _ => Ok(Arc::new(open)),
        }
    }

    fn open_text(
        &self,
        name: &str,
        account: &Account,
    ) -> Result<Arc<dyn LanguageModel>, ModelError> {
        if name == "default" {
            return self.default_language(account);
        }
        let model = self.node.languages.open(name)?;
        let digest = model.info().digest.parse::<Digest>();
        match &self.applied {
            Some(applied) if digest.is_ok_and(|digest| applied.changes(&digest)) => {
                applied.to(&self.node, model, account)
            }
            _ => Ok(model),
        }
    }

    fn open_base(&self, name: &str, account: &Account) -> Result<BaseModel, ModelError> {
        match &self.trained_encoder {
            Some(digest) if name == "default" || name == digest.to_string() => self
                .open(&digest.to_string(), account)
                .map(BaseModel::Encoder),
            _ => self.open_text(name, account).map(BaseModel::Language),
        }
    }

    fn open_adapter(
        &self,
        name: &str,
        account: &Account,
    ) -> Result<Arc<dyn TextAdapter>, ModelError> {
        if let Some(voice) = self.voices.iter().find(|voice| voice.name == name) {
            self.add_embedded(&embedded::LANGUAGE)?;
            let NodeModels {
                adapters,
                languages,
                ..
            } = &*self.node;
            return adapters.open_embedded(languages, &self.home, voice, account);
        }
        let not_found = || ModelError::NotFound(name.to_owned());
        let here = self.adapters.as_ref().ok_or_else(not_found)?;
        let found = locate::installed_in(&here.swarm, name);
        let installed = here
            .runtime
            .block_on(found)
            .map_err(|failure| match failure.kind {
                FailureKind::NotFound => not_found(),
                _ => failed(failure),
            })?;
        let adapters = &self.node.adapters;
        let mut base = self.trained_encoder;
        if let (None, Some(adapter)) = (base, installed.release.adapter()) {
            self.add_base(here, &adapter.base)?;
            base = Some(adapter.base.digest);
        }
        match base.map(|base| (base, self.node.open(&base.to_string()))) {
            Some((base, Ok((_, encoder)))) => {
                adapters.open_for_encoder(&encoder, &base, &installed, account)
            }
            Some((_, Err(error))) if !matches!(error, LoadError::Unknown { .. }) => {
                Err(ModelError::Failed(error.to_string()))
            }
            _ => adapters.open(&self.node.languages, &installed, account),
        }
    }
}

/// An encoder with what the node knows of it.
struct Open {
    entry: CatalogEntry,
    encoder: Encoder,
    /// What the classes of its adapter are called.
    classes: Vec<String>,
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

    fn encoder(&self) -> Option<Encoder> {
        Some(self.encoder.clone())
    }

    fn adapted(&self, adapter: &dyn TextAdapter) -> Result<Arc<dyn TextEncoder>, ModelError> {
        let (info, own) = (adapter.info(), self.entry.digest.to_string());
        let change = adapter.of_encoder().filter(|_| info.base == own);
        let change = change.ok_or_else(|| {
            ModelError::Invalid(format!(
                "the adapter {} changes {} ({}), and this encoder is {} ({own}); open its own base",
                info.name, info.base_name, info.base, self.entry.name
            ))
        })?;
        Ok(Arc::new(Self {
            entry: self.entry.clone(),
            encoder: self.encoder.with_adapter(change.adapter).map_err(explain)?,
            classes: change.classes,
        }))
    }

    fn classes(&self) -> Vec<String> {
        self.classes.clone()
    }

    fn classify(&self, texts: &[String], account: &Account) -> Result<Tensor, ModelError> {
        self.encoder.classify(texts, account).map_err(explain)
    }

    fn embed(&self, texts: &[String], account: &Account) -> Result<Tensor, ModelError> {
        self.encoder.embed(texts, account).map_err(explain)
    }
}

fn explain(error: EncodeError) -> ModelError {
    match error {
        EncodeError::Quota(quota) => ModelError::Quota(quota),
        refused @ (EncodeError::Adapter | EncodeError::NoClasses) => {
            ModelError::Invalid(refused.to_string())
        }
        other => ModelError::Failed(other.to_string()),
    }
}
