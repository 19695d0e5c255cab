//! A language model that writes the letter `a`: at once, or never; or it is busy, or broken. It says how much of what it
//! was asked is still open, which no engine would tell a stranger.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use skep_engine::{
    Caller, ChoiceScore, Chunk, Completion, EngineError, Finish, FollowRequest, Followed, Request,
    ScoreRequest,
};
use skep_evidence::activations::Peaks;
use skep_evidence::following::chunks;
use skep_sandbox::{
    AdapterInfo, Answer, Follows, LanguageModel, LanguageModelInfo, ModelError, Models, Prompt,
    Residency, TextAdapter, TextEncoder, TextGeneration,
};
use skep_tensor::{Account, MemoryCharge};

/// Bytes that a text holds while it is being written.
pub const PAGE: u64 = 1000;

/// When it writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    AtOnce,
    Never,
    /// It has as much to do as it takes.
    Full,
    /// The device that computes it fails.
    Broken,
    /// It refuses what it is asked.
    Refuses,
}

/// What a device says that fails.
fn broken() -> EngineError {
    EngineError::Device {
        device: "a card".to_owned(),
        reason: "it fell off".to_owned(),
    }
}

pub struct Scribe {
    pub pace: Pace,
    /// Calls whose texts are being written.
    pub open: Arc<AtomicUsize>,
    /// The last requests that it was given.
    pub asked: Arc<std::sync::Mutex<Vec<Request>>>,
    /// Owners whose texts it was told to forget, and those that asked for some.
    pub forgotten: Arc<std::sync::Mutex<Vec<u64>>>,
    pub owners: Arc<std::sync::Mutex<Vec<u64>>>,
}

impl Scribe {
    pub fn new(pace: Pace) -> Arc<Self> {
        Arc::new(Scribe {
            pace,
            open: Arc::default(),
            asked: Arc::default(),
            forgotten: Arc::default(),
            owners: Arc::default(),
        })
    }
}

pub const CONTEXT: u32 = 1000;
pub const DIGEST: &str = "1111111111111111111111111111111111111111111111111111111111111111";

impl LanguageModel for Scribe {
    fn info(&self) -> LanguageModelInfo {
        LanguageModelInfo {
            name: "scribe".to_owned(),
            digest: DIGEST.to_owned(),
            architecture: "scribe".to_owned(),
            context: CONTEXT,
            vocabulary: 256,
            dimensions: 2,
            has_chat_template: false,
            weights_bytes: 7,
            device: "processor".to_owned(),
            device_bytes: 0,
        }
    }

    fn tokenize(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn detokenize(&self, tokens: &[u32]) -> Result<String, EngineError> {
        let bytes: Vec<u8> = tokens.iter().map(|token| *token as u8).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, EngineError> {
        match prompt {
            Prompt::Text(text) => self.tokenize(text),
            Prompt::Tokens(tokens) => Ok(tokens.clone()),
            Prompt::Chat(_) => Err(EngineError::Invalid("no template".to_owned())),
        }
    }

    fn forget(&self, owner: u64) {
        self.forgotten.lock().unwrap().push(owner);
    }

    fn generate(&self, caller: &Caller, requests: Vec<Request>) -> Box<dyn TextGeneration> {
        *self.asked.lock().unwrap() = requests.clone();
        self.owners.lock().unwrap().push(caller.owner);
        self.open.fetch_add(1, Ordering::SeqCst);
        let texts = requests
            .iter()
            .map(|request| request.samples as u64)
            .sum::<u64>();
        Box::new(Lines {
            pace: self.pace,
            open: Arc::clone(&self.open),
            charge: match self.pace {
                Pace::Full => Err(EngineError::Busy { waiting: 3 }),
                Pace::Broken => Err(broken()),
                Pace::Refuses => Err(EngineError::Invalid("not that".to_owned())),
                _ => caller
                    .account
                    .charge_memory(texts * PAGE)
                    .map_err(EngineError::from),
            },
            left: requests.iter().map(|request| request.max_tokens).collect(),
            requests,
            waker: None,
        })
    }

    fn follow(&self, _: &Caller, texts: Vec<FollowRequest>) -> Follows {
        let pace = self.pace;
        let go_over = move |text: FollowRequest| match pace {
            Pace::Broken => Err(broken()),
            Pace::Full => Err(EngineError::Busy { waiting: 3 }),
            // The first it takes for odd, and at the others it breaks.
            Pace::Refuses if text.sample > 0 => Err(broken()),
            Pace::Refuses => Err(EngineError::Invalid("no such token".to_owned())),
            _ => Ok(Followed {
                peaks: vec![
                    Peaks::decode(&[0, 0, 0, 0, 0x40, 0]).unwrap();
                    chunks(text.tokens.len())
                ],
                shortfalls: Vec::new(),
                is_whole: true,
                completion: Completion {
                    text: "a".repeat(text.tokens.len()),
                    tokens: text.tokens,
                    logprobs: Vec::new(),
                    finish: Finish::Length,
                    commitments: Vec::new(),
                    prompt_tokens: text.request.prompt.len(),
                    cached_tokens: 0,
                },
            }),
        };
        let seen = texts.into_iter().map(go_over).collect();
        Box::pin(std::future::ready(seen))
    }

    fn score(&self, _: &Caller, requests: Vec<ScoreRequest>) -> Answer<Vec<Vec<ChoiceScore>>> {
        let judge = |request: &ScoreRequest| {
            let scores = request.choices.iter().map(|choice| ChoiceScore {
                logprob: -(choice.len() as f32),
                tokens: choice.len(),
            });
            scores.collect()
        };
        let scores = requests.iter().map(judge).collect();
        Box::pin(async { Ok(scores) })
    }

    fn embed(&self, _: &Caller, prompts: Vec<Vec<u32>>) -> Answer<Vec<f32>> {
        let rows = prompts.iter().flat_map(|_| [1.0, 0.0]).collect();
        Box::pin(async { Ok(rows) })
    }
}

/// Lines of the letter `a`, one token at each look.
struct Lines {
    pace: Pace,
    open: Arc<AtomicUsize>,
    charge: Result<MemoryCharge, EngineError>,
    requests: Vec<Request>,
    left: Vec<usize>,
    waker: Option<Waker>,
}

impl Lines {
    fn wait(&mut self, context: &Context<'_>) {
        self.waker = Some(context.waker().clone());
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl TextGeneration for Lines {
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Vec<Chunk>>, EngineError>> {
        if let Err(error) = &self.charge {
            let error = error.clone();
            return Poll::Ready(match self.left.pop() {
                Some(_) => Err(error),
                None => Ok(None),
            });
        }
        if self.pace == Pace::Never {
            self.wait(context);
            return Poll::Pending;
        }
        let Some(request) = self.left.iter().position(|left| *left > 0) else {
            return Poll::Ready(Ok(None));
        };
        self.left[request] -= 1;
        let chunk = |sample| Chunk {
            request,
            sample,
            text: "a".to_owned(),
            tokens: vec![97],
            logprobs: Vec::new(),
            finish: (self.left[request] == 0).then_some(Finish::Length),
            commitments: Vec::new(),
        };
        let chunks = (0..self.requests[request].samples).map(chunk).collect();
        Poll::Ready(Ok(Some(chunks)))
    }

    fn poll_all(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Vec<Result<Vec<Completion>, EngineError>>> {
        if self.pace == Pace::Never && self.charge.is_ok() {
            self.wait(context);
            return Poll::Pending;
        }
        let write = |request: &Request| match &self.charge {
            Err(error) => Err(error.clone()),
            Ok(_) => Ok((0..request.samples)
                .map(|_| Completion {
                    text: "a".repeat(request.max_tokens),
                    tokens: vec![97; request.max_tokens],
                    logprobs: Vec::new(),
                    finish: Finish::Length,
                    commitments: Vec::new(),
                    prompt_tokens: request.prompt.len(),
                    cached_tokens: 0,
                })
                .collect()),
        };
        Poll::Ready(self.requests.iter().map(write).collect())
    }
}

/// The scribe under every name, and one adapter of its own.
pub struct OneScribe(pub Arc<Scribe>);

impl Models for OneScribe {
    fn open(&self, name: &str, _: &Account) -> Result<Arc<dyn TextEncoder>, ModelError> {
        Err(ModelError::NotFound(name.to_owned()))
    }

    fn open_text(&self, _: &str, _: &Account) -> Result<Arc<dyn LanguageModel>, ModelError> {
        Ok(Arc::clone(&self.0) as Arc<dyn LanguageModel>)
    }

    fn open_adapter(&self, name: &str, _: &Account) -> Result<Arc<dyn TextAdapter>, ModelError> {
        match name {
            "village" => Ok(Arc::new(Village)),
            _ => Err(ModelError::NotFound(name.to_owned())),
        }
    }
}

struct Village;

impl TextAdapter for Village {
    fn info(&self) -> AdapterInfo {
        AdapterInfo {
            name: "village".to_owned(),
            digest: "2".repeat(64),
            base: DIGEST.to_owned(),
            base_name: "scribe".to_owned(),
            rank: 8,
            bytes: 11,
        }
    }

    fn residency(&self) -> Residency {
        Residency::Memory
    }

    fn engine_name(&self) -> String {
        "village, first version".to_owned()
    }
}
