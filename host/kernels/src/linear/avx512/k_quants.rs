//! Formats whose blocks have 256 elements, in parts with integer scales of their own.
//!
//! Products of bytes come in sums of four, which fit 16 bits in all three formats. So those of
//! two registers are packed into one, and one multiplication gives each its scale.

use std::arch::x86_64::*;

use super::{Panel, ROWS, floats_of, halves, quads, stored};
use crate::activations::{Activations, SUM};

/// What one token of the input has for each block.
struct Token<'a> {
    quants: &'a [[i8; 256]],
    scales: &'a [f32],
    sums: &'a [[i16; 256 / SUM]],
}

impl<'a> Token<'a> {
    fn of(input: &'a Activations, token: usize) -> Self {
        let row = token * input.columns..(token + 1) * input.columns;
        let sums = &input.sums[row.start / SUM..row.end / SUM];
        Token {
            quants: input.quants[row.clone()].as_chunks::<256>().0,
            scales: &input.scales[row.start / 256..row.end / 256],
            sums: sums.as_chunks::<16>().0,
        }
    }
}

/// 32 activations from element `first` on, and 32 from `second` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn two_parts(quants: &[i8; 256], first: usize, second: usize) -> __m512i {
    let (first, second) = (&quants[first..first + 32], &quants[second..second + 32]);
    // SAFETY: both slices have 32 bytes.
    unsafe {
        let first = _mm256_loadu_si256(first.as_ptr().cast());
        let second = _mm256_loadu_si256(second.as_ptr().cast());
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)
    }
}

/// Four runs of 16 bytes.
///
/// # Safety
/// 16 bytes may be read at each place.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub unsafe fn four(places: [*const u8; 4]) -> __m512i {
    let [a, b, c, d] = places;
    // SAFETY: the caller's promise.
    unsafe {
        let all = _mm512_castsi128_si512(_mm_loadu_si128(a.cast()));
        let all = _mm512_inserti32x4::<1>(all, _mm_loadu_si128(b.cast()));
        let all = _mm512_inserti32x4::<2>(all, _mm_loadu_si128(c.cast()));
        _mm512_inserti32x4::<3>(all, _mm_loadu_si128(d.cast()))
    }
}

/// Of the first 16 bytes of a block of Q4_K or Q5_K, in each quarter: its eight scales, then its
/// eight minima, as bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn scales_and_minima(heads: __m512i) -> __m512i {
    // Six bits of bytes 4 to 7 and four of bytes 12 to 15 are the scales'; six bits of bytes 8 to
    // 11 and the other four of bytes 12 to 15 the minima's.
    let low = _mm512_broadcast_i32x4(_mm_setr_epi8(
        4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15,
    ));
    let shifts = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0, 0, 4));
    let bits = _mm512_broadcast_i32x4(_mm_setr_epi32(
        0x3f3f_3f3f,
        0x0f0f_0f0f,
        0x3f3f_3f3f,
        0x0f0f_0f0f,
    ));
    let low = _mm512_and_si512(
        _mm512_srlv_epi32(_mm512_shuffle_epi8(heads, low), shifts),
        bits,
    );
    // The upper two bits of bytes 4 to 7 and 8 to 11 belong to the last four of each.
    let high = _mm512_broadcast_i32x4(_mm_setr_epi8(
        -1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 8, 9, 10, 11,
    ));
    let high = _mm512_srli_epi32::<2>(_mm512_shuffle_epi8(heads, high));
    // low | (high & 0x30)
    _mm512_ternarylogic_epi32::<0xf8>(low, high, _mm512_set1_epi8(0x30))
}

/// For each quarter of [`scales_and_minima`] and each half of a block: where the scale of each
/// 16-bit lane lies, in the order in which two registers of products are packed.
const SCALES: [[[u8; 64]; 2]; 4] = {
    let mut all = [[[0; 64]; 2]; 4];
    let mut at = 0;
    while at < 4 * 2 * 64 {
        let (quarter, half, byte) = (at / 128, at / 64 % 2, at % 64);
        // Eight bytes are four sums of one part. The parts are 0 and 1 in turn, then 2 and 3.
        let part = byte / 32 * 2 + byte / 8 % 2;
        all[quarter][half][byte] = (16 * quarter + 4 * half + part) as u8;
        at += 1;
    }
    all
};

/// The scales that [`SCALES`] finds, as 16-bit integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn spread(scales: __m512i, places: &[u8; 64]) -> __m512i {
    // SAFETY: the array has 64 bytes.
    let places = unsafe { _mm512_loadu_si512(places.as_ptr().cast()) };
    _mm512_maskz_permutexvar_epi8(0x5555_5555_5555_5555, places, scales)
}

/// The weights of a block of Q4_K or Q5_K (144 and 176 bytes), 64 to a register: parts 0 and 2, 1
/// and 3, 4 and 6, 5 and 7.
///
/// # Safety
/// The block may be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub unsafe fn four_or_five_bits<const BYTES: usize>(block: *const u8) -> [__m512i; 4] {
    let low = _mm512_set1_epi8(15);
    // SAFETY: the caller's promise; the last 128 bytes of both formats are the lower four bits.
    let (a, b) = unsafe {
        let quants = block.add(BYTES - 128);
        (
            _mm512_loadu_si512(quants.cast()),
            _mm512_loadu_si512(quants.add(64).cast()),
        )
    };
    let weights = [
        _mm512_and_si512(a, low),
        _mm512_and_si512(_mm512_srli_epi16::<4>(a), low),
        _mm512_and_si512(b, low),
        _mm512_and_si512(_mm512_srli_epi16::<4>(b), low),
    ];
    if BYTES == 144 {
        return weights;
    }
    // Bit `part` of these bytes is the fifth bit of that part's elements: it goes to bit 4.
    // SAFETY: as above.
    let fifth = unsafe { _mm256_loadu_si256(block.add(16).cast()) };
    let fifth = _mm512_broadcast_i64x4(fifth);
    let by = |first: i16, second: i16| {
        let first = _mm512_castsi256_si512(_mm256_set1_epi16(first));
        _mm512_inserti64x4::<1>(first, _mm256_set1_epi16(second))
    };
    let fifths = [
        _mm512_sllv_epi16(fifth, by(4, 2)),
        _mm512_sllv_epi16(fifth, by(3, 1)),
        _mm512_srlv_epi16(fifth, by(0, 2)),
        _mm512_srlv_epi16(fifth, by(1, 3)),
    ];
    let sixteen = _mm512_set1_epi8(16);
    let mut all = weights;
    for (weights, fifths) in all.iter_mut().zip(fifths) {
        // weights | (fifths & 16)
        *weights = _mm512_ternarylogic_epi32::<0xf8>(*weights, fifths, sixteen);
    }
    all
}

/// Rows of Q4_K or Q5_K.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn with_minima<const T: usize, const BYTES: usize>(
    panel: &Panel<'_>,
    input: &Activations,
    token: usize,
) -> [[f32; ROWS]; T] {
    let blocks = panel.blocks(BYTES);
    let tokens: [Token<'_>; T] = std::array::from_fn(|t| Token::of(input, token + t));
    let mut sums = [_mm512_setzero_ps(); T];
    for n in 0..blocks {
        let mut heads = [_mm512_setzero_si512(); 4];
        let mut small = heads;
        for k in 0..4 {
            // SAFETY: the block is the row's, and has more than 16 bytes. Quarter `i` of register
            // `k` is row `4 i + k`.
            heads[k] = unsafe {
                let at = |i: usize| panel.at(4 * i + k, n * BYTES);
                four([at(0), at(1), at(2), at(3)])
            };
            small[k] = scales_and_minima(heads[k]);
        }
        let mut quants = [[_mm512_setzero_si512(); 4]; T];
        for (to, token) in quants.iter_mut().zip(&tokens) {
            let quants = &token.quants[n];
            *to = [
                two_parts(quants, 0, 64),
                two_parts(quants, 32, 96),
                two_parts(quants, 128, 192),
                two_parts(quants, 160, 224),
            ];
        }
        let mut parts = [[_mm512_setzero_si512(); 4]; T];
        for four in 0..4 {
            let mut rows = [[_mm512_setzero_si512(); 4]; T];
            for k in 0..4 {
                let row = 4 * four + k;
                // SAFETY: the block is the row's.
                let weights = unsafe { four_or_five_bits::<BYTES>(panel.at(row, n * BYTES)) };
                panel.ask_ahead(n, row, BYTES);
                let scales = [
                    spread(small[k], &SCALES[four][0]),
                    spread(small[k], &SCALES[four][1]),
                ];
                for (rows, quants) in rows.iter_mut().zip(&quants) {
                    rows[k] = scaled(weights, *quants, scales, _mm512_setzero_si512());
                }
            }
            for (parts, rows) in parts.iter_mut().zip(rows) {
                parts[four] = quads(rows);
            }
        }
        let heads = in_order(heads);
        let (steps, minima) = (floats_of(heads), floats_of(_mm512_srli_epi32::<16>(heads)));
        for ((sum, parts), token) in sums.iter_mut().zip(parts).zip(&tokens) {
            let [first, second] = halves(parts);
            let step = _mm512_set1_ps(token.scales[n]);
            let less = _mm512_cvtepi32_ps(minima_of(small, &token.sums[n]));
            *sum = _mm512_fnmadd_ps(less, _mm512_mul_ps(minima, step), *sum);
            let value = _mm512_cvtepi32_ps(_mm512_add_epi32(first, second));
            *sum = _mm512_fmadd_ps(value, _mm512_mul_ps(steps, step), *sum);
        }
    }
    stored(sums)
}

/// Products of a block, each part times its scale, as sixteen sums on top of `start`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn scaled(
    weights: [__m512i; 4],
    quants: [__m512i; 4],
    scales: [__m512i; 2],
    start: __m512i,
) -> __m512i {
    let zero = _mm512_setzero_si512();
    let a = _mm512_dpbusd_epi32(zero, weights[0], quants[0]);
    let b = _mm512_dpbusd_epi32(zero, weights[1], quants[1]);
    let c = _mm512_dpbusd_epi32(zero, weights[2], quants[2]);
    let d = _mm512_dpbusd_epi32(zero, weights[3], quants[3]);
    let sum = _mm512_dpwssd_epi32(start, _mm512_packs_epi32(a, b), scales[0]);
    _mm512_dpwssd_epi32(sum, _mm512_packs_epi32(c, d), scales[1])
}

/// The first 32 bits of each of sixteen rows, whose heads are in the quarters of four registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn in_order([a, b, c, d]: [__m512i; 4]) -> __m512i {
    _mm512_unpacklo_epi64(_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d))
}

/// For each of sixteen rows, its eight minima times the sums of the parts' activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn minima_of(small: [__m512i; 4], sums: &[i16; 16]) -> __m512i {
    // SAFETY: 32 bytes may be read.
    let (low, high) = unsafe {
        (
            _mm_loadu_si128(sums.as_ptr().cast()),
            _mm_loadu_si128(sums[8..].as_ptr().cast()),
        )
    };
    let sums = _mm512_broadcast_i32x4(_mm_hadd_epi16(low, high));
    let wide = _mm512_broadcast_i32x4(_mm_setr_epi8(
        8, -1, 9, -1, 10, -1, 11, -1, 12, -1, 13, -1, 14, -1, 15, -1,
    ));
    let mut products = small;
    for product in &mut products {
        *product = _mm512_madd_epi16(_mm512_shuffle_epi8(*product, wide), sums);
    }
    quads(products)
}

/// The weights of a block of Q6_K, 64 to a register and each 32 larger than it is: parts of 16,
/// from 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
///
/// # Safety
/// The block may be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub unsafe fn six_bits(block: *const u8) -> [__m512i; 4] {
    let low = _mm512_set1_epi8(15);
    let mask = _mm512_set1_epi8(0x30);
    let by = |first: i16, second: i16| {
        let first = _mm512_castsi256_si512(_mm256_set1_epi16(first));
        _mm512_inserti64x4::<1>(first, _mm256_set1_epi16(second))
    };
    let mut all = [_mm512_setzero_si512(); 4];
    for half in 0..2 {
        // SAFETY: the caller's promise; 128 bytes of lower bits are followed by 64 of upper ones.
        let (lower, upper) = unsafe {
            (
                _mm512_loadu_si512(block.add(64 * half).cast()),
                _mm256_loadu_si256(block.add(128 + 32 * half).cast()),
            )
        };
        let upper = _mm512_broadcast_i64x4(upper);
        // lower | (upper & mask)
        all[2 * half] = _mm512_ternarylogic_epi32::<0xf8>(
            _mm512_and_si512(lower, low),
            _mm512_sllv_epi16(upper, by(4, 2)),
            mask,
        );
        all[2 * half + 1] = _mm512_ternarylogic_epi32::<0xf8>(
            _mm512_and_si512(_mm512_srli_epi16::<4>(lower), low),
            _mm512_srlv_epi16(upper, by(0, 2)),
            mask,
        );
    }
    all
}

/// For each half of a block of Q6_K: which of the sixteen parts each 16-bit lane belongs to.
const PARTS: [[u16; 32]; 2] = {
    let mut all = [[0; 32]; 2];
    let mut at = 0;
    while at < 64 {
        let (half, lane) = (at / 32, at % 32);
        // In a quarter: four sums of a part of the first register, four of one of the second.
        all[half][lane] = (8 * half + lane / 8 + lane / 4 % 2 * 4) as u16;
        at += 1;
    }
    all
};

/// The 16-bit integer of each lane's part.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn by_parts(integers: __m256i) -> [__m512i; 2] {
    let integers = _mm512_castsi256_si512(integers);
    // SAFETY: the arrays have 64 bytes. They name none of the upper sixteen integers, which are
    // undefined.
    let [first, second] = unsafe {
        [
            _mm512_loadu_si512(PARTS[0].as_ptr().cast()),
            _mm512_loadu_si512(PARTS[1].as_ptr().cast()),
        ]
    };
    [
        _mm512_permutexvar_epi16(first, integers),
        _mm512_permutexvar_epi16(second, integers),
    ]
}

/// Rows of Q6_K.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn q6_k<const T: usize>(
    panel: &Panel<'_>,
    input: &Activations,
    token: usize,
) -> [[f32; ROWS]; T] {
    const BYTES: usize = 210;
    let blocks = panel.blocks(BYTES);
    let tokens: [Token<'_>; T] = std::array::from_fn(|t| Token::of(input, token + t));
    let mut sums = [_mm512_setzero_ps(); T];
    for n in 0..blocks {
        let mut quants = [[_mm512_setzero_si512(); 4]; T];
        for (to, token) in quants.iter_mut().zip(&tokens) {
            for (i, to) in to.iter_mut().enumerate() {
                // SAFETY: four times 64 bytes may be read.
                *to = unsafe { _mm512_loadu_si512(token.quants[n].as_ptr().add(64 * i).cast()) };
            }
        }
        // Every weight is 32 larger than it should be. A part has four lanes, and each takes away
        // 8 times its activations' sum, which still fits 16 bits.
        let mut offsets = [[_mm512_setzero_si512(); 2]; T];
        for (to, token) in offsets.iter_mut().zip(&tokens) {
            // SAFETY: 32 bytes may be read.
            let sums = unsafe { _mm256_loadu_si256(token.sums[n].as_ptr().cast()) };
            *to = by_parts(_mm256_mullo_epi16(sums, _mm256_set1_epi16(-8)));
        }
        let mut parts = [[_mm512_setzero_si512(); 4]; T];
        for four in 0..4 {
            let mut rows = [[_mm512_setzero_si512(); 4]; T];
            for k in 0..4 {
                let row = 4 * four + k;
                // SAFETY: the block is the row's; its scales are bytes 192 to 207.
                let (weights, scales) = unsafe {
                    let block = panel.at(row, n * BYTES);
                    (six_bits(block), _mm_loadu_si128(block.add(192).cast()))
                };
                panel.ask_ahead(n, row, BYTES);
                let scales = by_parts(_mm256_cvtepi8_epi16(scales));
                for ((rows, quants), offsets) in rows.iter_mut().zip(&quants).zip(&offsets) {
                    let start = _mm512_setzero_si512();
                    let start = _mm512_dpwssd_epi32(start, offsets[0], scales[0]);
                    let start = _mm512_dpwssd_epi32(start, offsets[1], scales[1]);
                    rows[k] = scaled(weights, *quants, scales, start);
                }
            }
            for (parts, rows) in parts.iter_mut().zip(rows) {
                parts[four] = quads(rows);
            }
        }
        let lanes: [i32; ROWS] = std::array::from_fn(|row| {
            // SAFETY: the block's last two bytes are its scale.
            let bits = unsafe {
                panel
                    .at(row, n * BYTES + 208)
                    .cast::<u16>()
                    .read_unaligned()
            };
            i32::from(bits)
        });
        // SAFETY: the array has sixteen integers.
        let steps = floats_of(unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) });
        for ((sum, parts), token) in sums.iter_mut().zip(parts).zip(&tokens) {
            let [first, second] = halves(parts);
            let value = _mm512_cvtepi32_ps(_mm512_add_epi32(first, second));
            let scale = _mm512_mul_ps(steps, _mm512_set1_ps(token.scales[n]));
            *sum = _mm512_fmadd_ps(value, scale, *sum);
        }
    }
    stored(sums)
}
