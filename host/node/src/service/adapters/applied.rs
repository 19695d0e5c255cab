//! A language model that does everything with one adapter, whether its guest names it or not: what a
//! job gives to a component that knows nothing of adapters.
//!
//! What this module must never do: apply the adapter to another model than its own base, or leave
//! it out without a word.

use std::sync::{Arc, OnceLock};

use skep_decoder::Decoder;
use skep_engine::{Caller, ChoiceScore, EngineError, FollowRequest, Request, ScoreRequest};
use skep_sandbox::{
    Answer, Follows, LanguageModel, LanguageModelInfo, ModelError, Prompt, TextAdapter,
    TextGeneration,
};
use skep_swarm::Installed;

use crate::service::models::NodeModels;

/// An adapter for all that a run asks of its default language model.
pub struct Applied {
    installed: Installed,
    /// Opened with the first model, and kept as long as the run.
    open: OnceLock<Arc<dyn TextAdapter>>,
}

impl Applied {
    /// The adapter of this release.
    pub fn new(installed: Installed) -> Self {
        Self {
            installed,
            open: OnceLock::new(),
        }
    }

    /// The model with the adapter. The model has to be its base.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn to(
        &self,
        node: &NodeModels,
        model: Arc<dyn LanguageModel>,
    ) -> Result<Arc<dyn LanguageModel>, ModelError> {
        let adapter = match self.open.get() {
            Some(adapter) => Arc::clone(adapter),
            None => {
                let opened = node.adapters.open(&node.languages, &self.installed)?;
                Arc::clone(self.open.get_or_init(|| opened))
            }
        };
        let (info, base) = (adapter.info(), model.info());
        if info.base != base.digest {
            return Err(ModelError::Invalid(format!(
                "the adapter {} changes {} ({}), and this run's model is {} ({})",
                info.name, info.base_name, info.base, base.name, base.digest
            )));
        }
        let name = adapter.engine_name();
        Ok(Arc::new(WithAdapter { model, name }))
    }
}

/// A model with an adapter that the engine knows by this name.
struct WithAdapter {
    model: Arc<dyn LanguageModel>,
    name: String,
}

impl LanguageModel for WithAdapter {
    fn info(&self) -> LanguageModelInfo {
        self.model.info()
    }

    fn tokenize(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.model.tokenize(text)
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<String, EngineError> {
        self.model.detokenize(tokens)
    }

    fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, EngineError> {
        self.model.encode_prompt(prompt)
    }

    fn decoder(&self) -> Option<Arc<Decoder>> {
        self.model.decoder()
    }

    fn ends(&self) -> Vec<u32> {
        self.model.ends()
    }

    fn generate(&self, caller: &Caller, mut requests: Vec<Request>) -> Box<dyn TextGeneration> {
        for request in &mut requests {
            request.adapter.get_or_insert_with(|| self.name.clone());
        }
        self.model.generate(caller, requests)
    }

    fn follow(&self, caller: &Caller, mut texts: Vec<FollowRequest>) -> Follows {
        for text in &mut texts {
            let adapter = &mut text.request.adapter;
            adapter.get_or_insert_with(|| self.name.clone());
        }
        self.model.follow(caller, texts)
    }

    fn score(
        &self,
        caller: &Caller,
        mut requests: Vec<ScoreRequest>,
    ) -> Answer<Vec<Vec<ChoiceScore>>> {
        for request in &mut requests {
            request.adapter.get_or_insert_with(|| self.name.clone());
        }
        self.model.score(caller, requests)
    }

    fn embed(&self, _caller: &Caller, _prompts: Vec<Vec<u32>>) -> Answer<Vec<f32>> {
        let reason = "this run does everything with an adapter, and embeddings are taken without \
                      one; leave the adapter out";
        Box::pin(std::future::ready(Err(EngineError::Invalid(
            reason.to_owned(),
        ))))
    }
}
