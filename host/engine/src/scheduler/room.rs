//! Pages for the tokens that come next, and who has to give some up.

use std::collections::HashSet;

use skep_kernels::kv::PAGE_TOKENS;

use super::Scheduler;
use super::lead::LeadPlan;
use super::plan::Planned;
use crate::error::EngineError;
use crate::holding::Shortage;
use crate::sequence::{Goal, Key, Sequence};

/// What there is room for.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Tokens of the text; none if it has to wait.
    pub count: usize,
    /// Tokens that may follow, by what the text said before.
    pub drafts: Vec<u32>,
    /// What the draft model is to do.
    pub lead: Option<LeadPlan>,
}

impl Room {
    /// Guesses that the model is to check.
    fn guesses(&self) -> usize {
        let ahead = self.lead.as_ref().map_or(0, |lead| lead.ahead);
        self.drafts.len().max(ahead)
    }
}

/// What is left of a step.
#[derive(Debug)]
pub(super) struct Budget {
    /// Tokens of the model.
    pub tokens: usize,
    /// Tokens of the draft model.
    pub lead: usize,
    /// Texts that are written on.
    pub writers: usize,
}

impl Budget {
    pub fn spend(&mut self, room: &Room) {
        self.tokens = self.tokens.saturating_sub(room.count + room.guesses());
        let led = room.lead.as_ref().map_or(0, |lead| lead.known.len());
        self.lead = self.lead.saturating_sub(led);
    }
}

impl Scheduler {
    /// Makes room for the next tokens of a text, at most `budget`, and charges for the work of
    /// computing them. Texts in `chosen` keep what they have.
    pub(super) fn make_room(
        &mut self,
        key: Key,
        budget: &Budget,
        chosen: &HashSet<Key>,
    ) -> Result<Room, EngineError> {
        if !self.ready_adapter(key, chosen)? {
            return Ok(Room::default());
        }
        self.find_beginning(key)?;
        let Some(sequence) = self.sequences.get_mut(&key) else {
            return Ok(Room::default());
        };
        let mut count = sequence.left().min(budget.tokens);
        let start = sequence.computed;
        // Guesses are worth no page that another text could have.
        let room = self.grow(key, start + count, chosen)?;
        count = count.min(room.saturating_sub(start));
        if count == 0 {
            // It must not keep an adapter from making room for others while it has no page itself:
            // two such texts would wait for each other for ever.
            self.rest_adapter(key.group);
            return Ok(Room::default());
        }
        // But for one that nobody else would miss.
        let more = match self.pool.free() > self.sequences.len() {
            true => PAGE_TOKENS,
            false => 0,
        };
        let spare = (budget.tokens - count).min(room + more - start - count);
        let room = self.guesses(key, (count, spare), budget);
        let guesses = match (&self.leader, &room.lead) {
            // What follows the last guess is for the model to say.
            (Some(leader), Some(LeadPlan { known, ahead })) => {
                leader.flops(known.start..known.end + ahead.saturating_sub(1))
            }
            _ => 0,
        };
        match self.sequences.get(&key) {
            Some(sequence) if sequence.is_exact() => self.charge_up_to(key, start + count)?,
            _ => self.charge(key, start..start + count + room.guesses(), guesses)?,
        }
        Ok(room)
    }

    /// Charges for the positions of a text up to `end` that nobody has been charged for: each once,
    /// however often the text begins anew and whatever is guessed.
    pub(super) fn charge_up_to(&mut self, key: Key, end: usize) -> Result<(), EngineError> {
        let Some(charged) = self.sequences.get(&key).map(|sequence| sequence.charged) else {
            return Ok(());
        };
        if end > charged {
            self.charge(key, charged..end, 0)?;
            if let Some(sequence) = self.sequences.get_mut(&key) {
                sequence.charged = end;
            }
        }
        Ok(())
    }

    /// Charges for the work of computing these positions of a text, and for more.
    fn charge(
        &self,
        key: Key,
        positions: std::ops::Range<usize>,
        more: u64,
    ) -> Result<(), EngineError> {
        let mut work = self.cost.flops(positions.start, positions.len()) + more;
        if let Some(group) = self.groups.get(&key.group) {
            if let Some(lease) = &group.lease {
                // Two operations for each 16-bit element.
                let shape = self.model.decoder.kv_shape(self.options.kv_format);
                let bytes = shape.page_bytes();
                work += positions.len() as u64 * lease.pages() as u64 * bytes;
            }
            let account = &group.caller.account;
            account.charge_work_in_pieces(work)?;
            account.count_tokens(positions.len() as u64);
        }
        Ok(())
    }

    /// Guesses what follows the next `count` tokens of a text, if they are its last, or says how
    /// much the draft model is to guess. Where the text has said something like it before, that
    /// costs nothing; it is taken if it is as long as what the draft model would guess.
    fn guesses(&mut self, key: Key, (count, spare): (usize, usize), budget: &Budget) -> Room {
        let mut room = Room {
            count,
            ..Room::default()
        };
        if let Some(sequence) = self.sequences.get(&key)
            && let Goal::Write(writing) = &sequence.goal
            && sequence.computed + count == sequence.tokens.len()
        {
            room.drafts = writing.draft(spare);
        }
        room.lead = self.plan_lead(key, (count, spare), (budget.lead, budget.writers));
        if let Some(lead) = &room.lead
            && lead.ahead > 0
        {
            match room.drafts.len() >= lead.ahead {
                true => room.lead = None,
                false => room.drafts.clear(),
            }
        }
        room
    }

    /// Gets the page that guesses reach into, if it is free and paid for, or leaves out the guesses
    /// that would be in it. Once all texts of the step have theirs, so that nobody is refused a page
    /// for a guess.
    pub(super) fn room_to_guess(&mut self, planned: &mut Planned) {
        let (Some(sequence), Some(group)) = (
            self.sequences.get_mut(&planned.key),
            self.groups.get_mut(&planned.key.group),
        ) else {
            return;
        };
        let tokens = sequence.computed + planned.count;
        if sequence.pages.len() * PAGE_TOKENS < tokens + planned.guesses()
            && let Ok(page) = group.holding.allocate(&mut self.pool)
        {
            sequence.pages.push(page);
            if let Some(leader) = &mut self.leader {
                leader.clear(page);
            }
        }
        let room = sequence.pages.len() * PAGE_TOKENS - tokens;
        planned.drafts.truncate(room);
        if let Some(lead) = &mut planned.lead {
            lead.ahead = lead.ahead.min(room);
        }
    }

    /// Gives back pages that a text took for guesses and has not written into.
    pub(super) fn trim(&mut self, key: Key) {
        if let Some(sequence) = self.sequences.get_mut(&key)
            && let Some(group) = self.groups.get_mut(&key.group)
        {
            let needed = Sequence::pages_for(sequence.tokens.len());
            if sequence.pages.len() > needed {
                let pages = sequence.pages.split_off(needed);
                group.holding.release(&mut self.pool, &pages);
            }
        }
    }

    /// A text that has not begun takes over the pages in which its beginning is remembered.
    fn find_beginning(&mut self, key: Key) -> Result<(), EngineError> {
        let Some(sequence) = self.sequences.get_mut(&key) else {
            return Ok(());
        };
        let usable = match sequence.goal {
            // States are not remembered.
            _ if sequence.is_exact() => 0,
            Goal::Score { first, .. } => first,
            _ => sequence.tokens.len(),
        };
        let Some(group) = self.groups.get_mut(&key.group) else {
            return Ok(());
        };
        if sequence.computed > 0 || !sequence.pages.is_empty() {
            return Ok(());
        }
        let mut found = Vec::new();
        if self.options.prefix_cache {
            let known = &sequence.tokens[..usable];
            found = self.cache.find(&mut self.pool, group.realm, known);
        }
        let cached = found.len() * PAGE_TOKENS;
        group.cached.get_or_insert(cached.min(sequence.prompt));
        group.holding.adopt(&mut self.pool, &found)?;
        sequence.computed = cached;
        sequence.led = self
            .leader
            .as_ref()
            .map_or(0, |leader| leader.known(&found, cached));
        sequence.remembered = found.len();
        sequence.pages = found;
        Ok(())
    }

    /// Gets pages for the first `tokens` tokens of a text. Returns for how many there is room,
    /// the pages that it is going to write to being its own.
    fn grow(
        &mut self,
        key: Key,
        tokens: usize,
        chosen: &HashSet<Key>,
    ) -> Result<usize, EngineError> {
        loop {
            let Some(sequence) = self.sequences.get_mut(&key) else {
                return Ok(0);
            };
            let Some(group) = self.groups.get_mut(&key.group) else {
                return Ok(0);
            };
            let begun = sequence.computed / PAGE_TOKENS;
            let shared = sequence
                .pages
                .get(begun)
                .copied()
                .filter(|page| self.pool.holders(*page) > 1);
            if shared.is_none() && sequence.pages.len() >= Sequence::pages_for(tokens) {
                return Ok(sequence.pages.len() * PAGE_TOKENS);
            }
            match group.holding.allocate(&mut self.pool) {
                Ok(page) => match shared {
                    // Others go on reading the page that this text writes to: it gets a copy of
                    // what is in it so far.
                    Some(from) => {
                        let slots = sequence.computed % PAGE_TOKENS;
                        let mut copied = self.runner.copy(from, page, slots);
                        if let Some(leader) = &mut self.leader {
                            copied = copied.and_then(|()| leader.copy(from, page, slots));
                        }
                        if let Err(error) = copied {
                            group.holding.release(&mut self.pool, &[page]);
                            return Err(error.into());
                        }
                        group.holding.release(&mut self.pool, &[from]);
                        sequence.pages[begun] = page;
                    }
                    None => {
                        sequence.pages.push(page);
                        if let Some(leader) = &mut self.leader {
                            leader.clear(page);
                        }
                    }
                },
                Err(Shortage::Quota(refusal)) => return Err(refusal.into()),
                Err(Shortage::Pool) => {
                    self.cache.shrink(&mut self.pool, 1);
                    let found = self.pool.free() > 0 || self.take_from_adapters();
                    if !found && !self.take_from_another(key, chosen) {
                        let Some(sequence) = self.sequences.get(&key) else {
                            return Ok(0);
                        };
                        return Ok(match shared {
                            Some(_) => sequence.computed,
                            None => sequence.pages.len() * PAGE_TOKENS,
                        });
                    }
                }
            }
        }
    }

    /// Lets the text with the least claim to its pages begin anew later. `false` if no text has
    /// less claim than `key`.
    pub(super) fn take_from_another(&mut self, key: Key, chosen: &HashSet<Key>) -> bool {
        let Some(victim) = self.victim(key, chosen) else {
            return false;
        };
        if let Some(sequence) = self.sequences.get_mut(&victim)
            && let Some(group) = self.groups.get_mut(&victim.group)
        {
            let pages = sequence.restart();
            group.holding.release(&mut self.pool, &pages);
            tracing::debug!(text = ?victim, pages = pages.len(), "begins anew for want of pages");
        }
        self.rest_adapter(victim.group);
        true
    }

    /// The text that has to give up its pages to `key`. A text may take pages
    ///
    /// - from texts of a lower priority,
    /// - from its owner's texts that came after it,
    /// - from another owner's that has more than its share of the pages, where its own owner has
    ///   less, but not from the first of that owner's texts,
    /// - and, if it came before all others, from every text: so that there is always one that
    ///   goes on until it is complete.
    fn victim(&self, key: Key, chosen: &HashSet<Key>) -> Option<Key> {
        let own = self.groups.get(&key.group)?;
        let (priority, owner) = (own.caller.priority, own.caller.owner);
        let mut held = std::collections::HashMap::<u64, (usize, Key)>::new();
        let mut first = true;
        for (other, sequence) in &self.sequences {
            let Some(group) = self.groups.get(&other.group) else {
                continue;
            };
            first &= *other >= key || group.caller.priority < priority;
            if !sequence.pages.is_empty() {
                held.entry(group.caller.owner).or_insert((0, *other)).0 += sequence.pages.len();
            }
        }
        let share = self.pool.pages() / self.turns.at_work().max(1);
        let pages_of = |owner: u64| held.get(&owner).map_or(0, |(pages, _)| *pages);
        let poor = pages_of(owner) < share;
        self.sequences
            .iter()
            .filter(|(other, sequence)| {
                **other != key && !sequence.pages.is_empty() && !chosen.contains(other)
            })
            .filter_map(|(other, _)| Some((*other, &self.groups.get(&other.group)?.caller)))
            .filter(|(other, caller)| {
                if caller.priority != priority {
                    return caller.priority < priority;
                }
                let rich = pages_of(caller.owner) > share
                    && held
                        .get(&caller.owner)
                        .is_some_and(|(_, first)| first != other);
                first
                    || (caller.owner == owner && *other > key)
                    || (caller.owner != owner && poor && rich)
            })
            .min_by_key(|(other, caller)| (caller.priority, std::cmp::Reverse(*other)))
            .map(|(other, _)| other)
    }
}
