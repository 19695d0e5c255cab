//! Activations as they are, in the order in which products of many tokens with float weights take
//! them.
//!
//! Rows of activations are thousands of bytes apart, often a power of two of them, and then all
//! compete for the same few lines of a cache. Here a few tokens make a group, whose columns lie side
//! by side: sixteen of each of its tokens, then the next sixteen. After a few hundred columns follow
//! those of the next group; and the next columns of the first group after those of the last. So who
//! goes through all groups a few hundred columns at a time, reads memory from beginning to end.
//!
//! Rounded to bfloat16, they lie the same way, twice as many columns in as much room.

use std::arch::x86_64::*;
use std::ops::Range;

use crate::team::Team;

/// Columns that a register holds as they are.
const WHOLE: usize = 16;

/// Columns that a register holds once they are rounded.
const ROUNDED: usize = 32;

/// What a register holds: sixteen columns of a row, or the bits of 32 that are rounded.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Lanes(pub [f32; WHOLE]);

impl Lanes {
    /// Sixteen columns and the next sixteen, rounded to bfloat16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn rounded(first: __m512, second: __m512) -> Self {
        let mut lanes = Lanes([0.0; WHOLE]);
        // SAFETY: both types are 512 bits of which any are allowed, and as many are written to as
        // there are.
        unsafe {
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(lanes.0.as_mut_ptr().cast(), both);
        }
        lanes
    }
}

/// Rows of activations, by groups of tokens.
#[derive(Debug, Default)]
pub struct FloatGroups {
    tokens: usize,
    columns: usize,
    /// Columns that a register holds.
    width: usize,
    /// `[blocks, groups, registers of the block, tokens of the group]`; where a row is no whole
    /// number of registers, zeros follow.
    lanes: Vec<Lanes>,
}

impl FloatGroups {
    /// The most tokens of a group. Groups are as equal as can be, so from eight tokens on none has
    /// fewer than four.
    pub const TOKENS: usize = 6;

    /// Registers of a row that are a block, but the last may have fewer.
    pub const STEPS: usize = 32;

    /// Takes so many rows, `[tokens, columns]`, as they are. The team shares them out.
    pub fn fill(&mut self, team: &Team, tokens: usize, columns: usize, values: &[f32]) {
        self.fill_by(WHOLE, team, (tokens, columns), |part| {
            part.take(columns, values, |some| Lanes(*some));
        });
    }

    /// As [`FloatGroups::fill`], rounded to bfloat16.
    ///
    /// # Safety
    /// The machine has AVX-512 with bfloat16.
    pub unsafe fn fill_rounded(
        &mut self,
        team: &Team,
        tokens: usize,
        columns: usize,
        values: &[f32],
    ) {
        self.fill_by(ROUNDED, team, (tokens, columns), |part| {
            // SAFETY: the caller's promise.
            unsafe { part.round(columns, values) };
        });
    }

    fn fill_by(
        &mut self,
        width: usize,
        team: &Team,
        (tokens, columns): (usize, usize),
        take: impl Fn(&mut Part<'_>) + Sync,
    ) {
        (self.tokens, self.columns, self.width) = (tokens, columns, width);
        let mut all = std::mem::take(&mut self.lanes);
        all.resize(tokens * columns.div_ceil(width), Lanes([0.0; WHOLE]));
        let mut rest = &mut all[..];
        let mut parts = Vec::with_capacity(self.blocks() * self.groups());
        for block in 0..self.blocks() {
            let columns = self.columns(block);
            for group in 0..self.groups() {
                let tokens = self.group(group);
                let count = tokens.len() * columns.len().div_ceil(width);
                parts.push(Part {
                    tokens,
                    columns: columns.clone(),
                    lanes: rest.split_off_mut(..count).unwrap_or_default(),
                });
            }
        }
        team.share_mut(&mut parts, take);
        drop(parts);
        self.lanes = all;
    }

    /// Whether there is something here.
    pub fn are_filled(&self) -> bool {
        !self.lanes.is_empty()
    }

    /// Whether it is rounded to bfloat16.
    pub fn are_rounded(&self) -> bool {
        self.width == ROUNDED
    }

    /// Groups of tokens.
    pub fn groups(&self) -> usize {
        self.tokens.div_ceil(Self::TOKENS)
    }

    /// The tokens of a group, which is one of those that there are.
    pub fn group(&self, number: usize) -> Range<usize> {
        let groups = self.groups();
        self.tokens * number / groups..self.tokens * (number + 1) / groups
    }

    /// Columns of a block, but the last may have fewer.
    pub fn most_columns(&self) -> usize {
        Self::STEPS * self.width.max(WHOLE)
    }

    /// Blocks of columns.
    pub fn blocks(&self) -> usize {
        self.columns.div_ceil(self.most_columns())
    }

    /// The columns of a block.
    pub fn columns(&self, block: usize) -> Range<usize> {
        let start = block * self.most_columns();
        start..self.columns.min(start + self.most_columns())
    }

    /// A block's columns of the tokens of a group: `[registers, tokens]`.
    pub fn part(&self, block: usize, tokens: &Range<usize>) -> &[Lanes] {
        let (columns, width) = (self.columns(block), self.width.max(WHOLE));
        let each = columns.len().div_ceil(width);
        // All blocks before have whole registers only.
        let start = columns.start / width * self.tokens + tokens.start * each;
        &self.lanes[start..start + tokens.len() * each]
    }
}

/// Some columns of a group, to be filled.
struct Part<'a> {
    tokens: Range<usize>,
    columns: Range<usize>,
    lanes: &'a mut [Lanes],
}

impl Part<'_> {
    /// Takes its part of all rows, which have `width` columns, so many at a time.
    #[inline(always)]
    fn take<const N: usize>(
        &mut self,
        width: usize,
        values: &[f32],
        lanes: impl Fn(&[f32; N]) -> Lanes,
    ) {
        let count = self.tokens.len();
        for (n, token) in self.tokens.clone().enumerate() {
            let row = &values[token * width..(token + 1) * width][self.columns.clone()];
            let (whole, rest) = row.as_chunks::<N>();
            let mut steps = self.lanes.chunks_exact_mut(count);
            for (values, step) in whole.iter().zip(&mut steps) {
                step[n] = lanes(values);
            }
            if let Some(step) = steps.next() {
                let mut last = [0.0; N];
                last[..rest.len()].copy_from_slice(rest);
                step[n] = lanes(&last);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn round(&mut self, width: usize, values: &[f32]) {
        self.take::<ROUNDED>(width, values, |some| {
            // SAFETY: there are 32 floats.
            let (first, second) = unsafe {
                let at = some.as_ptr();
                (_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(WHOLE)))
            };
            Lanes::rounded(first, second)
        });
    }
}
