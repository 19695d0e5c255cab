//! The limits bear what honest machines were apart, and no more than that allows. How far they were is in
//! `docs/benchmarks.md`.

use super::*;
use crate::activations::LARGEST;

/// The furthest chunk of honest texts of 40 tokens.
const FURTHEST: Comparison = Comparison {
    compared: LARGEST as u32,
    matches: 122,
    mantissa_sum: 194,
    mantissa_median_doubled: 2,
};
/// The furthest chunk of one state.
const FURTHEST_OF_ONE: Comparison = Comparison {
    compared: LARGEST as u32,
    matches: 121,
    mantissa_sum: 351,
    mantissa_median_doubled: 4,
};
/// The furthest chunk of more states than one and fewer than are in the texts of 40 tokens.
const FURTHEST_OF_FEW: Comparison = Comparison {
    compared: LARGEST as u32,
    matches: 121,
    mantissa_sum: 138,
    mantissa_median_doubled: 2,
};

/// All that chunks may have, the prompt's last.
fn all_states() -> impl Iterator<Item = Option<usize>> {
    (1..=CHUNK).map(Some).chain([None])
}

/// The furthest honest chunk of so many states, as far as is known.
fn furthest(states: Option<usize>) -> Comparison {
    match states {
        Some(1) => FURTHEST_OF_ONE,
        Some(2..MANY_STATES) => FURTHEST_OF_FEW,
        _ => FURTHEST,
    }
}

/// However short a run is, machines may differ in a token, and in two without anybody being charged.
#[test]
fn a_token_of_a_short_run_is_forgiven() {
    for (limits, any, in_hundred) in [(NEAR, 1, 2), (FAR, 2, 5)] {
        for (tokens, most) in [(1, any), (39, any), (100, in_hundred)] {
            assert!(limits.forgive(most, tokens), "{limits:?} {tokens}");
            assert!(!limits.forgive(most + 1, tokens), "{limits:?} {tokens}");
        }
    }
}

#[test]
fn no_token_may_fall_short_by_what_is_no_number() {
    for limits in [NEAR, FAR] {
        assert!(limits.bear_gap(0.0));
        assert!(!limits.bear_gap(f32::INFINITY));
        assert!(!limits.bear_gap(f32::NAN));
    }
}

/// Every comparison is beyond the near limits by one of its figures alone.
#[test]
fn the_near_limits_are_twice_as_far_as_honest_chunks_were() {
    for states in all_states() {
        let furthest = furthest(states);
        let (matches, mean, median) = match states {
            Some(1) => (114, 6, 4),
            Some(2..MANY_STATES) => (114, 4, 2),
            _ => (116, 4, 2),
        };
        let twice = Comparison {
            matches: matches + 1,
            mantissa_sum: mean * (matches + 1) - 1,
            mantissa_median_doubled: 2 * median - 1,
            ..furthest
        };
        let beyond = [
            Comparison {
                matches,
                mantissa_sum: 0,
                ..furthest
            },
            Comparison {
                mantissa_sum: mean * furthest.matches,
                ..furthest
            },
            Comparison {
                mantissa_median_doubled: 2 * median,
                ..furthest
            },
        ];
        assert!(NEAR.bear_states(&twice, states), "{states:?}");
        for compared in beyond {
            assert!(
                !NEAR.bear_states(&compared, states),
                "{states:?} {compared:?}"
            );
            assert!(
                FAR.bear_states(&compared, states),
                "{states:?} {compared:?}"
            );
        }
    }
}

/// What was seen of chunks of one state is beyond what is near where there are more, behind the prompt as well.
#[test]
fn one_state_may_be_further_apart_than_many() {
    for states in all_states() {
        let is_one = states == Some(1);
        assert_eq!(NEAR.bear_states(&FURTHEST_OF_ONE, states), is_one);
        assert!(NEAR.bear_states(&FURTHEST, states), "{states:?}");
        assert!(FAR.bear_states(&FURTHEST_OF_ONE, states), "{states:?}");
        assert_eq!(FAR.thresholds(states), Thresholds::default());
    }
}

/// Whoever writes chooses how far its commitments are from the states of one machine. Of another they are as much further
/// at the most as the two machines are apart, and that must not take them from near to far.
#[test]
fn what_one_honest_machine_finds_near_no_other_finds_far() {
    for states in all_states() {
        let (near, far) = (NEAR.thresholds(states), FAR.thresholds(states));
        let apart = furthest(states);
        let missing = apart.compared - apart.matches;
        assert!(near.matches >= far.matches + missing, "{states:?}");
        let mean = apart.mantissa_sum.div_ceil(apart.matches);
        assert!(near.mantissa_mean + mean <= far.mantissa_mean, "{states:?}");
        let median = apart.mantissa_median_doubled.div_ceil(2);
        assert!(
            near.mantissa_median + median <= far.mantissa_median,
            "{states:?}"
        );
    }
}
