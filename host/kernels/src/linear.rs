//! Products of activations with packed weights.
//!
//! A weight matrix stays in its packed form; a kernel takes a row's block apart in registers, or
//! a few rows in a buffer that stays in the first cache, uses it for some tokens, and goes on. Rows
//! are shared out among the team, tokens are taken in groups whose activations stay in a cache.
//!
//! What this module must never do: sum in an order that depends on the batch.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod pieces;
mod portable;

#[cfg(target_arch = "x86_64")]
use avx512::{floats, many};
use skep_weights::grouped::GroupRow;
use skep_weights::{GroupInt4, PackedFormat};

use crate::activations::{Activations, Precision};
use crate::isa::Isa;
use crate::team::Team;
use crate::{ShapeError, expect_len};

/// Tokens that a block of weights is taken apart for at a time.
const TILE: usize = 4;

/// Rows that a member of the team takes at a time: some kernels have them side by side.
const PANEL: usize = 16;

/// Tokens that take so little time that waiting for memory shows.
const FEW: usize = 16;

/// Bytes of weights that a member asks for while it waits for an input.
const AHEAD: usize = 64 << 10;

/// Bytes of activations that stay in the first cache beside a few rows of weights.
const CACHED: usize = 16 << 10;

/// The fewest tokens that tiles are used for, where there are tiles.
#[cfg(target_arch = "x86_64")]
pub(crate) const FEWEST_FOR_TILES: usize = amx::FEWEST;

/// A matrix of packed weights: `rows` output features of `columns` input features.
#[derive(Debug, Clone, Copy)]
pub struct PackedMatrix<'a> {
    format: PackedFormat,
    rows: usize,
    columns: usize,
    bytes: &'a [u8],
}

impl<'a> PackedMatrix<'a> {
    /// The matrix in these bytes, rows one after the other.
    ///
    /// # Errors
    /// When a row is no whole number of blocks or the bytes are not those of so many rows.
    pub fn new(
        format: PackedFormat,
        rows: usize,
        columns: usize,
        bytes: &'a [u8],
    ) -> Result<Self, ShapeError> {
        let block = format.block_len();
        expect_len("weights", "a row", columns, Some(columns / block * block))?;
        let want = (columns / block)
            .checked_mul(format.block_bytes())
            .and_then(|row| row.checked_mul(rows));
        expect_len("weights", "the matrix", bytes.len(), want)?;
        Ok(Self {
            format,
            rows,
            columns,
            bytes,
        })
    }

    /// How the weights are packed.
    pub fn format(&self) -> PackedFormat {
        self.format
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The weights as they are packed, row after row.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// What the input has to be rounded to.
    pub fn precision(&self) -> Precision {
        Precision::of(self.format)
    }

    fn row_bytes(&self) -> usize {
        self.columns / self.format.block_len() * self.format.block_bytes()
    }

    fn row(&self, row: usize) -> &'a [u8] {
        let length = self.row_bytes();
        &self.bytes[row * length..(row + 1) * length]
    }
}

/// A matrix that activations are multiplied with.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    /// Rows of blocks.
    Packed(PackedMatrix<'a>),
    /// 4-bit groups with zero-points. Its columns are in an order of their own, which the input
    /// has to be in too: see [`Activations::fill_in_order`].
    Grouped(&'a GroupInt4),
}

impl<'a> From<PackedMatrix<'a>> for Weights<'a> {
    fn from(weights: PackedMatrix<'a>) -> Self {
        Weights::Packed(weights)
    }
}

impl<'a> From<&'a GroupInt4> for Weights<'a> {
    fn from(weights: &'a GroupInt4) -> Self {
        Weights::Grouped(weights)
    }
}

impl Weights<'_> {
    /// Output features.
    pub fn rows(&self) -> usize {
        match self {
            Weights::Packed(weights) => weights.rows,
            Weights::Grouped(weights) => weights.rows(),
        }
    }

    /// Input features.
    pub fn columns(&self) -> usize {
        match self {
            Weights::Packed(weights) => weights.columns,
            Weights::Grouped(weights) => weights.columns(),
        }
    }

    /// What the input has to be rounded to.
    pub fn precision(&self) -> Precision {
        match self {
            Weights::Packed(weights) => weights.precision(),
            Weights::Grouped(_) => Precision::Int8By32,
        }
    }

    /// Which element of the input each column takes, where that is not the one in its place.
    pub fn order(&self) -> Option<&[u32]> {
        match self {
            Weights::Packed(_) => None,
            Weights::Grouped(weights) => weights.permutation(),
        }
    }

    /// Where a row lies in memory, for whoever wants to have it at hand.
    fn address(&self, row: usize) -> *const u8 {
        match self {
            Weights::Packed(weights) => weights.row(row).as_ptr(),
            Weights::Grouped(weights) => match weights.row(row) {
                Some(row) => row.quants.as_ptr(),
                None => std::ptr::null(),
            },
        }
    }
}

/// One product of several with the same input.
#[derive(Debug)]
pub struct Product<'w, 'o> {
    /// The weights.
    pub weights: Weights<'w>,
    /// `[tokens, rows]`.
    pub out: &'o mut [f32],
}

/// `out[tokens, rows] = input[tokens, columns] · weightsᵀ`.
///
/// # Errors
/// When lengths do not fit together, or the input is not rounded as the weights need it.
pub fn linear<'w>(
    isa: Isa,
    team: &Team,
    weights: impl Into<Weights<'w>>,
    input: &Activations,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    let weights = weights.into();
    linear_many(isa, team, &mut [Product { weights, out }], input, &[])
}

/// Several products with one input, shared out among the team together: what a layer has side by
/// side costs one round and not several. `next` is what will be multiplied with after that: where
/// members wait for the next input, they ask for their part of it.
///
/// # Errors
/// As [`linear`].
pub fn linear_many(
    isa: Isa,
    team: &Team,
    products: &mut [Product<'_, '_>],
    input: &Activations,
    next: &[Weights<'_>],
) -> Result<(), ShapeError> {
    let mut pieces = Vec::new();
    let mut outputs = Vec::with_capacity(products.len());
    for (number, product) in products.iter_mut().enumerate() {
        let weights = &product.weights;
        expect_len(
            "linear",
            "a row of the input",
            input.columns,
            Some(weights.columns()),
        )?;
        if input.precision != Some(weights.precision()) {
            return Err(ShapeError {
                operator: "linear",
                what: "a block of the input",
                got: input.precision.map_or(0, Precision::block_len),
                want: weights.precision().block_len(),
            });
        }
        if input.precision == Some(Precision::F32) && !(input.are_rounded() && isa.rounds_floats())
        {
            let want = input.tokens.checked_mul(input.columns);
            expect_len(
                "linear",
                "the floats of the input",
                input.values.len(),
                want,
            )?;
        }
        let want = input.tokens.checked_mul(weights.rows());
        expect_len("linear", "the output", product.out.len(), want)?;
        for start in (0..weights.rows()).step_by(PANEL) {
            pieces.push((number, start..weights.rows().min(start + PANEL)));
        }
        outputs.push(Output(product.out.as_mut_ptr()));
    }
    let isa = isa.or_portable();
    if input.tokens <= FEW {
        ask_ahead(team, next);
    }
    let outputs = &outputs;
    let products = &*products;
    team.share_runs(pieces.len(), |piece, next| {
        let (number, rows) = &pieces[piece];
        let (next, first) = &pieces[next.unwrap_or(piece)];
        let ahead = products[*next].weights.address(first.start);
        let weights = &products[*number].weights;
        rows_of(isa, weights, input, rows.clone(), ahead, &outputs[*number]);
    });
    Ok(())
}

/// Lets each member ask for the first rows that it will take of these weights.
fn ask_ahead(team: &Team, weights: &[Weights<'_>]) {
    let panels = |weights: &Weights<'_>| weights.rows().div_ceil(PANEL);
    let all: usize = weights.iter().map(panels).sum();
    for member in 0..team.threads() {
        let mut first = team.run_start(all, member);
        for weights in weights {
            if first < panels(weights) {
                team.ask_ahead(member, weights.address(first * PANEL), AHEAD);
                break;
            }
            first -= panels(weights);
        }
    }
}

/// Where a product's results go. Members write different elements.
pub(crate) struct Output(*mut f32);

// SAFETY: members of a team write elements of different rows, and nobody reads before all have
// finished.
unsafe impl Sync for Output {}

/// Results of some rows, [`PANEL`] at most, for all tokens. Kernels that can ask for memory ahead
/// of need do so from `ahead` on.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(
        unused_variables,
        reason = "kernels of other processors do not ask ahead"
    )
)]
fn rows_of(
    isa: Isa,
    weights: &Weights<'_>,
    input: &Activations,
    rows: std::ops::Range<usize>,
    ahead: *const u8,
    out: &Output,
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx if input.tiles.are_by(0) && pieces::takes(weights) => {
            let piece = pieces::Piece {
                weights,
                rows,
                ahead,
                input,
                out,
            };
            // SAFETY: the process may use tiles, or the caller would have chosen other
            // instructions; the caller has checked the rest, and the input has its tiles.
            unsafe { amx::multiply(&piece) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if input.tiles.are_by(many::OFFSET as u8) && pieces::takes(weights) => {
            let piece = pieces::Piece {
                weights,
                rows,
                ahead,
                input,
                out,
            };
            // SAFETY: the machine has these instructions, as above; the caller has checked the
            // rest, and the input lies so.
            unsafe { many::multiply(&piece) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx if input.groups.are_filled() && floats::many::takes(weights) => {
            let piece = floats::many::Piece {
                weights,
                rows,
                ahead,
                input,
                out,
            };
            // SAFETY: the machine has these instructions, as above; the caller has checked the
            // rest, and the input lies so: it has been filled last for weights of floats.
            unsafe { piece.multiply() }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => {
            for token in (0..input.tokens).step_by(avx512::TOKENS) {
                let mut sums = [[0.0; PANEL]; avx512::TOKENS];
                let count = (input.tokens - token).min(avx512::TOKENS);
                let sums = &mut sums[..count];
                // SAFETY: the machine has these instructions, as above.
                unsafe { avx512::products(weights, rows.clone(), ahead, input, token, sums) };
                for (n, sums) in sums.iter().enumerate() {
                    let at = (token + n) * weights.rows() + rows.start;
                    // SAFETY: `token + n < tokens` and these are at most `PANEL` rows of the
                    // weights; the output has been checked to have an element for each of both.
                    unsafe {
                        let to = out.0.add(at);
                        to.copy_from_nonoverlapping(sums.as_ptr(), rows.len());
                    }
                }
            }
        }
        _ => one_by_one(isa, weights, input, rows, out),
    }
}

/// As [`rows_of`], for kernels that take one row at a time.
fn one_by_one(
    isa: Isa,
    weights: &Weights<'_>,
    input: &Activations,
    rows: std::ops::Range<usize>,
    out: &Output,
) {
    let group = (CACHED / input.columns.max(1)).max(TILE);
    let width = weights.rows();
    let mut first = 0;
    while first < input.tokens {
        let end = input.tokens.min(first + group);
        for row in rows.clone() {
            let Some(packed) = Row::of(weights, row) else {
                continue;
            };
            let mut token = first;
            while token < end {
                let count = (end - token).min(TILE);
                let mut sums = [0.0; TILE];
                dot(isa, &packed, input, token, &mut sums[..count]);
                for (n, sum) in sums[..count].iter().enumerate() {
                    // SAFETY: `token + n < tokens` and `row < width`, and the output has been
                    // checked to have `tokens * width` elements.
                    unsafe { *out.0.add((token + n) * width + row) = *sum };
                }
                token += count;
            }
        }
        first = end;
    }
}

/// A row of weights, packed.
enum Row<'a> {
    Packed(PackedFormat, &'a [u8]),
    /// With the columns of a group.
    Grouped(GroupRow<'a>, usize),
}

impl<'a> Row<'a> {
    /// None where there is no such row.
    fn of(weights: &Weights<'a>, row: usize) -> Option<Self> {
        match weights {
            Weights::Packed(weights) => Some(Row::Packed(weights.format, weights.row(row))),
            Weights::Grouped(weights) => {
                let row = weights.row(row)?;
                Some(Row::Grouped(row, weights.group()))
            }
        }
    }
}

/// The products of one row with some tokens from `token` on, as many as `sums` has.
fn dot(isa: Isa, row: &Row<'_>, input: &Activations, token: usize, sums: &mut [f32]) {
    match (isa, row) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Row::Packed(format, row)) => {
            // SAFETY: the machine has these instructions, or the caller would have chosen others.
            unsafe { avx2::dot(*format, row, input, token, sums) }
        }
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Row::Grouped(row, group)) => {
            // SAFETY: as above.
            unsafe { avx2::dot_groups(row, *group, input, token, sums) }
        }
        #[cfg(target_arch = "aarch64")]
        (Isa::Neon, Row::Packed(format, row)) => {
            // SAFETY: as above.
            unsafe { neon::dot(*format, row, input, token, sums) }
        }
        (_, Row::Packed(format, row)) => {
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = portable::dot(*format, row, input, token + n);
            }
        }
        (_, Row::Grouped(row, group)) => {
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = portable::dot_groups(row, *group, input, token + n);
            }
        }
    }
}

#[cfg(test)]
mod tests;
