//! What the logarithm of a token's probability costs, and the slope of that.

use crate::batch::{Example, Loss, Packed, Target};

/// The loss of one token under its weight and the slope of that by the logarithm of its
/// probability, before they are divided.
pub(crate) fn of_token(loss: Loss, example: &Example, target: &Target, log: f32) -> (f64, f32) {
    match loss {
        Loss::PolicyGradient { below, above } => {
            let ratio = (log - example.sampled_log_probabilities[target.at]).exp();
            let advantage = example.advantages[target.at];
            let free = ratio * advantage;
            let clipped = ratio.clamp(1.0 - below, 1.0 + above) * advantage;
            let slope = if free <= clipped { -free } else { 0.0 };
            let weight = target.weight;
            (f64::from(-free.min(clipped) * weight), slope * weight)
        }
        _ => (-f64::from(log) * f64::from(target.weight), -target.weight),
    }
}

/// The losses of pairs of texts and the slope of each text's, given the sums of the logarithms of
/// their tokens' probabilities.
pub(crate) fn of_pairs(beta: f32, examples: &[Example], sums: &[f64]) -> (f64, Vec<f32>) {
    let beta = f64::from(beta);
    let mut total = 0.0;
    let mut slopes = Vec::with_capacity(sums.len());
    for (examples, sums) in examples.chunks_exact(2).zip(sums.chunks_exact(2)) {
        let gain = |n: usize| sums[n] - f64::from(examples[n].reference_log_probability);
        let margin = beta * (gain(0) - gain(1));
        // -log sigmoid(margin), without overflow on either side.
        total += (-margin.abs()).exp().ln_1p() + (-margin).max(0.0);
        let slope = -beta / (1.0 + margin.exp());
        slopes.extend([slope as f32, -slope as f32]);
    }
    (total, slopes)
}

/// What a batch's losses are divided by to have their mean.
pub(crate) fn own_divisor(loss: Loss, packed: &Packed) -> f64 {
    match loss {
        Loss::Classification => packed.sequences.len() as f64,
        Loss::Preference { .. } => packed.sequences.len() as f64 / 2.0,
        _ => packed.targets.iter().map(|t| f64::from(t.weight)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(weight: f32) -> Target {
        Target {
            token: 0,
            example: 0,
            at: 0,
            weight,
        }
    }

    #[test]
    fn slopes_are_those_of_differences() {
        let losses = [
            Loss::CrossEntropy,
            Loss::PolicyGradient {
                below: 0.2,
                above: 0.3,
            },
        ];
        for loss in losses {
            for advantage in [-1.5, 2.0] {
                for sampled in [-1.0, -0.6, -1.6] {
                    let example = Example {
                        sampled_log_probabilities: vec![sampled],
                        advantages: vec![advantage],
                        ..Example::default()
                    };
                    let at = |log| of_token(loss, &example, &target(0.7), log).0;
                    let want = (at(-1.0 + 1e-3) - at(-1.0 - 1e-3)) / 2e-3;
                    let got = f64::from(of_token(loss, &example, &target(0.7), -1.0).1);
                    assert!(
                        (got - want).abs() < 2e-3,
                        "{loss:?} {sampled}: {got} {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_ratio_is_clipped_on_the_side_that_it_gains_from() {
        let loss = Loss::PolicyGradient {
            below: 0.2,
            above: 0.2,
        };
        let example = |advantage| Example {
            sampled_log_probabilities: vec![-1.0],
            advantages: vec![advantage],
            ..Example::default()
        };
        // Twice as probable as at sampling: no more to gain from it, but all to lose.
        let twice = -1.0 + 2.0_f32.ln();
        let (gained, slope) = of_token(loss, &example(1.0), &target(1.0), twice);
        assert!((gained + 1.2).abs() < 1e-6 && slope == 0.0);
        let (lost, slope) = of_token(loss, &example(-1.0), &target(1.0), twice);
        assert!((lost - 2.0).abs() < 1e-6 && (slope - 2.0).abs() < 1e-6);
    }

    #[test]
    fn preferences_have_the_slopes_of_differences_and_never_overflow() {
        let examples = [
            Example {
                reference_log_probability: -3.0,
                ..Example::default()
            },
            Example::default(),
        ];
        for sums in [[-2.0, -1.5], [-1.0, -9.0]] {
            let (_, slopes) = of_pairs(0.3, &examples, &sums);
            for n in 0..2 {
                let at = |offset: f64| {
                    let mut sums = sums;
                    sums[n] += offset;
                    of_pairs(0.3, &examples, &sums).0
                };
                let want = (at(1e-4) - at(-1e-4)) / 2e-4;
                assert!((f64::from(slopes[n]) - want).abs() < 1e-5);
            }
        }
        for sums in [[-1e6, 0.0], [0.0, -1e6]] {
            let (loss, slopes) = of_pairs(1.0, &examples, &sums);
            assert!(loss.is_finite() && slopes.iter().all(|s| s.is_finite()));
        }
    }
}
