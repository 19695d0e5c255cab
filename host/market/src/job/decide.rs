//! What to do next: read off a job's state, and the same for the same state.

use std::collections::{BTreeMap, BTreeSet};

use skep_evidence::{AccountId, Credits};
use skep_registry::Digest;

use super::{AttemptId, Event, GaveUp, Job, Outcome, State, difference, sum};
use crate::choose::{Offer, rank};

/// Something that should happen, and has to be written before it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// To make out a lease, sign it and write it down as [`Event::Leased`].
    Lease {
        /// Which shard, and which lease of it.
        id: AttemptId,
        /// To whom.
        provider: AccountId,
        /// What it may cost at most.
        limit: Credits,
        /// Which lease's result it audits, if it is made out for that. The lease must not say so, but where it names texts to follow.
        audits: Option<u32>,
    },
    /// To write this down, which is all there is to do.
    Note(Event),
    /// An audit is over: to charge those that it found wrong, and then write down
    /// [`Outcome::events`].
    Audited(Outcome),
}

/// Something that was begun and has no outcome yet. Doing it twice has the effect of doing it
/// once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outstanding<'a> {
    /// To send a lease, and the shard with it, until an [`Event::Delivered`] or
    /// [`Event::Failed`] comes of it.
    Send {
        /// Which.
        id: AttemptId,
        /// To whom.
        provider: AccountId,
        /// The signed lease.
        lease: &'a [u8],
    },
    /// To countersign a receipt and post it, until [`Event::Paid`].
    Pay {
        /// Which.
        id: AttemptId,
        /// The lease that is paid.
        lease: Digest,
        /// The receipt as the provider signed it.
        receipt: &'a [u8],
    },
    /// To put a shard's output behind what there is of the result, until [`Event::Assembled`].
    Assemble {
        /// Which shard.
        shard: u32,
        /// Its output.
        output: Digest,
    },
}

impl Job {
    /// What should happen now, given who could be asked. Each decision has to be written down and
    /// applied before the next are asked for.
    #[must_use]
    pub fn decide(&self, now: u64, offers: &[Offer]) -> Vec<Decision> {
        let mut decisions = Vec::new();
        if self.gave_up.is_some() || self.unfinished.is_empty() {
            self.withdraw_rest(now, &mut decisions);
            return decisions;
        }
        if now >= self.plan.deadline {
            decisions.push(give_up(now, GaveUp::Deadline));
            return decisions;
        }
        let mut choice = Choice {
            offers,
            limit: self.plan.lease_limit,
            job: self.plan.job,
            suspects: self.suspects(),
            slow: &self.pace.slow,
            ranked: None,
            taken: BTreeMap::new(),
            left: difference(self.plan.budget, sum(self.spent, self.reserved)),
        };
        // First what is under way already, then what is needed, and only then what would be faster.
        for number in &self.under_audit {
            if let Some(why) = self.decide_audits(*number, now, &mut choice, &mut decisions) {
                return vec![give_up(now, why)];
            }
        }
        let mut late = Vec::new();
        for number in self.open.intersection(&self.unfinished) {
            if let Some(why) = self.decide_shard(*number, now, &mut choice, &mut decisions) {
                return vec![give_up(now, why)];
            }
            if decisions.is_empty() && self.is_late(*number, now) {
                late.push(*number);
            }
        }
        // Those that nobody has need a provider with room, and what a lease may cost; once one of
        // them got none, there is none for the others. What failed everywhere is told all the same.
        let mut is_stuck = false;
        for number in self.unfinished.difference(&self.open) {
            let had = self.shards[*number as usize].spent();
            if is_stuck && had < self.plan.max_attempts {
                continue;
            }
            if let Some(why) = self.decide_shard(*number, now, &mut choice, &mut decisions) {
                return vec![give_up(now, why)];
            }
            is_stuck = choice.is_exhausted() || choice.left < self.plan.lease_limit;
        }
        if decisions.is_empty() {
            for number in &late {
                decisions.extend(self.lease(*number, &mut choice));
            }
        }
        if late.is_empty() && self.under_audit.is_empty() && self.plan.replicas <= 1 {
            self.lease_ahead(&mut choice, &mut decisions);
        }
        self.withdraw_done(now, &mut decisions);
        decisions
    }

    /// Leases to providers that have no room: what comes next waits there, and they go on with it as
    /// soon as they are done with another. Whatever else needs room comes first, and the last shards
    /// are left to whoever is free for them first.
    fn lease_ahead(&self, choice: &mut Choice<'_>, decisions: &mut Vec<Decision>) {
        let open = choice
            .offers
            .iter()
            .filter(|offer| offer.is_open(choice.limit));
        let (mut slots, mut ahead) = (0_usize, 0_usize);
        for offer in open {
            slots = slots.saturating_add(offer.slots as usize);
            ahead = ahead.saturating_add(offer.ahead as usize);
        }
        if ahead == 0 {
            return;
        }
        let given: BTreeSet<u32> = choice.taken.values().flatten().copied().collect();
        let free = self.unfinished.difference(&self.open);
        let waiting: Vec<u32> = free
            .filter(|number| !given.contains(number))
            .take(slots.saturating_add(ahead))
            .copied()
            .collect();
        let is_fresh = |number: &u32| self.shards[*number as usize].attempts.is_empty();
        if !waiting.iter().all(is_fresh) {
            return;
        }
        let spare = waiting.len().saturating_sub(slots);
        for number in waiting.into_iter().take(spare) {
            let Some(provider) = choice.least_ahead(|provider| self.load(provider)) else {
                return;
            };
            decisions.extend(self.lease_to(provider, number, None, choice));
        }
    }

    /// What one shard needs; or why the job cannot go on.
    fn decide_shard(
        &self,
        number: u32,
        now: u64,
        choice: &mut Choice<'_>,
        decisions: &mut Vec<Decision>,
    ) -> Option<GaveUp> {
        let shard = &self.shards[number as usize];
        let (mut open, mut audited) = (0, 0);
        for (attempt, lease) in (0..).zip(&shard.attempts) {
            match lease.state {
                State::Open if self.waited(lease.since, now) >= self.plan.patience => {
                    let id = AttemptId {
                        shard: number,
                        attempt,
                    };
                    decisions.push(Decision::Note(Event::Withdrawn { id, at: now }));
                }
                State::Open if self.follows(lease) => {}
                State::Open => open += 1,
                State::Audited(_) => audited += 1,
                _ => {}
            }
        }
        let votes = shard.votes().into_values().map(|(votes, _)| votes);
        let most = votes.max().unwrap_or(0);
        let missing = self
            .plan
            .replicas
            .max(1)
            .saturating_sub(most + open + audited);
        let had = shard.spent();
        for further in 0..missing {
            if had.saturating_add(further) >= self.plan.max_attempts {
                // What is under way may still do.
                return (open + audited == 0).then_some(GaveUp::Attempts { shard: number });
            }
            if choice.left < self.plan.lease_limit {
                // An audit that waits for somebody may find that something is not to be paid.
                let is_over = self.is_idle(decisions) && self.under_audit.is_empty();
                return is_over.then_some(GaveUp::Budget);
            }
            decisions.extend(self.lease(number, choice));
        }
        None
    }

    /// Whether nothing is under way, that may cost less than was set aside for it.
    pub(super) fn is_idle(&self, decisions: &[Decision]) -> bool {
        let is_lease = |decision: &Decision| matches!(decision, Decision::Lease { .. });
        self.load.values().all(|load| *load == 0) && !decisions.iter().any(is_lease)
    }

    /// A lease of a shard to the best provider that has room and has not had this shard before, or
    /// failed it if there is no other.
    fn lease(&self, number: u32, choice: &mut Choice<'_>) -> Option<Decision> {
        let attempts = &self.shards[number as usize].attempts;
        if choice.left < self.plan.lease_limit {
            return None;
        }
        let room = |provider, taken: &[u32], may: bool| {
            let more = u32::try_from(taken.len()).unwrap_or(u32::MAX);
            let may = may && !taken.contains(&number);
            may.then_some(self.load(provider).saturating_add(more))
        };
        // Who followed what another made of it has made nothing of it.
        let made = || attempts.iter().filter(|attempt| !self.follows(attempt));
        let has_had = |provider| made().any(|attempt| attempt.provider == provider);
        // To be busy costs nothing, and to have made something does: of accounts that only say that they take shards
        // there may be any number.
        if self.was_moved_often(number) {
            let known = choice.offers.iter().filter(|offer| self.is_known(offer));
            let known: BTreeSet<AccountId> = known.map(|offer| offer.provider).collect();
            let may = |provider: AccountId| known.contains(&provider) && !has_had(provider);
            let provider = choice.take(|provider, taken| room(provider, taken, may(provider)));
            if let Some(provider) = provider {
                return self.lease_to(provider, number, None, choice);
            }
        }
        // Somebody who has not had it comes first, even if that means to wait for room or for a look. Only where
        // everybody has, those get it once more of whom nothing came: a provider may be back.
        let provider = match choice.all(has_had) {
            false => choice.take(|provider, taken| room(provider, taken, !has_had(provider))),
            true => choice.take(|provider, taken| {
                let mut its = made().filter(|lease| lease.provider == provider);
                room(
                    provider,
                    taken,
                    its.all(|lease| lease.state == State::Ended),
                )
            }),
        }?;
        self.lease_to(provider, number, None, choice)
    }

    /// Whether half of the leases that a shard may have went to providers that were busy.
    fn was_moved_often(&self, number: u32) -> bool {
        let attempts = &self.shards[number as usize].attempts;
        let moved = attempts.iter().filter(|attempt| attempt.moved).count();
        2 * moved >= self.plan.max_attempts as usize
    }

    /// Whether somebody has made something, in this job or in others.
    fn is_known(&self, offer: &Offer) -> bool {
        self.pace.knows(offer.provider) || offer.reputation.is_proven()
    }

    /// Whether a lease whose provider is busy is better withdrawn, because somebody else who has not made its shard
    /// has room for it now, and is nobody to whom no further shard is given meanwhile. Otherwise it is waited for, as
    /// is an auditor, whose turn it is, and a shard that has moved often already: whoever quotes and then takes nothing
    /// would have it go round. Such a one goes on to whoever has made something before. Otherwise one that is late has
    /// a second lease beside it; where it may have none, it moves when it would have had that.
    #[must_use]
    pub fn may_move(&self, id: AttemptId, now: u64, offers: &[Offer]) -> bool {
        let Some(shard) = self.shards.get(id.shard as usize) else {
            return false;
        };
        let lease = shard.attempts.get(id.attempt as usize);
        let ordinary = lease.filter(|lease| lease.state == State::Open && lease.audits.is_none());
        let Some(lease) = ordinary else {
            return false;
        };
        // Leases for audits were not moved, and who followed what another made of it has made nothing of it.
        let has_moved_often = 2 * shard.ordinary().count() >= self.plan.max_attempts as usize;
        let is_late = self.waited(lease.since, now) > self.late();
        let has_had = |provider| {
            let mut made = shard.attempts.iter().filter(|its| !self.follows(its));
            made.any(|its| its.provider == provider)
        };
        let suspects = self.suspects();
        let mut free = offers.iter().filter(|offer| {
            offer.is_open(self.plan.lease_limit)
                && self.load(offer.provider) < offer.slots
                && !suspects.contains(&offer.provider)
        });
        let may_go_to_all = !has_moved_often || (self.plan.hedges == 0 && is_late);
        free.any(|offer| !has_had(offer.provider) && (may_go_to_all || self.is_known(offer)))
    }

    /// A lease of a shard to this provider.
    pub(super) fn lease_to(
        &self,
        provider: AccountId,
        number: u32,
        audits: Option<u32>,
        choice: &mut Choice<'_>,
    ) -> Option<Decision> {
        let taken = choice.taken.values().flatten();
        let further = taken.filter(|shard| **shard == number).count();
        let had = self.shards[number as usize].attempts.len();
        let id = AttemptId {
            shard: number,
            attempt: u32::try_from(had + further).ok()?,
        };
        choice.taken.entry(provider).or_default().push(number);
        choice.left = difference(choice.left, self.plan.lease_limit);
        Some(Decision::Lease {
            id,
            provider,
            limit: self.plan.lease_limit,
            audits,
        })
    }

    /// Open leases of a provider.
    pub(super) fn load(&self, provider: AccountId) -> u32 {
        self.load.get(&provider).copied().unwrap_or(0)
    }

    /// For how long something has been waited for that began then. Whoever was away did not wait: what came meanwhile
    /// could not be taken, and may be there still.
    fn waited(&self, since: u64, now: u64) -> u64 {
        now.saturating_sub(since.max(self.watched))
    }

    /// Whether a shard takes much longer than others did, and may have one more lease.
    fn is_late(&self, number: u32, now: u64) -> bool {
        if self.under_audit.contains(&number) {
            return false;
        }
        let shard = &self.shards[number as usize];
        let attempts = shard.attempts.iter();
        let open = attempts.filter(|attempt| attempt.state == State::Open);
        let since = open.clone().map(|attempt| attempt.since).max();
        let Some(since) = since else {
            return false;
        };
        let late = self.late();
        let count = u32::try_from(open.count()).unwrap_or(u32::MAX);
        self.waited(since, now) > late
            && count < self.plan.replicas.max(1) + self.plan.hedges
            && shard.spent() < self.plan.max_attempts
    }

    /// Withdraws what is open for shards that are done.
    fn withdraw_done(&self, now: u64, decisions: &mut Vec<Decision>) {
        for number in self.open.difference(&self.unfinished) {
            withdraw(*number, &self.shards[*number as usize], now, decisions);
        }
    }

    /// Withdraws everything that is open.
    fn withdraw_rest(&self, now: u64, decisions: &mut Vec<Decision>) {
        for number in &self.open {
            withdraw(*number, &self.shards[*number as usize], now, decisions);
        }
    }

    /// What was begun and has no outcome yet.
    #[must_use]
    pub fn outstanding(&self) -> Vec<Outstanding<'_>> {
        let mut found = Vec::new();
        for shard in &self.open {
            let attempts = (0..).zip(&self.shards[*shard as usize].attempts);
            for (attempt, lease) in attempts.filter(|(_, lease)| lease.state == State::Open) {
                let shard = *shard;
                found.push(Outstanding::Send {
                    id: AttemptId { shard, attempt },
                    provider: lease.provider,
                    lease: &lease.encoding,
                });
            }
        }
        for shard in &self.unpaid {
            for (attempt, lease) in self.shards[*shard as usize].unpaid() {
                let shard = *shard;
                found.push(Outstanding::Pay {
                    id: AttemptId { shard, attempt },
                    lease: lease.lease,
                    receipt: &lease.encoding,
                });
            }
        }
        if let Some(output) = self.accepted(self.assembled) {
            found.push(Outstanding::Assemble {
                shard: self.assembled,
                output,
            });
        }
        found
    }
}

/// Those who can still be asked in one round of decisions.
pub(super) struct Choice<'a> {
    pub(super) offers: &'a [Offer],
    limit: Credits,
    job: Digest,
    /// Who gets nothing but audits.
    suspects: BTreeSet<AccountId>,
    /// Who is asked after others.
    slow: &'a BTreeSet<AccountId>,
    /// Put in order when the first is asked for: most often nobody is.
    ranked: Option<Vec<&'a Offer>>,
    /// The shards that each gets in this round.
    taken: BTreeMap<AccountId, Vec<u32>>,
    /// What of the budget is not promised.
    pub(super) left: Credits,
}

impl Choice<'_> {
    /// Whether this provider may be asked, and if so whether it has room for one more shard. `None`
    /// if it does not answer at present.
    pub(super) fn room(&self, provider: AccountId, load: u32) -> Option<Room> {
        let mut offers = self.offers.iter();
        let offer = offers.find(|offer| offer.provider == provider)?;
        let taken = self.taken.get(&provider).map_or(0, Vec::len) as u64;
        Some(match offer.is_open(self.limit) {
            false => Room::Never,
            true if u64::from(load) + taken < u64::from(offer.slots) => Room::Now,
            true => Room::Later,
        })
    }

    /// Whether this provider gets this shard in this round.
    pub(super) fn gets(&self, provider: AccountId, number: u32) -> bool {
        let taken = self.taken.get(&provider);
        taken.is_some_and(|shards| shards.contains(&number))
    }

    /// Of those who may be given a shard that waits, the one at which the fewest do, and nobody who is doubted or slow
    /// while others may, if there is something left to promise it.
    fn least_ahead(&self, load: impl Fn(AccountId) -> u32) -> Option<AccountId> {
        if self.left < self.limit {
            return None;
        }
        let open = self.offers.iter().filter(|offer| offer.is_open(self.limit));
        let waiting = open.filter_map(|offer| {
            let taken = self.taken.get(&offer.provider).map_or(0, Vec::len) as u64;
            let has = u64::from(load(offer.provider)) + taken;
            let waiting = has.saturating_sub(u64::from(offer.slots));
            let last = (
                offer.reputation.is_doubted(),
                self.slow.contains(&offer.provider),
            );
            (waiting < u64::from(offer.ahead)).then_some((last, waiting, offer.provider))
        });
        let least = waiting.min_by_key(|(last, waiting, _)| (*last, *waiting));
        least.map(|(_, _, provider)| provider)
    }

    /// Whether nobody has room for one more shard.
    fn is_exhausted(&self) -> bool {
        self.ranked.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether something is true of everybody who may be asked, with room or without.
    fn all(&self, is: impl Fn(AccountId) -> bool) -> bool {
        let mut asked = self.offers.iter().filter(|offer| offer.is_open(self.limit));
        asked.all(|offer| is(offer.provider))
    }

    /// The best provider of which `load` tells how many shards it has, if it may have one more and is no suspect.
    fn take(&mut self, load: impl Fn(AccountId, &[u32]) -> Option<u32>) -> Option<AccountId> {
        let ranked = self.ranked.get_or_insert_with(|| {
            let mut ranked = rank(self.offers, self.limit, self.job);
            ranked.retain(|offer| !self.suspects.contains(&offer.provider));
            // Whoever is doubted stays behind all others.
            ranked.sort_by_key(|offer| {
                let is_slow = self.slow.contains(&offer.provider);
                (offer.reputation.is_doubted(), is_slow)
            });
            ranked
        });
        let mut full = Vec::new();
        let mut found = None;
        for (place, offer) in ranked.iter().enumerate() {
            let taken = self
                .taken
                .get(&offer.provider)
                .map_or(&[][..], Vec::as_slice);
            match load(offer.provider, taken) {
                Some(load) if load < offer.slots => {
                    found = Some(offer.provider);
                    break;
                }
                Some(_) => full.push(place),
                None => {}
            }
        }
        // Whoever is full stays so for the rest of this round.
        for place in full.into_iter().rev() {
            ranked.remove(place);
        }
        found
    }
}

/// When a provider can be given one more shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// At once.
    Now,
    /// When it is done with another.
    Later,
    /// It lied, or asks for too much.
    Never,
}

fn give_up(at: u64, why: GaveUp) -> Decision {
    Decision::Note(Event::GaveUp { at, why })
}

fn withdraw(number: u32, shard: &super::Shard, now: u64, decisions: &mut Vec<Decision>) {
    for (attempt, lease) in (0..).zip(&shard.attempts) {
        if lease.state == State::Open {
            let id = AttemptId {
                shard: number,
                attempt,
            };
            decisions.push(Decision::Note(Event::Withdrawn { id, at: now }));
        }
    }
}
