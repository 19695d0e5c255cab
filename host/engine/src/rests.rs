//! How long the engine's thread computes nothing after a batch: to leave the processors to others that
//! want them, and to keep work of the background within its part of the time.
//!
//! What this module must never do: keep a text waiting that is not of the background.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Of the time that a batch takes, the engine leaves this part to others that want it.
const LEFT_TO_OTHERS: u32 = 16;

/// How often the engine looks whether they still do. Who only takes its piece of a text is done
/// with it in less.
const LOOK: Duration = Duration::from_micros(100);

/// The rests that others are owed.
#[derive(Debug, Default)]
pub struct Rests {
    /// Time that others have not been left yet.
    owed: Duration,
}

impl Rests {
    /// Rests after a batch that took so long, while `others` want the processors, if they did while it
    /// ran.
    pub fn give_way(&mut self, took: Duration, wanted: bool, others: impl Fn() -> bool) {
        if !wanted {
            self.owed = Duration::ZERO;
            return;
        }
        self.owed += took / LEFT_TO_OTHERS;
        // Shorter rests are no use to anybody.
        if self.owed < Duration::from_millis(1) {
            return;
        }
        let until = Instant::now() + std::mem::take(&mut self.owed);
        while others() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(LOOK));
        }
    }
}

/// What keeps work of the background within its part of the time. What a batch took for it, alone or
/// beside texts of others, has to be followed by as much time without it as makes that part.
#[derive(Debug, Default)]
pub struct Share {
    free: Option<Instant>,
    time: BackgroundTime,
}

/// How work of the background was kept within its part of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackgroundTime {
    /// How long batches took for it; of a batch with texts of others in it, its part by tokens.
    pub computed: Duration,
    /// For how long nothing was computed after these, while nobody else asked for anything.
    pub rested: Duration,
}

impl Share {
    /// Notes at `now` that a batch took so long, a part of it (0 to 1) for the background, which may have
    /// so many percent of the time.
    pub fn charge(&mut self, now: Instant, took: Duration, part: f64, percent: u8) {
        let (part, percent) = (part.clamp(0.0, 1.0), f64::from(percent.clamp(1, 100)));
        self.time.computed += took.mul_f64(part);
        let idle = took.mul_f64(part * (100.0 - percent) / percent);
        if !idle.is_zero() {
            self.free = Some(now + idle);
        }
    }

    /// When there is time for the background again, if it has to wait at `now`.
    pub fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.free.filter(|free| *free > now)
    }

    /// Notes that nothing was computed for so long.
    pub fn rested(&mut self, long: Duration) {
        self.time.rested += long;
    }

    /// How long the background computed, and nothing was computed after it.
    pub fn time(&self) -> BackgroundTime {
        self.time
    }
}

/// Waits until then, or until what is in the inbox ends the rest, at which it looks first and whenever
/// `wake` says that there is more.
pub fn rest_until<T>(
    until: Instant,
    inbox: &Mutex<T>,
    wake: &Condvar,
    ends_it: impl Fn(&T) -> bool,
) {
    let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
    while !ends_it(&inbox) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let waited = wake.wait_timeout(inbox, left);
        inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const TOOK: Duration = Duration::from_millis(10);

    /// How long after a batch the background has to wait.
    fn rest(part: f64, percent: u8) -> Duration {
        let now = Instant::now();
        let mut share = Share::default();
        share.charge(now, TOOK, part, percent);
        share
            .waits_until(now)
            .map_or(Duration::ZERO, |until| until - now)
    }

    #[test]
    fn the_background_has_its_part_of_the_time_and_the_rest_all() {
        assert_eq!(rest(1.0, 100), Duration::ZERO);
        assert_eq!(rest(1.0, 50), TOOK);
        assert_eq!(rest(1.0, 25), 3 * TOOK);
        assert_eq!(rest(1.0, 0), rest(1.0, 1));
        assert_eq!(rest(0.0, 1), Duration::ZERO);
    }

    #[test]
    fn beside_texts_of_others_it_pays_for_what_was_its_part_of_the_batch() {
        assert_eq!(rest(0.5, 50), TOOK / 2);
        assert_eq!(rest(0.25, 50), TOOK / 4);
        assert_eq!(rest(0.5, 100), Duration::ZERO);
    }

    #[test]
    fn what_the_background_had_and_what_was_rested_after_it_is_counted() {
        let mut share = Share::default();
        assert_eq!(share.time(), BackgroundTime::default());
        for part in [1.0, 0.5, 0.0] {
            share.charge(Instant::now(), TOOK, part, 50);
        }
        share.rested(TOOK);
        share.rested(TOOK / 5);
        let counted = BackgroundTime {
            computed: TOOK + TOOK / 2,
            rested: TOOK + TOOK / 5,
        };
        assert_eq!(share.time(), counted);
    }

    #[test]
    fn batches_without_the_background_are_time_that_it_waits() {
        let begin = Instant::now();
        let mut share = Share::default();
        share.charge(begin, TOOK, 1.0, 25);
        let until = begin + 3 * TOOK;
        for batches in 0..3_u32 {
            let now = begin + batches * TOOK;
            share.charge(now, TOOK, 0.0, 25);
            assert_eq!(share.waits_until(now), Some(until));
        }
        assert_eq!(share.waits_until(until), None);
    }

    /// What the inbox of these tests holds: texts by whether they may not wait.
    type Texts = Vec<bool>;

    /// Longer than any of them waits.
    const REST: Duration = Duration::from_secs(120);

    #[test]
    fn a_text_that_may_not_wait_ends_a_rest_at_once_and_others_do_not() {
        let inbox = Mutex::new(Texts::new());
        let wake = Condvar::new();
        let put = |urgent| {
            inbox.lock().unwrap().push(urgent);
            wake.notify_all();
        };
        let (sender, looks) = channel();
        let patience = REST / 2;
        let took = std::thread::scope(|scope| {
            let resting = scope.spawn(|| {
                let begin = Instant::now();
                rest_until(begin + REST, &inbox, &wake, |texts| {
                    // Who has failed listens no more.
                    let _ = sender.send(texts.len());
                    texts.contains(&true)
                });
                begin.elapsed()
            });
            assert_eq!(looks.recv_timeout(patience), Ok(0));
            // It waits by now, or has not let go of the inbox yet.
            put(false);
            let seen = || looks.recv_timeout(patience);
            let mut texts = seen();
            while texts == Ok(0) {
                texts = seen();
            }
            assert_eq!(texts, Ok(1));
            put(true);
            resting.join().unwrap()
        });
        assert!(took < REST, "{took:?}");
    }

    #[test]
    fn a_text_that_came_before_the_rest_began_leaves_none() {
        let inbox = Mutex::new(vec![true]);
        let until = Instant::now() + REST;
        rest_until(until, &inbox, &Condvar::new(), |texts: &Texts| {
            texts.contains(&true)
        });
        assert!(Instant::now() < until);
    }
}
