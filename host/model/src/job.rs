//! One call for embeddings on its way through the workers.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_tensor::{Account, MemoryCharge};

use crate::adapter::EncoderAdapter;
use crate::bert::{Adapted, Arena, Bert};
use crate::error::EncodeError;
use crate::tokenizer::Tokenizer;
use crate::workers::Claim;

/// Tokens that run through the network together at most, unless one text alone has more. Batches
/// are put together by an estimate, this holds them to it.
const MOST_TOKENS: usize = 1024;

/// How often a caller that waits looks at its own deadline.
const LOOK: Duration = Duration::from_millis(20);

/// What a job needs of a model.
pub(crate) struct Model {
    pub bert: Bert,
    pub tokenizer: Tokenizer,
    pub dimensions: usize,
    pub max_tokens: usize,
}

/// Texts to embed for one account.
pub(crate) struct Job {
    model: Arc<Model>,
    /// What the model is changed by for these texts.
    adapter: Option<Arc<EncoderAdapter>>,
    account: Account,
    texts: String,
    /// Where each text ends in `texts`.
    ends: Vec<usize>,
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Default)]
struct State {
    /// The first text that nobody took yet.
    next: usize,
    /// Texts taken and not finished.
    open: usize,
    failure: Option<EncodeError>,
    /// `[texts, dimensions]`.
    vectors: Vec<f32>,
}

impl State {
    /// Whether nothing of the job is left to do and no worker holds any of it, so that what was
    /// charged for it has been given back.
    fn over(&self, texts: usize) -> bool {
        self.open == 0 && (self.failure.is_some() || self.next == texts)
    }
}

impl Job {
    /// A job for `texts`, which are copied. `texts.len() * dimensions` must not overflow, and the
    /// adapter must fit the model.
    pub fn new(
        model: Arc<Model>,
        adapter: Option<Arc<EncoderAdapter>>,
        account: Account,
        texts: &[String],
    ) -> Self {
        let mut all = String::with_capacity(texts.iter().map(String::len).sum());
        let mut ends = Vec::with_capacity(texts.len());
        for text in texts {
            all.push_str(text);
            ends.push(all.len());
        }
        let vectors = vec![0.0; texts.len() * model.dimensions];
        Self {
            model,
            adapter,
            account,
            texts: all,
            ends,
            state: Mutex::new(State {
                vectors,
                ..State::default()
            }),
            done: Condvar::new(),
        }
    }

    pub fn same_model(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.model, &other.model)
    }

    /// Takes texts of about `goal` tokens, fewer when what is left should be shared by `workers`,
    /// but about `least`. Returns them, an estimate of their tokens, and whether there are more.
    pub fn claim(&self, goal: usize, least: usize, workers: usize) -> (Range<usize>, usize, bool) {
        let mut state = self.state();
        let (start, count) = (state.next, self.ends.len());
        if state.failure.is_some() {
            return (start..start, 0, false);
        }
        let left = (self.texts.len() - self.start(start)) / 4 + 2 * (count - start);
        let goal = goal.min((left / (2 * workers)).max(least));
        let (mut end, mut tokens) = (start, 0);
        while end < count && (end == start || tokens < goal) {
            // English has some four letters a token; two are special.
            let estimate = (self.ends[end] - self.start(end)) / 4 + 2;
            tokens += estimate.min(self.model.max_tokens);
            end += 1;
        }
        state.next = end;
        state.open += end - start;
        (start..end, tokens, end < count)
    }

    /// Waits until all texts are embedded, or the job has failed and no worker is at it any more,
    /// which after a failure takes no longer than a batch.
    pub fn wait(&self) -> Result<Vec<f32>, EncodeError> {
        let mut state = self.state();
        while !state.over(self.ends.len()) {
            (state, _) = self
                .done
                .wait_timeout(state, LOOK)
                .unwrap_or_else(PoisonError::into_inner);
            if let Err(quota) = self.account.check() {
                state.failure.get_or_insert(quota.into());
            }
        }
        match &state.failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(std::mem::take(&mut state.vectors)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, text: usize) -> usize {
        text.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    fn text(&self, text: usize) -> &str {
        &self.texts[self.start(text)..self.ends[text]]
    }

    fn fail(&self, error: EncodeError) {
        self.state().failure.get_or_insert(error);
    }

    fn failed(&self) -> bool {
        self.state().failure.is_some()
    }

    fn finish(&self, texts: usize) {
        let mut state = self.state();
        state.open -= texts;
        if state.over(self.ends.len()) {
            self.done.notify_all();
        }
    }
}

/// Runs what a worker took. Whatever happens inside ends in the jobs concerned, which are
/// finished with afterwards.
pub(crate) fn run_batch(claims: &[Claim], arena: &mut Arena) {
    let run = catch_unwind(AssertUnwindSafe(|| run_claims(claims, arena)));
    if run.is_err() {
        *arena = Arena::default();
        for claim in claims {
            claim.job.fail(EncodeError::Internal(
                "a worker panicked; its message is in the log".to_owned(),
            ));
        }
    }
    for claim in claims {
        claim.job.finish(claim.texts.len());
    }
}

/// Sequences of one or more jobs that go through the network together.
#[derive(Default)]
struct Batch<'a> {
    ids: Vec<u32>,
    offsets: Vec<usize>,
    /// Job, and the text's place in it, of each sequence.
    places: Vec<(&'a Arc<Job>, usize)>,
}

fn run_claims(claims: &[Claim], arena: &mut Arena) {
    let mut batch = Batch::default();
    batch.clear();
    for claim in claims {
        for text in claim.texts.clone() {
            if claim.job.failed() {
                break;
            }
            batch.push(&claim.job, text);
            if batch.ids.len() >= MOST_TOKENS {
                batch.run(arena);
            }
        }
    }
    batch.run(arena);
}

impl<'a> Batch<'a> {
    fn clear(&mut self) {
        self.ids.clear();
        self.offsets.clear();
        self.offsets.push(0);
        self.places.clear();
    }

    fn push(&mut self, job: &'a Arc<Job>, text: usize) {
        let model = &job.model;
        let tokens = model
            .tokenizer
            .encode(job.text(text), model.max_tokens, &mut self.ids);
        match tokens {
            Ok(_) => {
                self.offsets.push(self.ids.len());
                self.places.push((job, text));
            }
            Err(reason) => {
                self.ids.truncate(self.offsets.last().copied().unwrap_or(0));
                job.fail(EncodeError::Tokenizer { text, reason });
            }
        }
    }

    /// Charges, runs and delivers the batch, and empties it.
    fn run(&mut self, arena: &mut Arena) {
        let charges = self.charge();
        if let Some((first, _)) = self.places.first().copied() {
            let model = &first.model;
            let mut out = vec![0.0; self.places.len() * model.dimensions];
            let adapted = self.adapted();
            let (ids, offsets) = (&self.ids, &self.offsets);
            match model.bert.forward(ids, offsets, &adapted, arena, &mut out) {
                Ok(()) => self.deliver(&out),
                Err(error) => {
                    let error = EncodeError::from(error);
                    for (job, _) in &self.places {
                        job.fail(error.clone());
                    }
                }
            }
        }
        drop(charges);
        self.clear();
    }

    /// Which tokens are changed by which adapter. Jobs beside each other with the same one share it.
    fn adapted(&self) -> Vec<Adapted<'a>> {
        let mut all: Vec<Adapted<'a>> = Vec::new();
        for ((job, _), bounds) in self.places.iter().zip(self.offsets.windows(2)) {
            let Some(adapter) = job.adapter.as_deref() else {
                continue;
            };
            match all.last_mut() {
                Some(last)
                    if std::ptr::eq(last.adapter, adapter) && last.tokens.end == bounds[0] =>
                {
                    last.tokens.end = bounds[1];
                }
                _ => all.push(Adapted {
                    tokens: bounds[0]..bounds[1],
                    adapter,
                }),
            }
        }
        all
    }

    /// Charges each job its part. The sequences of jobs that cannot pay are taken out.
    fn charge(&mut self) -> Vec<MemoryCharge> {
        let mut charges = Vec::new();
        let mut start = 0;
        let mut refused = false;
        while start < self.places.len() {
            let job = self.places[start].0;
            let same = self.places[start..]
                .iter()
                .take_while(|(j, _)| Arc::ptr_eq(j, job));
            let end = start + same.count();
            let lengths = self.offsets[start..=end]
                .windows(2)
                .map(|w| (w[1] - w[0]) as u64);
            let cost = job.model.bert.cost();
            let tokens: u64 = lengths.clone().sum();
            let longest = lengths.clone().max().unwrap_or(0);
            let mut bytes = cost.activation_bytes(tokens, (end - start) as u64, longest);
            let mut flops = cost.flops(lengths);
            if let Some(adapter) = &job.adapter {
                bytes = bytes.saturating_add(adapter.activation_bytes(tokens));
                flops = flops.saturating_add(adapter.flops(tokens));
            }
            match job.account.charge(flops, bytes) {
                Ok(charge) => charges.push(charge),
                Err(quota) => {
                    job.fail(quota.into());
                    refused = true;
                }
            }
            start = end;
        }
        if refused {
            self.remove_failed();
        }
        charges
    }

    fn remove_failed(&mut self) {
        let mut kept = Batch::default();
        kept.clear();
        for (s, (job, text)) in self.places.iter().enumerate() {
            if !job.failed() {
                kept.ids
                    .extend_from_slice(&self.ids[self.offsets[s]..self.offsets[s + 1]]);
                kept.offsets.push(kept.ids.len());
                kept.places.push((job, *text));
            }
        }
        *self = kept;
    }

    fn deliver(&self, out: &[f32]) {
        for ((job, text), vector) in self
            .places
            .iter()
            .zip(out.chunks_exact(out.len() / self.places.len()))
        {
            if vector.iter().any(|x| !x.is_finite()) {
                job.fail(EncodeError::NotFinite { text: *text });
                continue;
            }
            let width = vector.len();
            if let Some(to) = job
                .state()
                .vectors
                .get_mut(text * width..(text + 1) * width)
            {
                to.copy_from_slice(vector);
            }
        }
    }
}
