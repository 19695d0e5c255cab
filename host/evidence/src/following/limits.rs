//! How far a run may be from what whoever followed it saw.
//!
//! All numbers that say so are here. Those for states are twice as far as any honest text was between sets of
//! instructions, which depends on how many states there are in a chunk: the 128 largest activations of 32 states are few
//! that stand out, and those of one state are a good part of it. A text of 40 tokens ends with a chunk of 7 states, and
//! of such texts 10,000 were compared, and 4,050 of all lengths below (`docs/benchmarks.md`). They are of a model in 8
//! bits. One in floats is nearer between sets of instructions, and an auditor that rounds them (decision 44) takes up some
//! of that room.
//!
//! # What it must never do
//!
//! Have one honest machine find a run near, and another find it far: there must be more between the two than honest
//! machines are apart. Whoever writes could otherwise have honest auditors contradict each other.

use crate::activations::{CHUNK, Comparison, Thresholds};

/// How far a run may be from what whoever followed it saw: see [`NEAR`] and [`FAR`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// For the states behind the prompt, and those of chunks of which there is nothing in `few_states`.
    states: Thresholds,
    /// For chunks of fewer states than it says, the fewest first.
    few_states: &'static [(usize, Thresholds)],
    /// Of so many tokens of a run one may fall short by more than [`super::TOLERANCE`].
    pub one_in: usize,
    /// In any run so many may, however short it is.
    any: usize,
    /// The most by which such a one may, in logits divided by the temperature.
    gap: f32,
}

/// The fewest states of the chunks of a text of 40 tokens, of which 10,000 were compared.
const MANY_STATES: usize = 7;

/// Whoever is nearer agrees. The furthest of 10,000 honest texts of 40 tokens of the model that comes with skep had 122
/// matches of 128, and mantissas that differ by 1.59 in the mean and 1 in the median. Of chunks of fewer than seven states
/// the furthest had 121 matches; mantissas were no further apart, but in those of one state, by 2.9 in the mean and 2 in
/// the median. Of the tokens of those 10,000 one in some 4,000 fell short by more than the tolerance.
pub const NEAR: Limits = Limits {
    states: Thresholds {
        matches: 116,
        mantissa_mean: 4,
        mantissa_median: 2,
    },
    few_states: &[
        (
            2,
            Thresholds {
                matches: 114,
                mantissa_mean: 6,
                mantissa_median: 4,
            },
        ),
        (
            MANY_STATES,
            Thresholds {
                matches: 114,
                mantissa_mean: 4,
                mantissa_median: 2,
            },
        ),
    ],
    one_in: 40,
    any: 1,
    gap: 0.5,
};
/// Whoever is further does not: no machines differ by so much more than others that one finds a run
/// near and the other far. For the states it is what the publication found to divide honest from dishonest, however many
/// there are. For the tokens it is what a model in 4 bits exceeds that was to be one in 8, in long runs always: with it
/// one in 14 is another.
pub const FAR: Limits = Limits {
    states: Thresholds {
        matches: 90,
        mantissa_mean: 10,
        mantissa_median: 8,
    },
    few_states: &[],
    one_in: 20,
    any: 2,
    gap: 2.0,
};

impl Limits {
    /// Whether a chunk of so many states may compare so: see [`super::states_in`].
    #[must_use]
    pub fn bear_states(&self, compared: &Comparison, states: Option<usize>) -> bool {
        compared.is_within(&self.thresholds(states))
    }

    /// Whether so many of a run's tokens may fall short by more than [`super::TOLERANCE`].
    #[must_use]
    pub fn forgive(&self, different: usize, tokens: usize) -> bool {
        different <= (tokens / self.one_in).max(self.any)
    }

    /// Whether a token may fall short by so much, in logits divided by the temperature.
    #[must_use]
    pub fn bear_gap(&self, gap: f32) -> bool {
        gap <= self.gap
    }

    fn thresholds(&self, states: Option<usize>) -> Thresholds {
        let states = states.unwrap_or(CHUNK);
        let few = self.few_states.iter().find(|(below, _)| states < *below);
        few.map_or(self.states, |(_, thresholds)| *thresholds)
    }
}

#[cfg(test)]
mod tests;
