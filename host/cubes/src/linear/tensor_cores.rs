//! Products of many tokens on tensor cores, where CUDA has them: rows of weights are expanded to
//! 16-bit floats, some at a time, and multiplied with the tokens by a kernel of CubeK's, which adds
//! up in 32 bits.

use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::zspace::{shape, strides};
use cubek_matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek_matmul::multi_level::Strategy as Levels;
use cubek_matmul::strategy::Strategy;
use cubek_std::InputBinding;
use half::f16;

use super::Matrix;
use super::halves::{self, Halves};
use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;

/// Bytes of weights that are expanded at a time.
const EXPANDED: usize = 64 << 20;

/// Rows that a piece of a matrix is a multiple of.
const ROWS: usize = 256;

/// The fewest tokens that are multiplied here: below it, expanding the weights costs more than it saves.
const FEWEST: usize = 64;

/// Whether this product is one for tensor cores.
pub(super) fn takes(gpu: &Gpu, tokens: usize) -> bool {
    gpu.has_tensor_cores() && tokens >= FEWEST
}

pub(super) fn launch(
    gpu: &Gpu,
    matrix: &Matrix,
    input: &Halves,
    tokens: usize,
    out: &Buffer,
) -> Result<(), GpuError> {
    let (rows, columns) = (matrix.rows, matrix.columns);
    let piece = (EXPANDED / (2 * columns) / ROWS * ROWS).clamp(ROWS, rows.max(ROWS));
    let expanded = gpu.empty(piece.min(rows) * columns / 2)?;
    let mut first = 0;
    while first < rows {
        let count = piece.min(rows - first);
        halves::of_rows(gpu, matrix, first, count, &expanded)?;
        multiply(
            gpu,
            input,
            &expanded,
            tokens,
            columns,
            out,
            first..first + count,
            rows,
        )?;
        first += count;
    }
    let elements = tokens * rows;
    guard("linear", || {
        // SAFETY: the output has so many elements, and there is a power for each token.
        unsafe {
            times_powers::launch_unchecked(
                gpu.client(),
                cubes(elements.div_ceil(256)),
                CubeDim::new_1d(256),
                out.arg(),
                input.powers.arg(),
                elements,
                rows,
                // Exact: the power is one of two.
                1.0 / matrix.power,
            );
        }
    })
}

/// `out[tokens, within] = input[tokens, columns] · expandedᵀ` of an output with so many rows a token.
fn multiply(
    gpu: &Gpu,
    input: &Halves,
    expanded: &Buffer,
    tokens: usize,
    columns: usize,
    out: &Buffer,
    within: std::ops::Range<usize>,
    rows: usize,
) -> Result<(), GpuError> {
    let halves: ElemType = f16::elem_type_native();
    let floats: ElemType = f32::elem_type_native();
    let count = within.len();
    let made = guard("linear", || {
        // SAFETY: the buffers are as long as their shapes and strides say: the input and the
        // expanded rows two 16-bit floats a word, and the output's rows begin at `within`.
        let (left, right, to) = unsafe {
            (
                TensorBinding::from_raw_parts(
                    input.words.handle(),
                    strides![columns, 1],
                    shape![tokens, columns],
                ),
                TensorBinding::from_raw_parts(
                    expanded.handle(),
                    strides![1, columns],
                    shape![columns, count],
                ),
                TensorBinding::from_raw_parts(
                    out.handle().offset_start(4 * within.start as u64),
                    strides![rows, 1],
                    shape![tokens, count],
                ),
            )
        };
        let mut types = MatmulElems::from_globals(&MatmulGlobalElems {
            lhs: halves,
            rhs: halves,
            out: floats,
        });
        cubek_matmul::launch::launch_ref(
            &Strategy::MultiLevel(Levels::SimpleCyclicMma(Default::default())),
            gpu.client(),
            InputBinding::new(left, halves),
            InputBinding::new(right, halves),
            to,
            &mut types,
        )
    })?;
    made.map_err(|error| GpuError::Failed(format!("a product by tensor cores: {error:?}")))
}

/// `out[token, row] *= powers[token] * factor`, one after the other: together they may be too small
/// for a float.
#[cube(launch_unchecked)]
fn times_powers(out: &mut [f32], powers: &[f32], elements: usize, rows: usize, factor: f32) {
    let at = ABSOLUTE_POS;
    if at < elements {
        out[at] = out[at] * factor * powers[at / rows];
    }
}
