//! Texts that are being written for a guest: the requests of one call, those that were refused
//! among them, and what the engine writes to the rest.
//!
//! What was written and is not taken yet lies in the host's memory. So a run's texts promise
//! beforehand how much they may come to, and all promises of a run together stay within what one
//! call may carry.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use skep_engine::{Caller, Chunk, Completion, EngineError, Request};

use crate::error::{Quota, QuotaExcess};
use crate::interfaces::HostError;
use crate::language::{LanguageModel, Prompt, TextAdapter, TextGeneration};
use crate::models::{ModelError, Models};

/// Bytes that a token counts for with its text, and more with its log-probability and for each
/// rival.
const TOKEN: u64 = 8;
const LOGPROB: u64 = 32;
const RIVAL: u64 = 8;

/// What the texts of one run may still bring, in bytes.
pub(crate) struct Promises {
    given: Arc<AtomicU64>,
    limit: u64,
}

impl Promises {
    /// None given; at most so many bytes may be.
    pub(crate) fn new(limit: u64) -> Self {
        Promises {
            given: Arc::default(),
            limit,
        }
    }

    /// Promises so many bytes until what is returned is dropped.
    pub(crate) fn give(&self, bytes: u64) -> Result<Promise, QuotaExcess> {
        // One guest's calls come one by one; only dropping happens on other threads.
        let asked = self.given.load(Ordering::Relaxed).saturating_add(bytes);
        if asked > self.limit {
            return Err(QuotaExcess {
                quota: Quota::CallBytes,
                limit: self.limit,
                asked,
            });
        }
        self.given.fetch_add(bytes, Ordering::Relaxed);
        Ok(Promise {
            given: Arc::clone(&self.given),
            bytes,
        })
    }
}

/// Bytes that texts may still bring.
pub(crate) struct Promise {
    given: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.given.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The adapter that a request names.
#[derive(Clone)]
pub(crate) enum Adapter {
    /// The guest has it open.
    Open(Arc<dyn TextAdapter>),
    /// It is to be opened by this name.
    Named(String),
}

/// A request that was checked, before its prompt is cut into tokens.
pub(crate) struct Draft {
    pub prompt: Prompt,
    pub adapter: Option<Adapter>,
    /// The rest, with an empty prompt.
    pub request: Request,
}

impl Draft {
    /// Bytes that its texts may come to.
    pub(crate) fn promises(&self) -> u64 {
        let request = &self.request;
        let token = match request.logprobs {
            Some(rivals) => (TOKEN + LOGPROB).saturating_add(RIVAL.saturating_mul(rivals as u64)),
            None => TOKEN,
        };
        token
            .saturating_mul(request.max_tokens as u64)
            .saturating_mul(request.samples as u64)
    }
}

/// Where a call's prompts and adapters become what the engine knows: on a thread for models.
pub(crate) struct Preparation {
    pub model: Arc<dyn LanguageModel>,
    pub models: Option<Arc<dyn Models>>,
    pub caller: Caller,
    /// Adapters in use, with the name that each was asked for.
    adapters: Vec<(String, Arc<dyn TextAdapter>)>,
}

impl Preparation {
    pub(crate) fn new(
        model: Arc<dyn LanguageModel>,
        models: Option<Arc<dyn Models>>,
        caller: Caller,
    ) -> Self {
        Preparation {
            model,
            models,
            caller,
            adapters: Vec::new(),
        }
    }

    /// Begins to write to the requests.
    pub(crate) fn write(self, drafts: Vec<Result<Draft, HostError>>, promise: Promise) -> Writing {
        let (model, caller) = (Arc::clone(&self.model), self.caller.clone());
        let (requests, mut writing) = self.prepare(drafts, promise);
        if !requests.is_empty() {
            writing.generation = Some(model.generate(&caller, requests));
        }
        writing
    }

    /// The requests that the engine can be given, and their texts, none of which is begun.
    pub(crate) fn prepare(
        mut self,
        drafts: Vec<Result<Draft, HostError>>,
        promise: Promise,
    ) -> (Vec<Request>, Writing) {
        let total = drafts.len();
        let (mut requests, mut places, mut refused) = (Vec::new(), Vec::new(), VecDeque::new());
        for (place, draft) in drafts.into_iter().enumerate() {
            match draft.and_then(|draft| self.request(draft)) {
                Ok(request) => {
                    requests.push(request);
                    places.push(place);
                }
                Err(error) => refused.push_back((place, error)),
            }
        }
        let writing = Writing {
            generation: None,
            places,
            refused,
            total,
            adapters: self.adapters,
            _promise: promise,
        };
        (requests, writing)
    }

    fn request(&mut self, draft: Draft) -> Result<Request, HostError> {
        let mut request = draft.request;
        request.prompt = self.prompt(&draft.prompt)?;
        request.adapter = self.adapter(draft.adapter)?;
        Ok(request)
    }

    /// The tokens of a prompt that leaves room for at least one more.
    pub(crate) fn prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, HostError> {
        self.caller.account.check()?;
        let tokens = self.model.encode_prompt(prompt)?;
        let context = self.model.info().context;
        match tokens.len() {
            0 => Err(HostError::invalid(
                "the prompt is empty; it has to have at least one token",
            )),
            length if length >= context as usize => Err(HostError::invalid(format!(
                "the prompt has {length} tokens, and the model takes {context} with what is \
                 written to it"
            ))),
            _ => Ok(tokens),
        }
    }

    /// The engine's name of an adapter, which stays open from now on.
    pub(crate) fn adapter(
        &mut self,
        adapter: Option<Adapter>,
    ) -> Result<Option<String>, HostError> {
        let adapter = match adapter {
            None => return Ok(None),
            Some(Adapter::Open(adapter)) => adapter,
            Some(Adapter::Named(name)) => {
                if let Some((_, adapter)) = self.adapters.iter().find(|(asked, _)| *asked == name) {
                    return Ok(Some(adapter.engine_name()));
                }
                let models = self.models.as_ref();
                let models = models.ok_or_else(|| ModelError::NotFound(name.clone()))?;
                let adapter = models.open_adapter(&name, &self.caller.account)?;
                self.adapters.push((name, Arc::clone(&adapter)));
                adapter
            }
        };
        let (adapter_info, model_info) = (adapter.info(), self.model.info());
        if adapter_info.base != model_info.digest {
            return Err(HostError::invalid(format!(
                "the adapter {} changes the model {} ({}), and this one is {} ({}); open its own",
                adapter_info.name,
                adapter_info.base_name,
                adapter_info.base,
                model_info.name,
                model_info.digest
            )));
        }
        let name = adapter.engine_name();
        if !self
            .adapters
            .iter()
            .any(|(_, held)| Arc::ptr_eq(held, &adapter))
        {
            self.adapters.push((String::new(), adapter));
        }
        Ok(Some(name))
    }

    /// The adapters that were asked for, to be kept as long as they are used.
    pub(crate) fn adapters(self) -> Vec<Arc<dyn TextAdapter>> {
        self.adapters
            .into_iter()
            .map(|(_, adapter)| adapter)
            .collect()
    }
}

/// Texts that are being written. Dropping it ends the writing.
pub struct Writing {
    /// None once all texts are complete.
    generation: Option<Box<dyn TextGeneration>>,
    /// The place in the call of each request that the engine has.
    places: Vec<usize>,
    /// Requests that the engine does not have, and why.
    refused: VecDeque<(usize, HostError)>,
    total: usize,
    adapters: Vec<(String, Arc<dyn TextAdapter>)>,
    _promise: Promise,
}

impl Writing {
    /// The adapters that its texts are written with: digest and bytes of each.
    pub(crate) fn adapters(&self) -> impl Iterator<Item = (String, u64)> {
        self.adapters.iter().map(|(_, adapter)| {
            let info = adapter.info();
            (info.digest, info.bytes)
        })
    }

    /// The digest of the adapter that the engine knows by this name.
    pub(crate) fn adapter(&self, engine_name: &str) -> Option<String> {
        let mut adapters = self.adapters.iter();
        let found = adapters.find(|(_, adapter)| adapter.engine_name() == engine_name);
        found.map(|(_, adapter)| adapter.info().digest)
    }

    /// Why a request could not be given to the engine, if that was for something of this machine.
    pub(crate) fn fault(&mut self) -> Option<HostError> {
        let place = self.refused.iter().position(|(_, error)| error.is_fault());
        self.refused.remove(place?).map(|(_, error)| error)
    }

    /// Takes what came of the requests that the engine could be given, all of them.
    pub(crate) fn complete(&mut self, answers: Vec<Result<Vec<Completion>, EngineError>>) {
        if !answers.is_empty() {
            self.generation = Some(Box::new(Complete(
                answers.into_iter().enumerate().collect(),
            )));
        }
    }

    /// What was written since the last call; nothing once all texts are complete. An error is one
    /// request's.
    pub(crate) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Vec<Chunk>, HostError>> {
        if let Some((_, error)) = self.refused.pop_front() {
            return Poll::Ready(Err(error));
        }
        while let Some(generation) = &mut self.generation {
            match ready!(generation.poll_next(context)) {
                Ok(None) => self.generation = None,
                Err(error) => return Poll::Ready(Err(error.into())),
                // To the guest, nothing would be the end.
                Ok(Some(chunks)) if chunks.is_empty() => {}
                Ok(Some(mut chunks)) => {
                    for chunk in &mut chunks {
                        chunk.request = self.places.get(chunk.request).copied().unwrap_or_default();
                    }
                    return Poll::Ready(Ok(chunks));
                }
            }
        }
        Poll::Ready(Ok(Vec::new()))
    }

    /// As [`Writing::poll_next`], with everything that is written in one answer: in how many pieces
    /// texts come depends on what else is being written.
    pub(crate) fn poll_whole(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Vec<Chunk>, HostError>> {
        if let Some((_, error)) = self.refused.pop_front() {
            return Poll::Ready(Err(error));
        }
        if self.generation.is_none() {
            return Poll::Ready(Ok(Vec::new()));
        }
        let answers = ready!(self.poll_all(context));
        let mut chunks = Vec::new();
        for (request, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(texts) => chunks.extend(whole(request, texts)),
                Err(error) => self.refused.push_back((request, error)),
            }
        }
        if chunks.is_empty()
            && let Some((_, error)) = self.refused.pop_front()
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(chunks))
    }

    /// All texts, once they are complete. Called no more after that.
    pub(crate) fn poll_all(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Vec<Result<Vec<Completion>, HostError>>> {
        let written = match &mut self.generation {
            Some(generation) => ready!(generation.poll_all(context)),
            None => Vec::new(),
        };
        self.generation = None;
        let mut answers: Vec<_> = (0..self.total).map(|_| None).collect();
        let written = self
            .places
            .drain(..)
            .zip(written)
            .map(|(place, answer)| (place, answer.map_err(HostError::from)));
        let refused = self
            .refused
            .drain(..)
            .map(|(place, error)| (place, Err(error)));
        for (place, answer) in written.chain(refused) {
            if let Some(slot) = answers.get_mut(place) {
                *slot = Some(answer);
            }
        }
        let missing =
            || Err(EngineError::Failed("the engine did not answer this request".to_owned()).into());
        Poll::Ready(
            answers
                .into_iter()
                .map(|answer| answer.unwrap_or_else(missing))
                .collect(),
        )
    }
}

/// The texts to one request as chunks that each have all of theirs.
fn whole(request: usize, texts: Vec<Completion>) -> impl Iterator<Item = Chunk> {
    let texts = texts.into_iter().enumerate();
    texts.map(move |(sample, text)| Chunk {
        request,
        sample,
        text: text.text,
        tokens: text.tokens,
        logprobs: text.logprobs,
        finish: Some(text.finish),
        commitments: text.commitments,
    })
}

/// Texts that are complete, request by request.
struct Complete(VecDeque<(usize, Result<Vec<Completion>, EngineError>)>);

impl TextGeneration for Complete {
    fn poll_next(
        &mut self,
        _context: &mut Context<'_>,
    ) -> Poll<Result<Option<Vec<Chunk>>, EngineError>> {
        Poll::Ready(match self.0.pop_front() {
            None => Ok(None),
            Some((request, answer)) => answer.map(|texts| Some(whole(request, texts).collect())),
        })
    }

    fn poll_all(
        &mut self,
        _context: &mut Context<'_>,
    ) -> Poll<Vec<Result<Vec<Completion>, EngineError>>> {
        Poll::Ready(self.0.drain(..).map(|(_, answer)| answer).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_kept_within_the_limit_and_given_back() {
        let promises = Promises::new(100);
        let first = promises.give(60).unwrap();
        let refused = promises.give(41).err().unwrap();
        assert_eq!((refused.limit, refused.asked), (100, 101));
        let second = promises.give(40).unwrap();
        drop(first);
        let third = promises.give(60).unwrap();
        assert!(promises.give(1).is_err());
        assert!(promises.give(u64::MAX).is_err());
        drop((second, third));
        assert_eq!(promises.given.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_a_text_may_bring_is_counted_whatever_is_asked_for() {
        let mut request = Request::greedy(Vec::new(), 10);
        request.samples = 3;
        let mut draft = Draft {
            prompt: Prompt::Text(String::new()),
            adapter: None,
            request,
        };
        assert_eq!(draft.promises(), 240);
        draft.request.logprobs = Some(5);
        assert_eq!(draft.promises(), 30 * (8 + 32 + 40));
        draft.request.logprobs = Some(usize::MAX);
        draft.request.max_tokens = usize::MAX;
        assert_eq!(draft.promises(), u64::MAX);
    }
}
