//! Weights that are not quantized.
//!
//! A row and a token have one register of sixteen sums, which are added up at the end; four rows
//! go side by side, so that activations are loaded a quarter as often. Many tokens go another way:
//! see [`many`].

pub mod many;

use std::arch::x86_64::*;
use std::ops::Range;

use super::{ROWS, across};
use crate::activations::Activations;
use crate::linear::PackedMatrix;

/// Rows that share what is loaded of the activations.
const SIDE_BY_SIDE: usize = 4;

/// Rows of floats of 4 or 2 bytes each, the latter of either kind.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn products<const T: usize, const BYTES: usize, const BRAIN: bool>(
    matrix: &PackedMatrix<'_>,
    rows: Range<usize>,
    input: &Activations,
    token: usize,
) -> [[f32; ROWS]; T] {
    let mut all = [[0.0; ROWS]; T];
    for start in (0..rows.len()).step_by(SIDE_BY_SIDE) {
        let some: [&[u8]; SIDE_BY_SIDE] =
            std::array::from_fn(|n| matrix.row(rows.start + (start + n).min(rows.len() - 1)));
        let tokens: [&[f32]; T] = std::array::from_fn(|t| {
            &input.values[(token + t) * input.columns..(token + t + 1) * input.columns]
        });
        let sums = side_by_side::<T, BYTES, BRAIN>(some, tokens);
        for (all, sums) in all.iter_mut().zip(sums) {
            all[start..start + SIDE_BY_SIDE].copy_from_slice(&sums);
        }
    }
    all
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn side_by_side<const T: usize, const BYTES: usize, const BRAIN: bool>(
    rows: [&[u8]; SIDE_BY_SIDE],
    tokens: [&[f32]; T],
) -> [[f32; SIDE_BY_SIDE]; T] {
    let columns = rows[0].len() / BYTES;
    let rows = rows.map(|row| &row[..columns * BYTES]);
    let tokens = tokens.map(|token| &token[..columns]);
    let mut sums = [[_mm512_setzero_ps(); SIDE_BY_SIDE]; T];
    for column in (0..columns).step_by(16) {
        let left = columns - column;
        let mask = if left < 16 {
            (1_u16 << left) - 1
        } else {
            u16::MAX
        };
        // SAFETY: the mask has no more elements than are left of each row and token.
        unsafe {
            let mut weights = [_mm512_setzero_ps(); SIDE_BY_SIDE];
            for (weights, row) in weights.iter_mut().zip(rows) {
                let at = row.as_ptr().add(column * BYTES);
                *weights = match BYTES {
                    4 => _mm512_maskz_loadu_ps(mask, at.cast()),
                    _ => wide::<BRAIN>(_mm256_maskz_loadu_epi16(mask, at.cast())),
                };
            }
            for (sums, token) in sums.iter_mut().zip(tokens) {
                let values = _mm512_maskz_loadu_ps(mask, token.as_ptr().add(column));
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_fmadd_ps(weights, values, *sum);
                }
            }
        }
    }
    let mut totals = [[0.0; SIDE_BY_SIDE]; T];
    for (totals, sums) in totals.iter_mut().zip(sums) {
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total = across(sum);
        }
    }
    totals
}

/// Sixteen floats of 2 bytes, of either kind, become floats of 4.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn wide<const BRAIN: bool>(halves: __m256i) -> __m512 {
    match BRAIN {
        false => _mm512_cvtph_ps(halves),
        true => {
            let words = _mm512_cvtepu16_epi32(halves);
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }
}
