//! Products of many tokens with packed weights: tiles of 64 rows and 64 tokens, as integers.

use cubecl::prelude::*;
use skep_kernels::Precision;

use super::Matrix;
use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;
use crate::packed::{Form, PIECE, Words, columns_of, factors_of, words_of};
use crate::round::Rounded;

/// Rows and tokens of a tile. Each of 16 times 16 units makes 4 times 4 of its results.
const TILE: usize = 64;

pub(super) fn launch(
    gpu: &Gpu,
    matrix: &Matrix,
    input: &Rounded,
    tokens: usize,
    out: &Buffer,
) -> Result<(), GpuError> {
    let wide = matrix.rows.div_ceil(TILE);
    guard("linear", || {
        // SAFETY: the buffers have the lengths that the caller has checked, and rows, tokens and
        // pieces beyond the last are read as the last, count for nothing and are not written.
        unsafe {
            tiles_of_many::launch_unchecked(
                gpu.client(),
                cubes(wide * tokens.div_ceil(TILE)),
                CubeDim::new_1d(256),
                matrix.blocks.fours(),
                input.quants.arg(),
                input.scales.arg(),
                input.sums.arg(),
                out.arg(),
                matrix.rows,
                matrix.columns,
                matrix.row_bytes() / 16,
                tokens,
                matrix.form,
                Precision::of(matrix.form.format).block_len(),
            );
        }
    })
}

#[cube(launch_unchecked)]
fn tiles_of_many(
    weights: &[Words],
    quants: &[u32],
    scales: &[f32],
    sums: &[f32],
    out: &mut [f32],
    rows: usize,
    columns: usize,
    row_words: usize,
    tokens: usize,
    #[comptime] form: Form,
    #[comptime] block: usize,
) {
    // [piece, word, row or token], so that neighbouring units read neighbouring words.
    let mut of_rows = Shared::<[u32]>::new_slice(2048usize);
    let mut of_tokens = Shared::<[u32]>::new_slice(2048usize);
    // [piece, one of four, row] and [piece, one of three, token].
    let mut row_factors = Shared::<[f32]>::new_slice(1024usize);
    let mut token_factors = Shared::<[f32]>::new_slice(768usize);

    let unit = UNIT_POS as usize;
    let wide = (rows + 63usize) / 64usize;
    let first_row = CUBE_POS % wide * 64usize;
    let first_token = CUBE_POS / wide * 64usize;
    let across = unit % 16usize;
    let down = unit / 16usize;
    // Of the 4 pieces and 64 rows and tokens, each unit fetches one.
    let own = unit % 64usize;
    let own_piece = unit / 64usize;
    let row = min(first_row + own, rows - 1usize) * row_words;
    let start = min(first_token + own, tokens - 1usize) * columns;

    let mut totals = Array::<f32>::new(16usize);
    #[unroll]
    for n in 0..16usize {
        totals[n] = 0.0f32;
    }
    let pieces = columns / comptime!(PIECE);
    let mut begin = 0usize.runtime();
    while begin < pieces {
        let piece = min(begin + own_piece, pieces - 1usize);
        let words = words_of(weights, row, pieces, piece, form);
        let factors = factors_of(weights, row, pieces, piece, form);
        let (low, high) = columns_of(piece, comptime!(form.format));
        #[unroll]
        for n in 0..8usize {
            of_rows[(own_piece * 8usize + n) * 64usize + own] = words[n];
        }
        #[unroll]
        for n in 0..4usize {
            row_factors[(own_piece * 4usize + n) * 64usize + own] = factors[n];
            of_tokens[(own_piece * 8usize + n) * 64usize + own] =
                quants[(start + low) / 4usize + n];
            of_tokens[(own_piece * 8usize + 4usize + n) * 64usize + own] =
                quants[(start + high) / 4usize + n];
        }
        let counts = begin + own_piece < pieces;
        token_factors[own_piece * 192usize + own] =
            select(counts, scales[(start + low) / block], 0.0f32);
        token_factors[own_piece * 192usize + 64usize + own] = sums[(start + low) / 16usize];
        token_factors[own_piece * 192usize + 128usize + own] = sums[(start + high) / 16usize];
        sync_cube();

        for p in 0..4usize {
            let mut fours = Array::<u32>::new(32usize);
            #[unroll]
            for n in 0..8usize {
                #[unroll]
                for r in 0..4usize {
                    fours[r * 8usize + n] =
                        of_rows[(p * 8usize + n) * 64usize + across + 16usize * r];
                }
            }
            #[unroll]
            for t in 0..4usize {
                let token = down + 16usize * t;
                let mut others = Array::<u32>::new(8usize);
                #[unroll]
                for n in 0..8usize {
                    others[n] = of_tokens[(p * 8usize + n) * 64usize + token];
                }
                let scale = token_factors[p * 192usize + token];
                let sum_low = token_factors[p * 192usize + 64usize + token];
                let sum_high = token_factors[p * 192usize + 128usize + token];
                #[unroll]
                for r in 0..4usize {
                    let mut of_low = 0i32;
                    let mut of_high = 0i32;
                    #[unroll]
                    for n in 0..4usize {
                        of_low = dp4a(
                            i32::reinterpret(fours[r * 8usize + n]),
                            i32::reinterpret(others[n]),
                            of_low,
                        );
                        of_high = dp4a(
                            i32::reinterpret(fours[r * 8usize + 4usize + n]),
                            i32::reinterpret(others[4usize + n]),
                            of_high,
                        );
                    }
                    let at = p * 256usize + across + 16usize * r;
                    let sum = row_factors[at] * f32::cast_from(of_low)
                        + row_factors[at + 64usize] * sum_low
                        + row_factors[at + 128usize] * f32::cast_from(of_high)
                        + row_factors[at + 192usize] * sum_high;
                    totals[t * 4usize + r] += scale * sum;
                }
            }
        }
        sync_cube();
        begin += 4usize;
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
