//! How many bytes of shards this process has in memory at one moment, whatever others say and however slow
//! they are. What is on its way to the disk is for `coming`.
//!
//! # What it must never do
//!
//! - Let whoever is slow keep others waiting for longer than a frame may take: what is taken from a bound is
//!   given back before the other side is waited for any longer.
//! - Have anybody wait for one bound while it holds something of the same.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::coming::Coming;

/// The most bytes that one bound lets in.
const MOST: u32 = 256 << 20;

/// The bounds that all jobs of this process share.
#[derive(Debug, Default)]
pub struct Bounds {
    /// Pieces of inputs that are being sent.
    pub inputs: Bound,
    /// What came back and is not on disk yet.
    pub results: Bound,
    /// What is coming back into files.
    pub coming: Coming,
}

/// So many bytes, of which whoever takes some gives them back by dropping what it got.
#[derive(Debug)]
pub struct Bound {
    free: Arc<Semaphore>,
    most: u32,
}

impl Default for Bound {
    fn default() -> Self {
        Self::of(MOST)
    }
}

impl Bound {
    /// A bound of so many bytes.
    pub fn of(most: u32) -> Self {
        let free = Arc::new(Semaphore::new(most as usize));
        Self { free, most }
    }

    /// Waits until there is room for so many bytes, in the order of those who asked. Who needs more than there
    /// is takes all of it, and is alone with that. Whoever is called off while it waits leaves nothing taken.
    pub async fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.most);
        // It fails only where somebody closes it, which nobody does.
        Arc::clone(&self.free).acquire_many_owned(bytes).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;

    /// Counts how often somebody is told to look again.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Polls a future once: what it came to, if it did.
    macro_rules! poll {
        ($future:expr, $woken:expr) => {{
            let waker = Waker::from(Arc::clone(&$woken));
            match $future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(taken) => Some(taken),
                Poll::Pending => None,
            }
        }};
    }

    #[test]
    fn no_more_is_taken_than_there_is_and_what_is_given_back_wakes_the_next() {
        let bound = Bound::of(10);
        let woken = Arc::new(Woken::default());
        let mut first = pin!(bound.take(6));
        let first = poll!(first, woken).flatten();
        assert!(first.is_some());
        let mut second = pin!(bound.take(4));
        let second = poll!(second, woken).flatten();
        assert!(second.is_some());
        let mut third = pin!(bound.take(5));
        assert!(poll!(third, woken).is_none());
        // Four are not five.
        drop(second);
        assert!(poll!(third, woken).is_none());
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        drop(first);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        let third = poll!(third, woken).flatten();
        assert_eq!(third.map(|taken| taken.num_permits()), Some(5));
        // All of it is there again.
        let mut all = pin!(bound.take(10));
        assert!(poll!(all, woken).flatten().is_some());
    }

    #[test]
    fn who_needs_more_than_there_is_takes_all_of_it_and_nobody_overtakes_it() {
        let bound = Bound::of(10);
        let woken = Arc::new(Woken::default());
        let mut small = pin!(bound.take(1));
        let small = poll!(small, woken).flatten();
        assert!(small.is_some());
        let mut giant = pin!(bound.take(u64::MAX));
        assert!(poll!(giant, woken).is_none());
        let mut later = pin!(bound.take(1));
        assert!(poll!(later, woken).is_none(), "nine are free, and promised");
        drop(small);
        let giant = poll!(giant, woken).flatten();
        assert_eq!(giant.as_ref().map(|taken| taken.num_permits()), Some(10));
        assert!(poll!(later, woken).is_none());
        drop(giant);
        assert!(poll!(later, woken).flatten().is_some());
    }

    #[test]
    fn who_is_called_off_leaves_nothing_taken() {
        let bound = Bound::of(10);
        let woken = Arc::new(Woken::default());
        let mut first = pin!(bound.take(6));
        let first = poll!(first, woken).flatten();
        assert!(first.is_some());
        // It has been given what is free by the time that it goes.
        let mut waiting = Box::pin(bound.take(8));
        assert!(poll!(waiting, woken).is_none());
        let mut next = pin!(bound.take(4));
        assert!(poll!(next, woken).is_none());
        drop(waiting);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        let next = poll!(next, woken).flatten();
        assert!(next.is_some());
        drop(first);
        drop(next);
        assert_eq!(bound.free.available_permits(), 10);
    }
}
