//! Whoever cheats loses more than it gains, kind by kind, or gains nothing or does no harm, and nobody honest is charged:
//! some jobs of what `cargo run -p skep-market --example cheating` has more of.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../examples/cheating/cheats/mod.rs"]
mod cheats;

use cheats::cheat::Cheat;
use cheats::summary::Summary;

/// One in twenty results is audited.
const RATE: u32 = 50_000;
/// A tenth of these is a node's share.
const SHARDS: u32 = 500;

/// Runs so many jobs with a kind of cheat.
fn jobs(cheat: Cheat, count: u64) -> Summary {
    let summary = Summary::of(cheat, SHARDS, RATE, 0..count).unwrap();
    if let Err(wrong) = summary.check() {
        panic!("{wrong}");
    }
    summary
}

macro_rules! kinds {
    ($($test:ident: $cheat:ident, $jobs:literal;)*) => {
        $(
            #[test]
            fn $test() {
                jobs(Cheat::$cheat, $jobs);
            }
        )*

        const TESTED: &[Cheat] = &[$(Cheat::$cheat),*];
    };
}

// A kind that is found in nearly every audit goes free in one of ten such jobs at most, so that four are enough. One
// that is found less often has more.
kinds! {
    nobody_honest_is_charged: None, 2;
    nobody_honest_is_charged_where_texts_are_followed: NoneFollowed, 2;
    garbage: Garbage, 4;
    the_right_answer_of_another_shard: Neighbour, 4;
    no_adapter: NoAdapter, 4;
    a_smaller_model: Smaller, 4;
    other_sampling: Sampling, 4;
    a_prompt_cut_short: ShortPrompt, 4;
    garbage_one_time_in_five: OneInFive, 10;
    a_pair_that_backs_each_other: Pair, 4;
    a_pair_with_a_smaller_model: PairSmaller, 4;
    a_pair_with_four_bits_for_eight: PairFourBits, 4;
    a_copy_of_a_right_answer: Copied, 2;
    a_lie_that_is_copied: CopiedLie, 10;
    garbage_where_it_cannot_be_an_auditor: Careful, 4;
    an_old_receipt: Replay, 2;
    all_of_an_old_delivery: ReplayAll, 2;
    a_price_above_the_tariff: Overprice, 2;
    an_inflated_meter: Inflate, 4;
}

/// Nearly half of the texts of a model in 4 bits are neither near enough to be paid nor far enough to be charged for:
/// of these the audit finds nothing, they do not count, and those that are further are enough.
#[test]
fn four_bits_for_eight() {
    let summary = jobs(Cheat::FourBits, 10);
    assert!(summary.undecided > 0.0, "{}", summary.row());
}

#[test]
fn every_kind_is_tested() {
    for cheat in Cheat::ALL {
        let is_tested = TESTED.contains(&cheat) || cheat == Cheat::FourBits;
        assert!(is_tested, "{}", cheat.name());
    }
}
