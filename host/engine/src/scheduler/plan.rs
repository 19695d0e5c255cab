//! Which texts go through the model next, and how much of each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Range;

use super::lead::LeadPlan;
use super::room::{Budget, Room};
use super::{Delivery, Scheduler};
use crate::request::{Caller, Priority};
use crate::sequence::{Goal, Key, Sequence};
use crate::writing::Guesser;

/// One text's part of a batch.
#[derive(Debug)]
pub(super) struct Planned {
    pub key: Key,
    /// Tokens of the text.
    pub count: usize,
    /// Tokens that may come next, which are computed along with them.
    pub drafts: Vec<u32>,
    pub guesser: Guesser,
    /// What the draft model is to compute and to guess.
    pub lead: Option<LeadPlan>,
    /// Tokens of the text and its draft that the draft model has computed, if it had a part.
    pub led: usize,
    /// How many of its tokens' logits the batch asks for.
    pub outputs: usize,
    /// Of which of its tokens the batch asks for the last hidden states.
    pub states: Range<usize>,
}

impl Planned {
    /// Tokens that are guessed, or are to be.
    pub fn guesses(&self) -> usize {
        let ahead = self.lead.as_ref().map_or(0, |lead| lead.ahead);
        self.drafts.len().max(ahead)
    }
}

/// Texts of one owner and one priority that have tokens to be computed, in their order.
type Queues = BTreeMap<(Reverse<Priority>, u64), VecDeque<Key>>;

impl Scheduler {
    /// Chooses texts, makes room for their tokens and charges for the work. Requests that cannot
    /// pay are ended.
    pub(super) fn plan(&mut self, deliveries: &mut Vec<Delivery>) -> Vec<Planned> {
        self.fetch_ahead();
        let mut plan = Vec::new();
        if self.rounds {
            // If there is nothing of the one kind, or no room for it, the other.
            let first = self.compares_next();
            for compared in [first, !first] {
                let among = |text: &Sequence| text.is_compared() == compared;
                self.filled = self.choose(&mut plan, among, deliveries);
                if !plan.is_empty() {
                    self.compared = compared;
                    break;
                }
            }
        } else {
            self.choose(&mut plan, |_| true, deliveries);
        }
        for planned in &mut plan {
            self.room_to_guess(planned);
        }
        plan
    }

    /// Whether the next batch is of texts that are only compared, or of the others. They take turns: what
    /// the one leaves of a batch the other would have had of it. Where it left nothing, the other's texts
    /// would only have been in it before some that were, so whoever comes before them comes again.
    fn compares_next(&self) -> bool {
        let first = |compared: bool| {
            let ready = self.ready(|text| text.is_compared() == compared);
            let places = ready.map(|(_, _, caller)| {
                let served = self.turns.served(caller.owner);
                (Reverse(caller.priority), served)
            });
            places.min()
        };
        if self.filled
            && let (Some(again), Some(other)) = (first(self.compared), first(!self.compared))
            && again < other
        {
            return self.compared;
        }
        !self.compared
    }

    /// Chooses among some of the texts. Whether nothing more would fit.
    fn choose(
        &mut self,
        plan: &mut Vec<Planned>,
        among: impl Fn(&Sequence) -> bool,
        deliveries: &mut Vec<Delivery>,
    ) -> bool {
        let mut queues = self.queues(among);
        let mut chosen = HashSet::new();
        let tokens = self.options.batch_tokens.max(1);
        let mut budget = Budget {
            tokens,
            // Enough to keep up, and to make up for what it has missed by and by.
            lead: 2 * tokens,
            writers: self.writers(),
        };
        let texts = self.options.batch_texts.max(1);
        while budget.tokens > 0 && plan.len() < texts {
            let Some((owner, key)) = self.next_text(&mut queues) else {
                return false;
            };
            match self.make_room(key, &budget, &chosen) {
                Ok(Room { count: 0, .. }) => {}
                Ok(room) => {
                    budget.spend(&room);
                    let Room {
                        count,
                        drafts,
                        lead,
                    } = room;
                    self.turns.serve(owner, self.weight(key, count));
                    chosen.insert(key);
                    plan.push(Planned {
                        key,
                        count,
                        drafts,
                        guesser: Guesser::Text,
                        lead,
                        led: 0,
                        outputs: 0,
                        states: 0..0,
                    });
                }
                Err(error) => {
                    self.fail(key.group, error, deliveries);
                    plan.retain(|planned| planned.key.group != key.group);
                }
            }
        }
        true
    }

    /// Texts that are written on next, at most as many as fit a batch.
    fn writers(&self) -> usize {
        let ready = |sequence: &&Sequence| {
            matches!(sequence.goal, Goal::Write(_)) && sequence.left() == 1 && !sequence.waits
        };
        let writers = self.sequences.values().filter(ready).count();
        writers.min(self.options.batch_texts.max(1))
    }

    /// Those of these texts that have something to be computed, and may have it now, as they arrived.
    fn ready(
        &self,
        among: impl Fn(&Sequence) -> bool,
    ) -> impl Iterator<Item = (Key, &Sequence, &Caller)> {
        self.sequences.iter().filter_map(move |(key, sequence)| {
            let caller = &self.groups.get(&key.group)?.caller;
            let held = self.background_held && caller.priority == Priority::Background;
            let is_ready = !held && !sequence.waits && sequence.left() > 0 && among(sequence);
            is_ready.then_some((*key, sequence, caller))
        })
    }

    /// All of these texts that are ready. Those that are being written come before prompts, so that a
    /// long prompt holds nobody up; otherwise they come as they arrived.
    fn queues(&self, among: impl Fn(&Sequence) -> bool) -> Queues {
        let mut queues = Queues::new();
        for prompts in [false, true] {
            for (key, sequence, caller) in self.ready(&among) {
                if (sequence.left() > 1) == prompts {
                    queues
                        .entry((Reverse(caller.priority), caller.owner))
                        .or_default()
                        .push_back(key);
                }
            }
        }
        queues
    }

    /// Takes the next text of the owner whose turn it is, of the highest priority that has any.
    fn next_text(&self, queues: &mut Queues) -> Option<(u64, Key)> {
        loop {
            let highest = queues.keys().next()?.0;
            let turn = queues
                .keys()
                .take_while(|(priority, _)| *priority == highest)
                .min_by_key(|(_, owner)| (self.turns.served(*owner), *owner))
                .copied()?;
            match queues.get_mut(&turn).and_then(VecDeque::pop_front) {
                // It may have failed since, with another text of its request.
                Some(key) if self.sequences.contains_key(&key) => return Some((turn.1, key)),
                Some(_) => {}
                None => {
                    queues.remove(&turn);
                }
            }
        }
    }

    /// What an owner's counter goes up by: tokens that are written count twice (arXiv 2401.00588,
    /// section 3.1).
    fn weight(&self, key: Key, count: usize) -> u64 {
        let writes = self.sequences.get(&key).is_some_and(|sequence| {
            matches!(sequence.goal, Goal::Write(_)) && sequence.left() == count
        });
        count as u64 + u64::from(writes)
    }
}
