//! Products with NEON and its products of four bytes (the dot product extension).
//!
//! One row and up to four tokens at a time: within a block everything is exact in integers, blocks
//! are added in f32, in order, in four sums side by side.

use std::arch::aarch64::*;
use std::arch::asm;

use half::f16;
use skep_weights::PackedFormat;

use crate::activations::{Activations, SUM};

/// The products of one row with the tokens from `token` on, as many as `sums` has, at most 4.
#[target_feature(enable = "neon,dotprod")]
pub fn dot(format: PackedFormat, row: &[u8], input: &Activations, token: usize, sums: &mut [f32]) {
    match sums {
        [a, b, c, d] => [*a, *b, *c, *d] = dot_tile::<4>(format, row, input, token),
        [a, b, c] => [*a, *b, *c] = dot_tile::<3>(format, row, input, token),
        [a, b] => [*a, *b] = dot_tile::<2>(format, row, input, token),
        _ => {
            for (n, sum) in sums.iter_mut().enumerate() {
                [*sum] = dot_tile::<1>(format, row, input, token + n);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot_tile<const T: usize>(
    format: PackedFormat,
    row: &[u8],
    input: &Activations,
    token: usize,
) -> [f32; T] {
    match format {
        PackedFormat::Q8_0 => q8_0::<T>(row, input, token),
        PackedFormat::Q4_K => q4_k::<T>(row, input, token),
        PackedFormat::Q6_K => q6_k::<T>(row, input, token),
        other => {
            let mut sums = [0.0; T];
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = super::portable::dot(other, row, input, token + n);
            }
            sums
        }
    }
}

/// `sum[i] += a[4 i] * b[4 i] + … + a[4 i + 3] * b[4 i + 3]`. In assembly, because the intrinsic
/// is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_products(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: three registers are read and one written.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// The first 16 bytes.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn load(bytes: &[u8]) -> uint8x16_t {
    let bytes = &bytes[..16];
    // SAFETY: the slice has 16 bytes.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// The first 16 rounded activations.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn load_quants(quants: &[i8]) -> int8x16_t {
    let quants = &quants[..16];
    // SAFETY: the slice has 16 bytes.
    unsafe { vld1q_s8(quants.as_ptr()) }
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// A token's rounded activations in block `n` of `block` elements: integers, scale, and sums of
/// sixteen.
#[inline(always)]
fn of(input: &Activations, token: usize, n: usize, block: usize) -> (&[i8], f32, &[i16]) {
    let start = token * input.columns + n * block;
    (
        &input.quants[start..start + block],
        input.scales[start / block],
        &input.sums[start / SUM..(start + block) / SUM],
    )
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn totals<const T: usize>(sums: [float32x4_t; T]) -> [f32; T] {
    let mut totals = [0.0; T];
    for (total, sum) in totals.iter_mut().zip(sums) {
        *total = vaddvq_f32(sum);
    }
    totals
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn q8_0<const T: usize>(row: &[u8], input: &Activations, token: usize) -> [f32; T] {
    let mut sums = [vdupq_n_f32(0.0); T];
    for (n, block) in row.as_chunks::<34>().0.iter().enumerate() {
        let scale = half(block);
        let low = vreinterpretq_s8_u8(load(&block[2..]));
        let high = vreinterpretq_s8_u8(load(&block[18..]));
        for (t, sum) in sums.iter_mut().enumerate() {
            let (quants, step, _) = of(input, token + t, n, 32);
            let integers = add_products(vdupq_n_s32(0), low, load_quants(quants));
            let integers = add_products(integers, high, load_quants(&quants[16..]));
            *sum = vfmaq_n_f32(*sum, vcvtq_f32_s32(integers), scale * step);
        }
    }
    totals(sums)
}

/// The eight 6-bit scales of a block of Q4_K, then its eight minima.
fn scales_and_minima(packed: &[u8]) -> [[u8; 8]; 2] {
    let mut both = [[0; 8]; 2];
    for n in 0..4 {
        both[0][n] = packed[n] & 63;
        both[1][n] = packed[4 + n] & 63;
        both[0][4 + n] = (packed[8 + n] & 15) | (packed[n] >> 6) << 4;
        both[1][4 + n] = (packed[8 + n] >> 4) | (packed[4 + n] >> 6) << 4;
    }
    both
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn q4_k<const T: usize>(row: &[u8], input: &Activations, token: usize) -> [f32; T] {
    let fifteen = vdupq_n_u8(15);
    let mut sums = [vdupq_n_f32(0.0); T];
    let mut minima = [0.0; T];
    for (n, block) in row.as_chunks::<144>().0.iter().enumerate() {
        let (scale, minimum) = (half(block), half(&block[2..]));
        let [scales, small] = scales_and_minima(&block[4..16]);
        let mut integers = [vdupq_n_s32(0); T];
        for (pair, packed) in block[16..].as_chunks::<32>().0.iter().enumerate() {
            let (a, b) = (load(packed), load(&packed[16..]));
            let low = [
                vreinterpretq_s8_u8(vandq_u8(a, fifteen)),
                vreinterpretq_s8_u8(vandq_u8(b, fifteen)),
            ];
            let high = [
                vreinterpretq_s8_u8(vshrq_n_u8::<4>(a)),
                vreinterpretq_s8_u8(vshrq_n_u8::<4>(b)),
            ];
            for (t, integers) in integers.iter_mut().enumerate() {
                let (quants, _, _) = of(input, token + t, n, 256);
                for (part, weights) in [(2 * pair, low), (2 * pair + 1, high)] {
                    let quants = &quants[32 * part..];
                    let dot = add_products(vdupq_n_s32(0), weights[0], load_quants(quants));
                    let dot = add_products(dot, weights[1], load_quants(&quants[16..]));
                    *integers = vmlaq_n_s32(*integers, dot, i32::from(scales[part]));
                }
            }
        }
        for (t, integers) in integers.iter().enumerate() {
            let (_, step, sixteens) = of(input, token + t, n, 256);
            let pairs = sixteens.as_chunks::<2>().0.iter().zip(small);
            let less: i32 = pairs
                .map(|([a, b], minimum)| (i32::from(*a) + i32::from(*b)) * i32::from(minimum))
                .sum();
            minima[t] += less as f32 * (minimum * step);
            sums[t] = vfmaq_n_f32(sums[t], vcvtq_f32_s32(*integers), scale * step);
        }
    }
    let mut totals = totals(sums);
    for (total, less) in totals.iter_mut().zip(minima) {
        *total -= less;
    }
    totals
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn q6_k<const T: usize>(row: &[u8], input: &Activations, token: usize) -> [f32; T] {
    let (fifteen, upper) = (vdupq_n_u8(15), vdupq_n_u8(0x30));
    let mut sums = [vdupq_n_f32(0.0); T];
    for (n, block) in row.as_chunks::<210>().0.iter().enumerate() {
        let scale = half(&block[208..]);
        let mut integers = [vdupq_n_s32(0); T];
        for half in 0..2 {
            for part in 0..2 {
                // Sixteen elements of each of four runs of 32.
                let a = load(&block[64 * half + 16 * part..]);
                let b = load(&block[64 * half + 32 + 16 * part..]);
                let high = load(&block[128 + 32 * half + 16 * part..]);
                let six = [
                    vorrq_u8(vandq_u8(a, fifteen), vandq_u8(vshlq_n_u8::<4>(high), upper)),
                    vorrq_u8(vandq_u8(b, fifteen), vandq_u8(vshlq_n_u8::<2>(high), upper)),
                    vorrq_u8(vshrq_n_u8::<4>(a), vandq_u8(high, upper)),
                    vorrq_u8(vshrq_n_u8::<4>(b), vandq_u8(vshrq_n_u8::<2>(high), upper)),
                ];
                for (run, six) in six.into_iter().enumerate() {
                    let weights = vsubq_s8(vreinterpretq_s8_u8(six), vdupq_n_s8(32));
                    let sixteen = 8 * half + 2 * run + part;
                    let its_scale = i32::from(block[192 + sixteen] as i8);
                    for (t, integers) in integers.iter_mut().enumerate() {
                        let (quants, _, _) = of(input, token + t, n, 256);
                        let quants = load_quants(&quants[16 * sixteen..]);
                        let dot = add_products(vdupq_n_s32(0), weights, quants);
                        *integers = vmlaq_n_s32(*integers, dot, its_scale);
                    }
                }
            }
        }
        for (t, integers) in integers.iter().enumerate() {
            let (_, step, _) = of(input, token + t, n, 256);
            sums[t] = vfmaq_n_f32(sums[t], vcvtq_f32_s32(*integers), scale * step);
        }
    }
    totals(sums)
}
