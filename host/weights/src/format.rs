//! The packed formats of weights: what a block looks like, and what its bytes stand for.
//!
//! A tensor's rows are runs of blocks. A block holds a fixed number of consecutive elements in a
//! fixed number of bytes, all of it little-endian, with its own scales, so a row can be read
//! from any block on. The layouts are those of ggml, which GGUF files hold as they are; each is
//! described at its function in `format/blocks.rs`.
//!
//! [`dequantize`] is the definition that every kernel is held against. It agrees bit for bit with
//! `gguf.quants.dequantize` of the Python package `gguf`, except that which NaN comes of a NaN or
//! of infinity times zero is the processor's choice, as it is there.

mod blocks;

use std::fmt;

/// How the elements of a tensor are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(non_camel_case_types)] // These are the formats' own names.
pub enum PackedFormat {
    /// 32-bit floats.
    F32,
    /// 16-bit floats of IEEE 754.
    F16,
    /// The upper half of 32-bit floats.
    BF16,
    /// 4.5 bits an element: 32 signed 4-bit integers and one scale.
    Q4_0,
    /// 5 bits an element: 32 4-bit integers, one scale and one minimum.
    Q4_1,
    /// 5.5 bits an element: 32 signed 5-bit integers and one scale.
    Q5_0,
    /// 6 bits an element: 32 5-bit integers, one scale and one minimum.
    Q5_1,
    /// 8.5 bits an element: 32 signed 8-bit integers and one scale.
    Q8_0,
    /// 4.5 bits an element: 256 4-bit integers in eight sub-blocks, each with a 6-bit scale and a
    /// 6-bit minimum.
    Q4_K,
    /// 5.5 bits an element: 256 5-bit integers, scales and minima as in [`PackedFormat::Q4_K`].
    Q5_K,
    /// 6.5625 bits an element: 256 signed 6-bit integers in sixteen sub-blocks with an 8-bit
    /// scale each.
    Q6_K,
}

/// Why bytes could not be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A row does not consist of whole blocks.
    #[error(
        "{format} packs {block} elements a block, of which {elements} elements are no multiple"
    )]
    PartialBlock {
        /// The format.
        format: PackedFormat,
        /// Elements of a block.
        block: usize,
        /// Elements of the row.
        elements: u64,
    },
    /// The bytes are not those of as many elements.
    #[error("{elements} elements of {format} take {want} bytes, not {got}")]
    WrongLength {
        /// The format.
        format: PackedFormat,
        /// Elements that were asked for.
        elements: usize,
        /// Bytes that were given.
        got: usize,
        /// Bytes that these elements take.
        want: usize,
    },
    /// A scale, or an element that is not quantized, is NaN or infinite.
    #[error("block {block} of {format} holds a NaN or an infinity; the weights are damaged")]
    NotFinite {
        /// The format.
        format: PackedFormat,
        /// The first such block, counted from 0.
        block: usize,
    },
}

impl PackedFormat {
    /// Every format, in the order of the variants.
    pub const ALL: [PackedFormat; 11] = [
        PackedFormat::F32,
        PackedFormat::F16,
        PackedFormat::BF16,
        PackedFormat::Q4_0,
        PackedFormat::Q4_1,
        PackedFormat::Q5_0,
        PackedFormat::Q5_1,
        PackedFormat::Q8_0,
        PackedFormat::Q4_K,
        PackedFormat::Q5_K,
        PackedFormat::Q6_K,
    ];

    /// Elements of a block; 1 where elements stand alone.
    pub const fn block_len(self) -> usize {
        match self {
            PackedFormat::F32 | PackedFormat::F16 | PackedFormat::BF16 => 1,
            PackedFormat::Q4_0
            | PackedFormat::Q4_1
            | PackedFormat::Q5_0
            | PackedFormat::Q5_1
            | PackedFormat::Q8_0 => 32,
            PackedFormat::Q4_K | PackedFormat::Q5_K | PackedFormat::Q6_K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            PackedFormat::F32 => 4,
            PackedFormat::F16 | PackedFormat::BF16 => 2,
            PackedFormat::Q4_0 => 18,
            PackedFormat::Q4_1 => 20,
            PackedFormat::Q5_0 => 22,
            PackedFormat::Q5_1 => 24,
            PackedFormat::Q8_0 => 34,
            PackedFormat::Q4_K => 144,
            PackedFormat::Q5_K => 176,
            PackedFormat::Q6_K => 210,
        }
    }

    /// Bytes of a row of `columns` elements, or none if `columns` is no multiple of
    /// [`PackedFormat::block_len`] or the row is longer than memory could be.
    pub const fn row_bytes(self, columns: usize) -> Option<usize> {
        if !columns.is_multiple_of(self.block_len()) {
            return None;
        }
        (columns / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Bytes of a tensor of `shape`, outermost dimension first, under the same conditions as
    /// [`PackedFormat::row_bytes`].
    pub fn tensor_bytes(self, shape: &[u64]) -> Option<usize> {
        let columns = shape.last().copied().unwrap_or(1);
        let rows = shape[..shape.len().saturating_sub(1)]
            .iter()
            .try_fold(1_u64, |product, &side| product.checked_mul(side))?;
        self.row_bytes(usize::try_from(columns).ok()?)?
            .checked_mul(usize::try_from(rows).ok()?)
    }

    /// The format's name, as GGUF's own tools print it.
    pub const fn name(self) -> &'static str {
        match self {
            PackedFormat::F32 => "F32",
            PackedFormat::F16 => "F16",
            PackedFormat::BF16 => "BF16",
            PackedFormat::Q4_0 => "Q4_0",
            PackedFormat::Q4_1 => "Q4_1",
            PackedFormat::Q5_0 => "Q5_0",
            PackedFormat::Q5_1 => "Q5_1",
            PackedFormat::Q8_0 => "Q8_0",
            PackedFormat::Q4_K => "Q4_K",
            PackedFormat::Q5_K => "Q5_K",
            PackedFormat::Q6_K => "Q6_K",
        }
    }
}

impl fmt::Display for PackedFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Writes the elements that `bytes` hold to `out`.
///
/// # Errors
/// When `out` is no whole number of blocks, or `bytes` are not as many as it takes. Scales that
/// are NaN or infinite are no error here: they give what the arithmetic makes of them. See
/// [`check_finite`].
pub fn dequantize(format: PackedFormat, bytes: &[u8], out: &mut [f32]) -> Result<(), FormatError> {
    check_len(format, bytes, out.len())?;
    match format {
        PackedFormat::F32 => blocks::each(bytes, out, blocks::f32),
        PackedFormat::F16 => blocks::each(bytes, out, blocks::f16),
        PackedFormat::BF16 => blocks::each(bytes, out, blocks::bf16),
        PackedFormat::Q4_0 => blocks::each(bytes, out, blocks::q4_0),
        PackedFormat::Q4_1 => blocks::each(bytes, out, blocks::q4_1),
        PackedFormat::Q5_0 => blocks::each(bytes, out, blocks::q5_0),
        PackedFormat::Q5_1 => blocks::each(bytes, out, blocks::q5_1),
        PackedFormat::Q8_0 => blocks::each(bytes, out, blocks::q8_0),
        PackedFormat::Q4_K => blocks::each(bytes, out, blocks::q4_k),
        PackedFormat::Q5_K => blocks::each(bytes, out, blocks::q5_k),
        PackedFormat::Q6_K => blocks::each(bytes, out, blocks::q6_k),
    }
    Ok(())
}

/// Checks that no scale in `bytes` is NaN or infinite, so that every element is finite.
///
/// Whoever loads weights from a stranger does this once; the kernels then need not.
///
/// # Errors
/// [`FormatError::NotFinite`] with the first block that is not.
pub fn check_finite(format: PackedFormat, bytes: &[u8]) -> Result<(), FormatError> {
    let block = match format {
        PackedFormat::F32 => blocks::first_unfinite_f32(bytes),
        PackedFormat::F16 => blocks::first_unfinite::<2, 1>(bytes, [0], blocks::F16_EXPONENT),
        PackedFormat::BF16 => blocks::first_unfinite::<2, 1>(bytes, [0], blocks::BF16_EXPONENT),
        PackedFormat::Q4_0 => blocks::first_unfinite::<18, 1>(bytes, [0], blocks::F16_EXPONENT),
        PackedFormat::Q4_1 => blocks::first_unfinite::<20, 2>(bytes, [0, 2], blocks::F16_EXPONENT),
        PackedFormat::Q5_0 => blocks::first_unfinite::<22, 1>(bytes, [0], blocks::F16_EXPONENT),
        PackedFormat::Q5_1 => blocks::first_unfinite::<24, 2>(bytes, [0, 2], blocks::F16_EXPONENT),
        PackedFormat::Q8_0 => blocks::first_unfinite::<34, 1>(bytes, [0], blocks::F16_EXPONENT),
        PackedFormat::Q4_K => blocks::first_unfinite::<144, 2>(bytes, [0, 2], blocks::F16_EXPONENT),
        PackedFormat::Q5_K => blocks::first_unfinite::<176, 2>(bytes, [0, 2], blocks::F16_EXPONENT),
        PackedFormat::Q6_K => blocks::first_unfinite::<210, 1>(bytes, [208], blocks::F16_EXPONENT),
    };
    match block {
        Some(block) => Err(FormatError::NotFinite { format, block }),
        None => Ok(()),
    }
}

fn check_len(format: PackedFormat, bytes: &[u8], elements: usize) -> Result<(), FormatError> {
    let Some(want) = format.row_bytes(elements) else {
        return Err(FormatError::PartialBlock {
            format,
            block: format.block_len(),
            elements: elements as u64,
        });
    };
    if bytes.len() != want {
        return Err(FormatError::WrongLength {
            format,
            elements,
            got: bytes.len(),
            want,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_rows_and_tensors() {
        assert_eq!(PackedFormat::Q4_K.row_bytes(512), Some(288));
        assert_eq!(PackedFormat::Q4_K.row_bytes(500), None);
        assert_eq!(PackedFormat::Q8_0.tensor_bytes(&[3, 2, 64]), Some(6 * 68));
        assert_eq!(PackedFormat::F32.tensor_bytes(&[]), Some(4));
        assert_eq!(PackedFormat::F32.tensor_bytes(&[u64::MAX, 2]), None);
        assert_eq!(PackedFormat::F32.tensor_bytes(&[1 << 40, 1 << 40]), None);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let mut out = [0.0; 33];
        let partial = dequantize(PackedFormat::Q8_0, &[0; 34], &mut out);
        assert!(matches!(
            partial,
            Err(FormatError::PartialBlock { elements: 33, .. })
        ));
        let short = dequantize(PackedFormat::Q8_0, &[0; 33], &mut out[..32]);
        assert!(matches!(
            short,
            Err(FormatError::WrongLength { want: 34, .. })
        ));
    }

    #[test]
    fn the_first_block_that_is_not_finite_is_named() {
        for format in PackedFormat::ALL {
            let size = format.block_bytes();
            let mut bytes = vec![0_u8; 40 * size];
            assert_eq!(check_finite(format, &bytes), Ok(()));
            let scale = match format {
                PackedFormat::F32 => 2,
                PackedFormat::Q6_K => 208,
                _ => 0,
            };
            // The upper half of an infinity, or a NaN where a byte more is set.
            bytes[37 * size + scale..][..2].copy_from_slice(&[0x80, 0x7f]);
            let refused = FormatError::NotFinite { format, block: 37 };
            assert_eq!(check_finite(format, &bytes), Err(refused), "{format}");
        }
    }
}
