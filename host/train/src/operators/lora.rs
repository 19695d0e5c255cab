//! What a low-rank adapter adds to a linear layer: `scale · B · A · dropout(x)` (arXiv
//! 2106.09685).

use crate::bf16::Precision;
use crate::gemm::{Lhs, Product, Rhs, Workers, product};
use crate::operators::share_rows;
use crate::random::uniform;

/// One adapter of one linear layer. Both matrices lie among the trainer's parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LowRank<'a> {
    /// `[rank, inputs]`.
    pub a: &'a [f32],
    /// `[outputs, rank]`.
    pub b: &'a [f32],
    pub rank: usize,
    pub scale: f32,
    /// What lies between both matrices is rounded to.
    pub precision: Precision,
    pub dropout: Option<Dropout>,
}

/// Which elements of an adapter's input are dropped: a function of where they are, so that the
/// backward pass drops the same ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Dropout {
    /// The share that is dropped, below 1. What stays is scaled up to make up for it.
    pub share: f32,
    /// Of this step, layer and matrix.
    pub seed: u64,
}

impl Dropout {
    /// `out = x` without what is dropped, or `out += x` without it.
    pub fn apply(&self, workers: Workers<'_>, x: &[f32], out: &mut [f32], add: bool) {
        let (share, seed, scale) = (self.share, self.seed, 1.0 / (1.0 - self.share));
        // Rows of one element: runs of elements, each known by its place.
        share_rows(workers.team, out, 1, |first, out| {
            for (n, (out, x)) in out.iter_mut().zip(&x[first..]).enumerate() {
                let kept = uniform(seed, (first + n) as u64) >= share;
                let x = if kept { x * scale } else { 0.0 };
                *out = if add { *out + x } else { x };
            }
        });
    }
}

/// What the backward pass gives.
pub(crate) struct LowRankGradients<'a> {
    /// `[rank, inputs]`, added to.
    pub a: &'a mut [f32],
    /// `[outputs, rank]`, added to.
    pub b: &'a mut [f32],
    /// `[tokens, inputs]`, added to, if anybody wants it.
    pub x: Option<&'a mut [f32]>,
}

impl LowRank<'_> {
    fn inputs(&self) -> usize {
        self.a.len() / self.rank
    }

    fn outputs(&self) -> usize {
        self.b.len() / self.rank
    }

    /// `x` without what is dropped, where anything is.
    pub fn dropped(&self, workers: Workers<'_>, x: &[f32]) -> Option<Vec<f32>> {
        self.dropout.map(|dropout| {
            let mut kept = vec![0.0; x.len()];
            dropout.apply(workers, x, &mut kept, false);
            kept
        })
    }

    /// Adds to `y`, `[tokens, outputs]`, and writes what lies between both matrices to `between`,
    /// `[tokens, rank]`: the backward pass needs it.
    pub fn forward(&self, workers: Workers<'_>, x: &[f32], y: &mut [f32], between: &mut [f32]) {
        let dropped = self.dropped(workers, x);
        let x = dropped.as_deref().unwrap_or(x);
        let (inputs, outputs, rank) = (self.inputs(), self.outputs(), self.rank);
        let tokens = x.len() / inputs;
        let first = Product {
            m: tokens,
            n: rank,
            k: inputs,
            a: Lhs::rows(x, inputs),
            b: Rhs::Columns(self.a),
            add: false,
        };
        product(workers, &first, between);
        for x in &mut *between {
            *x *= self.scale;
        }
        self.precision.apply(workers, between);
        let second = Product {
            m: tokens,
            n: outputs,
            k: rank,
            a: Lhs::rows(between, rank),
            b: Rhs::Columns(self.b),
            add: true,
        };
        product(workers, &second, y);
    }

    /// Adds the gradients, given that of `y` and what [`LowRank::forward`] left between.
    pub fn backward(
        &self,
        workers: Workers<'_>,
        x: &[f32],
        between: &[f32],
        dy: &[f32],
        to: LowRankGradients<'_>,
    ) {
        let (inputs, outputs, rank) = (self.inputs(), self.outputs(), self.rank);
        let tokens = x.len() / inputs;
        let of_b = Product {
            m: outputs,
            n: rank,
            k: tokens,
            a: Lhs::transposed(dy, outputs),
            // Scaled already.
            b: Rhs::Rows(between),
            add: true,
        };
        product(workers, &of_b, to.b);
        let mut back = vec![0.0; tokens * rank];
        let through_b = Product {
            m: tokens,
            n: rank,
            k: outputs,
            a: Lhs::rows(dy, outputs),
            b: Rhs::Rows(self.b),
            add: false,
        };
        product(workers, &through_b, &mut back);
        for x in &mut back {
            *x *= self.scale;
        }
        let dropped = self.dropped(workers, x);
        let of_a = Product {
            m: rank,
            n: inputs,
            k: tokens,
            a: Lhs::transposed(&back, rank),
            b: Rhs::Rows(dropped.as_deref().unwrap_or(x)),
            add: true,
        };
        product(workers, &of_a, to.a);
        let Some(dx) = to.x else {
            return;
        };
        let through_a = |add| Product {
            m: tokens,
            n: inputs,
            k: rank,
            a: Lhs::rows(&back, rank),
            b: Rhs::Rows(self.a),
            add,
        };
        match (self.dropout, dropped) {
            (Some(dropout), Some(mut all)) => {
                product(workers, &through_a(false), &mut all);
                dropout.apply(workers, &all, dx, true);
            }
            _ => product(workers, &through_a(true), dx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DROPPING, check_gradients, low_rank, test_inputs, workers};
    use skep_kernels::Team;

    #[test]
    fn gradients_are_those_of_differences() {
        let (tokens, inputs, outputs, rank) = (5, 12, 9, 3);
        let team = Team::new(2).unwrap();
        for dropout in [None, Some(DROPPING)] {
            let workers = workers(&team);
            let inputs_of = [tokens * inputs, rank * inputs, outputs * rank];
            let forward = |values: &[Vec<f32>]| {
                let low = low_rank(&values[1], &values[2], rank, dropout);
                let mut y = vec![0.5; tokens * outputs];
                let mut between = vec![0.0; tokens * rank];
                low.forward(workers, &values[0], &mut y, &mut between);
                (y, between)
            };
            check_gradients(
                test_inputs(&inputs_of, 1),
                |values| forward(values).0,
                |values, dy| {
                    let between = forward(values).1;
                    let low = low_rank(&values[1], &values[2], rank, dropout);
                    let mut all: Vec<Vec<f32>> = inputs_of.iter().map(|n| vec![0.0; *n]).collect();
                    let [x, a, b] = all.as_mut_slice() else {
                        unreachable!()
                    };
                    let to = LowRankGradients {
                        a,
                        b,
                        x: Some(x.as_mut_slice()),
                    };
                    low.backward(workers, &values[0], &between, dy, to);
                    all
                },
            );
        }
    }

    #[test]
    fn a_share_is_dropped_and_the_rest_makes_up_for_it() {
        let team = Team::new(2).unwrap();
        let workers = workers(&team);
        let dropout = Dropout {
            share: 0.25,
            seed: 4,
        };
        let mut out = vec![0.0; 40_000];
        dropout.apply(workers, &vec![1.0; 40_000], &mut out, false);
        let dropped = out.iter().filter(|x| **x == 0.0).count();
        assert!((9_600..10_400).contains(&dropped), "{dropped}");
        assert!(
            out.iter()
                .all(|x| *x == 0.0 || (*x - 4.0 / 3.0).abs() < 1e-6)
        );
        let mut again = vec![0.0; 40_000];
        dropout.apply(workers, &vec![1.0; 40_000], &mut again, false);
        assert_eq!(out, again);
    }
}
