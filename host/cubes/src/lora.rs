//! What low-rank adapters add to products, each token with an adapter of its own.
//!
//! As `skep_kernels::lora`: tokens meet the two small matrices of their adapter one after the
//! other, whatever the ranks of the others (SGMV: Punica, arXiv 2310.18547, section 4). Matrices
//! are read from pages in 16-bit floats, sums are made in 32 bits, and go through the adapter's gains
//! where it has some.

use cubecl::prelude::*;
use skep_kernels::expect_len;
use skep_kernels::lora::{LowRank, PairPlaces, RowPlaces, Segments};

use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;
use crate::numbers::half_to_float;
use crate::packed::halfword_at;
use crate::pages::Pages;

/// Units of a cube.
const UNITS: u32 = 128;

/// A product that adapters change.
#[derive(Debug)]
pub struct Target<'a, 'o> {
    /// `[tokens, outputs]`: the base's product.
    pub out: &'o mut Buffer,
    /// What each segment adds.
    pub changes: &'a [Option<LowRank<'a>>],
}

/// `out += scale · input · Aᵀ · Bᵀ` for each token of each segment and each target: what several
/// products with one input `[tokens, columns]` get from their adapters. Where a pair has gains, `out`
/// goes through them then ([`skep_kernels::lora::Magnitudes`]).
///
/// # Errors
/// When lengths do not fit together, pages are not in the pool, the account has no room, or the
/// device fails.
pub fn add_low_rank(
    gpu: &Gpu,
    pages: &Pages,
    segments: &Segments,
    input: &Buffer,
    targets: &mut [Target<'_, '_>],
) -> Result<(), GpuError> {
    let tokens = segments.batch();
    let columns = input.len().checked_div(tokens).unwrap_or(0);
    let want = tokens.checked_mul(columns);
    expect_len("adapters", "the input", input.len(), want)?;
    for target in targets {
        let Some(plan) = Plan::new(pages, segments, columns, target)? else {
            continue;
        };
        plan.launch(gpu, pages, input, columns, target.out)?;
    }
    Ok(())
}

/// What one product needs, checked.
struct Plan {
    /// For each token with a change: its place in the batch, and where the change's record is.
    entries: Vec<u32>,
    /// Records of changes: rank, scale, the places of the rows of `A` and of `B`, whether there are
    /// gains and the places of their rows, then the adapter's pages.
    changes: Vec<u32>,
    /// The largest rank.
    rank: usize,
    outputs: usize,
}

impl Plan {
    fn new(
        pages: &Pages,
        segments: &Segments,
        columns: usize,
        target: &Target<'_, '_>,
    ) -> Result<Option<Self>, GpuError> {
        let count = target.changes.len();
        expect_len("adapters", "the changes", count, Some(segments.len()))?;
        let mut plan = Self {
            entries: Vec::new(),
            changes: Vec::new(),
            rank: 0,
            outputs: 0,
        };
        for (tokens, change) in segments.iter().zip(target.changes) {
            let Some(change) = change else {
                continue;
            };
            let PairPlaces { shape, a, b, gains } = change.layout.places(
                change.pair,
                pages.page_bytes(),
                pages.pages(),
                change.pages,
            )?;
            expect_len(
                "adapters",
                "a row of the input",
                columns,
                Some(shape.inputs),
            )?;
            let want = segments.batch().checked_mul(shape.outputs);
            expect_len("adapters", "the output", target.out.len(), want)?;
            let at = plan.changes.len() as u32;
            plan.changes
                .extend([shape.rank as u32, change.scale.to_bits()]);
            for rows in [a, b] {
                plan.changes.extend(record(rows));
            }
            plan.changes.push(u32::from(gains.is_some()));
            plan.changes.extend(gains.map_or([0; 5], record));
            plan.changes.extend_from_slice(change.pages);
            plan.entries
                .extend(tokens.iter().flat_map(|token| [*token, at]));
            plan.rank = plan.rank.max(shape.rank);
            plan.outputs = shape.outputs;
        }
        Ok((!plan.entries.is_empty()).then_some(plan))
    }

    fn launch(
        &self,
        gpu: &Gpu,
        pages: &Pages,
        input: &Buffer,
        columns: usize,
        out: &Buffer,
    ) -> Result<(), GpuError> {
        let count = self.entries.len() / 2;
        let entries = gpu.upload_words(&self.entries)?;
        let changes = gpu.upload_words(&self.changes)?;
        let between = gpu.empty(count * self.rank)?;
        let teams = UNITS / gpu.lanes;
        guard("adapters", || {
            // SAFETY: every token is one of the batch, every row of every change lies in a page
            // of the pool, and `between` has a number for each row of each token.
            unsafe {
                shrink::launch_unchecked(
                    gpu.client(),
                    cubes(count * self.rank.div_ceil(teams as usize)),
                    CubeDim::new_2d(gpu.lanes, teams),
                    pages.words().arg(),
                    entries.arg(),
                    changes.arg(),
                    input.arg(),
                    between.arg(),
                    count,
                    columns,
                    self.rank,
                    pages.page_words(),
                    gpu.lanes as usize,
                    teams as usize,
                    gpu.planes,
                );
                expand::launch_unchecked(
                    gpu.client(),
                    cubes((count * self.outputs).div_ceil(UNITS as usize)),
                    CubeDim::new_1d(UNITS),
                    pages.words().arg(),
                    entries.arg(),
                    changes.arg(),
                    between.arg(),
                    out.arg(),
                    count * self.outputs,
                    self.outputs,
                    self.rank,
                    pages.page_words(),
                );
            }
        })
    }
}

/// Where rows lie, as kernels read it: page, offset, how many lie in that page, how many in each
/// after it, and the bytes from one to the next.
fn record(rows: &RowPlaces) -> [u32; 5] {
    [rows.page, rows.offset, rows.first, rows.each, rows.stride].map(|n| n as u32)
}

/// The byte in the pool, in halves, at which a row begins: the word and whether it is the upper
/// half does not matter, because rows begin with a line of the cache.
#[cube]
fn row_at(changes: &[u32], places: usize, table: usize, row: usize, page_words: usize) -> usize {
    let first = changes[places + 2usize] as usize;
    let each = changes[places + 3usize] as usize;
    let stride = changes[places + 4usize] as usize;
    let mut page = changes[places] as usize;
    let mut offset = changes[places + 1usize] as usize;
    if row < first {
        offset += row * stride;
    } else {
        page += 1usize + (row - first) / each;
        offset = (row - first) % each * stride;
    }
    changes[table + page] as usize * page_words + offset / 4usize
}

/// `between[entry, row] = scale · input[token] · A[row]`, a team of lanes each.
#[cube(launch_unchecked)]
fn shrink(
    pages: &[u32],
    entries: &[u32],
    changes: &[u32],
    input: &[f32],
    between: &mut [f32],
    count: usize,
    columns: usize,
    most: usize,
    page_words: usize,
    #[comptime] lanes: usize,
    #[comptime] teams: usize,
    #[comptime] planes: bool,
) {
    let lane = UNIT_POS_X as usize;
    let team = UNIT_POS_Y as usize;
    let chunks = (most + comptime!(teams - 1usize)) / teams;
    let entry = min(CUBE_POS / chunks, count - 1usize);
    let row = CUBE_POS % chunks * teams + team;
    let token = entries[2usize * entry] as usize;
    let change = entries[2usize * entry + 1usize] as usize;
    let rank = changes[change] as usize;
    let at = row_at(
        changes,
        change + 2usize,
        change + 18usize,
        min(row, rank - 1usize),
        page_words,
    );
    let mut total = 0.0f32;
    let mut pair = lane;
    while 2usize * pair < columns {
        let both = pages[at + pair];
        let from = token * columns + 2usize * pair;
        total += half_to_float(both & 0xffffu32) * input[from];
        if 2usize * pair + 1usize < columns {
            total += half_to_float(both >> 16u32) * input[from + 1usize];
        }
        pair += lanes;
    }
    let mut all = 0.0f32;
    if comptime!(planes) {
        all = plane_sum(total);
    } else {
        let mut shared = Shared::<[f32]>::new_slice(comptime!(lanes * teams));
        shared[team * lanes + lane] = total;
        sync_cube();
        if lane == 0usize {
            for n in 0..lanes {
                all += shared[team * lanes + n];
            }
        }
    }
    if lane == 0usize && row < rank && CUBE_POS / chunks < count {
        between[entry * most + row] = all * f32::reinterpret(changes[change + 1usize]);
    }
}

/// `out[token, column] += between[entry] · Bᵀ[.., column]`, and through the gains, a unit each.
#[cube(launch_unchecked)]
fn expand(
    pages: &[u32],
    entries: &[u32],
    changes: &[u32],
    between: &[f32],
    out: &mut [f32],
    units: usize,
    outputs: usize,
    most: usize,
    page_words: usize,
) {
    let unit = ABSOLUTE_POS;
    if unit < units {
        let entry = unit / outputs;
        let column = unit % outputs;
        let token = entries[2usize * entry] as usize;
        let change = entries[2usize * entry + 1usize] as usize;
        let rank = changes[change] as usize;
        let mut total = out[token * outputs + column];
        for row in 0..rank {
            let at = row_at(changes, change + 7usize, change + 18usize, row, page_words);
            let weight = half_to_float(halfword_at(pages, 4usize * at + 2usize * column));
            total += between[entry * most + row] * weight;
        }
        if changes[change + 12usize] == 1u32 {
            let places = change + 13usize;
            let table = change + 18usize;
            let factor = row_at(changes, places, table, 0usize, page_words) + column;
            let added = row_at(changes, places, table, 1usize, page_words) + column;
            total = total * f32::reinterpret(pages[factor]) + f32::reinterpret(pages[added]);
        }
        out[token * outputs + column] = total;
    }
}
