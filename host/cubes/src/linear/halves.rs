//! What tensor cores multiply: weights and activations as 16-bit floats.
//!
//! Of 16-bit floats those with a mantissa of 10 bits are taken, because their error, half a
//! thousandth, is below that of activations rounded to 8 bits; that of `bfloat16` is not. What they lack
//! is range. So every row of activations, and every matrix, is multiplied with a power of two
//! of its own, which brings the largest of it below 2^15 and is taken out of the products
//! again: nothing becomes infinite, and what becomes zero is 2^-38 of the largest.
//!
//! Activations are those that were rounded to 8 bits already, so that products of many tokens
//! differ from those of few only in the last bits, and what is not finite counts as there.

// Without CUDA only tests run this.
#![cfg_attr(not(feature = "cuda"), allow(dead_code))]

use cubecl::prelude::*;
use half::f16;
use skep_kernels::PackedMatrix;
use skep_kernels::linear::Weights;
use skep_weights::{GroupInt4, PackedFormat};

use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;
use crate::numbers::{byte_of, float_to_half};
use crate::packed::Words;
use crate::round::Rounded;

/// Rows of activations as 16-bit floats.
#[derive(Debug)]
pub(crate) struct Halves {
    /// `[tokens, columns / 2]`: two floats a word.
    pub words: Buffer,
    /// Of each token what its products are multiplied with, a power of two.
    pub powers: Buffer,
}

/// The power of two that brings every weight below 2^15 and the largest near it.
pub(super) fn power_for(weights: &Weights<'_>) -> f32 {
    let most = match weights {
        Weights::Packed(weights) => most_of_blocks(weights),
        Weights::Grouped(weights) => most_of_groups(weights),
    };
    // The exponent of `most`, which is below 2^(exponent - 126).
    let exponent = most.to_bits() >> 23;
    match exponent {
        // Zero, or smaller than blocks can say.
        0..=32 => 1.0,
        exponent => f32::from_bits((268 - exponent.min(254)) << 23),
    }
}

/// The largest that a weight can be by the scales of its blocks. Scales that are no numbers are
/// left out: what they make is none either.
fn most_of_blocks(weights: &PackedMatrix<'_>) -> f32 {
    let format = weights.format();
    // Where a block has scales, and the largest integer that each is multiplied with.
    let places: &[(usize, f32)] = match format {
        PackedFormat::Q8_0 => &[(0, 128.0)],
        PackedFormat::Q4_0 => &[(0, 8.0)],
        PackedFormat::Q4_1 => &[(0, 15.0), (2, 1.0)],
        PackedFormat::Q5_0 => &[(0, 16.0)],
        PackedFormat::Q5_1 => &[(0, 31.0), (2, 1.0)],
        PackedFormat::Q4_K => &[(0, 63.0 * 15.0), (2, 63.0)],
        PackedFormat::Q5_K => &[(0, 63.0 * 31.0), (2, 63.0)],
        PackedFormat::Q6_K => &[(208, 128.0 * 32.0)],
        _ => &[],
    };
    let mut most = 0.0;
    for (place, integer) in places {
        let scales = weights
            .bytes()
            .chunks_exact(format.block_bytes())
            .filter_map(|block| block[*place..].first_chunk::<2>())
            .map(|bytes| u16::from_le_bytes(*bytes));
        most += largest(scales) * integer;
    }
    most
}

fn most_of_groups(weights: &GroupInt4) -> f32 {
    let rows = (0..weights.rows()).filter_map(|row| weights.row(row));
    // Zero-points are of five bits at most, and so are differences from them.
    16.0 * largest(rows.flat_map(|row| row.scales.iter().map(|scale| scale.to_bits())))
}

/// The largest of these 16-bit floats without their signs.
fn largest(scales: impl Iterator<Item = u16>) -> f32 {
    let sizes = scales.map(|bits| bits & 0x7fff);
    let most = sizes.filter(|size| *size < 0x7c00).max();
    f16::from_bits(most.unwrap_or(0)).to_f32()
}

/// The activations that were rounded to 8 bits, as 16-bit floats.
pub(super) fn of_tokens(
    gpu: &Gpu,
    input: &Rounded,
    tokens: usize,
    columns: usize,
) -> Result<Halves, GpuError> {
    let halves = Halves {
        words: gpu.empty(tokens * columns / 2)?,
        powers: gpu.empty(tokens)?,
    };
    guard("linear", || {
        // SAFETY: the buffers have the lengths above, and a cube writes a token's.
        unsafe {
            halves_of_tokens::launch_unchecked(
                gpu.client(),
                cubes(tokens),
                CubeDim::new_1d(256),
                input.quants.arg(),
                input.scales.arg(),
                halves.words.arg(),
                halves.powers.arg(),
                tokens,
                columns,
                input.precision.block_len(),
                gpu.has_tensor_cores(),
            );
        }
    })?;
    Ok(halves)
}

/// Two numbers as 16-bit floats of a word, the first in its low half.
#[cube]
pub(super) fn both_halves(low: f32, high: f32, #[comptime] native: bool) -> u32 {
    if comptime!(native) {
        let low = u32::cast_from(u16::reinterpret(f16::cast_from(low)));
        let high = u32::cast_from(u16::reinterpret(f16::cast_from(high)));
        low | (high << 16u32)
    } else {
        float_to_half(low) | (float_to_half(high) << 16u32)
    }
}

/// The eight bytes of a piece's words from `first` on, each times `factor` and with `addend`, as
/// 16-bit floats.
#[cube]
pub(super) fn eight_halves(
    words: &Array<u32>,
    #[comptime] first: usize,
    factor: f32,
    addend: f32,
    #[comptime] native: bool,
) -> Words {
    let mut four = Words::empty();
    #[unroll]
    for w in 0..4usize {
        let word = words[comptime!(first + w / 2)];
        let low = byte_of(word, comptime!((w as u32 % 2u32) * 2u32));
        let high = byte_of(word, comptime!((w as u32 % 2u32) * 2u32 + 1u32));
        four.insert(
            w,
            both_halves(
                f32::cast_from(low) * factor + addend,
                f32::cast_from(high) * factor + addend,
                native,
            ),
        );
    }
    four
}

/// A cube makes the row of a token.
#[cube(launch_unchecked)]
fn halves_of_tokens(
    quants: &[u32],
    scales: &[f32],
    out: &mut [u32],
    powers: &mut [f32],
    tokens: usize,
    columns: usize,
    #[comptime] block: usize,
    #[comptime] native: bool,
) {
    let mut largest = Shared::<[f32]>::new_slice(256usize);
    let unit = UNIT_POS as usize;
    // Cubes beyond the last do the last's work again.
    let token = min(CUBE_POS, tokens - 1usize);
    let blocks = columns / block;
    let mut most = 0.0f32;
    let mut at = unit;
    while at < blocks {
        most = max(most, scales[token * blocks + at]);
        at += 256usize;
    }
    largest[unit] = most;
    sync_cube();
    let mut step = 128usize.runtime();
    while step > 0usize {
        if unit < step {
            let other = largest[unit + step];
            largest[unit] = max(largest[unit], other);
        }
        sync_cube();
        step /= 2usize;
    }
    // A scale is multiplied with 127 at most, so it is to be below 2^8.
    let exponent = max(u32::reinterpret(largest[0usize]) >> 23u32, 8u32);
    let power = f32::reinterpret((261u32 - exponent) << 23u32);
    if unit == 0usize {
        powers[token] = f32::reinterpret((exponent - 7u32) << 23u32);
    }
    let fours = columns / 4usize;
    let mut at = unit;
    while at < fours {
        let four = quants[token * fours + at];
        let scale = scales[token * blocks + at * 4usize / block] * power;
        let to = (token * fours + at) * 2usize;
        #[unroll]
        for n in 0..2usize {
            let low = f32::cast_from(byte_of(four, comptime!(2u32 * n as u32))) * scale;
            let high = f32::cast_from(byte_of(four, comptime!(2u32 * n as u32 + 1u32))) * scale;
            out[to + n] = both_halves(low, high, native);
        }
        at += 256usize;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use skep_accounts::Account;
    use skep_kernels::Precision;
    use skep_weights::format::dequantize;

    use super::*;
    use crate::GpuKind;
    use crate::linear::Matrix;
    use crate::packed::{Form, PIECE, columns_of, factors_of, words_of};
    use crate::round::round;

    fn gpu() -> Gpu {
        let kind = match cfg!(feature = "cuda") {
            true => GpuKind::Cuda(0),
            false => GpuKind::VulkanBest,
        };
        Gpu::open(kind, Account::unlimited()).unwrap()
    }

    fn floats(words: &[u32]) -> Vec<f32> {
        let halves = words
            .iter()
            .flat_map(|word| [*word as u16, (*word >> 16) as u16]);
        halves.map(|bits| f16::from_bits(bits).to_f32()).collect()
    }

    /// Blocks of pseudo-random bits whose scales are `scale` and smaller ones.
    fn blocks(format: PackedFormat, count: usize, scale: f32) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut bytes = Vec::new();
        for n in 0..count {
            let begin = bytes.len();
            for _ in 0..format.block_bytes() {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.push((state >> 32) as u8);
            }
            let places: &[usize] = match format {
                PackedFormat::Q4_1
                | PackedFormat::Q5_1
                | PackedFormat::Q4_K
                | PackedFormat::Q5_K => &[0, 2],
                PackedFormat::Q6_K => &[208],
                _ => &[0],
            };
            for place in places {
                let scale = f16::from_f32(scale / (1 + n % 5) as f32).to_le_bytes();
                bytes[begin + place..][..2].copy_from_slice(&scale);
            }
        }
        bytes
    }

    /// Rows of a matrix as 16-bit floats, `count` from `first`, each multiplied with the matrix's power: what
    /// tiles of products are made of, for tests.
    fn of_rows(
        gpu: &Gpu,
        matrix: &Matrix,
        first: usize,
        count: usize,
        out: &Buffer,
    ) -> Result<(), GpuError> {
        let units = count * (matrix.columns / PIECE);
        guard("linear", || {
            // SAFETY: the caller asks for rows that there are, and gives room for them; pieces are
            // written four words at a time and are of sixteen.
            unsafe {
                halves_of_rows::launch_unchecked(
                    gpu.client(),
                    cubes(units.div_ceil(256)),
                    CubeDim::new_1d(256),
                    matrix.blocks.fours(),
                    out.arg(),
                    units,
                    first,
                    matrix.columns,
                    matrix.row_bytes() / 16,
                    matrix.power,
                    matrix.form,
                    gpu.has_tensor_cores(),
                );
            }
        })
    }

    /// A unit expands a piece of a row.
    #[cube(launch_unchecked)]
    fn halves_of_rows(
        weights: &[Words],
        out: &mut [Words],
        units: usize,
        first_row: usize,
        columns: usize,
        row_words: usize,
        power: f32,
        #[comptime] form: Form,
        #[comptime] native: bool,
    ) {
        let unit = ABSOLUTE_POS;
        if unit < units {
            let pieces = columns / comptime!(PIECE);
            let within = unit / pieces;
            let piece = unit % pieces;
            let row = (first_row + within) * row_words;
            let words = words_of(weights, row, pieces, piece, form);
            let factors = factors_of(weights, row, pieces, piece, form);
            let (first, second) = columns_of(piece, comptime!(form.format));
            #[unroll]
            for half in 0..2usize {
                let factor = factors[2usize * half] * power;
                let addend = factors[2usize * half + 1usize] * power;
                let column = if comptime!(half == 0usize) {
                    first
                } else {
                    second
                };
                #[unroll]
                for n in 0..2usize {
                    let four =
                        eight_halves(&words, comptime!(4 * half + 2 * n), factor, addend, native);
                    out[(within * columns + column) / 8usize + n] = four;
                }
            }
        }
    }

    #[test]
    fn rows_are_the_nearest_halves_of_weights_times_a_power_that_fits() {
        let gpu = gpu();
        let quantized = PackedFormat::ALL
            .into_iter()
            .filter(|format| Precision::of(*format) != Precision::F32);
        for format in quantized {
            // Small ones of a real model, and ones whose weights are beyond 16-bit floats.
            for scale in [3e-5, 0.01, 20_000.0] {
                let (rows, columns) = (6, 2 * format.block_len().max(64));
                let bytes = blocks(format, rows * columns / format.block_len(), scale);
                let host = PackedMatrix::new(format, rows, columns, &bytes).unwrap();
                let mut matrix = Matrix::upload(&gpu, &host.into()).unwrap();
                matrix.power = power_for(&host.into());
                let mut want = vec![0.0; rows * columns];
                dequantize(format, &bytes, &mut want).unwrap();
                let size = want.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                let fitting = size * matrix.power;
                assert!(
                    (512.0..32768.0).contains(&fitting),
                    "{format} {scale}: {fitting}"
                );
                for (first, count) in [(0, rows), (2, 3)] {
                    let out = gpu.empty(count * columns / 2).unwrap();
                    of_rows(&gpu, &matrix, first, count, &out).unwrap();
                    let got = floats(&gpu.read_words(&out).unwrap());
                    let want = &want[first * columns..][..count * columns];
                    assert_eq!(got.len(), want.len());
                    for (got, want) in got.iter().zip(want) {
                        let want = want * matrix.power;
                        // A difference of products rounds twice before it is rounded to a half.
                        let bound = want.abs() / 2047.0 + 4e-7 * fitting;
                        assert!((got - want).abs() <= bound, "{format}: {got} {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn tokens_are_the_rounded_ones_and_none_is_infinite() {
        let gpu = gpu();
        let (tokens, columns) = (4, 512);
        let mut values: Vec<f32> = (0..tokens * columns)
            .map(|n| ((n * 37 % 101) as f32 - 50.0) / 25.0)
            .collect();
        values[3] = f32::NAN;
        values[40] = f32::INFINITY;
        for x in &mut values[columns..2 * columns] {
            *x *= 1e30;
        }
        for x in &mut values[2 * columns..3 * columns] {
            *x *= 1e-30;
        }
        values[3 * columns..].fill(0.0);
        for precision in [Precision::Int8By32, Precision::Int8By256] {
            let input = gpu.upload(&values).unwrap();
            let rounded = Rounded::room(&gpu, precision, tokens, columns).unwrap();
            round(&gpu, &input, (tokens, columns), &rounded).unwrap();
            let halves = of_tokens(&gpu, &rounded, tokens, columns).unwrap();
            let got = floats(&gpu.read_words(&halves.words).unwrap());
            let powers = gpu.read(&halves.powers).unwrap();
            let quants = gpu.read_words(&rounded.quants).unwrap();
            let scales = gpu.read(&rounded.scales).unwrap();
            for (n, got) in got.iter().enumerate() {
                let power = powers[n / columns];
                assert_eq!(power.to_bits() & 0x7f_ffff, 0, "{power}");
                assert!(got.abs() < 32_768.0);
                let quant = (quants[n / 4] >> (8 * (n % 4))) as u8 as i8;
                let want = f32::from(quant) * scales[n / precision.block_len()];
                let error = (got * power - want).abs();
                assert!(error <= want.abs() / 2047.0, "{n}: {got} {power} {want}");
            }
            // The largest of each token is near what halves hold.
            for (token, row) in got.chunks(columns).take(3).enumerate() {
                let most = row.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                assert!(most >= 8192.0, "{token}: {most}");
            }
        }
    }
}
