//! Backward passes against differences of forward passes, what they are given, and who computes them.

use skep_kernels::Team;

use crate::bf16::Precision;
use crate::gemm::{Simd, Workers};
use crate::operators::lora::{Dropout, LowRank};
use crate::random::test_values;

/// So much of its input that a small adapter drops some and keeps some.
pub(crate) const DROPPING: Dropout = Dropout {
    share: 0.4,
    seed: 9,
};

/// A team at work with the best instructions that this machine has.
pub(crate) fn workers(team: &Team) -> Workers<'_> {
    Workers {
        simd: Simd::best(),
        team,
    }
}

/// An adapter of one linear layer by its matrices, `[rank, inputs]` and `[outputs, rank]`.
pub(crate) fn low_rank<'a>(
    a: &'a [f32],
    b: &'a [f32],
    rank: usize,
    dropout: Option<Dropout>,
) -> LowRank<'a> {
    LowRank {
        a,
        b,
        rank,
        scale: 1.7,
        precision: Precision::F32,
        dropout,
    }
}

/// Inputs of these lengths, of as many seeds from `seed` on.
pub(crate) fn test_inputs(lengths: &[usize], seed: u64) -> Vec<Vec<f32>> {
    let seeded = lengths.iter().zip(seed..);
    seeded
        .map(|(length, seed)| test_values(*length, seed))
        .collect()
}

/// Holds every gradient against the central difference of `sum(output · weights)`, for random
/// weights. The forward pass is in 32 bits, so a difference over steps of a hundredth is exact to
/// about 1e-4 of the output's size; its third derivatives add as much.
/// `backward` has the gradients of all inputs, given that of the output.
pub(crate) fn check_gradients(
    mut inputs: Vec<Vec<f32>>,
    forward: impl Fn(&[Vec<f32>]) -> Vec<f32>,
    backward: impl Fn(&[Vec<f32>], &[f32]) -> Vec<Vec<f32>>,
) {
    const STEP: f32 = 1.0 / 128.0;
    let outputs = forward(&inputs).len();
    let weights = test_values(outputs, 77);
    let gradients = backward(&inputs, &weights);
    let total = |inputs: &[Vec<f32>]| -> f64 {
        let pairs = forward(inputs);
        let pairs = pairs.iter().zip(&weights);
        pairs.map(|(y, w)| f64::from(*y) * f64::from(*w)).sum()
    };
    let size = gradients
        .iter()
        .flatten()
        .fold(0.0_f32, |most, x| most.max(x.abs()));
    assert!(size > 0.0, "no gradient at all");
    for which in 0..inputs.len() {
        assert_eq!(inputs[which].len(), gradients[which].len());
        for n in 0..inputs[which].len() {
            let value = inputs[which][n];
            let mut at = |offset: f32| {
                inputs[which][n] = value + offset;
                total(&inputs)
            };
            // Richardson's extrapolation: the error of third derivatives cancels.
            let narrow = (at(STEP) - at(-STEP)) / f64::from(2.0 * STEP);
            let wide = (at(2.0 * STEP) - at(-2.0 * STEP)) / f64::from(4.0 * STEP);
            let want = (4.0 * narrow - wide) / 3.0;
            inputs[which][n] = value;
            let got = f64::from(gradients[which][n]);
            let bound = 3e-4 * f64::from(size) + 1e-3 * want.abs();
            assert!(
                (got - want).abs() < bound,
                "input {which}, element {n}: {got} instead of {want}"
            );
        }
    }
}
