//! Products of activations with packed weights, and rows of packed weights.
//!
//! For a few tokens memory decides: neighbouring lanes read neighbouring pieces of a row, each
//! piece is taken apart once for all tokens, and the lanes add up at the end. For many tokens
//! arithmetic decides: pieces of 64 rows and 64 tokens are put into shared memory, where each is
//! used 64 times.

mod few;
mod floats;
mod many;

use cubecl::prelude::*;
use skep_kernels::linear::Weights;
use skep_kernels::{Precision, ShapeError};
use skep_kernels::{expect_below, expect_len};
use skep_weights::PackedFormat;

use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;
use crate::numbers::{byte_of, half_to_float};
use crate::packed::{PIECE, columns_of, factors_of, halfword_at, words_of};
use crate::round::{Rounded, round};

/// The most tokens that are computed row by row.
const FEW: usize = 8;

/// A matrix of packed weights on the device: `rows` output features of `columns` input features.
#[derive(Debug)]
pub struct Matrix {
    format: PackedFormat,
    rows: usize,
    columns: usize,
    /// The blocks of the file, and a word of zeros.
    blocks: Buffer,
}

impl Matrix {
    /// Copies weights to the device as they are.
    ///
    /// # Errors
    /// When the account has no room, or the weights are of a form that has no kernel here: 4-bit
    /// groups, and matrices of 4 GiB or more.
    pub fn upload(gpu: &Gpu, weights: &Weights<'_>) -> Result<Self, GpuError> {
        let Weights::Packed(weights) = weights else {
            return Err(GpuError::Unsupported("a matrix of 4-bit groups".to_owned()));
        };
        let (format, rows, columns) = (weights.format(), weights.rows(), weights.columns());
        if u32::try_from(weights.bytes().len()).is_err() {
            let bytes = weights.bytes().len();
            return Err(GpuError::Unsupported(format!("a matrix of {bytes} bytes")));
        }
        Ok(Self {
            format,
            rows,
            columns,
            blocks: gpu.upload_bytes(weights.bytes())?,
        })
    }

    /// How the weights are packed.
    pub fn format(&self) -> PackedFormat {
        self.format
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes that its weights take.
    pub fn bytes(&self) -> usize {
        self.rows * self.row_bytes()
    }

    fn row_bytes(&self) -> usize {
        self.columns / self.format.block_len() * self.format.block_bytes()
    }
}

/// For each matrix `input[tokens, columns] · weightsᵀ`: `[tokens, rows]`. The input is rounded
/// once for all matrices that take it in the same precision.
///
/// # Errors
/// When lengths do not fit together, the account has no room, or the device fails.
pub fn linear(
    gpu: &Gpu,
    matrices: &[&Matrix],
    input: &Buffer,
    tokens: usize,
) -> Result<Vec<Buffer>, GpuError> {
    let mut rounded: Vec<(Precision, Rounded)> = Vec::new();
    let mut outputs = Vec::with_capacity(matrices.len());
    for matrix in matrices {
        let want = tokens.checked_mul(matrix.columns);
        expect_len("linear", "the input", input.len(), want)?;
        let out = gpu.empty(
            tokens
                .checked_mul(matrix.rows)
                .ok_or_else(|| too_long(tokens))?,
        )?;
        if tokens == 0 || matrix.rows == 0 || matrix.columns == 0 {
            outputs.push(out);
            continue;
        }
        let precision = Precision::of(matrix.format);
        if precision == Precision::F32 {
            match tokens <= FEW {
                true => floats::few(gpu, matrix, input, tokens, &out)?,
                false => floats::many(gpu, matrix, input, tokens, &out)?,
            }
        } else {
            let at = match rounded.iter().position(|(of, _)| *of == precision) {
                Some(at) => at,
                None => {
                    let made = round(gpu, precision, input, tokens, matrix.columns)?;
                    rounded.push((precision, made));
                    rounded.len() - 1
                }
            };
            let input = &rounded[at].1;
            match tokens <= FEW {
                true => few::launch(gpu, matrix, input, tokens, &out)?,
                false => many::launch(gpu, matrix, input, tokens, &out)?,
            }
        }
        outputs.push(out);
    }
    Ok(outputs)
}

/// The rows of these numbers, expanded and multiplied with `scale`: `[numbers, columns]`.
///
/// # Errors
/// When there is no such row, the account has no room, or the device fails.
pub fn gather(gpu: &Gpu, matrix: &Matrix, numbers: &[u32], scale: f32) -> Result<Buffer, GpuError> {
    if let Some(last) = numbers.iter().max() {
        expect_below("gather", "the rows", *last as usize, matrix.rows)?;
    }
    let columns = matrix.columns;
    let length = numbers.len().checked_mul(columns);
    let out = gpu.empty(length.ok_or_else(|| too_long(numbers.len()))?)?;
    if numbers.is_empty() || columns == 0 {
        return Ok(out);
    }
    let table = gpu.upload_words(numbers)?;
    let packed = Precision::of(matrix.format) != Precision::F32;
    let units = numbers.len() * if packed { columns / PIECE } else { columns };
    guard("gather", || {
        // SAFETY: every number is one of a row, and the output has a row for each.
        unsafe {
            gather_rows::launch_unchecked(
                gpu.client(),
                cubes(units.div_ceil(256)),
                CubeDim::new_1d(256),
                matrix.blocks.arg(),
                table.arg(),
                out.arg(),
                units,
                columns,
                matrix.row_bytes(),
                scale,
                matrix.format,
                packed,
            );
        }
    })?;
    Ok(out)
}

fn too_long(tokens: usize) -> ShapeError {
    ShapeError {
        operator: "linear",
        what: "the batch",
        got: tokens,
        want: 0,
    }
}

/// A unit expands a piece of a row, or an element that is not quantized.
#[cube(launch_unchecked)]
fn gather_rows(
    weights: &[u32],
    numbers: &[u32],
    out: &mut [f32],
    units: usize,
    columns: usize,
    row_bytes: usize,
    scale: f32,
    #[comptime] format: PackedFormat,
    #[comptime] packed: bool,
) {
    let unit = ABSOLUTE_POS;
    if unit < units {
        if comptime!(packed) {
            let pieces = columns / 32usize;
            let number = unit / pieces;
            let piece = unit % pieces;
            let row = numbers[number] as usize * row_bytes;
            let words = words_of(weights, row, piece, format);
            let factors = factors_of(weights, row, piece, format);
            let (first, second) = columns_of(piece, format);
            #[unroll]
            for n in 0..16usize {
                let low = byte_of(words[n / 4usize], comptime!(n as u32 % 4u32));
                let high = byte_of(words[4usize + n / 4usize], comptime!(n as u32 % 4u32));
                let at = number * columns + n;
                out[at + first] = (f32::cast_from(low) * factors[0usize] + factors[1usize]) * scale;
                out[at + second] =
                    (f32::cast_from(high) * factors[2usize] + factors[3usize]) * scale;
            }
        } else {
            let row = numbers[unit / columns] as usize;
            let at = row * columns + unit % columns;
            out[unit] = float_of(weights, at, format) * scale;
        }
    }
}

/// Element `at` of weights that are not quantized.
#[cube]
fn float_of(weights: &[u32], at: usize, #[comptime] format: PackedFormat) -> f32 {
    match format {
        PackedFormat::F32 => f32::reinterpret(weights[at]),
        PackedFormat::F16 => half_to_float(halfword_at(weights, 2usize * at)),
        _ => f32::reinterpret(halfword_at(weights, 2usize * at) << 16u32),
    }
}
