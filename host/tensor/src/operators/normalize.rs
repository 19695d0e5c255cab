//! Layer normalisation, with the residual that comes before it in an encoder.

use super::{Isa, ShapeError, expect_len};
use crate::kernels::rows::{Normalize, add_and_normalize};

/// Scale and shift of a layer normalisation.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// `[width]`.
    pub gamma: Vec<f32>,
    /// `[width]`.
    pub beta: Vec<f32>,
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm {
    /// `x = normalize(x + add)` for each row of `x[rows, width]`; `add` has the shape of `x`.
    ///
    /// # Errors
    /// When `x` is not whole rows, or `add` or `beta` has another length.
    pub fn run(&self, isa: Isa, x: &mut [f32], add: Option<&[f32]>) -> Result<(), ShapeError> {
        let width = self.gamma.len();
        expect_len("layer norm", "beta", self.beta.len(), Some(width))?;
        let rows = x.len().checked_div(width).unwrap_or(0);
        expect_len("layer norm", "the input", x.len(), Some(rows * width))?;
        if let Some(add) = add {
            expect_len("layer norm", "the residual", add.len(), Some(x.len()))?;
        }
        // SAFETY: lengths were checked above, and `width` is positive where there are rows.
        unsafe {
            add_and_normalize(
                isa,
                &Normalize {
                    x: x.as_mut_ptr(),
                    add: add.map_or(std::ptr::null(), <[f32]>::as_ptr),
                    m: rows,
                    n: width,
                    gamma: self.gamma.as_ptr(),
                    beta: self.beta.as_ptr(),
                    eps: self.eps,
                },
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_double_precision(
            width in 1_usize..50,
            values in prop::collection::vec(-3.0_f32..3.0, 150),
        ) {
            let norm = LayerNorm {
                gamma: values[..width].to_vec(),
                beta: values[50..50 + width].to_vec(),
                eps: 1e-5,
            };
            let (x, add) = (&values[..2 * width], &values[20..20 + 2 * width]);
            for isa in Isa::available() {
                let mut got = x.to_vec();
                norm.run(isa, &mut got, Some(add)).unwrap();
                for row in 0..2 {
                    let sums: Vec<f64> = (0..width)
                        .map(|i| f64::from(x[row * width + i] + add[row * width + i]))
                        .collect();
                    let mean = sums.iter().sum::<f64>() / width as f64;
                    let var = sums.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / width as f64;
                    for i in 0..width {
                        let want = (sums[i] - mean) / (var + 1e-5).sqrt()
                            * f64::from(norm.gamma[i])
                            + f64::from(norm.beta[i]);
                        let error = (f64::from(got[row * width + i]) - want).abs();
                        prop_assert!(error < 2e-4, "{} {error}", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let norm = LayerNorm {
            gamma: vec![1.0; 4],
            beta: vec![0.0; 4],
            eps: 1e-5,
        };
        assert!(norm.run(Isa::best(), &mut [0.0; 7], None).is_err());
        assert!(
            norm.run(Isa::best(), &mut [0.0; 8], Some(&[0.0; 4]))
                .is_err()
        );
    }
}
