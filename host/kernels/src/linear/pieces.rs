//! Products of many tokens in pieces: what those with tiles ([`super::amx`]) and those without
//! ([`super::avx512::many`]) have in common.
//!
//! A piece is sixteen rows of weights. They are taken apart into bytes, a kilobyte of activations
//! long at a time, while groups of sixteen tokens pass by, whose sums are put down until the next
//! columns have been taken apart.

use std::arch::x86_64::*;
use std::ops::Range;

use skep_weights::PackedFormat;

use super::avx512::{ROWS, transposed};
use super::{Output, Weights};
use crate::activations::Activations;

/// Tokens that lie side by side.
pub const TOKENS: usize = 16;

/// Columns whose weights are taken apart at a time: their bytes, or two planes of them, stay in
/// the first cache.
pub const COLUMNS: usize = 1024;

/// Groups of tokens that pass by before weights are taken apart anew.
pub const GROUPS: usize = 32;

/// A number of each of sixteen rows for sixteen tokens.
pub type Square<T> = [[T; TOKENS]; ROWS];

/// Whether weights are multiplied in pieces: all that meet rounded activations.
pub fn takes(weights: &Weights<'_>) -> bool {
    match weights {
        Weights::Packed(matrix) => matches!(
            matrix.format(),
            PackedFormat::Q8_0
                | PackedFormat::Q4_0
                | PackedFormat::Q5_0
                | PackedFormat::Q4_1
                | PackedFormat::Q5_1
                | PackedFormat::Q4_K
                | PackedFormat::Q5_K
                | PackedFormat::Q6_K
        ),
        Weights::Grouped(_) => true,
    }
}

/// A piece of a product.
pub struct Piece<'a> {
    /// What is multiplied.
    pub weights: &'a Weights<'a>,
    /// Its rows that are meant, sixteen at most.
    pub rows: Range<usize>,
    /// Where memory is asked for, as in [`super::avx512::products`].
    pub ahead: *const u8,
    /// All tokens.
    pub input: &'a Activations,
    /// Where results go, in rows of as many elements as the weights have rows.
    pub out: &'a Output,
}

impl Piece<'_> {
    /// All groups of tokens, as many at a time as pass by before weights are taken apart anew.
    pub fn groups(&self) -> impl Iterator<Item = Range<usize>> {
        some(self.input.tokens.div_ceil(TOKENS), GROUPS)
    }

    /// All columns, as many at a time as are taken apart.
    pub fn columns(&self) -> impl Iterator<Item = Range<usize>> {
        some(self.input.columns, COLUMNS)
    }

    /// Puts the sums of a group of tokens, a register for each row, where they go.
    ///
    /// # Safety
    /// The rows are the weights', the output has a row for each token, and the group is one of the
    /// input's.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub unsafe fn put(&self, group: usize, sums: [__m512; ROWS]) {
        let mask = u16::MAX >> (ROWS - self.rows.len());
        let tokens = group * TOKENS..self.input.tokens.min((group + 1) * TOKENS);
        for (token, sums) in tokens.zip(transposed(sums)) {
            // SAFETY: the token is one of the input's, and the mask has as many elements as there
            // are rows.
            unsafe {
                let at = token * self.weights.rows() + self.rows.start;
                _mm512_mask_storeu_ps(self.out.0.add(at), mask, sums);
            }
        }
    }
}

/// So many things, some at a time.
fn some(all: usize, each: usize) -> impl Iterator<Item = Range<usize>> {
    (0..all)
        .step_by(each)
        .map(move |first| first..all.min(first + each))
}

/// Sums that were put down, a register for each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn loaded(square: &Square<f32>) -> [__m512; ROWS] {
    let mut sums = [_mm512_setzero_ps(); ROWS];
    for (sums, row) in sums.iter_mut().zip(square) {
        // SAFETY: every row has sixteen floats.
        *sums = unsafe { _mm512_loadu_ps(row.as_ptr()) };
    }
    sums
}

/// Puts sums down, as [`loaded`] takes them up.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn store(sums: [__m512; ROWS], square: &mut Square<f32>) {
    for (row, sums) in square.iter_mut().zip(sums) {
        // SAFETY: every row has sixteen floats.
        unsafe { _mm512_storeu_ps(row.as_mut_ptr(), sums) };
    }
}
