//! Packed weights on the device: the bits of the file, or 4-bit groups, in rows of whole
//! [`Words`].
//!
//! Every format of 4 to 8 bits is taken apart in the same pieces of 32 weights: eight words of
//! signed bytes, of which the first four and the last four are 16 neighbours in the row each, and
//! for either half a factor and what is added for each unit of the activations' sum. So one kernel
//! serves them all, and what differs is here. The blocks are those of `skep_weights::format`; how
//! their parts lie in a row is said at [`Form`].

#![allow(
    missing_docs,
    reason = "of every function a macro makes a module without documentation"
)]

use std::borrow::Cow;
use std::ops::Range;

use cubecl::prelude::*;
use skep_weights::PackedFormat;

use crate::numbers::{floats_of, half_to_float, halves_to_floats};

/// Weights of a piece.
pub const PIECE: usize = 32;

/// Four words, which a unit reads at once: rows begin with a multiple of 16 bytes.
pub type Words = Vector<u32, Const<4>>;

/// How a matrix lies on the device.
///
/// A row of blocks whose length is a multiple of 16 bytes lies there as in the file. Of the other
/// formats a row has first what is 16 bytes or a multiple of them in each block, one after the
/// other; then, where there are any, the fifth bits of each block, a word; then the floats of each
/// block. With groups a row has four bits a weight first and then a word for each group, its 16-bit
/// scale and above it its zero-point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Form {
    /// How weights are packed. Where there are groups: how their four bits lie, which is as those of
    /// Q4_0.
    pub format: PackedFormat,
    /// Groups of a row; none where there are blocks.
    pub groups: usize,
    /// Pieces of a group.
    pub group_pieces: usize,
    /// Whether the device turns 16-bit floats into longer ones exactly.
    pub halves: bool,
}

/// The parts of a block whose length is no multiple of 16 bytes.
struct Parts {
    /// A multiple of 16 bytes.
    main: Range<usize>,
    /// A word of fifth bits, or nothing.
    high: Range<usize>,
    /// One or two 16-bit floats.
    floats: Range<usize>,
}

impl Parts {
    fn of(format: PackedFormat) -> Option<Self> {
        let (main, high, floats) = match format {
            PackedFormat::Q8_0 => (2..34, 0..0, 0..2),
            PackedFormat::Q4_0 => (2..18, 0..0, 0..2),
            PackedFormat::Q4_1 => (4..20, 0..0, 0..4),
            PackedFormat::Q5_0 => (6..22, 2..6, 0..2),
            PackedFormat::Q5_1 => (8..24, 4..8, 0..4),
            PackedFormat::Q6_K => (0..208, 0..0, 208..210),
            _ => return None,
        };
        Some(Self { main, high, floats })
    }

    /// In the order in which they lie in a row.
    fn in_order(&self) -> [&Range<usize>; 3] {
        [&self.main, &self.high, &self.floats]
    }
}

impl Form {
    /// Blocks of a file.
    pub fn blocks(format: PackedFormat, halves: bool) -> Self {
        Self {
            format,
            groups: 0,
            group_pieces: 1,
            halves,
        }
    }

    /// 4-bit groups of so many columns, a multiple of [`PIECE`] that `columns` is a multiple of.
    pub fn groups(columns: usize, group: usize, halves: bool) -> Self {
        Self {
            format: PackedFormat::Q4_0,
            groups: columns / group,
            group_pieces: group / PIECE,
            halves,
        }
    }

    /// Whether each piece of an even number has the factors of the next one.
    pub fn neighbours_share(self) -> bool {
        match self.groups {
            0 => matches!(self.format, PackedFormat::Q4_K | PackedFormat::Q5_K),
            _ => self.group_pieces.is_multiple_of(2),
        }
    }

    /// Bytes of a row of so many columns.
    pub fn row_bytes(self, columns: usize) -> usize {
        if self.groups > 0 {
            return columns / 2 + (4 * self.groups).next_multiple_of(16);
        }
        let blocks = columns / self.format.block_len();
        match Parts::of(self.format) {
            None => blocks * self.format.block_bytes(),
            Some(parts) => parts
                .in_order()
                .iter()
                .map(|part| (blocks * part.len()).next_multiple_of(16))
                .sum(),
        }
    }

    /// The rows of a file as they lie on the device.
    pub fn arrange(self, bytes: &[u8], columns: usize) -> Cow<'_, [u8]> {
        let Some(parts) = Parts::of(self.format) else {
            return Cow::Borrowed(bytes);
        };
        let block = self.format.block_bytes();
        let row = columns / self.format.block_len() * block;
        let rows = bytes.len().checked_div(row).unwrap_or(0);
        let mut arranged = Vec::with_capacity(rows * self.row_bytes(columns));
        for row in bytes.chunks_exact(row.max(1)) {
            for part in parts.in_order() {
                for block in row.chunks_exact(block) {
                    arranged.extend_from_slice(&block[part.clone()]);
                }
                arranged.resize(arranged.len().next_multiple_of(16), 0);
            }
        }
        Cow::Owned(arranged)
    }
}

/// The 16 bits at byte `at`, an even number.
#[cube]
pub fn halfword_at(bytes: &[u32], at: usize) -> u32 {
    (bytes[at / 4usize] >> (u32::cast_from(at % 4usize) * 8u32)) & 0xffffu32
}

/// Word `at` of all words.
#[cube]
fn word_at(weights: &[Words], at: usize) -> u32 {
    let four = weights[at / 4usize];
    let first = select(
        at % 2usize == 0usize,
        four.extract(0usize),
        four.extract(1usize),
    );
    let second = select(
        at % 2usize == 0usize,
        four.extract(2usize),
        four.extract(3usize),
    );
    select(at % 4usize < 2usize, first, second)
}

/// Halfword `at` of all halfwords, as a float.
#[cube]
fn float_at(weights: &[Words], at: usize, #[comptime] halves: bool) -> f32 {
    let both = word_at(weights, at / 2usize) >> (u32::cast_from(at % 2usize) * 16u32);
    if comptime!(halves) {
        let (first, _second) = halves_to_floats(both);
        first
    } else {
        half_to_float(both & 0xffffu32)
    }
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

/// The low and the high four bits of each byte, as the words of a piece.
#[cube]
fn nibbles(four: Words, words: &mut Array<u32>) {
    #[unroll]
    for n in 0..4usize {
        let both = four.extract(n);
        words[n] = both & 0x0f0f_0f0fu32;
        words[4usize + n] = (both >> 4u32) & 0x0f0f_0f0fu32;
    }
}

/// The eight words of a piece of the row of so many pieces that begins at `weights[row]`.
#[cube]
pub fn words_of(
    weights: &[Words],
    row: usize,
    pieces: usize,
    piece: usize,
    #[comptime] form: Form,
) -> Array<u32> {
    let mut words = Array::<u32>::new(8usize);
    let format = comptime!(form.format);
    match format {
        PackedFormat::Q8_0 => {
            let at = row + piece * 2usize;
            let first = weights[at];
            let second = weights[at + 1usize];
            #[unroll]
            for n in 0..4usize {
                words[n] = first.extract(n);
                words[4usize + n] = second.extract(n);
            }
        }
        PackedFormat::Q4_0 | PackedFormat::Q4_1 => {
            nibbles(weights[row + piece], &mut words);
        }
        PackedFormat::Q5_0 | PackedFormat::Q5_1 => {
            nibbles(weights[row + piece], &mut words);
            let high = word_at(weights, (row + pieces) * 4usize + piece);
            #[unroll]
            for n in 0..4usize {
                let shift = comptime!(4u32 * n as u32);
                words[n] |= fifth_bits(high >> shift);
                words[4usize + n] |= fifth_bits(high >> comptime!(4u32 * n as u32 + 16u32));
            }
        }
        PackedFormat::Q4_K => {
            nibbles(
                weights[row + piece / 8usize * 9usize + 1usize + piece % 8usize],
                &mut words,
            );
        }
        PackedFormat::Q5_K => {
            let block = row + piece / 8usize * 11usize;
            let within = piece % 8usize;
            let all_high = weights[block + 1usize + within % 2usize];
            nibbles(weights[block + 3usize + within], &mut words);
            let shift = u32::cast_from(within / 2usize) * 2u32;
            #[unroll]
            for n in 0..4usize {
                let high = all_high.extract(n) >> shift;
                words[n] |= (high & 0x0101_0101u32) << 4u32;
                words[4usize + n] |= (high & 0x0202_0202u32) << 3u32;
            }
        }
        PackedFormat::Q6_K => {
            let block = row + piece / 8usize * 13usize;
            let half = piece / 4usize % 2usize;
            let within = piece % 4usize;
            let all_high = weights[block + 8usize + half * 2usize + within % 2usize];
            nibbles(weights[block + half * 4usize + within], &mut words);
            let shift = u32::cast_from(within / 2usize) * 2u32;
            #[unroll]
            for n in 0..4usize {
                let high = all_high.extract(n) >> shift;
                words[n] |= (high & 0x0303_0303u32) << 4u32;
                words[4usize + n] |= high & 0x3030_3030u32;
            }
        }
        _ => {}
    }
    words
}

/// The factor and the addend of the first half of a piece, and those of the second.
#[cube]
pub fn factors_of(
    weights: &[Words],
    row: usize,
    pieces: usize,
    piece: usize,
    #[comptime] form: Form,
) -> Array<f32> {
    let mut factors = Array::<f32>::new(4usize);
    if comptime!(form.groups > 0) {
        let group = piece / comptime!(form.group_pieces);
        let both = word_at(weights, (row + pieces) * 4usize + group);
        let (scale, _) = floats_of(both & 0xffffu32, comptime!(form.halves));
        let zero = -scale * f32::cast_from(both >> 16u32);
        set_both(&mut factors, scale, zero);
    } else {
        factors_of_blocks(weights, row, pieces, piece, &mut factors, form);
    }
    factors
}

/// The same for both halves.
#[cube]
fn set_both(factors: &mut Array<f32>, factor: f32, addend: f32) {
    factors[0usize] = factor;
    factors[1usize] = addend;
    factors[2usize] = factor;
    factors[3usize] = addend;
}

/// As [`factors_of`], where there are blocks.
#[cube]
fn factors_of_blocks(
    weights: &[Words],
    row: usize,
    pieces: usize,
    piece: usize,
    factors: &mut Array<f32>,
    #[comptime] form: Form,
) {
    let halves = comptime!(form.halves);
    let format = comptime!(form.format);
    match format {
        PackedFormat::Q8_0 => {
            let scale = float_at(weights, (row + 2usize * pieces) * 8usize + piece, halves);
            set_both(factors, scale, 0.0f32);
        }
        PackedFormat::Q4_0 => {
            let scale = float_at(weights, (row + pieces) * 8usize + piece, halves);
            set_both(factors, scale, -8.0f32 * scale);
        }
        PackedFormat::Q5_0 => {
            let fifth = (pieces + 3usize) / 4usize;
            let scale = float_at(weights, (row + pieces + fifth) * 8usize + piece, halves);
            set_both(factors, scale, -16.0f32 * scale);
        }
        PackedFormat::Q4_1 => {
            let both = word_at(weights, (row + pieces) * 4usize + piece);
            let (scale, least) = floats_of(both, halves);
            set_both(factors, scale, least);
        }
        PackedFormat::Q5_1 => {
            let fifth = (pieces + 3usize) / 4usize;
            let both = word_at(weights, (row + pieces + fifth) * 4usize + piece);
            let (scale, least) = floats_of(both, halves);
            set_both(factors, scale, least);
        }
        PackedFormat::Q4_K | PackedFormat::Q5_K => {
            let words = comptime!(form.format.block_bytes() / 16);
            let header = weights[row + piece / 8usize * words];
            let (scale, least) = floats_of(header.extract(0usize), halves);
            let pair = piece % 8usize / 2usize;
            // The pair's two bytes of each word: those of the sub-blocks 2 p and 2 p + 1.
            let shift = u32::cast_from(pair % 2usize) * 16u32;
            let a = header.extract(1usize) >> shift;
            let b = header.extract(2usize) >> shift;
            let c = header.extract(3usize) >> shift;
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
            let blocks = pieces / 8usize;
            let block = piece / 8usize;
            let scale = float_at(weights, (row + 13usize * blocks) * 8usize + block, halves);
            let all = weights[row + block * 13usize + 12usize];
            let half = piece / 4usize % 2usize;
            let shift = 24u32 - u32::cast_from(piece % 4usize) * 8u32;
            let a = select(half == 0usize, all.extract(0usize), all.extract(2usize));
            let b = select(half == 0usize, all.extract(1usize), all.extract(3usize));
            let low = i32::reinterpret(a << shift) >> 24i32;
            let high = i32::reinterpret(b << shift) >> 24i32;
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
