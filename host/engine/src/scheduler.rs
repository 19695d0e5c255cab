//! What goes through the model next.
//!
//! Everything that is asked becomes texts ([`Sequence`]s) with tokens that have to be computed.
//! A step takes tokens of as many texts as fit: the next token of texts that are being written,
//! and parts of prompts (chunked prefill, Sarathi, arXiv 2308.16369), by priority, then by whose
//! turn it is. Texts get pages as they grow (PagedAttention, arXiv 2309.06180); when there are
//! none, the prefix cache gives back some, and then the text that has the least claim to its
//! pages begins anew later. A text's result does not depend on any of that. Texts that are only
//! compared with what somebody else wrote are computed less exactly where that is faster: then they
//! take turns with the others, batch by batch, and no page of theirs is remembered (decision 44).
//!
//! What this module must never do: block; let a text starve; hold a page for a text that is over.

mod lead;
mod lora;
mod outcome;
mod plan;
mod room;
mod submit;
mod tally;

pub use lora::store_options;
pub use submit::{Prepared, Task};
pub use tally::Tally;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use skep_decoder::{Batch, PagedAdapter, Part};
use skep_kernels::kv::KvFormat;

use crate::adapters::{ActiveAdapter, AdapterStore, Lease};
use crate::checking::Followed;
use crate::cost::Cost;
use crate::error::EngineError;
use crate::fairness::Turns;
use crate::holding::Holding;
use crate::model::LanguageModel;
use crate::pages::PagePool;
use crate::prefix::{PrefixCache, Realm};
use crate::request::{Caller, ChoiceScore, Chunk, Priority};
use crate::runner::{Backend, ModelRunner, Results, RunnerError};
use crate::sampling::Scratch;
use crate::sequence::{Key, Sequence};
use lead::Leader;
use plan::Planned;

/// How much an engine takes on.
#[derive(Debug, Clone)]
pub struct Options {
    /// How keys and values are kept.
    pub kv_format: KvFormat,
    /// Pages of keys and values, of [`skep_kernels::kv::PAGE_TOKENS`] tokens each, for all texts
    /// together.
    pub pages: usize,
    /// Texts that go through the model together at most.
    pub batch_texts: usize,
    /// Tokens that go through the model together at most.
    pub batch_tokens: usize,
    /// Texts that are taken on at most; beyond that the engine is busy.
    pub texts: usize,
    /// Requests of one owner that are taken on at most.
    pub requests_of_owner: usize,
    /// Whether beginnings of texts are remembered.
    pub prefix_cache: bool,
    /// Tokens that are guessed ahead of a text at most, from what it said before; 0 guesses none.
    pub drafts: usize,
    /// Tokens that the model's draft model guesses ahead of a text at most, if it has one: as many
    /// as are worth it at the moment.
    pub model_drafts: usize,
    /// Whether it always guesses so many, however many prove right.
    pub steady_drafts: bool,
    /// Bytes of host memory that adapters outside the pool may take.
    pub adapter_bytes: u64,
    /// Of the time, how many percent may be computed for [`Priority::Background`], alone or in batches
    /// with others: from 1 to 100.
    pub background_percent: u8,
    /// Whether texts that others wrote are compared with products of floats that are rounded, where
    /// the processor makes twice as many of these ([`skep_decoder::Decoder::forward_rounded`]).
    pub rounded_checks: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kv_format: KvFormat::F16,
            pages: 2048,
            batch_texts: 64,
            batch_tokens: 256,
            texts: 4096,
            requests_of_owner: 1024,
            prefix_cache: true,
            drafts: 0,
            model_drafts: 8,
            steady_drafts: false,
            adapter_bytes: 1 << 30,
            background_percent: 100,
            rounded_checks: true,
        }
    }
}

/// Bytes of a page of the pool of a model's engine: the keys and values of
/// [`skep_kernels::kv::PAGE_TOKENS`] tokens in the model, and in its draft model.
pub fn page_bytes(model: &LanguageModel, format: KvFormat) -> u64 {
    let draft = model.draft.as_ref();
    let bytes = |decoder: &skep_decoder::Decoder| decoder.kv_shape(format).page_bytes();
    bytes(&model.decoder).saturating_add(draft.map_or(0, |draft| bytes(&draft.decoder)))
}

/// Something that a request is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A text has grown, or is complete.
    Chunk(Chunk),
    /// How likely one of the choices is.
    Scored {
        /// Which.
        choice: usize,
        /// How likely.
        score: ChoiceScore,
    },
    /// The mean of a text's hidden states, `[width]`.
    Embedded(Vec<f32>),
    /// A text that was gone over, and what the model says of it.
    Followed(Box<Followed>),
    /// The request is over without a result.
    Failed(EngineError),
}

/// An event, and which request it is for.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The request's number.
    pub group: u64,
    /// What it is told.
    pub event: Event,
    /// Tokens of its prompt that had been computed before.
    pub cached_tokens: usize,
    /// Whether this is the last that it is told.
    pub over: bool,
}

/// A request that has been taken on.
#[derive(Debug)]
struct Group {
    caller: Caller,
    holding: Holding,
    realm: Realm,
    /// The version of the adapter that it is written with.
    lease: Option<Lease>,
    /// That adapter, while it is kept in the pool for this request.
    adapter: Option<ActiveAdapter>,
    /// Texts that are not complete.
    open: usize,
    /// Tokens of the prompt that were found in the cache, for each of its texts the same or more.
    cached: Option<usize>,
}

impl Group {
    fn paged(&self) -> Option<&PagedAdapter> {
        self.adapter.as_ref().map(ActiveAdapter::paged)
    }
}

/// What is computed, and for whom.
pub struct Scheduler {
    model: Arc<LanguageModel>,
    options: Options,
    cost: Cost,
    page_bytes: u64,
    pool: PagePool,
    cache: PrefixCache,
    runner: Box<dyn ModelRunner>,
    results: Results,
    /// The draft model's part, if there is one.
    leader: Option<Leader>,
    tally: Tally,
    scratch: Scratch,
    groups: BTreeMap<u64, Group>,
    sequences: BTreeMap<Key, Sequence>,
    turns: Turns,
    adapters: Arc<Mutex<AdapterStore>>,
    next: u64,
    /// Which part of the last step's batch was of the background, by tokens.
    background: f64,
    /// Whether texts of the background are left out for now.
    background_held: bool,
    /// Whether texts that are only compared are computed less exactly, and so in batches of their own.
    rounds: bool,
    /// Whether the last batch was of these.
    compared: bool,
    /// Whether nothing more would have fit it.
    filled: bool,
}

impl Scheduler {
    /// A scheduler for one model, with nothing to do, and the model put where it is computed. Its
    /// texts are written with adapters of this store, which must have been made with
    /// [`store_options`].
    ///
    /// # Errors
    /// When there is no room for the model where it is to be computed, or it cannot be.
    pub fn new(
        model: Arc<LanguageModel>,
        backend: &dyn Backend,
        options: Options,
        adapters: Arc<Mutex<AdapterStore>>,
    ) -> Result<Self, RunnerError> {
        let (format, pages) = (options.kv_format, options.pages);
        let runner = backend.load(&model.decoder, format, pages)?;
        Ok(Self {
            rounds: options.rounded_checks && runner.rounds(),
            adapters,
            cost: Cost::of(model.decoder.config()),
            page_bytes: page_bytes(&model, options.kv_format),
            pool: PagePool::new(options.pages),
            cache: PrefixCache::default(),
            runner,
            results: Results::default(),
            leader: Leader::new(&model, backend, format, pages)?,
            tally: Tally::default(),
            scratch: Scratch::default(),
            groups: BTreeMap::new(),
            sequences: BTreeMap::new(),
            turns: Turns::default(),
            next: 0,
            background: 0.0,
            background_held: false,
            compared: false,
            filled: false,
            model,
            options,
        })
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// The pages, and who holds them.
    pub fn pool(&self) -> &PagePool {
        &self.pool
    }

    /// Pages that texts hold, and pages that only the prefix cache holds.
    pub fn held_pages(&self) -> (usize, usize) {
        let cached = self.cache.unused(&self.pool);
        let taken = self.pool.pages() - self.pool.free();
        (taken.saturating_sub(cached + self.adapter_pages()), cached)
    }

    /// What texts were written in, since the beginning.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Bytes of a page: of the model's keys and values, and of its draft model's.
    pub fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// Bytes that are taken of the memory of the device that computes, if it has one of its own.
    pub fn device_bytes(&self) -> u64 {
        self.runner.device_bytes()
    }

    /// Takes a request back. Its pages are free at once.
    pub fn cancel(&mut self, group: u64) {
        self.end_group(group);
    }

    /// Forgets what texts of an owner began with, and will not remember those that are in flight.
    pub fn forget(&mut self, owner: u64) {
        let groups = &self.groups;
        for (key, sequence) in &mut self.sequences {
            let group = groups.get(&key.group);
            if group.is_some_and(|group| group.caller.owner == owner) {
                sequence.forgets = true;
            }
        }
        self.cache.forget(&mut self.pool, owner);
    }

    /// Computes the next batch, and says what came of it. Requests that have failed are told
    /// here too.
    pub fn step(&mut self) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        self.background = 0.0;
        let mut plan = self.plan(&mut deliveries);
        self.go_ahead(&mut plan);
        if plan.is_empty() {
            if deliveries.is_empty() {
                self.wait_for_adapters();
            }
            return deliveries;
        }
        self.background = self.part_of_background(&plan);
        let mut results = std::mem::take(&mut self.results);
        match self.run(&mut plan, &mut results) {
            Ok(()) => {
                self.tally.passes += 1;
                self.deliver(&plan, &results, &mut deliveries);
                for planned in &plan {
                    self.trim(planned.key);
                }
            }
            Err(error) => {
                for planned in &plan {
                    self.fail(planned.key.group, error.clone().into(), &mut deliveries);
                }
            }
        }
        self.results = results;
        deliveries
    }

    /// Leaves texts of the background out of the batches that follow, or lets them in again.
    pub fn hold_background(&mut self, held: bool) {
        self.background_held = held;
    }

    /// Which part of the last step's batch was of the background, by tokens: 0 where there was no batch.
    pub fn background_part(&self) -> f64 {
        self.background
    }

    /// Whether there are requests that are not of the background.
    pub fn has_others_than_background(&self) -> bool {
        let mut groups = self.groups.values();
        groups.any(|group| group.caller.priority > Priority::Background)
    }

    fn part_of_background(&self, plan: &[Planned]) -> f64 {
        let (mut all, mut background) = (0, 0);
        for planned in plan {
            let tokens = planned.count + planned.drafts.len();
            let group = self.groups.get(&planned.key.group);
            all += tokens;
            if group.is_some_and(|group| group.caller.priority == Priority::Background) {
                background += tokens;
            }
        }
        background as f64 / all.max(1) as f64
    }

    /// Puts what was planned through the model, and notes in the plan what each text gets of the
    /// results.
    fn run(&mut self, plan: &mut [Planned], results: &mut Results) -> Result<(), RunnerError> {
        let mut tokens = Vec::new();
        let mut outputs = Vec::new();
        let mut states = Vec::new();
        let mut parts = Vec::with_capacity(plan.len());
        let mut all_compared = true;
        for planned in plan {
            let Some(sequence) = self.sequences.get(&planned.key) else {
                continue;
            };
            all_compared &= sequence.is_compared();
            let (first, drafts) = (tokens.len(), planned.drafts.len());
            let wanted = sequence.outputs(planned.count, drafts);
            planned.outputs = wanted.len();
            outputs.extend(wanted.map(|place| first + place));
            planned.states = sequence.states(planned.count, drafts);
            states.extend(planned.states.clone().map(|place| first + place));
            let end = sequence.computed + planned.count;
            tokens.extend_from_slice(&sequence.tokens[sequence.computed..end]);
            tokens.extend_from_slice(&planned.drafts);
            parts.push(Part {
                tokens: planned.count + drafts,
                start: sequence.computed,
                pages: &sequence.pages,
                adapter: self.groups.get(&planned.key.group).and_then(Group::paged),
            });
        }
        let batch = Batch {
            tokens: &tokens,
            parts: &parts,
            outputs: &outputs,
        };
        // Where it makes a difference no batch is of both.
        match all_compared && self.rounds {
            true => self.runner.run_rounded(&batch, &states, results),
            false => self.runner.run(&batch, &states, results),
        }
    }

    /// Ends a request with an error.
    fn fail(&mut self, group: u64, error: EngineError, deliveries: &mut Vec<Delivery>) {
        if self.end_group(group) {
            deliveries.push(Delivery {
                group,
                event: Event::Failed(error),
                cached_tokens: 0,
                over: true,
            });
        }
    }

    /// Ends a request: its texts are gone and their pages free. Whether there was one.
    fn end_group(&mut self, number: u64) -> bool {
        let Some(mut group) = self.groups.remove(&number) else {
            return false;
        };
        let keys: Vec<Key> = self.texts_of(number).collect();
        for key in keys {
            if let Some(sequence) = self.sequences.remove(&key) {
                group.holding.release(&mut self.pool, &sequence.pages);
            }
        }
        self.leave_adapter(&group);
        self.turns.leave(group.caller.owner);
        true
    }

    fn texts_of(&self, group: u64) -> impl Iterator<Item = Key> {
        let first = Key { group, text: 0 };
        let last = Key {
            group,
            text: usize::MAX,
        };
        self.sequences.range(first..=last).map(|(key, _)| *key)
    }
}
