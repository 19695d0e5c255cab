//! Products of many tokens, sixteen of which lie side by side, where there are no tiles.
//!
//! Four bytes of a row of weights meet four of each of sixteen tokens in one instruction, and the
//! sums of a block come out in a register of their own: nothing has to be added across, as
//! [`super::products`] does. Sixteen rows of weights are taken apart into bytes once for all
//! tokens, a kilobyte of activations long at a time; four of them go through the tokens together.
//!
//! The product of bytes takes one side without a sign. Activations are that side, 128 larger than
//! they are, so every sum begins with what that adds less, which is known once weights are taken
//! apart. What comes out are the exact integers of a block, and they go into the same chain of f32
//! operations as in [`super::products`]: a token has the same bits here and there.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use skep_weights::PackedFormat;

use super::{Panel, ROWS};
use crate::activations::{Line, TilesOfGroup};
use crate::linear::Weights;
use crate::linear::pieces::{COLUMNS, GROUPS, Piece, Square, TOKENS, loaded};

mod blocks_of_256;
mod blocks_of_32;

/// The fewest tokens for which this is faster than [`super::products`].
pub const FEWEST: usize = 12;

/// Rows whose sums are kept in registers together.
const SIDE_BY_SIDE: usize = 4;

/// How much larger than they are activations lie here.
pub const OFFSET: i32 = 128;

/// The sums of some rows for sixteen tokens each.
type Sums = [__m512; SIDE_BY_SIDE];

/// What a thread works with, beside its input and output.
#[repr(align(64))]
struct Scratch {
    /// Weights as bytes: for each block of 32, or each 64 columns of a block of 256, sixteen rows.
    weights: [Line; ROWS * COLUMNS / 64],
    /// For each block and row, its scale.
    scales: [[f32; ROWS]; COLUMNS / 32],
    /// For each block and row, what the sum of its integers begins with.
    starts: [[i32; ROWS]; COLUMNS / 32],
    /// For each block of 256 and row, the integer scales of its parts, which are eight or sixteen.
    parts: [[[i32; 16]; ROWS]; COLUMNS / 256],
    /// For each block and row, its minimum or, of 256, what its minima are multiplied with.
    minimum: [[f32; ROWS]; COLUMNS / 32],
    /// For each block of 256 and row, its minima, two 16-bit integers to a word.
    minima: [[[i32; 4]; ROWS]; COLUMNS / 256],
    /// The sums of each group of tokens from the columns before.
    sums: [Square<f32>; GROUPS],
}

impl Scratch {
    fn new() -> Box<Self> {
        Box::new(Self {
            weights: [Line([0; 64]); ROWS * COLUMNS / 64],
            scales: [[0.0; ROWS]; COLUMNS / 32],
            starts: [[0; ROWS]; COLUMNS / 32],
            parts: [[[0; 16]; ROWS]; COLUMNS / 256],
            minimum: [[0.0; ROWS]; COLUMNS / 32],
            minima: [[[0; 4]; ROWS]; COLUMNS / 256],
            sums: [[[0.0; TOKENS]; ROWS]; GROUPS],
        })
    }

    /// Where these columns' bytes begin.
    #[inline(always)]
    fn bytes(&self) -> *const u8 {
        self.weights.as_ptr().cast()
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::new(Scratch::new());
}

/// How what lies in the scratch has been taken apart.
#[derive(Clone, Copy)]
enum Kind {
    /// Blocks of 32 with one scale.
    ThirtyTwo,
    /// The same with one minimum each.
    ThirtyTwoWithMinimum,
    /// Blocks of 256 in parts of 32 with a scale and a minimum each.
    WithMinima,
    /// Blocks of 256 in parts of 16 with a scale each.
    Sixteens,
}

/// Multiplies the rows of a piece with all tokens.
///
/// # Safety
/// The rows are the weights', the input has as many columns and lies in groups of sixteen
/// tokens, [`OFFSET`] larger than it is, and the output has a row for each token.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub unsafe fn multiply(piece: &Piece<'_>) {
    SCRATCH.with_borrow_mut(|scratch| {
        for groups in piece.groups() {
            // SAFETY: the caller's promise.
            unsafe { multiply_some(piece, scratch, groups) };
        }
    });
}

/// Multiplies the rows of a piece with some groups of tokens.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn multiply_some(piece: &Piece<'_>, scratch: &mut Scratch, groups: Range<usize>) {
    for some in piece.columns() {
        let kind = unpack(piece, scratch, &some);
        if some.start == 0 {
            scratch.sums[..groups.len()].fill([[0.0; TOKENS]; ROWS]);
        }
        for number in (0..groups.len()).step_by(2) {
            let part = |number: usize| piece.input.tiles.group(groups.start + number, &some);
            if number + 1 < groups.len() {
                go_on(scratch, kind, number, [part(number), part(number + 1)]);
            } else {
                go_on(scratch, kind, number, [part(number)]);
            }
        }
    }
    for (number, group) in groups.enumerate() {
        // SAFETY: the caller's promise, and the group is one of the input's.
        unsafe { piece.put(group, loaded(&scratch.sums[number])) };
    }
}

/// Takes some columns of the rows apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn unpack(piece: &Piece<'_>, scratch: &mut Scratch, columns: &Range<usize>) -> Kind {
    let matrix = match piece.weights {
        Weights::Packed(matrix) => matrix,
        Weights::Grouped(matrix) => {
            blocks_of_32::unpack_groups(scratch, matrix, piece.rows.clone(), columns);
            return Kind::ThirtyTwo;
        }
    };
    let panel = Panel::new(matrix, piece.rows.clone(), piece.ahead);
    match matrix.format() {
        PackedFormat::Q8_0 => blocks_of_32::unpack::<34>(scratch, &panel, columns),
        PackedFormat::Q4_0 => blocks_of_32::unpack::<18>(scratch, &panel, columns),
        PackedFormat::Q5_0 => blocks_of_32::unpack::<22>(scratch, &panel, columns),
        PackedFormat::Q4_1 => {
            blocks_of_32::unpack::<20>(scratch, &panel, columns);
            return Kind::ThirtyTwoWithMinimum;
        }
        PackedFormat::Q5_1 => {
            blocks_of_32::unpack::<24>(scratch, &panel, columns);
            return Kind::ThirtyTwoWithMinimum;
        }
        PackedFormat::Q4_K => {
            blocks_of_256::with_minima::<144>(scratch, &panel, columns);
            return Kind::WithMinima;
        }
        PackedFormat::Q5_K => {
            blocks_of_256::with_minima::<176>(scratch, &panel, columns);
            return Kind::WithMinima;
        }
        _ => {
            blocks_of_256::q6_k(scratch, &panel, columns);
            return Kind::Sixteens;
        }
    }
    Kind::ThirtyTwo
}

/// Goes on with the sums of some groups of tokens from this number on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn go_on<const G: usize>(
    scratch: &mut Scratch,
    kind: Kind,
    number: usize,
    parts: [TilesOfGroup<'_>; G],
) {
    for row in (0..ROWS).step_by(SIDE_BY_SIDE) {
        let mut sums = [[_mm512_setzero_ps(); SIDE_BY_SIDE]; G];
        for (sums, square) in sums.iter_mut().zip(&scratch.sums[number..]) {
            for (sums, row) in sums.iter_mut().zip(&square[row..]) {
                // SAFETY: every row has sixteen floats.
                *sums = unsafe { _mm512_loadu_ps(row.as_ptr()) };
            }
        }
        match kind {
            Kind::ThirtyTwo => {
                blocks_of_32::multiply::<G, false>(scratch, row, &parts, &mut sums);
            }
            Kind::ThirtyTwoWithMinimum => {
                blocks_of_32::multiply::<G, true>(scratch, row, &parts, &mut sums);
            }
            Kind::WithMinima => {
                blocks_of_256::multiply::<G, 32>(scratch, row, &parts, &mut sums);
            }
            Kind::Sixteens => {
                blocks_of_256::multiply::<G, 16>(scratch, row, &parts, &mut sums);
            }
        }
        for (sums, square) in sums.iter().zip(&mut scratch.sums[number..]) {
            for (sums, row) in sums.iter().zip(&mut square[row..]) {
                // SAFETY: every row has sixteen floats.
                unsafe { _mm512_storeu_ps(row.as_mut_ptr(), *sums) };
            }
        }
    }
}

/// Four bytes of a row's weights, sixteen times.
///
/// # Safety
/// Four bytes may be read at this place.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn four_bytes(at: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    _mm512_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

/// A line of activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn line(line: &Line) -> __m512i {
    // SAFETY: a line has 64 bytes, and is aligned to as many.
    unsafe { _mm512_load_si512(line.0.as_ptr().cast()) }
}
