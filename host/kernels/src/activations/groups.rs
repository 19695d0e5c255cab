//! Activations as they are, in the order in which products of many tokens with float weights take
//! them.
//!
//! Rows of activations are thousands of bytes apart, often a power of two of them, and then all
//! compete for the same few lines of a cache. Here a few tokens make a group, whose columns lie side
//! by side: sixteen of each of its tokens, then the next sixteen. After a few hundred columns follow
//! those of the next group; and the next columns of the first group after those of the last. So who
//! goes through all groups a few hundred columns at a time, reads memory from beginning to end.

use std::ops::Range;

use crate::team::Team;

/// Columns that are multiplied at once.
const WIDTH: usize = 16;

/// Sixteen columns of a row: what a register holds.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Lanes(pub [f32; WIDTH]);

/// Rows of activations, by groups of tokens.
#[derive(Debug, Default)]
pub struct FloatGroups {
    tokens: usize,
    columns: usize,
    /// `[blocks, groups, columns of the block / 16, tokens of the group]`; where a row is no whole
    /// number of sixteens, zeros follow.
    lanes: Vec<Lanes>,
}

impl FloatGroups {
    /// The most tokens of a group. Groups are as equal as can be, so from eight tokens on none has
    /// fewer than four.
    pub const TOKENS: usize = 6;

    /// Columns of a block, but the last may have fewer.
    pub const COLUMNS: usize = 256;

    /// Takes so many rows, `[tokens, columns]`. The team shares them out.
    pub fn fill(&mut self, team: &Team, tokens: usize, columns: usize, values: &[f32]) {
        (self.tokens, self.columns) = (tokens, columns);
        let mut all = std::mem::take(&mut self.lanes);
        all.resize(tokens * columns.div_ceil(WIDTH), Lanes([0.0; WIDTH]));
        let mut rest = &mut all[..];
        let mut parts = Vec::with_capacity(self.blocks() * self.groups());
        for block in 0..self.blocks() {
            let columns = self.columns(block);
            for group in 0..self.groups() {
                let tokens = self.group(group);
                let count = tokens.len() * columns.len().div_ceil(WIDTH);
                parts.push(Part {
                    tokens,
                    columns: columns.clone(),
                    lanes: rest.split_off_mut(..count).unwrap_or_default(),
                });
            }
        }
        team.share_mut(&mut parts, |part| part.take(columns, values));
        drop(parts);
        self.lanes = all;
    }

    /// Whether there is something here.
    pub fn are_filled(&self) -> bool {
        !self.lanes.is_empty()
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

    /// Blocks of columns.
    pub fn blocks(&self) -> usize {
        self.columns.div_ceil(Self::COLUMNS)
    }

    /// The columns of a block.
    pub fn columns(&self, block: usize) -> Range<usize> {
        let start = block * Self::COLUMNS;
        start..self.columns.min(start + Self::COLUMNS)
    }

    /// A block's columns of the tokens of a group: `[columns / 16, tokens]`.
    pub fn part(&self, block: usize, tokens: &Range<usize>) -> &[Lanes] {
        let columns = self.columns(block);
        let each = columns.len().div_ceil(WIDTH);
        // All blocks before have whole registers only.
        let start = columns.start / WIDTH * self.tokens + tokens.start * each;
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
    /// Takes its part of all rows, which have `width` columns.
    fn take(&mut self, width: usize, values: &[f32]) {
        let count = self.tokens.len();
        for (n, token) in self.tokens.clone().enumerate() {
            let row = &values[token * width..(token + 1) * width][self.columns.clone()];
            let (whole, rest) = row.as_chunks::<WIDTH>();
            let mut steps = self.lanes.chunks_exact_mut(count);
            for (values, step) in whole.iter().zip(&mut steps) {
                step[n] = Lanes(*values);
            }
            if let Some(step) = steps.next() {
                let mut last = [0.0; WIDTH];
                last[..rest.len()].copy_from_slice(rest);
                step[n] = Lanes(last);
            }
        }
    }
}
