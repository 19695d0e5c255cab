//! Taking requests on, or saying why not.

use std::sync::{Mutex, PoisonError};

use super::{Group, Options, Scheduler};
use crate::adapters::{AdapterStore, Lease};
use crate::checking::{Checking, FollowRequest};
use crate::error::EngineError;
use crate::holding::Holding;
use crate::model::LanguageModel;
use crate::prefix::Realm;
use crate::request::{Caller, Request, ScoreRequest};
use crate::sequence::{Goal, Key, Sequence};
use crate::writing::Writing;

/// Answers to one prompt at most.
const SAMPLES: usize = 256;

/// What a caller asks.
#[derive(Debug, Clone)]
pub enum Task {
    /// To write.
    Write(Request),
    /// To judge.
    Score(ScoreRequest),
    /// The mean of the hidden states of these tokens.
    Embed(Vec<u32>),
    /// To go over a text that somebody else wrote.
    Follow(FollowRequest),
}

impl Task {
    /// How many texts it is made of.
    pub fn texts(&self) -> usize {
        match self {
            Self::Write(request) => request.samples,
            Self::Score(request) => request.choices.len(),
            Self::Embed(_) | Self::Follow(_) => 1,
        }
    }

    fn adapter(&self) -> Option<&str> {
        match self {
            Self::Write(request) => request.adapter.as_deref(),
            Self::Score(request) => request.adapter.as_deref(),
            Self::Follow(follow) => follow.request.adapter.as_deref(),
            Self::Embed(_) => None,
        }
    }
}

/// A task that has been checked, as texts: what can be done on the caller's own thread is done.
#[derive(Debug)]
pub struct Prepared {
    texts: Vec<Sequence>,
    lease: Option<Lease>,
}

impl Prepared {
    /// Checks a task, compiles its constraint and takes hold of the version of its adapter.
    ///
    /// # Errors
    /// When the request cannot be answered.
    pub fn new(
        model: &LanguageModel,
        options: &Options,
        adapters: &Mutex<AdapterStore>,
        task: Task,
    ) -> Result<Self, EngineError> {
        let check = Check { model, options };
        let lease = task.adapter().map(|name| {
            let mut adapters = adapters.lock().unwrap_or_else(PoisonError::into_inner);
            adapters.acquire(name)
        });
        let lease = lease.transpose()?;
        let texts = match task {
            Task::Write(request) => check.texts_to_write(&request)?,
            Task::Score(request) => check.texts_to_judge(&request)?,
            Task::Embed(tokens) => {
                check.tokens("the text", &tokens)?;
                check.length(tokens.len())?;
                let sum = vec![0.0; model.decoder.config().width];
                let prompt = tokens.len();
                vec![Sequence::new(tokens, prompt, Goal::Embed { sum })]
            }
            Task::Follow(request) => vec![check.text_to_follow(request)?],
        };
        Ok(Self { texts, lease })
    }

    /// How many texts it is made of.
    pub fn texts(&self) -> usize {
        self.texts.len()
    }
}

impl Scheduler {
    /// Takes a request on. Its number is what events are for.
    ///
    /// # Errors
    /// When the scheduler or the caller has too much to do already, or the caller's run is over.
    pub fn submit(&mut self, caller: Caller, prepared: Prepared) -> Result<u64, EngineError> {
        let Prepared { texts, lease } = prepared;
        self.admit(&caller, texts.len())?;
        let holding = Holding::new(&caller.account, self.page_bytes)?;
        let number = self.next;
        self.next += 1;
        let realm = Realm {
            owner: caller.owner,
            adapter: lease.as_ref().map_or(0, Lease::number),
        };
        self.turns.arrive(caller.owner);
        self.groups.insert(
            number,
            Group {
                caller,
                holding,
                realm,
                lease,
                adapter: None,
                open: texts.len(),
                cached: None,
            },
        );
        for (text, mut sequence) in texts.into_iter().enumerate() {
            sequence.waits = text > 0 && sequence.can_share();
            // Nobody else may go on from what is less exact.
            sequence.forgets = sequence.is_compared() && self.rounds;
            let key = Key {
                group: number,
                text,
            };
            self.sequences.insert(key, sequence);
        }
        Ok(number)
    }

    /// Whether there is room for so many more texts of this caller.
    fn admit(&self, caller: &Caller, texts: usize) -> Result<(), EngineError> {
        caller.account.check()?;
        let waiting = self.sequences.len();
        if waiting > 0 && waiting + texts > self.options.texts {
            return Err(EngineError::Busy { waiting });
        }
        let own = self.turns.requests(caller.owner);
        if own >= self.options.requests_of_owner {
            return Err(EngineError::Busy { waiting: own });
        }
        Ok(())
    }
}

/// What requests are checked against.
struct Check<'a> {
    model: &'a LanguageModel,
    options: &'a Options,
}

impl Check<'_> {
    fn texts_to_write(&self, request: &Request) -> Result<Vec<Sequence>, EngineError> {
        let first = self.beginning(request)?;
        let prompt = request.prompt.len();
        let texts = (0..request.samples).map(|sample| {
            let writing = Box::new(first.sample(sample));
            Sequence::new(request.prompt.clone(), prompt, Goal::Write(writing))
        });
        Ok(texts.collect())
    }

    fn text_to_follow(&self, follow: FollowRequest) -> Result<Sequence, EngineError> {
        let request = &follow.request;
        let first = self.beginning(request)?;
        if follow.sample >= request.samples {
            return Err(invalid(format!(
                "sample {} is to be checked; the request has {}, from 0 on",
                follow.sample, request.samples
            )));
        }
        if request.sampling.temperature > 0.0 && !request.sampling.shared_noise {
            return Err(invalid(
                "tokens that were drawn without shared noise cannot be foretold on another \
                 machine; ask for shared noise, or for a temperature of 0",
            ));
        }
        self.tokens("the text", &follow.tokens)?;
        let mut tokens = request.prompt.clone();
        let prompt = tokens.len();
        tokens.extend_from_slice(&follow.tokens);
        self.length(tokens.len() - 1)?;
        let width = self.model.decoder.config().width;
        let checking = Checking::new(first.sample(follow.sample), prompt, width);
        Ok(Sequence::new(
            tokens,
            prompt,
            Goal::Check(Box::new(checking)),
        ))
    }

    /// The text to a request before its first token.
    fn beginning(&self, request: &Request) -> Result<Writing, EngineError> {
        self.tokens("the prompt", &request.prompt)?;
        if request.max_tokens == 0 {
            return Err(invalid("max-tokens is 0; ask for one token at least"));
        }
        if !(1..=SAMPLES).contains(&request.samples) {
            return Err(invalid(format!(
                "{} samples are asked for; 1 to {SAMPLES} can be",
                request.samples
            )));
        }
        let prompt = request.prompt.len();
        // The last token that is written has no keys and values.
        let longest = prompt.saturating_add(request.max_tokens - 1);
        let context = self.model.decoder.config().context;
        if prompt >= context {
            return Err(invalid(format!(
                "the prompt has {prompt} tokens, which leaves nothing of the model's context of \
                 {context}"
            )));
        }
        self.length(longest.min(context - 1))?;
        let limit = request.max_tokens.min(context - prompt);
        Writing::new(self.model, request, limit, self.options)
    }

    fn texts_to_judge(&self, request: &ScoreRequest) -> Result<Vec<Sequence>, EngineError> {
        self.tokens("the prompt", &request.prompt)?;
        if request.choices.is_empty() {
            return Err(invalid("there are no choices to judge"));
        }
        let first = request.prompt.len();
        let texts = request.choices.iter().map(|choice| {
            self.tokens("a choice", choice)?;
            self.length(first + choice.len())?;
            let mut tokens = request.prompt.clone();
            tokens.extend_from_slice(choice);
            let goal = Goal::Score {
                first,
                logprob: 0.0,
                whole: request.whole,
            };
            Ok(Sequence::new(tokens, first, goal))
        });
        texts.collect()
    }

    fn tokens(&self, what: &str, tokens: &[u32]) -> Result<(), EngineError> {
        if tokens.is_empty() {
            return Err(invalid(format!(
                "{what} has no tokens; it needs one at least"
            )));
        }
        let vocabulary = self.model.decoder.config().vocabulary;
        match tokens.iter().find(|token| **token as usize >= vocabulary) {
            Some(token) => Err(invalid(format!(
                "{what} has the token {token}; the model has {vocabulary}"
            ))),
            None => Ok(()),
        }
    }

    fn length(&self, tokens: usize) -> Result<(), EngineError> {
        let context = self.model.decoder.config().context;
        if tokens > context {
            return Err(invalid(format!(
                "the text comes to {tokens} tokens; the model's context is {context}"
            )));
        }
        let (pages, all) = (Sequence::pages_for(tokens), self.options.pages);
        if pages > all {
            return Err(invalid(format!(
                "the text comes to {tokens} tokens, whose keys and values take {pages} pages; \
                 this node has {all} for all texts"
            )));
        }
        Ok(())
    }
}

fn invalid(reason: impl Into<String>) -> EngineError {
    EngineError::Invalid(reason.into())
}
