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
//! More than can be shown is written by nobody whose result counts: such a run ends without one. Who
//! follows and comes to more follows what no honest run wrote, notes that it does not fit, and goes on
//! without texts.
//!
//! # What it must never do
//!
//! - Take a failure of this machine for something that the model says: it ends the run.
//! - Hand the guest a text of the script without noting what the model says of it here.
//! - Say that something fits which it has not gone over to its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_engine::{Caller, Completion, Constraint, EngineError, FollowRequest, Followed, Request};
use skep_evidence::following::{
    MAX_CHUNKS, Observation, Script, SeenAnswer, SeenText, Transcript, WrittenAnswer, WrittenText,
    chunks, counted,
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
    /// Whether the run came to more than can be shown.
    is_full: bool,
}

impl Showing {
    pub(crate) fn of(texts: &Texts) -> Self {
        Showing {
            shown: match texts {
                Texts::Kept => None,
                Texts::Written => Some(Shown::Written(Transcript::default())),
                Texts::Followed(_) => Some(Shown::Seen(Observation::default())),
            },
            ..Showing::default()
        }
    }

    pub(crate) fn shown(&self) -> Option<Shown> {
        self.shown.clone()
    }

    /// Whether the run wrote more than can be shown, so that it has no result.
    pub(crate) fn lacks_some(&self) -> bool {
        self.is_full && matches!(self.shown, Some(Shown::Written(_)))
    }

    /// Requests so far.
    fn requests(&self) -> usize {
        match &self.shown {
            Some(Shown::Written(transcript)) => transcript.0.len(),
            Some(Shown::Seen(observation)) => observation.0.len(),
            None => 0,
        }
    }

    /// Whether these answers can be shown as well, by what they come to: as much wherever the run is. One
    /// that is none counts too.
    fn has_room(&mut self, answers: &[Answer]) -> bool {
        let chunks = answers.iter().map(|answer| match answer {
            Ok(texts) => counted(texts.iter().map(|text| chunks(text.tokens.len())).sum()),
            Err(_) => counted(0),
        });
        self.chunks = chunks.fold(self.chunks, usize::saturating_add);
        self.is_full = self.chunks > MAX_CHUNKS;
        !self.is_full
    }

    /// Notes that what it follows does not fit from here on, with the name of what was asked for.
    fn fits_no_more(&mut self, request: Option<&Digest>) {
        let Some(Shown::Seen(Observation(seen))) = &mut self.shown else {
            return;
        };
        match (seen.last_mut(), request) {
            // There may be no room for one more.
            (Some(last), _) => last.fits = false,
            (None, Some(request)) => seen.push(SeenAnswer {
                request: *request,
                fits: false,
                texts: Vec::new(),
            }),
            (None, None) => {}
        }
    }
}

/// Why there are no more texts in a run that has come to more than can be shown.
fn no_more() -> EngineError {
    EngineError::Invalid(
        "the texts of this run are more than can be shown to others; ask for smaller shards"
            .to_owned(),
    )
}

/// The first of these that is no answer of the model, on whatever machine, but a failure of this one.
fn fault<T>(answers: &[Result<T, EngineError>]) -> Option<EngineError> {
    let is_the_model_s = |error: &&EngineError| {
        matches!(
            error,
            EngineError::Invalid(_) | EngineError::NoAdapter(_) | EngineError::Grammar(_)
        )
    };
    let mut errors = answers.iter().filter_map(|answer| answer.as_ref().err());
    let fault = errors.find(|error| !is_the_model_s(error))?;
    tracing::warn!(error = %fault, "a run whose texts others may follow ends without a result");
    Some(fault.clone())
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
        if let Some(fault) = writing.fault() {
            return Err(fault);
        }
        let names = requests.iter().map(|asked| {
            let adapter = asked.adapter.as_ref();
            name_of(asked, adapter.and_then(|name| writing.adapter(name)))
        });
        let names: Vec<Digest> = names.collect();
        let site = Site {
            threads: Arc::clone(&self.threads),
            model: Arc::clone(model),
            caller: self.caller(),
        };
        if self.showing.is_full {
            writing.complete(names.iter().map(|_| Err(no_more())).collect());
            return Ok(writing);
        }
        let (first, texts) = (self.showing.requests(), self.spec.texts.clone());
        let (answers, seen) = match texts {
            Texts::Followed(script) => {
                let script = script.0.get(first..).unwrap_or_default();
                site.follow(requests, script).await?
            }
            Texts::Kept | Texts::Written => (site.write(requests).await?, Vec::new()),
        };
        if let Some(fault) = fault(&answers) {
            return Err(fault.into());
        }
        if !self.showing.has_room(&answers) {
            self.showing.fits_no_more(names.first());
            writing.complete(names.iter().map(|_| Err(no_more())).collect());
            return Ok(writing);
        }
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

/// Texts that are gone over at a time.
const AT_ONCE: usize = 256;

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
            // What is longer than was asked for fits nothing, and is not worth the work.
            let is_longer = texts.iter().any(|text| text.len() > request.max_tokens);
            if texts.len() != request.samples || is_longer {
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
            if let Some(fault) = fault(&texts) {
                return Err(fault.into());
            }
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
        let mut all = Vec::with_capacity(texts.len());
        // One request may have had many texts, and an engine takes so many of one owner at a time.
        for texts in texts.chunks(AT_ONCE) {
            let (model, caller) = (Arc::clone(&self.model), self.caller.clone());
            let texts = texts.to_vec();
            let begun = self.threads.model(move || model.follow(&caller, texts));
            let mut follows = begun.await?;
            let threads = &self.threads;
            let seen = threads.waiting(|context| follows.as_mut().poll(context));
            all.extend(seen.await);
        }
        Ok(all)
    }
}

/// Texts that were gone over, as an answer and as what was seen of them.
fn taken(texts: Vec<Followed>) -> (Answer, Seen) {
    let fits = texts.iter().all(|text| text.is_whole);
    let (answer, mut texts): (Vec<Completion>, Vec<SeenText>) = texts
        .into_iter()
        .map(|text| {
            let seen = SeenText {
                peaks: text.peaks,
                shortfalls: text.shortfalls,
            };
            (text.completion, seen)
        })
        .unzip();
    // What goes on behind its end would be seen at any length.
    if !fits {
        texts.clear();
    }
    (Ok(answer), Seen { fits, texts })
}

/// The name of what is asked for: everything that decides what the model writes. The adapter is the
/// digest of the one that the request names.
fn name_of(request: &Request, adapter: Option<String>) -> Digest {
    let mut hash = blake3::Hasher::new_derive_key("skep request for texts, as it is shown v1");
    let Request {
        prompt,
        max_tokens,
        sampling,
        stop,
        constraint,
        samples,
        logprobs: _,
        adapter: _,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use skep_engine::{Finish, Sampling};

    use super::*;

    /// Somebody who changed something would otherwise not be seen.
    #[test]
    fn whatever_decides_what_is_written_is_in_the_name() {
        let request = || Request::greedy(vec![1, 2, 3], 10);
        let constrained = |constraint| Request {
            constraint: Some(constraint),
            ..request()
        };
        let drawn = |change: &dyn Fn(&mut Sampling)| {
            let mut drawn = request();
            change(&mut drawn.sampling);
            drawn
        };
        let word = || "red".to_owned();
        let all = [
            request(),
            Request::greedy(vec![1, 2], 10),
            Request::greedy(vec![1, 2, 4], 10),
            Request::greedy(vec![1, 2, 3], 11),
            Request {
                samples: 2,
                ..request()
            },
            Request {
                stop: vec![word()],
                ..request()
            },
            Request {
                stop: vec!["re".to_owned(), "d".to_owned()],
                ..request()
            },
            constrained(Constraint::Choices(vec![word()])),
            constrained(Constraint::Regex(word())),
            constrained(Constraint::JsonSchema(word())),
            constrained(Constraint::Lark(word())),
            drawn(&|sampling| sampling.temperature = 0.5),
            drawn(&|sampling| sampling.top_k = 5),
            drawn(&|sampling| sampling.top_p = 0.5),
            drawn(&|sampling| sampling.min_p = 0.5),
            drawn(&|sampling| sampling.repetition_penalty = 0.5),
            drawn(&|sampling| sampling.presence_penalty = 0.5),
            drawn(&|sampling| sampling.frequency_penalty = 0.5),
            drawn(&|sampling| sampling.logit_bias = vec![(1, 0.5)]),
            drawn(&|sampling| sampling.seed = 5),
            drawn(&|sampling| sampling.shared_noise = true),
        ];
        let names = all.iter().map(|request| name_of(request, None));
        let mut names: BTreeSet<Digest> = names.collect();
        names.insert(name_of(&request(), Some(word())));
        assert_eq!(names.len(), all.len() + 1);
        assert!(names.contains(&name_of(&request(), None)));
    }

    #[test]
    fn a_run_shows_no_more_than_others_take() {
        let text = |tokens| Completion {
            text: String::new(),
            tokens: vec![0; tokens],
            logprobs: Vec::new(),
            finish: Finish::Length,
            commitments: Vec::new(),
            prompt_tokens: 1,
            cached_tokens: 0,
        };
        let mut showing = Showing::of(&Texts::Written);
        // A prompt and one token, a prompt and 33 tokens that were gone on from, and no text at all.
        let refused = EngineError::Invalid("no such grammar".to_owned());
        assert!(showing.has_room(&[Ok(vec![text(1), text(34)]), Err(refused), Ok(Vec::new())]));
        assert_eq!(showing.chunks, 1 + 3 + 1 + 1);
        let most: Vec<Answer> = (6..MAX_CHUNKS).map(|_| Ok(vec![text(1)])).collect();
        assert!(showing.has_room(&most) && !showing.lacks_some());
        assert!(!showing.has_room(&[Ok(vec![text(1)])]) && showing.lacks_some());
    }
}
