//! Packed weights on the device: the blocks of the file, or 4-bit groups, read as words.
//!
//! Every format of 4 to 8 bits is taken apart in the same pieces of 32 weights: eight words of
//! signed bytes, of which the first four and the last four are 16 neighbours in the row each, and
//! for either half a factor and what is added for each unit of the activations' sum. So one kernel
//! serves them all, and what differs is here. The layouts are those of
//! `skep_weights::format`, and for groups that of [`Form`].

#![allow(
    missing_docs,
    reason = "of every function a macro makes a module without documentation"
)]

use cubecl::prelude::*;
use skep_weights::PackedFormat;

use crate::numbers::half_to_float;

/// Weights of a piece.
pub const PIECE: usize = 32;

/// How a matrix lies on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Form {
    /// How weights are packed. Where there are groups: how their four bits lie, which is as those of
    /// Q4_0.
    pub format: PackedFormat,
    /// Groups of a row; none where the blocks of the file lie there as they are. With groups a row is
    /// a word for each, its 16-bit scale and above it its zero-point, and then four bits a weight.
    pub groups: usize,
    /// Pieces of a group.
    pub group_pieces: usize,
}

impl Form {
    /// Blocks as they are in a file.
    pub fn blocks(format: PackedFormat) -> Self {
        Self {
            format,
            groups: 0,
            group_pieces: 1,
        }
    }

    /// 4-bit groups of so many columns, a multiple of [`PIECE`] that `columns` is a multiple of.
    pub fn groups(columns: usize, group: usize) -> Self {
        Self {
            format: PackedFormat::Q4_0,
            groups: columns / group,
            group_pieces: group / PIECE,
        }
    }

    /// Bytes of a row of so many columns.
    pub fn row_bytes(self, columns: usize) -> usize {
        match self.groups {
            0 => columns / self.format.block_len() * self.format.block_bytes(),
            groups => 4 * groups + columns / 2,
        }
    }
}

/// The word that begins at byte `at`, an even number. Reads up to a word beyond it.
#[cube]
fn word_at(bytes: &[u32], at: usize) -> u32 {
    let word = at / 4usize;
    let shift = u32::cast_from(at % 4usize) * 8u32;
    (bytes[word] >> shift) | ((bytes[word + 1usize] << 16u32) << (16u32 - shift))
}

/// The 16-bit float at byte `at`, an even number.
#[cube]
pub fn half_at(bytes: &[u32], at: usize) -> f32 {
    half_to_float(halfword_at(bytes, at))
}

/// The 16 bits at byte `at`, an even number.
#[cube]
pub fn halfword_at(bytes: &[u32], at: usize) -> u32 {
    (bytes[at / 4usize] >> (u32::cast_from(at % 4usize) * 8u32)) & 0xffffu32
}

/// The byte `at`.
#[cube]
fn byte_at(bytes: &[u32], at: usize) -> u32 {
    (bytes[at / 4usize] >> (u32::cast_from(at % 4usize) * 8u32)) & 255u32
}

/// The columns at which the two halves of a row's piece begin.
#[cube]
pub fn columns_of(piece: usize, #[comptime] format: PackedFormat) -> (usize, usize) {
    let (first, second) = match format {
        PackedFormat::Q4_K | PackedFormat::Q5_K => {
            let first = piece / 2usize * 64usize + piece % 2usize * 16usize;
            (first, first + 32usize)
        }
        PackedFormat::Q6_K => {
            // Two halves of a block, in each of them two runs of 32 and in each of those two of 16.
            let first = piece / 4usize * 128usize
                + piece / 2usize % 2usize * 32usize
                + piece % 2usize * 16usize;
            (first, first + 64usize)
        }
        _ => {
            let first = piece * 32usize;
            (first, first + 16usize)
        }
    };
    (first, second)
}

/// The eight words of a piece of the row that begins at byte `row`.
#[cube]
pub fn words_of(weights: &[u32], row: usize, piece: usize, #[comptime] form: Form) -> Array<u32> {
    let mut words = Array::<u32>::new(8usize);
    let format = comptime!(form.format);
    if comptime!(form.groups > 0) {
        let at = row / 4usize + comptime!(form.groups) + piece * 4usize;
        #[unroll]
        for n in 0..4usize {
            let both = weights[at + n];
            words[n] = both & 0x0f0f_0f0fu32;
            words[4usize + n] = (both >> 4u32) & 0x0f0f_0f0fu32;
        }
    } else {
        words_of_blocks(weights, row, piece, &mut words, format);
    }
    words
}

/// As [`words_of`], where the blocks lie there as they are.
#[cube]
fn words_of_blocks(
    weights: &[u32],
    row: usize,
    piece: usize,
    words: &mut Array<u32>,
    #[comptime] format: PackedFormat,
) {
    match format {
        PackedFormat::Q8_0 => {
            let at = row + piece * 34usize + 2usize;
            #[unroll]
            for n in 0..8usize {
                words[n] = word_at(weights, at + 4usize * n);
            }
        }
        PackedFormat::Q4_0 | PackedFormat::Q4_1 => {
            // The integers are the last 16 bytes of a block.
            let bytes = comptime!(format.block_bytes());
            let start = comptime!(format.block_bytes() - 16);
            let at = row + piece * bytes + start;
            #[unroll]
            for n in 0..4usize {
                let both = word_at(weights, at + 4usize * n);
                words[n] = both & 0x0f0f_0f0fu32;
                words[4usize + n] = (both >> 4u32) & 0x0f0f_0f0fu32;
            }
        }
        PackedFormat::Q5_0 | PackedFormat::Q5_1 => {
            // Before the last 16 bytes of a block there are the fifth bits.
            let bytes = comptime!(format.block_bytes());
            let start = comptime!(format.block_bytes() - 20);
            let at = row + piece * bytes + start;
            let high = word_at(weights, at);
            #[unroll]
            for n in 0..4usize {
                let both = word_at(weights, at + 4usize + 4usize * n);
                let shift = u32::cast_from(4usize * n);
                words[n] = (both & 0x0f0f_0f0fu32) | fifth_bits(high >> shift);
                words[4usize + n] =
                    ((both >> 4u32) & 0x0f0f_0f0fu32) | fifth_bits(high >> (shift + 16u32));
            }
        }
        PackedFormat::Q4_K => {
            let at =
                (row + piece / 8usize * 144usize + 16usize + piece % 8usize * 16usize) / 4usize;
            #[unroll]
            for n in 0..4usize {
                let both = weights[at + n];
                words[n] = both & 0x0f0f_0f0fu32;
                words[4usize + n] = (both >> 4u32) & 0x0f0f_0f0fu32;
            }
        }
        PackedFormat::Q5_K => {
            let block = row + piece / 8usize * 176usize;
            let within = piece % 8usize;
            let at = (block + 48usize + within * 16usize) / 4usize;
            let at_high = (block + 16usize + within % 2usize * 16usize) / 4usize;
            let shift = u32::cast_from(within / 2usize) * 2u32;
            #[unroll]
            for n in 0..4usize {
                let both = weights[at + n];
                let high = weights[at_high + n] >> shift;
                words[n] = (both & 0x0f0f_0f0fu32) | ((high & 0x0101_0101u32) << 4u32);
                words[4usize + n] =
                    ((both >> 4u32) & 0x0f0f_0f0fu32) | ((high & 0x0202_0202u32) << 3u32);
            }
        }
        PackedFormat::Q6_K => {
            let block = row + piece / 8usize * 210usize;
            let half = piece / 4usize % 2usize;
            let within = piece % 4usize;
            let at = block + half * 64usize + within * 16usize;
            let at_high = block + 128usize + half * 32usize + within % 2usize * 16usize;
            let shift = u32::cast_from(within / 2usize) * 2u32;
            #[unroll]
            for n in 0..4usize {
                let both = word_at(weights, at + 4usize * n);
                let high = word_at(weights, at_high + 4usize * n) >> shift;
                words[n] = (both & 0x0f0f_0f0fu32) | ((high & 0x0303_0303u32) << 4u32);
                words[4usize + n] = ((both >> 4u32) & 0x0f0f_0f0fu32) | (high & 0x3030_3030u32);
            }
        }
        _ => {}
    }
}

/// The factor and the addend of the first half of a piece, and those of the second.
#[cube]
pub fn factors_of(weights: &[u32], row: usize, piece: usize, #[comptime] form: Form) -> Array<f32> {
    let mut factors = Array::<f32>::new(4usize);
    let format = comptime!(form.format);
    if comptime!(form.groups > 0) {
        let both = weights[row / 4usize + piece / comptime!(form.group_pieces)];
        let scale = half_to_float(both & 0xffffu32);
        let zero = -scale * f32::cast_from(both >> 16u32);
        factors[0usize] = scale;
        factors[1usize] = zero;
        factors[2usize] = scale;
        factors[3usize] = zero;
    } else {
        factors_of_blocks(weights, row, piece, &mut factors, format);
    }
    factors
}

/// As [`factors_of`], where the blocks lie there as they are.
#[cube]
fn factors_of_blocks(
    weights: &[u32],
    row: usize,
    piece: usize,
    factors: &mut Array<f32>,
    #[comptime] format: PackedFormat,
) {
    match format {
        PackedFormat::Q8_0 => {
            let scale = half_at(weights, row + piece * 34usize);
            factors[0usize] = scale;
            factors[2usize] = scale;
        }
        PackedFormat::Q4_0 => {
            let scale = half_at(weights, row + piece * 18usize);
            factors[0usize] = scale;
            factors[1usize] = -8.0f32 * scale;
            factors[2usize] = scale;
            factors[3usize] = -8.0f32 * scale;
        }
        PackedFormat::Q5_0 => {
            let scale = half_at(weights, row + piece * 22usize);
            factors[0usize] = scale;
            factors[1usize] = -16.0f32 * scale;
            factors[2usize] = scale;
            factors[3usize] = -16.0f32 * scale;
        }
        PackedFormat::Q4_1 | PackedFormat::Q5_1 => {
            let bytes = comptime!(format.block_bytes());
            let scale = half_at(weights, row + piece * bytes);
            let least = half_at(weights, row + piece * bytes + 2usize);
            factors[0usize] = scale;
            factors[1usize] = least;
            factors[2usize] = scale;
            factors[3usize] = least;
        }
        PackedFormat::Q4_K | PackedFormat::Q5_K => {
            let bytes = comptime!(format.block_bytes());
            let at = (row + piece / 8usize * bytes) / 4usize;
            let both = weights[at];
            let scale = half_to_float(both & 0xffffu32);
            let least = half_to_float(both >> 16u32);
            let pair = piece % 8usize / 2usize;
            // The pair's two bytes of each word: those of the sub-blocks 2 p and 2 p + 1.
            let shift = u32::cast_from(pair % 2usize) * 16u32;
            let a = weights[at + 1usize] >> shift;
            let b = weights[at + 2usize] >> shift;
            let c = weights[at + 3usize] >> shift;
            let first = pair < 2usize;
            let scales = select(
                first,
                a & 0x3f3fu32,
                (c & 0x0f0fu32) | ((a & 0xc0c0u32) >> 2u32),
            );
            let minima = select(
                first,
                b & 0x3f3fu32,
                ((c >> 4u32) & 0x0f0fu32) | ((b & 0xc0c0u32) >> 2u32),
            );
            factors[0usize] = scale * f32::cast_from(scales & 255u32);
            factors[1usize] = -least * f32::cast_from(minima & 255u32);
            factors[2usize] = scale * f32::cast_from((scales >> 8u32) & 255u32);
            factors[3usize] = -least * f32::cast_from((minima >> 8u32) & 255u32);
        }
        PackedFormat::Q6_K => {
            let block = row + piece / 8usize * 210usize;
            let scale = half_at(weights, block + 208usize);
            let at = block + 192usize + piece / 4usize % 2usize * 8usize + piece % 4usize;
            let low = i32::reinterpret(byte_at(weights, at) << 24u32) >> 24i32;
            let high = i32::reinterpret(byte_at(weights, at + 4usize) << 24u32) >> 24i32;
            let first = scale * f32::cast_from(low);
            let second = scale * f32::cast_from(high);
            factors[0usize] = first;
            factors[1usize] = -32.0f32 * first;
            factors[2usize] = second;
            factors[3usize] = -32.0f32 * second;
        }
        _ => {}
    }
}

/// The low four bits of `bits`, each in the fifth bit of a byte.
#[cube]
fn fifth_bits(bits: u32) -> u32 {
    ((bits & 1u32) << 4u32)
        | ((bits & 2u32) << 11u32)
        | ((bits & 4u32) << 18u32)
        | ((bits & 8u32) << 25u32)
}
