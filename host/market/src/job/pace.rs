//! How long results take, and when a lease is late.
//!
//! Whoever makes results up is quick, and gets the more shards for it. If each result counted alike, a few who lie
//! would have everybody honest be late, and be given those shards as well. So each *provider* counts once, by what more
//! than half of its own results stay within; and what is usual is what more than half of *all that were ever given a
//! lease* stay within, those of whom nothing has come yet among them: who lies is the first to deliver.
//!
//! - As long as no more than half of them lie, one of any that are more than half is honest. So no lease is late
//!   before twice what some honest provider usually takes, or [`super::JobPlan::first_patience`], however quick they are.
//! - As long as fewer than half lie, the honest ones are more than half. So once these have delivered a lease is late
//!   after four times what the slowest of them usually takes at the latest, however slow or silent the others are;
//!   and until then after the first patience.
//!
//! A lease that is late costs its provider the lease if another delivers first. It is withdrawn then, unpaid, and
//! nothing else is remembered of it (`outvoted`). Only who kept one for all the time that a lease has, busy or at work,
//! is given further shards of that job after others, until a result of its own comes.

use std::collections::{BTreeMap, BTreeSet};

use skep_evidence::AccountId;

use super::Job;

/// So many results have to be there to tell what is usual.
const KNOWN: u32 = 3;
/// How many powers of two a time in milliseconds can reach.
const POWERS: usize = 64;

/// How often each power of two was reached.
type Counts = [u32; POWERS];

/// How long results took, in milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// Those of each provider.
    own: BTreeMap<AccountId, Counts>,
    /// What is usual of each provider.
    usual: Counts,
    /// How many there are.
    results: u32,
    /// The power of two that the longest reached.
    longest: Option<usize>,
    /// Those that kept a lease until its time was over, and of which no result has come since.
    pub(super) slow: BTreeSet<AccountId>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            own: BTreeMap::new(),
            usual: [0; POWERS],
            results: 0,
            longest: None,
            slow: BTreeSet::new(),
        }
    }
}

impl Pace {
    /// Takes in that a result of this provider took so many milliseconds.
    pub(super) fn note(&mut self, provider: AccountId, took: u64) {
        let power = took.checked_ilog2().unwrap_or(0) as usize;
        let own = self.own.entry(provider).or_insert([0; POWERS]);
        if let Some(before) = usual_of(own) {
            self.usual[before] -= 1;
        }
        own[power] += 1;
        if let Some(now) = usual_of(own) {
            self.usual[now] += 1;
        }
        self.results += 1;
        self.longest = self.longest.max(Some(power));
        self.slow.remove(&provider);
    }

    /// Takes in that a lease of this provider was withdrawn, since its time was over.
    pub(super) fn ran_out(&mut self, provider: AccountId) {
        self.slow.insert(provider);
    }

    /// Whether a result of this provider has come.
    pub(super) fn knows(&self, provider: AccountId) -> bool {
        self.own.contains_key(&provider)
    }

    /// The power of two that most of so many providers usually stay within, if that is known.
    fn usual(&self, providers: usize) -> Option<usize> {
        let usual = within(&self.usual, providers as u64);
        usual.filter(|_| self.results >= KNOWN)
    }
}

/// What one provider usually stays within.
fn usual_of(own: &Counts) -> Option<usize> {
    let all: u64 = own.iter().copied().map(u64::from).sum();
    within(own, all)
}

/// The power of two within which more than half of so many are.
fn within(counts: &Counts, all: u64) -> Option<usize> {
    let mut seen = 0;
    counts.iter().position(|count| {
        seen += u64::from(*count);
        2 * seen > all
    })
}

/// Twice to four times what is counted under this power of two; `None` is more than there is time.
fn much_longer(power: usize) -> Option<u64> {
    1_u64.checked_shl(u32::try_from(power).ok()? + 2)
}

impl Job {
    /// After how many milliseconds a lease is late: twice to four times what is usual of most providers, once
    /// that is known. Until then it is what the plan says, so that one that never delivers does
    /// not hold up a job of few shards.
    pub(super) fn late(&self) -> u64 {
        let usual = self.pace.usual(self.load.len()).and_then(much_longer);
        usual.unwrap_or(self.plan.first_patience)
    }

    /// After how many milliseconds an auditor is late: twice to four times what the longest result took, and
    /// no sooner than the plan says for the first. It is not the usual time: of those who are honest
    /// half take longer than that, and none of them is to be passed over for it.
    pub(super) fn late_for_audits(&self) -> u64 {
        let longest = self.pace.longest;
        let longest = longest.map_or(0, |power| much_longer(power).unwrap_or(u64::MAX));
        let patience = longest.max(self.plan.first_patience);
        patience.min(self.plan.patience)
    }
}
