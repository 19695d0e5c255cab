//! Weights whose blocks have 256 elements, in parts with integer scales of their own.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{OFFSET, SIDE_BY_SIDE, Scratch, Sums, four_bytes, line};
use crate::activations::TilesOfGroup;
use crate::linear::avx512::k_quants::{four, four_or_five_bits, scales_and_minima, six_bits};
use crate::linear::avx512::{Panel, ROWS, floats_of, halves, quads};

/// Bytes of sixteen rows of 64 columns.
const QUARTER: usize = 64 * ROWS;

/// For each 64 columns and each of sixteen sums of four weights: whose scale is whose, of parts of
/// 32 and of parts of 16.
const SCALES: [[[u32; 16]; 4]; 2] = {
    let mut all = [[[0; 16]; 4]; 2];
    let mut at = 0;
    while at < 64 {
        let (quarter, lane) = (at / 16, at % 16);
        all[0][quarter][lane] = (2 * quarter + lane / 8) as u32;
        all[1][quarter][lane] = (4 * quarter + lane / 4) as u32;
        at += 1;
    }
    all
};

/// Takes some columns of sixteen rows of Q4_K or Q5_K (144 and 176 bytes) apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn with_minima<const BYTES: usize>(
    scratch: &mut Scratch,
    panel: &Panel<'_>,
    columns: &Range<usize>,
) {
    for (n, block) in (columns.start / 256..columns.end / 256).enumerate() {
        let mut sums = [[_mm512_setzero_si512(); 4]; 4];
        for k in 0..4 {
            // SAFETY: the block is the row's, and has more than 16 bytes. Quarter `i` is row
            // `4 i + k`.
            let heads = unsafe {
                let at = |i: usize| panel.at(4 * i + k, block * BYTES);
                four([at(0), at(1), at(2), at(3)])
            };
            let mut firsts = [0_i32; ROWS];
            let mut small = [[0_u8; 16]; 4];
            // SAFETY: both arrays have 64 bytes.
            unsafe {
                _mm512_storeu_si512(firsts.as_mut_ptr().cast(), heads);
                _mm512_storeu_si512(small.as_mut_ptr().cast(), scales_and_minima(heads));
            }
            for i in 0..4 {
                let row = 4 * i + k;
                // SAFETY: the array has 16 bytes.
                let bytes = unsafe { _mm_loadu_si128(small[i].as_ptr().cast()) };
                let minima = _mm_cvtepu8_epi16(_mm_unpackhi_epi64(bytes, bytes));
                // SAFETY: 16 bytes may be written.
                unsafe { _mm_storeu_si128(scratch.minima[n][row].as_mut_ptr().cast(), minima) };
                // The scale and the minimum of the whole block are two 16-bit floats.
                let two = _mm_cvtph_ps(_mm_cvtsi32_si128(firsts[4 * i]));
                scratch.scales[n][row] = _mm_cvtss_f32(two);
                scratch.minimum[n][row] = _mm_cvtss_f32(_mm_movehdup_ps(two));
                // SAFETY: the block is the row's.
                let [a, b, c, d] =
                    unsafe { four_or_five_bits::<BYTES>(panel.at(row, block * BYTES)) };
                panel.ask_ahead(block, row, BYTES);
                // Each second 32 columns lie in another register: in order they are these.
                let weights = [
                    _mm512_inserti64x4::<1>(a, _mm512_castsi512_si256(b)),
                    _mm512_shuffle_i64x2::<0b11_10_11_10>(a, b),
                    _mm512_inserti64x4::<1>(c, _mm512_castsi512_si256(d)),
                    _mm512_shuffle_i64x2::<0b11_10_11_10>(c, d),
                ];
                let scales = _mm512_cvtepu8_epi32(bytes);
                sums[row / 4][row % 4] = put::<32>(scratch, n, row, weights, scales);
            }
        }
        begin_with(scratch, n, sums);
    }
}

/// Takes some columns of sixteen rows of Q6_K apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn q6_k(scratch: &mut Scratch, panel: &Panel<'_>, columns: &Range<usize>) {
    const BYTES: usize = 210;
    let less = _mm512_set1_epi8(32);
    for (n, block) in (columns.start / 256..columns.end / 256).enumerate() {
        let mut sums = [[_mm512_setzero_si512(); 4]; 4];
        let mut steps = [0_i32; ROWS];
        for (row, step) in steps.iter_mut().enumerate() {
            // SAFETY: the block is the row's; its scales are bytes 192 to 207, the last two bytes
            // their scale.
            let (mut weights, scales) = unsafe {
                let at = panel.at(row, block * BYTES);
                *step = i32::from(at.add(208).cast::<u16>().read_unaligned());
                (six_bits(at), _mm_loadu_si128(at.add(192).cast()))
            };
            panel.ask_ahead(block, row, BYTES);
            for weights in &mut weights {
                *weights = _mm512_sub_epi8(*weights, less);
            }
            let scales = _mm512_cvtepi8_epi32(scales);
            sums[row / 4][row % 4] = put::<16>(scratch, n, row, weights, scales);
        }
        // SAFETY: both arrays have sixteen elements.
        unsafe {
            let scales = floats_of(_mm512_loadu_si512(steps.as_ptr().cast()));
            _mm512_storeu_ps(scratch.scales[n].as_mut_ptr(), scales);
        }
        begin_with(scratch, n, sums);
    }
}

/// Puts a row of a block, 64 columns to a register, and the scales of its parts of so many columns
/// where they belong. Sixteen parts of what the activations' offset adds to its sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn put<const PART: usize>(
    scratch: &mut Scratch,
    n: usize,
    row: usize,
    weights: [__m512i; 4],
    scales: __m512i,
) -> __m512i {
    // SAFETY: sixteen integers may be written.
    unsafe { _mm512_storeu_si512(scratch.parts[n][row].as_mut_ptr().cast(), scales) };
    let by = _mm512_set1_epi8(OFFSET as u8 as i8);
    let mut sum = _mm512_setzero_si512();
    let whose = &SCALES[if PART == 32 { 0 } else { 1 }];
    for (quarter, (weights, whose)) in weights.into_iter().zip(whose).enumerate() {
        let to = &mut scratch.weights[ROWS * (4 * n + quarter) + row].0;
        // SAFETY: 64 bytes may be written, and as many read.
        let whose = unsafe {
            _mm512_store_si512(to.as_mut_ptr().cast(), weights);
            _mm512_loadu_si512(whose.as_ptr().cast())
        };
        let more = _mm512_dpbusd_epi32(_mm512_setzero_si512(), by, weights);
        let scales = _mm512_permutexvar_epi32(whose, scales);
        sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(more, scales));
    }
    sum
}

/// Has sums of a block begin with so much less.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn begin_with(scratch: &mut Scratch, n: usize, more: [[__m512i; 4]; 4]) {
    let mut parts = [_mm512_setzero_si512(); 4];
    for (part, more) in parts.iter_mut().zip(more) {
        *part = quads(more);
    }
    let [first, second] = halves(parts);
    let more = _mm512_add_epi32(first, second);
    let start = _mm512_sub_epi32(_mm512_setzero_si512(), more);
    // SAFETY: sixteen integers may be written.
    unsafe { _mm512_storeu_si512(scratch.starts[n].as_mut_ptr().cast(), start) };
}

/// Goes on with the sums of four rows from `row` on, of groups of tokens. Parts have so many
/// columns; those of 32 have minima.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn multiply<const G: usize, const PART: usize>(
    scratch: &Scratch,
    row: usize,
    parts: &[TilesOfGroup<'_>; G],
    sums: &mut [Sums; G],
) {
    let blocks = parts.iter().map(|part| part.scales.len()).min();
    for n in 0..blocks.unwrap_or(0) {
        if PART == 32 {
            less_minima(scratch, row, n, parts, sums);
        }
        let integers = integers::<G, PART>(scratch, row, n, parts);
        for ((sums, integers), part) in sums.iter_mut().zip(integers).zip(parts) {
            // SAFETY: sixteen floats may be read.
            let step = unsafe { _mm512_loadu_ps(part.scales[n].as_ptr()) };
            for (r, (sum, integers)) in sums.iter_mut().zip(integers).enumerate() {
                let scale = _mm512_mul_ps(_mm512_set1_ps(scratch.scales[n][row + r]), step);
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(integers), scale, *sum);
            }
        }
    }
}

/// Takes the minima of a block times its activations from the sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn less_minima<const G: usize>(
    scratch: &Scratch,
    row: usize,
    n: usize,
    parts: &[TilesOfGroup<'_>; G],
    sums: &mut [Sums; G],
) {
    for (sums, part) in sums.iter_mut().zip(parts) {
        // SAFETY: sixteen floats may be read.
        let step = unsafe { _mm512_loadu_ps(part.scales[n].as_ptr()) };
        for (r, sum) in sums.iter_mut().enumerate() {
            let mut less = _mm512_setzero_si512();
            for (pair, minima) in part.sums[n].iter().zip(scratch.minima[n][row + r]) {
                // SAFETY: sixteen integers may be read.
                let pair = unsafe { _mm512_loadu_si512(pair.as_ptr().cast()) };
                less = _mm512_dpwssd_epi32(less, pair, _mm512_set1_epi32(minima));
            }
            let minimum = _mm512_mul_ps(_mm512_set1_ps(scratch.minimum[n][row + r]), step);
            *sum = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(less), minimum, *sum);
        }
    }
}

/// The integers of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn integers<const G: usize, const PART: usize>(
    scratch: &Scratch,
    row: usize,
    n: usize,
    parts: &[TilesOfGroup<'_>; G],
) -> [[__m512i; SIDE_BY_SIDE]; G] {
    let mut integers = [[_mm512_setzero_si512(); SIDE_BY_SIDE]; G];
    for r in 0..SIDE_BY_SIDE {
        let start = _mm512_set1_epi32(scratch.starts[n][row + r]);
        for integers in &mut integers {
            integers[r] = start;
        }
    }
    let lines = parts.map(|part| &part.lines.as_chunks::<64>().0[n]);
    for part in 0..256 / PART {
        let mut products = [[_mm512_setzero_si512(); SIDE_BY_SIDE]; G];
        // SAFETY: the scratch has as many blocks as the input has of these columns.
        let weights = unsafe {
            let quarter = 4 * n + part * PART / 64;
            scratch
                .bytes()
                .add(QUARTER * quarter + 64 * row + part * PART % 64)
        };
        for k in 0..PART / 4 {
            let mut inputs = [_mm512_setzero_si512(); G];
            for (input, lines) in inputs.iter_mut().zip(lines) {
                *input = line(&lines[part * PART / 4 + k]);
            }
            for r in 0..SIDE_BY_SIDE {
                // SAFETY: a row has 64 bytes of this quarter.
                let weights = unsafe { four_bytes(weights.add(64 * r + 4 * k)) };
                for (products, inputs) in products.iter_mut().zip(inputs) {
                    products[r] = _mm512_dpbusd_epi32(products[r], inputs, weights);
                }
            }
        }
        for r in 0..SIDE_BY_SIDE {
            let scale = _mm512_set1_epi32(scratch.parts[n][row + r][part]);
            for (integers, products) in integers.iter_mut().zip(&products) {
                let scaled = _mm512_mullo_epi32(products[r], scale);
                integers[r] = _mm512_add_epi32(integers[r], scaled);
            }
        }
    }
    integers
}
