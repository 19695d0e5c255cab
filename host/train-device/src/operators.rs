//! What a layer is made of beside its products, there and back: norms, rotary positions, gates,
//! attention. Everything here is in 32 bits but what goes into products and comes out of them.

use std::ops::Range;

use burn::tensor::{Tensor, activation};
use skep_kernels::rows::{Gate, RopeLayout};

use crate::place::{On, widened};

/// `x / sqrt(mean(x²) + epsilon) * weight`, row by row (arXiv 1910.07467).
pub(crate) fn rms_norm(x: Tensor<2>, weight: &Tensor<1>, epsilon: f32) -> Tensor<2> {
    let scale = scale_of(&x, epsilon);
    x * scale * weight.clone().unsqueeze()
}

/// The gradient of [`rms_norm`]'s input, given that of its output.
pub(crate) fn rms_norm_backward(
    x: Tensor<2>,
    weight: &Tensor<1>,
    epsilon: f32,
    dy: Tensor<2>,
) -> Tensor<2> {
    let scale = scale_of(&x, epsilon);
    let through = dy * weight.clone().unsqueeze() * scale.clone();
    let normed = x * scale.clone();
    let along = (through.clone() * normed.clone()).mean_dim(1);
    through - normed * along
}

fn scale_of(x: &Tensor<2>, epsilon: f32) -> Tensor<2> {
    let mean = x.clone().square().mean_dim(1);
    (mean + epsilon).sqrt().recip()
}

/// `function(gate) * up` (arXiv 2002.05202).
pub(crate) fn gated(function: Gate, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let sigmoid = activation::sigmoid(inner(function, gate.clone()));
    gate * sigmoid * up
}

/// The gradients of both inputs of [`gated`].
pub(crate) fn gated_backward(
    function: Gate,
    gate: Tensor<2>,
    up: Tensor<2>,
    dy: Tensor<2>,
) -> (Tensor<2>, Tensor<2>) {
    let sigmoid = activation::sigmoid(inner(function, gate.clone()));
    let dup = dy.clone() * gate.clone() * sigmoid.clone();
    let rest = sigmoid.clone().neg() + 1.0;
    let slope = match function {
        Gate::Silu => sigmoid * (gate * rest + 1.0),
        Gate::GeluTanh => {
            let turn = gate.clone().square() * (3.0 * CUBE * TWICE) + TWICE;
            sigmoid * (gate * rest * turn + 1.0)
        }
    };
    (dy * up * slope, dup)
}

/// 2 sqrt(2 / pi), and the cube's share, of GELU in its approximation by the hyperbolic tangent
/// (arXiv 1606.08415, section 2): `tanh(u)` is `2 sigmoid(2 u) - 1`, so it is `x` times a sigmoid.
const TWICE: f32 = 1.595_769;
const CUBE: f32 = 0.044_715;

/// What the sigmoid is of.
fn inner(function: Gate, x: Tensor<2>) -> Tensor<2> {
    match function {
        Gate::Silu => x,
        Gate::GeluTanh => (x.clone().square() * (CUBE * TWICE) + TWICE) * x,
    }
}

/// Rotary positions (arXiv 2104.09864, section 3.4.2) of a batch's tokens.
#[derive(Clone)]
pub(crate) struct Turns {
    layout: RopeLayout,
    pairs: usize,
    /// `[tokens, 1, pairs]`.
    sines: Tensor<3>,
    cosines: Tensor<3>,
}

impl Turns {
    /// Those of tokens at these positions, each pair of a head turning by its frequency.
    pub fn new(on: &On, layout: RopeLayout, frequencies: &[f64], positions: &[u32]) -> Self {
        // In double precision: at position 100,000 an f32 angle is off by a hundredth.
        let angles = positions
            .iter()
            .flat_map(|position| frequencies.iter().map(move |f| f64::from(*position) * f));
        let (sines, cosines) = angles
            .map(|angle| (angle.sin() as f32, angle.cos() as f32))
            .unzip();
        let shape = [positions.len(), 1, frequencies.len()];
        Self {
            layout,
            pairs: frequencies.len(),
            sines: on.floats(sines, shape),
            cosines: on.floats(cosines, shape),
        }
    }

    /// Turns every head of rows `[tokens, heads * dim]`; back again for gradients, because turning
    /// back is what transposing a turn is.
    pub fn apply(&self, rows: Tensor<2>, dim: usize, back: bool) -> Tensor<2> {
        let [tokens, width] = rows.dims();
        let heads = width / dim;
        let rows = rows.reshape([tokens, heads, dim]);
        let sines = match back {
            true => self.sines.clone().neg(),
            false => self.sines.clone(),
        };
        let turned = |x: Tensor<3>, y: Tensor<3>| {
            let (sin, cos) = (sines.clone(), self.cosines.clone());
            let left = x.clone() * cos.clone() - y.clone() * sin.clone();
            (left, x * sin + y * cos)
        };
        let all = match self.layout {
            RopeLayout::Halves => {
                let (x, y) = (
                    rows.clone().slice_dim(2, 0..self.pairs),
                    rows.clone().slice_dim(2, self.pairs..2 * self.pairs),
                );
                let (left, right) = turned(x, y);
                let mut parts = vec![left, right];
                if 2 * self.pairs < dim {
                    parts.push(rows.slice_dim(2, 2 * self.pairs..dim));
                }
                Tensor::cat(parts, 2)
            }
            RopeLayout::Pairs => {
                let shape = [tokens, heads, self.pairs, 1];
                let pairs = rows
                    .clone()
                    .slice_dim(2, 0..2 * self.pairs)
                    .reshape([tokens, heads, self.pairs, 2]);
                let one = |n: usize| {
                    let one = pairs.clone().slice_dim(3, n..n + 1);
                    one.reshape([tokens, heads, self.pairs])
                };
                let (left, right) = turned(one(0), one(1));
                let both = Tensor::cat(vec![left.reshape(shape), right.reshape(shape)], 3);
                let both = both.reshape([tokens, heads, 2 * self.pairs]);
                match 2 * self.pairs < dim {
                    true => Tensor::cat(vec![both, rows.slice_dim(2, 2 * self.pairs..dim)], 2),
                    false => both,
                }
            }
        };
        all.reshape([tokens, width])
    }
}

/// Texts of one length that lie one after the other, which attention takes together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub tokens: Range<usize>,
    pub texts: usize,
    pub length: usize,
}

impl Group {
    /// The groups of a batch.
    pub fn of(sequences: &[Range<usize>]) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for sequence in sequences {
            match groups.last_mut() {
                Some(last) if last.length == sequence.len() => {
                    last.tokens.end = sequence.end;
                    last.texts += 1;
                }
                _ => groups.push(Self {
                    tokens: sequence.clone(),
                    texts: 1,
                    length: sequence.len(),
                }),
            }
        }
        groups
    }
}

/// What is added to the scores of texts of this length: nothing where a token sees another, which
/// is where that is not after it and less than `window` before it. `[1, 1, length, length]`.
pub(crate) fn mask(on: &On, length: usize, window: Option<usize>) -> Tensor<4> {
    let window = window.unwrap_or(length);
    let all = (0..length).flat_map(|query| {
        (0..length).map(move |key| match key <= query && query - key < window {
            true => 0.0,
            // Less than any score, and finite: what is infinite less what is infinite is no number.
            false => -1e30,
        })
    });
    on.floats(all.collect(), [1, 1, length, length])
}

/// The shape of a layer's attention, within texts of one length.
#[derive(Clone)]
pub(crate) struct Attention {
    pub texts: usize,
    pub length: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    /// What products of queries and keys are multiplied with.
    pub scale: f32,
    pub mask: Tensor<4>,
}

/// What attention took and made of it, each head of keys and values beside all queries that see it:
/// `[texts * kv_heads, group * length, dim]` and without the group.
pub(crate) struct Attended {
    queries: Tensor<3>,
    keys: Tensor<3>,
    values: Tensor<3>,
    /// `[texts * kv_heads, group * length, length]`.
    probabilities: Tensor<3>,
    out: Tensor<3>,
}

impl Attention {
    /// `[tokens, heads * dim]`, and what the way back needs.
    pub fn forward(
        &self,
        on: &On,
        queries: Tensor<2>,
        keys: Tensor<2>,
        values: Tensor<2>,
    ) -> (Tensor<2>, Attended) {
        let (queries, keys, values) = (self.split(queries), self.split(keys), self.split(values));
        let (rows, group) = (self.texts * self.kv_heads, self.heads / self.kv_heads);
        let scores = widened(queries.clone().matmul(keys.clone().swap_dims(1, 2)));
        let scores = scores.reshape([rows, group, self.length, self.length]);
        let scores = scores * self.scale + self.mask.clone();
        let probabilities = on.round(activation::softmax(scores, 3));
        let probabilities = probabilities.reshape([rows, group * self.length, self.length]);
        let out = probabilities.clone().matmul(values.clone());
        let joined = self.join(out.clone());
        let attended = Attended {
            queries,
            keys,
            values,
            probabilities,
            out,
        };
        (joined, attended)
    }

    /// The gradients of queries, keys and values, given that of what came out.
    pub fn backward(
        &self,
        on: &On,
        attended: Attended,
        dy: Tensor<2>,
    ) -> (Tensor<2>, Tensor<2>, Tensor<2>) {
        let Attended {
            queries,
            keys,
            values,
            probabilities,
            out,
        } = attended;
        let dy = self.split(dy);
        // What all scores of a query share: the product of what came out and its gradient.
        let shared = (widened(dy.clone()) * widened(out)).sum_dim(2);
        let dvalues = probabilities.clone().swap_dims(1, 2).matmul(dy.clone());
        let through = widened(dy.matmul(values.swap_dims(1, 2)));
        let dscores = widened(probabilities) * (through - shared) * self.scale;
        let dscores = on.round(dscores);
        let dkeys = dscores.clone().swap_dims(1, 2).matmul(queries);
        let dqueries = dscores.matmul(keys);
        (self.join(dqueries), self.join(dkeys), self.join(dvalues))
    }

    /// Rows of queries, or of keys or values, head by head.
    fn split(&self, rows: Tensor<2>) -> Tensor<3> {
        let [_, width] = rows.dims();
        let group = width / self.dim / self.kv_heads;
        rows.reshape([self.texts, self.length, self.kv_heads, group, self.dim])
            .permute([0, 2, 3, 1, 4])
            .reshape([self.texts * self.kv_heads, group * self.length, self.dim])
    }

    fn join(&self, heads: Tensor<3>) -> Tensor<2> {
        let [_, rows, _] = heads.dims();
        let group = rows / self.length;
        let width = self.kv_heads * group * self.dim;
        heads
            .reshape([self.texts, self.kv_heads, group, self.length, self.dim])
            .permute([0, 3, 1, 2, 4])
            .reshape([self.texts * self.length, width])
    }
}
