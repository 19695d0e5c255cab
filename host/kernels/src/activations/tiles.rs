//! Activations in the order in which tiles take them, and products of many tokens without tiles.
//!
//! A tile of activations has a column for each of sixteen tokens, four elements of each in a row:
//! so sixteen tokens lie together, and their groups of four elements take turns. Tokens that are
//! not there are zeros. All may lie there larger than they are, by an offset.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Precision, SUM};
use crate::linear::avx512::transposed;

/// Tokens of a tile.
const TOKENS: usize = 16;

/// Columns that a member of the team takes at a time: whole blocks of every format.
const COLUMNS: usize = 512;

/// A row of a tile.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Line(pub [u8; 64]);

/// For a block of 256 elements: the sums of 32 activations of each token, two 16-bit integers to
/// a word.
pub type Sums = [[u32; TOKENS]; 4];

/// Some columns of a group of sixteen tokens.
#[derive(Clone, Copy, Default)]
pub struct TilesOfGroup<'a> {
    /// `[columns / 4]`.
    pub lines: &'a [Line],
    /// For each block, the scales of the tokens.
    pub scales: &'a [[f32; TOKENS]],
    /// For each block of 256, the sums of its parts; empty for other blocks.
    pub sums: &'a [Sums],
    /// For each block of 32, the sums of all of it; empty for other blocks.
    pub totals: &'a [[f32; TOKENS]],
}

/// Rows of activations, by groups of sixteen.
#[derive(Debug, Default)]
pub struct Tiles {
    columns: usize,
    block: usize,
    /// How much larger elements lie here than they are, as bytes that wrap around.
    offset: u8,
    /// `[groups, columns / 4]`.
    lines: Vec<Line>,
    /// `[groups, columns / block]`.
    scales: Vec<[f32; TOKENS]>,
    /// `[groups, columns / 256]`, in [`Precision::Int8By256`].
    sums: Vec<Sums>,
    /// `[groups, columns / 32]`, in [`Precision::Int8By32`]: sums of a block's integers.
    totals: Vec<[f32; TOKENS]>,
}

/// Some columns of sixteen tokens of [`Tiles`].
pub struct Group<'a> {
    offset: u8,
    /// The first of the tokens.
    token: usize,
    /// The first of the columns.
    column: usize,
    lines: &'a mut [Line],
    scales: &'a mut [[f32; TOKENS]],
    sums: &'a mut [Sums],
    totals: &'a mut [[f32; TOKENS]],
}

impl Tiles {
    /// Makes room for so many rows.
    pub fn resize(&mut self, tokens: usize, columns: usize, precision: Precision, offset: u8) {
        let groups = tokens.div_ceil(TOKENS);
        let block = precision.block_len();
        (self.columns, self.block, self.offset) = (columns, block, offset);
        self.lines.resize(groups * (columns / 4), Line([0; 64]));
        self.scales
            .resize(groups * (columns / block), [0.0; TOKENS]);
        let (of_256, of_32) = match block {
            256 => (self.scales.len(), 0),
            32 => (0, self.scales.len()),
            _ => (0, 0),
        };
        self.sums.resize(of_256, [[0; TOKENS]; 4]);
        self.totals.resize(of_32, [0.0; TOKENS]);
    }

    /// Whether there is something here, so much larger than it is.
    pub fn are_by(&self, offset: u8) -> bool {
        !self.lines.is_empty() && self.offset == offset
    }

    /// Everything in pieces, to be filled.
    pub fn groups(&mut self) -> impl Iterator<Item = Group<'_>> {
        let (columns, block, offset) = (self.columns, self.block.max(1), self.offset);
        let groups = self.lines.len() / (columns / 4).max(1);
        let mut lines = &mut self.lines[..];
        let mut scales = &mut self.scales[..];
        let mut sums = &mut self.sums[..];
        let mut totals = &mut self.totals[..];
        let pieces = (0..groups)
            .flat_map(move |group| (0..columns).step_by(COLUMNS).map(move |c| (group, c)));
        pieces.map(move |(group, column)| {
            let count = COLUMNS.min(columns - column);
            let blocks = ..count / block;
            Group {
                offset,
                token: group * TOKENS,
                column,
                lines: lines.split_off_mut(..count / 4).unwrap_or_default(),
                scales: scales.split_off_mut(blocks).unwrap_or_default(),
                sums: sums.split_off_mut(blocks).unwrap_or_default(),
                totals: totals.split_off_mut(blocks).unwrap_or_default(),
            }
        })
    }

    /// Some columns of a group, which are whole blocks.
    pub fn group(&self, group: usize, columns: &Range<usize>) -> TilesOfGroup<'_> {
        let part = |each: usize| {
            let all = self.columns / each;
            group * all + columns.start / each..group * all + columns.end / each
        };
        let blocks = part(self.block.max(1));
        let mut some = TilesOfGroup {
            lines: &self.lines[part(4)],
            scales: &self.scales[blocks.clone()],
            ..TilesOfGroup::default()
        };
        match self.block {
            256 => some.sums = &self.sums[blocks],
            32 => some.totals = &self.totals[blocks],
            _ => {}
        }
        some
    }
}

impl Group<'_> {
    /// Takes its part of all rows of `columns`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn take(
        &mut self,
        columns: usize,
        block: usize,
        quants: &[i8],
        scales: &[f32],
        sums: &[i16],
    ) {
        let all = quants.len().checked_div(columns).unwrap_or(0);
        let tokens = all.saturating_sub(self.token).min(TOKENS);
        let offset = _mm512_set1_epi8(self.offset as i8);
        for (n, lines) in self.lines.chunks_mut(16).enumerate() {
            let count = 4 * lines.len();
            let mask = u64::MAX >> (64 - count);
            let mut rows = [_mm512_setzero_ps(); TOKENS];
            for (token, to) in rows[..tokens].iter_mut().enumerate() {
                let start = (self.token + token) * columns + self.column + 64 * n;
                let row = &quants[start..start + count];
                // SAFETY: the mask has as many elements as the slice.
                let row = unsafe { _mm512_maskz_loadu_epi8(mask, row.as_ptr()) };
                *to = _mm512_castsi512_ps(_mm512_add_epi8(row, offset));
            }
            for (line, column) in lines.iter_mut().zip(transposed(rows)) {
                // SAFETY: a line has 64 bytes.
                unsafe { _mm512_storeu_ps(line.0.as_mut_ptr().cast(), column) };
            }
        }
        // Each lane of a line is a token: nothing has to be added across.
        let one = _mm512_set1_epi8(1);
        for (to, lines) in self.totals.iter_mut().zip(self.lines.as_chunks::<8>().0) {
            let mut total = _mm512_setzero_si512();
            for line in lines {
                // SAFETY: a line has 64 bytes, and is aligned to as many.
                let line = unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
                total = _mm512_dpbusd_epi32(total, one, _mm512_sub_epi8(line, offset));
            }
            // SAFETY: sixteen floats may be written.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), _mm512_cvtepi32_ps(total)) };
        }
        let (blocks, first) = (columns / block, self.column / block);
        for token in 0..TOKENS {
            let row = (self.token + token) * blocks + first;
            for (n, to) in self.scales.iter_mut().enumerate() {
                to[token] = if token < tokens { scales[row + n] } else { 0.0 };
            }
            for (n, to) in self.sums.iter_mut().enumerate() {
                let at = (row + n) * (block / SUM);
                for (pair, to) in to.iter_mut().enumerate() {
                    to[token] = match token < tokens {
                        true => {
                            let four = &sums[at + 4 * pair..at + 4 * pair + 4];
                            let [a, b] = [four[0] + four[1], four[2] + four[3]];
                            u32::from(a as u16) | u32::from(b as u16) << 16
                        }
                        false => 0,
                    };
                }
            }
        }
    }
}
