//! Weights whose blocks have 32 elements and one scale, and some of them one minimum.

use std::arch::x86_64::*;
use std::ops::Range;

use skep_weights::GroupInt4;

use super::{OFFSET, SIDE_BY_SIDE, Scratch, Sums, four_bytes, line};
use crate::activations::TilesOfGroup;
use crate::linear::avx512::thirty_twos::{
    has_minimum, offset, places, scales, two_blocks, two_nibbles,
};
use crate::linear::avx512::{Panel, ROWS, halves, quads};

/// Bytes of sixteen rows of a block.
const BLOCK: usize = 32 * ROWS;

/// Takes some columns of sixteen rows of blocks of so many bytes apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn unpack<const BYTES: usize>(
    scratch: &mut Scratch,
    panel: &Panel<'_>,
    columns: &Range<usize>,
) {
    let blocks = columns.start / 32..columns.end / 32;
    let less = _mm512_set1_epi8(offset(BYTES) as i8);
    let places = places(panel);
    for (n, block) in blocks.clone().enumerate() {
        if has_minimum(BYTES) {
            let minima = scales(panel, places, block * BYTES + 2);
            // SAFETY: sixteen floats may be written.
            unsafe { _mm512_storeu_ps(scratch.minimum[n].as_mut_ptr(), minima) };
        }
        let scales = scales(panel, places, block * BYTES);
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(scratch.scales[n].as_mut_ptr(), scales) };
    }
    for (n, block) in blocks.clone().enumerate().step_by(2) {
        let next = (block + 1).min(blocks.end - 1);
        let mut all = [[_mm512_setzero_si512(); 4]; ROWS / 4];
        for row in 0..ROWS {
            // SAFETY: both blocks are the row's.
            let weights = unsafe {
                two_blocks::<BYTES>(panel.at(row, block * BYTES), panel.at(row, next * BYTES))
            };
            panel.ask_ahead(block / 2, row, 2 * BYTES);
            all[row / 4][row % 4] = _mm512_sub_epi8(weights, less);
        }
        put(scratch, n, &all, next > block);
    }
}

/// Takes some columns of sixteen rows of groups apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn unpack_groups(
    scratch: &mut Scratch,
    matrix: &GroupInt4,
    rows: Range<usize>,
    columns: &Range<usize>,
) {
    let blocks = columns.start / 32..columns.end / 32;
    for (n, block) in blocks.clone().enumerate().step_by(2) {
        let next = (block + 1).min(blocks.end - 1);
        let [group, next_group] = [block, next].map(|block| 32 * block / matrix.group());
        let mut all = [[_mm512_setzero_si512(); 4]; ROWS / 4];
        for n_row in 0..ROWS {
            let Some(row) = matrix.row(rows.start + n_row.min(rows.len() - 1)) else {
                continue;
            };
            let quants = row.quants.as_chunks::<16>().0;
            // SAFETY: a block has 16 bytes.
            let weights = unsafe { two_nibbles(quants[block].as_ptr(), quants[next].as_ptr()) };
            let zero = _mm256_set1_epi8(row.zeros[group] as i8);
            let next_zero = _mm256_set1_epi8(row.zeros[next_group] as i8);
            let zeros = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(zero), next_zero);
            all[n_row / 4][n_row % 4] = _mm512_sub_epi8(weights, zeros);
            scratch.scales[n][n_row] = row.scales[group].to_f32();
            if next > block {
                scratch.scales[n + 1][n_row] = row.scales[next_group].to_f32();
            }
        }
        put(scratch, n, &all, next > block);
    }
}

/// Puts one or two blocks of sixteen rows where they belong, and what their sums begin with.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn put(scratch: &mut Scratch, n: usize, rows: &[[__m512i; 4]; ROWS / 4], is_second: bool) {
    let by = _mm512_set1_epi8(OFFSET as u8 as i8);
    let mut sums = [_mm512_setzero_si512(); 4];
    for (quarter, (four, sums)) in rows.iter().zip(&mut sums).enumerate() {
        let mut all = [_mm512_setzero_si512(); 4];
        for (row, (weights, all)) in four.iter().zip(&mut all).enumerate() {
            *all = _mm512_dpbusd_epi32(_mm512_setzero_si512(), by, *weights);
            // A row has half a line in each block, and a block eight lines.
            let at = |block: usize| {
                let row = 4 * quarter + row;
                (8 * block + row / 2, 32 * (row % 2))
            };
            let halves = [
                _mm512_castsi512_si256(*weights),
                _mm512_extracti64x4_epi64::<1>(*weights),
            ];
            for (block, half) in (n..=n + usize::from(is_second)).zip(halves) {
                let (line, start) = at(block);
                let to = &mut scratch.weights[line].0[start..start + 32];
                // SAFETY: 32 bytes may be written.
                unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), half) };
            }
        }
        *sums = quads(all);
    }
    for (block, more) in (n..=n + usize::from(is_second)).zip(halves(sums)) {
        let start = _mm512_sub_epi32(_mm512_setzero_si512(), more);
        // SAFETY: sixteen integers may be written.
        unsafe { _mm512_storeu_si512(scratch.starts[block].as_mut_ptr().cast(), start) };
    }
}

/// Goes on with the sums of four rows from `row` on, of groups of tokens. Blocks have a minimum or
/// none.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn multiply<const G: usize, const MINIMUM: bool>(
    scratch: &Scratch,
    row: usize,
    parts: &[TilesOfGroup<'_>; G],
    sums: &mut [Sums; G],
) {
    let lines = parts.map(|part| part.lines.as_chunks::<8>().0);
    let blocks = parts.iter().map(|part| part.scales.len()).min();
    let mut kept = *sums;
    for n in 0..blocks.unwrap_or(0) {
        let lines = lines.map(|lines| &lines[n]);
        let mut integers = [[_mm512_setzero_si512(); SIDE_BY_SIDE]; G];
        for r in 0..SIDE_BY_SIDE {
            let start = _mm512_set1_epi32(scratch.starts[n][row + r]);
            for integers in &mut integers {
                integers[r] = start;
            }
        }
        // SAFETY: the scratch has as many blocks as the input has of these columns.
        let weights = unsafe { scratch.bytes().add(BLOCK * n + 32 * row) };
        for k in 0..8 {
            let mut inputs = [_mm512_setzero_si512(); G];
            for (input, lines) in inputs.iter_mut().zip(lines) {
                *input = line(&lines[k]);
            }
            for r in 0..SIDE_BY_SIDE {
                // SAFETY: a row has 32 bytes of this block.
                let weights = unsafe { four_bytes(weights.add(32 * r + 4 * k)) };
                for (integers, inputs) in integers.iter_mut().zip(inputs) {
                    integers[r] = _mm512_dpbusd_epi32(integers[r], inputs, weights);
                }
            }
        }
        for ((sums, integers), part) in kept.iter_mut().zip(integers).zip(parts) {
            // SAFETY: sixteen floats may be read.
            let step = unsafe { _mm512_loadu_ps(part.scales[n].as_ptr()) };
            let mut total = _mm512_setzero_ps();
            if MINIMUM {
                // SAFETY: as above.
                total = unsafe { _mm512_loadu_ps(part.totals[n].as_ptr()) };
            }
            for (r, (sum, integers)) in sums.iter_mut().zip(integers).enumerate() {
                let scale = _mm512_mul_ps(_mm512_set1_ps(scratch.scales[n][row + r]), step);
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(integers), scale, *sum);
                if MINIMUM {
                    let minimum = _mm512_set1_ps(scratch.minimum[n][row + r]);
                    *sum = _mm512_fmadd_ps(_mm512_mul_ps(minimum, step), total, *sum);
                }
            }
        }
    }
    *sums = kept;
}
