//! The output layer: how probable tokens are, and what follows for the hidden states.
//!
//! Logits of a whole batch would be its largest buffer by far. Here they exist for a few rows at
//! a time, and the gradient takes their place.

use skep_kernels::rows::exp;

use crate::gemm::{Lhs, Product, Rhs, RowSource, Workers, product};
use crate::operators::rows::wide;
use crate::operators::share_rows;

/// Bytes of logits at a time.
const CHUNK: usize = 16 << 20;

/// Rows whose logits exist at a time, of so many columns.
pub(crate) fn rows_at_a_time(columns: usize, rows: usize) -> usize {
    // Some hundred rows at least, or taking the weights apart costs more than their product.
    (CHUNK / (4 * columns.max(1))).max(112).min(rows)
}

/// For each row of `hidden`, `[rows, width]`, the logarithm of the probability of its target is
/// handed to `coefficient`, with the row's number, in order. Where there is a `dhidden`, what
/// that returns is the loss's derivative by it, and `dhidden` becomes that by `hidden`.
pub(crate) fn target_probabilities(
    workers: Workers<'_>,
    weights: &dyn RowSource,
    hidden: &[f32],
    targets: &[u32],
    mut coefficient: impl FnMut(usize, f32) -> f32,
    mut dhidden: Option<&mut [f32]>,
) {
    let (vocabulary, width) = (weights.rows(), weights.columns());
    let at_a_time = rows_at_a_time(vocabulary, targets.len());
    let mut logits = vec![0.0; at_a_time * vocabulary];
    let mut totals = vec![0.0; at_a_time];
    let mut coefficients = vec![0.0; at_a_time];
    let mut first = 0;
    while first < targets.len() {
        let count = at_a_time.min(targets.len() - first);
        let logits = &mut logits[..count * vocabulary];
        let hidden = &hidden[first * width..(first + count) * width];
        let targets = &targets[first..first + count];
        let asked = Product {
            m: count,
            n: vocabulary,
            k: width,
            a: Lhs::rows(hidden, width),
            b: Rhs::unpacked_columns(weights),
            add: false,
        };
        product(workers, &asked, logits);
        let rows: &[f32] = logits;
        share_rows(workers.team, &mut totals[..count], 1, |start, totals| {
            for (n, total) in totals.iter_mut().enumerate() {
                let row = &rows[(start + n) * vocabulary..][..vocabulary];
                log_of_sum(workers.simd, row, total);
            }
        });
        for (n, target) in targets.iter().enumerate() {
            let logit = logits[n * vocabulary + *target as usize];
            coefficients[n] = coefficient(first + n, logit - totals[n]);
        }
        if let Some(dhidden) = dhidden.as_deref_mut() {
            share_rows(workers.team, logits, vocabulary, |start, rows| {
                for (n, row) in rows.chunks_exact_mut(vocabulary).enumerate() {
                    let coefficient = coefficients[start + n];
                    probabilities(workers.simd, row, totals[start + n], -coefficient);
                    row[targets[start + n] as usize] += coefficient;
                }
            });
            let asked = Product {
                m: count,
                n: width,
                k: vocabulary,
                a: Lhs::rows(logits, vocabulary),
                b: Rhs::unpacked(weights),
                add: false,
            };
            product(
                workers,
                &asked,
                &mut dhidden[first * width..(first + count) * width],
            );
        }
        first += count;
    }
}

wide! {
    /// The logarithm of the sum of the exponentials of a row.
    fn log_of_sum(row: &[f32], out: &mut f32) {
        let mut most = [f32::MIN; 16];
        let (parts, rest) = row.as_chunks::<16>();
        for part in parts {
            for (most, x) in most.iter_mut().zip(part) {
                *most = if *x > *most { *x } else { *most };
            }
        }
        let most = rest.iter().chain(&most).fold(f32::MIN, |a, b| a.max(*b));
        let mut sums = [0.0_f32; 16];
        for part in parts {
            for (sum, x) in sums.iter_mut().zip(part) {
                *sum += exp(*x - most);
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            *sum += exp(*x - most);
        }
        let sum = sums.iter().map(|x| f64::from(*x)).sum::<f64>();
        *out = (f64::from(most) + sum.ln()) as f32;
    }
}

wide! {
    /// The probabilities of a row of logits, scaled, in their place.
    fn probabilities(row: &mut [f32], total: f32, scale: f32) {
        for x in row {
            *x = exp(*x - total) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::Simd;
    use crate::random::test_values;
    use crate::testing::{check_gradients, workers};
    use skep_decoder::LinearWeights;
    use skep_kernels::Team;
    use skep_weights::{PackedFormat, PackedTensor};

    #[test]
    fn gradients_of_log_probabilities_are_those_of_differences() {
        let (rows, width, vocabulary) = (3, 8, 40_000);
        let bytes = test_values(vocabulary * width, 1)
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let shape = [vocabulary as u64, width as u64];
        let weights = PackedTensor::from_bytes(PackedFormat::F32, &shape, bytes).unwrap();
        let weights = LinearWeights::Packed(weights);
        let team = Team::new(2).unwrap();
        let targets = [7, 39_999, 0];
        for simd in Simd::available() {
            let workers = Workers { simd, team: &team };
            check_gradients(
                vec![test_values(rows * width, 2)],
                |values| {
                    let mut all = vec![0.0; rows];
                    let keep = |row: usize, x| {
                        all[row] = x;
                        0.0
                    };
                    target_probabilities(workers, &weights, &values[0], &targets, keep, None);
                    all
                },
                |values, dy| {
                    let mut out = vec![0.0; rows * width];
                    let of = |row: usize, _| dy[row];
                    let to = Some(out.as_mut_slice());
                    target_probabilities(workers, &weights, &values[0], &targets, of, to);
                    vec![out]
                },
            );
        }
        // More rows than fit at a time give what each gives alone.
        let many = rows_at_a_time(vocabulary, usize::MAX) + 5;
        let workers = workers(&team);
        let hidden = test_values(many * width, 3);
        let targets: Vec<u32> = (0..many as u32)
            .map(|n| n * 31 % vocabulary as u32)
            .collect();
        let run = |range: std::ops::Range<usize>| {
            let mut all = Vec::new();
            let mut out = vec![0.0; range.len() * width];
            let part = &hidden[range.start * width..range.end * width];
            let keep = |_: usize, x| {
                all.push(x);
                -0.5
            };
            let to = Some(out.as_mut_slice());
            target_probabilities(workers, &weights, part, &targets[range], keep, to);
            (all, out)
        };
        let (all, gradients) = run(0..many);
        for row in [0, many - 6, many - 1] {
            let (alone, gradient) = run(row..row + 1);
            assert_eq!(alone[0], all[row]);
            assert_eq!(gradient, gradients[row * width..(row + 1) * width]);
        }
    }
}
