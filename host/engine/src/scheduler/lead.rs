//! The draft model goes ahead of the texts of a batch: it computes what they say so far, and
//! guesses on, one token of every text at a time.
//!
//! Its keys and values lie in memory of its own, under the same page numbers as the model's: a
//! page of the pool is a page in both, and whoever holds and pays for it holds and pays for both.
//! So texts share them, copy them and let go of them together. How far a page has been filled by
//! the draft model is noted for the page, because it is true for all who share it.
//!
//! What this module must never do: fail a text; write to a page that others read, but for what
//! they would write there themselves.

use std::ops::Range;

use skep_decoder::{Batch, Part};
use skep_kernels::kv::{KvFormat, PAGE_TOKENS};

use super::Scheduler;
use super::plan::Planned;
use crate::cost::Cost;
use crate::model::LanguageModel;
use crate::runner::{Backend, ModelRunner, Results, RunnerError};
use crate::sequence::{Goal, Key};
use crate::speculation::GuessCost;
use crate::writing::{Guess, Guesser};

/// What the draft model needs to run.
pub(super) struct Leader {
    runner: Box<dyn ModelRunner>,
    results: Results,
    /// Tokens of each page that have their keys and values.
    filled: Vec<u8>,
    cost: Cost,
    /// A pass, as a part of a pass of the model.
    share: f64,
    /// Tokens that it knows, all of them the model's too.
    vocabulary: usize,
    context: usize,
}

/// What the draft model is to do for one text of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeadPlan {
    /// Tokens of the text that it has to compute.
    pub known: Range<usize>,
    /// Tokens to guess at most, after all of the text's.
    pub ahead: usize,
}

/// A text while the draft model guesses on.
struct Ahead {
    /// Its place in the plan.
    place: usize,
    /// What it computes next, and the position of the first.
    tokens: Vec<u32>,
    start: usize,
    /// Nothing for a text that is only kept up with.
    guess: Option<Guess>,
}

impl Leader {
    /// For a model that has a draft model, with as many pages as the model has.
    ///
    /// # Errors
    /// When there is no room for it where the model is computed.
    pub fn new(
        model: &LanguageModel,
        backend: &dyn Backend,
        format: KvFormat,
        pages: usize,
    ) -> Result<Option<Self>, RunnerError> {
        let Some(draft) = model.draft.as_ref().map(|draft| &draft.decoder) else {
            return Ok(None);
        };
        let cost = Cost::of(draft.config());
        Ok(Some(Self {
            runner: backend.load(draft, format, pages)?,
            results: Results::default(),
            filled: vec![0; pages],
            cost,
            share: cost.share_of(&Cost::of(model.decoder.config())),
            vocabulary: (draft.config().vocabulary).min(model.decoder.config().vocabulary),
            context: draft.config().context,
        }))
    }

    /// The work of computing these tokens of a text.
    pub fn flops(&self, tokens: Range<usize>) -> u64 {
        self.cost.flops(tokens.start, tokens.len())
    }

    /// A page that is somebody's now has nothing in it.
    pub fn clear(&mut self, page: u32) {
        self.filled[page as usize] = 0;
    }

    /// Copies the first `slots` tokens of a page, as far as they are there.
    pub fn copy(&mut self, from: u32, to: u32, slots: usize) -> Result<(), RunnerError> {
        let slots = slots.min(self.filled[from as usize].into());
        self.runner.copy(from, to, slots)?;
        self.filled[to as usize] = slots as u8;
        Ok(())
    }

    /// How many of a text's first tokens, at most `computed`, have their keys and values in these
    /// pages.
    pub fn known(&self, pages: &[u32], computed: usize) -> usize {
        let mut known = 0;
        for page in pages {
            let filled = usize::from(self.filled[*page as usize]);
            known += filled;
            if filled < PAGE_TOKENS {
                break;
            }
        }
        known.min(computed)
    }

    /// Notes that the first `known` tokens of a text lie in its pages.
    pub fn note(&mut self, pages: &[u32], before: usize, known: usize) {
        for (number, page) in pages.iter().enumerate().skip(before / PAGE_TOKENS) {
            let Some(within) = known.checked_sub(number * PAGE_TOKENS) else {
                break;
            };
            let filled = &mut self.filled[*page as usize];
            *filled = (*filled).max(within.min(PAGE_TOKENS) as u8);
        }
    }
}

impl Scheduler {
    /// What the draft model had better do for a text of which `count` tokens are computed next,
    /// with room for `spare` guesses after them. `budget` is of its own tokens in this step.
    pub(super) fn plan_lead(
        &mut self,
        key: Key,
        (count, spare): (usize, usize),
        (budget, writers): (usize, usize),
    ) -> Option<LeadPlan> {
        let leader = self.leader.as_ref()?;
        let sequence = self.sequences.get_mut(&key)?;
        let Goal::Write(writing) = &mut sequence.goal else {
            return None;
        };
        if !writing.is_led() {
            return None;
        }
        let end = sequence.computed + count;
        let known = sequence.led..end.min(sequence.led + budget);
        if end > leader.context || known.is_empty() {
            return None;
        }
        let foreign = |token: &u32| *token as usize >= leader.vocabulary;
        if sequence.tokens[known.clone()].iter().any(foreign) {
            writing.leave_alone();
            return None;
        }
        let cost = GuessCost {
            share: leader.share,
            texts: writers,
        };
        let all = sequence.tokens.len();
        let room = match end == all {
            true => spare.min(leader.context - end),
            // Of a prompt it is to know as much as the model, if it is to guess afterwards.
            false => usize::MAX,
        };
        match writing.lead(room, cost) {
            0 => None,
            _ if known.end < all => Some(LeadPlan { known, ahead: 0 }),
            ahead => Some(LeadPlan { known, ahead }),
        }
    }

    /// Lets the draft model compute what was planned for it, and puts its guesses into the plan.
    /// What it cannot do is left out: nothing depends on it.
    pub(super) fn go_ahead(&mut self, plan: &mut [Planned]) {
        let (Some(leader), Some(draft)) = (&mut self.leader, &self.model.draft) else {
            return;
        };
        let mut open: Vec<Ahead> = Vec::new();
        for (place, planned) in plan.iter().enumerate() {
            let (Some(lead), Some(sequence)) = (&planned.lead, self.sequences.get(&planned.key))
            else {
                continue;
            };
            let Goal::Write(writing) = &sequence.goal else {
                continue;
            };
            open.push(Ahead {
                place,
                tokens: sequence.tokens[lead.known.clone()].to_vec(),
                start: lead.known.start,
                guess: (lead.ahead > 0).then(|| writing.guess()),
            });
        }
        let both = leader.vocabulary;
        let mut row = vec![f32::NEG_INFINITY; self.model.decoder.config().vocabulary];
        while !open.is_empty() {
            let mut tokens = Vec::new();
            let mut outputs = Vec::new();
            let mut parts = Vec::with_capacity(open.len());
            for ahead in &open {
                let Some(sequence) = self.sequences.get(&plan[ahead.place].key) else {
                    continue;
                };
                tokens.extend_from_slice(&ahead.tokens);
                if ahead.guess.is_some() {
                    outputs.push(tokens.len() - 1);
                }
                parts.push(Part {
                    tokens: ahead.tokens.len(),
                    start: ahead.start,
                    pages: &sequence.pages,
                    adapter: None,
                });
            }
            let batch = Batch {
                tokens: &tokens,
                parts: &parts,
                outputs: &outputs,
            };
            let Leader {
                runner, results, ..
            } = leader;
            if let Err(error) = runner.run(&batch, &[], results) {
                tracing::warn!(draft = draft.name, %error, "the draft model is left out");
                return;
            }
            let logits = &results.logits;
            self.tally.draft_passes += 1;
            let mut rows = logits.chunks_exact(draft.decoder.config().vocabulary);
            open.retain_mut(|ahead| {
                let planned = &mut plan[ahead.place];
                ahead.start += ahead.tokens.len();
                planned.led = ahead.start;
                let Some(guess) = &mut ahead.guess else {
                    return false;
                };
                let Some(logits) = rows.next() else {
                    return false;
                };
                row[..both].copy_from_slice(&logits[..both]);
                let Some(token) = guess.go_on(&row, &mut self.scratch) else {
                    return false;
                };
                planned.drafts.push(token);
                planned.guesser = Guesser::Model;
                ahead.tokens = vec![token];
                let most = planned.lead.as_ref().map_or(0, |lead| lead.ahead);
                planned.drafts.len() < most && !guess.is_over()
            });
        }
    }
}
