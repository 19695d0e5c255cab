//! Products of a few tokens with packed weights: several rows a cube, the lanes of a row side by
//! side along it.

use cubecl::prelude::*;
use skep_kernels::Precision;

use super::{FEW, Matrix};
use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;
use crate::packed::{Form, PIECE, columns_of, factors_of, words_of};
use crate::round::Rounded;

/// Units of a cube: teams of lanes, each with rows of its own.
const UNITS: u32 = 128;

pub(super) fn launch(
    gpu: &Gpu,
    matrix: &Matrix,
    input: &Rounded,
    tokens: usize,
    out: &Buffer,
) -> Result<(), GpuError> {
    let teams = UNITS / gpu.lanes;
    // Two rows share what is loaded of the activations; with more tokens there is enough to do.
    let each = if tokens <= 2 { 2 } else { 1 };
    let variant = tokens.next_power_of_two().min(FEW);
    let count = matrix.rows.div_ceil(teams as usize * each);
    guard("linear", || {
        // SAFETY: the buffers have the lengths that the caller has checked, and rows and tokens
        // beyond the last are read as the last and not written.
        unsafe {
            rows_of_few::launch_unchecked(
                gpu.client(),
                cubes(count),
                CubeDim::new_2d(gpu.lanes, teams),
                matrix.blocks.arg(),
                input.quants.arg(),
                input.scales.arg(),
                input.sums.arg(),
                out.arg(),
                matrix.rows,
                matrix.columns,
                matrix.row_bytes(),
                tokens,
                matrix.form,
                Precision::of(matrix.form.format).block_len(),
                variant,
                each,
                gpu.lanes as usize,
                teams as usize,
                gpu.planes,
            );
        }
    })
}

#[cube(launch_unchecked)]
fn rows_of_few(
    weights: &[u32],
    quants: &[u32],
    scales: &[f32],
    sums: &[f32],
    out: &mut [f32],
    rows: usize,
    columns: usize,
    row_bytes: usize,
    tokens: usize,
    #[comptime] form: Form,
    #[comptime] block: usize,
    #[comptime] variant: usize,
    #[comptime] each: usize,
    #[comptime] lanes: usize,
    #[comptime] teams: usize,
    #[comptime] planes: bool,
) {
    let lane = UNIT_POS_X as usize;
    let team = UNIT_POS_Y as usize;
    let first = (CUBE_POS * teams + team) * each;
    let values = comptime!(variant * each);
    let mut totals = Array::<f32>::new(values);
    #[unroll]
    for n in 0..values {
        totals[n] = 0.0f32;
    }

    let pieces = columns / comptime!(PIECE);
    let mut piece = lane;
    while piece < pieces {
        let (low, high) = columns_of(piece, comptime!(form.format));
        #[unroll]
        for r in 0..each {
            let row = min(first + r, rows - 1usize) * row_bytes;
            let words = words_of(weights, row, piece, form);
            let factors = factors_of(weights, row, piece, form);
            #[unroll]
            for t in 0..variant {
                let start = min(t, tokens - 1usize) * columns;
                let at_low = (start + low) / 4usize;
                let at_high = (start + high) / 4usize;
                let mut of_low = 0i32;
                let mut of_high = 0i32;
                #[unroll]
                for n in 0..4usize {
                    let four = i32::reinterpret(quants[at_low + n]);
                    of_low = dp4a(i32::reinterpret(words[n]), four, of_low);
                    let four = i32::reinterpret(quants[at_high + n]);
                    of_high = dp4a(i32::reinterpret(words[4usize + n]), four, of_high);
                }
                let sum = factors[0usize] * f32::cast_from(of_low)
                    + factors[1usize] * sums[(start + low) / 16usize]
                    + factors[2usize] * f32::cast_from(of_high)
                    + factors[3usize] * sums[(start + high) / 16usize];
                totals[r * variant + t] += scales[(start + low) / block] * sum;
            }
        }
        piece += lanes;
    }
    finish(
        &totals, out, rows, tokens, first, variant, each, lanes, teams, planes,
    );
}

/// Adds up the lanes' totals and writes them.
#[cube]
pub(super) fn finish(
    totals: &Array<f32>,
    out: &mut [f32],
    rows: usize,
    tokens: usize,
    first: usize,
    #[comptime] variant: usize,
    #[comptime] each: usize,
    #[comptime] lanes: usize,
    #[comptime] teams: usize,
    #[comptime] planes: bool,
) {
    let lane = UNIT_POS_X as usize;
    let values = comptime!(variant * each);
    if comptime!(planes) {
        #[unroll]
        for r in 0..each {
            #[unroll]
            for t in 0..variant {
                let total = plane_sum(totals[r * variant + t]);
                let row = first + r;
                if lane == 0usize && row < rows && t < tokens {
                    out[t * rows + row] = total;
                }
            }
        }
    } else {
        let mut shared = Shared::<[f32]>::new_slice(comptime!(lanes * teams * variant * each));
        let start = UNIT_POS_Y as usize * lanes * values;
        #[unroll]
        for n in 0..values {
            shared[start + lane * values + n] = totals[n];
        }
        sync_cube();
        if lane < values {
            let mut total = 0.0f32;
            for n in 0..lanes {
                total += shared[start + n * values + lane];
            }
            let row = first + lane / variant;
            let token = lane % variant;
            if row < rows && token < tokens {
                out[token * rows + row] = total;
            }
        }
    }
}
