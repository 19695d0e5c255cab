//! The operator of directions and lengths against dense sums in 64 bits, and its gradients against differences.

use super::*;
use crate::nf4::Nf4Matrix;
use crate::operators::frozen::Matrix;
use crate::random::test_values;
use crate::testing::{DROPPING, check_gradients, low_rank, test_inputs, workers};
use skep_accounts::Account;
use skep_decoder::LinearWeights;
use skep_kernels::Team;
use skep_weights::{PackedFormat, PackedTensor};

/// A matrix of floats with a bias.
fn frozen(outputs: usize, inputs: usize) -> Frozen {
    let values = test_values(outputs * inputs, 11);
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let shape = [outputs as u64, inputs as u64];
    let tensor = PackedTensor::from_bytes(PackedFormat::F32, &shape, bytes).unwrap();
    Frozen {
        matrix: Matrix::Own(LinearWeights::Packed(tensor)),
        bias: Some(test_values(outputs, 12)),
    }
}

/// The lengths are constants, so these are differences of a function in which they do not move.
#[test]
fn gradients_are_those_of_differences_at_fixed_lengths() {
    let (tokens, inputs, outputs, rank) = (5, 12, 9, 3);
    let team = Team::new(2).unwrap();
    let workers = workers(&team);
    let frozen = frozen(outputs, inputs);
    let inverse: Vec<f32> = test_values(outputs, 13)
        .iter()
        .map(|x| 0.2 + x.abs())
        .collect();
    let sizes = [tokens * inputs, rank * inputs, outputs * rank, outputs];
    for dropout in [None, Some(DROPPING)] {
        let scale = |values: &[Vec<f32>]| -> Vec<f32> {
            let both = values[3].iter().zip(&inverse);
            both.map(|(magnitude, inverse)| magnitude * inverse)
                .collect()
        };
        let forward = |values: &[Vec<f32>]| {
            let scale = scale(values);
            let dora = Dora {
                frozen: &frozen,
                low: low_rank(&values[1], &values[2], rank, dropout),
                scales: Scales {
                    scale: &scale,
                    inverse: &inverse,
                },
            };
            // Whatever was there before is written over.
            let mut y = vec![0.5; tokens * outputs];
            let mut direction = y.clone();
            let mut between = vec![0.5; tokens * rank];
            dora.forward(workers, &values[0], &mut y, &mut between, &mut direction);
            (y, between, direction)
        };
        for adds in [false, true] {
            check_gradients(
                test_inputs(&sizes, 1),
                |values| forward(values).0,
                |values, dy| {
                    let (_, between, direction) = forward(values);
                    let scale = scale(values);
                    let dora = Dora {
                        frozen: &frozen,
                        low: low_rank(&values[1], &values[2], rank, dropout),
                        scales: Scales {
                            scale: &scale,
                            inverse: &inverse,
                        },
                    };
                    let mut all: Vec<Vec<f32>> = sizes.iter().map(|n| vec![0.0; *n]).collect();
                    all[0].fill(9.0);
                    let [x, a, b, magnitude] = all.as_mut_slice() else {
                        unreachable!()
                    };
                    let kept = DoraKept {
                        between: &between,
                        direction: &direction,
                    };
                    let to = DoraGradients {
                        a,
                        b,
                        magnitude,
                        x: Some((x.as_mut_slice(), adds)),
                    };
                    let mut room = vec![0.5; tokens * outputs];
                    dora.backward(workers, &values[0], kept, dy, &mut room, to);
                    if adds {
                        all[0].iter_mut().for_each(|x| *x -= 9.0);
                    }
                    all
                },
            );
        }
    }
}

/// Against the formula with a dense matrix in 64 bits: what is dropped is dropped for the scaled part
/// alone.
#[test]
fn outputs_are_those_of_the_scaled_matrix() {
    let (tokens, inputs, outputs, rank) = (4, 12, 9, 3);
    let team = Team::new(2).unwrap();
    let workers = workers(&team);
    let frozen = frozen(outputs, inputs);
    let (a, b) = (
        test_values(rank * inputs, 2),
        test_values(outputs * rank, 3),
    );
    let (x, magnitudes) = (test_values(tokens * inputs, 1), test_values(outputs, 4));
    let pool = Pool::new(&Account::unlimited());
    for dropout in [None, Some(DROPPING)] {
        let low = low_rank(&a, &b, rank, dropout);
        let mut scales = vec![0.0; 2 * outputs];
        let source = frozen.matrix.source();
        row_lengths(workers, &pool, source, &low, &mut scales[..outputs]).unwrap();
        Scales::write(&magnitudes, &mut scales);
        let (scale, inverse) = scales.split_at(outputs);
        let dora = Dora {
            frozen: &frozen,
            low,
            scales: Scales { scale, inverse },
        };
        let mut y = vec![0.0; tokens * outputs];
        let (mut between, mut direction) = (vec![0.0; tokens * rank], y.clone());
        dora.forward(workers, &x, &mut y, &mut between, &mut direction);

        let mut stays = x.clone();
        if let Some(dropout) = dropout {
            dropout.apply(workers, &x, &mut stays, false);
            assert_ne!(stays, x);
        }
        let mut row = vec![0.0; inputs];
        for (n, magnitude) in magnitudes.iter().enumerate() {
            source.read(n, 0..inputs, &mut row);
            let base: Vec<f64> = row.iter().map(|w| f64::from(*w)).collect();
            let turned = |k: usize| {
                let change = (0..rank).map(|r| f64::from(b[n * rank + r] * a[r * inputs + k]));
                base[k] + f64::from(low.scale) * change.sum::<f64>()
            };
            let turned: Vec<f64> = (0..inputs).map(turned).collect();
            let length = turned.iter().map(|w| w * w).sum::<f64>().sqrt();
            let by = f64::from(*magnitude) / length;
            for token in 0..tokens {
                let at = |k: usize| {
                    let (all, some) = (x[token * inputs + k], stays[token * inputs + k]);
                    by * turned[k] * f64::from(some) + base[k] * (f64::from(all) - f64::from(some))
                };
                let bias = frozen.bias.as_ref().map_or(0.0, |bias| bias[n]);
                let want = (0..inputs).map(at).sum::<f64>() + f64::from(bias);
                let got = f64::from(y[token * outputs + n]);
                assert!((got - want).abs() < 1e-5, "{dropout:?}: {got} {want}");
            }
        }
    }
}

/// The lengths of every format's rows, and of more of them than are unpacked at a time.
#[test]
fn rows_are_as_long_as_their_dequantized_sums() {
    let (outputs, inputs, rank) = (2 * ROWS + 5, 768, 3);
    let account = Account::unlimited();
    let pool = Pool::new(&account);
    let values = test_values(outputs * inputs, 1);
    let nf4 = Nf4Matrix::quantize(outputs, inputs, &account, |row, out| {
        out.copy_from_slice(&values[row * inputs..(row + 1) * inputs]);
    });
    let mut all = vec![Matrix::Nf4(nf4.unwrap())];
    for format in PackedFormat::ALL {
        // Any bytes are weights, if their scales are no NaN: bytes below 0x38 are small floats.
        let shape = [outputs as u64, inputs as u64];
        let noise = test_values(format.tensor_bytes(&shape).unwrap(), 2);
        let bytes = noise.iter().map(|x| (x.abs() * 56.0) as u8).collect();
        let tensor = PackedTensor::from_bytes(format, &shape, bytes).unwrap();
        all.push(Matrix::Own(LinearWeights::Packed(tensor)));
    }
    let a = test_values(rank * inputs, 3);
    for matrix in all {
        let mut dense = vec![0.0; outputs * inputs];
        for (row, out) in dense.chunks_exact_mut(inputs).enumerate() {
            matrix.row(row, 1.0, out);
        }
        // As large as the base's, so that both count.
        let size = dense.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
        let b: Vec<f32> = test_values(outputs * rank, 4)
            .iter()
            .map(|b| b * size)
            .collect();
        let measure = |b: &[f32], threads: usize| {
            let team = Team::new(threads).unwrap();
            let workers = workers(&team);
            let mut lengths = vec![7.0; outputs];
            let low = low_rank(&a, b, rank, None);
            row_lengths(workers, &pool, matrix.source(), &low, &mut lengths).unwrap();
            lengths
        };
        let (plain, turned) = (measure(&vec![0.0; outputs * rank], 2), measure(&b, 2));
        assert_eq!(turned, measure(&b, 1), "the number of threads shows");
        for (n, (plain, turned)) in plain.iter().zip(&turned).enumerate() {
            let length = |scale: f64| {
                let of = |k: usize| {
                    let change = (0..rank)
                        .map(|r| f64::from(b[n * rank + r]) * f64::from(a[r * inputs + k]));
                    (f64::from(dense[n * inputs + k]) + scale * change.sum::<f64>()).powi(2)
                };
                (0..inputs).map(of).sum::<f64>().sqrt()
            };
            for (got, want) in [(plain, length(0.0)), (turned, length(1.7))] {
                let error = (f64::from(*got) / want - 1.0).abs();
                assert!(error < 1e-5, "{matrix:?}, row {n}: {got} {want}");
            }
        }
    }
}

/// A row of zeros has no direction: it stays one, and teaches nothing that is not finite.
#[test]
fn a_row_of_zeros_stays_one() {
    let mut scales = [2.0, 0.0, 4.0, 9.0, 9.0, 9.0];
    Scales::write(&[3.0, 5.0, 4.0], &mut scales);
    assert_eq!(scales, [1.5, 0.0, 1.0, 0.5, 0.0, 0.25]);
}
