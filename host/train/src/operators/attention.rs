//! Attention within each sequence of a packed batch: to all its tokens, or to those before, with
//! grouped heads and a window.
//!
//! A head's queries are taken some at a time; all the scores of those few with the keys that
//! they see lie in the second cache, so softmax is plain. The backward pass makes the scores
//! again from queries and keys (FlashAttention, arXiv 2205.14135, section 3.1 and algorithm 4).
//! Tokens of one sequence never see another's, wherever they lie in the batch.

use std::ops::Range;

use skep_kernels::rows::exp;

use crate::gemm::{Lhs, PANEL, Panels, Part, Simd, Workers, multiply, pack_columns, pack_rows};
use crate::operators::Shared;
use crate::operators::rows::wide;

/// Queries that are taken at a time.
const QUERIES: usize = 56;

/// The shape of one layer's attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention<'a> {
    /// The tokens of each sequence of the batch.
    pub sequences: &'a [Range<usize>],
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    /// What products of queries and keys are multiplied with.
    pub scale: f32,
    /// Whether a token sees none of those after it.
    pub causal: bool,
    /// Where it is causal: a token sees itself and those before it, up to this many together.
    pub window: Option<usize>,
}

/// What attention took: `queries` is `[tokens, heads * dim]`, the others `[tokens, kv_heads *
/// dim]`.
#[derive(Clone, Copy)]
pub(crate) struct Taken<'a> {
    pub queries: &'a [f32],
    pub keys: &'a [f32],
    pub values: &'a [f32],
}

/// Gradients of what attention took, each overwritten.
pub(crate) struct AttentionGradients<'a> {
    pub queries: &'a mut [f32],
    pub keys: &'a mut [f32],
    pub values: &'a mut [f32],
}

/// Buffers of a member of the team.
#[derive(Default)]
struct Scratch {
    keys_columns: Panels,
    keys_rows: Panels,
    values_columns: Panels,
    values_rows: Panels,
    queries_rows: Panels,
    dy_rows: Panels,
    scores: Vec<f32>,
    dscores: Vec<f32>,
    /// A head's part of two gradients, `[tokens, dim]`.
    dkeys: Vec<f32>,
    dvalues: Vec<f32>,
}

/// Some queries of a head and the keys that they see between them, counted within the sequence.
struct Block {
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Attention<'_> {
    /// `out[tokens, heads * dim]`.
    pub fn forward(&self, workers: Workers<'_>, taken: Taken<'_>, out: &mut [f32]) {
        let (simd, dim, width) = (workers.simd, self.dim, self.heads * self.dim);
        let kv_width = self.kv_heads * dim;
        let out = Shared::new(out);
        let units = self.sequences.len() * self.kv_heads;
        workers.team.share(units, 1, |units| {
            let mut scratch = Scratch::default();
            for unit in units {
                let (sequence, kv) = self.unit(unit);
                let length = sequence.len();
                let at = sequence.start * kv_width + kv * dim;
                let (keys, values) = (&taken.keys[at..], &taken.values[at..]);
                pack_columns(simd, &mut scratch.keys_columns, keys, kv_width, dim, length);
                pack_rows(&mut scratch.values_rows, values, kv_width, length, dim);
                for head in self.heads_of(kv) {
                    for block in self.blocks(length) {
                        let at = (sequence.start + block.queries.start) * width + head * dim;
                        self.probabilities(simd, &taken.queries[at..], &block, &mut scratch);
                        let rows = block.queries.len();
                        let to = out.pointer(at..at + (rows - 1) * width + dim);
                        let part = Part {
                            depth: block.keys.clone(),
                            columns: 0..dim,
                        };
                        let scores = Lhs::rows(&scratch.scores, block.keys.len());
                        // SAFETY: this head of these tokens, which no other unit has.
                        unsafe {
                            let values = &scratch.values_rows;
                            multiply(simd, &scores, rows, values, &part, (to, width), false);
                        }
                    }
                }
            }
        });
    }

    /// The gradients, given that of the output.
    pub fn backward(
        &self,
        workers: Workers<'_>,
        taken: Taken<'_>,
        dy: &[f32],
        to: AttentionGradients<'_>,
    ) {
        let (simd, dim, width) = (workers.simd, self.dim, self.heads * self.dim);
        let kv_width = self.kv_heads * dim;
        let dqueries = Shared::new(to.queries);
        let (dkeys, dvalues) = (Shared::new(to.keys), Shared::new(to.values));
        let units = self.sequences.len() * self.kv_heads;
        workers.team.share(units, 1, |units| {
            let mut scratch = Scratch::default();
            for unit in units {
                let (sequence, kv) = self.unit(unit);
                let length = sequence.len();
                let at = sequence.start * kv_width + kv * dim;
                let (keys, values) = (&taken.keys[at..], &taken.values[at..]);
                pack_columns(simd, &mut scratch.keys_columns, keys, kv_width, dim, length);
                pack_rows(&mut scratch.keys_rows, keys, kv_width, length, dim);
                pack_columns(
                    simd,
                    &mut scratch.values_columns,
                    values,
                    kv_width,
                    dim,
                    length,
                );
                for part in [&mut scratch.dkeys, &mut scratch.dvalues] {
                    part.clear();
                    part.resize(length * dim, 0.0);
                }
                for head in self.heads_of(kv) {
                    for block in self.blocks(length) {
                        let at = (sequence.start + block.queries.start) * width + head * dim;
                        let end = at + (block.queries.len() - 1) * width + dim;
                        let queries = &taken.queries[at..end];
                        let to = dqueries.pointer(at..end);
                        self.probabilities(simd, queries, &block, &mut scratch);
                        // SAFETY: this head of these tokens, which no other unit has.
                        unsafe {
                            self.block_backward(
                                simd,
                                queries,
                                &dy[at..end],
                                &block,
                                &mut scratch,
                                to,
                            );
                        }
                    }
                }
                for (from, to) in [(&scratch.dkeys, &dkeys), (&scratch.dvalues, &dvalues)] {
                    for (token, from) in from.chunks_exact(dim).enumerate() {
                        let at = (sequence.start + token) * kv_width + kv * dim;
                        // SAFETY: this head of this token, which no other unit has.
                        unsafe { to.slice(at..at + dim) }.copy_from_slice(from);
                    }
                }
            }
        });
    }

    fn unit(&self, unit: usize) -> (&Range<usize>, usize) {
        (&self.sequences[unit / self.kv_heads], unit % self.kv_heads)
    }

    /// The heads of queries that use a head of keys and values.
    fn heads_of(&self, kv: usize) -> Range<usize> {
        let group = self.heads / self.kv_heads;
        kv * group..(kv + 1) * group
    }

    /// The queries of a sequence, some at a time.
    fn blocks(&self, length: usize) -> impl Iterator<Item = Block> {
        let window = self.window.unwrap_or(length);
        (0..length).step_by(QUERIES).map(move |start| {
            let end = length.min(start + QUERIES);
            if !self.causal {
                return Block {
                    queries: start..end,
                    keys: 0..length,
                };
            }
            // The first key that the first query sees; panels begin at multiples of their width.
            let first = (start + 1).saturating_sub(window) / PANEL * PANEL;
            Block {
                queries: start..end,
                keys: first..end,
            }
        })
    }

    /// Leaves the weights of a block's keys for each of its queries in `scratch.scores`.
    fn probabilities(&self, simd: Simd, queries: &[f32], block: &Block, scratch: &mut Scratch) {
        let (rows, count) = (block.queries.len(), block.keys.len());
        scratch.scores.resize(rows * count, 0.0);
        let part = Part {
            depth: 0..self.dim,
            columns: block.keys.clone(),
        };
        let queries = Lhs::rows(queries, self.heads * self.dim);
        let to = (scratch.scores.as_mut_ptr(), count);
        // SAFETY: the buffer has `rows` rows of `count` elements and is the caller's alone.
        unsafe {
            multiply(
                simd,
                &queries,
                rows,
                &scratch.keys_columns,
                &part,
                to,
                false,
            )
        };
        if !self.causal {
            for row in scratch.scores.chunks_exact_mut(count) {
                softmax(simd, row, self.scale);
            }
            return;
        }
        let window = self.window.unwrap_or(usize::MAX);
        for (n, row) in scratch.scores.chunks_exact_mut(count).enumerate() {
            let query = block.queries.start + n;
            let first = (query + 1)
                .saturating_sub(window)
                .saturating_sub(block.keys.start);
            let last = query + 1 - block.keys.start;
            row[..first].fill(0.0);
            row[last..].fill(0.0);
            softmax(simd, &mut row[first..last], self.scale);
        }
    }

    /// Adds a block's gradients to those of keys and values, and writes those of its queries.
    ///
    /// # Safety
    /// `dqueries` is valid for as many rows as the block has queries, `heads * dim` apart.
    unsafe fn block_backward(
        &self,
        simd: Simd,
        queries: &[f32],
        dy: &[f32],
        block: &Block,
        scratch: &mut Scratch,
        dqueries: *mut f32,
    ) {
        let (rows, count, dim) = (block.queries.len(), block.keys.len(), self.dim);
        let width = self.heads * dim;
        scratch.dscores.resize(rows * count, 0.0);
        let all = |depth, columns| Part { depth, columns };
        let keys = block.keys.start * dim..block.keys.end * dim;
        pack_rows(&mut scratch.queries_rows, queries, width, rows, dim);
        pack_rows(&mut scratch.dy_rows, dy, width, rows, dim);
        let weights = Lhs::transposed(&scratch.scores, count);
        let to = (scratch.dvalues[keys.clone()].as_mut_ptr(), dim);
        let of_rows = all(0..rows, 0..dim);
        // SAFETY: as many rows of the buffer as the block has keys.
        unsafe { multiply(simd, &weights, count, &scratch.dy_rows, &of_rows, to, true) };
        let of_keys = all(0..dim, block.keys.clone());
        let to = (scratch.dscores.as_mut_ptr(), count);
        // SAFETY: the buffer has `rows` rows of `count` elements.
        unsafe {
            let dy = Lhs::rows(dy, width);
            multiply(
                simd,
                &dy,
                rows,
                &scratch.values_columns,
                &of_keys,
                to,
                false,
            );
        }
        let scores = scratch.scores.chunks_exact(count);
        for (weights, gradients) in scores.zip(scratch.dscores.chunks_exact_mut(count)) {
            softmax_backward(simd, weights, gradients, self.scale);
        }
        let gradients = Lhs::transposed(&scratch.dscores, count);
        let to = (scratch.dkeys[keys].as_mut_ptr(), dim);
        // SAFETY: as many rows of the buffer as the block has keys.
        unsafe {
            multiply(
                simd,
                &gradients,
                count,
                &scratch.queries_rows,
                &of_rows,
                to,
                true,
            )
        };
        let gradients = Lhs::rows(&scratch.dscores, count);
        let of_keys = all(block.keys.clone(), 0..dim);
        // SAFETY: as promised by the caller.
        unsafe {
            let to = (dqueries, width);
            multiply(
                simd,
                &gradients,
                rows,
                &scratch.keys_rows,
                &of_keys,
                to,
                false,
            );
        }
    }
}

wide! {
    /// Softmax of `row * scale`, in place.
    fn softmax(row: &mut [f32], scale: f32) {
        let mut most = [f32::MIN; 16];
        let (parts, rest) = row.as_chunks::<16>();
        for part in parts {
            for (most, x) in most.iter_mut().zip(part) {
                *most = if *x > *most { *x } else { *most };
            }
        }
        let most = rest.iter().chain(&most).fold(f32::MIN, |a, b| a.max(*b));
        let mut sums = [0.0_f32; 16];
        let (parts, rest) = row.as_chunks_mut::<16>();
        for part in parts {
            for (sum, x) in sums.iter_mut().zip(part) {
                *x = exp((*x - most) * scale);
                *sum += *x;
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            *x = exp((*x - most) * scale);
            *sum += *x;
        }
        let inverse = 1.0 / sums.iter().sum::<f32>();
        for x in row {
            *x *= inverse;
        }
    }
}

wide! {
    /// Puts the gradients of the scores in the place of those of their weights.
    fn softmax_backward(weights: &[f32], gradients: &mut [f32], scale: f32) {
        let mut sums = [0.0_f32; 16];
        let (parts, rest) = weights.as_chunks::<16>();
        let (own, own_rest) = gradients.as_chunks::<16>();
        for (weights, own) in parts.iter().zip(own) {
            for ((sum, weight), own) in sums.iter_mut().zip(weights).zip(own) {
                *sum += weight * own;
            }
        }
        for ((sum, weight), own) in sums.iter_mut().zip(rest).zip(own_rest) {
            *sum += weight * own;
        }
        let mean = sums.iter().sum::<f32>();
        for (own, weight) in gradients.iter_mut().zip(weights) {
            *own = weight * (*own - mean) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::test_values;
    use crate::testing::{check_gradients, test_inputs, workers};
    use skep_kernels::Team;

    /// What a token sees.
    #[derive(Debug, Clone, Copy)]
    enum Sees {
        Before,
        Window(usize),
        All,
    }

    fn shape(sequences: &[Range<usize>], sees: Sees) -> Attention<'_> {
        Attention {
            sequences,
            heads: 4,
            kv_heads: 2,
            dim: 3,
            scale: 0.7,
            causal: !matches!(sees, Sees::All),
            window: match sees {
                Sees::Window(window) => Some(window),
                Sees::Before | Sees::All => None,
            },
        }
    }

    fn run(shape: &Attention<'_>, workers: Workers<'_>, values: &[Vec<f32>]) -> Vec<f32> {
        let taken = Taken {
            queries: &values[0],
            keys: &values[1],
            values: &values[2],
        };
        let mut out = vec![0.0; values[0].len()];
        shape.forward(workers, taken, &mut out);
        out
    }

    /// As it is defined, in double precision.
    fn plain(shape: &Attention<'_>, values: &[Vec<f32>]) -> Vec<f64> {
        let (dim, heads, kv_heads) = (shape.dim, shape.heads, shape.kv_heads);
        let mut out = vec![0.0; values[0].len()];
        for sequence in shape.sequences {
            for token in sequence.clone() {
                let window = shape.window.unwrap_or(usize::MAX);
                let first = (token + 1).saturating_sub(window).max(sequence.start);
                for head in 0..heads {
                    let kv = head / (heads / kv_heads);
                    let query = &values[0][(token * heads + head) * dim..][..dim];
                    let seen = match shape.causal {
                        true => first..token + 1,
                        false => sequence.clone(),
                    };
                    let scores: Vec<f64> = seen
                        .clone()
                        .map(|other| {
                            let key = &values[1][(other * kv_heads + kv) * dim..][..dim];
                            let pairs = query.iter().zip(key);
                            let sum: f64 = pairs.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                            (sum * f64::from(shape.scale)).exp()
                        })
                        .collect();
                    let total: f64 = scores.iter().sum();
                    for (score, other) in scores.iter().zip(seen) {
                        for d in 0..dim {
                            let value = values[2][(other * kv_heads + kv) * dim + d];
                            out[(token * heads + head) * dim + d] +=
                                score / total * f64::from(value);
                        }
                    }
                }
            }
        }
        out
    }

    #[test]
    fn packed_sequences_see_their_own_tokens_only() {
        let sequences = [0..1, 1..130, 130..133, 133..240];
        for sees in [Sees::Before, Sees::Window(1), Sees::Window(40), Sees::All] {
            let shape = shape(&sequences, sees);
            let values = [
                test_values(240 * 12, 1),
                test_values(240 * 6, 2),
                test_values(240 * 6, 3),
            ];
            let want = plain(&shape, &values);
            let team = Team::new(2).unwrap();
            for simd in Simd::available() {
                let workers = Workers { simd, team: &team };
                for (got, want) in run(&shape, workers, &values).iter().zip(&want) {
                    assert!(
                        (f64::from(*got) - want).abs() < 1e-5,
                        "{simd:?} {got} {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn gradients_are_those_of_differences() {
        let cases: [(&[Range<usize>], Sees); 5] = [
            (&[0..3, 3..8], Sees::Before),
            (&[0..1, 1..9], Sees::Window(3)),
            // Several blocks of queries, of which the last keys have a window of their own.
            (&[0..2, 2..62], Sees::Window(30)),
            (&[0..3, 3..8], Sees::All),
            (&[0..2, 2..62], Sees::All),
        ];
        for (sequences, sees) in cases {
            let shape = shape(sequences, sees);
            let tokens = sequences[sequences.len() - 1].end;
            let inputs = [tokens * 12, tokens * 6, tokens * 6];
            let team = Team::new(2).unwrap();
            let workers = workers(&team);
            check_gradients(
                test_inputs(&inputs, 5),
                |values| run(&shape, workers, values),
                |values, dy| {
                    let taken = Taken {
                        queries: &values[0],
                        keys: &values[1],
                        values: &values[2],
                    };
                    let mut all: Vec<Vec<f32>> = inputs.iter().map(|n| vec![9.0; *n]).collect();
                    let [queries, keys, values] = all.as_mut_slice() else {
                        unreachable!()
                    };
                    let to = AttentionGradients {
                        queries,
                        keys,
                        values,
                    };
                    shape.backward(workers, taken, dy, to);
                    all
                },
            );
        }
    }
}
