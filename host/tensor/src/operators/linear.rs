//! A linear layer whose weights were packed when the model was loaded.

use super::{Activation, ShapeError, expect_len};
use crate::kernels::gemm::{Product, panel_width, product_f32, product_i16};
use crate::kernels::{Isa, rows};

/// The numbers in which a linear layer multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 16-bit integers with a scale for each row of the input and each column of the weights.
    ///
    /// Rows and columns are scaled until their Euclidean norm is just below `sqrt(2^31)`, so
    /// that every dot product, summed exactly in 32 bits, fits by the Cauchy-Schwarz inequality.
    /// What is lost is the rounding: relative to the product of the norms about
    /// `sqrt(k / 6) / 46,000`, 2e-4 for k = 384, ten times less than bfloat16 loses. On x86-64
    /// this is one and a half to two times as fast as `f32`, and it takes half the memory.
    I16,
}

/// `y = x · Wᵀ + b` with `W` of shape `[outputs, inputs]`.
#[derive(Debug)]
pub struct Linear {
    isa: Isa,
    inputs: usize,
    outputs: usize,
    weights: Weights,
    /// Padded to whole panels, as are the scales.
    bias: Vec<f32>,
}

#[derive(Debug)]
enum Weights {
    F32(Vec<Line>),
    I16 { panels: Vec<Line>, scales: Vec<f32> },
}

/// A cache line, so that panels are aligned to it.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Buffers that [`Linear::run`] reuses from call to call. One per thread.
#[derive(Debug, Default)]
pub struct LinearScratch {
    quantized: Vec<i16>,
    scales: Vec<f32>,
}

impl LinearScratch {
    /// Bytes that `tokens` rows of at most `widest` inputs take at `precision`.
    pub fn bytes(precision: Precision, tokens: u64, widest: u64) -> u64 {
        match precision {
            Precision::F32 => 0,
            Precision::I16 => tokens * (2 * (widest + widest % 2) + 4),
        }
    }
}

impl Linear {
    /// Packs the weights of a layer. `row(j, to)` writes row `j` of `W`, `inputs` elements; it is
    /// called once for each `j` in ascending order. `bias` holds `outputs` elements.
    ///
    /// # Errors
    /// When `bias` has another length, or a size is zero.
    pub fn pack(
        isa: Isa,
        precision: Precision,
        inputs: usize,
        outputs: usize,
        bias: &[f32],
        mut row: impl FnMut(usize, &mut [f32]),
    ) -> Result<Self, ShapeError> {
        expect_len("linear", "the bias", bias.len(), Some(outputs))?;
        if inputs == 0 || outputs == 0 {
            return Err(ShapeError {
                operator: "linear",
                what: "the weight matrix",
                got: 0,
                want: 1,
            });
        }
        let panel = panel_width(isa);
        let columns = outputs.next_multiple_of(panel);
        let mut padded = bias.to_vec();
        padded.resize(columns, 0.0);
        let mut values = vec![0.0_f32; inputs];
        let weights = match precision {
            Precision::F32 => {
                let mut panels = lines(columns * inputs * 4);
                let to: &mut [f32] = bytemuck::cast_slice_mut(&mut panels);
                for j in 0..outputs {
                    row(j, &mut values);
                    let start = j / panel * panel * inputs + j % panel;
                    for (k, &value) in values.iter().enumerate() {
                        to[start + k * panel] = value;
                    }
                }
                Weights::F32(panels)
            }
            Precision::I16 => {
                let even = inputs.next_multiple_of(2);
                let mut panels = lines(columns * even * 2);
                let mut scales = vec![0.0_f32; columns];
                let to: &mut [i16] = bytemuck::cast_slice_mut(&mut panels);
                let mut quantized = vec![0_i16; even];
                for (j, scale) in scales.iter_mut().enumerate().take(outputs) {
                    row(j, &mut values);
                    // SAFETY: one row of `inputs` floats, `even` integers and one scale.
                    unsafe {
                        rows::activate_and_quantize(
                            isa,
                            values.as_mut_ptr(),
                            1,
                            inputs,
                            Activation::Identity,
                            quantized.as_mut_ptr(),
                            scale,
                        );
                    }
                    let start = j / panel * panel * even + j % panel * 2;
                    for (pair, values) in quantized.chunks_exact(2).enumerate() {
                        let at = start + pair * panel * 2;
                        to[at..at + 2].copy_from_slice(values);
                    }
                }
                Weights::I16 { panels, scales }
            }
        };
        Ok(Self {
            isa,
            inputs,
            outputs,
            weights,
            bias: padded,
        })
    }

    /// Elements of an input row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Elements of an output row.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes of packed weights, scales and bias.
    pub fn bytes(&self) -> usize {
        let weights = match &self.weights {
            Weights::F32(panels) => panels.len() * 64,
            Weights::I16 { panels, scales } => panels.len() * 64 + scales.len() * 4,
        };
        weights + self.bias.len() * 4
    }

    /// `out[tokens, outputs] = before(x)[tokens, inputs] · Wᵀ + b`. `x` is overwritten with
    /// `before(x)`. A row with a NaN or an infinity gives a row of non-finite numbers.
    ///
    /// # Errors
    /// When `x` or `out` has another length than `tokens` rows.
    pub fn run(
        &self,
        x: &mut [f32],
        before: Activation,
        tokens: usize,
        scratch: &mut LinearScratch,
        out: &mut [f32],
    ) -> Result<(), ShapeError> {
        expect_len(
            "linear",
            "the input",
            x.len(),
            tokens.checked_mul(self.inputs),
        )?;
        expect_len(
            "linear",
            "the output",
            out.len(),
            tokens.checked_mul(self.outputs),
        )?;
        match &self.weights {
            Weights::F32(panels) => {
                let w: &[f32] = bytemuck::cast_slice(panels);
                // SAFETY: `x` and `out` were checked above; `pack` sized panels and bias.
                unsafe {
                    rows::activate(self.isa, x.as_mut_ptr(), x.len(), before);
                    product_f32(
                        self.isa,
                        &Product {
                            a: x.as_ptr(),
                            lda: self.inputs,
                            m: tokens,
                            steps: self.inputs,
                            w: w.as_ptr(),
                            n: self.outputs,
                            bias: self.bias.as_ptr(),
                            row_scale: std::ptr::null(),
                            col_scale: std::ptr::null(),
                            out: out.as_mut_ptr(),
                        },
                    );
                }
            }
            Weights::I16 { panels, scales } => {
                let even = self.inputs.next_multiple_of(2);
                let LinearScratch {
                    quantized,
                    scales: row_scales,
                } = scratch;
                grow(quantized, tokens * even);
                grow(row_scales, tokens);
                let w: &[i16] = bytemuck::cast_slice(panels);
                // SAFETY: `x` and `out` were checked above, the scratch was grown to `tokens`
                // rows; `pack` sized panels, scales and bias.
                unsafe {
                    rows::activate_and_quantize(
                        self.isa,
                        x.as_mut_ptr(),
                        tokens,
                        self.inputs,
                        before,
                        quantized.as_mut_ptr(),
                        row_scales.as_mut_ptr(),
                    );
                    product_i16(
                        self.isa,
                        &Product {
                            a: quantized.as_ptr(),
                            lda: even,
                            m: tokens,
                            steps: even / 2,
                            w: w.as_ptr(),
                            n: self.outputs,
                            bias: self.bias.as_ptr(),
                            row_scale: row_scales.as_ptr(),
                            col_scale: scales.as_ptr(),
                            out: out.as_mut_ptr(),
                        },
                    );
                }
            }
        }
        Ok(())
    }
}

fn lines(bytes: usize) -> Vec<Line> {
    vec![Line([0; 64]); bytes.div_ceil(64)]
}

fn grow<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed | 1;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn pack(isa: Isa, precision: Precision, k: usize, n: usize, w: &[f32], b: &[f32]) -> Linear {
        Linear::pack(isa, precision, k, n, b, |j, to| {
            to.copy_from_slice(&w[j * k..(j + 1) * k]);
        })
        .unwrap()
    }

    fn run(layer: &Linear, x: &[f32], tokens: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; tokens * layer.outputs()];
        layer
            .run(
                &mut x.to_vec(),
                Activation::Identity,
                tokens,
                &mut LinearScratch::default(),
                &mut out,
            )
            .unwrap();
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn agrees_with_double_precision(
            m in 1_usize..30, k in 1_usize..70, n in 1_usize..70, seed in any::<u64>(),
        ) {
            let (x, w, b) = (numbers(m * k, seed), numbers(n * k, !seed), numbers(n, seed ^ 7));
            for isa in Isa::available() {
                for (precision, bound) in [(Precision::F32, 1e-6), (Precision::I16, 1e-4)] {
                    let out = run(&pack(isa, precision, k, n, &w, &b), &x, m);
                    for i in 0..m {
                        for j in 0..n {
                            let (xs, ws) = (&x[i * k..][..k], &w[j * k..][..k]);
                            let dot = |a: &[f32], b: &[f32]| -> f64 {
                                a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum()
                            };
                            let want = dot(xs, ws) + b[j] as f64;
                            let norm = (dot(xs, xs) * dot(ws, ws)).sqrt() + 1.0;
                            let got = out[i * n + j] as f64;
                            prop_assert!(
                                (got - want).abs() <= bound * norm,
                                "{} {precision:?} [{i}, {j}]: {got} instead of {want}",
                                isa.name()
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let (k, n, m) = (96, 50, 29);
        let (x, w, b) = (numbers(m * k, 3), numbers(n * k, 4), numbers(n, 5));
        for isa in Isa::available() {
            for precision in [Precision::F32, Precision::I16] {
                let layer = pack(isa, precision, k, n, &w, &b);
                let all = run(&layer, &x, m);
                for i in 0..m {
                    let alone = run(&layer, &x[i * k..][..k], 1);
                    assert_eq!(alone, all[i * n..][..n], "{} row {i}", isa.name());
                }
            }
        }
    }

    #[test]
    fn extreme_rows_neither_overflow_nor_hide() {
        let (k, n) = (1536, 16);
        let w = vec![1.0; n * k];
        for isa in Isa::available() {
            let layer = pack(isa, Precision::I16, k, n, &w, &vec![0.0; n]);
            // All equal, so that the sum comes as near to 2^31 as it can.
            for scale in [1e-30, 1.0, 1e30] {
                let out = run(&layer, &vec![scale; k], 1);
                let want = k as f32 * scale;
                assert!(
                    out.iter().all(|x| ((x - want) / want).abs() < 1e-3),
                    "{out:?}"
                );
            }
            let mut one = vec![0.0; k];
            one[7] = 5.0;
            assert!(run(&layer, &one, 1).iter().all(|x| (x - 5.0).abs() < 1e-2));
            assert_eq!(run(&layer, &vec![0.0; k], 1), vec![0.0; n]);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                one[7] = bad;
                assert!(run(&layer, &one, 1).iter().all(|x| !x.is_finite()), "{bad}");
            }
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let layer = pack(Isa::best(), Precision::F32, 4, 4, &[0.5; 16], &[0.0; 4]);
        let mut out = [0.0; 8];
        let wrong = layer.run(
            &mut [0.0; 7],
            Activation::Identity,
            2,
            &mut LinearScratch::default(),
            &mut out,
        );
        assert_eq!(wrong.unwrap_err().want, 8);
        assert!(Linear::pack(Isa::best(), Precision::F32, 4, 4, &[0.0; 3], |_, _| {}).is_err());
        assert!(Linear::pack(Isa::best(), Precision::F32, 0, 4, &[0.0; 4], |_, _| {}).is_err());
    }
}
