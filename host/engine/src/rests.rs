//! How long the engine's thread computes nothing after a batch: to leave the processors to others that
//! want them, and to keep work of the background within its part of the time.
//!
//! What this module must never do: keep a text waiting that is not of the background.

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

/// How long nothing is computed after a batch that took so long, if it was of the background alone,
/// which may have so many percent of the time.
pub fn idle_after(took: Duration, background: bool, percent: u8) -> Duration {
    let percent = u32::from(percent.clamp(1, 100));
    match background {
        true => took * (100 - percent) / percent,
        false => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_background_has_its_part_of_the_time_and_the_rest_all() {
        let took = Duration::from_millis(10);
        let idle = |percent| idle_after(took, true, percent);
        assert_eq!(idle(100), Duration::ZERO);
        assert_eq!(idle(50), took);
        assert_eq!(idle(25), 3 * took);
        assert_eq!(idle(0), idle(1));
        assert_eq!(idle_after(took, false, 1), Duration::ZERO);
    }
}
