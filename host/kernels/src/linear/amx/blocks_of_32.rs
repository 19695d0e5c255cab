//! Weights whose blocks have 32 elements and one scale, and some of them one minimum: each block is
//! one product of tiles.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use skep_weights::{GroupInt4, PackedFormat};

use super::{Ahead, InPlace, Kind, ROWS, Scratch, Square};
use crate::activations::{Line, TilesOfGroup};
use crate::linear::avx512::Panel;
use crate::linear::avx512::thirty_twos::{
    has_minimum, offset, places, scales, two_blocks, two_nibbles,
};

/// Puts 32 bytes of each of two blocks where they belong.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn put(scratch: &mut Scratch, block: usize, row: usize, both: __m512i, is_second: bool) {
    // A block has sixteen rows of 32 bytes, which is eight lines.
    let at = |block: usize| (8 * block + row / 2, 32 * (row % 2));
    let (line, start) = at(block);
    let to = &mut scratch.weights[line].0[start..start + 32];
    // SAFETY: 32 bytes may be written.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_castsi512_si256(both)) };
    if is_second {
        let (line, start) = at(block + 1);
        let to = &mut scratch.weights[line].0[start..start + 32];
        // SAFETY: 32 bytes may be written.
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_extracti64x4_epi64::<1>(both))
        };
    }
}

/// Takes some columns of sixteen rows apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn unpack(
    scratch: &mut Scratch,
    panel: &Panel<'_>,
    format: PackedFormat,
    columns: &Range<usize>,
    ahead: &mut Ahead,
) -> Kind {
    match format {
        PackedFormat::Q8_0 => unpack_some::<34>(scratch, panel, columns, ahead),
        PackedFormat::Q4_0 => unpack_some::<18>(scratch, panel, columns, ahead),
        PackedFormat::Q4_1 => {
            unpack_some::<20>(scratch, panel, columns, ahead);
            return Kind::HalfWithMinimum;
        }
        PackedFormat::Q5_1 => {
            unpack_some::<24>(scratch, panel, columns, ahead);
            return Kind::HalfWithMinimum;
        }
        _ => unpack_some::<22>(scratch, panel, columns, ahead),
    }
    Kind::Half
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn unpack_some<const BYTES: usize>(
    scratch: &mut Scratch,
    panel: &Panel<'_>,
    columns: &Range<usize>,
    ahead: &mut Ahead,
) {
    let blocks = columns.start / 32..columns.end / 32;
    let offset = _mm512_set1_epi8(offset(BYTES) as i8);
    take_scales::<BYTES>(scratch, panel, blocks.clone());
    for (n, block) in blocks.clone().enumerate().step_by(2) {
        let is_second = block + 1 < blocks.end;
        let next = block + usize::from(is_second);
        for row in 0..ROWS {
            // SAFETY: both blocks are the row's.
            let weights = unsafe {
                two_blocks::<BYTES>(panel.at(row, block * BYTES), panel.at(row, next * BYTES))
            };
            // Two blocks have a line and a bit at most.
            ahead.ask();
            if BYTES > 32 {
                ahead.ask();
            }
            put(scratch, n, row, _mm512_sub_epi8(weights, offset), is_second);
        }
    }
}

/// Takes no more than the scales of some columns of sixteen different rows of Q8_0, whose weights
/// are what tiles take.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn bytes_in_place(scratch: &mut Scratch, panel: &Panel<'_>, columns: &Range<usize>) -> Kind {
    const BYTES: usize = 34;
    let blocks = columns.start / 32..columns.end / 32;
    // A block's weights follow its scale.
    let first = blocks.start * BYTES + 2;
    take_scales::<BYTES>(scratch, panel, blocks);
    Kind::InPlace(InPlace {
        // SAFETY: the block is the row's.
        first: unsafe { panel.at(0, first) },
        block: BYTES,
        row: panel.row_bytes(),
    })
}

/// Takes the scales of some blocks of sixteen rows, and their minima if they have any.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn take_scales<const BYTES: usize>(scratch: &mut Scratch, panel: &Panel<'_>, blocks: Range<usize>) {
    let places = places(panel);
    for (n, block) in blocks.enumerate() {
        if has_minimum(BYTES) {
            let minima = scales(panel, places, block * BYTES + 2);
            // SAFETY: sixteen floats may be written.
            unsafe { _mm512_storeu_ps(scratch.minimum[n].as_mut_ptr(), minima) };
        }
        let scales = scales(panel, places, block * BYTES);
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(scratch.scales[n].as_mut_ptr(), scales) };
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
) -> Kind {
    let blocks = columns.start / 32..columns.end / 32;
    for n in 0..ROWS {
        let Some(row) = matrix.row(rows.start + n.min(rows.len() - 1)) else {
            continue;
        };
        let quants = row.quants.as_chunks::<16>().0;
        for (place, block) in blocks.clone().enumerate() {
            let group = 32 * block / matrix.group();
            scratch.scales[place][n] = row.scales[group].to_f32();
            let at = quants[block].as_ptr();
            // SAFETY: a block has 16 bytes.
            let weights = unsafe { two_nibbles(at, at) };
            let zero = _mm512_set1_epi8(row.zeros[group] as i8);
            put(scratch, place, n, _mm512_sub_epi8(weights, zero), false);
        }
    }
    Kind::Half
}

/// The product of a block of weights with sixteen tokens, in one of four sets of tiles.
macro_rules! product {
    ($out:literal, $weights:literal, $input:literal, $from:expr, $stride:expr, $with:expr, $to:expr) => {
        asm!(
            concat!("tileloadd ", $weights, ", [{from} + {stride}*1]"),
            concat!("tileloadd ", $input, ", [{with} + {line}*1]"),
            concat!("tilezero ", $out),
            concat!("tdpbssd ", $out, ", ", $weights, ", ", $input),
            concat!("tilestored [{to} + {line}*1], ", $out),
            from = in(reg) $from,
            with = in(reg) $with,
            to = in(reg) $to,
            stride = in(reg) $stride,
            line = in(reg) 64_usize,
            options(nostack),
        )
    };
}

/// # Safety
/// Sixteen times 32 bytes may be read at `from` and each `stride` bytes further, 512 at `with`, and
/// tiles are configured for them.
#[inline(always)]
unsafe fn product(
    set: usize,
    (from, stride): (*const u8, usize),
    with: *const Line,
    to: *mut Square<i32>,
) {
    // SAFETY: the caller's promise; the tiles are nobody else's.
    unsafe {
        match set % 4 {
            0 => product!("tmm0", "tmm4", "tmm6", from, stride, with, to),
            1 => product!("tmm1", "tmm5", "tmm7", from, stride, with, to),
            2 => product!("tmm2", "tmm4", "tmm6", from, stride, with, to),
            _ => product!("tmm3", "tmm5", "tmm7", from, stride, with, to),
        }
    }
}

/// Multiplies sixteen rows with groups of tokens. `begin` says which sums a group goes on with, and
/// `end` takes them. With `ASKS`, what is ahead is asked for here, and not when weights are taken
/// apart. Blocks have a `MINIMUM` or none.
///
/// # Safety
/// Tiles are configured for half lines of weights, and the scratch has these columns' scales and
/// minima, and their weights where they are not in place.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub unsafe fn multiply<const ASKS: bool, const MINIMUM: bool>(
    scratch: &mut Scratch,
    in_place: Option<InPlace>,
    parts: &[TilesOfGroup<'_>],
    ahead: &mut Ahead,
    begin: impl Fn(&Scratch, usize) -> [__m512; ROWS],
    end: impl Fn(&mut Scratch, usize, [__m512; ROWS]),
) {
    for (number, part) in parts.iter().enumerate() {
        let sums = begin(scratch, number);
        // SAFETY: the caller's promise.
        let sums = unsafe { some::<ASKS, MINIMUM>(scratch, in_place, *part, sums, ahead) };
        end(scratch, number, sums);
    }
}

/// Goes on with the sums of sixteen rows for a group of tokens. With `ASKS`, what is ahead is asked
/// for here, and not when weights are taken apart. Blocks have a `MINIMUM` or none.
///
/// # Safety
/// Tiles are configured for half lines of weights, and the scratch has these columns' scales and
/// minima, and their weights where they are not in place.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn some<const ASKS: bool, const MINIMUM: bool>(
    scratch: &mut Scratch,
    in_place: Option<InPlace>,
    part: TilesOfGroup<'_>,
    mut sums: [__m512; ROWS],
    ahead: &mut Ahead,
) -> [__m512; ROWS] {
    /// Blocks that tiles are ahead of the sums.
    const AHEAD: usize = 3;
    let blocks = part.scales.len();
    let begin = |scratch: &mut Scratch, n: usize| {
        let from = match in_place {
            Some(rows) => (rows.first.wrapping_add(n * rows.block), rows.row),
            None => (scratch.weights[8 * n..8 * n + 8].as_ptr().cast(), 32),
        };
        let with = part.lines[8 * n..8 * n + 8].as_ptr();
        // SAFETY: eight lines of both, or the rows' block in place; the tiles are as the caller
        // says.
        unsafe { product(n, from, with, &raw mut scratch.integers[n / 2 % 2][n % 2]) };
    };
    for n in 0..blocks.min(AHEAD) {
        begin(scratch, n);
    }
    for (n, step) in part.scales.iter().enumerate() {
        if n + AHEAD < blocks {
            begin(scratch, n + AHEAD);
        }
        // SAFETY: sixteen floats may be read.
        let step = unsafe { _mm512_loadu_ps(step.as_ptr()) };
        let (integers, scales) = (
            scratch.integers[n / 2 % 2][n % 2].as_ptr().cast(),
            scratch.scales[n].as_ptr(),
        );
        let minimum = scratch.minimum[n].as_ptr();
        let mut total = _mm512_setzero_ps();
        if MINIMUM {
            // SAFETY: sixteen floats may be read.
            total = unsafe { _mm512_loadu_ps(part.totals[n].as_ptr()) };
        }
        each_row!(ROW, {
            // Sixteen rows of a block have nine lines at most.
            if ASKS && (ROW.is_multiple_of(2) || ROW == 1) {
                ahead.ask();
            }
            // SAFETY: sixteen integers may be read, and the row's scale and minimum.
            unsafe {
                row::<ROW>(&mut sums[ROW], step, integers, scales);
                if MINIMUM {
                    more_by_minimum::<ROW>(&mut sums[ROW], step, total, minimum);
                }
            }
        });
    }
    sums
}

/// Adds a row's products to its sums. It is written out for the reason that
/// [`super::blocks_of_256`] has.
///
/// # Safety
/// The row's integers and its scale may be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn row<const ROW: usize>(
    sums: &mut __m512,
    step: __m512,
    integers: *const i32,
    scales: *const f32,
) {
    let (_value, _scale): (__m512, __m512);
    // SAFETY: it reads a line of integers, and a scale of the row.
    unsafe {
        asm!(
            "vmulps {scale}, {step}, dword ptr [{scales} + {of_row}]{{1to16}}",
            "vcvtdq2ps {value}, zmmword ptr [{integers} + {line}]",
            "vfmadd231ps {sums}, {value}, {scale}",
            sums = inout(zmm_reg) *sums,
            step = in(zmm_reg) step,
            value = out(zmm_reg) _value,
            scale = out(zmm_reg) _scale,
            integers = in(reg) integers,
            scales = in(reg) scales,
            line = const 64 * ROW,
            of_row = const 4 * ROW,
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// Adds a row's minimum times its activations to its sums. It is written out as [`row`] is.
///
/// # Safety
/// The row's minimum may be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn more_by_minimum<const ROW: usize>(
    sums: &mut __m512,
    step: __m512,
    total: __m512,
    minimum: *const f32,
) {
    let _minimum: __m512;
    // SAFETY: it reads a minimum of the row.
    unsafe {
        asm!(
            "vmulps {minimum_times}, {step}, dword ptr [{minimum} + {of_row}]{{1to16}}",
            "vfmadd231ps {sums}, {minimum_times}, {total}",
            sums = inout(zmm_reg) *sums,
            step = in(zmm_reg) step,
            total = in(zmm_reg) total,
            minimum_times = out(zmm_reg) _minimum,
            minimum = in(reg) minimum,
            of_row = const 4 * ROW,
            options(nostack, preserves_flags, readonly),
        );
    }
}
