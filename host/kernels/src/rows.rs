//! What is done to each token's row between products: norms, rotary positions, gates.
//!
//! Everything here is in f32, row by row, and small beside the products; loops are written so
//! that the compiler makes wide instructions of them. The rows of a prompt are shared out among
//! the team, where there is one; those of a few tokens take less time than that would.

use crate::isa::Isa;
use crate::team::Team;
use crate::{ShapeError, expect_len};

/// Elements that a member of the team takes at a time, where one is an addition or so; twice as
/// many are worth sharing.
const TAKEN: usize = 8 << 10;

/// The same where each is an exponential.
const FEW_TAKEN: usize = TAKEN / 4;

/// Calls `work` with pieces of `rows`, which are rows of `width`, one element at least: the number
/// of the first row of the piece, and its rows, of about `taken` elements.
fn by_rows(
    team: Option<&Team>,
    rows: &mut [f32],
    (width, taken): (usize, usize),
    work: impl Fn(usize, &mut [f32]) + Sync,
) {
    match team {
        Some(team) if rows.len() >= 2 * taken => {
            let each = (taken / width).max(1);
            let mut pieces: Vec<_> = rows.chunks_mut(each * width).enumerate().collect();
            team.share_mut(&mut pieces, |(number, rows)| work(*number * each, rows));
        }
        _ => work(0, rows),
    }
}

/// Calls a function under the instructions of the machine.
macro_rules! dispatch {
    ($isa:expr, $plain:ident, $avx2:ident, $avx512:ident, ($($argument:expr),*)) => {
        match $isa.or_portable() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                // SAFETY: the machine has these instructions.
                unsafe { $avx2($($argument),*) }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => {
                // SAFETY: as above.
                unsafe { $avx512($($argument),*) }
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
            .map(|i| libm::pow(base, -2.0 * i as f64 / dim as f64))
            .collect()
    }

    /// The turns of some positions, for [`Rope::apply`] in every layer that turns like this one.
    pub fn turns(&self, positions: &[u32], turns: &mut Turns) {
        let pairs = self.frequencies.len();
        (turns.layout, turns.pairs, turns.rows) = (self.layout, pairs, positions.len());
        turns.factors.resize(positions.len() * 4 * pairs, 0.0);
        let rows = turns.factors.chunks_exact_mut((4 * pairs).max(1));
        for (row, position) in rows.zip(positions) {
            let (cosines, sines) = row.split_at_mut(2 * pairs);
            for (i, frequency) in self.frequencies.iter().enumerate() {
                // In double precision: at position 100,000 an f32 angle is off by a hundredth.
                let (sin, cos) = libm::sincos(f64::from(*position) * frequency);
                let (first, second) = match self.layout {
                    RopeLayout::Halves => (i, i + pairs),
                    RopeLayout::Pairs => (2 * i, 2 * i + 1),
                };
                (cosines[first], cosines[second]) = (cos as f32, cos as f32);
                (sines[first], sines[second]) = (-(sin as f32), sin as f32);
            }
        }
    }
}

/// How far the heads of each token's row turn.
#[derive(Debug, Clone)]
pub struct Turns {
    layout: RopeLayout,
    pairs: usize,
    rows: usize,
    /// For each row, what each element of a head is multiplied with, and then what the other one
    /// of its pair is multiplied with: `[rows, 2, 2 * pairs]`.
    factors: Vec<f32>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            layout: RopeLayout::Halves,
            pairs: 0,
            rows: 0,
            factors: Vec::new(),
        }
    }
}

impl Turns {
    /// Turns every head of each row of `rows`, `[tokens, heads * dim]`, to its token's position.
    ///
    /// # Errors
    /// When a row is no whole number of heads, there are not as many turns as rows, or a head has
    /// fewer elements than the pairs need.
    pub fn apply(
        &self,
        isa: Isa,
        team: Option<&Team>,
        rows: &mut [f32],
        dim: usize,
    ) -> Result<(), ShapeError> {
        let width = rows.len().checked_div(self.rows).unwrap_or(0);
        let heads = width.checked_div(dim).unwrap_or(0);
        let want = self.rows.checked_mul(heads * dim);
        expect_len("rope", "the input", rows.len(), want)?;
        if 2 * self.pairs > dim {
            return expect_len("rope", "a head", dim, Some(2 * self.pairs));
        }
        if width == 0 || self.pairs == 0 {
            return Ok(());
        }
        by_rows(team, rows, (width, TAKEN), |first, rows| {
            dispatch!(
                isa,
                turn_plain,
                turn_avx2,
                turn_avx512,
                (self, first, rows, width, dim)
            );
        });
        Ok(())
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn turn_avx2(turns: &Turns, first: usize, rows: &mut [f32], width: usize, dim: usize) {
    turn_plain(turns, first, rows, width, dim);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn turn_avx512(turns: &Turns, first: usize, rows: &mut [f32], width: usize, dim: usize) {
    turn_plain(turns, first, rows, width, dim);
}

/// Turns rows, of which the first is number `first`.
#[inline(always)]
fn turn_plain(turns: &Turns, first: usize, rows: &mut [f32], width: usize, dim: usize) {
    let pairs = turns.pairs;
    let factors = turns.factors[first * 4 * pairs..].chunks_exact(4 * pairs);
    for (row, factors) in rows.chunks_exact_mut(width).zip(factors) {
        let (cosines, sines) = factors.split_at(2 * pairs);
        for head in row.chunks_exact_mut(dim) {
            match turns.layout {
                RopeLayout::Halves => {
                    let (low, high) = head[..2 * pairs].split_at_mut(pairs);
                    let sines = &sines[pairs..];
                    for (((x, y), cos), sin) in low.iter_mut().zip(high).zip(cosines).zip(sines) {
                        (*x, *y) = (*x * cos - *y * sin, *x * sin + *y * cos);
                    }
                }
                RopeLayout::Pairs => {
                    // Sixteen at a time, so that the others of the pairs are one shuffle away.
                    let (blocks, rest) = head[..2 * pairs].as_chunks_mut::<16>();
                    let cosines = cosines.as_chunks::<16>();
                    let sines = sines.as_chunks::<16>();
                    for ((block, cos), sin) in blocks.iter_mut().zip(cosines.0).zip(sines.0) {
                        let others: [f32; 16] = std::array::from_fn(|i| block[i ^ 1]);
                        for i in 0..16 {
                            block[i] = block[i] * cos[i] + others[i] * sin[i];
                        }
                    }
                    let pairs = rest.as_chunks_mut::<2>().0.iter_mut();
                    let cosines = cosines.1.as_chunks::<2>().0;
                    let sines = sines.1.as_chunks::<2>().0;
                    for (([x, y], [cos, _]), [_, sin]) in pairs.zip(cosines).zip(sines) {
                        (*x, *y) = (*x * cos - *y * sin, *x * sin + *y * cos);
                    }
                }
            }
        }
    }
}

/// `out = x / sqrt(mean(x²) + epsilon) * weight` for each row of `weight.len()` elements
/// (arXiv 1910.07467).
///
/// # Errors
/// When lengths do not fit together.
pub fn rms_norm(
    isa: Isa,
    team: Option<&Team>,
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
        by_rows(team, out, (width, TAKEN), |first, out| {
            let from = first * width;
            out.copy_from_slice(&rows[from..from + out.len()]);
            dispatch!(
                isa,
                norm_plain,
                norm_avx2,
                norm_avx512,
                (out, weight, epsilon)
            );
        });
    }
    Ok(())
}

/// As [`rms_norm`], in place: for the norm of each head of queries and keys.
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_norm_in_place(
    isa: Isa,
    team: Option<&Team>,
    rows: &mut [f32],
    weight: &[f32],
    epsilon: f32,
) -> Result<(), ShapeError> {
    let width = weight.len();
    let whole = rows.len().checked_div(width).unwrap_or(0) * width;
    expect_len("rms_norm", "the input", rows.len(), Some(whole))?;
    if width > 0 {
        by_rows(team, rows, (width, TAKEN), |_, rows| {
            dispatch!(
                isa,
                norm_plain,
                norm_avx2,
                norm_avx512,
                (rows, weight, epsilon)
            );
        });
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn norm_avx2(rows: &mut [f32], weight: &[f32], epsilon: f32) {
    norm_plain(rows, weight, epsilon);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn norm_avx512(rows: &mut [f32], weight: &[f32], epsilon: f32) {
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
pub fn gated(
    isa: Isa,
    team: Option<&Team>,
    function: Gate,
    gate: &mut [f32],
    up: &[f32],
) -> Result<(), ShapeError> {
    expect_len("gated", "the second input", up.len(), Some(gate.len()))?;
    by_rows(team, gate, (1, FEW_TAKEN), |first, gate| {
        let up = &up[first..first + gate.len()];
        dispatch!(
            isa,
            gated_plain,
            gated_avx2,
            gated_avx512,
            (function, gate, up)
        );
    });
    Ok(())
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn gated_avx2(function: Gate, gate: &mut [f32], up: &[f32]) {
    gated_plain(function, gate, up);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn gated_avx512(function: Gate, gate: &mut [f32], up: &[f32]) {
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
pub fn add(team: Option<&Team>, to: &mut [f32], from: &[f32]) -> Result<(), ShapeError> {
    expect_len("add", "the second input", from.len(), Some(to.len()))?;
    by_rows(team, to, (1, TAKEN), |first, to| {
        for (to, from) in to.iter_mut().zip(&from[first..]) {
            *to += from;
        }
    });
    Ok(())
}

/// `e ^ x` to within 2 units in the last place, without a branch: `2 ^ n` times a polynomial of
/// degree 6 on what is left. Below -87 it is 0 or nearly, above 88 it stays finite.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
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
            let team = Team::new(2).unwrap();
            for isa in Isa::available() {
                let mut out = vec![0.0; rows.len()];
                rms_norm(isa, Some(&team), &rows, &weight, 1e-5, &mut out).unwrap();
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
                    gated(isa, Some(&team), function, &mut gate, &up).unwrap();
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

    fn turn(
        isa: Isa,
        rope: &Rope,
        rows: &mut [f32],
        positions: &[u32],
        dim: usize,
    ) -> Result<(), ShapeError> {
        let mut turns = Turns::default();
        rope.turns(positions, &mut turns);
        turns.apply(isa, None, rows, dim)
    }

    #[test]
    fn heads_of_any_size_turn_as_defined() {
        let team = Team::new(2).unwrap();
        // With elements that do not turn, pairs that fill no register, and rows enough to share.
        for (dim, pairs, tokens) in [(64, 32, 400), (70, 33, 5), (24, 12, 3), (6, 1, 2)] {
            for layout in [RopeLayout::Halves, RopeLayout::Pairs] {
                let frequencies: Vec<f64> = (0..pairs).map(|i| 0.9_f64.powi(i)).collect();
                let rope = Rope::new(layout, frequencies.clone());
                let positions: Vec<u32> = (0..tokens as u32).map(|n| 3 * n).collect();
                let from: Vec<f32> = (0..tokens * 2 * dim)
                    .map(|n| (n * 37 % 101) as f32 / 50.0 - 1.0)
                    .collect();
                let mut turns = Turns::default();
                rope.turns(&positions, &mut turns);
                for isa in Isa::available() {
                    let mut rows = from.clone();
                    turns.apply(isa, Some(&team), &mut rows, dim).unwrap();
                    for (n, (from, got)) in from.chunks(dim).zip(rows.chunks(dim)).enumerate() {
                        let mut want: Vec<f64> = from.iter().map(|x| f64::from(*x)).collect();
                        for (i, frequency) in frequencies.iter().enumerate() {
                            let (a, b) = match layout {
                                RopeLayout::Halves => (i, i + pairs as usize),
                                RopeLayout::Pairs => (2 * i, 2 * i + 1),
                            };
                            let angle = f64::from(positions[n / 2]) * frequency;
                            let (x, y) = (want[a], want[b]);
                            want[a] = x * angle.cos() - y * angle.sin();
                            want[b] = x * angle.sin() + y * angle.cos();
                        }
                        for (want, got) in want.iter().zip(got) {
                            assert!((want - f64::from(*got)).abs() < 1e-6, "{want} {got}");
                        }
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
            turn(Isa::best(), &rope, &mut rows, &[0, 3], 4).unwrap();
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
            turn(Isa::best(), &rope, &mut rows, &[a, b], 8).unwrap();
            let (x, y) = rows.split_at(8);
            x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>()
        };
        assert!((product(5, 9) - product(100_005, 100_009)).abs() < 1e-5);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let isa = Isa::best();
        assert!(rms_norm(isa, None, &[0.0; 5], &[1.0; 2], 1e-5, &mut [0.0; 5]).is_err());
        assert!(rms_norm(isa, None, &[0.0; 4], &[1.0; 2], 1e-5, &mut [0.0; 3]).is_err());
        assert!(gated(isa, None, Gate::Silu, &mut [0.0; 2], &[0.0; 3]).is_err());
        assert!(add(None, &mut [0.0; 2], &[0.0; 3]).is_err());
        let rope = Rope::new(RopeLayout::Halves, vec![1.0; 4]);
        assert!(turn(isa, &rope, &mut [0.0; 6], &[1], 6).is_err());
        assert!(turn(isa, &rope, &mut [0.0; 7], &[1, 2], 8).is_err());
    }
}
