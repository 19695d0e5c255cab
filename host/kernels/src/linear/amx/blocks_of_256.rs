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

/// The products of both planes of a block with sixteen tokens, in one of two sets of tiles.
macro_rules! product {
    ($low_out:literal, $high_out:literal, $high:literal, $from:expr, $with:expr, $to:expr) => {
        asm!(
            concat!("tilezero ", $low_out),
            concat!("tilezero ", $high_out),
            "tileloadd tmm6, [{with} + {line}*1]",
            "tileloadd tmm4, [{low} + {line}*1]",
            "tileloadd tmm5, [{high} + {line}*1]",
            concat!("tdpbusd ", $low_out, ", tmm4, tmm6"),
            concat!($high, " ", $high_out, ", tmm5, tmm6"),
            "tileloadd tmm7, [{with} + {line}*1 + 1024]",
            "tileloadd tmm4, [{low} + {line}*1 + 1024]",
            "tileloadd tmm5, [{high} + {line}*1 + 1024]",
            concat!("tdpbusd ", $low_out, ", tmm4, tmm7"),
            concat!($high, " ", $high_out, ", tmm5, tmm7"),
            "tileloadd tmm6, [{with} + {line}*1 + 2048]",
            "tileloadd tmm4, [{low} + {line}*1 + 2048]",
            "tileloadd tmm5, [{high} + {line}*1 + 2048]",
            concat!("tdpbusd ", $low_out, ", tmm4, tmm6"),
            concat!($high, " ", $high_out, ", tmm5, tmm6"),
            "tileloadd tmm7, [{with} + {line}*1 + 3072]",
            "tileloadd tmm4, [{low} + {line}*1 + 3072]",
            "tileloadd tmm5, [{high} + {line}*1 + 3072]",
            concat!("tdpbusd ", $low_out, ", tmm4, tmm7"),
            concat!($high, " ", $high_out, ", tmm5, tmm7"),
            concat!("tilestored [{to} + {line}*1], ", $low_out),
            concat!("tilestored [{to} + {line}*1 + 1024], ", $high_out),
            low = in(reg) $from,
            high = in(reg) $from.wrapping_add(PLANE),
            with = in(reg) $with,
            to = in(reg) $to,
            line = in(reg) 64_usize,
            options(nostack),
        )
    };
}

/// # Safety
/// 64 lines may be read at `from`, as many a plane further, as many at `with`, two squares written
/// at `to`, and tiles are configured for whole lines.
#[inline(always)]
unsafe fn product<const UNSIGNED: bool>(
    set: usize,
    from: *const Line,
    with: *const Line,
    to: *mut Square<i32>,
) {
    // SAFETY: the caller's promise; the tiles are nobody else's.
    unsafe {
        match (set % 2, UNSIGNED) {
            (0, true) => product!("tmm0", "tmm1", "tdpbusd", from, with, to),
            (_, true) => product!("tmm2", "tmm3", "tdpbusd", from, with, to),
            (0, false) => product!("tmm0", "tmm1", "tdpbssd", from, with, to),
            (_, false) => product!("tmm2", "tmm3", "tdpbssd", from, with, to),
        }
    }
}

/// Goes on with the sums of sixteen rows for a group of tokens: of Q4_K and Q5_K, or of Q6_K.
///
/// # Safety
/// Tiles are configured for whole lines, the scratch has these columns, and the input is laid out
/// for tiles.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub unsafe fn multiply<const MINIMA: bool>(
    scratch: &mut Scratch,
    (lines, steps, parts): TilesOfGroup<'_>,
    mut sums: [__m512; ROWS],
    ahead: &mut Ahead,
) -> [__m512; ROWS] {
    let blocks = steps.len();
    let begin = |scratch: &mut Scratch, n: usize| {
        let from = scratch.weights[64 * n..PLANE + 64 * n + 64].as_ptr();
        let with = lines[64 * n..64 * n + 64].as_ptr();
        let to = scratch.integers[2 * (n % 2)..][..2].as_mut_ptr();
        // SAFETY: as many lines as it reads, and two squares; the tiles are as the caller says.
        unsafe { product::<MINIMA>(n, from, with, to) };
    };
    if blocks > 0 {
        begin(scratch, 0);
    }
    for n in 0..blocks {
        if n + 1 < blocks {
            begin(scratch, n + 1);
        }
        // SAFETY: sixteen elements may be read at each place.
        let step = unsafe { _mm512_loadu_ps(steps[n].as_ptr()) };
        let [low, high] = [
            &scratch.integers[2 * (n % 2)],
            &scratch.integers[2 * (n % 2) + 1],
        ];
        let mut pairs = [_mm512_setzero_si512(); 4];
        if MINIMA {
            for (pair, from) in pairs.iter_mut().zip(&parts[n]) {
                // SAFETY: as above.
                *pair = unsafe { _mm512_loadu_si512(from.as_ptr().cast()) };
            }
        }
        each_row!(ROW, {
            // A block's row has two to four lines, of which one is asked for when it is taken
            // apart.
            ahead.ask();
            ahead.ask();
            // SAFETY: as above.
            let (low, high) = unsafe {
                (
                    _mm512_loadu_si512(low[ROW].as_ptr().cast()),
                    _mm512_loadu_si512(high[ROW].as_ptr().cast()),
                )
            };
            let high = if MINIMA {
                _mm512_slli_epi32::<3>(high)
            } else {
                _mm512_slli_epi32::<8>(high)
            };
            if MINIMA {
                let mut less = _mm512_setzero_si512();
                for (pair, minima) in pairs.iter().zip(&scratch.minima[n][ROW]) {
                    less = _mm512_dpwssd_epi32(less, *pair, _mm512_set1_epi32(*minima as i32));
                }
                let minimum = _mm512_mul_ps(_mm512_set1_ps(scratch.minimum[n][ROW]), step);
                sums[ROW] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(less), minimum, sums[ROW]);
            }
            let value = _mm512_cvtepi32_ps(_mm512_add_epi32(low, high));
            let scale = _mm512_mul_ps(_mm512_set1_ps(scratch.scales[n][ROW]), step);
            sums[ROW] = _mm512_fmadd_ps(value, scale, sums[ROW]);
        });
    }
    sums
}
