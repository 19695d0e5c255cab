//! Products of many tokens with weights that are not quantized.
//!
//! Rows of weights are thousands of bytes apart, often a power of two of them, and compete for the
//! same few lines of the first cache; and where they have two bytes, every four tokens would make
//! them longer again. So sixteen rows are made longer once for many tokens, a few hundred columns at
//! a time, into a buffer as large as the first cache, in the order in which they are multiplied, and
//! four of them fill a quarter of it. Activations lie in such an order already ([`FloatGroups`]).
//! Four rows and a group of tokens keep their sums in registers meanwhile, and in memory from one
//! block of columns to the next.
//!
//! A row and a token have one register of sixteen sums, from the first column to the last, which
//! are added up as [`across`](crate::linear::avx512::across) does: the same bits as in
//! [`super::products`].
//!
//! Where the input is rounded to bfloat16, so are the weights, and go the same way with twice as
//! many columns in a register: [`rounded`].

mod rounded;

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use skep_weights::PackedFormat;

use super::{SIDE_BY_SIDE, wide};
use crate::activations::{Activations, FloatGroups, Lanes};
use crate::linear::avx512::{ROWS, across_each};
use crate::linear::{Output, PackedMatrix, Weights};

/// The fewest tokens for which this is faster than [`super::products`].
pub const FEWEST: usize = 32;

// `Piece::multiply_some` knows groups of four, five and six tokens.
const _: () = assert!(FloatGroups::TOKENS == 6 && FEWEST >= 8);

/// Groups of tokens that pass by before weights are taken apart anew: so many that their sums stay
/// in the second cache, and enough for a batch of 256 tokens.
const GROUPS: usize = 44;

/// Registers of a row that are packed at a time.
const STEPS: usize = FloatGroups::STEPS;

/// Four rows of weights: a register's columns of each, then the next.
type Four = [[Lanes; SIDE_BY_SIDE]; STEPS];

/// The sums of sixteen rows, by fours, for a token.
type Sums = [[Lanes; SIDE_BY_SIDE]; ROWS / SIDE_BY_SIDE];

/// What a thread works with, beside its input and output.
struct Scratch {
    /// Weights as floats of 32 bits, or of 16 where these are multiplied.
    weights: [Four; ROWS / SIDE_BY_SIDE],
    /// For each token, the sums from the columns before.
    sums: [Sums; GROUPS * FloatGroups::TOKENS],
}

impl Scratch {
    fn new() -> Box<Self> {
        const ZEROS: [Lanes; SIDE_BY_SIDE] = [Lanes([0.0; 16]); SIDE_BY_SIDE];
        Box::new(Self {
            weights: [[ZEROS; STEPS]; ROWS / SIDE_BY_SIDE],
            sums: [[ZEROS; ROWS / SIDE_BY_SIDE]; GROUPS * FloatGroups::TOKENS],
        })
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::new(Scratch::new());
}

/// Whether weights are multiplied here.
pub fn takes(weights: &Weights<'_>) -> bool {
    match weights {
        Weights::Packed(matrix) => matches!(
            matrix.format(),
            PackedFormat::F32 | PackedFormat::F16 | PackedFormat::BF16
        ),
        Weights::Grouped(_) => false,
    }
}

/// A piece of a product.
pub struct Piece<'a> {
    /// What is multiplied.
    pub weights: &'a Weights<'a>,
    /// Its rows that are meant, sixteen at most.
    pub rows: Range<usize>,
    /// Where the rows that this thread multiplies next begin, which may be any address.
    pub ahead: *const u8,
    /// All tokens.
    pub input: &'a Activations,
    /// Where results go, in rows of as many elements as the weights have rows.
    pub out: &'a Output,
}

/// What is packed next, and is asked for meanwhile.
struct Ahead {
    /// The first row's columns.
    at: *const u8,
    row_bytes: usize,
    /// Lines of memory, of sixteen rows together.
    lines: usize,
}

impl Ahead {
    /// Asks for one of so many equal parts.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn ask(&self, part: usize, parts: usize) {
        for line in self.lines * part / parts..self.lines * (part + 1) / parts {
            let place = line % ROWS * self.row_bytes + line / ROWS * 64;
            // It reads nothing: any address will do. It goes to the second cache: the first has
            // what is being multiplied.
            _mm_prefetch::<_MM_HINT_T1>(self.at.wrapping_add(place).cast());
        }
    }
}

impl Piece<'_> {
    /// Multiplies the rows with all tokens.
    ///
    /// # Safety
    /// The rows are the weights', the input has as many columns and lies in groups too, and the
    /// output has a row for each token.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub unsafe fn multiply(&self) {
        let Weights::Packed(matrix) = self.weights else {
            return;
        };
        SCRATCH.with_borrow_mut(|scratch| {
            let groups = self.input.groups.groups();
            for first in (0..groups).step_by(GROUPS) {
                let some = first..groups.min(first + GROUPS);
                // SAFETY: the caller's promise.
                unsafe { self.multiply_some(scratch, matrix, some) };
            }
        });
    }

    /// Multiplies the rows with some groups of tokens.
    ///
    /// # Safety
    /// As [`Piece::multiply`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    unsafe fn multiply_some(
        &self,
        scratch: &mut Scratch,
        matrix: &PackedMatrix<'_>,
        groups: Range<usize>,
    ) {
        let input = &self.input.groups;
        let is_last = groups.end == input.groups();
        let first = input.group(groups.start).start;
        let fours = self.rows.len().div_ceil(SIDE_BY_SIDE);
        let parts = groups.len() * fours;
        for block in 0..input.blocks() {
            let columns = input.columns(block);
            self.pack(&mut scratch.weights[..fours], matrix, &columns);
            let ahead = self.next(matrix, columns.end, is_last);
            for (number, group) in groups.clone().enumerate() {
                let tokens = input.group(group);
                let values = input.part(block, &tokens);
                let sums = &mut scratch.sums[tokens.start - first..tokens.end - first];
                for (n, weights) in scratch.weights[..fours].iter().enumerate() {
                    ahead.ask(number * fours + n, parts);
                    let begins = block == 0;
                    if input.are_rounded() {
                        // SAFETY: who rounded the input has these instructions.
                        unsafe { rounded::multiply_some(weights, values, sums, n, begins) };
                        continue;
                    }
                    match tokens.len() {
                        6 => multiply::<6>(weights, values, sums, n, begins),
                        5 => multiply::<5>(weights, values, sums, n, begins),
                        _ => multiply::<4>(weights, values, sums, n, begins),
                    }
                }
                if block + 1 == input.blocks() {
                    // SAFETY: the tokens are the input's.
                    unsafe { self.put(tokens, sums) };
                }
            }
        }
    }

    /// What is packed after the columns that end here, and after all tokens if these are the last.
    fn next(&self, matrix: &PackedMatrix<'_>, end: usize, is_last: bool) -> Ahead {
        let bytes = matrix.format().block_bytes();
        let first = matrix.row(self.rows.start).as_ptr();
        Ahead {
            at: if end < matrix.columns() {
                first.wrapping_add(end * bytes)
            } else if is_last {
                self.ahead
            } else {
                first
            },
            row_bytes: matrix.row_bytes(),
            lines: ROWS
                * (matrix.columns().min(self.input.groups.most_columns()) * bytes).div_ceil(64),
        }
    }

    /// Makes floats of 32 bits, or of 16, of some columns of the rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn pack(&self, fours: &mut [Four], matrix: &PackedMatrix<'_>, columns: &Range<usize>) {
        if self.input.groups.are_rounded() {
            // SAFETY: who rounded the input has these instructions.
            return unsafe { rounded::pack(fours, matrix, &self.rows, columns) };
        }
        pack(fours, matrix, &self.rows, columns);
    }

    /// Puts the results of some tokens where they go.
    ///
    /// # Safety
    /// As [`Piece::multiply`], and the tokens are the input's.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    unsafe fn put(&self, tokens: Range<usize>, sums: &[Sums]) {
        let mask = u16::MAX >> (ROWS - self.rows.len());
        for (token, sums) in tokens.zip(sums) {
            let mut rows = [_mm512_setzero_ps(); ROWS];
            for (row, lanes) in rows.iter_mut().zip(sums.as_flattened()) {
                *row = loaded(lanes);
            }
            // SAFETY: the token is one of the input's, and the mask has as many elements as there
            // are rows.
            unsafe {
                let at = token * self.weights.rows() + self.rows.start;
                _mm512_mask_storeu_ps(self.out.0.add(at), mask, across_each(rows));
            }
        }
    }
}

/// Rows of floats of 4 or 2 bytes each, the latter of either kind.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn pack(
    fours: &mut [Four],
    matrix: &PackedMatrix<'_>,
    rows: &Range<usize>,
    columns: &Range<usize>,
) {
    // SAFETY: there are bytes for sixteen floats.
    let longer = |bytes: &[u8; 32]| unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
    match matrix.format() {
        PackedFormat::F32 => pack_by(fours, matrix, rows, columns, as_it_is),
        PackedFormat::F16 => pack_by(fours, matrix, rows, columns, |bytes| {
            stored(wide::<false>(longer(bytes)))
        }),
        _ => pack_by(fours, matrix, rows, columns, |bytes| {
            stored(wide::<true>(longer(bytes)))
        }),
    }
}

/// Rows whose columns are `BYTES` bytes for each register. The last row stands in for those that
/// are not there of its four; and zeros for columns that are not there of the last register.
#[inline(always)]
fn pack_by<const BYTES: usize>(
    fours: &mut [Four],
    matrix: &PackedMatrix<'_>,
    rows: &Range<usize>,
    columns: &Range<usize>,
    lanes: impl Fn(&[u8; BYTES]) -> Lanes,
) {
    let each = matrix.format().block_bytes();
    for (number, four) in fours.iter_mut().enumerate() {
        for n in 0..SIDE_BY_SIDE {
            let row = (rows.start + SIDE_BY_SIDE * number + n).min(rows.end - 1);
            let bytes = &matrix.row(row)[columns.start * each..columns.end * each];
            let (whole, rest) = bytes.as_chunks::<BYTES>();
            let mut steps = four.iter_mut();
            for (bytes, step) in whole.iter().zip(&mut steps) {
                step[n] = lanes(bytes);
            }
            if !rest.is_empty()
                && let Some(step) = steps.next()
            {
                let mut last = [0_u8; BYTES];
                last[..rest.len()].copy_from_slice(rest);
                step[n] = lanes(&last);
            }
        }
    }
}

/// What is in the file as it is multiplied.
#[inline]
fn as_it_is(bytes: &[u8; 64]) -> Lanes {
    let mut floats = [0.0; 16];
    for (float, bytes) in floats.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *float = f32::from_le_bytes(*bytes);
    }
    Lanes(floats)
}

/// Goes on with the sums of a group of tokens for four rows, the `number`th ones, or begins with
/// them. `values` are as many columns of each token as have been packed: `[columns / 16, T]`. It is
/// called, so that its sums have all registers to themselves.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
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
        for (kept, values) in kept.iter_mut().zip(values) {
            let values = loaded(values);
            for (sum, row) in kept.iter_mut().zip(&rows) {
                *sum = _mm512_fmadd_ps(*row, values, *sum);
            }
        }
    }
    put_down(&kept, sums, number);
}

/// The sums of a group of tokens for four rows from the columns before, or zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn taken_up<const T: usize>(
    sums: &[Sums; T],
    number: usize,
    begins: bool,
) -> [[__m512; SIDE_BY_SIDE]; T] {
    let mut kept = [[_mm512_setzero_ps(); SIDE_BY_SIDE]; T];
    if !begins {
        for (kept, sums) in kept.iter_mut().zip(sums) {
            for (kept, sum) in kept.iter_mut().zip(&sums[number]) {
                *kept = loaded(sum);
            }
        }
    }
    kept
}

/// Keeps them for the columns that follow.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn put_down<const T: usize>(
    kept: &[[__m512; SIDE_BY_SIDE]; T],
    sums: &mut [Sums; T],
    number: usize,
) {
    for (kept, sums) in kept.iter().zip(sums) {
        for (kept, sum) in kept.iter().zip(&mut sums[number]) {
            *sum = stored(*kept);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn loaded(lanes: &Lanes) -> __m512 {
    // SAFETY: there are sixteen floats.
    unsafe { _mm512_loadu_ps(lanes.0.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn stored(register: __m512) -> Lanes {
    let mut lanes = Lanes([0.0; 16]);
    // SAFETY: there are sixteen floats.
    unsafe { _mm512_storeu_ps(lanes.0.as_mut_ptr(), register) };
    lanes
}

#[cfg(test)]
mod tests;
