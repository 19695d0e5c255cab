//! Gains: what the outputs of a changed product are multiplied with, where an adapter says how long
//! the rows of the changed matrix are (DoRA, arXiv 2402.09353, section 4).
//!
//! Row `n` of the changed matrix `W + scale · B · A` has some length; the adapter says that it is to
//! be `magnitudes[n]`. So output `n` is multiplied with the one over the other, a gain that no token
//! changes: it is computed when the adapter is read, and lies beside its matrices. A bias is no part
//! of the matrix, and by the time that adapters are added it has been. What the gain makes of it is
//! taken out again: `out · gain + (bias − gain · bias)`.
//!
//! What this module must never do: keep more than a few rows of the base's matrix unpacked.

use half::f16;

use super::layout::{LowRankLayout, LowRankShape, PairPlaces, RowPlaces};
use super::{ADDED_ROWS, TOGETHER, add_rows};
use crate::isa::Isa;
use crate::pages::PageMemory;
use crate::{ShapeError, expect_len};

/// Rows of gains: what is multiplied with, and what is added then.
pub(super) const GAIN_ROWS: usize = 2;

/// How long the rows of a changed matrix are to be, and the matrix that is changed.
pub struct Magnitudes<'a> {
    /// `[outputs]`.
    pub lengths: &'a [f32],
    /// `[outputs]`, if the base adds one to its product.
    pub bias: Option<&'a [f32]>,
    /// Writes a row of the base's matrix, `[inputs]`. False if there is no such row, it has another
    /// length, or nobody wants the gains any more: then no other is asked for.
    pub row: &'a dyn Fn(usize, &mut [f32]) -> bool,
}

impl LowRankLayout {
    /// Writes the gains of pair `pair`, whose product is multiplied with `scale`, to their place in
    /// `pages` of `memory`, where both of its matrices have been written. Lengths are those of the
    /// matrix with what is there of them, in 16-bit floats. A row that has no length has no direction
    /// either; its gain is 0, because its products are. False if a gain is not finite.
    ///
    /// # Errors
    /// When there is no such pair or it has no gains, a length is another, a row of the base's matrix
    /// is missing, or pages are.
    pub fn write_gains(
        &self,
        isa: Isa,
        memory: &mut PageMemory,
        pages: &[u32],
        (pair, scale): (usize, f32),
        magnitudes: &Magnitudes<'_>,
    ) -> Result<bool, ShapeError> {
        let PairPlaces { shape, a, b, gains } = self.rows(pair, memory, pages)?;
        let LowRankShape {
            inputs,
            outputs,
            rank,
        } = shape;
        let Magnitudes { lengths, bias, row } = magnitudes;
        let there = gains.map_or(0, |_| GAIN_ROWS);
        expect_len("adapter", "the gains", there, Some(GAIN_ROWS))?;
        expect_len("adapter", "the magnitudes", lengths.len(), Some(outputs))?;
        let biases = bias.map_or(outputs, <[f32]>::len);
        expect_len("adapter", "the bias", biases, Some(outputs))?;

        let (a, b) = (
            halves(memory, pages, a, rank),
            halves(memory, pages, b, rank),
        );
        let mut values = [vec![0.0; outputs], vec![0.0; outputs]];
        let mut rows = vec![0.0; TOGETHER * inputs];
        let mut factors = vec![0.0; TOGETHER * rank];
        for first in (0..outputs).step_by(TOGETHER) {
            let together = (outputs - first).min(TOGETHER);
            for (n, to) in rows.chunks_exact_mut(inputs).take(together).enumerate() {
                if !row(first + n, to) {
                    return Err(ShapeError {
                        operator: "adapter",
                        what: "the rows of the base",
                        got: first + n,
                        want: outputs,
                    });
                }
                for (factor, b) in factors[n * rank..].iter_mut().zip(&b) {
                    *factor = b[first + n].to_f32() * scale;
                }
            }
            add(
                isa.or_portable(),
                &a,
                &factors,
                &mut rows[..together * inputs],
            );
            for (n, row) in rows.chunks_exact(inputs).take(together).enumerate() {
                let squares: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
                let bias = bias.map_or(0.0, |bias| bias[first + n]);
                let [gain, added] = gain(lengths[first + n], squares.sqrt(), bias);
                values[0][first + n] = gain;
                values[1][first + n] = added;
            }
        }
        let finite = values.iter().flatten().all(|x| x.is_finite());
        if let Some(gains) = gains {
            for (row, values) in values.iter().enumerate() {
                let (page, offset) = gains.place(row);
                let page = memory.page_mut(pages[page] as usize)?;
                let bytes: &[u8] = bytemuck::cast_slice(values.as_slice());
                page[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
        }
        Ok(finite)
    }
}

/// All rows of a matrix of a pair.
fn halves<'m>(
    memory: &'m PageMemory,
    pages: &[u32],
    places: &RowPlaces,
    rank: usize,
) -> Vec<&'m [f16]> {
    let rows = (0..rank).map(|row| places.bytes(memory, pages, row, size_of::<f16>()));
    rows.map(bytemuck::cast_slice).collect()
}

/// Adds to each of at most [`TOGETHER`] rows the rows of `a`, as often as its factors say.
fn add(isa: Isa, a: &[&[f16]], factors: &[f32], rows: &mut [f32]) {
    let (rank, inputs) = (a.len(), a.first().map_or(1, |row| row.len()));
    let mut outs: [&mut [f32]; TOGETHER] = Default::default();
    let together = rows.len() / inputs;
    for (out, row) in outs.iter_mut().zip(rows.chunks_exact_mut(inputs)) {
        *out = row;
    }
    for (number, a) in a.chunks(ADDED_ROWS).enumerate() {
        let mut known: [&[f32]; TOGETHER] = [&[]; TOGETHER];
        for (known, own) in known.iter_mut().zip(factors.chunks_exact(rank)) {
            *known = &own[number * ADDED_ROWS..][..a.len()];
        }
        add_rows(isa, a, &known[..together], &mut outs[..together]);
    }
}

/// What a product is multiplied with, and what is added then.
fn gain(magnitude: f32, length: f64, bias: f32) -> [f32; 2] {
    let gain = match length == 0.0 {
        true => 0.0,
        // A length that is not finite is one of a matrix that has no use.
        false if !length.is_finite() => f64::NAN,
        false => f64::from(magnitude) / length,
    };
    [gain, f64::from(bias) * (1.0 - gain)].map(|x| x as f32)
}

/// `out = out · factors + added`.
pub(super) fn apply(factors: &[f32], added: &[f32], out: &mut [f32]) {
    for ((out, factor), added) in out.iter_mut().zip(factors).zip(added) {
        *out = *out * factor + added;
    }
}

#[cfg(test)]
mod tests;
