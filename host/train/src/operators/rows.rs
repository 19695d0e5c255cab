//! What is done to each token's row between products, and its backward passes: norms, gates,
//! rotary positions.

use skep_kernels::rows::{Gate, RopeLayout, exp};

use crate::gemm::Workers;
use crate::operators::{Shared, share_rows};

/// Defines a function over rows together with what calls it under the machine's instructions.
macro_rules! wide {
    ($(#[$meta:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        fn $name(simd: $crate::gemm::Simd, $($argument: $type),*) {
            #[inline(always)]
            fn plain($($argument: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $type),*) { plain($($argument),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($argument: $type),*) { plain($($argument),*) }
            match simd {
                $crate::gemm::Simd::Portable => plain($($argument),*),
                // SAFETY: the machine has these instructions, or they would not be chosen.
                #[cfg(target_arch = "x86_64")]
                $crate::gemm::Simd::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::gemm::Simd::Avx512 => unsafe { avx512($($argument),*) },
            }
        }
    };
}
pub(crate) use wide;

/// A sum in 16 parts, in one order on every machine.
#[inline(always)]
pub(super) fn sum_of(pairs: impl Fn(usize) -> f32, count: usize) -> f32 {
    let mut parts = [0.0_f32; 16];
    let whole = count / 16 * 16;
    for start in (0..whole).step_by(16) {
        for (n, part) in parts.iter_mut().enumerate() {
            *part += pairs(start + n);
        }
    }
    for n in whole..count {
        parts[n - whole] += pairs(n);
    }
    parts.iter().sum()
}

/// `out = x / sqrt(mean(x²) + epsilon) * weight`, row by row (arXiv 1910.07467).
pub(crate) fn rms_norm(
    workers: Workers<'_>,
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    out: &mut [f32],
) {
    let width = weight.len();
    share_rows(workers.team, out, width, |first, out| {
        let x = &x[first * width..][..out.len()];
        norm_rows(workers.simd, x, weight, epsilon, out);
    });
}

wide! {
    fn norm_rows(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        let width = weight.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let scale = scale_of(x, epsilon);
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = *x * scale * weight;
            }
        }
    }
}

#[inline(always)]
fn scale_of(x: &[f32], epsilon: f32) -> f32 {
    let mean = sum_of(|n| x[n] * x[n], x.len()) / x.len() as f32;
    1.0 / (mean + epsilon).sqrt()
}

/// `dx (+)=` the gradient of [`rms_norm`]'s input `x`, given that of its output.
pub(crate) fn rms_norm_backward(
    workers: Workers<'_>,
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    dy: &[f32],
    dx: &mut [f32],
    add: bool,
) {
    let width = weight.len();
    share_rows(workers.team, dx, width, |first, dx| {
        let range = first * width..first * width + dx.len();
        norm_rows_backward(
            workers.simd,
            &x[range.clone()],
            weight,
            epsilon,
            &dy[range],
            dx,
            add,
        );
    });
}

wide! {
    fn norm_rows_backward(
        x: &[f32],
        weight: &[f32],
        epsilon: f32,
        dy: &[f32],
        dx: &mut [f32],
        add: bool,
    ) {
        let width = weight.len();
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
        for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(width)) {
            let scale = scale_of(x, epsilon);
            let product = sum_of(|n| dy[n] * weight[n] * x[n], width);
            let along = product * scale * scale * scale / width as f32;
            for (((dx, dy), weight), x) in dx.iter_mut().zip(dy).zip(weight).zip(x) {
                let gradient = dy * weight * scale - x * along;
                *dx = if add { *dx + gradient } else { gradient };
            }
        }
    }
}

/// `out = function(gate) * up` (arXiv 2002.05202).
pub(crate) fn gated(
    workers: Workers<'_>,
    function: Gate,
    gate: &[f32],
    up: &[f32],
    out: &mut [f32],
) {
    share_rows(workers.team, out, 1, |first, out| {
        let range = first..first + out.len();
        gate_rows(
            workers.simd,
            function,
            &gate[range.clone()],
            &up[range],
            out,
        );
    });
}

wide! {
    fn gate_rows(function: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
        match function {
            Gate::Silu => {
                for ((out, x), up) in out.iter_mut().zip(gate).zip(up) {
                    *out = silu(*x).0 * up;
                }
            }
            Gate::GeluTanh => {
                for ((out, x), up) in out.iter_mut().zip(gate).zip(up) {
                    *out = gelu(*x).0 * up;
                }
            }
        }
    }
}

/// Puts the gradients of both inputs of [`gated`] in their place.
pub(crate) fn gated_backward(
    workers: Workers<'_>,
    function: Gate,
    dy: &[f32],
    gate: &mut [f32],
    up: &mut [f32],
) {
    let ups = Shared::new(up);
    share_rows(workers.team, gate, 1, |first, gate| {
        let range = first..first + gate.len();
        // SAFETY: the same elements as of `gate`, which nobody else has.
        let up = unsafe { ups.slice(range.clone()) };
        gate_rows_backward(workers.simd, function, &dy[range], gate, up);
    });
}

wide! {
    fn gate_rows_backward(function: Gate, dy: &[f32], gate: &mut [f32], up: &mut [f32]) {
        match function {
            Gate::Silu => {
                for ((x, up), dy) in gate.iter_mut().zip(up).zip(dy) {
                    let (value, slope) = silu(*x);
                    *x = dy * *up * slope;
                    *up = dy * value;
                }
            }
            Gate::GeluTanh => {
                for ((x, up), dy) in gate.iter_mut().zip(up).zip(dy) {
                    let (value, slope) = gelu(*x);
                    *x = dy * *up * slope;
                    *up = dy * value;
                }
            }
        }
    }
}

/// `x · sigmoid(x)` and its slope.
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let sigmoid = 1.0 / (1.0 + exp(-x));
    (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
}

/// GELU in its approximation by the hyperbolic tangent (arXiv 1606.08415, section 2), and its
/// slope: `tanh(u)` is `2 sigmoid(2 u) - 1`, so it is `x` times a sigmoid too.
#[inline(always)]
pub(super) fn gelu(x: f32) -> (f32, f32) {
    // 2 sqrt(2 / pi).
    const TWICE: f32 = 1.595_769;
    const CUBE: f32 = 0.044_715;
    let sigmoid = 1.0 / (1.0 + exp(-TWICE * (x + CUBE * x * x * x)));
    let inner = TWICE * (1.0 + 3.0 * CUBE * x * x);
    (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid) * inner))
}

/// Rotary positions (arXiv 2104.09864, section 3.4.2) of a batch's tokens.
#[derive(Debug)]
pub(crate) struct Turns {
    layout: RopeLayout,
    pairs: usize,
    /// `[tokens, pairs]`, sine and cosine.
    turns: Vec<(f32, f32)>,
}

impl Turns {
    /// Those of tokens at these positions, each pair of a head turning by its frequency.
    pub fn new(layout: RopeLayout, frequencies: &[f64], positions: &[u32]) -> Self {
        // In double precision: at position 100,000 an f32 angle is off by a hundredth.
        let turn = |position: u32, frequency: &f64| {
            let (sin, cos) = (f64::from(position) * frequency).sin_cos();
            (sin as f32, cos as f32)
        };
        let all = positions
            .iter()
            .flat_map(|position| frequencies.iter().map(move |f| turn(*position, f)));
        Self {
            layout,
            pairs: frequencies.len(),
            turns: all.collect(),
        }
    }

    /// Bytes of a table for so many tokens and pairs.
    pub fn bytes(tokens: usize, pairs: usize) -> u64 {
        8 * tokens as u64 * pairs as u64
    }

    /// Turns every head of `dim` elements of each token's row of `width`; back again for
    /// gradients, because turning back is what transposing a turn is.
    pub fn apply(
        &self,
        workers: Workers<'_>,
        rows: &mut [f32],
        width: usize,
        dim: usize,
        back: bool,
    ) {
        share_rows(workers.team, rows, width, |first, rows| {
            for (n, row) in rows.chunks_exact_mut(width).enumerate() {
                let turns = &self.turns[(first + n) * self.pairs..][..self.pairs];
                for head in row.chunks_exact_mut(dim) {
                    match self.layout {
                        RopeLayout::Halves => {
                            let (left, right) = head.split_at_mut(self.pairs);
                            for ((x, y), turn) in left.iter_mut().zip(right).zip(turns) {
                                (*x, *y) = turned(*x, *y, *turn, back);
                            }
                        }
                        RopeLayout::Pairs => {
                            for (pair, turn) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
                                (pair[0], pair[1]) = turned(pair[0], pair[1], *turn, back);
                            }
                        }
                    }
                }
            }
        });
    }
}

#[inline(always)]
fn turned(x: f32, y: f32, (sin, cos): (f32, f32), back: bool) -> (f32, f32) {
    let sin = if back { -sin } else { sin };
    (x * cos - y * sin, x * sin + y * cos)
}

/// `to += from`.
pub(crate) fn add(workers: Workers<'_>, to: &mut [f32], from: &[f32]) {
    share_rows(workers.team, to, 1, |first, to| {
        for (to, from) in to.iter_mut().zip(&from[first..]) {
            *to += from;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::Simd;
    use crate::random::test_values;
    use crate::testing::check_gradients;
    use skep_kernels::Team;

    fn with_workers(check: impl Fn(Workers<'_>)) {
        let team = Team::new(2).unwrap();
        for simd in Simd::available() {
            check(Workers { simd, team: &team });
        }
    }

    #[test]
    fn norms_have_the_gradients_of_differences() {
        with_workers(|workers| {
            let weight = test_values(21, 5);
            check_gradients(
                vec![test_values(4 * 21, 6)],
                |values| {
                    let mut out = vec![0.0; 4 * 21];
                    rms_norm(workers, &values[0], &weight, 1e-3, &mut out);
                    out
                },
                |values, dy| {
                    let mut dx = vec![1.0; 4 * 21];
                    rms_norm_backward(workers, &values[0], &weight, 1e-3, dy, &mut dx, true);
                    let mut again = vec![9.0; 4 * 21];
                    rms_norm_backward(workers, &values[0], &weight, 1e-3, dy, &mut again, false);
                    for (dx, again) in dx.iter_mut().zip(&again) {
                        *dx -= 1.0;
                        assert!((*dx - again).abs() < 1e-5);
                    }
                    vec![again]
                },
            );
        });
    }

    #[test]
    fn gates_have_the_gradients_of_differences() {
        with_workers(|workers| {
            for function in [Gate::Silu, Gate::GeluTanh] {
                let scaled = test_values(37, 1).iter().map(|x| x * 4.0).collect();
                check_gradients(
                    vec![scaled, test_values(37, 2)],
                    |values| {
                        let mut out = vec![0.0; 37];
                        gated(workers, function, &values[0], &values[1], &mut out);
                        out
                    },
                    |values, dy| {
                        let mut all = values.to_vec();
                        let (gate, up) = all.split_at_mut(1);
                        gated_backward(workers, function, dy, &mut gate[0], &mut up[0]);
                        all
                    },
                );
            }
        });
    }

    #[test]
    fn rotary_positions_have_the_gradients_of_differences() {
        with_workers(|workers| {
            for layout in [RopeLayout::Halves, RopeLayout::Pairs] {
                // Two heads of six elements, of which four turn.
                let turns = Turns::new(layout, &[1.0, 0.3], &[0, 5, 1000]);
                let apply = |values: &[f32], back| {
                    let mut rows = values.to_vec();
                    turns.apply(workers, &mut rows, 12, 6, back);
                    rows
                };
                check_gradients(
                    vec![test_values(36, 3)],
                    |values| apply(&values[0], false),
                    |_, dy| vec![apply(dy, true)],
                );
            }
        });
    }
}
