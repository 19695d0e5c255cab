//! Activations rounded to 8 bits on the device, as `skep_kernels::Activations` rounds them: by
//! themselves, or by what makes them.

use cubecl::prelude::*;
use skep_kernels::Precision;
use skep_kernels::rows::Gate;

use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;
use crate::numbers::round_to_byte;
use crate::reduce::{most_of_team, sum_of_cube};
use crate::rows::gate_of;

/// Elements that a sum covers.
const SUM: usize = 16;

/// Elements that a unit has at once.
const EACH: usize = 4;

/// Elements that a cube rounds where rows are not its business.
const TAKEN: usize = 256;

/// The most elements of a row that a unit keeps while the row's norm is made.
const MOST: usize = 32;

/// Rows of rounded activations.
#[derive(Debug)]
pub(crate) struct Rounded {
    /// `[tokens, columns / 4]`: four signed bytes a word.
    pub quants: Buffer,
    /// `[tokens, columns / block]`.
    pub scales: Buffer,
    /// `[tokens, columns / 16]`: sums of 16 integers, as floats.
    pub sums: Buffer,
    pub precision: Precision,
}

impl Rounded {
    /// Room for `[tokens, columns]`, where `columns` is a multiple of the precision's block.
    pub fn room(
        gpu: &Gpu,
        precision: Precision,
        tokens: usize,
        columns: usize,
    ) -> Result<Self, GpuError> {
        Ok(Self {
            quants: gpu.empty(tokens * columns / 4)?,
            scales: gpu.empty(tokens * columns / precision.block_len())?,
            sums: gpu.empty(tokens * columns / SUM)?,
            precision,
        })
    }

    /// Whether it is room for so many elements in this precision.
    pub fn is_room_for(&self, precision: Precision, elements: usize) -> bool {
        self.precision == precision && self.quants.len() == elements / 4
    }
}

/// Rounds `[tokens, columns]` with a scale for each block of the precision, of which `columns` is
/// a multiple.
pub(crate) fn round(
    gpu: &Gpu,
    values: &Buffer,
    (tokens, columns): (usize, usize),
    rounded: &Rounded,
) -> Result<(), GpuError> {
    guard("rounding", || {
        // SAFETY: the buffers have the lengths above, and the kernel leaves elements beyond a
        // row's columns alone.
        unsafe {
            round_rows::launch_unchecked(
                gpu.client(),
                cubes(tokens * columns.div_ceil(TAKEN)),
                CubeDim::new_1d((TAKEN / EACH) as u32),
                values.arg(),
                rounded.quants.arg(),
                rounded.scales.arg(),
                rounded.sums.arg(),
                tokens,
                columns,
                rounded.precision.block_len(),
            );
        }
    })
}

/// `gate = function(gate) * up` of `[tokens, columns]`, and the same rounded.
pub(crate) fn gated(
    gpu: &Gpu,
    function: Gate,
    (gate, up): (&Buffer, &Buffer),
    (tokens, columns): (usize, usize),
    rounded: &Rounded,
) -> Result<(), GpuError> {
    guard("gated", || {
        // SAFETY: as for `round_rows`, and both inputs have as many elements.
        unsafe {
            gate_and_round::launch_unchecked(
                gpu.client(),
                cubes(tokens * columns.div_ceil(TAKEN)),
                CubeDim::new_1d((TAKEN / EACH) as u32),
                gate.arg(),
                up.arg(),
                rounded.quants.arg(),
                rounded.scales.arg(),
                rounded.sums.arg(),
                tokens,
                columns,
                rounded.precision.block_len(),
                function == Gate::GeluTanh,
            );
        }
    })
}

/// Whether rows of so many columns can be normed and rounded at once.
pub(crate) fn can_norm(gpu: &Gpu, columns: usize) -> bool {
    columns.div_ceil(units_for(gpu, columns)) <= MOST
}

/// Units of a cube that norms a row: whole blocks of 256 elements.
fn units_for(gpu: &Gpu, columns: usize) -> usize {
    (columns / EACH)
        .next_power_of_two()
        .clamp(TAKEN / EACH, gpu.most_units())
}

/// What [`norm`] reads and writes.
pub(crate) struct NormOfRows<'a> {
    /// `[tokens, columns]`.
    pub rows: &'a Buffer,
    /// What is added to them first, in place.
    pub added: Option<&'a Buffer>,
    pub weight: &'a Buffer,
    pub epsilon: f32,
    /// The normed rows.
    pub out: &'a Buffer,
    /// The same rounded.
    pub rounded: &'a Rounded,
}

/// The norm of each row, rounded. [`can_norm`] has to say that it can be made.
pub(crate) fn norm(
    gpu: &Gpu,
    what: &NormOfRows<'_>,
    (tokens, columns): (usize, usize),
) -> Result<(), GpuError> {
    let units = units_for(gpu, columns);
    guard("rms_norm", || {
        // SAFETY: there is a cube a row, the buffers have the lengths of `Rounded`, and each unit
        // leaves what is beyond its row alone.
        unsafe {
            norm_and_round::launch_unchecked(
                gpu.client(),
                cubes(tokens),
                CubeDim::new_1d(units as u32),
                what.rows.arg(),
                what.added.unwrap_or(what.weight).arg(),
                what.weight.arg(),
                what.out.arg(),
                what.rounded.quants.arg(),
                what.rounded.scales.arg(),
                what.rounded.sums.arg(),
                tokens,
                columns,
                what.epsilon,
                what.rounded.precision.block_len(),
                what.added.is_some(),
                units,
                columns.div_ceil(EACH * units),
                gpu.plane_lanes(),
            );
        }
    })
}

/// Four elements a unit, 256 a cube: one block, or eight.
#[cube(launch_unchecked)]
fn round_rows(
    values: &[f32],
    quants: &mut [u32],
    scales: &mut [f32],
    sums: &mut [f32],
    tokens: usize,
    columns: usize,
    #[comptime] block: usize,
) {
    let mut largest = Shared::<[f32]>::new_slice(64usize);
    let mut totals = Shared::<[i32]>::new_slice(64usize);
    let each = (columns + 255usize) / 256usize;
    let token = CUBE_POS / each;
    let column = CUBE_POS % each * 256usize + UNIT_POS as usize * 4usize;
    let inside = token < tokens && column < columns;
    let at = token * columns + column;
    let mut four = Array::<f32>::new(4usize);
    #[unroll]
    for n in 0..4usize {
        four[n] = 0.0f32;
        if inside {
            four[n] = values[at + n];
        }
    }
    round_four(
        &four,
        at,
        inside,
        quants,
        scales,
        sums,
        &mut largest,
        &mut totals,
        block,
        0u32,
    );
}

#[cube(launch_unchecked)]
fn gate_and_round(
    gate: &mut [f32],
    up: &[f32],
    quants: &mut [u32],
    scales: &mut [f32],
    sums: &mut [f32],
    tokens: usize,
    columns: usize,
    #[comptime] block: usize,
    #[comptime] gelu: bool,
) {
    let mut largest = Shared::<[f32]>::new_slice(64usize);
    let mut totals = Shared::<[i32]>::new_slice(64usize);
    let each = (columns + 255usize) / 256usize;
    let token = CUBE_POS / each;
    let column = CUBE_POS % each * 256usize + UNIT_POS as usize * 4usize;
    let inside = token < tokens && column < columns;
    let at = token * columns + column;
    let mut four = Array::<f32>::new(4usize);
    #[unroll]
    for n in 0..4usize {
        four[n] = 0.0f32;
        if inside {
            let value = gate_of(gate[at + n], gelu) * up[at + n];
            gate[at + n] = value;
            four[n] = value;
        }
    }
    round_four(
        &four,
        at,
        inside,
        quants,
        scales,
        sums,
        &mut largest,
        &mut totals,
        block,
        0u32,
    );
}

/// A cube has a row: it adds, norms and rounds what it holds of it.
#[cube(launch_unchecked)]
fn norm_and_round(
    rows: &mut [f32],
    added: &[f32],
    weight: &[f32],
    out: &mut [f32],
    quants: &mut [u32],
    scales: &mut [f32],
    sums: &mut [f32],
    tokens: usize,
    columns: usize,
    epsilon: f32,
    #[comptime] block: usize,
    #[comptime] adds: bool,
    #[comptime] units: usize,
    #[comptime] chunks: usize,
    #[comptime] lanes: u32,
) {
    let mut shared = Shared::<[f32]>::new_slice(units);
    let mut totals = Shared::<[i32]>::new_slice(units);
    let unit = UNIT_POS as usize;
    let here = CUBE_POS < tokens;
    let row = min(CUBE_POS, tokens - 1usize) * columns;
    let mut held = Array::<f32>::new(comptime!(4 * chunks));
    let mut squares = 0.0f32;
    #[unroll]
    for chunk in 0..chunks {
        let column = comptime!(4 * chunk * units) + 4usize * unit;
        #[unroll]
        for n in 0..4usize {
            let mut x = 0.0f32;
            if column < columns {
                let at = row + column + n;
                x = rows[at];
                if comptime!(adds) {
                    x += added[at];
                    if here {
                        rows[at] = x;
                    }
                }
            }
            held[4usize * chunk + n] = x;
            squares += x * x;
        }
    }
    let mean = sum_of_cube(squares, &mut shared, units, lanes) / f32::cast_from(columns as u32);
    let scale = 1.0f32 / (mean + epsilon).sqrt();
    #[unroll]
    for chunk in 0..chunks {
        let column = comptime!(4 * chunk * units) + 4usize * unit;
        let inside = here && column < columns;
        let mut four = Array::<f32>::new(4usize);
        #[unroll]
        for n in 0..4usize {
            four[n] = 0.0f32;
            if column < columns {
                let value = held[4usize * chunk + n] * scale * weight[column + n];
                four[n] = value;
                if inside {
                    out[row + column + n] = value;
                }
            }
        }
        round_four(
            &four,
            row + column,
            inside,
            quants,
            scales,
            sums,
            &mut shared,
            &mut totals,
            block,
            lanes,
        );
    }
}

/// Rounds the four elements of a unit, which begin at `at`. All units of a cube come here, and
/// those of a block of elements are neighbours. `largest` and `totals` have room for a number of
/// each unit and may be used again afterwards.
#[cube]
pub(crate) fn round_four(
    four: &Array<f32>,
    at: usize,
    inside: bool,
    quants: &mut [u32],
    scales: &mut [f32],
    sums: &mut [f32],
    largest: &mut [f32],
    totals: &mut [i32],
    #[comptime] block: usize,
    #[comptime] lanes: u32,
) {
    let unit = UNIT_POS as usize;
    let mut most = 0.0f32;
    #[unroll]
    for n in 0..4usize {
        let size = four[n].abs();
        // False of NaN.
        if size <= 3.402_823_5e38f32 {
            most = max(most, size);
        }
    }
    let together = comptime!(block / 4);
    let of_block = most_of_team(most, largest, together, lanes);

    let mut scale = of_block / 127.0f32;
    let mut inverse = 0.0f32;
    if scale >= 1.175_494_4e-38f32 {
        inverse = 127.0f32 / of_block;
    } else {
        scale = 0.0f32;
    }
    let mut total = 0i32;
    let mut word = 0u32;
    if inside {
        #[unroll]
        for n in 0..4usize {
            let rounded = round_to_byte(four[n] * inverse);
            total += rounded;
            word |= (u32::reinterpret(rounded) & 255u32) << u32::cast_from(8usize * n);
        }
        quants[at / 4usize] = word;
        if unit % together == 0usize {
            scales[at / block] = scale;
        }
    }
    totals[unit] = total;
    sync_cube();
    if inside && unit % 4usize == 0usize {
        let all =
            totals[unit] + totals[unit + 1usize] + totals[unit + 2usize] + totals[unit + 3usize];
        sums[at / 16usize] = f32::cast_from(all);
    }
    sync_cube();
}
