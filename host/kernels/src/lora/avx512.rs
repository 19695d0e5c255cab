//! The products of adapters with AVX-512: as in [`super::avx2`], with registers of sixteen.

use std::arch::x86_64::*;

use half::f16;

use super::{ADDED_ROWS, ROWS};
use crate::linear::avx512::across;

/// Elements of a line of memory.
const LINE: usize = 32;

/// Elements that are asked for ahead in a row of `Bᵀ`.
const AHEAD: usize = 256;

/// The product of each row with each input. A row and an input give the same bits beside
/// whatever others.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn products<const T: usize>(rows: [&[f16]; ROWS], inputs: [&[f32]; T]) -> [[f32; T]; ROWS] {
    let columns = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == columns));
    assert!(inputs.iter().all(|input| input.len() == columns));
    let mut sums = [[_mm512_setzero_ps(); T]; ROWS];
    for column in (0..columns).step_by(16) {
        let mask = mask(columns - column);
        if column % LINE == 0 {
            for row in rows {
                ask_for(row.as_ptr().wrapping_add(ROWS * columns + column));
            }
        }
        let mut weights = [_mm512_setzero_ps(); ROWS];
        for (weights, row) in weights.iter_mut().zip(rows) {
            // SAFETY: the mask has no more elements than are left of every row.
            *weights = unsafe { sixteen(row.as_ptr().add(column), mask) };
        }
        for (t, input) in inputs.iter().enumerate() {
            // SAFETY: as above, of every input.
            let x = unsafe { _mm512_maskz_loadu_ps(mask, input.as_ptr().add(column)) };
            for (sums, weights) in sums.iter_mut().zip(weights) {
                sums[t] = _mm512_fmadd_ps(weights, x, sums[t]);
            }
        }
    }
    let mut totals = [[0.0; T]; ROWS];
    for (totals, sums) in totals.iter_mut().zip(sums) {
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total = across(sum);
        }
    }
    totals
}

/// `outs[t] += Σ factors[t][n] · rows[n]` for each token, row after row.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn add_rows<const T: usize>(rows: &[&[f16]], factors: [&[f32]; T], mut outs: [&mut [f32]; T]) {
    if let Ok(rows) = <&[&[f16]; ADDED_ROWS]>::try_from(rows) {
        return add_some(rows, factors, &mut outs);
    }
    let (fours, last) = rows.as_chunks::<4>();
    for (n, rows) in fours.iter().enumerate() {
        add_some(rows, some(factors, 4 * n, 4), &mut outs);
    }
    for (n, row) in last.iter().enumerate() {
        add_some(&[row], some(factors, 4 * fours.len() + n, 1), &mut outs);
    }
}

/// Each token's factors of some rows.
fn some<const T: usize>(mut factors: [&[f32]; T], first: usize, count: usize) -> [&[f32]; T] {
    for factors in &mut factors {
        *factors = &factors[first..first + count];
    }
    factors
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn add_some<const R: usize, const T: usize>(
    rows: &[&[f16]; R],
    factors: [&[f32]; T],
    outs: &mut [&mut [f32]; T],
) {
    let columns = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == columns));
    assert!(outs.iter().all(|out| out.len() == columns));
    let mut known = [[0.0; R]; T];
    for (known, factors) in known.iter_mut().zip(factors) {
        known.copy_from_slice(factors);
    }
    for column in (0..columns).step_by(16) {
        let mask = mask(columns - column);
        if column % LINE == 0 {
            for row in rows {
                ask_for(row.as_ptr().wrapping_add(AHEAD + column));
            }
        }
        let mut weights = [_mm512_setzero_ps(); R];
        for (weights, row) in weights.iter_mut().zip(rows) {
            // SAFETY: the mask has no more elements than are left of every row.
            *weights = unsafe { sixteen(row.as_ptr().add(column), mask) };
        }
        for (out, factors) in outs.iter_mut().zip(known) {
            // SAFETY: as above, of every output.
            unsafe {
                let to = out.as_mut_ptr().add(column);
                let mut sum = _mm512_maskz_loadu_ps(mask, to);
                for (weights, factor) in weights.iter().zip(factors) {
                    sum = _mm512_fmadd_ps(*weights, _mm512_set1_ps(factor), sum);
                }
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}

/// Asks memory for a line that will be read soon: rows lie one after the other, so what comes after
/// four rows is the next four, and after the last of a matrix the next matrix.
#[inline]
fn ask_for(at: *const f16) {
    // SAFETY: it reads nothing, so any address will do.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

/// As many elements as are left, sixteen at most.
#[inline]
fn mask(left: usize) -> u16 {
    if left < 16 { (1 << left) - 1 } else { u16::MAX }
}

/// Sixteen floats.
///
/// # Safety
/// As many elements as the mask has may be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn sixteen(at: *const f16, mask: u16) -> __m512 {
    // SAFETY: the caller's promise.
    _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(mask, at.cast()) })
}
