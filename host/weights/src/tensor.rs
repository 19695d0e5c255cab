//! One tensor of a file, still packed.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use safetensors::Dtype;

use crate::format::{FormatError, PackedFormat, check_finite, dequantize};
use crate::source::Source;

/// A tensor in its packed form. Cloning it is cheap: the bytes stay where they are, in a mapped
/// file as a rule, and live as long as the last tensor that shares them.
#[derive(Clone)]
pub struct PackedTensor {
    format: PackedFormat,
    shape: Arc<[u64]>,
    source: Source,
    /// Exactly the bytes that `shape` takes in `format`.
    range: Range<usize>,
}

impl PackedTensor {
    /// A tensor over bytes in memory.
    ///
    /// # Errors
    /// When the innermost dimension is no whole number of blocks, or `bytes` are not as many as
    /// the tensor takes.
    pub fn from_bytes(
        format: PackedFormat,
        shape: &[u64],
        bytes: Vec<u8>,
    ) -> Result<Self, FormatError> {
        let range = 0..bytes.len();
        Self::new(format, shape, Source::owned("memory", bytes), range)
    }

    /// A tensor over `range` of `source`.
    pub(crate) fn new(
        format: PackedFormat,
        shape: &[u64],
        source: Source,
        range: Range<usize>,
    ) -> Result<Self, FormatError> {
        let columns = shape.last().copied().unwrap_or(1);
        let Some(want) = format.tensor_bytes(shape) else {
            return Err(FormatError::PartialBlock {
                format,
                block: format.block_len(),
                elements: columns,
            });
        };
        if range.len() != want {
            return Err(FormatError::WrongLength {
                format,
                elements: want / format.block_bytes() * format.block_len(),
                got: range.len(),
                want,
            });
        }
        Ok(Self {
            format,
            shape: shape.into(),
            source,
            range,
        })
    }

    /// How its elements are packed.
    pub fn format(&self) -> PackedFormat {
        self.format
    }

    /// Its dimensions, outermost first: a weight matrix is `[outputs, inputs]`.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Its bytes, row after row.
    pub fn bytes(&self) -> &[u8] {
        self.source.slice(&self.range)
    }

    /// Elements of a row, which is what the innermost dimension counts; 1 for a scalar.
    pub fn columns(&self) -> usize {
        // It fits: the bytes of the tensor were counted when it was made.
        self.shape.last().map_or(1, |&columns| columns as usize)
    }

    /// The number of rows: the product of all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        match self.row_bytes() {
            0 => 0,
            bytes => self.range.len() / bytes,
        }
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.columns()).unwrap_or(0)
    }

    /// The packed bytes of row `index`, or none where there is no such row.
    pub fn row(&self, index: usize) -> Option<&[u8]> {
        let len = self.row_bytes();
        let start = index.checked_mul(len)?;
        self.bytes().get(start..start.checked_add(len)?)
    }

    /// Writes all elements to `out`.
    ///
    /// # Errors
    /// When `out` has another number of elements than the tensor.
    pub fn dequantize(&self, out: &mut [f32]) -> Result<(), FormatError> {
        dequantize(self.format, self.bytes(), out)
    }

    /// Writes the elements of row `index` to `out`.
    ///
    /// # Errors
    /// When `out` has another number of elements than a row, or there is no such row.
    pub fn dequantize_row(&self, index: usize, out: &mut [f32]) -> Result<(), FormatError> {
        dequantize(self.format, self.row(index).unwrap_or_default(), out)
    }

    /// Checks that every element is finite, by reading every scale.
    ///
    /// # Errors
    /// [`FormatError::NotFinite`] with the first block that is not.
    pub fn check_finite(&self) -> Result<(), FormatError> {
        check_finite(self.format, self.bytes())
    }
}

impl fmt::Debug for PackedTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.format, self.shape)
    }
}

/// A tensor of a safetensors file as it lies there, of whatever type. Cloning it is cheap.
#[derive(Clone)]
pub struct RawTensor {
    dtype: Dtype,
    shape: Arc<[u64]>,
    source: Source,
    range: Range<usize>,
}

impl RawTensor {
    pub(crate) fn new(
        dtype: Dtype,
        shape: Arc<[u64]>,
        source: Source,
        range: Range<usize>,
    ) -> Self {
        Self {
            dtype,
            shape,
            source,
            range,
        }
    }

    /// The type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its dimensions, outermost first.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Its elements, little-endian, row after row.
    pub fn bytes(&self) -> &[u8] {
        self.source.slice(&self.range)
    }

    /// Gives back the memory that its bytes take, where they lie in a mapped file.
    pub(crate) fn release(&self) {
        self.source.release(&self.range);
    }

    /// The same tensor as weights, if its elements are floats that weights may be made of: F32,
    /// F16 or BF16.
    pub fn packed(&self) -> Option<PackedTensor> {
        let format = match self.dtype {
            Dtype::F32 => PackedFormat::F32,
            Dtype::F16 => PackedFormat::F16,
            Dtype::BF16 => PackedFormat::BF16,
            _ => return None,
        };
        PackedTensor::new(format, &self.shape, self.source.clone(), self.range.clone()).ok()
    }
}

impl fmt::Debug for RawTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?}", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_tensor_in_memory() {
        let bytes: Vec<u8> = (0..6_u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
        let tensor = PackedTensor::from_bytes(PackedFormat::F32, &[2, 3], bytes.clone()).unwrap();
        assert_eq!((tensor.rows(), tensor.columns()), (2, 3));
        let mut row = [0.0; 3];
        tensor.dequantize_row(1, &mut row).unwrap();
        assert_eq!(row, [3.0, 4.0, 5.0]);
        assert!(tensor.row(2).is_none());
        assert!(tensor.row(usize::MAX).is_none());
        assert!(tensor.dequantize_row(2, &mut row).is_err());
        assert!(PackedTensor::from_bytes(PackedFormat::F32, &[2, 2], bytes.clone()).is_err());
        assert!(PackedTensor::from_bytes(PackedFormat::Q8_0, &[2, 3], bytes).is_err());
    }
}
