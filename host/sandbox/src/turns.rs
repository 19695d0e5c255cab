//! Turns: while some guests wait for models, those that compute get a thirty-second of the
//! processors between them.
//!
//! The standing of guests' threads alone does not protect a model. Linux lets a thread of the
//! lowest standing run for a whole tick of its clock, 4 ms, whenever a model has run for longer
//! than its slice or yields; beside guests that spin, models lost a tenth to a quarter of their
//! throughput. So a guest that has used up its part rests: its thread sleeps until its next turn,
//! or until nobody waits for a model. A guest never rests because of itself, nor where no model
//! is wanted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The part of the processors that computing guests have together while models are wanted. A model
/// waits for the slowest of its threads: what guests take on one processor and then on another, it
/// loses twice.
const PART: f64 = 1.0 / 32.0;

/// Seconds that a guest may compute without a rest: guests that compute a little between two
/// calls of a model are never made to.
const BURST: f64 = 0.005;

/// Looks in a row at which no guest waits for a model before models count as not wanted. One is
/// not enough: a guest that has just been given its result, and is kept from going on by whoever
/// looks, does not wait in that moment.
pub(crate) const UNWANTED: u32 = 3;

/// What one guest may still compute while others wait for models.
pub(crate) struct Turn {
    /// Seconds; below zero it is time to rest.
    credit: f64,
    /// Ticks in a row at which no model was wanted.
    unwanted: u32,
    /// When the credit was counted, and the processor time used by then.
    counted: (Instant, Duration),
    /// Nanoseconds that the guest's large operators took, on threads other than its own.
    operators: AtomicU64,
}

impl Turn {
    /// The turn of a guest that begins now.
    pub(crate) fn new() -> Self {
        Turn {
            credit: BURST,
            unwanted: UNWANTED,
            counted: (Instant::now(), Duration::ZERO),
            operators: AtomicU64::new(0),
        }
    }

    /// Counts an operator that ran on other threads.
    pub(crate) fn operator(&self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.operators.fetch_add(nanoseconds, Relaxed);
    }

    /// What a guest is to rest that was found computing, having used so much processor time on
    /// its own thread. `wanted` says whether another guest waits for a model; `share` is the part
    /// of one processor that is this guest's.
    pub(crate) fn on_tick(
        &mut self,
        now: Instant,
        on_thread: Duration,
        wanted: bool,
        share: f64,
    ) -> Option<Duration> {
        let used = on_thread + Duration::from_nanos(self.operators.load(Relaxed));
        let (then, before) = std::mem::replace(&mut self.counted, (now, used));
        self.unwanted = if wanted {
            0
        } else {
            self.unwanted.saturating_add(1)
        };
        if self.unwanted >= UNWANTED {
            self.credit = BURST;
            return None;
        }
        let earned = now.saturating_duration_since(then).as_secs_f64() * share;
        let spent = used.saturating_sub(before).as_secs_f64();
        self.credit = (self.credit + earned - spent).min(BURST);
        if self.credit >= 0.0 {
            return None;
        }
        Duration::try_from_secs_f64(-self.credit / share).ok()
    }
}

/// The part of one processor that each of so many guests has while models are wanted.
pub(crate) fn share(processors: usize, guests: usize) -> f64 {
    (processors as f64 * PART / guests.max(1) as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a guest compute for `computes` between waits of `waits`, for a simulated minute, and
    /// gives the part of the time that it computed.
    fn part(computes: Duration, waits: Duration, wanted: bool, share: f64) -> f64 {
        let tick = Duration::from_millis(10);
        let mut turn = Turn::new();
        let began = turn.counted.0;
        let (mut now, mut used, mut left) = (began, Duration::ZERO, computes);
        while now < began + Duration::from_secs(60) {
            let step = tick.min(left);
            (now, used, left) = (now + step, used + step, left - step);
            if let Some(rest) = turn.on_tick(now, used, wanted, share) {
                now += rest;
            }
            if left.is_zero() {
                (now, left) = (now + waits, computes);
            }
        }
        used.as_secs_f64() / (now - began).as_secs_f64()
    }

    #[test]
    fn a_guest_that_spins_has_its_share_while_models_are_wanted() {
        let spins = Duration::from_secs(1000);
        for share in [1.0 / 8.0, 1.0 / 16.0, 0.5, 1.0] {
            let had = part(spins, Duration::ZERO, true, share);
            assert!((had / share - 1.0).abs() < 0.02, "{had} of {share}");
        }
        assert!(part(spins, Duration::ZERO, false, 1.0 / 16.0) > 0.999);
    }

    #[test]
    fn a_guest_that_computes_little_between_its_calls_never_rests() {
        let (computes, waits) = (Duration::from_millis(5), Duration::from_millis(200));
        let had = part(computes, waits, true, 1.0 / 16.0);
        assert!((had - 5.0 / 205.0).abs() < 1e-3, "{had}");
    }

    #[test]
    fn a_model_that_is_not_wanted_for_a_moment_is_wanted() {
        let mut turn = Turn::new();
        let began = turn.counted.0;
        let tick = Duration::from_millis(10);
        // Two looks of three fall into such moments.
        let rested = (1..10).any(|n| {
            turn.on_tick(began + tick * n, tick * n, n % 3 == 0, 0.125)
                .is_some()
        });
        assert!(rested);
        // And once it is not wanted any more, nobody rests.
        let rested = (10..100).filter(|n| {
            turn.on_tick(began + tick * *n, tick * *n, false, 0.125)
                .is_some()
        });
        assert!(rested.count() < UNWANTED as usize);
    }

    #[test]
    fn operators_on_other_threads_count() {
        let mut turn = Turn::new();
        let soon = turn.counted.0 + Duration::from_millis(100);
        turn.operator(Duration::from_millis(100));
        let rest = turn.on_tick(soon, Duration::ZERO, true, 0.125);
        // Earned 12.5 ms and had 5.
        assert!(rest.is_some_and(|rest| rest > Duration::from_millis(500)));
    }

    #[test]
    fn shares_of_many_guests_come_to_their_part_of_the_processors() {
        for (processors, guests) in [(2, 1), (2, 5), (16, 3), (64, 200)] {
            let all = share(processors, guests) * guests as f64;
            assert!((all - processors as f64 * PART).abs() < 1e-9);
        }
        assert!(share(64, 1) <= 1.0);
        assert!(share(2, 0) > 0.0);
    }
}
