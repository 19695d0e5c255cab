//! Products of many tokens with tiles (AMX).
//!
//! A tile is a register of sixteen rows of 64 bytes, and one instruction multiplies sixteen rows
//! of weights with sixteen tokens. Sixteen rows of weights are taken apart into bytes, a kilobyte
//! of activations long at a time, in a buffer that stays in the first cache while all tokens pass
//! by. Where weights have integer scales within a block they are multiplied in then: a byte cannot
//! hold that, so there are two planes of bytes whose products are put together again. Weights that
//! are bytes already, of few tokens, go into tiles from where they lie.
//!
//! What comes out of the tiles are the exact integers of a block. They go into the same chain of
//! f32 operations as in [`super::avx512`], so a token has the same bits here and there.
//!
//! What this module must never do: leave the tiles configured when it returns, because the kernel
//! would save them at every switch of threads.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use skep_weights::PackedFormat;

use super::Weights;
use super::avx512::{Panel, ROWS};
use super::pieces::{COLUMNS, GROUPS, Piece, Square, TOKENS, loaded, store};
use crate::activations::{Line, TilesOfGroup};

/// The fewest tokens for which tiles are faster than [`super::avx512`].
pub const FEWEST: usize = 3;

/// What is to be multiplied next, and is asked for meanwhile, line by line. Memory brings only so
/// many lines at a time, and who asks for more stands still: so it is asked for while weights are
/// taken apart and while tiles multiply, as evenly as that can be.
struct Ahead {
    at: *const u8,
    /// Lines that are left.
    lines: usize,
}

impl Ahead {
    /// Asks for the next line, if one is left. It goes to the second cache: the first has the
    /// scratch and the input.
    #[inline(always)]
    fn ask(&mut self) {
        if self.lines > 0 {
            // SAFETY: it reads nothing: any address will do.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.at.cast()) };
            self.at = self.at.wrapping_add(64);
            self.lines -= 1;
        }
    }

    /// Asks for a line among the next, of which it has to be one.
    #[inline(always)]
    fn ask_in(&self, line: usize) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(self.at.wrapping_add(64 * line).cast()) };
    }

    /// Goes on after so many lines that were asked for, of which no fewer were left.
    fn skip(&mut self, lines: usize) {
        self.at = self.at.wrapping_add(64 * lines);
        self.lines -= lines;
    }
}

/// Does the same for each of sixteen rows. A loop would do, if the compiler took it apart: sums
/// of rows are only kept in registers when their numbers are known.
macro_rules! each_row {
    ($row:ident, $work:block) => {
        each_row!(@ $row, $work, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $row:ident, $work:block, $($number:literal)*) => {
        $({
            const $row: usize = $number;
            $work
        })*
    };
}

mod blocks_of_256;
mod blocks_of_32;

/// What a thread works with, beside its input and output.
#[repr(align(64))]
struct Scratch {
    /// Weights as bytes.
    weights: [Line; 2 * ROWS * COLUMNS / 64],
    /// For each block and row, its scale.
    scales: [[f32; ROWS]; COLUMNS / 32],
    /// For each block and row, its minimum or, of 256, what its minima are multiplied with.
    minimum: [[f32; ROWS]; COLUMNS / 32],
    /// For each block of 256 and row, its minima, two 16-bit integers to a word.
    minima: [[[u32; 4]; ROWS]; COLUMNS / 256],
    /// What comes out of the tiles, of two planes.
    integers: [[Square<i32>; 2]; 2],
    /// The sums of each group of tokens from the columns before.
    sums: [Square<f32>; GROUPS],
}

impl Scratch {
    fn new() -> Box<Self> {
        Box::new(Self {
            weights: [Line([0; 64]); 2 * ROWS * COLUMNS / 64],
            scales: [[0.0; ROWS]; COLUMNS / 32],
            minimum: [[0.0; ROWS]; COLUMNS / 32],
            minima: [[[0; 4]; ROWS]; COLUMNS / 256],
            integers: [[[[0; TOKENS]; ROWS]; 2]; 2],
            sums: [[[0.0; TOKENS]; ROWS]; GROUPS],
        })
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::new(Scratch::new());
}

/// What the tiles look like: the weights' two, the input's two.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    /// Blocks of 32: half a line of each row, and eight lines of the input.
    Half,
    /// Blocks of 256, a quarter of one at a time: whole lines.
    Whole,
}

/// Tiles that are configured as long as this lives.
struct Tiles;

impl Tiles {
    /// Tiles 0 to 3 hold results, 4 and 5 weights, 6 and 7 activations.
    ///
    /// # Safety
    /// The machine has tiles and the process may use them.
    unsafe fn configure(shape: Shape) -> Self {
        #[repr(align(64))]
        struct Config([u8; 64]);
        let mut config = Config([0; 64]);
        config.0[0] = 1; // The palette.
        let (row_bytes, input_rows) = match shape {
            Shape::Half => (32, 8),
            Shape::Whole => (64, 16),
        };
        for tile in 0..8 {
            let (bytes, rows) = match tile {
                0..4 => (64, 16),
                4..6 => (row_bytes, 16),
                _ => (64, input_rows),
            };
            config.0[16 + 2 * tile] = bytes;
            config.0[48 + tile] = rows;
        }
        // SAFETY: 64 bytes are read, of a configuration that palette 1 allows.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        Tiles
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: whoever made this may use tiles.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}

/// Multiplies the rows of a piece with all tokens.
///
/// # Safety
/// The process may use tiles. The rows are the weights', the input has as many columns and is
/// laid out for tiles, and the output has a row for each token.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub unsafe fn multiply(piece: &Piece<'_>) {
    let shape = match piece.weights {
        Weights::Packed(matrix) if matrix.format().block_len() == 256 => Shape::Whole,
        _ => Shape::Half,
    };
    SCRATCH.with_borrow_mut(|scratch| {
        // SAFETY: the caller's promise.
        let tiles = unsafe { Tiles::configure(shape) };
        let mut ahead = Ahead {
            at: piece.ahead,
            lines: match piece.weights {
                Weights::Packed(matrix) => (piece.rows.len() * matrix.row_bytes()).div_ceil(64),
                Weights::Grouped(_) => 0,
            },
        };
        for groups in piece.groups() {
            // SAFETY: the caller's promise, and the tiles have this shape.
            unsafe { multiply_some(piece, scratch, groups, &mut ahead) };
        }
        while ahead.lines > 0 {
            ahead.ask();
        }
        drop(tiles);
    });
}

/// Multiplies the rows of a piece with some groups of tokens.
///
/// # Safety
/// As [`multiply`]; tiles are configured in the shape for the weights.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn multiply_some(
    piece: &Piece<'_>,
    scratch: &mut Scratch,
    groups: Range<usize>,
    ahead: &mut Ahead,
) {
    let columns = piece.input.columns;
    let in_place = groups.len() == 1 && piece.rows.len() == ROWS;
    for some in piece.columns() {
        let kind = unpack(piece, scratch, &some, in_place, ahead);
        let mut parts = [TilesOfGroup::default(); GROUPS];
        for (part, group) in parts.iter_mut().zip(groups.clone()) {
            *part = piece.input.tiles.group(group, &some);
        }
        let parts = &parts[..groups.len()];
        let begin = |scratch: &Scratch, number: usize| match some.start {
            0 => [_mm512_setzero_ps(); ROWS],
            _ => loaded(&scratch.sums[number]),
        };
        let end = |scratch: &mut Scratch, number: usize, sums| match some.end < columns {
            true => store(sums, &mut scratch.sums[number]),
            // SAFETY: the group is one of the input's.
            false => unsafe { piece.put(groups.start + number, sums) },
        };
        // SAFETY: the scratch has these columns' weights, and tiles the shape for them.
        unsafe {
            match kind {
                Kind::InPlace(rows) => {
                    let rows = Some(rows);
                    blocks_of_32::multiply::<true, false>(scratch, rows, parts, ahead, begin, end);
                }
                Kind::Half => {
                    blocks_of_32::multiply::<false, false>(scratch, None, parts, ahead, begin, end);
                }
                Kind::HalfWithMinimum => {
                    blocks_of_32::multiply::<false, true>(scratch, None, parts, ahead, begin, end);
                }
                Kind::WithMinima => {
                    blocks_of_256::multiply::<true>(scratch, parts, ahead, begin, end);
                }
                Kind::Q6 => {
                    blocks_of_256::multiply::<false>(scratch, parts, ahead, begin, end);
                }
            }
        }
    }
}

/// Takes some columns of the rows apart, unless they can be used where they lie and `in_place`
/// says so.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn unpack(
    piece: &Piece<'_>,
    scratch: &mut Scratch,
    columns: &Range<usize>,
    in_place: bool,
    ahead: &mut Ahead,
) -> Kind {
    match piece.weights {
        Weights::Packed(matrix) => {
            let panel = Panel::new(matrix, piece.rows.clone(), piece.ahead);
            match matrix.format() {
                PackedFormat::Q8_0 if in_place => {
                    blocks_of_32::bytes_in_place(scratch, &panel, columns)
                }
                format if format.block_len() == 256 => {
                    blocks_of_256::unpack(scratch, &panel, format, columns, ahead)
                }
                format => blocks_of_32::unpack(scratch, &panel, format, columns, ahead),
            }
        }
        Weights::Grouped(matrix) => {
            blocks_of_32::unpack_groups(scratch, matrix, piece.rows.clone(), columns)
        }
    }
}

/// How what lies in the scratch has been taken apart.
#[derive(Clone, Copy)]
enum Kind {
    Half,
    /// As [`Kind::Half`], with one minimum for each block.
    HalfWithMinimum,
    /// As [`Kind::Half`], but the weights are still where they were.
    InPlace(InPlace),
    /// In parts with scales of six bits, taken apart in three and three, and minima.
    WithMinima,
    /// Products of a scale and a weight as 16-bit integers, taken apart in bytes.
    Q6,
}

/// Bytes of weights in sixteen rows of blocks.
#[derive(Clone, Copy)]
struct InPlace {
    /// Those of the first row's first block.
    first: *const u8,
    /// Bytes from one block to the next.
    block: usize,
    /// Bytes from one row to the next.
    row: usize,
}
