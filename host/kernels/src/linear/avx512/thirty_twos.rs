//! Formats whose blocks have 32 elements and one scale, and some of them one minimum.
//!
//! Two blocks fill a register, so a row takes two at a time.

use std::arch::x86_64::*;
use std::ops::Range;

use skep_weights::GroupInt4;

use super::{Panel, ROWS, floats_of, halves, quads, stored};
use crate::activations::{Activations, SUM};

/// The 64 weights of two blocks of Q8_0, Q4_0, Q5_0, Q4_1 or Q5_1 (34, 18, 22, 20 and 24 bytes),
/// each larger than it is by [`offset`].
///
/// # Safety
/// Both blocks may be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub unsafe fn two_blocks<const BYTES: usize>(first: *const u8, second: *const u8) -> __m512i {
    // SAFETY: the caller's promise: everything that is read lies in the two blocks.
    unsafe {
        match BYTES {
            34 => {
                let first = _mm256_loadu_si256(first.add(2).cast());
                let second = _mm256_loadu_si256(second.add(2).cast());
                let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second);
                _mm512_xor_si512(both, _mm512_set1_epi8(-128))
            }
            18 => two_nibbles(first.add(2), second.add(2)),
            20 => two_nibbles(first.add(4), second.add(4)),
            _ => {
                // Fifth bits and the others are a block's last 20 bytes.
                let at = BYTES - 20;
                let high =
                    |block: *const u8| u64::from(block.add(at).cast::<u32>().read_unaligned());
                let high = high(first) | high(second) << 32;
                let low = two_nibbles(first.add(at + 4), second.add(at + 4));
                _mm512_mask_add_epi8(low, high, low, _mm512_set1_epi8(16))
            }
        }
    }
}

/// How much larger than they are weights come out of [`two_blocks`].
pub const fn offset(bytes: usize) -> i32 {
    match bytes {
        34 => 128,
        18 => 8,
        22 => 16,
        _ => 0,
    }
}

/// Whether blocks have a minimum after their scale, which is added to each weight.
pub const fn has_minimum(bytes: usize) -> bool {
    matches!(bytes, 20 | 24)
}

/// The lower halves of 16 bytes, then the upper ones, of two places.
///
/// # Safety
/// 16 bytes may be read at both.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub unsafe fn two_nibbles(first: *const u8, second: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    let (first, second) = unsafe {
        (
            _mm_loadu_si128(first.cast()),
            _mm_loadu_si128(second.cast()),
        )
    };
    let both = _mm512_broadcast_i32x4(first);
    let both = _mm512_mask_broadcast_i32x4(both, 0xff00, second);
    let shifts = _mm512_set_epi64(
        0x0004_0004_0004_0004,
        0x0004_0004_0004_0004,
        0,
        0,
        0x0004_0004_0004_0004,
        0x0004_0004_0004_0004,
        0,
        0,
    );
    _mm512_and_si512(_mm512_srlv_epi16(both, shifts), _mm512_set1_epi8(15))
}

/// A token's activations in two blocks from block `n` on; zeros in the second if there is none.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn two_quants(quants: &[i8], n: usize) -> __m512i {
    let quants = &quants[32 * n..];
    let mask = if quants.len() < 64 {
        u64::MAX >> 32
    } else {
        u64::MAX
    };
    // SAFETY: at least 32 elements are left, and the mask has no more than are left.
    unsafe { _mm512_maskz_loadu_epi8(mask, quants.as_ptr()) }
}

/// What one token of the input has for each block.
struct Token<'a> {
    quants: &'a [i8],
    scales: &'a [f32],
    /// Two of 16 elements a block.
    sums: &'a [[i16; 2]],
}

impl<'a> Token<'a> {
    fn of(input: &'a Activations, token: usize) -> Self {
        let row = token * input.columns..(token + 1) * input.columns;
        let sums = &input.sums[row.start / SUM..row.end / SUM];
        Token {
            quants: &input.quants[row.clone()],
            scales: &input.scales[row.start / 32..row.end / 32],
            sums: sums.as_chunks::<2>().0,
        }
    }

    /// The sum of the integers of a block.
    #[inline(always)]
    fn sum(&self, n: usize) -> i32 {
        let [a, b] = self.sums[n];
        i32::from(a) + i32::from(b)
    }
}

/// Rows of blocks of so many bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn packed<const T: usize, const BYTES: usize>(
    panel: &Panel<'_>,
    input: &Activations,
    token: usize,
) -> [[f32; ROWS]; T] {
    let blocks = panel.blocks(BYTES);
    let tokens: [Token<'_>; T] = std::array::from_fn(|t| Token::of(input, token + t));
    let places = places(panel);
    let mut sums = [_mm512_setzero_ps(); T];
    for n in (0..blocks).step_by(2) {
        let next = (n + 1).min(blocks - 1);
        let mut quants = [_mm512_setzero_si512(); T];
        for (quants, token) in quants.iter_mut().zip(&tokens) {
            *quants = two_quants(token.quants, n);
        }
        let mut parts = [[_mm512_setzero_si512(); 4]; T];
        for four in 0..4 {
            let mut dots = [[_mm512_setzero_si512(); 4]; T];
            for k in 0..4 {
                let row = 4 * four + k;
                // SAFETY: both blocks are the row's.
                let weights = unsafe {
                    two_blocks::<BYTES>(panel.at(row, n * BYTES), panel.at(row, next * BYTES))
                };
                panel.ask_ahead(n / 2, row, 2 * BYTES);
                for (dots, quants) in dots.iter_mut().zip(quants) {
                    dots[k] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights, quants);
                }
            }
            for (parts, dots) in parts.iter_mut().zip(dots) {
                parts[four] = quads(dots);
            }
        }
        let mut minima = [_mm512_setzero_ps(); 2];
        if has_minimum(BYTES) {
            minima = [
                scales(panel, places, n * BYTES + 2),
                scales(panel, places, next * BYTES + 2),
            ];
        }
        let scales = [
            scales(panel, places, n * BYTES),
            scales(panel, places, next * BYTES),
        ];
        for ((sum, parts), token) in sums.iter_mut().zip(parts).zip(&tokens) {
            let integers = halves(parts);
            let pair = n..(n + 2).min(blocks);
            for (((block, integers), scales), minima) in pair.zip(integers).zip(scales).zip(minima)
            {
                let less = _mm512_set1_epi32(offset(BYTES) * token.sum(block));
                let value = _mm512_cvtepi32_ps(_mm512_sub_epi32(integers, less));
                let step = _mm512_set1_ps(token.scales[block]);
                let scale = _mm512_mul_ps(scales, step);
                *sum = _mm512_fmadd_ps(value, scale, *sum);
                if has_minimum(BYTES) {
                    let more = _mm512_set1_ps(token.sum(block) as f32);
                    *sum = _mm512_fmadd_ps(_mm512_mul_ps(minima, step), more, *sum);
                }
            }
        }
    }
    stored(sums)
}

/// Where each row begins, for [`scales`]. Rows of a gibibyte and more do not fit and are read
/// one by one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn places(panel: &Panel<'_>) -> Option<__m512i> {
    i32::try_from(panel.bytes.len()).ok()?;
    let rows = panel.rows.map(|row| row as i32);
    // SAFETY: the array has sixteen integers.
    Some(unsafe { _mm512_loadu_si512(rows.as_ptr().cast()) })
}

/// The scale, or the minimum, at this place of every row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn scales(panel: &Panel<'_>, places: Option<__m512i>, offset: usize) -> __m512 {
    match places {
        Some(places) => {
            // SAFETY: four bytes of a block that begins with its scale, and its minimum if it has
            // one, and has more than six.
            floats_of(unsafe {
                _mm512_i32gather_epi32::<1>(places, panel.bytes.as_ptr().add(offset).cast())
            })
        }
        None => {
            let lanes: [i32; ROWS] = std::array::from_fn(|row| {
                let at = panel.rows[row] + offset;
                i32::from(u16::from_le_bytes([panel.bytes[at], panel.bytes[at + 1]]))
            });
            // SAFETY: the array has sixteen integers.
            floats_of(unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) })
        }
    }
}

/// Rows of groups, each a whole number of blocks with one scale and zero-point.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn grouped<const T: usize>(
    matrix: &GroupInt4,
    rows: Range<usize>,
    input: &Activations,
    token: usize,
) -> [[f32; ROWS]; T] {
    let mut sums = [_mm512_setzero_ps(); T];
    let mut all = [None; ROWS];
    for (n, row) in all.iter_mut().enumerate() {
        *row = matrix.row(rows.start + n.min(rows.len() - 1));
    }
    let tokens: [Token<'_>; T] = std::array::from_fn(|t| Token::of(input, token + t));
    let each = matrix.group() / 32;
    let blocks = input.columns / 32;
    for group in 0..blocks.checked_div(each).unwrap_or(0) {
        let mut scales = [0_i32; ROWS];
        let mut zeros = [0_i32; ROWS];
        let mut quants: [&[[u8; 16]]; ROWS] = [&[]; ROWS];
        for (n, row) in all.iter().enumerate() {
            let Some(row) = row else {
                return [[f32::NAN; ROWS]; T];
            };
            scales[n] = i32::from(row.scales[group].to_bits());
            zeros[n] = i32::from(row.zeros[group]);
            quants[n] = &row.quants.as_chunks::<16>().0[group * each..(group + 1) * each];
        }
        // SAFETY: the arrays have sixteen integers.
        let (scales, zeros) = unsafe {
            (
                floats_of(_mm512_loadu_si512(scales.as_ptr().cast())),
                _mm512_loadu_si512(zeros.as_ptr().cast()),
            )
        };
        for n in (0..each).step_by(2) {
            let next = (n + 1).min(each - 1);
            let first = group * each + n;
            let end = (group + 1) * each;
            let mut inputs = [_mm512_setzero_si512(); T];
            for (inputs, token) in inputs.iter_mut().zip(&tokens) {
                *inputs = two_quants(&token.quants[..32 * end], first);
            }
            let mut parts = [[_mm512_setzero_si512(); 4]; T];
            for four in 0..4 {
                let mut dots = [[_mm512_setzero_si512(); 4]; T];
                for k in 0..4 {
                    let row = quants[4 * four + k];
                    // SAFETY: both blocks have 16 bytes.
                    let weights = unsafe { two_nibbles(row[n].as_ptr(), row[next].as_ptr()) };
                    for (dots, inputs) in dots.iter_mut().zip(inputs) {
                        dots[k] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights, inputs);
                    }
                }
                for (parts, dots) in parts.iter_mut().zip(dots) {
                    parts[four] = quads(dots);
                }
            }
            for ((sum, parts), token) in sums.iter_mut().zip(parts).zip(&tokens) {
                for (block, integers) in (first..(first + 2).min(end)).zip(halves(parts)) {
                    let less = _mm512_mullo_epi32(zeros, _mm512_set1_epi32(token.sum(block)));
                    let value = _mm512_cvtepi32_ps(_mm512_sub_epi32(integers, less));
                    let scale = _mm512_mul_ps(scales, _mm512_set1_ps(token.scales[block]));
                    *sum = _mm512_fmadd_ps(value, scale, *sum);
                }
            }
        }
    }
    stored(sums)
}
