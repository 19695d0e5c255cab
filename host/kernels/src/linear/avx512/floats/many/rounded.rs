//! As [`super`], of weights and activations that are both rounded to bfloat16: twice as many
//! products an instruction.
//!
//! A sum goes on with two products at a time, in order and rounded once each time, whichever the
//! processor: subnormal numbers count as zero (Intel, *Architecture Instruction Set Extensions*,
//! VDPBF16PS).
//!
//! What this module must never do: have a part in anything that others are to get the same bits of.

use std::arch::x86_64::*;
use std::ops::Range;

use skep_weights::PackedFormat;

use super::{Four, Sums, as_it_is, loaded, pack_by, put_down, taken_up};
use crate::activations::Lanes;
use crate::linear::PackedMatrix;
use crate::linear::avx512::floats::{SIDE_BY_SIDE, wide};

/// As [`super::pack`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx512bf16")]
pub fn pack(
    fours: &mut [Four],
    matrix: &PackedMatrix<'_>,
    rows: &Range<usize>,
    columns: &Range<usize>,
) {
    match matrix.format() {
        PackedFormat::F32 => pack_by(fours, matrix, rows, columns, |bytes: &[u8; 128]| {
            // SAFETY: there are bytes for 32 floats.
            let (first, second) = unsafe {
                let at = bytes.as_ptr().cast::<f32>();
                (_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(16)))
            };
            Lanes::rounded(first, second)
        }),
        PackedFormat::F16 => pack_by(fours, matrix, rows, columns, |bytes: &[u8; 64]| {
            // SAFETY: there are bytes for 32 floats of half the size.
            let (first, second) = unsafe {
                let at = bytes.as_ptr().cast::<__m256i>();
                (_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1)))
            };
            Lanes::rounded(wide::<false>(first), wide::<false>(second))
        }),
        _ => pack_by(fours, matrix, rows, columns, as_it_is),
    }
}

/// As [`super::multiply`], of a group of as many tokens as there are sums of.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx512bf16")]
pub fn multiply_some(
    weights: &Four,
    values: &[Lanes],
    sums: &mut [Sums],
    number: usize,
    begins: bool,
) {
    match sums.len() {
        6 => multiply::<6>(weights, values, sums, number, begins),
        5 => multiply::<5>(weights, values, sums, number, begins),
        4 => multiply::<4>(weights, values, sums, number, begins),
        3 => multiply::<3>(weights, values, sums, number, begins),
        2 => multiply::<2>(weights, values, sums, number, begins),
        _ => multiply::<1>(weights, values, sums, number, begins),
    }
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx512bf16")]
fn multiply<const T: usize>(
    weights: &Four,
    values: &[Lanes],
    sums: &mut [Sums],
    number: usize,
    begins: bool,
) {
    let Some(sums) = sums.first_chunk_mut::<T>() else {
        return;
    };
    let mut kept = taken_up(sums, number, begins);
    for (weights, values) in weights.iter().zip(values.as_chunks::<T>().0) {
        let mut rows = [_mm512_setzero_ps(); SIDE_BY_SIDE];
        for (row, weights) in rows.iter_mut().zip(weights) {
            *row = loaded(weights);
        }
        let rows = rows.map(halves);
        for (kept, values) in kept.iter_mut().zip(values) {
            let values = halves(loaded(values));
            for (sum, row) in kept.iter_mut().zip(&rows) {
                *sum = _mm512_dpbf16_ps(*sum, *row, values);
            }
        }
    }
    put_down(&kept, sums, number);
}

/// The same bits, as two floats in each place.
#[inline(always)]
fn halves(register: __m512) -> __m512bh {
    // SAFETY: both types are 512 bits of which any are allowed.
    unsafe { std::mem::transmute(register) }
}

#[cfg(test)]
mod tests;
