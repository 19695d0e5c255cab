//! The language models of a node, as guests see them: each loaded once, with an engine of its
//! own that serves all runs in one batch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::thread::available_parallelism;

use skep_decoder::Decoder;
use skep_engine::{
    Backend, BackgroundTime, Caller, ChoiceScore, Chunk, Completion, Engine, EngineError,
    FollowRequest, Generation, Options, Request, ScoreRequest,
};
use skep_kernels::Team;
use skep_registry::Digest;
use skep_sandbox::{
    Answer, Follows, GuestsComputing, LanguageModel, LanguageModelInfo, ModelError, Prompt,
    TextGeneration,
};
use skep_text::{ChatMessage, MarksInText};

use crate::config;

/// All language models that this node knows. One that was loaded stays loaded.
pub struct NodeLanguages {
    /// Where the owner wants them computed.
    wanted: config::Engine,
    /// Of their time, how many percent texts of others' jobs may take.
    background_percent: u8,
    known: RwLock<Known>,
    /// The threads that compute, whichever model it is for.
    team: OnceLock<Arc<Team>>,
    /// Who computes, opened when the first model is loaded.
    backend: OnceLock<Arc<dyn Backend>>,
    computing: OnceLock<GuestsComputing>,
}

#[derive(Default)]
struct Known {
    slots: BTreeMap<Digest, Arc<Slot>>,
    /// The model that each name stands for. A model keeps its digest when its name goes to
    /// another, so that runs that chose it still find it.
    names: BTreeMap<String, Digest>,
}

struct Slot {
    name: String,
    digest: Digest,
    path: PathBuf,
    /// What the owner calls a smaller model that guesses for it, and where that lies.
    draft: OnceLock<(String, PathBuf)>,
    /// Locked while loading, so that others wait for the result.
    engine: Mutex<Option<Engine>>,
}

impl Slot {
    fn is_loaded(&self) -> bool {
        // One that is locked is being loaded.
        self.engine.try_lock().is_ok_and(|engine| engine.is_some())
    }
}

impl NodeLanguages {
    /// None yet. Those that come are computed where the owner wants it, and of their time texts of
    /// others' jobs may take so many percent.
    pub fn new(wanted: config::Engine, background_percent: u8) -> Self {
        Self {
            wanted,
            background_percent,
            known: RwLock::default(),
            team: OnceLock::new(),
            backend: OnceLock::new(),
            computing: OnceLock::new(),
        }
    }

    /// Makes a model known under its name and digest.
    pub fn add(&self, name: &str, digest: Digest, path: &Path) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.names.insert(name.to_owned(), digest);
        known.slots.entry(digest).or_insert_with(|| {
            Arc::new(Slot {
                name: name.to_owned(),
                digest,
                path: path.to_path_buf(),
                draft: OnceLock::new(),
                engine: Mutex::default(),
            })
        });
    }

    /// Lets a smaller model guess for the one of this digest, from when that is loaded on.
    pub fn guess_with(&self, digest: &Digest, draft: &str, path: &Path) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = known.slots.get(digest) {
            // The configuration is read once, so a second call says the same.
            let _ = slot.draft.set((draft.to_owned(), path.to_path_buf()));
        }
    }

    /// Engines leave guests some of the processors' time while any of them computes.
    pub fn give_way_to(&self, computing: GuestsComputing) {
        // A node has one sandbox, so a second call says the same.
        let _ = self.computing.set(computing);
    }

    /// Opens a model by name or digest, and loads it if nobody has.
    pub fn open(&self, name: &str) -> Result<Arc<dyn LanguageModel>, ModelError> {
        let slot = self
            .find(name)
            .ok_or_else(|| ModelError::NotFound(name.to_owned()))?;
        let engine = self.engine_of(&slot)?;
        Ok(Arc::new(Open { slot, engine }))
    }

    /// The engine of the model of this digest, loaded if nobody has; none if there is no such
    /// model.
    pub fn engine(&self, digest: &Digest) -> Result<Option<Engine>, ModelError> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let slot = known.slots.get(digest).cloned();
        drop(known);
        slot.map(|slot| self.engine_of(&slot)).transpose()
    }

    /// Whether the model of this digest is loaded.
    pub fn holds(&self, digest: &Digest) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let slot = known.slots.get(digest);
        slot.is_some_and(|slot| slot.is_loaded())
    }

    /// The names of the models that are loaded.
    pub fn loaded(&self) -> Vec<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let slots = known.slots.values();
        let loaded = slots.filter(|slot| slot.is_loaded());
        loaded.map(|slot| slot.name.clone()).collect()
    }

    /// How texts of others' jobs were kept within their part of the time, of all models together.
    pub fn background_time(&self) -> BackgroundTime {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut all = BackgroundTime::default();
        for slot in known.slots.values() {
            // One that is locked is being loaded, and has computed nothing.
            let Ok(engine) = slot.engine.try_lock() else {
                continue;
            };
            if let Some(engine) = &*engine {
                let time = engine.background_time();
                all.computed += time.computed;
                all.rested += time.rested;
            }
        }
        all
    }

    fn find(&self, name: &str) -> Option<Arc<Slot>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let digest = match known.names.get(name) {
            Some(digest) => *digest,
            None => name.parse().ok()?,
        };
        known.slots.get(&digest).cloned()
    }

    fn engine_of(&self, slot: &Slot) -> Result<Engine, ModelError> {
        let mut place = slot.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = &*place {
            return Ok(engine.clone());
        }
        let failed = |error: &dyn std::error::Error| ModelError::Failed(error.to_string());
        let model = match slot.draft.get() {
            None => skep_engine::LanguageModel::load(&slot.name, &slot.path),
            Some((draft, path)) => {
                let draft = (draft.as_str(), path.as_path());
                skep_engine::LanguageModel::load_with_draft(&slot.name, &slot.path, draft)
            }
        };
        let model = model.map_err(|error| failed(&error))?;
        let backend = self.backend()?;
        let mut options = Options {
            background_percent: self.background_percent,
            ..Options::default()
        };
        if let Some(pages) = self.wanted.pages {
            options.pages = pages.get();
        }
        let engine = Engine::start_on(Arc::new(model), &*backend, options)
            .map_err(|error| failed(&error))?;
        if let Some(computing) = self.computing.get().cloned() {
            engine.give_way_to(move || computing.any());
        }
        Ok(place.insert(engine).clone())
    }

    /// Who computes. Whoever names a device gets that one, or learns why not.
    fn backend(&self) -> Result<Arc<dyn Backend>, ModelError> {
        if let Some(backend) = self.backend.get() {
            return Ok(Arc::clone(backend));
        }
        let team = self.team();
        let team = team.map_err(|error| ModelError::Failed(error.to_string()))?;
        let opened = skep_devices::open(self.wanted.device, team).map_err(|error| {
            ModelError::Failed(format!("device in [engine] of config.toml: {error}"))
        })?;
        Ok(Arc::clone(self.backend.get_or_init(|| opened.into())))
    }

    fn team(&self) -> std::io::Result<Arc<Team>> {
        if let Some(team) = self.team.get() {
            return Ok(Arc::clone(team));
        }
        let team = Team::new(available_parallelism().map_or(2, usize::from))?;
        Ok(Arc::clone(self.team.get_or_init(|| Arc::new(team))))
    }
}

/// A language model with what the node knows of it.
struct Open {
    slot: Arc<Slot>,
    engine: Engine,
}

impl LanguageModel for Open {
    fn info(&self) -> LanguageModelInfo {
        let model = self.engine.model();
        let config = model.decoder.config();
        let number = |size| u32::try_from(size).unwrap_or(u32::MAX);
        LanguageModelInfo {
            name: self.slot.name.clone(),
            digest: self.slot.digest.to_string(),
            architecture: config.architecture.name().to_owned(),
            context: number(config.context),
            vocabulary: number(config.vocabulary),
            dimensions: number(config.width),
            has_chat_template: model.template.is_some(),
            weights_bytes: self.engine.memory().weights,
            device: self.engine.device().to_owned(),
            device_bytes: self.engine.memory().device,
        }
    }

    fn tokenize(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let tokenizer = self.engine.model().tokenizer()?;
        Ok(tokenizer.encode_part(text, MarksInText::AreText)?)
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<String, EngineError> {
        Ok(self.engine.model().tokenizer()?.decode_part(tokens))
    }

    fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, EngineError> {
        let model = self.engine.model();
        match prompt {
            Prompt::Text(text) => model.encode_text(text),
            Prompt::Tokens(tokens) => Ok(tokens.clone()),
            Prompt::Chat(messages) => {
                let turns = messages
                    .iter()
                    .map(|message| ChatMessage::new(&message.role, &message.content));
                model.encode_chat(turns.collect())
            }
        }
    }

    fn decoder(&self) -> Option<Arc<Decoder>> {
        Some(Arc::clone(&self.engine.model().decoder))
    }

    fn ends(&self) -> Vec<u32> {
        let Ok(tokenizer) = self.engine.model().tokenizer() else {
            return Vec::new();
        };
        let usual = tokenizer.special().eos;
        let others = tokenizer.end_tokens().iter().copied();
        usual
            .into_iter()
            .chain(others.filter(|end| Some(*end) != usual))
            .collect()
    }

    fn generate(&self, caller: &Caller, requests: Vec<Request>) -> Box<dyn TextGeneration> {
        Box::new(Texts(self.engine.generate(caller, requests)))
    }

    fn follow(&self, caller: &Caller, texts: Vec<FollowRequest>) -> Follows {
        Box::pin(self.engine.follow(caller, texts))
    }

    fn forget(&self, owner: u64) {
        self.engine.forget(owner);
    }

    fn score(&self, caller: &Caller, requests: Vec<ScoreRequest>) -> Answer<Vec<Vec<ChoiceScore>>> {
        Box::pin(self.engine.score(caller, requests))
    }

    fn embed(&self, caller: &Caller, prompts: Vec<Vec<u32>>) -> Answer<Vec<f32>> {
        Box::pin(self.engine.embed(caller, prompts))
    }
}

/// Texts that the engine writes.
struct Texts(Generation);

impl TextGeneration for Texts {
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Vec<Chunk>>, EngineError>> {
        self.0.poll_next(context)
    }

    fn poll_all(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Vec<Result<Vec<Completion>, EngineError>>> {
        self.0.poll_all(context)
    }
}
