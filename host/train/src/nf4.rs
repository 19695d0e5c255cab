//! NF4: weights in 4 bits whose 16 values are quantiles of a normal distribution, with their
//! scales in 8 bits (QLoRA, arXiv 2305.14314, sections 3 and E).
//!
//! 64 consecutive weights share a scale, their largest magnitude. The scales themselves, less
//! their mean, are rounded in blocks of 256 to 8-bit numbers ([`crate::dynamic8`]), with a 32-bit
//! scale for each block: 4 + 8/64 + 32/(64·256) = 4.127 bits a weight. Codes lie two in a byte,
//! the first in the upper half, as in bitsandbytes.

use std::ops::Range;

use skep_accounts::{Account, MemoryCharge};

use crate::dynamic8::{self, SIGNED};
use crate::error::TrainError;
use crate::gemm::RowSource;

/// The 16 values, as published (arXiv 2305.14314, appendix E).
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Weights with one scale.
pub const NF4_BLOCK: usize = 64;

/// A matrix `[rows, columns]` in NF4, charged to an account.
#[derive(Debug)]
pub struct Nf4Matrix {
    rows: usize,
    columns: usize,
    /// Two codes a byte, row after row.
    codes: Vec<u8>,
    /// For each block of 64 its scale less the mean, as a code.
    scales: Vec<u8>,
    /// What 256 of those are multiplied with.
    outer: Vec<f32>,
    /// The mean of all scales.
    mean: f32,
    charge: MemoryCharge,
}

impl Nf4Matrix {
    /// Rounds a matrix whose rows `read` writes, one after the other: it is never whole in
    /// memory.
    ///
    /// # Errors
    /// When the account has no room for it. Its columns must be an even number, for a byte holds
    /// two of them.
    pub fn quantize(
        rows: usize,
        columns: usize,
        account: &Account,
        mut read: impl FnMut(usize, &mut [f32]),
    ) -> Result<Self, TrainError> {
        if !columns.is_multiple_of(2) {
            return Err(TrainError::shape("nf4", "a row", columns, columns + 1));
        }
        let count = rows * columns;
        let blocks = count.div_ceil(NF4_BLOCK);
        let outer = blocks.div_ceil(dynamic8::BLOCK);
        let bytes = count.div_ceil(2) + blocks + 4 * outer;
        let charge = account.charge_memory(bytes as u64)?;
        let mut codes = Vec::with_capacity(count.div_ceil(2));
        let mut largest = Vec::with_capacity(blocks);
        // Blocks go on from row to row.
        let (mut row, mut waiting) = (vec![0.0; columns], Vec::with_capacity(columns + NF4_BLOCK));
        for number in 0..rows {
            read(number, &mut row);
            waiting.extend_from_slice(&row);
            let whole = waiting.len() / NF4_BLOCK * NF4_BLOCK;
            for block in waiting[..whole].chunks_exact(NF4_BLOCK) {
                largest.push(quantize_block(block, &mut codes));
            }
            waiting.drain(..whole);
        }
        if !waiting.is_empty() {
            largest.push(quantize_block(&waiting, &mut codes));
        }
        let sum: f64 = largest.iter().map(|x| f64::from(*x)).sum();
        let mean = (sum / blocks.max(1) as f64) as f32;
        for scale in &mut largest {
            *scale -= mean;
        }
        let mut scales = vec![0; blocks];
        let outer = largest
            .chunks(dynamic8::BLOCK)
            .zip(scales.chunks_mut(dynamic8::BLOCK))
            .map(|(values, codes)| SIGNED.quantize(values, codes))
            .collect();
        Ok(Self {
            rows,
            columns,
            codes,
            scales,
            outer,
            mean,
            charge,
        })
    }

    /// A matrix of these parts: random ones mean nothing, and take the room and the time of others.
    ///
    /// # Errors
    /// When the account has no room for it, or lengths are not those of a matrix of so many rows
    /// and columns.
    pub fn from_parts(
        (rows, columns): (usize, usize),
        codes: Vec<u8>,
        scales: Vec<u8>,
        outer: Vec<f32>,
        mean: f32,
        account: &Account,
    ) -> Result<Self, TrainError> {
        let count = rows.saturating_mul(columns);
        let blocks = count.div_ceil(NF4_BLOCK);
        let lengths = [
            ("a row", columns, columns.next_multiple_of(2)),
            ("the codes", codes.len(), count.div_ceil(2)),
            ("the scales", scales.len(), blocks),
            (
                "their scales",
                outer.len(),
                blocks.div_ceil(dynamic8::BLOCK),
            ),
        ];
        for (what, got, want) in lengths {
            if got != want {
                return Err(TrainError::shape("nf4", what, got, want));
            }
        }
        let bytes = codes.len() + scales.len() + 4 * outer.len();
        let charge = account.charge_memory(bytes as u64)?;
        Ok(Self {
            rows,
            columns,
            codes,
            scales,
            outer,
            mean,
            charge,
        })
    }

    /// The same once more, charged to `account`.
    ///
    /// # Errors
    /// When it has no room.
    pub fn copy(&self, account: &Account) -> Result<Self, TrainError> {
        let charge = account.charge_memory(self.charge.bytes())?;
        Ok(Self {
            rows: self.rows,
            columns: self.columns,
            codes: self.codes.clone(),
            scales: self.scales.clone(),
            outer: self.outer.clone(),
            mean: self.mean,
            charge,
        })
    }

    /// Its rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Its columns, an even number.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        (self.codes.len() + self.scales.len() + 4 * self.outer.len() + 4) as u64
    }

    /// Two codes a byte, row after row.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// For each block of 64 its scale less the mean, as a number of the signed dynamic type.
    pub fn scales(&self) -> &[u8] {
        &self.scales
    }

    /// What 256 of those are multiplied with.
    pub fn outer_scales(&self) -> &[f32] {
        &self.outer
    }

    /// The mean of all scales.
    pub fn mean(&self) -> f32 {
        self.mean
    }

    /// Writes some columns of a row.
    ///
    /// # Errors
    /// When there is no such row or column, or `out` has another length.
    pub fn dequantize(
        &self,
        row: usize,
        columns: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), TrainError> {
        if row >= self.rows {
            return Err(TrainError::shape("nf4", "the rows", self.rows, row + 1));
        }
        if columns.end > self.columns {
            return Err(TrainError::shape("nf4", "a row", self.columns, columns.end));
        }
        if out.len() != columns.len() {
            return Err(TrainError::shape(
                "nf4",
                "the output",
                out.len(),
                columns.len(),
            ));
        }
        self.unpack(row * self.columns + columns.start, out);
        Ok(())
    }

    fn scale(&self, block: usize) -> f32 {
        let number = SIGNED.numbers[self.scales[block] as usize];
        number * self.outer[block / dynamic8::BLOCK] + self.mean
    }

    /// The weights from `start` on.
    fn unpack(&self, start: usize, out: &mut [f32]) {
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let block = at / NF4_BLOCK;
            let count = rest.len().min((block + 1) * NF4_BLOCK - at);
            let (some, others) = rest.split_at_mut(count);
            let table = NF4.map(|value| value * self.scale(block));
            if at.is_multiple_of(2) && count.is_multiple_of(2) {
                let codes = &self.codes[at / 2..(at + count) / 2];
                for (pair, code) in some.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
                    *pair = [table[usize::from(code >> 4)], table[usize::from(code & 15)]];
                }
            } else {
                for (n, out) in some.iter_mut().enumerate() {
                    let code = self.codes[(at + n) / 2];
                    let code = if (at + n).is_multiple_of(2) {
                        code >> 4
                    } else {
                        code & 15
                    };
                    *out = table[usize::from(code)];
                }
            }
            at += count;
            rest = others;
        }
    }
}

impl RowSource for Nf4Matrix {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn read(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        self.unpack(row * self.columns + columns.start, out);
    }
}

/// Rounds a block, whose length is even, and returns its largest magnitude.
fn quantize_block(values: &[f32], codes: &mut Vec<u8>) -> f32 {
    let largest = values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let inverse = 1.0 / largest.max(1e-38);
    let code = |value: f32| {
        let value = (value * inverse).clamp(-1.0, 1.0);
        let below = |n: &usize| (NF4[*n] + NF4[n + 1]) / 2.0 < value;
        (0..15).filter(below).count() as u8
    };
    for pair in values.as_chunks::<2>().0 {
        codes.push(code(pair[0]) << 4 | code(pair[1]));
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::test_values;

    fn quantized(rows: usize, columns: usize, account: &Account) -> (Vec<f32>, Nf4Matrix) {
        let values = test_values(rows * columns, 7);
        let read = |row: usize, out: &mut [f32]| {
            out.copy_from_slice(&values[row * columns..(row + 1) * columns]);
        };
        let matrix = Nf4Matrix::quantize(rows, columns, account, read).unwrap();
        (values, matrix)
    }

    #[test]
    fn double_quantization_takes_0_127_bits_a_weight_beside_the_codes() {
        let account = Account::unlimited();
        let (_, matrix) = quantized(512, 512, &account);
        let bits = (matrix.bytes() - 4) as f64 * 8.0 / (512.0 * 512.0);
        assert!((bits - 4.0 - 0.126_953_125).abs() < 1e-9, "{bits}");
        assert_eq!(account.usage().device_bytes, matrix.bytes() - 4);
        drop(matrix);
        assert_eq!(account.usage().device_bytes, 0);
    }

    #[test]
    fn a_weight_comes_back_within_half_a_step_and_the_rounding_of_its_scale() {
        let account = Account::unlimited();
        for (rows, columns) in [(4, 64), (7, 38), (3, 1000), (1, 2)] {
            let (values, matrix) = quantized(rows, columns, &account);
            let mut row = vec![0.0; columns];
            for (number, want) in values.chunks_exact(columns).enumerate() {
                matrix.dequantize(number, 0..columns, &mut row).unwrap();
                for (got, want) in row.iter().zip(want) {
                    // The widest gap between two values is 0.304 of a scale of at most 1.
                    assert!((got - want).abs() < 0.152 + 0.02, "{got} {want}");
                }
                let mut part = vec![0.0; columns / 2];
                let start = columns / 2 - columns / 4;
                let range = start..start + columns / 2;
                matrix.dequantize(number, range.clone(), &mut part).unwrap();
                assert_eq!(part, row[range]);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let account = Account::unlimited();
        let (_, matrix) = quantized(2, 64, &account);
        assert!(matrix.dequantize(2, 0..64, &mut [0.0; 64]).is_err());
        assert!(matrix.dequantize(0, 0..65, &mut [0.0; 65]).is_err());
        assert!(matrix.dequantize(0, 0..64, &mut [0.0; 63]).is_err());
        assert!(Nf4Matrix::quantize(2, 3, &account, |_, _| {}).is_err());
        let poor = Account::new(skep_accounts::Limits {
            device_memory: 10,
            ..skep_accounts::Limits::UNLIMITED
        });
        let refused = Nf4Matrix::quantize(2, 64, &poor, |_, _| {});
        assert!(matches!(refused, Err(TrainError::Quota(_))));
    }
}
