//! One job: which shards are where, what came of them, and what is to be done next.
//!
//! A [`Job`] is what its events have led to, and nothing else: the requester writes each event to
//! its [`Journal`], then applies it, and a requester that was killed applies them all again and is
//! where it was. What to do is read off the state ([`Job::decide`], [`Job::outstanding`]), not
//! remembered beside it, so nothing can be forgotten by a crash: what was begun and has no outcome
//! yet is begun again, and everything that is done twice has the same effect as once. A lease is
//! sent again with the same digest, a receipt is posted again under the same lease.
//!
//! # What it must never do
//!
//! - Count a result twice, or one that came after its lease was withdrawn.
//! - Accept an output that fewer than the asked-for number of providers agree on, or while one of
//!   its shard is being audited, or of replicas one that is another is to be.
//! - Promise more than the budget: what was spent and what open leases may cost stay within it.
//! - Read a clock.

mod accept;
mod audit;
mod decide;
mod event;
mod journal;
mod outvoted;
mod pace;
mod suspects;
mod tally;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use skep_evidence::following::doubt;
use skep_evidence::{AccountId, Credits};
use skep_registry::Digest;

pub use audit::Outcome;
pub use decide::{Decision, Outstanding};
pub use event::{AttemptId, Event, Finding, GaveUp};
pub use journal::{Journal, JournalError, Kept, Trail};
pub use view::{AttemptState, AttemptView, ShardView};

use self::pace::Pace;

/// What a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobPlan {
    /// Its name.
    pub job: Digest,
    /// How many shards it has.
    pub shards: u32,
    /// How many providers have to agree on the output of a shard, at least 1.
    pub replicas: u32,
    /// Whether they have to agree on what it took as well: of work that can be repeated, operations,
    /// tokens and bytes are the same for everybody.
    pub exact: bool,
    /// Whether auditors follow the texts of a result and do not make one of their own: what they deliver
    /// says something of that result, and nothing of the shard's output.
    pub followed: bool,
    /// Whether of replicas those that are others than enough agree on are looked at, and whoever lied charged.
    pub looks_at_odd: bool,
    /// All that it may cost.
    pub budget: Credits,
    /// What one lease may cost.
    pub lease_limit: Credits,
    /// Until when it has to be done, in milliseconds since 1970.
    pub deadline: u64,
    /// How long a lease may take before it is withdrawn, in milliseconds.
    pub patience: u64,
    /// How long one may take before its shard may have another beside it, in milliseconds, as long as
    /// too few results are there, or those of too few providers, to tell what is usual.
    pub first_patience: u64,
    /// How many leases a shard may have in all, beside those for audits and those that moved since a provider was busy.
    pub max_attempts: u32,
    /// How many leases more than needed a shard may have at once, when it lags behind the others. Where there are none,
    /// one whose provider is busy moves to another that is not instead.
    pub hedges: u32,
}

/// What became of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// It failed or was withdrawn, or brought something else than what counted already.
    Ended,
    /// A result that counts.
    Delivered(Output),
    /// A result that counts if the audit says so.
    Audited(Output),
    /// A result that the audit found wrong.
    Wrong(Output),
    /// What an auditor says that followed another result.
    Follows(Output),
    /// The same, once the audit found it right: it is to be paid, whatever counts as the shard's output.
    Followed(Output),
}

/// Why others look at a result, or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// It was drawn.
    Drawn,
    /// Enough others got something else.
    Odd,
    /// That as well, and what they found is nothing.
    Undecided,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Output {
    digest: Digest,
    /// [`skep_evidence::ResultCommitment::claim`], by which audits compare.
    claim: Digest,
    /// By which replicas compare: the claim, or only the output.
    vote: Digest,
    bytes: u64,
    price: Credits,
}

#[derive(Clone, Debug)]
struct Attempt {
    provider: AccountId,
    limit: Credits,
    /// When it was made out.
    begun: u64,
    /// Since when it is open or over: when it was made out, or what came of it did.
    since: u64,
    state: State,
    /// Whether it was withdrawn before its time was over, since its provider was busy.
    moved: bool,
    paid: bool,
    lease: Digest,
    /// Which lease's result it audits, if it is made out for that.
    audits: Option<u32>,
    /// Whether its result has a say in what the shard's output is: that of an auditor only once
    /// the audit is over.
    has_vote: bool,
    /// Who may audit its result.
    auditors: Vec<AccountId>,
    /// Why they do or did, if it came to that.
    look: Option<Look>,
    /// The signed lease while it is open, the signed receipt once there is one.
    encoding: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
struct Shard {
    attempts: Vec<Attempt>,
    /// What enough providers agree on. It does not change any more.
    accepted: Option<Accepted>,
}

/// What counts as a shard's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Accepted {
    output: Digest,
    /// [`Output::vote`] of those who delivered it.
    vote: Digest,
}

/// Why an event does not fit a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this does not fit the job: {what}; its journal is another job's, or damaged")]
pub struct Unfit {
    /// What does not fit.
    what: &'static str,
}

fn unfit(what: &'static str) -> Unfit {
    Unfit { what }
}

/// A job as far as it has come.
#[derive(Clone, Debug)]
pub struct Job {
    plan: JobPlan,
    shards: Vec<Shard>,
    /// Shards without an accepted output.
    unfinished: BTreeSet<u32>,
    /// Shards with a result that is being audited.
    under_audit: BTreeSet<u32>,
    /// Shards with an open lease. With these sets, what is next is found without a look at every
    /// shard.
    open: BTreeSet<u32>,
    /// Shards of which a receipt that is to be paid is not.
    unpaid: BTreeSet<u32>,
    /// Shards before this one are in the result.
    assembled: u32,
    /// How long the result is up to there.
    assembled_bytes: u64,
    /// How long results took, to know what is late.
    pace: Pace,
    /// Open leases of each provider that was ever given one.
    load: BTreeMap<AccountId, u32>,
    /// When the last lease of each provider was over.
    freed: BTreeMap<AccountId, u64>,
    /// Since when this process is at work on it ([`Job::watch_from`]).
    watched: u64,
    /// What was paid and is to be paid for accepted outputs.
    spent: Credits,
    /// What open leases and results that are not accepted yet may cost.
    reserved: Credits,
    gave_up: Option<GaveUp>,
}

impl Job {
    /// A job of which nothing has happened.
    #[must_use]
    pub fn new(plan: JobPlan) -> Self {
        Self {
            plan,
            shards: vec![Shard::default(); plan.shards as usize],
            unfinished: (0..plan.shards).collect(),
            under_audit: BTreeSet::new(),
            open: BTreeSet::new(),
            unpaid: BTreeSet::new(),
            assembled: 0,
            assembled_bytes: 0,
            pace: Pace::default(),
            load: BTreeMap::new(),
            freed: BTreeMap::new(),
            watched: 0,
            spent: Credits::ZERO,
            reserved: Credits::ZERO,
            gave_up: None,
        }
    }

    /// The job that these events lead to.
    ///
    /// # Errors
    ///
    /// When one of them is not of this job.
    pub fn resume<'a>(
        plan: JobPlan,
        events: impl IntoIterator<Item = &'a Event>,
    ) -> Result<Self, Unfit> {
        let mut job = Self::new(plan);
        for event in events {
            job.apply(event)?;
        }
        Ok(job)
    }

    /// Says that this process is at work on the job from `now` on, in milliseconds since 1970. Nobody is passed over
    /// in an audit for having been away or late before: whoever did not look cannot tell.
    pub fn watch_from(&mut self, now: u64) {
        self.watched = now;
    }

    /// What the job is.
    #[must_use]
    pub fn plan(&self) -> &JobPlan {
        &self.plan
    }

    /// Takes in what happened. What comes too late or again changes nothing.
    ///
    /// # Errors
    ///
    /// When it cannot have happened to this job.
    pub fn apply(&mut self, event: &Event) -> Result<(), Unfit> {
        match event {
            Event::Leased { id, .. }
            | Event::Failed { id, .. }
            | Event::Withdrawn { id, .. }
            | Event::Delivered { id, .. }
            | Event::Audited { id, .. } => {
                let is_given_up = self.gave_up.is_some();
                let before = self.shard(id.shard)?.costs(is_given_up);
                self.change(*id, event)?;
                self.accept(id.shard, event.at())?;
                self.index(id.shard);
                let after = self.shard(id.shard)?.costs(is_given_up);
                self.spent = sum(difference(self.spent, before.0), after.0);
                self.reserved = sum(difference(self.reserved, before.1), after.1);
            }
            Event::Paid { id, .. } => {
                self.attempt(*id)?.paid = true;
                self.index(id.shard);
            }
            Event::Assembled { shard, .. } => {
                let length = self.shard(*shard)?.accepted_bytes();
                let Some(length) = length.filter(|_| *shard == self.assembled) else {
                    return Err(unfit("a shard is put together out of order"));
                };
                self.assembled += 1;
                self.assembled_bytes = self.assembled_bytes.saturating_add(length);
            }
            Event::GaveUp { at, why } => {
                self.gave_up.get_or_insert(*why);
                // On these enough have agreed.
                for number in self.under_audit.clone() {
                    self.shard(number)?.look_no_more();
                    self.accept(number, *at)?;
                    self.index(number);
                }
                let costs = self.shards.iter().map(|shard| shard.costs(true));
                let (spent, reserved): (Vec<_>, Vec<_>) = costs.unzip();
                self.spent = spent.into_iter().fold(Credits::ZERO, sum);
                self.reserved = reserved.into_iter().fold(Credits::ZERO, sum);
            }
        }
        Ok(())
    }

    /// Changes the state of one lease.
    fn change(&mut self, id: AttemptId, event: &Event) -> Result<(), Unfit> {
        if let Event::Leased {
            at,
            provider,
            limit,
            lease,
            audits,
            encoding,
            ..
        } = event
        {
            let shard = self.shard(id.shard)?;
            if shard.attempts.len() != id.attempt as usize {
                return Err(unfit("a lease is missing or there twice"));
            }
            shard.attempts.push(Attempt {
                provider: *provider,
                limit: *limit,
                begun: *at,
                since: *at,
                state: State::Open,
                moved: false,
                paid: false,
                lease: *lease,
                audits: *audits,
                has_vote: audits.is_none(),
                auditors: Vec::new(),
                look: None,
                encoding: encoding.clone(),
            });
            *self.load.entry(*provider).or_default() += 1;
            return Ok(());
        }
        let accepted = self.shard(id.shard)?.accepted;
        let (is_exact, patience) = (self.plan.exact, self.plan.patience);
        let follows = self.state_followed_by(id);
        if accepted.is_some() && matches!(event, Event::Audited { .. }) {
            return Err(unfit("a result is audited that counts already"));
        }
        let attempt = self.attempt(id)?;
        let (provider, since) = (attempt.provider, attempt.since);
        match (attempt.state, event) {
            (State::Open, Event::Failed { .. } | Event::Withdrawn { .. }) => {
                let is_early = event.at().saturating_sub(since) < patience;
                let is_withdrawn = matches!(event, Event::Withdrawn { .. });
                attempt.moved = is_early && is_withdrawn;
                attempt.state = State::Ended;
                attempt.encoding = Vec::new();
                attempt.since = event.at();
                self.unload(provider, event.at());
                if is_withdrawn && !is_early {
                    self.pace.ran_out(provider);
                }
            }
            (
                State::Open,
                Event::Delivered {
                    at,
                    output,
                    claim,
                    bytes,
                    price,
                    auditors,
                    only_if_odd,
                    receipt,
                    ..
                },
            ) => {
                if *price > attempt.limit {
                    return Err(unfit("a receipt is above its lease's limit"));
                }
                let output = Output {
                    digest: *output,
                    claim: *claim,
                    vote: if is_exact { *claim } else { *output },
                    bytes: *bytes,
                    price: *price,
                };
                let is_drawn = !auditors.is_empty() && !only_if_odd;
                attempt.state = match accepted {
                    None if is_drawn => State::Audited(output),
                    // Its lease was to be withdrawn next: whoever is late by a moment has not lied for that.
                    Some(accepted) if accepted.vote != output.vote => State::Ended,
                    // Where the same counts already, there is nothing to wait for.
                    _ => State::Delivered(output),
                };
                let is_looked_at = is_drawn && attempt.state != State::Ended;
                attempt.look = is_looked_at.then_some(Look::Drawn);
                if let Some(other) = follows {
                    attempt.state = match other {
                        State::Delivered(its) if its.claim == output.claim => {
                            State::Followed(output)
                        }
                        // Who cannot tell has found nothing out.
                        State::Wrong(its)
                            if its.claim != output.claim && output.claim != doubt() =>
                        {
                            State::Followed(output)
                        }
                        // The audit is over without it, and nothing is proven of it.
                        State::Delivered(_) | State::Wrong(_) | State::Ended => State::Ended,
                        _ => State::Follows(output),
                    };
                }
                attempt.auditors.clone_from(auditors);
                attempt.encoding.clone_from(receipt);
                attempt.since = *at;
                self.unload(provider, *at);
                // Who follows takes far less time than who writes, and says nothing of how long that takes.
                if follows.is_none() {
                    self.pace.note(provider, at.saturating_sub(since));
                }
            }
            (State::Follows(output), Event::Audited { finding, .. }) => {
                attempt.state = match finding {
                    Finding::Passed => State::Followed(output),
                    Finding::Wrong => State::Wrong(output),
                    Finding::Undecided => State::Ended,
                };
            }
            (State::Audited(output) | State::Delivered(output), Event::Audited { finding, .. }) => {
                attempt.has_vote = true;
                attempt.state = match finding {
                    Finding::Passed => State::Delivered(output),
                    Finding::Wrong => State::Wrong(output),
                    // It stands as it did: enough others got something else.
                    Finding::Undecided if attempt.look == Some(Look::Odd) => {
                        attempt.look = Some(Look::Undecided);
                        State::Delivered(output)
                    }
                    Finding::Undecided => State::Ended,
                };
            }
            _ => {}
        }
        if matches!(event, Event::Audited { .. }) {
            self.dismiss_followers(id)?;
        }
        Ok(())
    }

    /// An audit is over: of those who followed the result and had no say in what was found of it, nothing is
    /// proven.
    fn dismiss_followers(&mut self, id: AttemptId) -> Result<(), Unfit> {
        if !self.plan.followed {
            return Ok(());
        }
        for attempt in &mut self.shard(id.shard)?.attempts {
            if attempt.audits == Some(id.attempt) && matches!(attempt.state, State::Follows(_)) {
                attempt.state = State::Ended;
            }
        }
        Ok(())
    }

    /// Puts a shard where it belongs after a change.
    fn index(&mut self, number: u32) {
        let Some(shard) = self.shards.get(number as usize) else {
            return;
        };
        let is_open = |attempt: &Attempt| attempt.state == State::Open;
        let (is_open, is_unpaid) = (
            shard.attempts.iter().any(is_open),
            shard.unpaid().next().is_some(),
        );
        for (set, belongs) in [(&mut self.open, is_open), (&mut self.unpaid, is_unpaid)] {
            match belongs {
                true => set.insert(number),
                false => set.remove(&number),
            };
        }
    }

    /// A lease of this provider is over.
    fn unload(&mut self, provider: AccountId, at: u64) {
        self.freed.insert(provider, at);
        if let Some(load) = self.load.get_mut(&provider) {
            *load = load.saturating_sub(1);
        }
    }

    fn shard(&mut self, shard: u32) -> Result<&mut Shard, Unfit> {
        self.shards
            .get_mut(shard as usize)
            .ok_or(unfit("there is no such shard"))
    }

    fn attempt(&mut self, id: AttemptId) -> Result<&mut Attempt, Unfit> {
        let attempts = &mut self.shard(id.shard)?.attempts;
        attempts
            .get_mut(id.attempt as usize)
            .ok_or(unfit("there is no such lease"))
    }

    /// Which lease's result another one audits, if it is made out for that.
    #[must_use]
    pub fn audits(&self, id: AttemptId) -> Option<u32> {
        let attempts = &self.shards.get(id.shard as usize)?.attempts;
        attempts.get(id.attempt as usize)?.audits
    }

    /// What became of the result that this lease's work follows, if it follows one.
    fn state_followed_by(&self, id: AttemptId) -> Option<State> {
        let audited = self.audits(id).filter(|_| self.plan.followed)?;
        let attempts = &self.shards.get(id.shard as usize)?.attempts;
        Some(attempts.get(audited as usize)?.state)
    }

    /// Whether a lease's work follows another result, and makes none of its own.
    fn follows(&self, attempt: &Attempt) -> bool {
        self.plan.followed && attempt.audits.is_some()
    }

    /// To whom a lease was made out.
    #[must_use]
    pub fn provider(&self, id: AttemptId) -> Option<AccountId> {
        let attempts = &self.shards.get(id.shard as usize)?.attempts;
        Some(attempts.get(id.attempt as usize)?.provider)
    }

    /// The output of a shard, once it is accepted.
    #[must_use]
    pub fn accepted(&self, shard: u32) -> Option<Digest> {
        let accepted = self.shards.get(shard as usize)?.accepted?;
        Some(accepted.output)
    }

    /// How many shards have an accepted output.
    #[must_use]
    pub fn finished(&self) -> u32 {
        self.plan.shards - u32::try_from(self.unfinished.len()).unwrap_or(self.plan.shards)
    }

    /// How many shards, from the first on, are in the result.
    #[must_use]
    pub fn assembled(&self) -> u32 {
        self.assembled
    }

    /// How long these are together: what is behind that in the file of the result was put there
    /// before a crash and not written down, and is to be cut off.
    #[must_use]
    pub fn assembled_bytes(&self) -> u64 {
        self.assembled_bytes
    }

    /// Whether the whole result is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.assembled == self.plan.shards
    }

    /// Why it ended without its result, if it did.
    #[must_use]
    pub fn gave_up(&self) -> Option<GaveUp> {
        self.gave_up.filter(|_| !self.unfinished.is_empty())
    }

    /// What accepted outputs cost.
    #[must_use]
    pub fn spent(&self) -> Credits {
        self.spent
    }

    /// What it may still come to cost beside that.
    #[must_use]
    pub fn reserved(&self) -> Credits {
        self.reserved
    }
}

fn sum(a: Credits, b: Credits) -> Credits {
    a.checked_add(b).unwrap_or(Credits::MAX)
}

fn difference(a: Credits, b: Credits) -> Credits {
    a.checked_sub(b).unwrap_or_default()
}

#[cfg(test)]
mod tests;
