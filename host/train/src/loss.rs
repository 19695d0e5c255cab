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

    /// What PyTorch's `-torch.min(ratio * advantage, torch.clamp(ratio, 1 - below, 1 + above) *
    /// advantage) * weight` comes to in 64 bits, `ratio` being `torch.exp(log - sampled)`, and what
    /// its `backward` gives for `log`.
    #[test]
    fn each_bound_of_a_ratio_is_its_own_sides() {
        let (log, weight) = (-1.0, 0.5);
        // What it was at sampling, the advantage, and the loss and slope with 0.1 below and 0.4
        // above, and the other way round.
        for (sampled, advantage, narrow_below, narrow_above) in [
            (-1.0, 2.0, (-1.0, -1.0), (-1.0, -1.0)),
            (-1.0, -2.0, (1.0, 1.0), (1.0, 1.0)),
            (-1.5, 2.0, (-1.4, 0.0), (-1.1, 0.0)),
            (-1.25, 2.0, (-1.284_025_417, -1.284_025_417), (-1.1, 0.0)),
            (
                -1.25,
                -2.0,
                (1.284_025_417, 1.284_025_417),
                (1.284_025_417, 1.284_025_417),
            ),
            (-0.6, -2.0, (0.9, 0.0), (0.670_320_046, 0.670_320_046)),
            (
                -0.6,
                2.0,
                (-0.670_320_046, -0.670_320_046),
                (-0.670_320_046, -0.670_320_046),
            ),
        ] {
            let example = Example {
                sampled_log_probabilities: vec![sampled],
                advantages: vec![advantage],
                ..Example::default()
            };
            for ((below, above), want) in [((0.1, 0.4), narrow_below), ((0.4, 0.1), narrow_above)] {
                let loss = Loss::PolicyGradient { below, above };
                let (got, slope) = of_token(loss, &example, &target(weight), log);
                let got = (got, f64::from(slope));
                let far = (got.0 - want.0).abs().max((got.1 - want.1).abs());
                assert!(far < 1e-6, "{sampled}, {advantage}: {got:?}, not {want:?}");
            }
        }
    }

    /// What PyTorch's `-torch.nn.functional.logsigmoid(beta * ((chosen - chosen_reference) -
    /// (rejected - rejected_reference)))` comes to in 64 bits, and what its `backward` gives for
    /// `chosen`; for `rejected` it gives the negative of that.
    #[test]
    fn preferences_have_pytorchs_values() {
        let of = |beta, pairs: &[[(f64, f32); 2]]| {
            let texts = pairs.iter().flatten();
            let references = texts.clone().map(|(_, reference)| Example {
                reference_log_probability: *reference,
                ..Example::default()
            });
            let sums: Vec<f64> = texts.map(|(sum, _)| *sum).collect();
            of_pairs(beta, &references.collect::<Vec<_>>(), &sums)
        };
        let (better, worse) = ((-12.5, -14.0), (-9.25, -8.0));
        for (beta, pair, loss, slope) in [
            (0.3, [better, worse], 0.363_416_662, -0.091_410_999),
            // The other way round it learns the opposite.
            (0.3, [worse, better], 1.188_416_662, -0.208_589_001),
            (0.1, [better, worse], 0.565_070_668, -0.043_168_002),
            // As probable as the reference has them, whatever that is: log 2.
            (
                0.3,
                [(-3.0, -3.0), (-7.0, -7.0)],
                std::f64::consts::LN_2,
                -0.15,
            ),
        ] {
            let (got, slopes) = of(beta, &[pair]);
            assert!((got - loss).abs() < 1e-6, "{pair:?}: {got}, not {loss}");
            let far = (f64::from(slopes[0]) - slope).abs();
            assert!(far < 1e-6, "{pair:?}: {slopes:?}, not {slope}");
            assert_eq!(slopes[1], -slopes[0]);
        }
        // Of several pairs it is the sum.
        let (both, slopes) = of(0.3, &[[better, worse], [worse, better]]);
        assert!(
            (both - 0.363_416_662 - 1.188_416_662).abs() < 1e-6,
            "{both}"
        );
        assert!(slopes[0] != slopes[2] && slopes.len() == 4, "{slopes:?}");
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
