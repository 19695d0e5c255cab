//! Products of a few tokens with packed weights: several rows a cube, the lanes of a row side by
//! side along it. Up to three matrices that have one input are one launch.

use cubecl::prelude::*;
use skep_kernels::Precision;

use super::{FEW, Matrix};
use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;
use crate::packed::{Form, PIECE, Words, columns_of, factors_of, words_of};
use crate::round::Rounded;

/// Units of a cube: teams of lanes, each with rows of its own.
const UNITS: u32 = 128;

/// The most matrices of a launch.
pub(super) const TOGETHER: usize = 3;

/// Rows that a team has at once. What is loaded of the activations serves all of them; for one token
/// they are little, and more teams have more loads under way.
fn rows_of_team(variant: usize) -> usize {
    match variant {
        1 => 1,
        FEW => 4,
        _ => 2,
    }
}

/// Pieces of a row that a lane has at once, so that loads are under way side by side. Two are
/// neighbours: in some formats what is taken apart for one is the other's too. With many tokens one
/// piece is as much as there are registers for.
fn pieces_of_lane(pieces: usize, lanes: usize, variant: usize) -> usize {
    let most = match variant {
        1 => 4,
        FEW => 1,
        _ => 2,
    };
    [4, 2, 1]
        .into_iter()
        .find(|count| *count <= most && pieces.is_multiple_of(count * lanes))
        .unwrap_or(1)
}

/// Products of rounded input `[tokens, columns]` with matrices of the same columns and precision,
/// of which there are one to [`TOGETHER`], each with its output.
pub(super) fn launch(
    gpu: &Gpu,
    products: &[(&Matrix, &Buffer)],
    input: &Rounded,
    tokens: usize,
) -> Result<(), GpuError> {
    let [first, rest @ ..] = products else {
        return Ok(());
    };
    let second = rest.first().unwrap_or(first);
    let third = rest.get(1).unwrap_or(first);
    let teams = UNITS / gpu.lanes;
    let variant = tokens.next_power_of_two().min(FEW);
    let each = rows_of_team(variant);
    let cubes_of = |matrix: &Matrix| matrix.rows.div_ceil(teams as usize * each);
    let count = products.iter().map(|(matrix, _)| cubes_of(matrix)).sum();
    let lanes = gpu.lanes as usize;
    let pieces = first.0.columns / PIECE;
    let unroll = pieces_of_lane(pieces, lanes, variant);
    guard("linear", || {
        // SAFETY: the buffers have the lengths that the caller has checked, and rows and tokens
        // beyond the last are read as the last and not written.
        unsafe {
            rows_of_few::launch_unchecked(
                gpu.client(),
                cubes(count),
                CubeDim::new_2d(gpu.lanes, teams),
                first.0.blocks.fours(),
                second.0.blocks.fours(),
                third.0.blocks.fours(),
                input.quants.fours(),
                input.scales.arg(),
                input.sums.arg(),
                first.1.arg(),
                second.1.arg(),
                third.1.arg(),
                first.0.rows,
                second.0.rows,
                third.0.rows,
                cubes_of(first.0),
                cubes_of(first.0) + cubes_of(second.0),
                first.0.row_bytes() / 16,
                second.0.row_bytes() / 16,
                third.0.row_bytes() / 16,
                pieces,
                tokens,
                [first.0.form, second.0.form, third.0.form],
                Shape {
                    matrices: products.len(),
                    block: Precision::of(first.0.form.format).block_len(),
                    variant,
                    each,
                    unroll,
                    whole: pieces.is_multiple_of(unroll * lanes),
                    lanes,
                    teams: teams as usize,
                    planes: gpu.planes,
                },
            );
        }
    })
}

/// What of a launch the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    matrices: usize,
    /// Elements of the input that have one scale.
    block: usize,
    /// Tokens, rounded up.
    variant: usize,
    /// Rows of a team.
    each: usize,
    /// Pieces of a lane at once.
    unroll: usize,
    /// Whether a row is a whole number of what all lanes have at once.
    whole: bool,
    lanes: usize,
    teams: usize,
    planes: bool,
}

#[cube(launch_unchecked)]
fn rows_of_few(
    first: &[Words],
    second: &[Words],
    third: &[Words],
    quants: &[Words],
    scales: &[f32],
    sums: &[f32],
    first_out: &mut [f32],
    second_out: &mut [f32],
    third_out: &mut [f32],
    first_rows: usize,
    second_rows: usize,
    third_rows: usize,
    first_cubes: usize,
    second_cubes: usize,
    first_words: usize,
    second_words: usize,
    third_words: usize,
    pieces: usize,
    tokens: usize,
    #[comptime] forms: [Form; 3],
    #[comptime] shape: Shape,
) {
    let mut shared = shared_of(
        comptime!(shape.variant * shape.each),
        comptime!(shape.lanes),
        comptime!(shape.teams),
        comptime!(shape.planes),
    );
    let cube = CUBE_POS;
    let is_first = comptime!(shape.matrices == 1) || cube < first_cubes;
    let is_second = comptime!(shape.matrices <= 2) || cube < second_cubes;
    if is_first {
        products(
            first,
            quants,
            scales,
            sums,
            first_out,
            &mut shared,
            first_rows,
            first_words,
            cube,
            pieces,
            tokens,
            comptime!(forms[0]),
            shape,
        );
    } else if is_second {
        products(
            second,
            quants,
            scales,
            sums,
            second_out,
            &mut shared,
            second_rows,
            second_words,
            cube - first_cubes,
            pieces,
            tokens,
            comptime!(forms[1]),
            shape,
        );
    } else {
        products(
            third,
            quants,
            scales,
            sums,
            third_out,
            &mut shared,
            third_rows,
            third_words,
            cube - second_cubes,
            pieces,
            tokens,
            comptime!(forms[2]),
            shape,
        );
    }
}

/// The products of one matrix's rows that cube number `cube` of it has.
#[cube]
fn products(
    weights: &[Words],
    quants: &[Words],
    scales: &[f32],
    sums: &[f32],
    out: &mut [f32],
    shared: &mut [f32],
    rows: usize,
    row_words: usize,
    cube: usize,
    pieces: usize,
    tokens: usize,
    #[comptime] form: Form,
    #[comptime] shape: Shape,
) {
    let each = comptime!(shape.each);
    let variant = comptime!(shape.variant);
    let lanes = comptime!(shape.lanes);
    let lane = UNIT_POS_X as usize;
    let team = UNIT_POS_Y as usize;
    let first = (cube * comptime!(shape.teams) + team) * each;
    let values = comptime!(shape.variant * shape.each);
    let mut totals = Array::<f32>::new(values);
    #[unroll]
    for n in 0..values {
        totals[n] = 0.0f32;
    }

    let columns = pieces * comptime!(PIECE);
    // Neighbours, if there are two at once.
    let beside = comptime!(if shape.unroll > 1 { 2usize } else { 1usize });
    let share = comptime!(shape.unroll > 1 && form.neighbours_share());
    let mut factors = Array::<f32>::new(comptime!(4 * shape.each));
    let mut begin = lane;
    while begin * beside < pieces {
        #[unroll]
        for u in 0..comptime!(shape.unroll) {
            let own = (begin + comptime!(u / beside * lanes)) * beside + comptime!(u % beside);
            let piece = if comptime!(shape.whole) {
                own
            } else {
                min(own, pieces - 1usize)
            };
            let (low, high) = columns_of(piece, comptime!(form.format));
            #[unroll]
            for r in 0..each {
                let row = min(first + r, rows - 1usize) * row_words;
                let words = words_of(weights, row, pieces, piece, form);
                if comptime!(!(share && u % 2 == 1)) {
                    let own = factors_of(weights, row, pieces, piece, form);
                    #[unroll]
                    for n in 0..4usize {
                        factors[4usize * r + n] = own[n];
                    }
                }
                #[unroll]
                for t in 0..variant {
                    let start = min(t, tokens - 1usize) * columns;
                    let of_low = quants[(start + low) / 16usize];
                    let of_high = quants[(start + high) / 16usize];
                    let mut sum_low = 0i32;
                    let mut sum_high = 0i32;
                    #[unroll]
                    for n in 0..4usize {
                        sum_low = dp4a(
                            i32::reinterpret(words[n]),
                            i32::reinterpret(of_low.extract(n)),
                            sum_low,
                        );
                        sum_high = dp4a(
                            i32::reinterpret(words[4usize + n]),
                            i32::reinterpret(of_high.extract(n)),
                            sum_high,
                        );
                    }
                    let sum = factors[4usize * r] * f32::cast_from(sum_low)
                        + factors[4usize * r + 1usize] * sums[(start + low) / 16usize]
                        + factors[4usize * r + 2usize] * f32::cast_from(sum_high)
                        + factors[4usize * r + 3usize] * sums[(start + high) / 16usize];
                    let scale = scales[(start + low) / comptime!(shape.block)];
                    if comptime!(shape.whole) {
                        totals[r * variant + t] += scale * sum;
                    } else {
                        totals[r * variant + t] += select(own < pieces, scale, 0.0f32) * sum;
                    }
                }
            }
        }
        begin += comptime!(shape.unroll / beside * shape.lanes);
    }
    finish(
        &totals,
        out,
        shared,
        rows,
        tokens,
        first,
        variant,
        each,
        lanes,
        comptime!(shape.planes),
    );
}

/// What [`finish`] needs: a number for each value of each lane where there are no planes.
#[cube]
pub(super) fn shared_of(
    #[comptime] values: usize,
    #[comptime] lanes: usize,
    #[comptime] teams: usize,
    #[comptime] planes: bool,
) -> Shared<[f32]> {
    Shared::<[f32]>::new_slice(comptime!(if planes { 1 } else { lanes * teams * values }))
}

/// Adds up the lanes' totals and writes them.
#[cube]
pub(super) fn finish(
    totals: &Array<f32>,
    out: &mut [f32],
    shared: &mut [f32],
    rows: usize,
    tokens: usize,
    first: usize,
    #[comptime] variant: usize,
    #[comptime] each: usize,
    #[comptime] lanes: usize,
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
