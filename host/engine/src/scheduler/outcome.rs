//! What came of a batch: tokens are chosen, likelihoods summed, and texts that are complete end.

use skep_kernels::kv::PAGE_TOKENS;

use super::plan::Planned;
use super::{Delivery, Event, Scheduler};
use crate::error::EngineError;
use crate::likelihood::logprob_of;
use crate::request::ChoiceScore;
use crate::runner::Results;
use crate::sequence::{Goal, Key};

/// One text's part of what a pass left.
struct Share<'a> {
    /// `[outputs, vocabulary]`
    logits: &'a [f32],
    /// `[states, width]`
    states: &'a [f32],
}

/// Takes so many numbers from the beginning of what is left.
fn part_of<'a>(rest: &mut &'a [f32], count: usize) -> &'a [f32] {
    let (part, others) = rest.split_at(count.min(rest.len()));
    *rest = others;
    part
}

impl Scheduler {
    /// Gives each text of the batch its part of the results.
    pub(super) fn deliver(
        &mut self,
        plan: &[Planned],
        results: &Results,
        deliveries: &mut Vec<Delivery>,
    ) {
        let config = self.model.decoder.config();
        let (vocabulary, width) = (config.vocabulary, config.width);
        let (mut logits, mut states) = (&results.logits[..], &results.states[..]);
        for planned in plan {
            let share = Share {
                logits: part_of(&mut logits, planned.outputs * vocabulary),
                states: part_of(&mut states, planned.states.len() * width),
            };
            let result = self.take_results(planned, &share);
            let result = result.and_then(|(event, complete)| {
                // Of guesses that proved right it has not been charged yet.
                if complete
                    && let Some(sequence) = self.sequences.get(&planned.key)
                    && sequence.is_exact()
                {
                    self.charge_up_to(planned.key, sequence.wanted_in_all())?;
                }
                Ok((event, complete))
            });
            match result {
                Ok(events) => self.tell(planned.key, events, deliveries),
                Err(error) => self.fail(planned.key.group, error, deliveries),
            }
        }
    }

    /// What one text makes of its part of a batch. The flag says whether the text is complete.
    fn take_results(
        &mut self,
        planned: &Planned,
        share: &Share<'_>,
    ) -> Result<(Option<Event>, bool), EngineError> {
        let Some(sequence) = self.sequences.get_mut(&planned.key) else {
            return Ok((None, false));
        };
        let begin = sequence.computed;
        let first_output = begin + sequence.outputs(planned.count, 0).start;
        sequence.computed += planned.count;
        let complete = sequence.left() == 0;
        let text = planned.key.text;
        let config = self.model.decoder.config();
        let (vocabulary, width) = (config.vocabulary, config.width);
        let logits = share.logits;
        // Those of the text's own tokens, then those of the drafted ones.
        let own = planned.count.saturating_sub(planned.states.start) * width;
        let (own, guessed) = share.states.split_at(own.min(share.states.len()));
        let own = own.chunks_exact(width.max(1));
        let guessed = guessed.chunks_exact(width.max(1));
        if let Goal::Write(writing) = &mut sequence.goal
            && let Some(committing) = &mut writing.committing
        {
            for state in own.clone() {
                committing.push(state)?;
            }
        }
        let result = match &mut sequence.goal {
            Goal::Write(_) if logits.is_empty() => Ok((None, false)),
            Goal::Write(writing) => {
                let before = sequence.tokens.len();
                let kept = writing.go_on(
                    logits,
                    (&planned.drafts, planned.guesser),
                    &mut sequence.tokens,
                    &mut self.scratch,
                )?;
                sequence.computed += kept;
                let written = sequence.tokens.len() - before;
                self.tally.turn(planned, written, kept);
                let mut chunk = writing.take_chunk();
                if let Some(committing) = &mut writing.committing {
                    // The last token that was written is not gone on from.
                    let gone_on_from = (before + written - 1).saturating_sub(begin + planned.count);
                    for state in guessed.take(kept.min(gone_on_from)) {
                        committing.push(state)?;
                    }
                }
                if writing.finished()
                    && let Some(committing) = writing.committing.take()
                {
                    chunk.commitments = committing.finish()?;
                }
                Ok((Some(Event::Chunk(chunk)), writing.finished()))
            }
            Goal::Score { first, logprob, .. } => {
                let rows = logits.chunks_exact(vocabulary);
                for (number, row) in rows.enumerate() {
                    // The logits after a token say how likely the next one is.
                    let next = sequence.tokens[first_output + number + 1];
                    *logprob += logprob_of(row, next);
                }
                let score = ChoiceScore {
                    logprob: *logprob as f32,
                    tokens: sequence.tokens.len() - *first,
                };
                let event = complete.then_some(Event::Scored {
                    choice: text,
                    score,
                });
                Ok((event, complete))
            }
            Goal::Embed { sum } => {
                for state in own {
                    for (sum, x) in sum.iter_mut().zip(state) {
                        *sum += x;
                    }
                }
                let count = sequence.tokens.len() as f32;
                let mean = || sum.iter().map(|x| x / count).collect();
                Ok((complete.then(|| Event::Embedded(mean())), complete))
            }
            Goal::Check(checking) => {
                for state in own {
                    checking.push(state)?;
                }
                let rows = logits.chunks_exact(vocabulary);
                for (position, row) in (first_output..).zip(rows) {
                    let next = sequence.tokens[position + 1];
                    checking.judge(position, row, next, &mut self.scratch)?;
                }
                let followed = match complete {
                    true => Some(Event::Followed(Box::new(checking.finish()?))),
                    false => None,
                };
                Ok((followed, complete))
            }
        };
        if let Some(leader) = &mut self.leader
            && planned.led > 0
        {
            // What it computed of guesses that were wrong is void.
            let led = planned.led.min(sequence.computed);
            leader.note(&sequence.pages, sequence.led, led);
            sequence.led = led;
        }
        result
    }

    /// Tells a request what came of one of its texts, lets others of its texts begin, and lets go
    /// of texts that are complete.
    fn tell(&mut self, key: Key, result: (Option<Event>, bool), deliveries: &mut Vec<Delivery>) {
        let (event, complete) = result;
        self.fork(key);
        self.remember(key, complete);
        let mut over = false;
        let mut cached_tokens = 0;
        if let Some(group) = self.groups.get(&key.group) {
            cached_tokens = group.cached.unwrap_or(0);
        }
        if complete
            && let Some(sequence) = self.sequences.remove(&key)
            && let Some(group) = self.groups.get_mut(&key.group)
        {
            group.holding.release(&mut self.pool, &sequence.pages);
            group.open -= 1;
            over = group.open == 0;
        }
        if let Some(event) = event {
            deliveries.push(Delivery {
                group: key.group,
                event,
                cached_tokens,
                over,
            });
        }
        if over {
            self.end_group(key.group);
        }
    }

    /// Once the first text of a request has computed the prompt, the others go on from there: they
    /// share its pages. All but the last token of it: each text computes that itself, to see what
    /// may follow.
    fn fork(&mut self, key: Key) {
        let Some(leader) = self.sequences.get(&key) else {
            return;
        };
        let shared = leader.prompt - 1;
        if key.text != 0 || leader.computed < shared {
            return;
        }
        let pages = leader.pages[..shared.div_ceil(PAGE_TOKENS)].to_vec();
        let Some(group) = self.groups.get_mut(&key.group) else {
            return;
        };
        let last = Key {
            text: usize::MAX,
            ..key
        };
        for (_, sequence) in self.sequences.range_mut(key..=last) {
            if sequence.waits {
                group.holding.share(&mut self.pool, &pages);
                sequence.pages.clone_from(&pages);
                sequence.computed = shared;
                sequence.charged = shared;
                sequence.led = self
                    .leader
                    .as_ref()
                    .map_or(0, |leader| leader.known(&pages, shared));
                sequence.remembered = shared / PAGE_TOKENS;
                sequence.waits = false;
            }
        }
    }

    /// Tells the cache of pages that are full, when the prompt is computed and when the text ends.
    fn remember(&mut self, key: Key, complete: bool) {
        if !self.options.prefix_cache {
            return;
        }
        let (Some(sequence), Some(group)) =
            (self.sequences.get_mut(&key), self.groups.get(&key.group))
        else {
            return;
        };
        let full = sequence.computed.min(sequence.tokens.len()) / PAGE_TOKENS;
        let due = complete || sequence.remembered < sequence.prompt / PAGE_TOKENS;
        if sequence.forgets || full <= sequence.remembered || !due {
            return;
        }
        let tokens = &sequence.tokens[..full * PAGE_TOKENS];
        self.cache
            .insert(&mut self.pool, group.realm, tokens, &sequence.pages);
        sequence.remembered = full;
    }
}
