//! What was made and signed for, until its receipt comes back: a requester that has no room for it when it is
//! sent, or is ended meanwhile, asks for the same lease again and is handed the same, and nothing is made anew.
//! Some work would not even give the same bytes again.
//!
//! It is in memory, for a few minutes and within a bound that all share. Beyond either a lease is worked on once
//! more, as one of which this process knows nothing.
//!
//! # What it must never do
//!
//! - Be on any disk.
//! - Hold anything for longer than its time, or after its receipt has come back.
//! - Grow beyond its bound, whatever is made for whomever.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use skep_market::Finished;
use skep_registry::Digest;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// How long it is there: who finds no room for it, or was ended, comes again within seconds.
const WHILE: Duration = Duration::from_secs(5 * 60);
/// The most bytes of all: twice the most that an output has where its owner says nothing else.
const MOST: usize = 128 << 20;
/// What one takes beside its output, at the most: what is signed for it, and its place here. Outputs may have no byte.
const AROUND: usize = 4 << 10;

/// What was made under a lease.
pub(super) struct Product {
    /// What is signed for it.
    pub(super) signed: Finished,
    /// How many bytes the output has.
    pub(super) output_bytes: usize,
    /// The output, and behind it what is shown of its texts.
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

/// What was made and has not been paid for, as far as it is here.
#[derive(Clone)]
pub(super) struct Untaken {
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

/// A product, and until when it is here.
struct Kept {
    lease: Digest,
    until: Instant,
    product: Arc<Product>,
}

impl Untaken {
    /// Keeps what was made under a lease for its time. Where there is no room for it, the oldest go; what is
    /// larger than all of the room is not kept.
    pub(super) fn keep(&self, lease: Digest, product: &Arc<Product>) {
        let until = Instant::now() + WHILE;
        {
            let mut all = self.all();
            all.kept.retain(|kept| kept.lease != lease);
            let bytes = bytes_of(product);
            if bytes > self.most {
                return;
            }
            while bytes + all.kept.iter().map(Kept::bytes).sum::<usize>() > self.most {
                all.kept.remove(0);
            }
            all.kept.push(Kept {
                lease,
                until,
                product: Arc::clone(product),
            });
            // One is enough for all, however many there are.
            if std::mem::replace(&mut all.is_watched, true) {
                return;
            }
        }
        tokio::spawn(watch(Arc::downgrade(&self.all), until));
    }

    /// What was made under a lease, if it is still here.
    pub(super) fn of(&self, lease: Digest) -> Option<Arc<Product>> {
        let all = self.all();
        let kept = all.kept.iter().find(|kept| kept.lease == lease);
        kept.map(|kept| Arc::clone(&kept.product))
    }

    /// Lets go of what was made under these leases, whose receipts have come back.
    pub(super) fn forget(&self, leases: &[Digest]) {
        let is_left = |kept: &Kept| !leases.contains(&kept.lease);
        self.all().kept.retain(is_left);
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

impl Kept {
    fn bytes(&self) -> usize {
        bytes_of(&self.product)
    }
}

/// What a product takes of the room.
fn bytes_of(product: &Product) -> usize {
    product.bytes.len().saturating_add(AROUND)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn lease(number: u8) -> Digest {
        Digest::of(&[number])
    }

    fn product(bytes: usize) -> Arc<Product> {
        Arc::new(Product {
            signed: Finished {
                commitment: Vec::new(),
                receipt: Vec::new(),
            },
            output_bytes: bytes,
            bytes: Zeroizing::new(vec![0; bytes]),
        })
    }

    fn of_room(most: usize) -> Untaken {
        Untaken {
            most,
            ..Untaken::default()
        }
    }

    /// Which of the first so many are here.
    fn here(untaken: &Untaken, count: u8) -> Vec<u8> {
        let numbers = (0..count).filter(|number| untaken.of(lease(*number)).is_some());
        numbers.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_came_for_in_time_is_gone_from_memory() {
        let untaken = Untaken::default();
        let first = product(10);
        let is_held = Arc::downgrade(&first);
        untaken.keep(lease(0), &first);
        drop(first);
        tokio::time::sleep(WHILE / 2).await;
        untaken.keep(lease(1), &product(10));
        // Looked at once more, it is there for no longer.
        assert_eq!(untaken.of(lease(0)).unwrap().output_bytes, 10);
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
            untaken.keep(lease(number), &product(10));
        }
        untaken.forget(&[lease(0), lease(2), lease(7)]);
        assert_eq!(here(&untaken, 3), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn however_much_is_made_there_is_no_more_of_it_than_its_room() {
        let untaken = of_room(2 * AROUND + 100);
        untaken.keep(lease(0), &product(50));
        untaken.keep(lease(1), &product(50));
        assert_eq!(here(&untaken, 4), [0, 1]);
        // The same again takes no more.
        untaken.keep(lease(0), &product(50));
        assert_eq!(here(&untaken, 4), [0, 1]);
        untaken.keep(lease(2), &product(1));
        assert_eq!(here(&untaken, 4), [0, 2], "the oldest went");
        // What has no room at all sends nobody away.
        untaken.keep(lease(3), &product(AROUND + 101));
        assert_eq!(here(&untaken, 4), [0, 2]);
        untaken.keep(lease(3), &product(AROUND + 100));
        assert_eq!(here(&untaken, 4), [3]);
    }

    #[tokio::test(start_paused = true)]
    async fn nor_is_there_more_where_nothing_comes_out_than_there_is_room_for_what_is_signed() {
        let untaken = of_room(3 * AROUND);
        for number in 0..20 {
            untaken.keep(lease(number), &product(0));
        }
        assert_eq!(here(&untaken, 20), [17, 18, 19]);
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
            untaken.keep(lease(number), &product(10));
            untaken.forget(&[lease(number)]);
        }
        assert_eq!(waiting(), before + 1);
        // It ends when nothing is left, and the next is watched anew.
        tokio::time::sleep(WHILE + Duration::from_millis(10)).await;
        assert_eq!(waiting(), before);
        untaken.keep(lease(0), &product(10));
        tokio::time::sleep(WHILE + Duration::from_millis(10)).await;
        assert!(here(&untaken, 1).is_empty());
    }
}
