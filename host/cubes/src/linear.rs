//! Products of activations with packed weights, and rows of packed weights.
//!
//! For a few tokens memory decides: neighbouring lanes read neighbouring pieces of a row, each
//! piece is taken apart once for all tokens, and the lanes add up at the end. For many tokens
//! arithmetic decides: pieces of 64 rows and 64 tokens are put into shared memory, where each is
//! used 64 times, or where there are tensor cores, they multiply.

mod few;
mod floats;
mod halves;
mod many;
#[cfg(feature = "cuda")]
mod tiles;

use cubecl::prelude::*;
use skep_kernels::linear::Weights;
use skep_kernels::{PackedMatrix, Precision, ShapeError};
use skep_kernels::{expect_below, expect_len};
use skep_weights::{GroupInt4, PackedFormat};

use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;
use crate::numbers::{byte_of, half_to_float};
use crate::packed::{Form, PIECE, Words, columns_of, factors_of, halfword_at, words_of};
use crate::round::{Rounded, round};

/// The most tokens that are computed row by row.
const FEW: usize = 8;

/// A matrix of packed weights on the device: `rows` output features of `columns` input features.
#[derive(Debug)]
pub struct Matrix {
    form: Form,
    rows: usize,
    columns: usize,
    /// The weights, and a word of zeros.
    blocks: Buffer,
    /// What weights are multiplied with where they become 16-bit floats, a power of two.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    power: f32,
    /// Which input each column multiplies, where they are in an order of their own.
    order: Option<Order>,
}

/// An order of inputs, here and on the device.
#[derive(Debug)]
struct Order {
    inputs: Vec<u32>,
    placed: Buffer,
}

impl Matrix {
    /// Copies weights to the device, in the bits that they have.
    ///
    /// # Errors
    /// When the account has no room, or the weights take 4 GiB or more.
    pub fn upload(gpu: &Gpu, weights: &Weights<'_>) -> Result<Self, GpuError> {
        let power = match gpu.has_tensor_cores() {
            true => halves::power_for(weights),
            false => 1.0,
        };
        match weights {
            Weights::Packed(weights) => Self::upload_blocks(gpu, weights, power),
            Weights::Grouped(weights) => Self::upload_groups(gpu, weights, power),
        }
    }

    fn upload_blocks(gpu: &Gpu, weights: &PackedMatrix<'_>, power: f32) -> Result<Self, GpuError> {
        let form = Form::blocks(weights.format(), gpu.halves);
        expect_few(
            weights
                .rows()
                .saturating_mul(form.row_bytes(weights.columns())),
        )?;
        Ok(Self {
            form,
            rows: weights.rows(),
            columns: weights.columns(),
            blocks: gpu.upload_bytes(&form.arrange(weights.bytes(), weights.columns()))?,
            power,
            order: None,
        })
    }

    fn upload_groups(gpu: &Gpu, weights: &GroupInt4, power: f32) -> Result<Self, GpuError> {
        let (rows, columns) = (weights.rows(), weights.columns());
        let form = Form::groups(columns, weights.group(), gpu.halves);
        let length = rows.saturating_mul(form.row_bytes(columns));
        expect_few(length)?;
        let mut bytes = Vec::with_capacity(length);
        for row in (0..rows).filter_map(|row| weights.row(row)) {
            bytes.extend_from_slice(row.quants);
            for (scale, zero) in row.scales.iter().zip(row.zeros) {
                bytes.extend(scale.to_le_bytes());
                bytes.extend(u16::from(*zero).to_le_bytes());
            }
            bytes.resize(bytes.len().next_multiple_of(16), 0);
        }
        let order = weights.permutation().map(|inputs| -> Result<_, GpuError> {
            Ok(Order {
                inputs: inputs.to_vec(),
                placed: gpu.upload_words(inputs)?,
            })
        });
        Ok(Self {
            form,
            rows,
            columns,
            blocks: gpu.upload_bytes(&bytes)?,
            power,
            order: order.transpose()?,
        })
    }

    /// How the weights are packed; of 4-bit groups, how their bits lie.
    pub fn format(&self) -> PackedFormat {
        self.form.format
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
        self.form.row_bytes(self.columns)
    }

    /// What its input has to be rounded to, in the order of inputs; none where it is not, or where
    /// columns are in an order of their own.
    pub(crate) fn rounds_to(&self) -> Option<Precision> {
        (self.order.is_none() && self.precision() != Precision::F32).then(|| self.precision())
    }

    /// What its input has to be rounded to.
    fn precision(&self) -> Precision {
        Precision::of(self.form.format)
    }

    /// Which input each column multiplies, where they are in an order of their own.
    fn inputs(&self) -> Option<&[u32]> {
        self.order.as_ref().map(|order| &*order.inputs)
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
    let mut outputs = Vec::with_capacity(matrices.len());
    for matrix in matrices {
        let length = tokens.checked_mul(matrix.rows);
        outputs.push(gpu.empty(length.ok_or_else(|| too_long(tokens))?)?);
    }
    let products: Vec<_> = matrices.iter().copied().zip(&outputs).collect();
    linear_into(gpu, &products, input, None, tokens)?;
    Ok(outputs)
}

/// As [`linear`], into memory that is there. The input may have been rounded already, in some
/// precision and in the order of inputs.
pub(crate) fn linear_into(
    gpu: &Gpu,
    products: &[(&Matrix, &Buffer)],
    input: &Buffer,
    ready: Option<&Rounded>,
    tokens: usize,
) -> Result<(), GpuError> {
    let mut packed: Vec<(&Matrix, &Buffer)> = Vec::new();
    for (matrix, out) in products {
        let want = tokens.checked_mul(matrix.columns);
        expect_len("linear", "the input", input.len(), want)?;
        let want = tokens.checked_mul(matrix.rows);
        expect_len("linear", "the output", out.len(), want)?;
        if tokens == 0 || matrix.rows == 0 || matrix.columns == 0 {
            continue;
        }
        if matrix.precision() != Precision::F32 {
            packed.push((matrix, out));
        } else if tokens <= FEW {
            floats::few(gpu, matrix, input, tokens, out)?;
        } else {
            floats::many(gpu, matrix, input, tokens, out)?;
        }
    }
    while let Some((first, _)) = packed.first().copied() {
        let same = |(matrix, _): &(&Matrix, &Buffer)| {
            matrix.precision() == first.precision() && matrix.inputs() == first.inputs()
        };
        let (those, others): (Vec<_>, Vec<_>) = packed.into_iter().partition(same);
        packed = others;
        let is_ready = |ready: &&Rounded| {
            first.order.is_none() && ready.is_room_for(first.precision(), input.len())
        };
        if let Some(ready) = ready.filter(is_ready) {
            packed_products(gpu, &those, ready, tokens)?;
            continue;
        }
        let ordered = match &first.order {
            Some(order) => Some(put_in_order(gpu, order, input, tokens)?),
            None => None,
        };
        let input = ordered.as_ref().unwrap_or(input);
        let rounded = Rounded::room(gpu, first.precision(), tokens, first.columns)?;
        round(gpu, input, (tokens, first.columns), &rounded)?;
        packed_products(gpu, &those, &rounded, tokens)?;
    }
    Ok(())
}

/// Products of one rounded input with matrices of its precision.
fn packed_products(
    gpu: &Gpu,
    those: &[(&Matrix, &Buffer)],
    input: &Rounded,
    tokens: usize,
) -> Result<(), GpuError> {
    if tokens <= FEW {
        for some in those.chunks(few::TOGETHER) {
            few::launch(gpu, some, input, tokens)?;
        }
        return Ok(());
    }
    #[cfg(feature = "cuda")]
    if tiles::takes(gpu, tokens)
        && let Some((first, _)) = those.first()
    {
        let halves = halves::of_tokens(gpu, input, tokens, first.columns)?;
        for (matrix, out) in those {
            tiles::launch(gpu, matrix, &halves, tokens, out)?;
        }
        return Ok(());
    }
    for (matrix, out) in those {
        many::launch(gpu, matrix, input, tokens, out)?;
    }
    Ok(())
}

/// `out[token, column] = input[token, order[column]]`.
fn put_in_order(
    gpu: &Gpu,
    order: &Order,
    input: &Buffer,
    tokens: usize,
) -> Result<Buffer, GpuError> {
    let columns = order.inputs.len();
    let elements = tokens * columns;
    let out = gpu.empty(elements)?;
    guard("linear", || {
        // SAFETY: the input has as many elements as the output, and the weights' crate lets no order
        // be but one of all inputs.
        unsafe {
            elements_in_order::launch_unchecked(
                gpu.client(),
                cubes(elements.div_ceil(256)),
                CubeDim::new_1d(256),
                input.arg(),
                order.placed.arg(),
                out.arg(),
                elements,
                columns,
            );
        }
    })?;
    Ok(out)
}

#[cube(launch_unchecked)]
fn elements_in_order(
    input: &[f32],
    order: &[u32],
    out: &mut [f32],
    elements: usize,
    columns: usize,
) {
    let at = ABSOLUTE_POS;
    if at < elements {
        let column = at % columns;
        out[at] = input[at - column + order[column] as usize];
    }
}

/// A matrix whose bytes can be counted in 32 bits, as the device counts them.
fn expect_few(bytes: usize) -> Result<(), GpuError> {
    match u32::try_from(bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(GpuError::Unsupported(format!("a matrix of {bytes} bytes"))),
    }
}

/// The rows of these numbers, expanded and multiplied with `scale`: `[numbers, columns]`.
///
/// # Errors
/// When there is no such row, its columns are in an order of their own, the account has no room,
/// or the device fails.
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
    gather_placed(gpu, matrix, &table, numbers.len(), scale, &out)?;
    Ok(out)
}

/// As [`gather`], of so many numbers that were checked and lie on the device, into memory that is
/// there.
pub(crate) fn gather_placed(
    gpu: &Gpu,
    matrix: &Matrix,
    table: &Buffer,
    count: usize,
    scale: f32,
    out: &Buffer,
) -> Result<(), GpuError> {
    if matrix.order.is_some() {
        let what = "rows of a matrix whose columns are in an order of their own";
        return Err(GpuError::Unsupported(what.to_owned()));
    }
    let columns = matrix.columns;
    let length = count.checked_mul(columns);
    expect_len("gather", "the output", out.len(), length)?;
    if out.is_empty() {
        return Ok(());
    }
    guard("gather", || {
        // SAFETY: every number is one of a row, and the output has a row for each.
        unsafe {
            if matrix.precision() == Precision::F32 {
                let units = count * columns;
                gather_floats::launch_unchecked(
                    gpu.client(),
                    cubes(units.div_ceil(256)),
                    CubeDim::new_1d(256),
                    matrix.blocks.arg(),
                    table.arg(),
                    out.arg(),
                    units,
                    columns,
                    scale,
                    matrix.form.format,
                );
            } else {
                let units = count * (columns / PIECE);
                gather_pieces::launch_unchecked(
                    gpu.client(),
                    cubes(units.div_ceil(256)),
                    CubeDim::new_1d(256),
                    matrix.blocks.fours(),
                    table.arg(),
                    out.arg(),
                    units,
                    columns,
                    matrix.row_bytes() / 16,
                    scale,
                    matrix.form,
                );
            }
        }
    })
}

fn too_long(tokens: usize) -> ShapeError {
    ShapeError {
        operator: "linear",
        what: "the batch",
        got: tokens,
        want: 0,
    }
}

/// A unit expands a piece of a row.
#[cube(launch_unchecked)]
fn gather_pieces(
    weights: &[Words],
    numbers: &[u32],
    out: &mut [f32],
    units: usize,
    columns: usize,
    row_words: usize,
    scale: f32,
    #[comptime] form: Form,
) {
    let unit = ABSOLUTE_POS;
    if unit < units {
        let pieces = columns / comptime!(PIECE);
        let number = unit / pieces;
        let piece = unit % pieces;
        let row = numbers[number] as usize * row_words;
        let words = words_of(weights, row, pieces, piece, form);
        let factors = factors_of(weights, row, pieces, piece, form);
        let (first, second) = columns_of(piece, comptime!(form.format));
        #[unroll]
        for n in 0..16usize {
            let low = byte_of(words[n / 4usize], comptime!(n as u32 % 4u32));
            let high = byte_of(words[4usize + n / 4usize], comptime!(n as u32 % 4u32));
            let at = number * columns + n;
            out[at + first] = (f32::cast_from(low) * factors[0usize] + factors[1usize]) * scale;
            out[at + second] = (f32::cast_from(high) * factors[2usize] + factors[3usize]) * scale;
        }
    }
}

/// A unit makes an element that is not quantized.
#[cube(launch_unchecked)]
fn gather_floats(
    weights: &[u32],
    numbers: &[u32],
    out: &mut [f32],
    units: usize,
    columns: usize,
    scale: f32,
    #[comptime] format: PackedFormat,
) {
    let unit = ABSOLUTE_POS;
    if unit < units {
        let row = numbers[unit / columns] as usize;
        out[unit] = float_of(weights, row * columns + unit % columns, format) * scale;
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
