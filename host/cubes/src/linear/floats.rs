//! Products with weights that are not quantized: 16-bit and 32-bit floats, with activations as
//! they are.

use cubecl::prelude::*;
use skep_weights::PackedFormat;

use super::few::{finish, shared_of};
use super::{FEW, Matrix, float_of};
use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;
use crate::numbers::half_to_float;

/// Units of a cube: teams of lanes, each with rows of its own.
const UNITS: u32 = 128;

pub(super) fn few(
    gpu: &Gpu,
    matrix: &Matrix,
    input: &Buffer,
    tokens: usize,
    out: &Buffer,
) -> Result<(), GpuError> {
    let teams = UNITS / gpu.lanes;
    let each = if tokens <= 2 { 2 } else { 1 };
    let variant = tokens.next_power_of_two().min(FEW);
    // Two 16-bit floats a word, where rows begin with a word.
    let pairs = matrix.form.format != PackedFormat::F32 && matrix.columns.is_multiple_of(2);
    guard("linear", || {
        // SAFETY: as for quantized weights.
        unsafe {
            float_rows_of_few::launch_unchecked(
                gpu.client(),
                cubes(matrix.rows.div_ceil(teams as usize * each)),
                CubeDim::new_2d(gpu.lanes, teams),
                matrix.blocks.arg(),
                input.arg(),
                out.arg(),
                matrix.rows,
                matrix.columns,
                tokens,
                matrix.form.format,
                pairs,
                variant,
                each,
                gpu.lanes as usize,
                teams as usize,
                gpu.planes,
            );
        }
    })
}

pub(super) fn many(
    gpu: &Gpu,
    matrix: &Matrix,
    input: &Buffer,
    tokens: usize,
    out: &Buffer,
) -> Result<(), GpuError> {
    let wide = matrix.rows.div_ceil(64);
    guard("linear", || {
        // SAFETY: as for quantized weights.
        unsafe {
            float_tiles_of_many::launch_unchecked(
                gpu.client(),
                cubes(wide * tokens.div_ceil(64)),
                CubeDim::new_1d(256),
                matrix.blocks.arg(),
                input.arg(),
                out.arg(),
                matrix.rows,
                matrix.columns,
                tokens,
                matrix.form.format,
            );
        }
    })
}

#[cube(launch_unchecked)]
fn float_rows_of_few(
    weights: &[u32],
    input: &[f32],
    out: &mut [f32],
    rows: usize,
    columns: usize,
    tokens: usize,
    #[comptime] format: PackedFormat,
    #[comptime] pairs: bool,
    #[comptime] variant: usize,
    #[comptime] each: usize,
    #[comptime] lanes: usize,
    #[comptime] teams: usize,
    #[comptime] planes: bool,
) {
    let lane = UNIT_POS_X as usize;
    let first = (CUBE_POS * teams + UNIT_POS_Y as usize) * each;
    let values = comptime!(variant * each);
    let mut totals = Array::<f32>::new(values);
    #[unroll]
    for n in 0..values {
        totals[n] = 0.0f32;
    }
    let width = comptime!(if pairs { 2usize } else { 1usize });
    let mut column = lane * width;
    while column < columns {
        #[unroll]
        for r in 0..each {
            let at = min(first + r, rows - 1usize) * columns + column;
            if comptime!(pairs) {
                let both = weights[at / 2usize];
                let (low, high) = halves_of(both, format);
                #[unroll]
                for t in 0..variant {
                    let x = min(t, tokens - 1usize) * columns + column;
                    totals[r * variant + t] += low * input[x] + high * input[x + 1usize];
                }
            } else {
                let weight = float_of(weights, at, format);
                #[unroll]
                for t in 0..variant {
                    let x = min(t, tokens - 1usize) * columns + column;
                    totals[r * variant + t] += weight * input[x];
                }
            }
        }
        column += lanes * width;
    }
    let mut shared = shared_of(values, lanes, teams, planes);
    finish(
        &totals,
        out,
        &mut shared,
        rows,
        tokens,
        first,
        variant,
        each,
        lanes,
        planes,
    );
}

/// The two 16-bit floats of a word.
#[cube]
fn halves_of(both: u32, #[comptime] format: PackedFormat) -> (f32, f32) {
    let (low, high) = match format {
        PackedFormat::F16 => (
            half_to_float(both & 0xffffu32),
            half_to_float(both >> 16u32),
        ),
        _ => (
            f32::reinterpret(both << 16u32),
            f32::reinterpret(both & 0xffff_0000u32),
        ),
    };
    (low, high)
}

#[cube(launch_unchecked)]
fn float_tiles_of_many(
    weights: &[u32],
    input: &[f32],
    out: &mut [f32],
    rows: usize,
    columns: usize,
    tokens: usize,
    #[comptime] format: PackedFormat,
) {
    // [column, row or token], 32 columns at a time.
    let mut of_rows = Shared::<[f32]>::new_slice(2048usize);
    let mut of_tokens = Shared::<[f32]>::new_slice(2048usize);
    let unit = UNIT_POS as usize;
    let wide = (rows + 63usize) / 64usize;
    let first_row = CUBE_POS % wide * 64usize;
    let first_token = CUBE_POS / wide * 64usize;
    let across = unit % 16usize;
    let down = unit / 16usize;
    let mut totals = Array::<f32>::new(16usize);
    #[unroll]
    for n in 0..16usize {
        totals[n] = 0.0f32;
    }
    let mut begin = 0usize.runtime();
    while begin < columns {
        for n in 0..8usize {
            let element = n * 256usize + unit;
            // Neighbouring units fetch neighbouring columns.
            let within = element % 32usize;
            let own = element / 32usize;
            let column = min(begin + within, columns - 1usize);
            let counts = begin + within < columns;
            let row = min(first_row + own, rows - 1usize);
            let token = min(first_token + own, tokens - 1usize);
            let weight = float_of(weights, row * columns + column, format);
            of_rows[within * 64usize + own] = select(counts, weight, 0.0f32);
            let x = input[token * columns + column];
            of_tokens[within * 64usize + own] = select(counts, x, 0.0f32);
        }
        sync_cube();
        for k in 0..32usize {
            let mut four = Array::<f32>::new(4usize);
            #[unroll]
            for r in 0..4usize {
                four[r] = of_rows[k * 64usize + across + 16usize * r];
            }
            #[unroll]
            for t in 0..4usize {
                let x = of_tokens[k * 64usize + down + 16usize * t];
                #[unroll]
                for r in 0..4usize {
                    totals[t * 4usize + r] += four[r] * x;
                }
            }
        }
        sync_cube();
        begin += 32usize;
    }
    #[unroll]
    for t in 0..4usize {
        #[unroll]
        for r in 0..4usize {
            let row = first_row + across + 16usize * r;
            let token = first_token + down + 16usize * t;
            if row < rows && token < tokens {
                out[token * rows + row] = totals[t * 4usize + r];
            }
        }
    }
}
