//! What requesters owe for work that nothing is signed for: of what came to nothing a while ago, because they
//! called it off or it failed. It is what it used until then, at the prices of its lease, and not the lease's
//! limit: honest requesters call shards off as well, when somebody else was faster, and most allow for far more
//! than a shard takes. What is at work counts once it has come to something or to nothing: nobody can pay it before,
//! and there is no more of it than this node works on at once.
//!
//! It is in memory. Nobody who asks for work can have this node's process end, and what ended with the process
//! came to nothing by no fault of who asked for it.
//!
//! # What it must never do
//!
//! - Grow: what is over is forgotten after a while, and before that if there is too much of it.
//! - Count what is signed, which is owed on disk, nor against other leases what was done of the same lease before
//!   or after, which that one receipt pays.
//! - Count what came to nothing by a fault of this node.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_evidence::{AccountId, Agreed, Credits, Lease, Meter, Receipt, Tariff, Unverified};
use skep_market::{EarningsError, Finished, Refusal};
use skep_registry::Digest;
use skep_sandbox::Used;
use tokio::time::Instant;

use super::super::now;
use super::fault::Fault;
use super::{DAY, Desk, Stop};

/// How long what came to nothing counts.
const WHILE: Duration = Duration::from_secs(60 * 60);
/// How many runs are remembered.
const MOST: usize = 4096;
/// How often a lease may be asked for again before what it took then counts against itself: a requester that
/// was killed does so.
const AGAIN: usize = 3;

/// The work that nothing is signed for.
#[derive(Clone, Default)]
pub(super) struct Begun(Arc<Mutex<Runs>>);

#[derive(Default)]
struct Runs {
    /// How many there were ever.
    count: u64,
    all: Vec<Run>,
}

/// The work of a lease.
struct Run {
    number: u64,
    lease: Digest,
    requester: AccountId,
    tariff: Tariff,
    limit: Credits,
    bytes: u64,
    used: Used,
    /// Whether a receipt is signed for its lease, so that it counts against nothing but this lease.
    is_signed: bool,
    /// When it came to nothing, if it is not at work.
    ended: Option<Instant>,
}

impl Run {
    /// What it costs so far.
    fn price(&self) -> Credits {
        let meter = Meter {
            tokens: self.used.tokens(),
            flops: self.used.flops(),
            bytes: self.bytes,
            residency: 0,
        };
        let price = self.tariff.price(&meter).unwrap_or(Credits::MAX);
        price.min(self.limit)
    }
}

/// Work that is done, until this is dropped.
pub(super) struct AtWork {
    of: Begun,
    number: u64,
}

impl AtWork {
    /// Its lease is done, and signed for: that is what is owed from now on, however often it was begun.
    pub(super) fn signed(self) {
        let mut runs = self.of.runs();
        let place = runs.all.iter().position(|run| run.number == self.number);
        // Of one that is done once more it is kept how often that was.
        let Some(place) = place.filter(|place| !runs.all[*place].is_signed) else {
            return;
        };
        let lease = runs.all.remove(place).lease;
        let its = |run: &&mut Run| run.lease == lease;
        for run in runs.all.iter_mut().filter(its) {
            run.is_signed = true;
        }
    }

    /// It came to nothing by a fault of this node, and is owed by nobody.
    pub(super) fn failed_here(self) {
        self.of.runs().all.retain(|run| run.number != self.number);
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut runs = self.of.runs();
        let mut all = runs.all.iter_mut();
        if let Some(run) = all.find(|run| run.number == self.number) {
            run.ended = Some(Instant::now());
        }
    }
}

impl Begun {
    /// What a requester owes that wants to have this lease done, of what is not at work. What the lease itself
    /// took before is left out, unless it was asked for again and again.
    fn owed(&self, requester: AccountId, lease: Digest) -> Credits {
        let mut runs = self.runs();
        runs.forget();
        let is_its = |run: &&Run| run.requester == requester && run.ended.is_some();
        let own = runs.all.iter().filter(|run| run.lease == lease).count();
        let counts = |run: &&Run| match run.lease == lease {
            true => own > AGAIN,
            false => !run.is_signed,
        };
        let counted = runs.all.iter().filter(is_its).filter(counts);
        counted.fold(Credits::ZERO, |sum, run| {
            sum.checked_add(run.price()).unwrap_or(Credits::MAX)
        })
    }

    /// The work of a lease begins, with an input of so many bytes; what it uses is seen in `used`. Of one that
    /// `is_signed` it is done once more.
    pub(super) fn begin(
        &self,
        lease: &Agreed<Lease>,
        bytes: u64,
        used: Used,
        is_signed: bool,
    ) -> AtWork {
        let mut runs = self.runs();
        runs.forget();
        let number = runs.count;
        runs.count += 1;
        runs.all.push(Run {
            number,
            lease: lease.digest(),
            requester: lease.requester,
            tariff: lease.tariff,
            limit: lease.limit,
            bytes,
            used,
            is_signed,
            ended: None,
        });
        let of = self.clone();
        AtWork { of, number }
    }

    fn runs(&self) -> MutexGuard<'_, Runs> {
        // The list is whole after every statement, so a poisoned lock is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runs {
    /// Forgets what has counted long enough, and the oldest where there is no room for one more. Those at
    /// work stay: there are no more than the node works on at once.
    fn forget(&mut self) {
        let counts = |run: &Run| run.ended.is_none_or(|ended| ended.elapsed() < WHILE);
        self.all.retain(counts);
        while self.all.len() >= MOST {
            let over = self.all.iter().position(|run| run.ended.is_some());
            let Some(over) = over else {
                return;
            };
            self.all.remove(over);
        }
    }
}

impl Desk {
    /// Whether a lease may be worked on that takes so long: by what became of it before, and by what its
    /// requester owes. One that was done is done once more for a requester that has nothing of it, as long as
    /// that may wait for it.
    pub(super) fn trust(&self, lease: &Agreed<Lease>, time: Duration) -> Result<(), Stop> {
        let (digest, yesterday) = (lease.digest(), now().saturating_sub(DAY));
        let found = tokio::task::block_in_place(|| {
            let earnings = &self.earnings;
            let signed = earnings.finished(digest)?;
            let unpaid = earnings.unpaid(lease.requester, yesterday)?;
            Ok::<_, EarningsError>((earnings.is_paid(digest)?, signed, unpaid))
        });
        let (is_paid, signed, mut unpaid) = found.map_err(Fault::from)?;
        if is_paid {
            let reason = "its receipt has come back, and nothing more is done for it";
            return Err(Refusal::Lease(reason.to_owned()).into());
        }
        if let Some(signed) = signed {
            let receipt = receipt_of(&signed)?;
            let receipt = receipt.claimed();
            if is_over(receipt.finished, time, now()) {
                let reason = "it was done, and so long ago that nobody waits for it any more";
                return Err(Refusal::Lease(reason.to_owned()).into());
            }
            // It cannot be paid before it is delivered.
            if receipt.finished >= yesterday {
                unpaid = unpaid.checked_sub(receipt.price).unwrap_or(Credits::ZERO);
            }
        }
        let begun = self.begun.owed(lease.requester, digest);
        let owed = unpaid.checked_add(begun).unwrap_or(Credits::MAX);
        Ok(self.policy.trust(owed)?)
    }
}

/// Whether nobody waits any more for what was signed then under a lease that takes so long. Both times are in
/// milliseconds, by this node's clock.
fn is_over(signed: u64, time: Duration, now: u64) -> bool {
    let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    signed.saturating_add(time) < now
}

/// The receipt that was signed, which is this node's own.
pub(super) fn receipt_of(signed: &Finished) -> Result<Unverified<Receipt>, Stop> {
    let receipt = Unverified::<Receipt>::decode(&signed.receipt);
    Ok(receipt.map_err(Fault::from)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::time::advance;

    use super::super::testing::{key, lease};
    use super::*;

    fn owed(begun: &Begun, requester: u8) -> u64 {
        let other = Digest::of(b"another lease");
        begun.owed(key(requester).id(), other).micro()
    }

    impl Begun {
        /// The work of a lease begins that nothing is signed for.
        fn first(&self, lease: &Agreed<Lease>, bytes: u64) -> AtWork {
            self.begin(lease, bytes, Used::default(), false)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_begun_counts_for_a_while_once_it_came_to_nothing() {
        let begun = Begun::default();
        let first = begun.first(&lease(2, 0, 1_000), 30);
        let second = begun.first(&lease(2, 1, 1_000), 4);
        // Nobody can pay for what is at work, however long it is.
        assert_eq!((owed(&begun, 2), owed(&begun, 3)), (0, 0));
        advance(2 * WHILE).await;
        first.signed();
        assert_eq!(owed(&begun, 2), 0);
        drop(second);
        assert_eq!((owed(&begun, 2), owed(&begun, 3)), (4, 0));
        advance(WHILE - Duration::from_secs(1)).await;
        assert_eq!(owed(&begun, 2), 4);
        advance(Duration::from_secs(1)).await;
        assert_eq!(owed(&begun, 2), 0);
        // No lease costs more than its limit.
        drop(begun.first(&lease(2, 2, 7), 100));
        assert_eq!(owed(&begun, 2), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_asked_for_again_and_again_counts_against_itself() {
        let begun = Begun::default();
        let lease = lease(2, 0, 1_000);
        let own = || begun.owed(lease.requester, lease.digest()).micro();
        for run in 0..=AGAIN {
            assert_eq!(own(), 0, "{run}");
            drop(begun.first(&lease, 10));
        }
        assert_eq!(own(), 10 * (AGAIN as u64 + 1));
        // Against others it counted from the first time on.
        assert_eq!(owed(&begun, 2), own());
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_lease_that_is_signed_nothing_counts_against_another() {
        let begun = Begun::default();
        let lease = lease(2, 0, 1_000);
        // Its requester was gone in the middle, came back, and was killed before it had the result.
        drop(begun.first(&lease, 10));
        assert_eq!(owed(&begun, 2), 10);
        begun.first(&lease, 10).signed();
        assert_eq!(owed(&begun, 2), 0);
        begun.begin(&lease, 10, Used::default(), true).signed();
        let own = || begun.owed(lease.requester, lease.digest()).micro();
        for _ in 0..2 {
            assert_eq!(own(), 0);
            drop(begun.begin(&lease, 10, Used::default(), true));
        }
        assert_eq!(owed(&begun, 2), 0);
        // It is not done for ever for one receipt.
        assert_eq!(own(), 10 * (AGAIN as u64 + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_by_a_fault_of_the_node_is_owed_by_nobody() {
        let begun = Begun::default();
        let [one, other] = [0, 1].map(|shard| lease(2, shard, 1_000));
        drop(begun.first(&one, 10));
        begun.first(&other, 10).failed_here();
        assert_eq!(owed(&begun, 2), 10);
        assert_eq!(begun.runs().all.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn of_what_came_to_nothing_no_more_is_remembered_than_there_is_room_for() {
        let begun = Begun::default();
        let (one, other) = (lease(2, 0, 1_000), lease(3, 0, 1_000));
        let at_work = begun.first(&one, 5);
        drop(begun.first(&one, 30));
        for _ in 0..MOST {
            drop(begun.first(&other, 1));
        }
        assert_eq!(begun.runs().all.len(), MOST);
        assert_eq!(owed(&begun, 2), 0, "the oldest is forgotten");
        drop(at_work);
        assert_eq!(owed(&begun, 2), 5, "what was at work stayed");
    }

    #[test]
    fn nobody_waits_for_longer_than_a_lease_takes() {
        let time = Duration::from_secs(60);
        let over = [60_999, 61_000, 61_001].map(|now| is_over(1_000, time, now));
        assert_eq!(over, [false, false, true]);
        assert!(!is_over(u64::MAX, Duration::MAX, u64::MAX));
    }
}
