//! The language models and adapters that guests may open, as the sandbox sees them.
//!
//! The engine that answers has threads of its own and serves all runs at once. Nothing here
//! waits on a thread: whoever waits leaves a [`Waker`](std::task::Waker) and goes away.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use skep_decoder::Decoder;
use skep_engine::{
    Caller, ChoiceScore, Chunk, Completion, EngineError, FollowRequest, Followed, Request,
    ScoreRequest,
};
use skep_model::EncoderAdapter;

/// What a language model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanguageModelInfo {
    /// The name under which the node knows it.
    pub name: String,
    /// The digest of the model's manifest.
    pub digest: String,
    /// The architecture, such as `llama`.
    pub architecture: String,
    /// Tokens that a prompt and what is written to it may have together.
    pub context: u32,
    /// Tokens that there are.
    pub vocabulary: u32,
    /// The number of elements of an embedding.
    pub dimensions: u32,
    /// Whether it has a template for conversations.
    pub has_chat_template: bool,
    /// Bytes of its weights, which all runs share.
    pub weights_bytes: u64,
    /// What people call whoever computes it: `processor`, or a device's name.
    pub device: String,
    /// Bytes that are taken of that device's own memory; none of the processor's.
    pub device_bytes: u64,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or whoever else the model's template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// What a model sees before it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A text. Marks in it are letters like any others.
    Text(String),
    /// A conversation, laid out by the model's own template.
    Chat(Vec<Message>),
    /// Tokens, each of them in the vocabulary.
    Tokens(Vec<u32>),
}

/// An answer of the engine that is on its way. Dropping it gives the work up.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, EngineError>> + Send>>;

/// A language model that runs share.
///
/// Requests that reach it have been checked: numbers are finite and in range, tokens are in the
/// vocabulary, texts and lists are no longer than one call may bring.
pub trait LanguageModel: Send + Sync + 'static {
    /// What it is.
    fn info(&self) -> LanguageModelInfo;

    /// The tokens of a text as part of another, without any that the model wants at a text's
    /// ends. Marks are letters like any others.
    ///
    /// # Errors
    /// [`EngineError`].
    fn tokenize(&self, text: &str) -> Result<Vec<u32>, EngineError>;

    /// The text of tokens, all of them in the vocabulary. What is no whole letter becomes
    /// U+FFFD.
    ///
    /// # Errors
    /// [`EngineError`].
    fn detokenize(&self, tokens: &[u32]) -> Result<String, EngineError>;

    /// The tokens of a prompt as the model sees them: with those that it wants at a text's
    /// beginning, conversations laid out. Tokens stay as they are.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for a conversation if the model has no template for any, or its
    /// template refuses this one.
    fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, EngineError>;

    /// The network, for whoever trains an adapter for it; none if it is not in this process.
    fn decoder(&self) -> Option<Arc<Decoder>> {
        None
    }

    /// The tokens that end a text, the usual one first.
    fn ends(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Begins to write a text to each request. Called on a thread for models, as tokenizing is:
    /// it may compile constraints, and it must not wait for anything to be written. What cannot
    /// be taken or done is said of the request that it concerns, by the generation.
    fn generate(&self, caller: &Caller, requests: Vec<Request>) -> Box<dyn TextGeneration>;

    /// Keeps nothing any longer of what this owner's texts began with: its run is over.
    fn forget(&self, _owner: u64) {}

    /// Goes over texts that others wrote, and takes them for the answers. Called on a thread for
    /// models, like [`LanguageModel::generate`]. A model that cannot says so of each.
    fn follow(&self, _caller: &Caller, texts: Vec<FollowRequest>) -> Follows {
        let refused = EngineError::Failed("this model goes over no texts of others".to_owned());
        let refused = texts.iter().map(|_| Err(refused.clone())).collect();
        Box::pin(std::future::ready(refused))
    }

    /// How likely each choice of each request is. Returns at once.
    fn score(&self, caller: &Caller, requests: Vec<ScoreRequest>) -> Answer<Vec<Vec<ChoiceScore>>>;

    /// The embeddings of prompts, [prompts, dimensions] row by row, each of length 1. Returns at
    /// once.
    fn embed(&self, caller: &Caller, prompts: Vec<Vec<u32>>) -> Answer<Vec<f32>>;
}

/// What came of each text that was gone over. Dropping it gives the work up.
pub type Follows = Pin<Box<dyn Future<Output = Vec<Result<Followed, EngineError>>> + Send>>;

/// Texts that are being written. Dropping it ends the writing and gives everything back at once.
///
/// Either [`poll_next`](Self::poll_next) or [`poll_all`](Self::poll_all) is called, never both.
/// Each leaves the waker of the last call behind, and the engine wakes it once, from a thread of
/// its own, when there is something.
pub trait TextGeneration: Send + 'static {
    /// What was written since the last call, or none once all texts are complete. An error is
    /// one request's, which is over with it; the others go on, and this is called again.
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Vec<Chunk>>, EngineError>>;

    /// All texts of all requests, in their order, once they are complete. Not called again after
    /// it was ready.
    fn poll_all(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Vec<Result<Vec<Completion>, EngineError>>>;
}

/// What an adapter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterInfo {
    /// The name under which the node knows it.
    pub name: String,
    /// The digest of the adapter's manifest.
    pub digest: String,
    /// The digest of the model that it changes.
    pub base: String,
    /// What that model is called.
    pub base_name: String,
    /// The rank of its matrices; the largest, if they differ.
    pub rank: u32,
    /// Its size in bytes, as it is kept for use.
    pub bytes: u64,
}

/// Where an adapter is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    /// In the pool that it is used from.
    Device,
    /// In the node's memory.
    Memory,
    /// On the node's disk.
    Disk,
}

/// An adapter that is open. As long as it is, this very version of it can be used.
pub trait TextAdapter: Send + Sync + 'static {
    /// What it is.
    fn info(&self) -> AdapterInfo;

    /// Where it is.
    fn residency(&self) -> Residency;

    /// The name under which the engine of its model knows this very version.
    fn engine_name(&self) -> String;

    /// What it changes of an encoder, if its base is one.
    fn of_encoder(&self) -> Option<EncoderChange> {
        None
    }

    /// Its PEFT folder, for whoever trains on from it; none if its files are not here.
    fn folder(&self) -> Option<PathBuf> {
        None
    }
}

/// What an adapter changes of an encoder.
#[derive(Clone, Debug)]
pub struct EncoderChange {
    /// The weights.
    pub adapter: Arc<EncoderAdapter>,
    /// What its classes are called: one name for each.
    pub classes: Vec<String>,
}

/// A language model that a guest has opened.
pub struct OpenModel(pub(crate) Arc<dyn LanguageModel>);

/// An adapter that a guest has opened, and the name that it asked for.
pub struct OpenAdapter {
    pub(crate) asked: String,
    pub(crate) adapter: Arc<dyn TextAdapter>,
}
