//! Whose contribution is left out: bytes that are none, numbers that are not finite, and updates
//! that are far larger than those of others.
//!
//! A contribution is as large as its node's share of the data and its learning rate make it, and
//! those of honest nodes differ little. So one is believed up to some times the *median* norm of a
//! round: as long as more than half of them are honest, a liar cannot move that beyond theirs. Of
//! Gradients that are not clipped differ more than that from text to text. Of
//! one or two contributions no median tells which is the liar's; then the norm that was believed
//! in last counts, or one's own. What is not too large may still be wrong: that is for an audit
//! that computes a step again.

use std::collections::BTreeMap;

use crate::contribution::{Contribution, Unsound};

/// How many times the median is believed, as a rule.
pub const TIMES: f64 = 5.0;

/// Decides whose contributions are believed, round after round.
#[derive(Debug, Clone)]
pub struct Guard {
    times: f64,
    /// The median of those that were believed last.
    last: Option<f64>,
}

/// What was decided of a round.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement<K> {
    /// What is aggregated.
    pub accepted: BTreeMap<K, Contribution>,
    /// Who was left out, and why.
    pub left_out: BTreeMap<K, Unsound>,
}

impl Default for Guard {
    fn default() -> Self {
        Self::new(TIMES)
    }
}

impl Guard {
    /// Believes so many times the median.
    #[must_use]
    pub fn new(times: f64) -> Self {
        Self { times, last: None }
    }

    /// Decides a round. `own` is whose contribution is trusted whatever the others say: that of
    /// whoever decides, if it takes part.
    pub fn judge<K: Ord + Clone>(
        &mut self,
        round: BTreeMap<K, Result<Contribution, Unsound>>,
        own: Option<&K>,
    ) -> Judgement<K> {
        let mut judgement = Judgement {
            accepted: BTreeMap::new(),
            left_out: BTreeMap::new(),
        };
        for (who, read) in round {
            match read {
                Ok(contribution) => judgement.accepted.insert(who, contribution).map(|_| ()),
                Err(why) => judgement.left_out.insert(who, why).map(|_| ()),
            };
        }
        let norms: BTreeMap<&K, f64> = judgement
            .accepted
            .iter()
            .map(|(who, contribution)| (who, contribution.norm()))
            .collect();
        let reference = match norms.len() {
            0..=2 => own
                .and_then(|own| norms.get(own).copied().filter(|norm| *norm > 0.0))
                .or(self.last)
                .or_else(|| lower_median(norms.values().copied())),
            _ => lower_median(norms.values().copied()),
        };
        let Some(median) = reference else {
            return judgement;
        };
        let limit = self.times * median;
        let huge: Vec<(K, f64)> = norms
            .into_iter()
            .filter(|(who, norm)| *norm > limit && Some(*who) != own)
            .map(|(who, norm)| (who.clone(), norm))
            .collect();
        for (who, norm) in huge {
            judgement.accepted.remove(&who);
            let times = self.times;
            let why = Unsound::Huge { norm, limit, times };
            judgement.left_out.insert(who, why);
        }
        let believed = lower_median(judgement.accepted.values().map(Contribution::norm));
        self.last = believed.or(self.last);
        judgement
    }
}

/// The middle one, or the smaller one of two in the middle. Who has done nothing says nothing of
/// how much the others have, so zeros do not count.
fn lower_median(numbers: impl Iterator<Item = f64>) -> Option<f64> {
    let mut all: Vec<f64> = numbers.filter(|norm| *norm > 0.0).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(norms: &[f32]) -> BTreeMap<usize, Result<Contribution, Unsound>> {
        let one = |norm: &f32| match norm.is_nan() {
            true => Err(Unsound::NotFinite { block: 0 }),
            false => Ok(Contribution::Dense(vec![0.0, *norm])),
        };
        norms.iter().map(one).enumerate().collect()
    }

    fn left_out(guard: &mut Guard, norms: &[f32], own: Option<usize>) -> Vec<usize> {
        let judged = guard.judge(round(norms), own.as_ref());
        assert_eq!(judged.accepted.len() + judged.left_out.len(), norms.len());
        judged.left_out.into_keys().collect()
    }

    #[test]
    fn the_median_says_who_is_too_large() {
        let mut guard = Guard::default();
        assert_eq!(left_out(&mut guard, &[1.0, 1.3, 0.8, 900.0], None), [3]);
        assert_eq!(left_out(&mut guard, &[1e30, 1.3, 0.8], None), [0]);
        assert_eq!(
            left_out(&mut guard, &[1.0, f32::NAN, 0.8, 5.1], None),
            [1, 3]
        );
        assert_eq!(
            left_out(&mut guard, &[1.0, 4.9, 3.0, 4.0], None),
            [0_usize; 0]
        );
    }

    #[test]
    fn of_two_the_one_that_was_believed_before_or_ones_own_counts() {
        let mut guard = Guard::default();
        assert_eq!(left_out(&mut guard, &[1.0, 1.1, 0.9], None), [0_usize; 0]);
        assert_eq!(left_out(&mut guard, &[80.0, 0.9], None), [0]);
        assert_eq!(left_out(&mut guard, &[80.0], None), [0]);
        // Whoever decides knows what it has computed itself, in the first round too.
        let mut guard = Guard::default();
        assert_eq!(left_out(&mut guard, &[50.0, 2.0], Some(1)), [0]);
        // A small one of a liar's does not make one's own too large.
        assert_eq!(
            left_out(&mut guard, &[1e-9, 2.0, 1e-9], Some(1)),
            [0_usize; 0]
        );
    }

    #[test]
    fn a_round_without_anybody_is_none() {
        let mut guard = Guard::default();
        assert_eq!(left_out(&mut guard, &[f32::NAN], None), [0]);
        assert_eq!(left_out(&mut guard, &[], None), [0_usize; 0]);
        // Nor does it change what is believed, or one in which most have done nothing.
        assert_eq!(left_out(&mut guard, &[0.0, 0.0, 2.0], None), [0_usize; 0]);
        assert_eq!(left_out(&mut guard, &[0.0, 0.0, 20.0], None), [0_usize; 0]);
        assert_eq!(left_out(&mut guard, &[3.0, 2.0, 2.0], None), [0_usize; 0]);
    }
}
