//! What is done to each token's row between products: norms, rotary positions, gates, sums.

use cubecl::prelude::*;
use skep_kernels::rows::{Gate, Rope, RopeLayout};
use skep_kernels::{expect_below, expect_len};

use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;
use crate::reduce::sum_of_cube;

/// Units of a cube where each makes one element.
const UNITS: usize = 256;

/// `x / sqrt(mean(x²) + epsilon) * weight` for each row of as many elements as `weight` has.
///
/// # Errors
/// When `rows` is no whole number of rows, the account has no room, or the device fails.
pub fn rms_norm(
    gpu: &Gpu,
    rows: &Buffer,
    weight: &Buffer,
    epsilon: f32,
) -> Result<Buffer, GpuError> {
    let out = gpu.empty(rows.len())?;
    norm(gpu, rows, weight, epsilon, &out)?;
    Ok(out)
}

/// As [`rms_norm`], in place: for the norm of each head of queries and keys.
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_norm_in_place(
    gpu: &Gpu,
    rows: &mut Buffer,
    weight: &Buffer,
    epsilon: f32,
) -> Result<(), GpuError> {
    let width = weight.len();
    check_rows(rows.len(), width)?;
    if rows.is_empty() {
        return Ok(());
    }
    let units = units_for(width);
    guard("rms_norm", || {
        // SAFETY: there is a cube a row, and each leaves what is beyond its row alone.
        unsafe {
            norm_in_place::launch_unchecked(
                gpu.client(),
                cubes(rows.len() / width),
                CubeDim::new_1d(units as u32),
                rows.arg(),
                weight.arg(),
                rows.len() / width,
                width,
                epsilon,
                units,
            );
        }
    })
}

/// As [`rms_norm`], into memory that is there.
pub(crate) fn norm(
    gpu: &Gpu,
    rows: &Buffer,
    weight: &Buffer,
    epsilon: f32,
    out: &Buffer,
) -> Result<(), GpuError> {
    let width = weight.len();
    check_rows(rows.len(), width)?;
    expect_len("rms_norm", "the output", out.len(), Some(rows.len()))?;
    if rows.is_empty() {
        return Ok(());
    }
    let units = units_for(width);
    guard("rms_norm", || {
        // SAFETY: there is a cube a row, and each leaves what is beyond its row alone.
        unsafe {
            norm_rows::launch_unchecked(
                gpu.client(),
                cubes(rows.len() / width),
                CubeDim::new_1d(units as u32),
                rows.arg(),
                weight.arg(),
                out.arg(),
                rows.len() / width,
                width,
                epsilon,
                units,
            );
        }
    })
}

fn check_rows(length: usize, width: usize) -> Result<(), GpuError> {
    let whole = length.checked_div(width).unwrap_or(0) * width;
    Ok(expect_len("rms_norm", "the input", length, Some(whole))?)
}

/// Units for a row of so many elements: a power of two.
fn units_for(width: usize) -> usize {
    width.next_power_of_two().clamp(32, UNITS)
}

/// The turns of a batch's positions: the sine and the cosine of each pair of a head, computed on
/// the host in double precision.
#[derive(Debug)]
pub struct Turns {
    pub(crate) layout: RopeLayout,
    pub(crate) tokens: usize,
    pub(crate) pairs: usize,
    /// `[tokens, pairs, 2]`.
    pub(crate) table: Buffer,
}

impl Turns {
    /// The turns of these positions.
    ///
    /// # Errors
    /// When the account has no room, or the device fails.
    pub fn upload(gpu: &Gpu, rope: &Rope, positions: &[u32]) -> Result<Self, GpuError> {
        let table = gpu.upload_words(&Self::table(rope, positions))?;
        Ok(Self::placed(rope, positions.len(), table))
    }

    /// The words of a table of them.
    pub(crate) fn table(rope: &Rope, positions: &[u32]) -> Vec<u32> {
        let mut table = Vec::with_capacity(2 * positions.len() * rope.radians().len());
        for position in positions {
            for radians in rope.radians() {
                // In double precision: at position 100,000 an f32 angle is off by a hundredth.
                let (sin, cos) = (f64::from(*position) * radians).sin_cos();
                table.extend([(sin as f32).to_bits(), (cos as f32).to_bits()]);
            }
        }
        table
    }

    /// Those of so many positions whose table lies there.
    pub(crate) fn placed(rope: &Rope, tokens: usize, table: Buffer) -> Self {
        Self {
            layout: rope.layout(),
            tokens,
            pairs: rope.radians().len(),
            table,
        }
    }
}

/// Turns every head of each row of `rows`, `[tokens, heads * dim]`, to its token's position.
///
/// # Errors
/// When a row is no whole number of heads, there are not as many positions as rows, a head has
/// fewer elements than the pairs need, or the device fails.
pub fn rope(gpu: &Gpu, turns: &Turns, rows: &mut Buffer, dim: usize) -> Result<(), GpuError> {
    let (tokens, pairs) = (turns.tokens, turns.pairs);
    let width = rows.len().checked_div(tokens).unwrap_or(0);
    let heads = width.checked_div(dim).unwrap_or(0);
    let want = tokens.checked_mul(heads * dim);
    expect_len("rope", "the input", rows.len(), want)?;
    expect_below("rope", "a head", 2 * pairs, dim.saturating_add(1))?;
    let count = tokens * heads * pairs;
    if count == 0 {
        return Ok(());
    }
    guard("rope", || {
        // SAFETY: a head has as many elements as the pairs need, and there is a turn for each
        // pair of each token.
        unsafe {
            turn_pairs::launch_unchecked(
                gpu.client(),
                cubes(count.div_ceil(UNITS)),
                CubeDim::new_1d(UNITS as u32),
                rows.arg(),
                turns.table.arg(),
                count,
                heads,
                dim,
                pairs,
                turns.layout == RopeLayout::Pairs,
            );
        }
    })
}

/// `gate[i] = function(gate[i]) * up[i]`.
///
/// # Errors
/// When the lengths differ, or the device fails.
pub fn gated(gpu: &Gpu, function: Gate, gate: &mut Buffer, up: &Buffer) -> Result<(), GpuError> {
    expect_len("gated", "the second input", up.len(), Some(gate.len()))?;
    if gate.is_empty() {
        return Ok(());
    }
    guard("gated", || {
        // SAFETY: both buffers have so many elements.
        unsafe {
            gate_elements::launch_unchecked(
                gpu.client(),
                cubes(gate.len().div_ceil(UNITS)),
                CubeDim::new_1d(UNITS as u32),
                gate.arg(),
                up.arg(),
                gate.len(),
                function == Gate::GeluTanh,
            );
        }
    })
}

/// Adds `from` to each row of `to` of the same length: the residual stream with as many elements,
/// a bias with a row's.
///
/// # Errors
/// When `to` is no whole number of such rows, or the device fails.
pub fn add(gpu: &Gpu, to: &mut Buffer, from: &Buffer) -> Result<(), GpuError> {
    let whole = to.len().checked_div(from.len()).unwrap_or(0) * from.len();
    expect_len("add", "the first input", to.len(), Some(whole))?;
    if to.is_empty() {
        return Ok(());
    }
    guard("add", || {
        // SAFETY: the second buffer is read at places below its length.
        unsafe {
            if to.len() == from.len() && to.len().is_multiple_of(4) {
                let fours = to.len() / 4;
                add_fours::launch_unchecked(
                    gpu.client(),
                    cubes(fours.div_ceil(UNITS)),
                    CubeDim::new_1d(UNITS as u32),
                    to.fours(),
                    from.fours(),
                    fours,
                );
                return;
            }
            add_elements::launch_unchecked(
                gpu.client(),
                cubes(to.len().div_ceil(UNITS)),
                CubeDim::new_1d(UNITS as u32),
                to.arg(),
                from.arg(),
                to.len(),
                from.len(),
            );
        }
    })
}

/// The rows of these numbers out of `[rows, width]`.
///
/// # Errors
/// When there is no such row, the account has no room, or the device fails.
pub fn pick(gpu: &Gpu, rows: &Buffer, width: usize, numbers: &[usize]) -> Result<Buffer, GpuError> {
    let count = rows.len().checked_div(width).unwrap_or(0);
    let mut table = Vec::with_capacity(numbers.len());
    for number in numbers {
        expect_below("pick", "the rows", *number, count)?;
        // A buffer has fewer than 2³² words.
        table.push(*number as u32);
    }
    let out = gpu.empty(numbers.len() * width)?;
    if numbers.is_empty() || width == 0 {
        return Ok(out);
    }
    let table = gpu.upload_words(&table)?;
    pick_placed(gpu, rows, width, (&table, numbers.len()), &out)?;
    Ok(out)
}

/// As [`pick`], of so many numbers that were checked and lie on the device, into memory that is
/// there.
pub(crate) fn pick_placed(
    gpu: &Gpu,
    rows: &Buffer,
    width: usize,
    (table, count): (&Buffer, usize),
    out: &Buffer,
) -> Result<(), GpuError> {
    expect_len("pick", "the output", out.len(), count.checked_mul(width))?;
    if out.is_empty() {
        return Ok(());
    }
    guard("pick", || {
        // SAFETY: every number is one of a row, and the output has a row for each.
        unsafe {
            pick_rows::launch_unchecked(
                gpu.client(),
                cubes(out.len().div_ceil(UNITS)),
                CubeDim::new_1d(UNITS as u32),
                rows.arg(),
                table.arg(),
                out.arg(),
                out.len(),
                width,
            );
        }
    })
}

#[cube(launch_unchecked)]
fn norm_rows(
    rows: &[f32],
    weight: &[f32],
    out: &mut [f32],
    count: usize,
    width: usize,
    epsilon: f32,
    #[comptime] units: usize,
) {
    let mut shared = Shared::<[f32]>::new_slice(units);
    let unit = UNIT_POS as usize;
    let row = min(CUBE_POS, count - 1usize) * width;
    let mut squares = 0.0f32;
    let mut column = unit;
    while column < width {
        let x = rows[row + column];
        squares += x * x;
        column += units;
    }
    let mean = sum_of_cube(squares, &mut shared, units, 0u32) / f32::cast_from(width as u32);
    let scale = 1.0f32 / (mean + epsilon).sqrt();
    if CUBE_POS < count {
        let mut column = unit;
        while column < width {
            out[row + column] = rows[row + column] * scale * weight[column];
            column += units;
        }
    }
}

#[cube(launch_unchecked)]
fn norm_in_place(
    rows: &mut [f32],
    weight: &[f32],
    count: usize,
    width: usize,
    epsilon: f32,
    #[comptime] units: usize,
) {
    let mut shared = Shared::<[f32]>::new_slice(units);
    let unit = UNIT_POS as usize;
    let row = min(CUBE_POS, count - 1usize) * width;
    let mut squares = 0.0f32;
    let mut column = unit;
    while column < width {
        let x = rows[row + column];
        squares += x * x;
        column += units;
    }
    let mean = sum_of_cube(squares, &mut shared, units, 0u32) / f32::cast_from(width as u32);
    let scale = 1.0f32 / (mean + epsilon).sqrt();
    if CUBE_POS < count {
        let mut column = unit;
        while column < width {
            let x = rows[row + column];
            rows[row + column] = x * scale * weight[column];
            column += units;
        }
    }
}

#[cube(launch_unchecked)]
fn turn_pairs(
    rows: &mut [f32],
    turns: &[f32],
    count: usize,
    heads: usize,
    dim: usize,
    pairs: usize,
    #[comptime] neighbours: bool,
) {
    let unit = ABSOLUTE_POS;
    if unit < count {
        let pair = unit % pairs;
        let head = unit / pairs;
        let token = head / heads;
        let at = 2usize * (token * pairs + pair);
        let sin = turns[at];
        let cos = turns[at + 1usize];
        let first = if comptime!(neighbours) {
            head * dim + 2usize * pair
        } else {
            head * dim + pair
        };
        let second = if comptime!(neighbours) {
            first + 1usize
        } else {
            first + pairs
        };
        let x = rows[first];
        let y = rows[second];
        rows[first] = x * cos - y * sin;
        rows[second] = x * sin + y * cos;
    }
}

#[cube(launch_unchecked)]
fn gate_elements(gate: &mut [f32], up: &[f32], count: usize, #[comptime] gelu: bool) {
    let unit = ABSOLUTE_POS;
    if unit < count {
        gate[unit] = gate_of(gate[unit], gelu) * up[unit];
    }
}

/// What a gate makes of a number.
#[cube]
pub(crate) fn gate_of(x: f32, #[comptime] gelu: bool) -> f32 {
    // The hyperbolic tangent of GELU's approximation is a sigmoid too.
    let inner = if comptime!(gelu) {
        1.595_769f32 * (x + 0.044_715f32 * x * x * x)
    } else {
        x
    };
    x / (1.0f32 + (-inner).exp())
}

#[cube(launch_unchecked)]
fn add_elements(to: &mut [f32], from: &[f32], count: usize, width: usize) {
    let unit = ABSOLUTE_POS;
    if unit < count {
        to[unit] += from[unit % width];
    }
}

#[cube(launch_unchecked)]
fn add_fours(to: &mut [Vector<f32, Const<4>>], from: &[Vector<f32, Const<4>>], count: usize) {
    let unit = ABSOLUTE_POS;
    if unit < count {
        to[unit] += from[unit];
    }
}

#[cube(launch_unchecked)]
fn pick_rows(rows: &[f32], numbers: &[u32], out: &mut [f32], count: usize, width: usize) {
    let unit = ABSOLUTE_POS;
    if unit < count {
        out[unit] = rows[numbers[unit / width] as usize * width + unit % width];
    }
}
