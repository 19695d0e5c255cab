//! Products of many tokens on tensor cores, by a kernel of our own: packed weights are expanded to
//! 16-bit floats in a cube's own memory and multiplied there, so that they are read once for up to
//! 128 tokens and never written.
//!
//! A cube has 128 rows and 32, 64 or 128 tokens, and goes along them two pieces (64 weights of a
//! row) at a time: while its planes multiply what lies in one half of its memory, what comes next
//! is on its way, and is then put into the other half. Where there are too few such tiles for the
//! device, several cubes share one, each with some of its columns, and what they found is added up
//! in a second launch, always in the same order.
//!
//! Along a row the halves of a piece lie as the piece has them and not by column; those of tokens
//! are put in the same order.

use cubecl::cmma;
use cubecl::prelude::*;
use half::f16;

use super::halves::{Halves, eight_halves};
use super::{FEW, Matrix};
use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;
use crate::packed::{Form, PIECE, Words, columns_of, factors_of, words_of};

/// Units of a cube: one for each of the two pieces of each row. They are eight planes.
const UNITS: usize = 256;

/// Rows of a tile.
const ROWS: usize = 128;

/// Cubes that a multiprocessor has at once, by the registers that a unit takes.
const fn cubes_of_processor(tile: usize) -> usize {
    if tile <= 32 { 3 } else { 2 }
}

/// Multiprocessors of a device that says nothing of them.
const PROCESSORS: usize = 128;

/// The most cubes that share a tile.
const MOST_SHARES: usize = 8;

/// The fewest steps that are worth a cube of their own.
const FEWEST_STEPS: usize = 4;

/// Whether this product is one for tensor cores.
pub(super) fn takes(gpu: &Gpu, tokens: usize) -> bool {
    gpu.has_tensor_cores() && tokens > FEW
}

pub(super) fn launch(
    gpu: &Gpu,
    matrix: &Matrix,
    input: &Halves,
    tokens: usize,
    out: &Buffer,
) -> Result<(), GpuError> {
    let tile = tokens.next_power_of_two().clamp(32, 128);
    let (wide, tall) = (matrix.rows.div_ceil(ROWS), tokens.div_ceil(tile));
    let pieces = matrix.columns / PIECE;
    let steps = pieces.div_ceil(2);
    let each = steps.div_ceil(shares(gpu, tile, wide * tall, steps));
    let shares = steps.div_ceil(each);
    let elements = tokens * matrix.rows;
    let parts = match shares {
        1 => None,
        _ => Some(gpu.empty(shares * elements)?),
    };
    // Exact: the power is one of two.
    let factor = 1.0 / matrix.power;
    guard("linear", || {
        // SAFETY: the buffers have the lengths that the caller has checked or made; rows, tokens
        // and pieces beyond the last are read as the last, count for nothing and are not written.
        unsafe {
            tiles_of_halves::launch_unchecked(
                gpu.client(),
                cubes(wide * tall * shares),
                CubeDim::new_1d(UNITS as u32),
                matrix.blocks.fours(),
                input.words.fours(),
                input.powers.arg(),
                parts.as_ref().unwrap_or(out).arg(),
                matrix.rows,
                matrix.row_bytes() / 16,
                pieces,
                tokens,
                each,
                shares,
                matrix.power,
                factor,
                matrix.form,
                tile,
                parts.is_some(),
            );
        }
    })?;
    let Some(parts) = parts else {
        return Ok(());
    };
    guard("linear", || {
        // SAFETY: every share has so many elements, and there is a power for each token.
        unsafe {
            add_shares::launch_unchecked(
                gpu.client(),
                cubes(elements.div_ceil(256)),
                CubeDim::new_1d(256),
                parts.arg(),
                input.powers.arg(),
                out.arg(),
                elements,
                matrix.rows,
                shares,
                factor,
            );
        }
    })
}

/// How many cubes are to share each of so many tiles, of so many tokens.
fn shares(gpu: &Gpu, tile: usize, tiles: usize, steps: usize) -> usize {
    let hardware = &gpu.client().properties().hardware;
    let processors = hardware
        .num_streaming_multiprocessors
        .map_or(PROCESSORS, |count| count as usize);
    let most = (steps / FEWEST_STEPS).clamp(1, MOST_SHARES);
    (cubes_of_processor(tile) * processors / tiles).clamp(1, most)
}

#[cube(launch_unchecked)]
fn tiles_of_halves(
    weights: &[Words],
    input: &[Words],
    powers: &[f32],
    out: &mut [f32],
    rows: usize,
    row_words: usize,
    pieces: usize,
    tokens: usize,
    each: usize,
    shares: usize,
    power: f32,
    factor: f32,
    #[comptime] form: Form,
    #[comptime] tile: usize,
    #[comptime] shared: bool,
) {
    // 16 bytes are eight floats. A row has 64 floats here and eight more, so that neighbouring
    // rows lie in other banks.
    let all_rows = comptime!(2 * ROWS * 9);
    let all_tokens = comptime!(2 * tile * 9);
    let mut of_rows = Shared::<[Vector<f16, Const<8>>]>::new_slice(all_rows);
    let mut of_tokens = Shared::<[Vector<f16, Const<8>>]>::new_slice(all_tokens);
    let mut results = Shared::<[f32]>::new_slice(2048usize);

    let unit = UNIT_POS as usize;
    let plane = unit / 32usize;
    let tall = (tokens + comptime!(tile - 1)) / tile;
    let wide = (rows + comptime!(ROWS - 1)) / comptime!(ROWS);
    let first_token = CUBE_POS % tall * tile;
    let first_row = CUBE_POS / tall % wide * comptime!(ROWS);
    // Cubes beyond the last share do its work and do not write.
    let share = CUBE_POS / tall / wide;
    let begin = min(share, shares - 1usize) * each;
    let end = min(begin + each, (pieces + 1usize) / 2usize);

    // Which piece of which row this unit expands, and where it goes.
    let own_piece = unit % 2usize;
    let row = min(first_row + unit / 2usize, rows - 1usize) * row_words;
    let row_to = unit / 2usize * 9usize + own_piece * 4usize;
    // Of what tokens have in a step a unit copies 16 bytes of each 32nd token: so many of them.
    let copies = comptime!(tile / 32);
    let columns = pieces * comptime!(PIECE);
    let token = unit / 8usize;
    let place = unit % 8usize;

    // A plane has 32 of the rows, and half of the tokens.
    let down = comptime!(tile / 32);
    let plane_row = plane % 4usize * 32usize;
    let plane_token = plane / 4usize * comptime!(tile / 2);
    let mut totals = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(2 * down) {
        totals.push(cmma::Matrix::<f32>::from_value(
            cmma::MatrixIdent::Accumulator,
            16usize,
            16usize,
            16usize,
            cmma::MatrixLayout::Undefined,
            0.0f32,
        ));
    }

    let mut step = begin;
    let mut half = 0usize.runtime();
    // One round more than there are steps: the first has nothing to multiply.
    while step <= end {
        // The step after the last is the last once more, for which nothing has use.
        let coming = min(step, end - 1usize) * 2usize;
        let piece = min(coming + own_piece, pieces - 1usize);
        let words = words_of(weights, row, pieces, piece, form);
        let factors = factors_of(weights, row, pieces, piece, form);
        let counts = coming + own_piece < pieces;
        let copied = min(coming + place / 4usize, pieces - 1usize);
        let (low, high) = columns_of(copied, comptime!(form.format));
        let column = select(place / 2usize % 2usize == 0usize, low, high) / 8usize + place % 2usize;
        let mut copy = Array::<Words>::new(copies);
        #[unroll]
        for n in 0..copies {
            let from = min(first_token + token + n * 32usize, tokens - 1usize);
            copy[n] = input[from * (columns / 8usize) + column];
        }

        if step > begin {
            let from_rows = half * comptime!(ROWS * 9) + plane_row * 9usize;
            let from_tokens = half * comptime!(tile * 9) + plane_token * 9usize;
            #[unroll]
            for k in 0..4usize {
                let mut right = Sequence::<cmma::Matrix<Vector<f16, Const<8>>>>::new();
                #[unroll]
                for r in 0..2usize {
                    let at = from_rows + comptime!(r * 144 + k * 2);
                    right.push(cmma::Matrix::<Vector<f16, Const<8>>>::from_slice(
                        cmma::MatrixIdent::B,
                        16usize,
                        16usize,
                        16usize,
                        cmma::MatrixLayout::ColMajor,
                        &of_rows[at..all_rows],
                        72u32,
                    ));
                }
                #[unroll]
                for t in 0..down {
                    let at = from_tokens + comptime!(t * 144 + k * 2);
                    let left = cmma::Matrix::<Vector<f16, Const<8>>>::from_slice(
                        cmma::MatrixIdent::A,
                        16usize,
                        16usize,
                        16usize,
                        cmma::MatrixLayout::RowMajor,
                        &of_tokens[at..all_tokens],
                        72u32,
                    );
                    #[unroll]
                    for r in 0..2usize {
                        let total = totals.index(comptime!(2 * t + r));
                        cmma::execute(&left, right.index(r), total, total);
                    }
                }
            }
            half = 1usize - half;
        }

        // What is in this half was multiplied before all met last.
        #[unroll]
        for h in 0..2usize {
            let scale = select(counts, factors[2usize * h] * power, 0.0f32);
            let addend = select(counts, factors[2usize * h + 1usize] * power, 0.0f32);
            #[unroll]
            for n in 0..2usize {
                let four = eight_halves(&words, comptime!(4 * h + 2 * n), scale, addend, true);
                of_rows[half * comptime!(ROWS * 9) + row_to + comptime!(2 * h + n)] =
                    Vector::<f16, Const<8>>::reinterpret(four);
            }
        }
        #[unroll]
        for n in 0..copies {
            of_tokens[half * comptime!(tile * 9) + (token + comptime!(32 * n)) * 9usize + place] =
                Vector::<f16, Const<8>>::reinterpret(copy[n]);
        }
        sync_cube();
        step += 1usize;
    }

    // Each plane's results go through memory of its own, 16 rows and tokens at a time.
    let own = plane * 256usize;
    let lane = unit % 32usize;
    #[unroll]
    for t in 0..down {
        #[unroll]
        for r in 0..2usize {
            cmma::store(
                &mut results[own..2048usize],
                totals.index(comptime!(2 * t + r)),
                16u32,
                cmma::MatrixLayout::RowMajor,
            );
            sync_cube();
            let row = first_row + plane_row + comptime!(16 * r) + lane % 16usize;
            #[unroll]
            for n in 0..8usize {
                let within = lane / 16usize + comptime!(2 * n);
                let token = first_token + plane_token + comptime!(16 * t) + within;
                let result = results[own + within * 16usize + lane % 16usize];
                if row < rows && token < tokens && share < shares {
                    if comptime!(shared) {
                        out[(share * tokens + token) * rows + row] = result;
                    } else {
                        out[token * rows + row] = result * factor * powers[token];
                    }
                }
            }
            sync_cube();
        }
    }
}

/// Adds up what cubes that share tiles have found, and takes the powers out again, one after the
/// other: together they may be too small for a float.
#[cube(launch_unchecked)]
fn add_shares(
    parts: &[f32],
    powers: &[f32],
    out: &mut [f32],
    elements: usize,
    rows: usize,
    shares: usize,
    factor: f32,
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let mut total = 0.0f32;
        for share in 0..shares {
            total += parts[share * elements + at];
        }
        out[at] = total * factor * powers[at / rows];
    }
}
