//! The products of adapters with AVX2.
//!
//! Each sum has one register, whose eight parts are added up at the end: with four rows at a time
//! that is as fast as rows come out of memory.

use std::arch::x86_64::*;

use half::f16;

use super::ROWS;

/// The product of each row with each input. A row and an input give the same bits beside
/// whatever others.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn products<const T: usize>(rows: [&[f16]; ROWS], inputs: [&[f32]; T]) -> [[f32; T]; ROWS] {
    let columns = rows[0].len();
    let rows = rows.map(|row| &row[..columns]);
    let inputs = inputs.map(|input| &input[..columns]);
    let mut sums = [[_mm256_setzero_ps(); T]; ROWS];
    let whole = columns / 8 * 8;
    for column in (0..whole).step_by(8) {
        let weights: [__m256; ROWS] = std::array::from_fn(|row| {
            // SAFETY: `column + 8 <= columns`, which is the length of every row.
            unsafe { eight(rows[row].as_ptr().add(column)) }
        });
        for (t, input) in inputs.iter().enumerate() {
            // SAFETY: as above, of every input.
            let x = unsafe { _mm256_loadu_ps(input.as_ptr().add(column)) };
            for (sums, weights) in sums.iter_mut().zip(weights) {
                sums[t] = _mm256_fmadd_ps(weights, x, sums[t]);
            }
        }
    }
    let mut totals = [[0.0; T]; ROWS];
    for ((totals, sums), row) in totals.iter_mut().zip(sums).zip(rows) {
        for ((total, sum), input) in totals.iter_mut().zip(sums).zip(inputs) {
            *total = across(sum);
            for (weight, x) in row[whole..].iter().zip(&input[whole..]) {
                *total = weight.to_f32().mul_add(*x, *total);
            }
        }
    }
    totals
}

/// `out += Σ factors[n] · rows[n]`, added one after the other.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn add_rows(rows: &[&[f16]], factors: &[f32], out: &mut [f32]) {
    let (rows, last_rows) = rows.as_chunks::<4>();
    let (factors, last_factors) = factors.as_chunks::<4>();
    for (rows, factors) in rows.iter().zip(factors) {
        add_some(*rows, *factors, out);
    }
    for (row, factor) in last_rows.iter().zip(last_factors) {
        add_some([*row], [*factor], out);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_some<const R: usize>(rows: [&[f16]; R], factors: [f32; R], out: &mut [f32]) {
    let columns = out.len();
    let rows = rows.map(|row| &row[..columns]);
    let wide = factors.map(|factor| _mm256_set1_ps(factor));
    let whole = columns / 8 * 8;
    for column in (0..whole).step_by(8) {
        // SAFETY: `column + 8 <= columns`, which is the length of the output and of every row.
        unsafe {
            let to = out.as_mut_ptr().add(column);
            let mut sum = _mm256_loadu_ps(to);
            for (row, factor) in rows.iter().zip(wide) {
                sum = _mm256_fmadd_ps(eight(row.as_ptr().add(column)), factor, sum);
            }
            _mm256_storeu_ps(to, sum);
        }
    }
    for (column, to) in out.iter_mut().enumerate().skip(whole) {
        for (row, factor) in rows.iter().zip(factors) {
            *to = row[column].to_f32().mul_add(factor, *to);
        }
    }
}

/// Eight floats.
///
/// # Safety
/// 16 bytes may be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn eight(at: *const f16) -> __m256 {
    // SAFETY: the caller's promise.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn across(sum: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}
