//! The one layout of 4-bit groups that kernels read, and how AWQ's and GPTQ's become it.

use std::fmt;

use half::f16;
use safetensors::Dtype;

use super::config::BLOCK;
use super::{GroupedConfig, GroupedError, GroupedMethod};
use crate::folder::SafetensorsFolder;
use crate::format::{PackedFormat, check_finite};
use crate::tensor::RawTensor;

/// Elements of a 32-bit word.
const WORD: usize = 8;
/// Where AWQ puts each of eight outputs in a word, in units of four bits.
const AWQ_PLACE: [u32; WORD] = [0, 4, 1, 5, 2, 6, 3, 7];
/// One in every element of a word.
const ONES: u32 = 0x1111_1111;
/// Outputs that are repacked together, so that what is written stays in the cache.
const TILE: usize = 64;

/// A weight matrix `[rows, columns]` (outputs, inputs) of 4-bit integers in groups along its
/// rows, each group with a scale and a zero-point.
///
/// A row is `columns / 2` bytes: blocks of 32 elements in 16 bytes, byte `i` of a block holding
/// element `i` in its low and element `16 + i` in its high four bits, the order of Q4_0. Element
/// = (q − zero) · scale, which is exact in 32-bit floats.
///
/// With act-order, the columns are not in the order of the inputs: column `c` multiplies input
/// `permutation()[c]`. A kernel permutes the input once and then computes, for each row,
/// `Σ_groups scale · (Σ q·x − zero · Σ x)`.
#[derive(PartialEq)]
pub struct GroupInt4 {
    rows: usize,
    columns: usize,
    group: usize,
    permutation: Option<Vec<u32>>,
    quants: Vec<u8>,
    scales: Vec<f16>,
    zeros: Vec<u8>,
}

/// One row of a [`GroupInt4`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupRow<'a> {
    /// `columns / 2` bytes.
    pub quants: &'a [u8],
    /// One finite scale a group.
    pub scales: &'a [f16],
    /// One zero-point a group, from 0 to 15.
    pub zeros: &'a [u8],
}

/// The tensors of one layer as they lie in the file.
#[derive(Debug, Clone, Copy)]
pub struct GroupTensors<'a> {
    /// The quantized weights.
    pub qweight: &'a RawTensor,
    /// The zero-points.
    pub qzeros: &'a RawTensor,
    /// The scales.
    pub scales: &'a RawTensor,
    /// The group of each input, where groups are not runs of inputs.
    pub g_idx: Option<&'a RawTensor>,
}

impl GroupInt4 {
    /// Repacks the layer whose tensors are named `<layer>.qweight` and so on.
    ///
    /// # Errors
    /// When a tensor is missing, has a wrong type, does not fit the others, or holds a scale
    /// that is not finite.
    pub fn load(
        folder: &SafetensorsFolder,
        config: &GroupedConfig,
        layer: &str,
    ) -> Result<Self, GroupedError> {
        let part = |part: &'static str| {
            folder
                .raw(&format!("{layer}.{part}"))
                .ok_or_else(|| GroupedError::Missing {
                    layer: layer.to_owned(),
                    part,
                })
        };
        let tensors = GroupTensors {
            qweight: part("qweight")?,
            qzeros: part("qzeros")?,
            scales: part("scales")?,
            g_idx: match config.method {
                GroupedMethod::Gptq => part("g_idx").ok(),
                GroupedMethod::Awq => None,
            },
        };
        let matrix = Self::repack(layer, config, tensors)?;
        // All that is used from here on is the copy: with both in memory a model would take twice
        // its file while it is loaded.
        let GroupTensors {
            qweight,
            qzeros,
            scales,
            g_idx,
        } = tensors;
        [Some(qweight), Some(qzeros), Some(scales), g_idx]
            .into_iter()
            .flatten()
            .for_each(RawTensor::release);
        Ok(matrix)
    }

    /// Repacks `tensors`, which errors call `layer`. What is allocated is at most two bytes for
    /// each of theirs.
    ///
    /// # Errors
    /// As for [`GroupInt4::load`].
    pub fn repack(
        layer: &str,
        config: &GroupedConfig,
        tensors: GroupTensors<'_>,
    ) -> Result<Self, GroupedError> {
        let shape = Shape::check(layer, config, tensors)?;
        let Shape {
            rows,
            columns,
            group,
        } = shape;
        let permutation = match tensors.g_idx {
            Some(g_idx) => permutation(layer, &shape, g_idx)?,
            None => None,
        };
        let order: Vec<u32> = match &permutation {
            Some(order) => order.clone(),
            None => (0..columns as u32).collect(),
        };
        let words = tensors.qweight.bytes().as_chunks::<4>().0;
        let word = |at: usize| u32::from_le_bytes(words[at]);
        let mut quants = vec![0; rows * columns / 2];
        match config.method {
            GroupedMethod::Awq => repack_quants(&mut quants, rows, &order, |input, row| {
                word(input * (rows / WORD) + row / WORD) >> (4 * AWQ_PLACE[row % WORD])
            }),
            GroupedMethod::Gptq => repack_quants(&mut quants, rows, &order, |input, row| {
                word(input / WORD * rows + row) >> (4 * (input % WORD))
            }),
        }
        let groups = columns / group;
        let zero_words = tensors.qzeros.bytes().as_chunks::<4>().0;
        let scale_words = tensors.scales.bytes().as_chunks::<2>().0;
        let mut scales = vec![f16::ZERO; rows * groups];
        let mut zeros = vec![0; rows * groups];
        for group in 0..groups {
            for row in 0..rows {
                let to = row * groups + group;
                scales[to] = f16::from_le_bytes(scale_words[group * rows + row]);
                let word = u32::from_le_bytes(zero_words[group * (rows / WORD) + row / WORD]);
                let shifted = match config.method {
                    GroupedMethod::Awq => word >> (4 * AWQ_PLACE[row % WORD]),
                    GroupedMethod::Gptq if config.zeros_minus_one => {
                        word.wrapping_add(ONES) >> (4 * (row % WORD))
                    }
                    GroupedMethod::Gptq => word >> (4 * (row % WORD)),
                };
                zeros[to] = (shifted & 15) as u8;
            }
        }
        Ok(Self {
            rows,
            columns,
            group,
            permutation,
            quants,
            scales,
            zeros,
        })
    }

    /// The number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of inputs, a multiple of 32.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Columns of a group, a multiple of 32 that divides [`GroupInt4::columns`].
    pub fn group(&self) -> usize {
        self.group
    }

    /// The input that each column multiplies; none if columns are in the order of inputs.
    pub fn permutation(&self) -> Option<&[u32]> {
        self.permutation.as_deref()
    }

    /// Bytes that the matrix takes in memory.
    pub fn bytes(&self) -> usize {
        self.quants.len()
            + 2 * self.scales.len()
            + self.zeros.len()
            + self.permutation.as_ref().map_or(0, |order| 4 * order.len())
    }

    /// Row `index`, or none where there is no such row.
    pub fn row(&self, index: usize) -> Option<GroupRow<'_>> {
        if index >= self.rows {
            return None;
        }
        let (bytes, groups) = (self.columns / 2, self.columns / self.group);
        Some(GroupRow {
            quants: &self.quants[index * bytes..][..bytes],
            scales: &self.scales[index * groups..][..groups],
            zeros: &self.zeros[index * groups..][..groups],
        })
    }

    /// Writes row `index` to `out`, its elements in the order of inputs. Elements beyond those
    /// of the row, or of a row that is not there, stay as they are.
    pub fn dequantize_row(&self, index: usize, out: &mut [f32]) {
        let Some(row) = self.row(index) else {
            return;
        };
        for column in 0..self.columns {
            let byte = row.quants[column / BLOCK * (BLOCK / 2) + column % (BLOCK / 2)];
            let quant = match column % BLOCK < BLOCK / 2 {
                true => byte & 15,
                false => byte >> 4,
            };
            let group = column / self.group;
            let value = f32::from(quant as i8 - row.zeros[group] as i8);
            let input = match &self.permutation {
                Some(order) => order[column] as usize,
                None => column,
            };
            if let Some(out) = out.get_mut(input) {
                *out = value * row.scales[group].to_f32();
            }
        }
    }
}

impl fmt::Debug for GroupInt4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupInt4[{}, {}]", self.rows, self.columns)?;
        write!(f, " in groups of {}", self.group)?;
        match self.permutation {
            Some(_) => f.write_str(", permuted"),
            None => Ok(()),
        }
    }
}

/// The sizes of a layer, which its tensors agree on.
struct Shape {
    rows: usize,
    columns: usize,
    group: usize,
}

impl Shape {
    fn check(
        layer: &str,
        config: &GroupedConfig,
        tensors: GroupTensors<'_>,
    ) -> Result<Self, GroupedError> {
        let qweight = matrix(layer, "qweight", tensors.qweight, Dtype::I32, "I32")?;
        let qzeros = matrix(layer, "qzeros", tensors.qzeros, Dtype::I32, "I32")?;
        let scales = matrix(layer, "scales", tensors.scales, Dtype::F16, "F16")?;
        let wrong = |part, tensor: &RawTensor, reason| GroupedError::WrongShape {
            layer: layer.to_owned(),
            part,
            got: tensor.shape().to_vec(),
            reason,
        };
        // None of these wraps: each product counts elements of a tensor that lies in a file.
        let (columns, rows) = match config.method {
            GroupedMethod::Awq => (qweight.0, qweight.1 * WORD),
            GroupedMethod::Gptq => (qweight.0 * WORD, qweight.1),
        };
        let group = config.group.unwrap_or(columns);
        if rows == 0 || columns == 0 || !rows.is_multiple_of(WORD) {
            let reason = format!("{rows} outputs by {columns} inputs cannot be packed by eights");
            return Err(wrong("qweight", tensors.qweight, reason));
        }
        if !columns.is_multiple_of(BLOCK) || !columns.is_multiple_of(group) {
            let reason = format!("{columns} inputs are no whole number of groups of {group}");
            return Err(wrong("qweight", tensors.qweight, reason));
        }
        let groups = columns / group;
        if scales != (groups, rows) {
            let reason = format!("{groups} groups of {rows} outputs need [{groups}, {rows}]");
            return Err(wrong("scales", tensors.scales, reason));
        }
        if qzeros != (groups, rows / WORD) {
            let words = rows / WORD;
            let reason = format!("{groups} groups of {rows} outputs need [{groups}, {words}]");
            return Err(wrong("qzeros", tensors.qzeros, reason));
        }
        if check_finite(PackedFormat::F16, tensors.scales.bytes()).is_err() {
            return Err(GroupedError::NotFinite {
                layer: layer.to_owned(),
            });
        }
        Ok(Self {
            rows,
            columns,
            group,
        })
    }
}

/// The sides of a tensor that must be a matrix of elements of type `dtype`.
fn matrix(
    layer: &str,
    part: &'static str,
    tensor: &RawTensor,
    dtype: Dtype,
    want: &'static str,
) -> Result<(usize, usize), GroupedError> {
    if tensor.dtype() != dtype {
        return Err(GroupedError::WrongType {
            layer: layer.to_owned(),
            part,
            got: format!("{:?}", tensor.dtype()),
            want,
        });
    }
    match *tensor.shape() {
        // A matrix without elements may have a side of any length.
        [first, second] if first > 0 && second > 0 => Ok((first as usize, second as usize)),
        _ => Err(GroupedError::WrongShape {
            layer: layer.to_owned(),
            part,
            got: tensor.shape().to_vec(),
            reason: "it must be a matrix with elements".to_owned(),
        }),
    }
}

/// The inputs sorted by group, each group's in ascending order; none if they already are.
fn permutation(
    layer: &str,
    shape: &Shape,
    g_idx: &RawTensor,
) -> Result<Option<Vec<u32>>, GroupedError> {
    if g_idx.dtype() != Dtype::I32 {
        return Err(GroupedError::WrongType {
            layer: layer.to_owned(),
            part: "g_idx",
            got: format!("{:?}", g_idx.dtype()),
            want: "I32",
        });
    }
    if *g_idx.shape() != [shape.columns as u64] {
        return Err(GroupedError::WrongShape {
            layer: layer.to_owned(),
            part: "g_idx",
            got: g_idx.shape().to_vec(),
            reason: format!("{} inputs need [{0}]", shape.columns),
        });
    }
    let groups = shape.columns / shape.group;
    let indices: Vec<i32> = g_idx
        .bytes()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| i32::from_le_bytes(*bytes))
        .collect();
    if indices.iter().all(|&index| index == 0) {
        return Ok(None);
    }
    let unsound = |reason| GroupedError::GroupIndex {
        layer: layer.to_owned(),
        reason,
    };
    let mut filled = vec![0_usize; groups];
    let mut order = vec![0_u32; shape.columns];
    for (input, &index) in indices.iter().enumerate() {
        let group = usize::try_from(index)
            .ok()
            .filter(|&group| group < groups)
            .ok_or_else(|| unsound(format!("input {input} is in group {index} of {groups}")))?;
        if filled[group] == shape.group {
            return Err(unsound(format!(
                "group {group} has more than {} inputs",
                shape.group
            )));
        }
        order[group * shape.group + filled[group]] = input as u32;
        filled[group] += 1;
    }
    // No group has more inputs than its share, so each has just its share.
    let sorted = order
        .iter()
        .enumerate()
        .all(|(at, &input)| at == input as usize);
    Ok((!sorted).then_some(order))
}

/// Writes blocks of 32 elements to `quants`. `shifted(input, row)` has the element in its lowest
/// four bits.
fn repack_quants(
    quants: &mut [u8],
    rows: usize,
    order: &[u32],
    shifted: impl Fn(usize, usize) -> u32,
) {
    let row_bytes = order.len() / 2;
    for (tile, quants) in quants.chunks_mut(TILE * row_bytes).enumerate() {
        let first = tile * TILE;
        for (block, inputs) in order.as_chunks::<BLOCK>().0.iter().enumerate() {
            for row in first..rows.min(first + TILE) {
                let at = (row - first) * row_bytes + block * (BLOCK / 2);
                let to = &mut quants[at..][..BLOCK / 2];
                for (i, byte) in to.iter_mut().enumerate() {
                    let low = shifted(inputs[i] as usize, row) & 15;
                    let high = shifted(inputs[BLOCK / 2 + i] as usize, row) & 15;
                    *byte = (low | high << 4) as u8;
                }
            }
        }
    }
}
