//! A model that does everything with one adapter, whether its guest names it or not: what a job gives to
//! a component that knows nothing of adapters, and `skep run` to a batch classifier. It is the run's
//! default language model or its default encoder, whichever is the adapter's base.
//!
//! What this module must never do: apply the adapter to another model than its own base, or leave
//! it out without a word.

use std::sync::{Arc, OnceLock};

use skep_decoder::Decoder;
use skep_engine::{Caller, ChoiceScore, EngineError, FollowRequest, Request, ScoreRequest};
use skep_registry::{Digest, SignedRelease};
use skep_sandbox::{
    Answer, Follows, LanguageModel, LanguageModelInfo, ModelError, Prompt, TextAdapter,
    TextEncoder, TextGeneration,
};
use skep_swarm::Installed;
use skep_tensor::Account;

use crate::failure::{Failure, FailureKind};
use crate::service::models::NodeModels;

/// An adapter for all that a run asks of the default model that is its base.
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

    /// Whether it changes the model of this digest.
    pub fn changes(&self, model: &Digest) -> bool {
        let adapter = self.installed.release.adapter();
        adapter.is_some_and(|adapter| adapter.base.digest == *model)
    }

    /// An encoder with the adapter. The encoder, which the node knows by this digest, has to be its
    /// base. What the adapter takes to be read is charged to the account of whoever opens the first.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn to_encoder(
        &self,
        node: &NodeModels,
        digest: &Digest,
        opened: &dyn TextEncoder,
        account: &Account,
    ) -> Result<Arc<dyn TextEncoder>, ModelError> {
        let adapter = match (self.open.get(), opened.encoder()) {
            (Some(adapter), _) => Arc::clone(adapter),
            (None, Some(encoder)) => {
                let adapters = &node.adapters;
                let opened =
                    adapters.open_for_encoder(&encoder, digest, &self.installed, account)?;
                Arc::clone(self.open.get_or_init(|| opened))
            }
            (None, None) => {
                let name = opened.info().name;
                return Err(ModelError::Failed(format!("{name} is not in this process")));
            }
        };
        opened.adapted(&*adapter)
    }

    /// The model with the adapter. The model has to be its base. What the adapter takes to be read is
    /// charged to the account of whoever opens the first.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn to(
        &self,
        node: &NodeModels,
        model: Arc<dyn LanguageModel>,
        account: &Account,
    ) -> Result<Arc<dyn LanguageModel>, ModelError> {
        let adapter = match self.open.get() {
            Some(adapter) => Arc::clone(adapter),
            None => {
                let opened = node
                    .adapters
                    .open(&node.languages, &self.installed, account)?;
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

/// The interface by which a component writes.
pub const TEXT: &str = "skep:model/text@";
/// That by which it embeds.
pub const ENCODERS: &str = "skep:model/encoders@";

/// Refuses an adapter that would change nothing of what a component does, by what it imports: one of
/// neither model that it gets as default, or of one that it does not use.
///
/// # Errors
/// [`FailureKind::Usage`], with the reason.
pub fn has_to_change(
    adapter: &SignedRelease,
    imports: &[String],
    encoder: &Digest,
    language: &Digest,
) -> Result<(), Failure> {
    let usage = |reason: String| Err(Failure::new(FailureKind::Usage, reason));
    let name = adapter.name();
    let Some(adapter) = adapter.adapter() else {
        return usage(format!("{name} is no adapter"));
    };
    let (base, its) = (&adapter.base, adapter.base.digest);
    let interface = if its == *encoder {
        ENCODERS
    } else if its == *language {
        TEXT
    } else {
        return usage(format!(
            "the adapter {name} changes {base} ({its}), which is neither the encoder nor the language \
             model that this component gets; give it that one with --model"
        ));
    };
    match imports.iter().any(|import| import.starts_with(interface)) {
        true => Ok(()),
        false => usage(format!(
            "the adapter {name} changes {base}, and the component does not use models of its kind, so \
             that it would change nothing; leave the adapter out"
        )),
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

    fn forget(&self, owner: u64) {
        self.model.forget(owner);
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
