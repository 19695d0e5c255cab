//! A linear layer whose rows an adapter turns, and brings to lengths that are learned apart from
//! that: `m ⊙ (W + scale · B · A) · x / n + b` with n the length of each row of `W + scale · B · A`
//! (DoRA, arXiv 2402.09353).
//!
//! On the way back the lengths are constants, as section 4.3 of the paper has it, and as PEFT does.
//! Where elements of the input are dropped, what is scaled is of what stays, `x'`, and what the base
//! makes of the rest is not: `g ⊙ (W + scale · B · A) · x' + W · (x - x') + b` with `g = m / n`.
//! That is PEFT's again, and what it comes to at first is the base's own.

use std::sync::Arc;

use skep_accounts::QuotaError;

use crate::gemm::{Lhs, Product, Rhs, RowSource, Workers, product};
use crate::operators::frozen::Frozen;
use crate::operators::lora::{LowRank, LowRankGradients};
use crate::operators::{Shared, share_rows};
use crate::pool::Pool;

/// Rows that are unpacked at a time to be measured.
const ROWS: usize = 64;

/// Rows of a magnitude's gradient that are summed at a time.
const SUMS: usize = 256;

/// What directions are multiplied with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scales<'a> {
    /// `[outputs]`: magnitudes over lengths.
    pub scale: &'a [f32],
    /// `[outputs]`: 1 over lengths. Of a row of zeros, which has no direction, both are 0.
    pub inverse: &'a [f32],
}

/// A linear layer with its adapter and magnitudes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dora<'a> {
    pub frozen: &'a Frozen,
    pub low: LowRank<'a>,
    pub scales: Scales<'a>,
}

/// What the forward pass left for the way back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DoraKept<'a> {
    /// What lies between both matrices, `[tokens, rank]`.
    pub between: &'a [f32],
    /// What is scaled, `[tokens, outputs]`.
    pub direction: &'a [f32],
}

/// What the backward pass gives.
pub(crate) struct DoraGradients<'a> {
    /// `[rank, inputs]`, added to.
    pub a: &'a mut [f32],
    /// `[outputs, rank]`, added to.
    pub b: &'a mut [f32],
    /// `[outputs]`, added to.
    pub magnitude: &'a mut [f32],
    /// `[tokens, inputs]`, if anybody wants it, and whether it is added to.
    pub x: Option<(&'a mut [f32], bool)>,
}

impl Scales<'_> {
    /// Writes both, one after the other, over the lengths in the first half of `out`,
    /// `[2, outputs]`.
    pub fn write(magnitudes: &[f32], out: &mut [f32]) {
        let (scales, inverses) = out.split_at_mut(magnitudes.len());
        let both = scales.iter_mut().zip(inverses);
        for ((scale, inverse), magnitude) in both.zip(magnitudes) {
            let length = *scale;
            (*scale, *inverse) = match length > 0.0 {
                // Not times the inverse, so that a magnitude that is the length scales by 1.
                true => (magnitude / length, 1.0 / length),
                false => (0.0, 0.0),
            };
        }
    }
}

impl Dora<'_> {
    /// Writes the layer's output to `y`, `[tokens, outputs]`, and what the backward pass needs to
    /// `between`, `[tokens, rank]`, and `direction`, `[tokens, outputs]`.
    pub fn forward(
        &self,
        workers: Workers<'_>,
        x: &[f32],
        y: &mut [f32],
        between: &mut [f32],
        direction: &mut [f32],
    ) {
        let dropped = self.low.dropped(workers, x);
        let stays = dropped.as_deref().unwrap_or(x);
        self.frozen.without_bias(workers, stays, direction);
        self.without_dropout()
            .forward(workers, stays, direction, between);
        self.low.precision.apply(workers, direction);
        let has_rest = dropped.is_some();
        if let Some(mut rest) = dropped {
            share_rows(workers.team, &mut rest, 1, |first, rest| {
                for (rest, x) in rest.iter_mut().zip(&x[first..]) {
                    *rest = x - *rest;
                }
            });
            self.frozen.without_bias(workers, &rest, y);
        }
        let (direction, scale) = (&*direction, self.scales.scale);
        let (outputs, bias) = (scale.len(), self.frozen.bias.as_deref());
        share_rows(workers.team, y, outputs, |first, rows| {
            let directions = direction[first * outputs..].chunks_exact(outputs);
            for (row, direction) in rows.chunks_exact_mut(outputs).zip(directions) {
                for ((y, direction), scale) in row.iter_mut().zip(direction).zip(scale) {
                    let scaled = scale * direction;
                    *y = if has_rest { *y + scaled } else { scaled };
                }
                for (y, bias) in row.iter_mut().zip(bias.unwrap_or_default()) {
                    *y += bias;
                }
            }
        });
    }

    /// Gives the gradients, that of `y` being `dy`. `scaled`, `[tokens, outputs]`, is room to compute
    /// in.
    pub fn backward(
        &self,
        workers: Workers<'_>,
        x: &[f32],
        kept: DoraKept<'_>,
        dy: &[f32],
        scaled: &mut [f32],
        to: DoraGradients<'_>,
    ) {
        let DoraGradients {
            a,
            b,
            magnitude,
            x: dx,
        } = to;
        self.add_magnitudes(workers, kept.direction, dy, magnitude);
        let scale = self.scales.scale;
        share_rows(workers.team, scaled, scale.len(), |first, rows| {
            let from = dy[first * scale.len()..].chunks_exact(scale.len());
            for (row, dy) in rows.chunks_exact_mut(scale.len()).zip(from) {
                for ((scaled, dy), scale) in row.iter_mut().zip(dy).zip(scale) {
                    *scaled = scale * dy;
                }
            }
        });
        let dropped = self.low.dropped(workers, x);
        let stays = dropped.as_deref().unwrap_or(x);
        let low = self.without_dropout();
        let between = kept.between;
        let Some((dx, add)) = dx else {
            let to = LowRankGradients { a, b, x: None };
            low.backward(workers, stays, between, scaled, to);
            return;
        };
        let Some(dropout) = self.low.dropout else {
            self.frozen.backward(workers, scaled, dx, add);
            let x = Some(dx);
            let to = LowRankGradients { a, b, x };
            low.backward(workers, stays, between, scaled, to);
            return;
        };
        // The base's of all of the input, and what the scales change of that where it stays.
        self.frozen.backward(workers, dy, dx, add);
        let mut change = vec![0.0; x.len()];
        let to = LowRankGradients {
            a,
            b,
            x: Some(change.as_mut_slice()),
        };
        low.backward(workers, stays, between, scaled, to);
        share_rows(workers.team, scaled, 1, |first, scaled| {
            for (scaled, dy) in scaled.iter_mut().zip(&dy[first..]) {
                *scaled -= dy;
            }
        });
        self.frozen.backward(workers, scaled, &mut change, true);
        dropout.apply(workers, &change, dx, true);
    }

    /// The adapter of an input of which what is dropped is gone.
    fn without_dropout(&self) -> LowRank<'_> {
        LowRank {
            dropout: None,
            ..self.low
        }
    }

    fn add_magnitudes(
        &self,
        workers: Workers<'_>,
        direction: &[f32],
        dy: &[f32],
        gradient: &mut [f32],
    ) {
        let (outputs, inverse) = (gradient.len(), self.scales.inverse);
        let shared = Shared::new(gradient);
        workers.team.share(outputs, SUMS, |range| {
            let mut sums = vec![0.0_f64; range.len()];
            let rows = direction.chunks_exact(outputs);
            for (direction, dy) in rows.zip(dy.chunks_exact(outputs)) {
                let both = direction[range.clone()].iter().zip(&dy[range.clone()]);
                for (sum, (direction, dy)) in sums.iter_mut().zip(both) {
                    *sum += f64::from(*direction) * f64::from(*dy);
                }
            }
            // SAFETY: every row is in one range.
            let part = unsafe { shared.slice(range.clone()) };
            for ((gradient, sum), inverse) in part.iter_mut().zip(sums).zip(&inverse[range]) {
                *gradient += (sum * f64::from(*inverse)) as f32;
            }
        });
    }
}

/// Writes the length of each row of `W + scale · B · A` to `out`, `[outputs]`. Rows are unpacked a few
/// at a time, to buffers of the pool.
pub(crate) fn row_lengths(
    workers: Workers<'_>,
    pool: &Arc<Pool>,
    source: &dyn RowSource,
    low: &LowRank<'_>,
    out: &mut [f32],
) -> Result<(), QuotaError> {
    let (outputs, inputs, rank) = (source.rows(), source.columns(), low.rank);
    let mut some = pool.take(ROWS.min(outputs) * inputs)?;
    for (number, lengths) in out.chunks_mut(ROWS).enumerate() {
        let first = number * ROWS;
        let rows = &mut some[..lengths.len() * inputs];
        share_rows(workers.team, rows, inputs, |from, rows| {
            for (n, row) in rows.chunks_exact_mut(inputs).enumerate() {
                source.read(first + from + n, 0..inputs, row);
            }
        });
        let b = &low.b[first * rank..(first + lengths.len()) * rank];
        let b: Vec<f32> = b.iter().map(|b| low.scale * b).collect();
        let change = Product {
            m: lengths.len(),
            n: inputs,
            k: rank,
            a: Lhs::rows(&b, rank),
            b: Rhs::Rows(low.a),
            add: true,
        };
        product(workers, &change, rows);
        let (rows, shared) = (&*rows, Shared::new(lengths));
        workers.team.share(rows.len() / inputs, 8, |range| {
            let own = rows[range.start * inputs..range.end * inputs].chunks_exact(inputs);
            // SAFETY: every row is in one range.
            let lengths = unsafe { shared.slice(range) };
            for (length, row) in lengths.iter_mut().zip(own) {
                let square = |x: &f32| f64::from(*x) * f64::from(*x);
                *length = row.iter().map(square).sum::<f64>().sqrt() as f32;
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
