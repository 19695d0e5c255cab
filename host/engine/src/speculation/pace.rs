//! How many tokens a draft model guesses ahead of a text.
//!
//! If a guess is right with probability `a`, whatever came before, a pass of the model that checks
//! `k` guesses writes `(1 - a^(k+1)) / (1 - a)` tokens, and it costs more than a pass without: the
//! draft model runs `k` times, and the pass has `k` more rows (Leviathan et al., arXiv 2211.17192,
//! sections 3.3 to 3.5; rows are not free here, as processors soon have as much to compute as to
//! read). The `k` with the most tokens for the cost is taken, and none where that is 0. A text for
//! which nothing is guessed is tried again now and then, because texts change.

/// What a row more adds to a pass of one row: an estimate for processors, by which eight rows take
/// about twice as long as one. A wrong one costs time, and changes no text.
const ROW: f64 = 1.0 / 8.0;
/// What each draft leaves of what was known before: some five drafts count.
const FADES: f64 = 0.8;
/// Before anything is known, three of four guesses are taken to be right.
const BEGIN: (f64, f64) = (3.0, 4.0);
/// After so many passes without a guess, one is tried.
const AGAIN: u32 = 24;
/// Never wrong.
const CERTAIN: Pace = Pace {
    right: 1.0,
    tried: 1.0,
    idle: 0,
};

/// What guessing costs at the moment.
#[derive(Debug, Clone, Copy)]
pub struct GuessCost {
    /// A pass of the draft model, as a part of a pass of the model.
    pub share: f64,
    /// Texts that take part in a pass.
    pub texts: usize,
}

/// How right the draft model was about one text.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    right: f64,
    tried: f64,
    /// Passes since the last guess.
    idle: u32,
}

impl Default for Pace {
    fn default() -> Self {
        let (right, tried) = BEGIN;
        Self {
            right,
            tried,
            idle: 0,
        }
    }
}

impl Pace {
    /// How many tokens are worth guessing next, `most` at most.
    pub fn length(&self, most: usize, cost: GuessCost) -> usize {
        let best = (0..=most).max_by(|a, b| {
            let gains = (self.gain(*a, cost), self.gain(*b, cost));
            // Of two that are equally good the shorter.
            gains.0.total_cmp(&gains.1).then(b.cmp(a))
        });
        match best {
            // Unless it would not pay if all guesses were right.
            Some(0) | None if self.idle >= AGAIN => most.min(1).min(CERTAIN.length(most, cost)),
            best => best.unwrap_or(0),
        }
    }

    /// Tokens that a pass with so many guesses writes, for its cost.
    fn gain(&self, guesses: usize, cost: GuessCost) -> f64 {
        let right = (self.right / self.tried).clamp(0.0, 0.999);
        let guesses = guesses as f64;
        let tokens = (1.0 - right.powf(guesses + 1.0)) / (1.0 - right);
        let texts = cost.texts.max(1) as f64;
        let pass = 1.0 + (texts - 1.0) * ROW;
        tokens / (pass * (1.0 + guesses * cost.share) + texts * guesses * ROW)
    }

    /// A pass has gone by in which the draft model guessed nothing.
    pub fn rest(&mut self) {
        self.idle = self.idle.saturating_add(1);
    }

    /// Learns how many guesses of a draft were right. What came after the first wrong one says
    /// nothing.
    pub fn learn(&mut self, guessed: usize, right: usize) {
        if guessed == 0 {
            return;
        }
        // Where a trial was right, the next follows at once.
        self.idle = if right == guessed { AGAIN } else { 0 };
        self.right = self.right * FADES + right as f64;
        self.tried = self.tried * FADES + (right + 1).min(guessed) as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: GuessCost = GuessCost {
        share: 0.1,
        texts: 1,
    };

    fn after(lessons: &[(usize, usize)]) -> Pace {
        let mut pace = Pace::default();
        for (guessed, right) in lessons {
            pace.learn(*guessed, *right);
        }
        pace
    }

    #[test]
    fn guesses_are_as_many_as_prove_right() {
        let good = after(&[(4, 4); 20]);
        let fair = after(&[(4, 2), (4, 1), (4, 3)].repeat(9));
        let bad = after(&[(4, 0); 20]);
        let lengths = [good, fair, bad].map(|pace| pace.length(8, ALONE));
        assert_eq!(lengths[0], 8);
        assert!((1..8).contains(&lengths[1]), "{lengths:?}");
        assert_eq!(lengths[2], 0);
        assert_eq!(good.length(3, ALONE), 3);
        assert_eq!(good.length(0, ALONE), 0);
    }

    #[test]
    fn guesses_are_fewer_where_they_cost_more() {
        let pace = after(&[(4, 3); 20]);
        let length = |share, texts| pace.length(8, GuessCost { share, texts });
        assert!(length(0.05, 1) > length(0.3, 1), "of the draft model");
        assert!(length(0.05, 1) > length(0.05, 64), "of rows");
        assert_eq!(length(1.0, 1), 0, "a model as large as the other is no use");
    }

    #[test]
    fn what_was_wrong_is_tried_again_now_and_then() {
        let mut pace = after(&[(4, 0); 20]);
        for _ in 0..AGAIN {
            assert_eq!(pace.length(8, ALONE), 0);
            pace.rest();
        }
        assert_eq!((pace.length(8, ALONE), pace.length(0, ALONE)), (1, 0));
        for _ in 0..40 {
            let guessed = pace.length(8, ALONE);
            pace.learn(guessed, guessed);
            if guessed == 0 {
                pace.rest();
            }
        }
        assert_eq!(pace.length(8, ALONE), 8);
    }
}
