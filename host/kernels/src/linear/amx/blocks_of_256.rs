//! Weights whose blocks have 256 elements, in parts with integer scales: two planes of bytes.
//!
//! A weight of four or five bits times three bits of a scale fits a byte, so the planes of Q4_K
//! and Q5_K are the weights times the lower and the upper three bits of their scales. For Q6_K
//! they are the lower and the upper byte of the product.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use skep_weights::PackedFormat;

use super::{Ahead, COLUMNS, Kind, ROWS, Scratch, Square};
use crate::activations::{Line, TilesOfGroup};
use crate::linear::avx512::k_quants::{four, four_or_five_bits, scales_and_minima, six_bits};
use crate::linear::avx512::{Panel, floats_of};

/// Lines of a plane: sixteen rows of 64 columns each lie together.
const PLANE: usize = ROWS * COLUMNS / 64;

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
    let blocks = columns.start / 256..columns.end / 256;
    match format {
        PackedFormat::Q4_K => with_minima::<144>(scratch, panel, blocks, ahead),
        PackedFormat::Q5_K => with_minima::<176>(scratch, panel, blocks, ahead),
        _ => {
            q6_k(scratch, panel, blocks, ahead);
            return Kind::Q6;
        }
    }
    Kind::WithMinima
}

/// Puts 64 columns of a row in both planes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn put(scratch: &mut Scratch, quarter: usize, row: usize, planes: [__m512i; 2]) {
    for (plane, bytes) in planes.into_iter().enumerate() {
        let to = &mut scratch.weights[plane * PLANE + ROWS * quarter + row].0;
        // SAFETY: 64 bytes may be written.
        unsafe { _mm512_store_si512(to.as_mut_ptr().cast(), bytes) };
    }
}

/// For each quarter of [`scales_and_minima`] and each 64 columns: where the scale of each pair of
/// weights lies.
const SCALES: [[[u8; 64]; 4]; 4] = {
    let mut all = [[[0; 64]; 4]; 4];
    let mut at = 0;
    while at < 4 * 4 * 64 {
        let (quarter, columns, byte) = (at / 256, at / 64 % 4, at % 64);
        all[quarter][columns][byte] = (16 * quarter + 2 * columns + byte / 32) as u8;
        at += 1;
    }
    all
};

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn with_minima<const BYTES: usize>(
    scratch: &mut Scratch,
    panel: &Panel<'_>,
    blocks: Range<usize>,
    ahead: &mut Ahead,
) {
    let seven = _mm512_set1_epi8(7);
    for (n, block) in blocks.enumerate() {
        for k in 0..4 {
            // SAFETY: the block is the row's, and has more than 16 bytes.
            let heads = unsafe {
                let at = |i: usize| panel.at(4 * i + k, block * BYTES);
                four([at(0), at(1), at(2), at(3)])
            };
            let small = scales_and_minima(heads);
            let lower_bits = _mm512_and_si512(small, seven);
            let upper_bits = _mm512_and_si512(_mm512_srli_epi16::<3>(small), seven);
            // The scale and the minimum of each quarter are its first 32 bits.
            let mut lanes = [0_u32; ROWS];
            // SAFETY: the array has 64 bytes.
            unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), small) };
            let mut firsts = [0_u32; ROWS];
            // SAFETY: as above.
            unsafe { _mm512_storeu_si512(firsts.as_mut_ptr().cast(), heads) };
            for i in 0..4 {
                let row = 4 * i + k;
                let [scale, minimum] = two_halves(firsts[4 * i]);
                scratch.scales[n][row] = scale;
                scratch.minimum[n][row] = minimum;
                let minima = u64::from(lanes[4 * i + 2]) | u64::from(lanes[4 * i + 3]) << 32;
                let wide = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(minima as i64));
                // SAFETY: 16 bytes may be written.
                unsafe { _mm_storeu_si128(scratch.minima[n][row].as_mut_ptr().cast(), wide) };
                // SAFETY: the block is the row's.
                let [a, b, c, d] =
                    unsafe { four_or_five_bits::<BYTES>(panel.at(row, block * BYTES)) };
                ahead.ask();
                // Each second 32 columns lie in another register: in order they are these.
                let weights = [
                    _mm512_inserti64x4::<1>(a, _mm512_castsi512_si256(b)),
                    _mm512_shuffle_i64x2::<0b11_10_11_10>(a, b),
                    _mm512_inserti64x4::<1>(c, _mm512_castsi512_si256(d)),
                    _mm512_shuffle_i64x2::<0b11_10_11_10>(c, d),
                ];
                for (quarter, weights) in weights.into_iter().enumerate() {
                    // SAFETY: the array has 64 bytes.
                    let places = unsafe { _mm512_loadu_si512(SCALES[i][quarter].as_ptr().cast()) };
                    // Two bytes at a time: neither product has more than eight bits.
                    let planes = [
                        _mm512_mullo_epi16(weights, pairs_of(places, lower_bits)),
                        _mm512_mullo_epi16(weights, pairs_of(places, upper_bits)),
                    ];
                    put(scratch, 4 * n + quarter, row, planes);
                }
            }
        }
    }
}

/// The bytes in these places, as 16-bit integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn pairs_of(places: __m512i, bytes: __m512i) -> __m512i {
    _mm512_maskz_permutexvar_epi8(0x5555_5555_5555_5555, places, bytes)
}

/// Two 16-bit floats.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn two_halves(bits: u32) -> [f32; 2] {
    let wide = _mm_cvtph_ps(_mm_cvtsi32_si128(bits as i32));
    [_mm_cvtss_f32(wide), _mm_cvtss_f32(_mm_movehdup_ps(wide))]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn q6_k(scratch: &mut Scratch, panel: &Panel<'_>, blocks: Range<usize>, ahead: &mut Ahead) {
    const BYTES: usize = 210;
    let thirty_two = _mm512_set1_epi8(32);
    let upper = _mm512_set1_epi16(0xff00_u16 as i16);
    for (n, block) in blocks.enumerate() {
        let mut halves = [0_i32; ROWS];
        for (row, half) in halves.iter_mut().enumerate() {
            // SAFETY: the block is the row's; its scales are bytes 192 to 207, the last two bytes
            // their scale.
            let (weights, scales) = unsafe {
                let at = panel.at(row, block * BYTES);
                *half = i32::from(at.add(208).cast::<u16>().read_unaligned());
                (six_bits(at), _mm_loadu_si128(at.add(192).cast()))
            };
            ahead.ask();
            let scales = _mm512_castsi256_si512(_mm256_cvtepi8_epi16(scales));
            for (quarter, weights) in weights.into_iter().enumerate() {
                // A part of 16 weights is eight pairs.
                let first = 4 * quarter as i64;
                let part = |n: i64| (first + n) * 0x0001_0001_0001_0001;
                let places = _mm512_set_epi64(
                    part(3),
                    part(3),
                    part(2),
                    part(2),
                    part(1),
                    part(1),
                    part(0),
                    part(0),
                );
                let scales = _mm512_permutexvar_epi16(places, scales);
                let weights = _mm512_sub_epi8(weights, thirty_two);
                let even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(weights));
                let even = _mm512_mullo_epi16(even, scales);
                let odd = _mm512_mullo_epi16(_mm512_srai_epi16::<8>(weights), scales);
                // (odd << 8) | (even & !upper), (even >> 8) | (odd & upper)
                let low =
                    _mm512_ternarylogic_epi32::<0xf4>(_mm512_slli_epi16::<8>(odd), even, upper);
                let high =
                    _mm512_ternarylogic_epi32::<0xf8>(_mm512_srli_epi16::<8>(even), odd, upper);
                put(scratch, 4 * n + quarter, row, [low, high]);
            }
        }
        // SAFETY: both arrays have sixteen elements.
        unsafe {
            let scales = floats_of(_mm512_loadu_si512(halves.as_ptr().cast()));
            _mm512_storeu_ps(scratch.scales[n].as_mut_ptr(), scales);
        }
    }
}

/// One step of the product of both planes of a block with sixteen tokens, in one of two sets of
/// tiles: four steps for each 64 columns.
///
/// # Safety
/// 64 lines may be read at `from`, as many a plane further, as many at `with`, and tiles are
/// configured for whole lines.
#[inline(always)]
unsafe fn step<const STEP: usize, const SET: usize, const UNSIGNED: bool>(
    from: *const Line,
    with: *const Line,
) {
    macro_rules! load {
        ($tile:literal, $at:expr) => {
            asm!(
                concat!("tileloadd ", $tile, ", [{at} + {line}*1 + {columns}]"),
                at = in(reg) $at,
                line = in(reg) 64_usize,
                columns = const STEP / 4 * 1024,
                options(nostack),
            )
        };
    }
    macro_rules! in_tiles {
        ($($instruction:literal),*) => {
            asm!($($instruction),*, options(nomem, nostack))
        };
    }
    // SAFETY: the caller's promise; the tiles are nobody else's.
    unsafe {
        match (STEP % 4, SET, UNSIGNED) {
            (0, _, _) => {
                match (STEP, SET) {
                    (0, 0) => in_tiles!("tilezero tmm0", "tilezero tmm1"),
                    (0, _) => in_tiles!("tilezero tmm2", "tilezero tmm3"),
                    _ => {}
                }
                load!("tmm6", with);
                load!("tmm4", from);
            }
            (1, 0, _) => in_tiles!("tdpbusd tmm0, tmm4, tmm6"),
            (1, _, _) => in_tiles!("tdpbusd tmm2, tmm4, tmm6"),
            (2, _, _) => load!("tmm5", from.wrapping_add(PLANE)),
            (_, 0, true) => in_tiles!("tdpbusd tmm1, tmm5, tmm6"),
            (_, 0, false) => in_tiles!("tdpbssd tmm1, tmm5, tmm6"),
            (_, _, true) => in_tiles!("tdpbusd tmm3, tmm5, tmm6"),
            (_, _, false) => in_tiles!("tdpbssd tmm3, tmm5, tmm6"),
        }
    }
}

/// Stores what a set of tiles has.
///
/// # Safety
/// Tiles are configured for whole lines.
#[inline(always)]
unsafe fn stored<const SET: usize>(to: &mut [Square<i32>; 2]) {
    macro_rules! store {
        ($low:literal, $high:literal) => {
            asm!(
                concat!("tilestored [{to} + {line}*1], ", $low),
                concat!("tilestored [{to} + {line}*1 + 1024], ", $high),
                to = in(reg) to.as_mut_ptr(),
                line = in(reg) 64_usize,
                options(nostack),
            )
        };
    }
    // SAFETY: two squares are written; the caller's promise.
    unsafe {
        match SET {
            0 => store!("tmm0", "tmm1"),
            _ => store!("tmm2", "tmm3"),
        }
    }
}

/// A block of weights and the tokens that it is multiplied with.
#[derive(Clone, Copy)]
struct Place<'a> {
    group: usize,
    block: usize,
    parts: &'a [TilesOfGroup<'a>],
    blocks: usize,
}

impl Place<'_> {
    /// The one after it: all blocks for a group, then the next group's.
    fn next(self) -> Self {
        match self.block + 1 < self.blocks {
            true => Self {
                block: self.block + 1,
                ..self
            },
            false => Self {
                group: self.group + 1,
                block: 0,
                ..self
            },
        }
    }

    /// Where its lines of weights and of activations begin; none after the last.
    fn lines(self, scratch: &Scratch) -> Option<[*const Line; 2]> {
        let lines = self.parts.get(self.group)?.lines;
        let from = scratch.weights[64 * self.block..][..PLANE + 64].as_ptr();
        Some([from, lines[64 * self.block..][..64].as_ptr()])
    }
}

/// Multiplies sixteen rows with groups of tokens: of Q4_K and Q5_K, or of Q6_K. `begin` says which
/// sums a group goes on with, and `end` takes them.
///
/// Tiles are two blocks ahead of the sums: while the sums of one block are put together, the next
/// one's products are stored and the one after that is multiplied, a step beside each row. So
/// neither waits for the other, and the processor sees work of both kinds wherever it looks.
///
/// # Safety
/// Tiles are configured for whole lines, the scratch has these columns, and the input is laid out
/// for tiles.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub unsafe fn multiply<const MINIMA: bool>(
    scratch: &mut Scratch,
    parts: &[TilesOfGroup<'_>],
    ahead: &mut Ahead,
    begin: impl Fn(&Scratch, usize) -> [__m512; ROWS],
    end: impl Fn(&mut Scratch, usize, [__m512; ROWS]),
) {
    let mut at = Place {
        group: 0,
        block: 0,
        parts,
        blocks: parts.first().map_or(0, |part| part.scales.len()),
    };
    if at.blocks == 0 {
        return;
    }
    macro_rules! whole {
        ($set:literal, $lines:expr) => {
            each_row!(ROW, {
                // SAFETY: as many lines as it reads; the tiles are as the caller says.
                unsafe { step::<ROW, $set, MINIMA>($lines[0], $lines[1]) };
            })
        };
    }
    let mut next = at.next();
    if let Some(lines) = at.lines(scratch) {
        whole!(0, lines);
        let [to, _] = &mut scratch.integers;
        // SAFETY: the tiles are as the caller says.
        unsafe { stored::<0>(to) };
    }
    if let Some(lines) = next.lines(scratch) {
        whole!(1, lines);
    }
    let mut sums = begin(scratch, 0);
    let mut set = 0;
    while at.group < parts.len() {
        next = next.next();
        let lines = next.lines(scratch);
        // SAFETY: the tiles are as the caller says, and the places are among the parts.
        sums = unsafe {
            match (set, lines) {
                (0, Some(lines)) => block::<0, true, MINIMA>(scratch, at, lines, sums, ahead),
                (_, Some(lines)) => block::<1, true, MINIMA>(scratch, at, lines, sums, ahead),
                (0, None) => block::<0, false, MINIMA>(scratch, at, NOWHERE, sums, ahead),
                (_, None) => block::<1, false, MINIMA>(scratch, at, NOWHERE, sums, ahead),
            }
        };
        set = 1 - set;
        let before = at;
        at = at.next();
        if at.group > before.group {
            end(scratch, before.group, sums);
            if at.group < parts.len() {
                sums = begin(scratch, at.group);
            }
        }
    }
}

const NOWHERE: [*const Line; 2] = [std::ptr::null(); 2];

/// Goes on with the sums of sixteen rows for a block, whose products are stored. What the other
/// set of tiles has is stored, and the lines' product is put in this one if there is `MORE`.
///
/// # Safety
/// As [`multiply`] and, if there is more, [`step`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn block<const SET: usize, const MORE: bool, const MINIMA: bool>(
    scratch: &mut Scratch,
    at: Place<'_>,
    [from, with]: [*const Line; 2],
    mut sums: [__m512; ROWS],
    ahead: &mut Ahead,
) -> [__m512; ROWS] {
    let part = at.parts[at.group];
    // SAFETY: the tiles are as the caller says.
    unsafe {
        match SET {
            0 => stored::<1>(&mut scratch.integers[1]),
            _ => stored::<0>(&mut scratch.integers[0]),
        }
    }
    let integers = scratch.integers[SET].as_ptr().cast();
    let scales = scratch.scales[at.block].as_ptr();
    let minimum = scratch.minimum[at.block].as_ptr();
    let minima = scratch.minima[at.block].as_ptr().cast();
    // SAFETY: sixteen elements may be read at each place.
    let factor = unsafe { _mm512_loadu_ps(part.scales[at.block].as_ptr()) };
    let mut pairs = [_mm512_setzero_si512(); 4];
    if MINIMA {
        for (pair, from) in pairs.iter_mut().zip(&part.sums[at.block]) {
            // SAFETY: as above.
            *pair = unsafe { _mm512_loadu_si512(from.as_ptr().cast()) };
        }
    }
    // A block's sixteen rows have 36 lines and more, of which sixteen are asked for when they are
    // taken apart.
    let asks = ahead.lines >= 2 * ROWS;
    each_row!(ROW, {
        if MORE {
            // SAFETY: the caller's promise.
            unsafe { step::<ROW, SET, MINIMA>(from, with) };
        }
        if asks {
            ahead.ask_in(2 * ROW);
            ahead.ask_in(2 * ROW + 1);
        }
        // SAFETY: sixteen integers of both planes may be read, and the row's numbers.
        unsafe {
            if MINIMA {
                less_minima::<ROW>(&mut sums[ROW], factor, &pairs, minima, minimum);
            }
            row::<ROW, MINIMA>(&mut sums[ROW], factor, integers, scales);
        }
    });
    if asks {
        ahead.skip(2 * ROWS);
    }
    sums
}

/// Takes a row's minima times its activations from its sums.
///
/// As [`row`], it is written out because the compiler puts the work of all rows behind the last step
/// of the tiles, and what it has loaded for it on the stack: tiles and registers then wait for each
/// other, and it takes three times as long.
///
/// # Safety
/// The row's numbers may be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn less_minima<const ROW: usize>(
    sums: &mut __m512,
    factor: __m512,
    [a, b, c, d]: &[__m512i; 4],
    minima: *const u32,
    minimum: *const f32,
) {
    let (_less, _minimum): (__m512i, __m512);
    // SAFETY: it reads five numbers of the row.
    unsafe {
        asm!(
            "vpxord {less}, {less}, {less}",
            "vpdpwssd {less}, {a}, dword ptr [{minima} + {at}]{{1to16}}",
            "vpdpwssd {less}, {b}, dword ptr [{minima} + {at} + 4]{{1to16}}",
            "vmulps {minimum_times}, {factor}, dword ptr [{minimum} + {of_row}]{{1to16}}",
            "vpdpwssd {less}, {c}, dword ptr [{minima} + {at} + 8]{{1to16}}",
            "vpdpwssd {less}, {d}, dword ptr [{minima} + {at} + 12]{{1to16}}",
            "vcvtdq2ps {less}, {less}",
            "vfnmadd231ps {sums}, {less}, {minimum_times}",
            sums = inout(zmm_reg) *sums,
            factor = in(zmm_reg) factor,
            a = in(zmm_reg) *a,
            b = in(zmm_reg) *b,
            c = in(zmm_reg) *c,
            d = in(zmm_reg) *d,
            less = out(zmm_reg) _less,
            minimum_times = out(zmm_reg) _minimum,
            minima = in(reg) minima,
            minimum = in(reg) minimum,
            at = const 16 * ROW,
            of_row = const 4 * ROW,
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// Puts both planes' products of a row together, and adds them to its sums.
///
/// # Safety
/// The row's numbers may be read, of sixteen integers in each plane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn row<const ROW: usize, const MINIMA: bool>(
    sums: &mut __m512,
    factor: __m512,
    integers: *const i32,
    scales: *const f32,
) {
    let (_value, _scale): (__m512, __m512);
    // SAFETY: it reads two lines of integers, and a scale of the row.
    unsafe {
        asm!(
            "vpslld {value}, zmmword ptr [{integers} + {high}], {upper}",
            "vmulps {scale}, {factor}, dword ptr [{scales} + {of_row}]{{1to16}}",
            "vpaddd {value}, {value}, zmmword ptr [{integers} + {low}]",
            "vcvtdq2ps {value}, {value}",
            "vfmadd231ps {sums}, {value}, {scale}",
            sums = inout(zmm_reg) *sums,
            factor = in(zmm_reg) factor,
            value = out(zmm_reg) _value,
            scale = out(zmm_reg) _scale,
            integers = in(reg) integers,
            scales = in(reg) scales,
            low = const 64 * ROW,
            high = const 64 * (ROWS + ROW),
            upper = const if MINIMA { 3 } else { 8 },
            of_row = const 4 * ROW,
            options(nostack, preserves_flags, readonly),
        );
    }
}
