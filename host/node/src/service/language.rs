//! The language models of a node, as guests see them: each loaded once, with an engine of its
//! own that serves all runs in one batch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::thread::available_parallelism;

use skep_engine::{
    Caller, ChoiceScore, Chunk, Completion, Engine, EngineError, Generation, Options, Request,
    ScoreRequest,
};
use skep_kernels::Team;
use skep_registry::Digest;
use skep_sandbox::{
    Answer, GuestsComputing, LanguageModel, LanguageModelInfo, ModelError, Prompt, TextGeneration,
};
use skep_text::{ChatMessage, MarksInText};

/// All language models that this node knows.
#[derive(Default)]
pub struct NodeLanguages {
    models: RwLock<BTreeMap<String, Arc<Slot>>>,
    /// The threads that compute, whichever model it is for.
    team: OnceLock<Arc<Team>>,
    computing: OnceLock<GuestsComputing>,
}

struct Slot {
    name: String,
    digest: Digest,
    path: PathBuf,
    /// Locked while loading, so that others wait for the result.
    engine: Mutex<Option<Engine>>,
}

impl NodeLanguages {
    /// Makes a model known under its name and digest. One that is known stays loaded.
    pub fn add(&self, name: &str, digest: Digest, path: &Path) {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        if models.get(name).is_some_and(|slot| slot.digest == digest) {
            return;
        }
        let slot = Slot {
            name: name.to_owned(),
            digest,
            path: path.to_path_buf(),
            engine: Mutex::default(),
        };
        models.insert(name.to_owned(), Arc::new(slot));
    }

    /// Engines leave guests some of the processors' time while any of them computes.
    pub fn give_way_to(&self, computing: GuestsComputing) {
        // A node has one sandbox, so a second call says the same.
        let _ = self.computing.set(computing);
    }

    /// Opens a model by name or digest, and loads it if nobody has.
    pub fn open(&self, name: &str) -> Result<Arc<dyn LanguageModel>, ModelError> {
        let slot = {
            let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
            let by_digest = models.values().find(|slot| slot.digest.to_string() == name);
            let slot = models.get(name).or(by_digest);
            Arc::clone(slot.ok_or_else(|| ModelError::NotFound(name.to_owned()))?)
        };
        let mut place = slot.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = match &*place {
            Some(engine) => engine.clone(),
            None => {
                let failed = |error: &dyn std::error::Error| ModelError::Failed(error.to_string());
                let model = skep_engine::LanguageModel::load(&slot.name, &slot.path)
                    .map_err(|error| failed(&error))?;
                let team = self.team().map_err(|error| failed(&error))?;
                let engine = Engine::start(Arc::new(model), team, Options::default())
                    .map_err(|error| failed(&error))?;
                if let Some(computing) = self.computing.get().cloned() {
                    engine.give_way_to(move || computing.any());
                }
                place.insert(engine).clone()
            }
        };
        drop(place);
        Ok(Arc::new(Open { slot, engine }))
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
            weights_bytes: model.weights_bytes,
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

    fn generate(&self, caller: &Caller, requests: Vec<Request>) -> Box<dyn TextGeneration> {
        Box::new(Texts(self.engine.generate(caller, requests)))
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
