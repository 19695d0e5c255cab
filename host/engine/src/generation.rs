//! What a call is answered, as it comes.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use skep_evidence::activations::Commitment;

use crate::checking::{Checked, Followed};
use crate::engine::Ticket;
use crate::error::EngineError;
use crate::mailbox::Mail;
use crate::request::{ChoiceScore, Chunk, Completion, Finish};
use crate::scheduler::Event;

/// Texts that are being written. Dropping it ends the writing and frees its pages.
///
/// Take it piece by piece ([`Generation::next`], [`Generation::poll_next`]) or as a whole
/// ([`Generation::wait`], [`Generation::poll_all`]).
pub struct Generation {
    ticket: Ticket,
    /// Tokens of each request's prompt.
    prompts: Vec<usize>,
    /// Failures that came with chunks, and are told after them.
    failed: VecDeque<EngineError>,
    whole: Vec<Whole>,
}

/// What has been written to one request.
#[derive(Default)]
struct Whole {
    samples: BTreeMap<usize, Completion>,
    failure: Option<EngineError>,
}

impl Generation {
    pub(crate) fn new(ticket: Ticket, prompts: Vec<usize>) -> Self {
        let whole = prompts.iter().map(|_| Whole::default()).collect();
        Self {
            ticket,
            prompts,
            failed: VecDeque::new(),
            whole,
        }
    }

    /// What was written since the last call; waits until there is something. `None` says that all
    /// texts are complete.
    ///
    /// # Errors
    /// Why one of the requests was not finished. The others go on.
    #[expect(clippy::should_implement_trait, reason = "it waits, and it fails")]
    pub fn next(&mut self) -> Result<Option<Vec<Chunk>>, EngineError> {
        if let Some(failure) = self.failed.pop_front() {
            return Err(failure);
        }
        match self.ticket.mail().take() {
            Some(mail) => self.sort(mail).map(Some),
            None => Ok(None),
        }
    }

    /// As [`Generation::next`], without waiting.
    ///
    /// # Errors
    /// As [`Generation::next`].
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Vec<Chunk>>, EngineError>> {
        if let Some(failure) = self.failed.pop_front() {
            return Poll::Ready(Err(failure));
        }
        let mail = ready!(self.ticket.mail().poll(context));
        Poll::Ready(match mail {
            Some(mail) => self.sort(mail).map(Some),
            None => Ok(None),
        })
    }

    /// All answers to each request, in order, when all are complete.
    pub fn wait(mut self) -> Vec<Result<Vec<Completion>, EngineError>> {
        while let Some(mail) = self.ticket.mail().take() {
            self.collect(mail);
        }
        self.results()
    }

    /// As [`Generation::wait`], without waiting.
    pub fn poll_all(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Vec<Result<Vec<Completion>, EngineError>>> {
        while let Some(mail) = ready!(self.ticket.mail().poll(context)) {
            self.collect(mail);
        }
        Poll::Ready(self.results())
    }

    /// Chunks now, failures with the next call.
    fn sort(&mut self, mail: VecDeque<Mail>) -> Result<Vec<Chunk>, EngineError> {
        let mut chunks = Vec::with_capacity(mail.len());
        for Mail { request, event, .. } in mail {
            match event {
                Event::Chunk(mut chunk) => {
                    chunk.request = request;
                    chunks.push(chunk);
                }
                Event::Failed(failure) => self.failed.push_back(failure),
                Event::Scored { .. } | Event::Embedded(_) | Event::Followed(_) => {}
            }
        }
        match self.failed.pop_front() {
            Some(failure) if chunks.is_empty() => Err(failure),
            Some(failure) => {
                self.failed.push_front(failure);
                Ok(chunks)
            }
            None => Ok(chunks),
        }
    }

    fn collect(&mut self, mail: VecDeque<Mail>) {
        for Mail {
            request,
            event,
            cached_tokens,
        } in mail
        {
            let (Some(whole), Some(prompt_tokens)) =
                (self.whole.get_mut(request), self.prompts.get(request))
            else {
                continue;
            };
            match event {
                Event::Chunk(chunk) => {
                    let sample = whole
                        .samples
                        .entry(chunk.sample)
                        .or_insert_with(|| Completion {
                            text: String::new(),
                            tokens: Vec::new(),
                            logprobs: Vec::new(),
                            finish: Finish::Length,
                            commitments: Vec::new(),
                            prompt_tokens: *prompt_tokens,
                            cached_tokens,
                        });
                    sample.text.push_str(&chunk.text);
                    sample.tokens.extend(chunk.tokens);
                    sample.logprobs.extend(chunk.logprobs);
                    sample.commitments.extend(chunk.commitments);
                    sample.finish = chunk.finish.unwrap_or(sample.finish);
                }
                Event::Failed(failure) => whole.failure = Some(failure),
                Event::Scored { .. } | Event::Embedded(_) | Event::Followed(_) => {}
            }
        }
    }

    fn results(&mut self) -> Vec<Result<Vec<Completion>, EngineError>> {
        let wholes = self.whole.iter_mut().map(std::mem::take);
        let results = wholes.map(|whole| match whole.failure {
            Some(failure) => Err(failure),
            None => Ok(whole.samples.into_values().collect()),
        });
        results.collect()
    }
}

/// What the engine answers to each request of a call, once all are answered.
struct Answers<T> {
    ticket: Ticket,
    answers: Vec<Result<BTreeMap<usize, T>, EngineError>>,
    pick: fn(Event) -> Option<(usize, T)>,
}

impl<T> Answers<T> {
    fn new(ticket: Ticket, requests: usize, pick: fn(Event) -> Option<(usize, T)>) -> Self {
        Self {
            ticket,
            answers: (0..requests).map(|_| Ok(BTreeMap::new())).collect(),
            pick,
        }
    }

    fn collect(&mut self, mail: VecDeque<Mail>) {
        for Mail { request, event, .. } in mail {
            let Some(answer) = self.answers.get_mut(request) else {
                continue;
            };
            match (event, answer) {
                (Event::Failed(failure), answer) => *answer = Err(failure),
                (event, Ok(parts)) => parts.extend((self.pick)(event)),
                (_, Err(_)) => {}
            }
        }
    }

    fn wait(mut self) -> Result<Vec<Vec<T>>, EngineError> {
        while let Some(mail) = self.ticket.mail().take() {
            self.collect(mail);
        }
        self.results()
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<Vec<T>>, EngineError>> {
        while let Some(mail) = ready!(self.ticket.mail().poll(context)) {
            self.collect(mail);
        }
        Poll::Ready(self.results())
    }

    fn results(&mut self) -> Result<Vec<Vec<T>>, EngineError> {
        self.each().into_iter().collect()
    }

    /// What came of each request by itself.
    fn each(&mut self) -> Vec<Result<Vec<T>, EngineError>> {
        let answers = std::mem::take(&mut self.answers).into_iter();
        let answers = answers.map(|answer| Ok(answer?.into_values().collect()));
        answers.collect()
    }

    fn poll_each(&mut self, context: &mut Context<'_>) -> Poll<Vec<Result<Vec<T>, EngineError>>> {
        while let Some(mail) = ready!(self.ticket.mail().poll(context)) {
            self.collect(mail);
        }
        Poll::Ready(self.each())
    }
}

/// Judgements that are being made. Dropping it ends the work. As a future it does not block.
pub struct Scores(Answers<ChoiceScore>);

impl Scores {
    pub(crate) fn new(ticket: Ticket, requests: usize) -> Self {
        Self(Answers::new(ticket, requests, |event| match event {
            Event::Scored { choice, score } => Some((choice, score)),
            _ => None,
        }))
    }

    /// How likely each choice of each request is; waits for it.
    ///
    /// # Errors
    /// Why one of the requests could not be answered.
    pub fn wait(self) -> Result<Vec<Vec<ChoiceScore>>, EngineError> {
        self.0.wait()
    }
}

impl Future for Scores {
    type Output = Result<Vec<Vec<ChoiceScore>>, EngineError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(context)
    }
}

/// Embeddings that are being made. Dropping it ends the work. As a future it does not block.
pub struct Embeddings(Answers<Vec<f32>>);

impl Embeddings {
    pub(crate) fn new(ticket: Ticket, requests: usize) -> Self {
        Self(Answers::new(ticket, requests, |event| match event {
            Event::Embedded(mean) => Some((0, mean)),
            _ => None,
        }))
    }

    /// The embeddings, `[texts, width]`, each of Euclidean length 1; waits for them.
    ///
    /// # Errors
    /// Why one of the texts could not be embedded.
    pub fn wait(self) -> Result<Vec<f32>, EngineError> {
        self.0.wait().map(normalised)
    }
}

impl Future for Embeddings {
    type Output = Result<Vec<f32>, EngineError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(context).map(|rows| rows.map(normalised))
    }
}

fn pick_followed(event: Event) -> Option<(usize, Followed)> {
    match event {
        Event::Followed(followed) => Some((0, *followed)),
        _ => None,
    }
}

/// Texts that are being gone over. Dropping it ends the work. As a future it does not block.
pub struct Follows(Answers<Followed>);

impl Follows {
    pub(crate) fn new(ticket: Ticket, requests: usize) -> Self {
        Self(Answers::new(ticket, requests, pick_followed))
    }
}

impl Future for Follows {
    type Output = Vec<Result<Followed, EngineError>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let lost = || EngineError::Failed("a text was gone over and nothing was found".to_owned());
        let one = |found: Vec<Followed>| found.into_iter().next().ok_or_else(lost);
        let all = self.0.poll_each(context);
        all.map(|all| all.into_iter().map(|found| found.and_then(one)).collect())
    }
}

/// What somebody says of a text: what was committed to, what passes for a tie, and how many tokens it
/// has.
pub(crate) type Claim = (Vec<Commitment>, f64, usize);

/// Checks that are being made. Dropping it ends the work. As a future it does not block.
pub struct Checks {
    found: Answers<Followed>,
    claims: Vec<Claim>,
}

impl Checks {
    pub(crate) fn new(ticket: Ticket, claims: Vec<Claim>) -> Self {
        Self {
            found: Answers::new(ticket, claims.len(), pick_followed),
            claims,
        }
    }

    /// How each text compares with what the model says here; waits for it.
    ///
    /// # Errors
    /// Why one of the texts could not be checked.
    pub fn wait(self) -> Result<Vec<Checked>, EngineError> {
        compared(&self.claims, self.found.wait()?)
    }
}

impl Future for Checks {
    type Output = Result<Vec<Checked>, EngineError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let found = ready!(self.found.poll(context));
        Poll::Ready(found.and_then(|found| compared(&self.claims, found)))
    }
}

fn compared(claims: &[Claim], found: Vec<Vec<Followed>>) -> Result<Vec<Checked>, EngineError> {
    let pairs = claims.iter().zip(found.iter().flatten());
    let compare = |((commitments, tolerance, tokens), followed): (&Claim, &Followed)| {
        if tolerance.is_nan() || *tolerance < 0.0 {
            return Err(EngineError::Invalid(format!(
                "the tolerance is {tolerance}; it has to be a number from 0 on"
            )));
        }
        Checked::of(followed, commitments, *tolerance, *tokens)
    };
    pairs.map(compare).collect()
}

/// Rows of length 1, one after the other. A row of zeros stays one.
fn normalised(rows: Vec<Vec<Vec<f32>>>) -> Vec<f32> {
    let mut all = Vec::new();
    for mut row in rows.into_iter().flatten() {
        let squares: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let length = squares.sqrt() as f32;
        if length > 0.0 {
            row.iter_mut().for_each(|x| *x /= length);
        }
        all.extend(row);
    }
    all
}
