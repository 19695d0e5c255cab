//! What is done to each token's row between products: norms, rotary positions, gates.
//!
//! Everything here is in f32, row by row, and small beside the products; loops are written so
//! that the compiler makes wide instructions of them.

use crate::isa::Isa;
use crate::{ShapeError, expect_len};

/// Calls a function under the instructions of the machine.
macro_rules! dispatch {
    ($isa:expr, $plain:ident, $wide:ident, ($($argument:expr),*)) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if $isa.is_available() => {
                // SAFETY: the machine has these instructions.
                unsafe { $wide($($argument),*) }
            }
            _ => $plain($($argument),*),
        }
    };
}

/// How the two parts of a pair that turns together lie in a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeLayout {
    /// Element `i` with element `i + dim / 2`, as Hugging Face's weights have it.
    Halves,
    /// Element `2 i` with element `2 i + 1`, as the original Llama's weights and their GGUF
    /// files have it.
    Pairs,
}

/// Angles of rotary positions (RoFormer, arXiv 2104.09864, section 3.4.2).
#[derive(Debug, Clone)]
pub struct Rope {
    layout: RopeLayout,
    /// Turns a position, in radians, for each pair of a head.
    frequencies: Vec<f64>,
}

impl Rope {
    /// `frequencies` has the radians that each of the first pairs of a head turns by a position;
    /// elements beyond the pairs do not turn.
    pub fn new(layout: RopeLayout, frequencies: Vec<f64>) -> Self {
        Self {
            layout,
            frequencies,
        }
    }

    /// How the two parts of a pair lie in a head.
    pub fn layout(&self) -> RopeLayout {
        self.layout
    }

    /// The radians that each of the first pairs of a head turns by a position.
    pub fn radians(&self) -> &[f64] {
        &self.frequencies
    }

    /// The usual frequencies: `base ^ (-2 i / dim)`.
    pub fn frequencies(base: f64, dim: usize) -> Vec<f64> {
        (0..dim / 2)
            .map(|i| base.powf(-2.0 * i as f64 / dim as f64))
            .collect()
    }

    /// Turns every head of each row of `rows`, `[tokens, heads * dim]`, to its token's position.
    ///
    /// # Errors
    /// When a row is no whole number of heads, there are not as many positions as rows, or a
    /// head has fewer elements than the pairs need.
    pub fn apply(&self, rows: &mut [f32], positions: &[u32], dim: usize) -> Result<(), ShapeError> {
        let pairs = self.frequencies.len();
        let width = rows.len().checked_div(positions.len()).unwrap_or(0);
        let heads = width.checked_div(dim).unwrap_or(0);
        let want = positions.len().checked_mul(heads * dim);
        expect_len("rope", "the input", rows.len(), want)?;
        if 2 * pairs > dim {
            return expect_len("rope", "a head", dim, Some(2 * pairs));
        }
        if width == 0 {
            return Ok(());
        }
        let mut turns = vec![(0.0_f32, 0.0_f32); pairs];
        for (row, position) in rows.chunks_exact_mut(width).zip(positions) {
            for (turn, frequency) in turns.iter_mut().zip(&self.frequencies) {
                // In double precision: at position 100,000 an f32 angle is off by a hundredth.
                let (sin, cos) = (f64::from(*position) * frequency).sin_cos();
                *turn = (sin as f32, cos as f32);
            }
            for head in row.chunks_exact_mut(dim) {
                for (i, (sin, cos)) in turns.iter().enumerate() {
                    let (a, b) = match self.layout {
                        RopeLayout::Halves => (i, i + pairs),
                        RopeLayout::Pairs => (2 * i, 2 * i + 1),
                    };
                    let (x, y) = (head[a], head[b]);
                    head[a] = x * cos - y * sin;
                    head[b] = x * sin + y * cos;
                }
            }
        }
        Ok(())
    }
}

/// `out = x / sqrt(mean(x²) + epsilon) * weight` for each row of `weight.len()` elements
/// (arXiv 1910.07467).
///
/// # Errors
/// When lengths do not fit together.
pub fn rms_norm(
    isa: Isa,
    rows: &[f32],
    weight: &[f32],
    epsilon: f32,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    let width = weight.len();
    expect_len("rms_norm", "the output", out.len(), Some(rows.len()))?;
    let whole = rows.len().checked_div(width).unwrap_or(0) * width;
    expect_len("rms_norm", "the input", rows.len(), Some(whole))?;
    if width > 0 {
        out.copy_from_slice(rows);
        dispatch!(isa, norm_plain, norm_avx2, (out, weight, epsilon));
    }
    Ok(())
}

/// As [`rms_norm`], in place: for the norm of each head of queries and keys.
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_norm_in_place(
    isa: Isa,
    rows: &mut [f32],
    weight: &[f32],
    epsilon: f32,
) -> Result<(), ShapeError> {
    let width = weight.len();
    let whole = rows.len().checked_div(width).unwrap_or(0) * width;
    expect_len("rms_norm", "the input", rows.len(), Some(whole))?;
    if width > 0 {
        dispatch!(isa, norm_plain, norm_avx2, (rows, weight, epsilon));
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn norm_avx2(rows: &mut [f32], weight: &[f32], epsilon: f32) {
    norm_plain(rows, weight, epsilon);
}

#[inline(always)]
fn norm_plain(rows: &mut [f32], weight: &[f32], epsilon: f32) {
    for row in rows.chunks_exact_mut(weight.len()) {
        let mut squares = [0.0_f32; 16];
        let (parts, rest) = row.as_chunks::<16>();
        for part in parts {
            for (square, x) in squares.iter_mut().zip(part) {
                *square += x * x;
            }
        }
        for (square, x) in squares.iter_mut().zip(rest) {
            *square += x * x;
        }
        let mean = squares.iter().sum::<f32>() / weight.len() as f32;
        let scale = 1.0 / (mean + epsilon).sqrt();
        for (x, weight) in row.iter_mut().zip(weight) {
            *x = *x * scale * weight;
        }
    }
}

/// The function of a gated feed-forward layer (arXiv 2002.05202).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gate {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU in its approximation by the hyperbolic tangent (arXiv 1606.08415, section 2).
    GeluTanh,
}

/// `gate[i] = function(gate[i]) * up[i]`.
///
/// # Errors
/// When the lengths differ.
pub fn gated(isa: Isa, function: Gate, gate: &mut [f32], up: &[f32]) -> Result<(), ShapeError> {
    expect_len("gated", "the second input", up.len(), Some(gate.len()))?;
    dispatch!(isa, gated_plain, gated_avx2, (function, gate, up));
    Ok(())
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn gated_avx2(function: Gate, gate: &mut [f32], up: &[f32]) {
    gated_plain(function, gate, up);
}

#[inline(always)]
fn gated_plain(function: Gate, gate: &mut [f32], up: &[f32]) {
    // 2 sqrt(2 / pi): tanh(u) is 2 sigmoid(2 u) - 1, so both are x times a sigmoid.
    const TWICE: f32 = 1.595_769;
    match function {
        Gate::Silu => {
            for (x, up) in gate.iter_mut().zip(up) {
                *x = *x / (1.0 + exp(-*x)) * up;
            }
        }
        Gate::GeluTanh => {
            for (x, up) in gate.iter_mut().zip(up) {
                let inner = TWICE * (*x + 0.044_715 * *x * *x * *x);
                *x = *x / (1.0 + exp(-inner)) * up;
            }
        }
    }
}

/// `to[i] += from[i]`, for the residual stream.
///
/// # Errors
/// When the lengths differ.
pub fn add(to: &mut [f32], from: &[f32]) -> Result<(), ShapeError> {
    expect_len("add", "the second input", from.len(), Some(to.len()))?;
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
    Ok(())
}

/// `e ^ x` to within 2 units in the last place, without a branch: `2 ^ n` times a polynomial of
/// degree 6 on what is left. Below -87 it is 0 or nearly, above 88 it stays finite.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, of which the first has few bits, so that its multiples are exact.
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.3);
    let n = (x * LOG2_E).round_ties_even();
    let r = x - n * HIGH - n * LOW;
    // Taylor's, up to r⁷: |r| is at most half of ln 2.
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    let power = ((n as i32 + 127) as u32) << 23;
    p * f32::from_bits(power)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exponentials_agree(x in -87.0_f32..88.0) {
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            prop_assert!(error < 3e-7, "{x}: {error}");
        }

        #[test]
        fn norms_and_gates_agree_with_double_precision(
            rows in prop::collection::vec(-8.0_f32..8.0, 3 * 37),
            weight in prop::collection::vec(0.1_f32..2.0, 37),
        ) {
            for isa in Isa::available() {
                let mut out = vec![0.0; rows.len()];
                rms_norm(isa, &rows, &weight, 1e-5, &mut out).unwrap();
                for (row, got) in rows.chunks(37).zip(out.chunks(37)) {
                    let square: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
                    let root = (square / 37.0 + 1e-5).sqrt();
                    for ((x, w), got) in row.iter().zip(&weight).zip(got) {
                        let want = f64::from(*x) / root * f64::from(*w);
                        prop_assert!((want - f64::from(*got)).abs() < 1e-5);
                    }
                }
                let up = vec![0.5; rows.len()];
                for function in [Gate::Silu, Gate::GeluTanh] {
                    let mut gate = rows.clone();
                    gated(isa, function, &mut gate, &up).unwrap();
                    for (x, got) in rows.iter().zip(&gate) {
                        let x = f64::from(*x);
                        let want = match function {
                            Gate::Silu => x / (1.0 + (-x).exp()),
                            Gate::GeluTanh => {
                                let inner = (2.0 / std::f64::consts::PI).sqrt()
                                    * (x + 0.044715 * x.powi(3));
                                0.5 * x * (1.0 + inner.tanh())
                            }
                        };
                        prop_assert!((want * 0.5 - f64::from(*got)).abs() < 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn positions_turn_pairs_and_keep_their_length() {
        for layout in [RopeLayout::Halves, RopeLayout::Pairs] {
            let rope = Rope::new(layout, Rope::frequencies(10_000.0, 4));
            let mut rows = vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
            rope.apply(&mut rows, &[0, 3], 4).unwrap();
            assert_eq!(rows[..4], [1.0, 0.0, 0.0, 0.0]);
            let second = if layout == RopeLayout::Halves { 6 } else { 5 };
            assert!((rows[4] - 3.0_f32.cos()).abs() < 1e-6);
            assert!((rows[second] - 3.0_f32.sin()).abs() < 1e-6);
        }
    }

    #[test]
    fn the_product_of_turned_heads_depends_on_their_distance_only() {
        let rope = Rope::new(RopeLayout::Halves, Rope::frequencies(500_000.0, 8));
        let head = [0.3, -1.0, 0.7, 0.2, 1.1, 0.4, -0.6, 0.9];
        let product = |a: u32, b: u32| {
            let mut rows: Vec<f32> = [head, head].concat();
            rope.apply(&mut rows, &[a, b], 8).unwrap();
            let (x, y) = rows.split_at(8);
            x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>()
        };
        assert!((product(5, 9) - product(100_005, 100_009)).abs() < 1e-5);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let isa = Isa::best();
        assert!(rms_norm(isa, &[0.0; 5], &[1.0; 2], 1e-5, &mut [0.0; 5]).is_err());
        assert!(rms_norm(isa, &[0.0; 4], &[1.0; 2], 1e-5, &mut [0.0; 3]).is_err());
        assert!(gated(isa, Gate::Silu, &mut [0.0; 2], &[0.0; 3]).is_err());
        assert!(add(&mut [0.0; 2], &[0.0; 3]).is_err());
        let rope = Rope::new(RopeLayout::Halves, vec![1.0; 4]);
        assert!(rope.apply(&mut [0.0; 6], &[1], 6).is_err());
        assert!(rope.apply(&mut [0.0; 7], &[1, 2], 8).is_err());
    }
}
