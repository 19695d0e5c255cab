//! Layer normalisation of each token's row, and its backward pass (arXiv 1607.06450).

use crate::gemm::Workers;
use crate::operators::rows::{sum_of, wide};
use crate::operators::share_rows;

/// A norm whose weights never change.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    pub gain: Vec<f32>,
    pub offset: Vec<f32>,
    pub epsilon: f32,
}

impl LayerNorm {
    /// `out = (x - mean) / sqrt(variance + epsilon) * gain + offset`, row by row.
    pub fn forward(&self, workers: Workers<'_>, x: &[f32], out: &mut [f32]) {
        let width = self.gain.len();
        share_rows(workers.team, out, width, |first, out| {
            let x = &x[first * width..][..out.len()];
            let weights = (self.gain.as_slice(), self.offset.as_slice());
            norm_rows(workers.simd, x, weights, self.epsilon, out);
        });
    }

    /// Puts the gradient of the input `x` in the place of that of the output.
    pub fn backward(&self, workers: Workers<'_>, x: &[f32], gradient: &mut [f32]) {
        let width = self.gain.len();
        share_rows(workers.team, gradient, width, |first, gradient| {
            let x = &x[first * width..][..gradient.len()];
            norm_rows_backward(workers.simd, x, &self.gain, self.epsilon, gradient);
        });
    }
}

/// The mean of a row, and what its deviations are multiplied with.
#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = sum_of(|n| x[n], x.len()) / count;
    let variance = sum_of(|n| (x[n] - mean) * (x[n] - mean), x.len()) / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

wide! {
    fn norm_rows(x: &[f32], weights: (&[f32], &[f32]), epsilon: f32, out: &mut [f32]) {
        let (gain, offset) = weights;
        let width = gain.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let (mean, scale) = moments(x, epsilon);
            for (((out, x), gain), offset) in out.iter_mut().zip(x).zip(gain).zip(offset) {
                *out = (x - mean) * scale * gain + offset;
            }
        }
    }
}

wide! {
    fn norm_rows_backward(x: &[f32], gain: &[f32], epsilon: f32, gradient: &mut [f32]) {
        let width = gain.len();
        let rows = x.chunks_exact(width).zip(gradient.chunks_exact_mut(width));
        for (x, gradient) in rows {
            let (mean, scale) = moments(x, epsilon);
            for (gradient, gain) in gradient.iter_mut().zip(gain) {
                *gradient *= gain;
            }
            let even = sum_of(|n| gradient[n], width) / width as f32;
            let along = sum_of(|n| gradient[n] * (x[n] - mean), width) * scale / width as f32;
            for (gradient, x) in gradient.iter_mut().zip(x) {
                *gradient = scale * (*gradient - even - (x - mean) * scale * along);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::Simd;
    use crate::random::test_values;
    use crate::testing::check_gradients;
    use skep_kernels::Team;

    #[test]
    fn norms_are_as_defined_and_have_the_gradients_of_differences() {
        let norm = LayerNorm {
            gain: test_values(21, 5),
            offset: test_values(21, 6),
            epsilon: 1e-3,
        };
        let team = Team::new(2).unwrap();
        for simd in Simd::available() {
            let workers = Workers { simd, team: &team };
            let run = |values: &[Vec<f32>]| {
                let mut out = vec![0.0; values[0].len()];
                norm.forward(workers, &values[0], &mut out);
                out
            };
            let x = test_values(4 * 21, 7);
            for (row, got) in x.chunks(21).zip(run(std::slice::from_ref(&x)).chunks(21)) {
                let wide = || row.iter().map(|x| f64::from(*x));
                let mean = wide().sum::<f64>() / 21.0;
                let variance = wide().map(|x| (x - mean).powi(2)).sum::<f64>() / 21.0;
                for (n, got) in got.iter().enumerate() {
                    let scaled = (f64::from(row[n]) - mean) / (variance + 1e-3).sqrt();
                    let want = scaled * f64::from(norm.gain[n]) + f64::from(norm.offset[n]);
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{simd:?}");
                }
            }
            check_gradients(vec![x], run, |values, dy| {
                let mut gradient = dy.to_vec();
                norm.backward(workers, &values[0], &mut gradient);
                vec![gradient]
            });
        }
    }
}
