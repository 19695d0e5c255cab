//! Runs whose texts are shown, so that machines of other kinds can repeat them: what is kept of each
//! text while it is written, and how a run is made of the texts that another wrote.
//!
//! Such a run asks the engine for one call's texts after the other's, each call as a whole, so that
//! they are in the same order wherever it runs. Numbers that differ between machines, which are scores,
//! embeddings and log-probabilities, are refused to its guest.
//!
//! Whoever follows gets its guest an answer to every request: another's text where the script has
//! one that the engine can go over, and its own where not. What does not fit is noted and ends nothing,
//! so that a run that follows comes to its end, and to its price, like any other.
//!
//! # What it must never do
//!
//! - Hand the guest a text of the script without noting what the model says of it here.
//! - Say that something fits which it has not gone over to its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_engine::{Caller, Completion, Constraint, EngineError, FollowRequest, Followed, Request};
use skep_evidence::following::{
    MAX_CHUNKS, Observation, Script, SeenAnswer, SeenText, Transcript, WrittenAnswer, WrittenText,
};
use skep_registry::Digest;

use crate::devices::DeviceThreads;
use crate::interfaces::HostError;
use crate::interfaces::text::Drafts;
use crate::language::LanguageModel;
use crate::state::State;
use crate::writing::Writing;

/// How the texts of a repeatable run are shown to machines of other kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Texts {
    /// They are not.
    #[default]
    Kept,
    /// They are drawn with shared noise, and the report has a transcript of them.
    Written,
    /// They are another's, by this script, and the report has what was seen of them.
    Followed(Arc<Script>),
}

impl Texts {
    /// Whether they are drawn so that others can follow.
    pub(crate) fn are_shown(&self) -> bool {
        *self != Texts::Kept
    }
}

/// What a run shows of its texts.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// What it wrote.
    Written(Transcript),
    /// What it saw of another's.
    Seen(Observation),
}

impl Shown {
    /// Its one encoding, of which others are told the digest.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Shown::Written(transcript) => transcript.encode(),
            Shown::Seen(observation) => observation.encode(),
        }
    }
}

/// What a run shows of its texts so far.
#[derive(Default)]
pub(crate) struct Showing {
    shown: Option<Shown>,
    /// Chunks of states among it.
    chunks: usize,
}

impl Showing {
    pub(crate) fn of(texts: &Texts) -> Self {
        Showing {
            shown: match texts {
                Texts::Kept => None,
                Texts::Written => Some(Shown::Written(Transcript::default())),
                Texts::Followed(_) => Some(Shown::Seen(Observation::default())),
            },
            chunks: 0,
        }
    }

    pub(crate) fn shown(&self) -> Option<Shown> {
        self.shown.clone()
    }

    /// Requests so far.
    fn requests(&self) -> usize {
        match &self.shown {
            Some(Shown::Written(transcript)) => transcript.0.len(),
            Some(Shown::Seen(observation)) => observation.0.len(),
            None => 0,
        }
    }

    /// Keeps to what can be shown, by what texts of these lengths come to: as much wherever it runs.
    fn take(&mut self, texts: impl Iterator<Item = usize>) -> Result<(), HostError> {
        let chunks = texts.map(skep_evidence::following::chunks);
        self.chunks = self.chunks.saturating_add(chunks.sum());
        match self.chunks <= MAX_CHUNKS {
            true => Ok(()),
            false => Err(HostError::failed(
                "the texts of this run are more than can be shown to others; ask for smaller shards",
            )),
        }
    }
}

/// What came of one request.
type Answer = Result<Vec<Completion>, EngineError>;

impl State {
    /// Writes to the requests of one call, or follows what another wrote to them, to the end.
    pub(crate) async fn write_shown(
        &mut self,
        model: &Arc<dyn LanguageModel>,
        (drafts, promise): Drafts,
    ) -> Result<Writing, HostError> {
        let preparation = self.preparation(model);
        let prepared = self
            .threads
            .model(move || preparation.prepare(drafts, promise));
        let (requests, mut writing) = prepared.await?;
        let names: Vec<Digest> = requests
            .iter()
            .map(|asked| name_of(asked, &writing))
            .collect();
        let site = Site {
            threads: Arc::clone(&self.threads),
            model: Arc::clone(model),
            caller: self.caller(),
        };
        let (first, texts) = (self.showing.requests(), self.spec.texts.clone());
        let (answers, seen) = match texts {
            Texts::Followed(script) => {
                let script = script.0.get(first..).unwrap_or_default();
                site.follow(requests, script).await?
            }
            Texts::Kept | Texts::Written => (site.write(requests).await?, Vec::new()),
        };
        let lengths = answers.iter().flatten().flatten();
        self.showing.take(lengths.map(|text| text.tokens.len()))?;
        match &mut self.showing.shown {
            Some(Shown::Written(transcript)) => {
                let written = names.into_iter().zip(&answers);
                transcript
                    .0
                    .extend(written.map(|(request, answer)| WrittenAnswer {
                        request,
                        texts: answer.iter().flatten().map(written_text).collect(),
                    }));
            }
            Some(Shown::Seen(observation)) => {
                let seen = names.into_iter().zip(seen);
                observation.0.extend(seen.map(|(request, seen)| SeenAnswer {
                    request,
                    fits: seen.fits,
                    texts: seen.texts,
                }));
            }
            None => {}
        }
        writing.complete(answers);
        Ok(writing)
    }
}

fn written_text(text: &Completion) -> WrittenText {
    WrittenText {
        tokens: text.tokens.clone(),
        commitments: text.commitments.clone(),
    }
}

/// What was seen of a request, but for what was asked.
#[derive(Default)]
struct Seen {
    fits: bool,
    texts: Vec<SeenText>,
}

/// Where texts are written.
struct Site {
    threads: Arc<DeviceThreads>,
    model: Arc<dyn LanguageModel>,
    caller: Caller,
}

impl Site {
    async fn write(&self, requests: Vec<Request>) -> Result<Vec<Answer>, HostError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let (model, caller) = (Arc::clone(&self.model), self.caller.clone());
        let begun = self
            .threads
            .model(move || model.generate(&caller, requests));
        let mut generation = begun.await?;
        let threads = &self.threads;
        Ok(threads
            .waiting(|context| generation.poll_all(context))
            .await)
    }

    /// Has the model go over the texts that the script has for these requests, and writes where it has
    /// none that can be gone over.
    async fn follow(
        &self,
        requests: Vec<Request>,
        script: &[Vec<Vec<u32>>],
    ) -> Result<(Vec<Answer>, Vec<Seen>), HostError> {
        let texts_for = |place: usize| script.get(place).map(Vec::as_slice);
        let mut asked = Vec::new();
        let mut whose = Vec::new();
        for (place, request) in requests.iter().enumerate() {
            let texts = texts_for(place).unwrap_or_default();
            if texts.len() != request.samples {
                continue;
            }
            for (sample, tokens) in texts.iter().enumerate() {
                whose.push(place);
                asked.push(FollowRequest {
                    request: request.clone(),
                    sample,
                    tokens: tokens.clone(),
                });
            }
        }
        let mut found: BTreeMap<usize, Vec<Result<Followed, EngineError>>> = BTreeMap::new();
        for (place, text) in whose.into_iter().zip(self.go_over(asked).await?) {
            found.entry(place).or_default().push(text);
        }
        let mut all: BTreeMap<usize, (Answer, Seen)> = BTreeMap::new();
        for (place, texts) in found {
            match texts.into_iter().collect::<Result<Vec<Followed>, _>>() {
                Ok(texts) => {
                    all.insert(place, taken(texts));
                }
                // Nobody can go over it: a token that there is not, or more than the model takes.
                Err(EngineError::Invalid(_)) => {}
                Err(error) => {
                    all.insert(place, (Err(error), Seen::default()));
                }
            }
        }
        let left: Vec<usize> = (0..requests.len())
            .filter(|place| !all.contains_key(place))
            .collect();
        let own = left.iter().map(|place| requests[*place].clone()).collect();
        for (place, answer) in left.into_iter().zip(self.write(own).await?) {
            let seen = Seen {
                // The other's model refused it as well.
                fits: answer.is_err() && texts_for(place).is_some_and(<[_]>::is_empty),
                texts: Vec::new(),
            };
            all.insert(place, (answer, seen));
        }
        Ok(all.into_values().unzip())
    }

    async fn go_over(
        &self,
        texts: Vec<FollowRequest>,
    ) -> Result<Vec<Result<Followed, EngineError>>, HostError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let (model, caller) = (Arc::clone(&self.model), self.caller.clone());
        let begun = self.threads.model(move || model.follow(&caller, texts));
        let mut follows = begun.await?;
        let threads = &self.threads;
        Ok(threads
            .waiting(|context| follows.as_mut().poll(context))
            .await)
    }
}

/// Texts that were gone over, as an answer and as what was seen of them.
fn taken(texts: Vec<Followed>) -> (Answer, Seen) {
    let fits = texts.iter().all(|text| text.is_whole);
    let (answer, texts) = texts
        .into_iter()
        .map(|text| {
            let seen = SeenText {
                peaks: text.peaks,
                shortfalls: text.shortfalls,
            };
            (text.completion, seen)
        })
        .unzip();
    (Ok(answer), Seen { fits, texts })
}

/// The name of what is asked for: everything that decides what the model writes.
fn name_of(request: &Request, writing: &Writing) -> Digest {
    let mut hash = blake3::Hasher::new_derive_key("skep request for texts, as it is shown v1");
    let Request {
        prompt,
        max_tokens,
        sampling,
        stop,
        constraint,
        samples,
        logprobs: _,
        adapter,
        commit: _,
    } = request;
    let mut number = |number: u64| {
        hash.update(&number.to_le_bytes());
    };
    number(prompt.len() as u64);
    prompt.iter().for_each(|token| number(u64::from(*token)));
    number(*max_tokens as u64);
    number(*samples as u64);
    for value in [
        sampling.temperature,
        sampling.top_p,
        sampling.min_p,
        sampling.repetition_penalty,
        sampling.presence_penalty,
        sampling.frequency_penalty,
    ] {
        number(u64::from(value.to_bits()));
    }
    number(sampling.top_k as u64);
    number(sampling.seed);
    number(u64::from(sampling.shared_noise));
    number(sampling.logit_bias.len() as u64);
    for (token, bias) in &sampling.logit_bias {
        number(u64::from(*token));
        number(u64::from(bias.to_bits()));
    }
    let adapter = adapter
        .as_ref()
        .map(|name| writing.adapter(name).unwrap_or_default());
    let (kind, texts): (&str, &[String]) = match constraint {
        None => ("none", &[]),
        Some(Constraint::Choices(texts)) => ("choices", texts),
        Some(Constraint::Regex(text)) => ("regex", std::slice::from_ref(text)),
        Some(Constraint::JsonSchema(text)) => ("json schema", std::slice::from_ref(text)),
        Some(Constraint::Lark(text)) => ("lark", std::slice::from_ref(text)),
    };
    let mut list = |texts: &mut dyn Iterator<Item = &str>| {
        for text in texts {
            hash.update(&[1]);
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        hash.update(&[0]);
    };
    list(&mut stop.iter().map(String::as_str));
    list(&mut std::iter::once(kind).chain(texts.iter().map(String::as_str)));
    list(&mut adapter.iter().map(String::as_str));
    Digest::from_bytes(*hash.finalize().as_bytes())
}
