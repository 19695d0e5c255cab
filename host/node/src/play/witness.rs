//! Who looks on while a renderer asks a model: which model it was, the digest of what it was
//! shown, and what it wrote.
//!
//! A renderer tells these things too, but it is a guest, and evidence that could cost a node its
//! name must not rest on a guest's word.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use skep_engine::{Caller, ChoiceScore, Chunk, Completion, EngineError, Request, ScoreRequest};
use skep_sandbox::{
    Answer, LanguageModel, LanguageModelInfo, ModelError, Models, Prompt, TextAdapter, TextEncoder,
    TextGeneration,
};
use skep_tensor::Account;

/// What was seen since the last look. Clones see the same.
#[derive(Clone, Default)]
pub struct Witness(Arc<Mutex<Seen>>);

/// What was seen of a model's work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The digest of the model.
    pub model: Option<String>,
    /// The BLAKE3 of each prompt's text, in hexadecimal digits, in their order.
    pub prompts: Vec<String>,
    /// What was written, one text for each request.
    pub written: BTreeMap<usize, String>,
}

impl Witness {
    /// What was seen since the last call.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The models of a run, with somebody looking on.
pub struct Witnessed<M> {
    /// The models.
    pub models: M,
    /// Who looks on.
    pub witness: Witness,
}

impl<M: Models> Models for Witnessed<M> {
    fn open(&self, name: &str, account: &Account) -> Result<Arc<dyn TextEncoder>, ModelError> {
        self.models.open(name, account)
    }

    fn open_text(
        &self,
        name: &str,
        account: &Account,
    ) -> Result<Arc<dyn LanguageModel>, ModelError> {
        Ok(Arc::new(Watched {
            model: self.models.open_text(name, account)?,
            witness: self.witness.clone(),
        }))
    }

    fn open_adapter(
        &self,
        name: &str,
        account: &Account,
    ) -> Result<Arc<dyn TextAdapter>, ModelError> {
        self.models.open_adapter(name, account)
    }
}

/// A model that is looked at.
struct Watched {
    model: Arc<dyn LanguageModel>,
    witness: Witness,
}

impl LanguageModel for Watched {
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
        let mut hasher = blake3::Hasher::new();
        match prompt {
            Prompt::Text(text) => {
                hasher.update(text.as_bytes());
            }
            Prompt::Tokens(tokens) => {
                for token in tokens {
                    hasher.update(&token.to_le_bytes());
                }
            }
            Prompt::Chat(messages) => {
                for message in messages {
                    for text in [&message.role, &message.content] {
                        hasher.update(&(text.len() as u64).to_le_bytes());
                        hasher.update(text.as_bytes());
                    }
                }
            }
        }
        let digest = hasher.finalize().to_hex().to_string();
        self.witness.seen().prompts.push(digest);
        self.model.encode_prompt(prompt)
    }

    fn forget(&self, owner: u64) {
        self.model.forget(owner);
    }

    fn generate(&self, caller: &Caller, requests: Vec<Request>) -> Box<dyn TextGeneration> {
        self.witness.seen().model = Some(self.model.info().digest);
        Box::new(Writing {
            writing: self.model.generate(caller, requests),
            witness: self.witness.clone(),
        })
    }

    fn score(&self, caller: &Caller, requests: Vec<ScoreRequest>) -> Answer<Vec<Vec<ChoiceScore>>> {
        self.model.score(caller, requests)
    }

    fn embed(&self, caller: &Caller, prompts: Vec<Vec<u32>>) -> Answer<Vec<f32>> {
        self.model.embed(caller, prompts)
    }
}

/// Texts that are being written, and read along.
struct Writing {
    writing: Box<dyn TextGeneration>,
    witness: Witness,
}

impl TextGeneration for Writing {
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Vec<Chunk>>, EngineError>> {
        let chunks = self.writing.poll_next(context);
        if let Poll::Ready(Ok(Some(chunks))) = &chunks {
            let mut seen = self.witness.seen();
            for chunk in chunks.iter().filter(|chunk| chunk.sample == 0) {
                let text = seen.written.entry(chunk.request).or_default();
                text.push_str(&chunk.text);
            }
        }
        chunks
    }

    fn poll_all(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Vec<Result<Vec<Completion>, EngineError>>> {
        let texts = self.writing.poll_all(context);
        if let Poll::Ready(texts) = &texts {
            let mut seen = self.witness.seen();
            for (request, text) in texts.iter().enumerate() {
                let first = text.as_ref().ok().and_then(|samples| samples.first());
                if let Some(completion) = first {
                    seen.written.insert(request, completion.text.clone());
                }
            }
        }
        texts
    }
}
