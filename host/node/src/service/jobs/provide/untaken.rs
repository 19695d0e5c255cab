//! What was made and signed for, until its receipt comes back: a requester that has no room for it when it is
//! sent, or is ended meanwhile, asks for the same lease again and is handed the same, and nothing is made anew.
//! Some work would not even give the same bytes again.
//!
//! It is in memory, for a few minutes and within a bound that all share: where there is no room for more, something
//! of whoever has most goes, so that who has much made loses its own before that of others. And it is handed over again
//! so many times and no more, for that costs whoever asks nothing. Beyond any of these a lease is worked on once more,
//! as one of which this process knows nothing, and what is worked on again and again is owed.
//!
//! # What it must never do
//!
//! - Be on any disk.
//! - Hold anything for longer than its time, or after its receipt has come back.
//! - Grow beyond its bound, whatever is made for whomever.
//! - Send the same without end to one that does not pay for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use skep_evidence::AccountId;
use skep_market::{Earnings, Finished};
use skep_registry::Digest;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// How long it is there: who finds no room for it, or was ended, comes again within seconds.
const WHILE: Duration = Duration::from_secs(5 * 60);
/// The most bytes of all: twice the most that an output has where its owner says nothing else.
const MOST: usize = 128 << 20;
/// What each takes of that at least, so that there are not too many that are small, with what is signed for them.
const LEAST: usize = 128 << 10;
/// How often one is handed over again. It is what was sent that counts: who has no room for it takes a part of it,
/// every few seconds, until it has.
const AGAIN: u64 = 8;

/// What was made under a lease.
pub(super) struct Product {
    /// What is signed for it.
    pub(super) signed: Finished,
    /// How many bytes the output has.
    pub(super) output_bytes: usize,
    /// The output, and behind it what is shown of its texts.
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// How many bytes of it were sent, and for each time that it was handed over [`LEAST`] besides.
    pub(super) sent: AtomicU64,
}

impl Product {
    /// What is about to be handed over for the first time.
    pub(super) fn new(signed: Finished, output_bytes: usize, bytes: Zeroizing<Vec<u8>>) -> Self {
        Self {
            signed,
            output_bytes,
            bytes,
            sent: AtomicU64::new(LEAST as u64),
        }
    }

    /// Whether it was sent as often as any is.
    fn is_spent(&self) -> bool {
        let whole = (self.bytes.len() + LEAST) as u64;
        self.sent.load(Ordering::Relaxed) >= whole.saturating_mul(1 + AGAIN)
    }
}

/// What was made and has not been paid for, as far as it is here.
#[derive(Clone)]
pub(in super::super) struct Untaken {
    all: Arc<Mutex<All>>,
    /// The most bytes of all.
    most: usize,
}

impl Default for Untaken {
    fn default() -> Self {
        let (all, most) = (Arc::default(), MOST);
        Self { all, most }
    }
}

/// All that is here.
#[derive(Default)]
struct All {
    /// The oldest come first.
    kept: Vec<Kept>,
    /// Whether somebody waits for the time of the oldest to be over.
    is_watched: bool,
}

/// A product, whose it is, and until when it is here.
struct Kept {
    lease: Digest,
    requester: AccountId,
    until: Instant,
    product: Arc<Product>,
}

impl Untaken {
    /// Keeps what was made under a lease of this requester for its time. Where there is no room for it, others go;
    /// what is larger than all of the room is not kept.
    pub(super) fn keep(&self, lease: Digest, requester: AccountId, product: &Arc<Product>) {
        let until = Instant::now() + WHILE;
        let new = Kept {
            lease,
            requester,
            until,
            product: Arc::clone(product),
        };
        {
            let mut all = self.all();
            all.kept.retain(|kept| kept.lease != lease);
            if new.bytes() > self.most {
                return;
            }
            while new.bytes() + all.kept.iter().map(Kept::bytes).sum::<usize>() > self.most {
                let first = first_to_go(&all.kept, &new);
                all.kept.remove(first);
            }
            all.kept.push(new);
            // One is enough for all, however many there are.
            if std::mem::replace(&mut all.is_watched, true) {
                return;
            }
        }
        tokio::spawn(watch(Arc::downgrade(&self.all), until));
    }

    /// Keeps what was made under a lease unless that is paid already, as one may be that is done once more, by what
    /// was made of it before. Looks that up on the disk.
    pub(super) fn keep_unpaid(
        &self,
        earnings: &Earnings,
        lease: Digest,
        requester: AccountId,
        product: &Arc<Product>,
    ) {
        self.keep(lease, requester, product);
        // A receipt that comes from now on lets go of it, and one that came before is seen. Where that cannot be read,
        // there may be one.
        if !matches!(earnings.is_paid(lease), Ok(false)) {
            self.forget(&[lease]);
        }
    }

    /// What was made under a lease, if it is still here, to be handed over once more. What was sent as often as any is
    /// goes.
    pub(super) fn once_more(&self, lease: Digest) -> Option<Arc<Product>> {
        let mut all = self.all();
        let place = all.kept.iter().position(|kept| kept.lease == lease)?;
        if all.kept[place].product.is_spent() {
            all.kept.remove(place);
            return None;
        }
        let product = Arc::clone(&all.kept[place].product);
        product.sent.fetch_add(LEAST as u64, Ordering::Relaxed);
        Some(product)
    }

    /// Lets go of what was made under these leases, whose receipts have come back.
    pub(in super::super) fn forget(&self, leases: &[Digest]) {
        self.all().kept.retain(|kept| !leases.contains(&kept.lease));
    }

    fn all(&self) -> MutexGuard<'_, All> {
        lock(&self.all)
    }
}

/// Lets go of each when its time is over, the first of them then, until none is left.
async fn watch(all: Weak<Mutex<All>>, mut until: Instant) {
    loop {
        tokio::time::sleep_until(until).await;
        let Some(all) = all.upgrade() else {
            return;
        };
        let mut all = lock(&all);
        let now = Instant::now();
        all.kept.retain(|kept| kept.until > now);
        match all.kept.first() {
            Some(oldest) => until = oldest.until,
            None => {
                all.is_watched = false;
                return;
            }
        }
    }
}

fn lock(all: &Mutex<All>) -> MutexGuard<'_, All> {
    // The list is whole after every statement, so a poisoned lock is still good.
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which of these goes for a new one: the oldest of whoever has most here, of those that have something. What is
/// new counts as well.
fn first_to_go(all: &[Kept], new: &Kept) -> usize {
    let mut of_each: BTreeMap<AccountId, usize> = BTreeMap::new();
    for kept in all.iter().chain([new]) {
        *of_each.entry(kept.requester).or_default() += kept.bytes();
    }
    let has = |place: &usize| of_each.get(&all[*place].requester).copied();
    // Of those that are as good, `max_by_key` takes the last.
    (0..all.len()).rev().max_by_key(has).unwrap_or(0)
}

impl Kept {
    /// What it takes of the room.
    fn bytes(&self) -> usize {
        self.product.bytes.len().max(LEAST)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use skep_evidence::{Agreed, Lease, Meter};
    use skep_market::{Done, Owed, conclude};

    use super::super::super::collect;
    use super::super::testing::{key, lease as made_out};
    use super::*;

    fn lease(number: u8) -> Digest {
        Digest::of(&[number])
    }

    fn product(bytes: usize) -> Arc<Product> {
        let signed = Finished {
            commitment: Vec::new(),
            receipt: Vec::new(),
        };
        let made = Zeroizing::new(vec![0; bytes]);
        Arc::new(Product::new(signed, bytes, made))
    }

    impl Product {
        /// Sends so many bytes of it.
        fn sends(&self, bytes: usize) {
            self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    impl Untaken {
        /// With room for so many of the smallest.
        fn with_room(count: usize) -> Self {
            Self {
                most: count * LEAST,
                ..Self::default()
            }
        }

        fn has(&self, lease: Digest) -> bool {
            self.all().kept.iter().any(|kept| kept.lease == lease)
        }

        /// Keeps what takes as much room as so many of the smallest, for the requester with this seed.
        fn keep_for(&self, requester: u8, number: u8, count: usize) {
            let product = product(count * LEAST);
            self.keep(lease(number), key(requester).id(), &product);
        }
    }

    /// Which of the first so many are here.
    fn here(untaken: &Untaken, count: u8) -> Vec<u8> {
        let numbers = (0..count).filter(|number| untaken.has(lease(*number)));
        numbers.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_came_for_in_time_is_gone_from_memory() {
        let untaken = Untaken::default();
        let first = product(10);
        let is_held = Arc::downgrade(&first);
        untaken.keep(lease(0), key(2).id(), &first);
        drop(first);
        tokio::time::sleep(WHILE / 2).await;
        untaken.keep(lease(1), key(2).id(), &product(10));
        // Looked at once more, it is there for no longer.
        assert_eq!(untaken.once_more(lease(0)).unwrap().output_bytes, 10);
        tokio::time::sleep(WHILE / 2 + Duration::from_millis(10)).await;
        assert!(is_held.upgrade().is_none(), "nobody asked for it");
        assert_eq!(here(&untaken, 2), [1]);
        tokio::time::sleep(WHILE / 2).await;
        assert!(here(&untaken, 2).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_paid_for_is_let_go_of() {
        let untaken = Untaken::default();
        for number in 0..3 {
            untaken.keep_for(2, number, 1);
        }
        untaken.forget(&[lease(0), lease(2), lease(7)]);
        assert_eq!(here(&untaken, 3), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_made_is_let_go_of_with_its_receipt_and_for_no_other_reason() {
        let folder = tempfile::tempdir().unwrap();
        let earnings = Earnings::open(&folder.path().join("earnings")).unwrap();
        let untaken = Untaken::default();
        let leases = [0, 1].map(|shard| made_out(2, shard, 1_000));
        let mut receipts = Vec::new();
        for lease in &leases {
            let done = Done {
                output: Digest::of(b"made"),
                meter: Meter {
                    bytes: 30,
                    ..Meter::default()
                },
                shown: None,
                sequence: earnings.number().unwrap(),
                nonce: [0; 32],
                started: 1,
                finished: 2,
            };
            let (commitment, receipt) = conclude(lease, &done, &key(1)).unwrap();
            let signed = Finished {
                commitment: commitment.encode(),
                receipt: receipt.encode(),
            };
            let owed = Owed {
                requester: lease.requester,
                price: receipt.price,
                since: 2,
                node: String::new(),
            };
            earnings.keep(lease.digest(), signed, &owed).unwrap();
            untaken.keep(lease.digest(), lease.requester, &product(10));
            receipts.push(receipt.accept(&key(2)).unwrap().encode());
        }
        let is_here = |lease: &Agreed<Lease>| untaken.has(lease.digest());
        let left = || leases.each_ref().map(is_here);
        let mut forged = receipts.clone();
        *forged[1].last_mut().unwrap() ^= 1;
        assert!(collect::settle(&earnings, &untaken, &forged).is_err());
        assert_eq!(left(), [true, true], "one of them is not paid");
        collect::settle(&earnings, &untaken, &receipts[..1]).unwrap();
        assert_eq!(left(), [false, true]);
        collect::settle(&earnings, &untaken, &receipts).unwrap();
        assert_eq!(left(), [false, false]);
        // One that was done once more is not kept if it was paid meanwhile, and is if it was not.
        let unpaid = made_out(2, 2, 1_000);
        for lease in [&leases[0], &unpaid] {
            untaken.keep_unpaid(&earnings, lease.digest(), lease.requester, &product(10));
        }
        assert_eq!(left(), [false, false]);
        assert!(is_here(&unpaid));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_paid_for_is_handed_over_again_so_often_and_no_more() {
        let untaken = Untaken::default();
        // However little it is, and however much.
        for bytes in [0, 10, LEAST, 4 * LEAST] {
            let made = product(bytes);
            let is_held = Arc::downgrade(&made);
            untaken.keep(lease(0), key(2).id(), &made);
            made.sends(bytes);
            drop(made);
            for time in 0..AGAIN {
                let again = untaken.once_more(lease(0));
                assert!(again.is_some(), "{bytes} bytes, after {time} times");
                again.unwrap().sends(bytes);
            }
            assert!(untaken.once_more(lease(0)).is_none(), "{bytes} bytes");
            assert!(!untaken.has(lease(0)) && is_held.upgrade().is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_no_room_for_it_may_ask_more_often_for_what_it_cannot_take() {
        let untaken = Untaken::default();
        // It is worth five of the smallest each time.
        untaken.keep_for(2, 0, 4);
        let times = std::iter::from_fn(|| untaken.once_more(lease(0))).count() as u64;
        assert_eq!(times, 5 * (1 + AGAIN) - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn however_much_is_made_there_is_no_more_of_it_than_its_room() {
        let untaken = Untaken::with_room(10);
        untaken.keep_for(2, 0, 5);
        untaken.keep_for(2, 1, 5);
        assert_eq!(here(&untaken, 4), [0, 1]);
        // The same again takes no more.
        untaken.keep_for(2, 0, 5);
        assert_eq!(here(&untaken, 4), [0, 1]);
        // However little it is, it takes some of the room.
        untaken.keep(lease(2), key(2).id(), &product(0));
        assert_eq!(here(&untaken, 4), [0, 2], "the oldest went");
        // What has no room at all sends nobody away.
        untaken.keep_for(2, 3, 11);
        assert_eq!(here(&untaken, 4), [0, 2]);
        untaken.keep_for(2, 3, 10);
        assert_eq!(here(&untaken, 4), [3]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_much_made_loses_its_own_before_that_of_others() {
        let untaken = Untaken::with_room(10);
        untaken.keep_for(2, 0, 4);
        for number in 1..6 {
            untaken.keep_for(3, number, 5);
            assert_eq!(here(&untaken, 6), [0, number]);
        }
        // Who has nothing here yet finds room, where whoever has most has it.
        untaken.keep_for(4, 6, 3);
        assert_eq!(here(&untaken, 7), [0, 6]);
        // And also for what is more than anybody else has.
        untaken.keep_for(5, 7, 7);
        assert_eq!(here(&untaken, 8), [6, 7]);
        // Of the same that several have, the oldest goes.
        let untaken = Untaken::with_room(3);
        for number in 0..4 {
            untaken.keep_for(2 + number, number, 1);
        }
        assert_eq!(here(&untaken, 4), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_are_made_and_paid_for_one_waits_for_their_time() {
        let untaken = Untaken::default();
        let waiting = || {
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks()
        };
        let before = waiting();
        for number in 0..20 {
            untaken.keep_for(2, number, 1);
            untaken.forget(&[lease(number)]);
        }
        assert_eq!(waiting(), before + 1);
        // It ends when nothing is left, and the next is watched anew.
        tokio::time::sleep(WHILE + Duration::from_millis(10)).await;
        assert_eq!(waiting(), before);
        untaken.keep_for(2, 0, 1);
        tokio::time::sleep(WHILE + Duration::from_millis(10)).await;
        assert!(here(&untaken, 1).is_empty());
    }
}
