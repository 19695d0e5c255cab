//! The likeliest of many, without sorting them.

use std::cmp::Ordering;

use super::weights::greatest;

/// Tokens that are looked at together: most of the time none of them is likely enough.
const TOGETHER: usize = 32;

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub token: u32,
    pub logit: f32,
    /// How likely it is next to the likeliest token of all.
    pub weight: f32,
}

/// Likelier tokens first. Logits that are compared are numbers.
pub(super) fn likelier(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    let by_logit = b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal);
    by_logit.then(a.0.cmp(&b.0))
}

/// The `count` likeliest tokens, in any order; tokens whose logit is minus infinity or no number
/// are none.
pub(super) fn likeliest(logits: &[f32], count: usize, found: &mut Vec<(u32, f32)>) {
    found.clear();
    if count == 0 {
        return;
    }
    let room = count.saturating_mul(2).saturating_add(TOGETHER);
    let mut bar = f32::NEG_INFINITY;
    for (n, block) in logits.chunks(TOGETHER).enumerate() {
        if greatest(block) > bar {
            // Of equal logits those that came first stay.
            let tokens = (n * TOGETHER) as u32..;
            let better = tokens.zip(block.iter().copied());
            found.extend(better.filter(|(_, logit)| *logit > bar));
            if found.len() >= room {
                bar = cut(found, count);
            }
        }
    }
    if found.len() > count {
        cut(found, count);
    }
}

/// Leaves the `count` likeliest, which are fewer than there are, and returns the least logit.
fn cut(found: &mut Vec<(u32, f32)>, count: usize) -> f32 {
    let (_, (_, least), _) = found.select_nth_unstable_by(count - 1, likelier);
    let least = *least;
    found.truncate(count);
    least
}

/// The tokens whose weight is at least this, in the order of their numbers.
pub(super) fn gather(logits: &[f32], weights: &[f32], least: f32, into: &mut Vec<Candidate>) {
    into.clear();
    let blocks = logits.chunks(TOGETHER).zip(weights.chunks(TOGETHER));
    for (n, (logits, weights)) in blocks.enumerate() {
        if greatest(weights) >= least {
            for ((token, logit), weight) in ((n * TOGETHER) as u32..).zip(logits).zip(weights) {
                if *weight >= least {
                    into.push(Candidate {
                        token,
                        logit: *logit,
                        weight: *weight,
                    });
                }
            }
        }
    }
}

/// Leaves the fewest likeliest candidates whose weights come to `need`, at least one, in their
/// order. Found by the bits of the logits, eleven at a time from the highest, with the sum of the
/// weights of each value: three looks at the candidates at most, however they are distributed.
pub(super) fn keep_by_mass(candidates: &mut Vec<Candidate>, need: f64, spare: &mut Vec<Candidate>) {
    const BITS: u32 = 11;
    let need = need.max(f64::MIN_POSITIVE);
    let mut taken = 0.0;
    let mut sums = [0.0_f64; 1 << BITS];
    spare.clear();
    spare.extend_from_slice(candidates);
    for shift in [21, 10, 0] {
        let digit = |c: &Candidate| (key(c.logit) >> shift) as usize & ((1 << BITS) - 1);
        sums.fill(0.0);
        for candidate in spare.iter() {
            sums[digit(candidate)] += f64::from(candidate.weight);
        }
        let passed = (0..sums.len()).rev().find(|digit| {
            let sum = taken + sums[*digit];
            let passed = sum >= need;
            if !passed {
                taken = sum;
            }
            passed
        });
        match passed {
            Some(passed) => spare.retain(|candidate| digit(candidate) == passed),
            // By rounding all of them come to a little less than their sum.
            None => return,
        }
    }
    // What is left has one logit: of equal ones those with lower numbers are kept.
    let last = spare.iter().find(|candidate| {
        taken += f64::from(candidate.weight);
        taken >= need
    });
    if let Some(last) = last.or(spare.last()) {
        let last = (last.token, last.logit);
        candidates.retain(|c| likelier(&(c.token, c.logit), &last) != Ordering::Greater);
    }
}

/// An integer that is greater for greater logits. Both zeros have the same.
fn key(logit: f32) -> u32 {
    let bits = (logit + 0.0).to_bits();
    if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    }
}

/// The token at this fraction of the sum of all weights.
pub(super) fn draw(candidates: &[Candidate], fraction: f64) -> Option<u32> {
    let total: f64 = candidates.iter().map(|c| f64::from(c.weight)).sum();
    let mut left = fraction * total;
    let passed = candidates.iter().find(|candidate| {
        left -= f64::from(candidate.weight);
        left < 0.0
    });
    passed.or(candidates.last()).map(|c| c.token)
}
