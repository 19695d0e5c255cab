//! The books of a job at the requester: what is held for it, what is paid, what comes back, and
//! who has the proof of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use skep_evidence::{AccountId, AccountKey, Agreed, Credits, Keys, Receipt, Signed};
use skep_market::{DISPUTE, Event, Operation, Posted};
use skep_registry::Digest;
use skep_swarm::Swarm;

use super::super::{failed, money, now, talk};
use super::{Driver, Happened};
use crate::failure::{Failure, FailureKind};

/// How long providers that have gone are waited for at the end, to have their receipts.
const PROOFS: Duration = Duration::from_secs(15);
/// How long the books rest: what is delivered meanwhile is paid and put together in one go.
const BOOKS: Duration = Duration::from_millis(100);

/// When the books of a job are kept: where shards take milliseconds, the disk is waited for once for many of them and
/// not for each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Books {
    /// When something was last paid or put together, unless the next is not to wait for that.
    kept: Option<Instant>,
}

impl Books {
    /// For how long they rest from `now` on. Those of a job that is over do not.
    fn rest(&self, now: Instant, is_over: bool) -> Duration {
        match self.kept {
            Some(kept) if !is_over => BOOKS.saturating_sub(now.saturating_duration_since(kept)),
            _ => Duration::ZERO,
        }
    }

    /// Something was paid or put together.
    pub(super) fn keep(&mut self, now: Instant) {
        self.kept = Some(now);
    }

    /// What comes next does not wait.
    pub(super) fn hurry(&mut self) {
        self.kept = None;
    }
}

impl Driver {
    /// For how long nothing is paid and put together, though something may have been delivered; that is in the
    /// journal all the same. At the end of a job nothing waits.
    pub(super) fn books_rest(&self) -> Duration {
        let is_over = self.job.finished() == self.job.plan().shards;
        self.books
            .rest(Instant::now(), is_over || self.job.gave_up().is_some())
    }

    /// Holds what the job may cost. Once is as good as twice. The number of the entry that does, before which no lease
    /// of the job was made out; none if the job costs nothing.
    pub(super) fn fund(&self) -> Result<Option<u64>, Failure> {
        let amount = Credits::from_micro(self.spec.budget);
        if amount == Credits::ZERO {
            return Ok(None);
        }
        let escrow = Operation::Escrow {
            id: self.entry("escrow"),
            job: self.spec.job,
            requester: self.account.id(),
            amount,
        };
        let posted = money::post(&self.service, &escrow)?
            .map_err(|error| Failure::of(FailureKind::Refused, &error))?;
        let (Posted::New { sequence } | Posted::Already { sequence }) = posted;
        Ok(Some(sequence))
    }

    /// Gives back what is left.
    pub(super) fn refund(&self) -> Result<(), Failure> {
        if self.spec.budget == 0 {
            return Ok(());
        }
        let refund = Operation::Refund {
            id: self.entry("refund"),
            job: self.spec.job,
        };
        match money::post(&self.service, &refund)? {
            // All of it was spent.
            Ok(_) | Err(skep_market::PostError::Nothing) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Sees to it that what those have at stake here who get these leases stays there until nobody can dispute them any
    /// more. Once is as good as twice. Who has nothing at stake now was given nothing for it either.
    pub(super) fn bind(&mut self, events: &[Event]) -> Result<(), Failure> {
        let given = events.iter().filter_map(|event| match event {
            Event::Leased { provider, .. } => Some(*provider),
            _ => None,
        });
        self.bind_all(given.collect(), None)
    }

    /// The same for leases that were given before, by a version of skep that bound nobody, and can still be disputed.
    /// It binds those of whom the ledger shows that they had something at stake at that time: since before the credits
    /// of the job were put aside, which is entry `funded`, and ever since. Where there is no such entry nothing is
    /// shown.
    pub(super) fn bind_earlier(&mut self, funded: Option<u64>) -> Result<(), Failure> {
        let is_over = now() >= self.spec.deadline.saturating_add(DISPUTE);
        match funded {
            Some(funded) if !is_over => self.bind_all(self.job.disputable(), Some(funded)),
            _ => Ok(()),
        }
    }

    /// Binds those of these accounts that have something at stake, and had before that entry, if one is given.
    fn bind_all(&mut self, given: BTreeSet<AccountId>, before: Option<u64>) -> Result<(), Failure> {
        let new: BTreeSet<AccountId> = given
            .into_iter()
            .filter(|provider| !self.bound.contains(provider))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let (job, until) = (self.spec.job, self.spec.deadline.saturating_add(DISPUTE));
        let bound = money::with_ledger(&self.service, |ledger| {
            let has_stake = |account: &AccountId| {
                let since = ledger.staked_since(*account);
                since.is_some_and(|since| before.is_none_or(|before| since < before))
            };
            let staked: Vec<AccountId> = new.into_iter().filter(has_stake).collect();
            let bind = |account: &AccountId| Operation::Bind {
                job,
                account: *account,
                until,
            };
            let operations: Vec<Operation<'_>> = staked.iter().map(bind).collect();
            if !operations.is_empty() {
                for posted in ledger.post(&operations).map_err(failed)? {
                    posted.map_err(failed)?;
                }
            }
            Ok(staked)
        })?;
        self.bound.extend(bound);
        Ok(())
    }

    fn entry(&self, what: &str) -> Digest {
        Digest::of(&[what.as_bytes(), self.spec.job.as_bytes()].concat())
    }

    /// Pays receipts out of what is held for the job, and keeps them for those who are away.
    pub(super) fn pay(&self, receipts: &[Agreed<Receipt>]) -> Result<(), Failure> {
        if receipts.is_empty() {
            return Ok(());
        }
        let dear = receipts
            .iter()
            .filter(|receipt| receipt.price > Credits::ZERO);
        let releases: Vec<Operation<'_>> = dear.map(Operation::Release).collect();
        for posted in money::post_all(&self.service, &releases)? {
            posted.map_err(failed)?;
        }
        tokio::task::block_in_place(|| self.dealings.keep(receipts)).map_err(failed)
    }

    /// Gives providers the receipts that both have signed, as far as they can be reached: to each one
    /// message at a time, with all that has come together by then.
    pub(super) fn hand_over(&mut self, swarm: &Swarm) {
        let mut of_each: BTreeMap<AccountId, Vec<Agreed<Receipt>>> = BTreeMap::new();
        for receipt in std::mem::take(&mut self.proofs) {
            of_each.entry(receipt.provider).or_default().push(receipt);
        }
        for (provider, mut receipts) in of_each {
            let node = self.quotes.get(&provider).map(|(node, _)| node.clone());
            let Some(node) = node.filter(|_| !self.handing.contains(&provider)) else {
                self.proofs.extend(receipts);
                continue;
            };
            let rest = receipts.split_off(talk::together(&receipts));
            self.proofs.extend(rest);
            self.handing.insert(provider);
            let swarm = swarm.clone();
            self.tasks.spawn(async move {
                let settled = talk::settle(&swarm, &node, &receipts).await;
                Happened::Settled(provider, receipts, settled)
            });
        }
    }

    /// Whether every provider has its proofs, or was waited for long enough after the end.
    pub(super) fn have_proofs(&mut self) -> bool {
        let since = *self.patience.get_or_insert_with(Instant::now);
        let all = self.proofs.is_empty() && self.handing.is_empty();
        all || since.elapsed() >= PROOFS
    }
}

/// A receipt with this side's signature.
pub(super) fn countersigned(
    receipt: &[u8],
    account: &AccountKey,
    keys: &mut Keys,
) -> Result<Agreed<Receipt>, Failure> {
    let receipt = Signed::<Receipt>::decode(receipt, keys).map_err(failed)?;
    receipt.accept(account).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millisecond: u64, begun: Instant) -> Instant {
        begun + Duration::from_millis(millisecond)
    }

    #[test]
    fn books_are_kept_ten_times_a_second_however_many_results_there_are() {
        let begun = Instant::now();
        let mut books = Books::default();
        let mut kept = Vec::new();
        // A result in each millisecond.
        for millisecond in 0..3_000 {
            let now = at(millisecond, begun);
            if books.rest(now, false).is_zero() {
                books.keep(now);
                kept.push(millisecond);
            }
        }
        let expected: Vec<u64> = (0..30).map(|time| 100 * time).collect();
        assert_eq!(kept, expected);
    }

    #[test]
    fn no_rest_is_longer_than_that_and_there_is_none_at_the_end_of_a_job() {
        let begun = Instant::now();
        let mut books = Books::default();
        assert_eq!(books.rest(begun, false), Duration::ZERO);
        books.keep(begun);
        let rest =
            |books: &Books, millisecond| books.rest(at(millisecond, begun), false).as_millis();
        assert_eq!([0, 40, 99].map(|time| rest(&books, time)), [100, 60, 1]);
        assert_eq!([100, 5_000].map(|time| rest(&books, time)), [0, 0]);
        assert_eq!(books.rest(begun, true), Duration::ZERO);
        books.hurry();
        assert_eq!(books.rest(begun, false), Duration::ZERO);
    }
}
