//! A language model as the sandbox sees it, without a node: an engine, and the weights behind it.

use std::sync::Arc;
use std::task::{Context, Poll};

use skep_decoder::Decoder;
use skep_engine::{
    Caller, ChoiceScore, Chunk, Completion, Engine, EngineError, FollowRequest, Generation,
    Request, ScoreRequest,
};
use skep_sandbox::{
    Answer, Follows, LanguageModel, LanguageModelInfo, ModelError, Models, Prompt, TextAdapter,
    TextEncoder, TextGeneration,
};
use skep_tensor::Account;
use skep_text::{ChatMessage, MarksInText};

/// One model under every name, with a digest that was made up, and what becomes of a request before the model has it.
pub struct Served(pub Engine, pub Change);

/// What becomes of a request.
pub type Change = fn(&mut Request);

/// Nothing becomes of it.
pub fn as_asked(_: &mut Request) {}

/// The digest of a served model.
pub const DIGEST: &str = "5e53e5e53e5e53e5e53e5e53e5e53e5e53e5e53e5e53e5e53e5e53e5e53e5e53";

impl LanguageModel for Served {
    fn info(&self) -> LanguageModelInfo {
        let model = self.0.model();
        let config = model.decoder.config();
        let number = |size| u32::try_from(size).unwrap();
        LanguageModelInfo {
            name: "served".to_owned(),
            digest: DIGEST.to_owned(),
            architecture: config.architecture.name().to_owned(),
            context: number(config.context),
            vocabulary: number(config.vocabulary),
            dimensions: number(config.width),
            has_chat_template: model.template.is_some(),
            weights_bytes: model.weights_bytes,
            device: self.0.device().to_owned(),
            device_bytes: self.0.memory().device,
        }
    }

    fn tokenize(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let tokenizer = self.0.model().tokenizer()?;
        Ok(tokenizer.encode_part(text, MarksInText::AreText)?)
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<String, EngineError> {
        Ok(self.0.model().tokenizer()?.decode_part(tokens))
    }

    fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, EngineError> {
        let model = self.0.model();
        match prompt {
            Prompt::Text(text) => model.encode_text(text),
            Prompt::Tokens(tokens) => Ok(tokens.clone()),
            Prompt::Chat(messages) => {
                let turns = messages.iter();
                let turns = turns.map(|turn| ChatMessage::new(&turn.role, &turn.content));
                model.encode_chat(turns.collect())
            }
        }
    }

    fn decoder(&self) -> Option<Arc<Decoder>> {
        Some(Arc::clone(&self.0.model().decoder))
    }

    fn ends(&self) -> Vec<u32> {
        let tokenizer = self.0.model().tokenizer().unwrap();
        tokenizer.end_tokens().to_vec()
    }

    fn generate(&self, caller: &Caller, mut requests: Vec<Request>) -> Box<dyn TextGeneration> {
        requests.iter_mut().for_each(self.1);
        Box::new(Texts(self.0.generate(caller, requests)))
    }

    fn follow(&self, caller: &Caller, texts: Vec<FollowRequest>) -> Follows {
        Box::pin(self.0.follow(caller, texts))
    }

    fn score(&self, caller: &Caller, requests: Vec<ScoreRequest>) -> Answer<Vec<Vec<ChoiceScore>>> {
        Box::pin(self.0.score(caller, requests))
    }

    fn embed(&self, caller: &Caller, prompts: Vec<Vec<u32>>) -> Answer<Vec<f32>> {
        Box::pin(self.0.embed(caller, prompts))
    }
}

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

/// A shelf with a served model and nothing else.
pub struct Shelf(pub Arc<Served>);

impl Models for Shelf {
    fn open(&self, name: &str, _: &Account) -> Result<Arc<dyn TextEncoder>, ModelError> {
        Err(ModelError::NotFound(name.to_owned()))
    }

    fn open_text(&self, _: &str, _: &Account) -> Result<Arc<dyn LanguageModel>, ModelError> {
        Ok(Arc::clone(&self.0) as Arc<dyn LanguageModel>)
    }

    fn open_adapter(&self, name: &str, _: &Account) -> Result<Arc<dyn TextAdapter>, ModelError> {
        Err(ModelError::NotFound(name.to_owned()))
    }
}
