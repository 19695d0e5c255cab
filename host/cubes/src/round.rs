//! Activations rounded to 8 bits on the device, as `skep_kernels::Activations` rounds them.

use cubecl::prelude::*;
use skep_kernels::Precision;

use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;
use crate::numbers::round_to_byte;

/// Elements that a sum covers.
const SUM: usize = 16;

/// Elements that a cube rounds.
const TAKEN: usize = 256;

/// Rows of rounded activations.
#[derive(Debug)]
pub(crate) struct Rounded {
    /// `[tokens, columns / 4]`: four signed bytes a word.
    pub quants: Buffer,
    /// `[tokens, columns / block]`.
    pub scales: Buffer,
    /// `[tokens, columns / 16]`: sums of 16 integers, as floats.
    pub sums: Buffer,
}

/// Rounds `[tokens, columns]` with a scale for each block of the precision, of which `columns` is
/// a multiple.
pub(crate) fn round(
    gpu: &Gpu,
    precision: Precision,
    values: &Buffer,
    tokens: usize,
    columns: usize,
) -> Result<Rounded, GpuError> {
    let block = precision.block_len();
    let rounded = Rounded {
        quants: gpu.empty(tokens * columns / 4)?,
        scales: gpu.empty(tokens * columns / block)?,
        sums: gpu.empty(tokens * columns / SUM)?,
    };
    guard("rounding", || {
        // SAFETY: the buffers have the lengths above, and the kernel leaves elements beyond a
        // row's columns alone.
        unsafe {
            round_rows::launch_unchecked(
                gpu.client(),
                cubes(tokens * columns.div_ceil(TAKEN)),
                CubeDim::new_1d((TAKEN / 4) as u32),
                values.arg(),
                rounded.quants.arg(),
                rounded.scales.arg(),
                rounded.sums.arg(),
                tokens,
                columns,
                block,
            );
        }
    })?;
    Ok(rounded)
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
    let unit = UNIT_POS as usize;
    let each = (columns + 255usize) / 256usize;
    let token = CUBE_POS / each;
    let column = CUBE_POS % each * 256usize + unit * 4usize;
    let inside = token < tokens && column < columns;
    let at = token * columns + column;

    let mut most = 0.0f32;
    if inside {
        #[unroll]
        for n in 0..4usize {
            let size = values[at + n].abs();
            // False of NaN.
            if size <= 3.402_823_5e38f32 {
                most = max(most, size);
            }
        }
    }
    largest[unit] = most;
    sync_cube();
    let together = comptime!(block / 4usize);
    let first = unit / together * together;
    let mut of_block = 0.0f32;
    for n in 0..together {
        of_block = max(of_block, largest[first + n]);
    }

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
            let rounded = round_to_byte(values[at + n] * inverse);
            total += rounded;
            word |= (u32::reinterpret(rounded) & 255u32) << u32::cast_from(8usize * n);
        }
        quants[at / 4usize] = word;
        if unit == first {
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
}
