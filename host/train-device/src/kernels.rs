//! Frozen matrices in words of 32 bits, and the kernels that expand them.
//!
//! Both kernels write words too: a float, or two of 16 bits.

// A kernel has as many arguments as it has buffers and lengths.
#![allow(clippy::too_many_arguments)]

use burn::backend::Cube;
use burn::tensor::{DType, Tensor};
use cubecl::bytes::Bytes;
use cubecl::client::Client;
use cubecl::prelude::*;
use cubecl::server::Handle;
use skep_cubes::numbers::{byte_of, half_to_float};
use skep_cubes::packed::{self, Form, PIECE, columns_of, factors_of, halfword_at, words_of};
use skep_train::TrainError;
use skep_train::dynamic8::SIGNED;
use skep_train::nf4::{NF4, NF4_BLOCK, Nf4Matrix};
use skep_weights::{PackedFormat, PackedTensor};

use crate::place::{Compute, On};

/// Units of a cube.
const UNITS: u32 = 256;

/// A matrix on a device. There are some hundred of them, so their size does not matter.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Words {
    Nf4 {
        codes: Buffer,
        /// A byte for each 64 weights.
        scales: Buffer,
        /// A float for each 256 of these, and at the end the mean.
        outer: Buffer,
        /// The 16 values and after them the 256 numbers of scales.
        table: Buffer,
    },
    Blocks {
        form: Form,
        words: Buffer,
    },
}

/// Words on a device.
pub(crate) struct Buffer {
    handle: Handle,
    len: usize,
}

impl Buffer {
    fn new(client: &Client, bytes: &[u8]) -> Self {
        // A word of zeros beyond the end, which some formats read.
        let len = bytes.len().div_ceil(4) + 1;
        let mut padded = Vec::with_capacity(4 * len);
        padded.extend_from_slice(bytes);
        padded.resize(4 * len, 0);
        Self {
            handle: client.create(Bytes::from_bytes_vec(padded)),
            len,
        }
    }

    fn floats(client: &Client, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self::new(client, &bytes)
    }

    /// As an argument of four words an element.
    fn fours(&self) -> BufferArg {
        // SAFETY: the handle was made for more words.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.len / 4) }
    }

    fn arg(&self) -> BufferArg {
        // SAFETY: the handle was made for so many words.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.len) }
    }
}

/// The way to the device, which every tensor on it has.
fn client(on: &On) -> Result<Client, TrainError> {
    let some = Tensor::<1>::empty([1], (&on.device, DType::F32));
    let some = some.try_into_primitive::<Cube>();
    some.map(|some| some.client)
        .map_err(|error| TrainError::Device {
            reason: format!("it runs no kernels: {error:?}"),
        })
}

impl Words {
    /// Bytes that a matrix in NF4 takes on a device.
    pub fn nf4_bytes(matrix: &Nf4Matrix) -> u64 {
        let padded = |bytes: usize| 4 * (bytes.div_ceil(4) + 1);
        let outer = 4 * (matrix.outer_scales().len() + 1);
        let table = 4 * (NF4.len() + SIGNED.numbers.len());
        let all = [matrix.codes().len(), matrix.scales().len(), outer, table];
        all.into_iter().map(padded).sum::<usize>() as u64
    }

    pub fn nf4(on: &On, matrix: &Nf4Matrix) -> Result<Self, TrainError> {
        let client = client(on)?;
        let outer = [matrix.outer_scales(), &[matrix.mean()]].concat();
        let table = [&NF4[..], &SIGNED.numbers[..]].concat();
        Ok(Words::Nf4 {
            codes: Buffer::new(&client, matrix.codes()),
            scales: Buffer::new(&client, matrix.scales()),
            outer: Buffer::floats(&client, &outer),
            table: Buffer::floats(&client, &table),
        })
    }

    /// Blocks, or floats of 16 bits, an even number of them.
    pub fn blocks(on: &On, tensor: &PackedTensor) -> Result<Self, TrainError> {
        if !(tensor.rows() * tensor.columns()).is_multiple_of(2) {
            return Err(TrainError::Setting {
                what: "the weights of a frozen matrix",
                got: format!("{} by {}", tensor.rows(), tensor.columns()),
                want: "an even number of them, for a training on a device",
            });
        }
        let form = Form::blocks(tensor.format(), false);
        let rows = form.arrange(tensor.bytes(), tensor.columns());
        Ok(Words::Blocks {
            form,
            words: Buffer::new(&client(on)?, &rows),
        })
    }

    /// All weights, `[rows, columns]`.
    pub fn expand(&self, on: &On, rows: usize, columns: usize) -> Tensor<2> {
        let count = rows * columns;
        let out = Tensor::<1>::empty([count], (&on.device, on.compute.dtype()));
        #[expect(clippy::expect_used, reason = "the device is one of CubeCL's")]
        let out = out
            .try_into_primitive::<Cube>()
            .expect("a tensor of CubeCL");
        let halves = on.compute == Compute::Bf16;
        let words = if halves { count / 2 } else { count };
        // SAFETY: the tensor has so many words.
        let to = unsafe { BufferArg::from_raw_parts(out.handle.clone(), words) };
        let client = &out.client;
        match self {
            Words::Nf4 {
                codes,
                scales,
                outer,
                table,
            } =>
            // SAFETY: there are as many units as pairs or pieces of weights, and all buffers are of
            // as many.
            unsafe {
                let units = count / 2;
                expand_nf4::launch_unchecked(
                    client,
                    cubes(units),
                    CubeDim::new_1d(UNITS),
                    codes.arg(),
                    scales.arg(),
                    outer.arg(),
                    table.arg(),
                    to,
                    units,
                    count.div_ceil(NF4_BLOCK).div_ceil(256),
                    halves,
                );
            },
            Words::Blocks { form, words }
                if matches!(form.format, PackedFormat::F16 | PackedFormat::BF16) =>
            // SAFETY: there are as many units as pairs or pieces of weights, and all buffers are of
            // as many.
            unsafe {
                let units = count / 2;
                expand_floats::launch_unchecked(
                    client,
                    cubes(units),
                    CubeDim::new_1d(UNITS),
                    words.arg(),
                    to,
                    units,
                    form.format == PackedFormat::BF16,
                    halves,
                );
            },
            Words::Blocks { form, words } =>
            // SAFETY: there are as many units as pairs or pieces of weights, and all buffers are of
            // as many.
            unsafe {
                let units = count / PIECE;
                expand_blocks::launch_unchecked(
                    client,
                    cubes(units),
                    CubeDim::new_1d(UNITS),
                    words.fours(),
                    to,
                    units,
                    columns,
                    form.row_bytes(columns) / 16,
                    *form,
                    halves,
                );
            },
        }
        Tensor::<1>::from_primitive::<Cube>(out).reshape([rows, columns])
    }
}

/// Enough cubes for so many units.
fn cubes(units: usize) -> CubeCount {
    const WIDEST: usize = 32_768;
    let count = units.div_ceil(UNITS as usize).max(1);
    let wide = count.min(WIDEST);
    // Buffers have fewer than 2³² words, so there are fewer cubes than that.
    CubeCount::Static(wide as u32, count.div_ceil(wide) as u32, 1)
}

/// The upper 16 bits of a float, rounded to the nearest, ties to even.
#[cube]
fn upper_half(value: f32) -> u32 {
    let bits = u32::reinterpret(value);
    (bits + 0x7fffu32 + ((bits >> 16u32) & 1u32)) >> 16u32
}

/// A unit expands two weights, which are a byte.
#[cube(launch_unchecked)]
fn expand_nf4(
    codes: &[u32],
    scales: &[u32],
    outer: &[f32],
    table: &[f32],
    out: &mut [u32],
    units: usize,
    mean_at: usize,
    #[comptime] halves: bool,
) {
    let unit = ABSOLUTE_POS;
    if unit < units {
        let code = (codes[unit / 4usize] >> (u32::cast_from(unit % 4usize) * 8u32)) & 255u32;
        let block = unit / 32usize;
        let number = (scales[block / 4usize] >> (u32::cast_from(block % 4usize) * 8u32)) & 255u32;
        let scale = table[16usize + number as usize] * outer[block / 256usize] + outer[mean_at];
        let first = table[(code >> 4u32) as usize] * scale;
        let second = table[(code & 15u32) as usize] * scale;
        if comptime!(halves) {
            out[unit] = upper_half(first) | (upper_half(second) << 16u32);
        } else {
            out[2usize * unit] = u32::reinterpret(first);
            out[2usize * unit + 1usize] = u32::reinterpret(second);
        }
    }
}

/// A float of 16 bits: the upper half of one of 32, or one of its own kind.
#[cube]
fn float_of(bits: u32, #[comptime] upper: bool) -> f32 {
    if comptime!(upper) {
        f32::reinterpret(bits << 16u32)
    } else {
        half_to_float(bits)
    }
}

/// A unit expands two floats of 16 bits, which are a word.
#[cube(launch_unchecked)]
fn expand_floats(
    weights: &[u32],
    out: &mut [u32],
    units: usize,
    #[comptime] upper: bool,
    #[comptime] halves: bool,
) {
    let unit = ABSOLUTE_POS;
    if unit < units {
        let first = float_of(halfword_at(weights, 4usize * unit), upper);
        let second = float_of(halfword_at(weights, 4usize * unit + 2usize), upper);
        if comptime!(halves) {
            out[unit] = upper_half(first) | (upper_half(second) << 16u32);
        } else {
            out[2usize * unit] = u32::reinterpret(first);
            out[2usize * unit + 1usize] = u32::reinterpret(second);
        }
    }
}

/// A unit expands a piece of a row.
#[cube(launch_unchecked)]
fn expand_blocks(
    weights: &[packed::Words],
    out: &mut [u32],
    units: usize,
    columns: usize,
    row_words: usize,
    #[comptime] form: Form,
    #[comptime] halves: bool,
) {
    let unit = ABSOLUTE_POS;
    if unit < units {
        let pieces = columns / 32usize;
        let number = unit / pieces;
        let piece = unit % pieces;
        let row = number * row_words;
        let words = words_of(weights, row, pieces, piece, form);
        let factors = factors_of(weights, row, pieces, piece, form);
        let (first, second) = columns_of(piece, comptime!(form.format));
        #[unroll]
        for pair in 0..8usize {
            let word = pair / 2usize;
            let even = comptime!(pair as u32 % 2u32 * 2u32);
            let odd = comptime!(pair as u32 % 2u32 * 2u32 + 1u32);
            let a = f32::cast_from(byte_of(words[word], even)) * factors[0usize] + factors[1usize];
            let b = f32::cast_from(byte_of(words[word], odd)) * factors[0usize] + factors[1usize];
            let high = words[4usize + word];
            let c = f32::cast_from(byte_of(high, even)) * factors[2usize] + factors[3usize];
            let d = f32::cast_from(byte_of(high, odd)) * factors[2usize] + factors[3usize];
            let left = number * columns + first + 2usize * pair;
            let right = number * columns + second + 2usize * pair;
            if comptime!(halves) {
                out[left / 2usize] = upper_half(a) | (upper_half(b) << 16u32);
                out[right / 2usize] = upper_half(c) | (upper_half(d) << 16u32);
            } else {
                out[left] = u32::reinterpret(a);
                out[left + 1usize] = u32::reinterpret(b);
                out[right] = u32::reinterpret(c);
                out[right + 1usize] = u32::reinterpret(d);
            }
        }
    }
}
