//! What low-rank adapters add to products, each token with an adapter of its own.
//!
//! The product with the base's weights is made once for all tokens of a batch. What is here goes
//! on top: tokens are gathered into segments by adapter, and a segment's tokens meet the two
//! small matrices of their adapter one after the other (SGMV: Punica, arXiv 2310.18547, section
//! 4; mixed ranks side by side without padding: S-LoRA, arXiv 2311.03285, section 5). Matrices are
//! read from pages in 16-bit floats, sums are made in 32 bits. An adapter that says how long the rows
//! of the changed matrices are (DoRA) has gains beside them ([`Magnitudes`]).
//!
//! What this module must never do: sum in an order that depends on the batch.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod gains;
mod layout;
mod portable;

use std::ops::Range;

use half::f16;

pub use gains::Magnitudes;
pub use layout::{Factor, LARGEST_RANK, LowRankLayout, LowRankShape, PairPlaces, RowPlaces};

use crate::isa::Isa;
use crate::pages::PageMemory;
use crate::team::Team;
use crate::{ShapeError, expect_below, expect_len};

/// Rows of `A` that are gone through side by side.
const ROWS: usize = 4;

/// Rows of `Bᵀ` that are added at a time, so that a result is loaded and stored once for them.
const ADDED_ROWS: usize = 16;

/// Tokens that share what is loaded of those rows.
const TOGETHER: usize = 4;

/// Rows of `A` that a member of the team takes at a time, where there is enough for everybody.
const TAKEN_ROWS: usize = 16;

/// Columns of `B` that a member of the team takes at a time, where there is enough for everybody.
const TAKEN_COLUMNS: usize = 1024;

/// Columns that it takes at the least.
const FEWEST_COLUMNS: usize = 128;

/// Pieces for each member that make the last ones short enough not to be waited for.
const PIECES_EACH: usize = 4;

/// Tokens that a member of the team takes at a time.
const TAKEN_TOKENS: usize = 32;

/// The tokens of a batch that have adapters, adapter by adapter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segments {
    /// Tokens of the batch.
    batch: usize,
    /// Segment after segment; no token is there twice.
    tokens: Vec<u32>,
    /// Where each segment ends in `tokens`.
    ends: Vec<usize>,
}

impl Segments {
    /// The segments of a batch of so many tokens, each the places of its tokens in the batch.
    ///
    /// # Errors
    /// When a token is none of the batch's or is in two places.
    pub fn new<I>(batch: usize, segments: impl IntoIterator<Item = I>) -> Result<Self, ShapeError>
    where
        I: IntoIterator<Item = usize>,
    {
        let mut taken = vec![false; batch];
        let mut all = Self {
            batch,
            ..Self::default()
        };
        for segment in segments {
            for token in segment {
                expect_below("adapters", "the batch", token, batch)?;
                let twice = std::mem::replace(&mut taken[token], true);
                expect_len(
                    "adapters",
                    "the places of a token",
                    1 + usize::from(twice),
                    Some(1),
                )?;
                // A batch has far fewer than `u32::MAX` tokens: its rows are in memory.
                all.tokens.push(token as u32);
            }
            all.ends.push(all.tokens.len());
        }
        Ok(all)
    }

    /// Segments.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no segment.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Tokens of the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The places of each segment's tokens in the batch.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> {
        (0..self.len()).map(|segment| &self.tokens[self.range(segment)])
    }

    fn range(&self, segment: usize) -> Range<usize> {
        let start = segment.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[segment]
    }
}

/// A pair of an adapter's matrices, as they lie in a pool.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// Where the adapter's rows lie in its pages.
    pub layout: &'a LowRankLayout,
    /// The adapter's pages.
    pub pages: &'a [u32],
    /// Which of its pairs.
    pub pair: usize,
    /// What the product is multiplied with.
    pub scale: f32,
}

/// A product that adapters change.
#[derive(Debug)]
pub struct Target<'a, 'o> {
    /// `[tokens, outputs]`: the base's product.
    pub out: &'o mut [f32],
    /// What each segment adds.
    pub changes: &'a [Option<LowRank<'a>>],
}

/// `out += scale · input · Aᵀ · Bᵀ` for each token of each segment and each target: what several
/// products with one input `[tokens, columns]` get from their adapters. Where a pair has gains, `out`
/// goes through them then ([`Magnitudes`]). `between` is a buffer that is used again from call to
/// call.
///
/// # Errors
/// When lengths do not fit together or pages are not in the pool. Nothing has been added then.
pub fn add_low_rank(
    isa: Isa,
    team: &Team,
    memory: &PageMemory,
    segments: &Segments,
    input: &[f32],
    targets: &mut [Target<'_, '_>],
    between: &mut Vec<f32>,
) -> Result<(), ShapeError> {
    let isa = isa.or_portable();
    let mut plan = Plan::new(memory, segments, input, targets)?;
    if plan.changes.is_empty() {
        return Ok(());
    }
    between.resize(plan.between, 0.0);
    let between = &Shared(between.as_mut_ptr());
    let outputs: Vec<_> = targets
        .iter_mut()
        .map(|target| Shared(target.out.as_mut_ptr()))
        .collect();
    let outputs = &outputs;
    if plan.cut_by_tokens(team.threads()) {
        team.share_runs(plan.shrinks.len(), |piece, _| {
            let (shrink, expand) = (&plan.shrinks[piece], &plan.expands[piece]);
            plan.shrink(isa, shrink, between);
            plan.expand(isa, expand, between, outputs);
        });
        return Ok(());
    }
    plan.cut(team.threads());
    team.share(plan.shrinks.len(), 1, |range| {
        for piece in &plan.shrinks[range] {
            plan.shrink(isa, piece, between);
        }
    });
    team.share(plan.expands.len(), 1, |range| {
        for piece in &plan.expands[range] {
            plan.expand(isa, piece, between, outputs);
        }
    });
    Ok(())
}

/// Where results go. Members write different elements.
struct Shared(*mut f32);

// SAFETY: every piece of a round writes elements of its own, and nobody reads what another piece
// wrote before its round has ended: see `Plan::shrink` and `Plan::expand`.
unsafe impl Sync for Shared {}

/// One pair for one segment.
struct Change<'a> {
    target: usize,
    segment: usize,
    /// Its tokens' places in the batch.
    tokens: &'a [u32],
    pages: &'a [u32],
    scale: f32,
    shape: LowRankShape,
    rows: [&'a RowPlaces; 2],
    gains: Option<&'a RowPlaces>,
    /// Where its `[tokens, rank]` begin between the two products.
    between: usize,
}

/// A part of a change that one member of the team makes.
struct Piece {
    change: usize,
    /// Of the change's tokens.
    tokens: Range<usize>,
    /// Rows of `A`, or columns of `B`.
    part: Range<usize>,
}

/// All changes of a call, checked.
struct Plan<'a> {
    memory: &'a PageMemory,
    input: &'a [f32],
    columns: usize,
    changes: Vec<Change<'a>>,
    shrinks: Vec<Piece>,
    expands: Vec<Piece>,
    /// Floats between the two products.
    between: usize,
}

impl<'a> Plan<'a> {
    fn new(
        memory: &'a PageMemory,
        segments: &'a Segments,
        input: &'a [f32],
        targets: &[Target<'a, '_>],
    ) -> Result<Self, ShapeError> {
        let batch = segments.batch;
        let columns = input.len().checked_div(batch).unwrap_or(0);
        expect_len(
            "adapters",
            "the input",
            input.len(),
            batch.checked_mul(columns),
        )?;
        let mut plan = Self {
            memory,
            input,
            columns,
            changes: Vec::with_capacity(targets.len() * segments.len()),
            shrinks: Vec::new(),
            expands: Vec::new(),
            between: 0,
        };
        for (target, to) in targets.iter().enumerate() {
            let changes = to.changes.len();
            expect_len("adapters", "the changes", changes, Some(segments.len()))?;
            for (segment, change) in to.changes.iter().enumerate() {
                let Some(change) = change else {
                    continue;
                };
                let PairPlaces { shape, a, b, gains } =
                    change.layout.rows(change.pair, memory, change.pages)?;
                expect_len(
                    "adapters",
                    "a row of the input",
                    columns,
                    Some(shape.inputs),
                )?;
                let want = batch.checked_mul(shape.outputs);
                expect_len("adapters", "the output", to.out.len(), want)?;
                let tokens = &segments.tokens[segments.range(segment)];
                plan.add(Change {
                    target,
                    segment,
                    tokens,
                    pages: change.pages,
                    scale: change.scale,
                    shape,
                    rows: [a, b],
                    gains,
                    between: plan.between,
                });
            }
        }
        Ok(plan)
    }

    fn add(&mut self, change: Change<'a>) {
        self.between += change.tokens.len() * change.shape.rank;
        self.changes.push(change);
    }

    /// Cuts the work so that whoever makes the first product of some tokens goes on with the
    /// second: nobody waits in between. False, and nothing is cut, where there are too few tokens
    /// for each of so many members to have as much to do. How it is cut changes no sum.
    fn cut_by_tokens(&mut self, members: usize) -> bool {
        // Changes of one segment have the same tokens.
        let mut counts: Vec<(usize, usize)> = self
            .changes
            .iter()
            .map(|change| (change.segment, change.tokens.len()))
            .collect();
        counts.sort_unstable();
        counts.dedup();
        let groups =
            |size: usize| -> usize { counts.iter().map(|(_, all)| all.div_ceil(size)).sum() };
        let mut size = TAKEN_TOKENS;
        while size > TOGETHER && groups(size) < members * PIECES_EACH {
            size /= 2;
        }
        let groups = groups(size);
        let even = groups.is_multiple_of(members) || groups >= members * PIECES_EACH;
        if groups < members || !even {
            return false;
        }
        let mut all: Vec<Piece> = Vec::new();
        for (number, change) in self.changes.iter().enumerate() {
            let tokens = pieces(change.tokens.len(), size);
            all.extend(tokens.map(|tokens| Piece {
                change: number,
                tokens,
                part: 0..change.shape.rank,
            }));
        }
        // Those of the same tokens lie side by side, so that the same member has them.
        all.sort_by_key(|piece| {
            let change = &self.changes[piece.change];
            (change.segment, piece.tokens.start, change.target)
        });
        self.expands = all
            .iter()
            .map(|piece| Piece {
                change: piece.change,
                tokens: piece.tokens.clone(),
                part: 0..self.changes[piece.change].shape.outputs,
            })
            .collect();
        self.shrinks = all;
        true
    }

    /// Shares out the work to so many members, in two rounds. How it is cut changes no sum.
    fn cut(&mut self, members: usize) {
        let enough = if members > 1 {
            members * PIECES_EACH
        } else {
            1
        };
        let (mut rows, mut columns) = (TAKEN_ROWS, TAKEN_COLUMNS);
        while rows > ROWS && self.count(|shape| shape.rank.div_ceil(rows)) < enough {
            rows /= 2;
        }
        while columns > FEWEST_COLUMNS
            && self.count(|shape| shape.outputs.div_ceil(columns)) < enough
        {
            columns /= 2;
        }
        for (number, change) in self.changes.iter().enumerate() {
            let LowRankShape { outputs, rank, .. } = change.shape;
            for tokens in pieces(change.tokens.len(), TAKEN_TOKENS) {
                for (all, size, to) in [
                    (rank, rows, &mut self.shrinks),
                    (outputs, columns, &mut self.expands),
                ] {
                    to.extend(pieces(all, size).map(|part| Piece {
                        change: number,
                        tokens: tokens.clone(),
                        part,
                    }));
                }
            }
        }
    }

    /// How many pieces there are when a change is cut into so many.
    fn count(&self, each: impl Fn(LowRankShape) -> usize) -> usize {
        let tokens = |change: &Change<'_>| change.tokens.len().div_ceil(TAKEN_TOKENS);
        let changes = self.changes.iter();
        changes
            .map(|change| tokens(change) * each(change.shape))
            .sum()
    }

    /// `between[token, row] = scale · input[token] · A[row]`.
    fn shrink(&self, isa: Isa, piece: &Piece, out: &Shared) {
        let change = &self.changes[piece.change];
        let rank = change.shape.rank;
        for start in piece.part.clone().step_by(ROWS) {
            let count = (piece.part.end - start).min(ROWS);
            let rows: [&[f16]; ROWS] =
                std::array::from_fn(|n| self.row(change, Factor::A, start + n.min(count - 1)));
            for token in piece.tokens.clone().step_by(TOGETHER) {
                let together = (piece.tokens.end - token).min(TOGETHER);
                let mut inputs: [&[f32]; TOGETHER] = [&[]; TOGETHER];
                for (n, input) in inputs[..together].iter_mut().enumerate() {
                    let token = change.tokens[token + n] as usize;
                    *input = &self.input[token * self.columns..(token + 1) * self.columns];
                }
                let sums = products(isa, rows, &inputs[..together]);
                for (row, sums) in sums[..count].iter().enumerate() {
                    for (n, sum) in sums[..together].iter().enumerate() {
                        let at = change.between + (token + n) * rank + start + row;
                        // SAFETY: `token + n` is one of the change's tokens and `start + row`
                        // below its rank, and the buffer has room for all changes' tokens times
                        // their ranks. No other piece has this token and row of this change.
                        unsafe { *out.0.add(at) = sum * change.scale };
                    }
                }
            }
        }
    }

    /// `out[token, columns] += between[token] · Bᵀ[.., columns]`, and through the gains.
    fn expand(&self, isa: Isa, piece: &Piece, between: &Shared, outputs: &[Shared]) {
        let change = &self.changes[piece.change];
        let LowRankShape {
            outputs: width,
            rank,
            ..
        } = change.shape;
        let out = &outputs[change.target];
        for start in (0..rank).step_by(ADDED_ROWS) {
            let count = (rank - start).min(ADDED_ROWS);
            let rows: [&[f16]; ADDED_ROWS] = std::array::from_fn(|n| {
                &self.row(change, Factor::B, start + n.min(count - 1))[piece.part.clone()]
            });
            for token in piece.tokens.clone().step_by(TOGETHER) {
                let together = (piece.tokens.end - token).min(TOGETHER);
                let mut factors: [&[f32]; TOGETHER] = [&[]; TOGETHER];
                let mut outs: [&mut [f32]; TOGETHER] = Default::default();
                for n in 0..together {
                    let at = change.between + (token + n) * rank + start;
                    // SAFETY: the buffer has room for these, which `shrink` has written: this
                    // member itself, or any in the round before. Nobody writes them now.
                    factors[n] = unsafe { std::slice::from_raw_parts(between.0.add(at), count) };
                    let place = change.tokens[token + n] as usize;
                    // SAFETY: the output has been checked to have rows of `width` elements for
                    // every token of the batch, and `part` lies within `width`. Segments share no
                    // tokens and a segment has one change a target, so no other piece has these
                    // elements.
                    outs[n] = unsafe {
                        let at = out.0.add(place * width + piece.part.start);
                        std::slice::from_raw_parts_mut(at, piece.part.len())
                    };
                }
                let rows = &rows[..count];
                add_rows(isa, rows, &factors[..together], &mut outs[..together]);
            }
        }
        if let Some(places) = change.gains {
            let [factors, added] = [0, 1].map(|row| {
                let row: &[f32] = bytemuck::cast_slice(places.bytes(
                    self.memory,
                    change.pages,
                    row,
                    size_of::<f32>(),
                ));
                &row[piece.part.clone()]
            });
            for token in piece.tokens.clone() {
                let place = change.tokens[token] as usize;
                // SAFETY: as above, and what was added has been.
                let out = unsafe {
                    let at = out.0.add(place * width + piece.part.start);
                    std::slice::from_raw_parts_mut(at, piece.part.len())
                };
                gains::apply(factors, added, out);
            }
        }
    }

    /// A row of a change's matrices, which has been checked to be there.
    fn row(&self, change: &Change<'a>, factor: Factor, row: usize) -> &'a [f16] {
        let rows = match factor {
            Factor::A => change.rows[0],
            Factor::B => change.rows[1],
        };
        bytemuck::cast_slice(rows.bytes(self.memory, change.pages, row, size_of::<f16>()))
    }
}

/// The product of each row with each input, of which there are at most [`TOGETHER`].
fn products(isa: Isa, rows: [&[f16]; ROWS], inputs: &[&[f32]]) -> [[f32; TOGETHER]; ROWS] {
    let mut all = [[0.0; TOGETHER]; ROWS];
    /// With a known number of inputs.
    fn known<const T: usize>(
        isa: Isa,
        rows: [&[f16]; ROWS],
        inputs: [&[f32]; T],
        all: &mut [[f32; TOGETHER]; ROWS],
    ) {
        let sums = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                // SAFETY: the machine has these instructions, which the caller checked.
                unsafe { avx2::products(rows, inputs) }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => {
                // SAFETY: as above.
                unsafe { avx512::products(rows, inputs) }
            }
            _ => portable::products(rows, inputs),
        };
        for (all, sums) in all.iter_mut().zip(sums) {
            all[..T].copy_from_slice(&sums);
        }
    }
    match inputs {
        [a, b, c, d] => known(isa, rows, [a, b, c, d], &mut all),
        [a, b, c] => known(isa, rows, [a, b, c], &mut all),
        [a, b] => known(isa, rows, [a, b], &mut all),
        [a] => known(isa, rows, [a], &mut all),
        _ => {}
    }
    all
}

/// `outs[t] += Σ factors[t][n] · rows[n]`, of at most [`ADDED_ROWS`] rows and [`TOGETHER`] outputs.
fn add_rows(isa: Isa, rows: &[&[f16]], factors: &[&[f32]], outs: &mut [&mut [f32]]) {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 {
        // SAFETY: the machine has these instructions, which the caller checked.
        unsafe {
            match (factors, outs) {
                ([a, b, c, d], [e, f, g, h]) => {
                    avx512::add_rows(rows, [a, b, c, d], [e, f, g, h]);
                }
                (factors, outs) => {
                    for (factors, out) in factors.iter().zip(outs) {
                        avx512::add_rows(rows, [factors], [out]);
                    }
                }
            }
        }
        return;
    }
    for (factors, out) in factors.iter().zip(outs) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                // SAFETY: the machine has these instructions, which the caller checked.
                unsafe { avx2::add_rows(rows, factors, out) }
            }
            _ => portable::add_rows(rows, factors, out),
        }
    }
}

/// `0..all` in pieces of at most `size`.
fn pieces(all: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..all)
        .step_by(size)
        .map(move |start| start..all.min(start + size))
}

#[cfg(test)]
mod tests;
