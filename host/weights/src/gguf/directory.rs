//! The list of tensors of a GGUF file: names, shapes, formats, and where the data lie.

use std::collections::BTreeMap;

use super::GgufError;
use super::cursor::Cursor;
use super::metadata::Metadata;
use crate::format::{FormatError, PackedFormat};
use crate::source::Source;
use crate::tensor::PackedTensor;

/// Honest files have a few thousand tensors.
const TENSOR_LIMIT: u64 = 1 << 16;
/// ggml's own limit is 64 bytes.
const TENSOR_NAME_LIMIT: usize = 256;
/// ggml's own limit.
const DIMENSION_LIMIT: u32 = 4;
/// The least that an entry takes: a length, one letter, dimensions, type, offset.
const LEAST_ENTRY: u64 = 8 + 1 + 4 + 4 + 8;
/// Where data begin at multiples of, unless the metadata say otherwise.
const ALIGNMENT: u64 = 32;
/// A larger alignment than this has no use.
const ALIGNMENT_LIMIT: u64 = 1 << 20;

/// Tensors by name.
pub(super) type Tensors = BTreeMap<Box<str>, PackedTensor>;

/// A tensor as the list gives it.
struct Entry<'a> {
    name: &'a str,
    format: PackedFormat,
    /// Outermost dimension first.
    shape: Vec<u64>,
    /// From the beginning of the data.
    offset: u64,
}

/// Reads the number of tensors that the header announces.
pub(super) fn count(cursor: &mut Cursor<'_>) -> Result<u64, GgufError> {
    cursor.count(TENSOR_LIMIT, "tensors")
}

/// Reads `count` entries at the cursor, which stands in the bytes of `source`, and finds the
/// data of each: inside the file, and no byte belonging to two.
pub(super) fn read(
    cursor: &mut Cursor<'_>,
    count: u64,
    metadata: &Metadata,
    source: &Source,
) -> Result<Tensors, GgufError> {
    cursor.expect_left(count, LEAST_ENTRY, "the list of tensors")?;
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(Entry::read(cursor)?);
    }
    let alignment = alignment(metadata)?;
    let data = (cursor.at as u64).next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    let mut ranges = Vec::new();
    for entry in &entries {
        if !entry.offset.is_multiple_of(alignment) {
            let (name, offset) = (entry.name, entry.offset);
            let reason = format!("tensor {name:?} begins at {offset}, no multiple of {alignment}");
            return Err(cursor.malformed(cursor.at, reason));
        }
        let bytes = entry.bytes(cursor)?;
        let end = data
            .saturating_add(entry.offset)
            .saturating_add(bytes as u64);
        if end > source.bytes().len() as u64 {
            return Err(GgufError::OutsideFile {
                path: cursor.path.to_owned(),
                tensor: entry.name.to_owned(),
                end,
                len: source.bytes().len(),
            });
        }
        let range = end as usize - bytes..end as usize;
        ranges.push((range.start, range.end, entry.name));
        let tensor = PackedTensor::new(entry.format, &entry.shape, source.clone(), range)
            .map_err(|source| entry.shape_error(cursor, source))?;
        if tensors.insert(entry.name.into(), tensor).is_some() {
            return Err(GgufError::Duplicate {
                path: cursor.path.to_owned(),
                what: "tensors",
                name: entry.name.to_owned(),
            });
        }
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        if pair[1].0 < pair[0].1 {
            return Err(GgufError::Overlap {
                path: cursor.path.to_owned(),
                first: pair[0].2.to_owned(),
                second: pair[1].2.to_owned(),
            });
        }
    }
    Ok(tensors)
}

impl<'a> Entry<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, GgufError> {
        let name = cursor.name(TENSOR_NAME_LIMIT, "a tensor's name")?;
        let at = cursor.at;
        let dimensions = cursor.u32("a tensor's number of dimensions")?;
        if dimensions > DIMENSION_LIMIT {
            let reason = format!(
                "tensor {name:?} has {dimensions} dimensions; at most {DIMENSION_LIMIT} are read"
            );
            return Err(cursor.malformed(at, reason));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(cursor.u64("a tensor's shape")?);
        }
        if shape.contains(&0) {
            return Err(cursor.malformed(at, format!("tensor {name:?} has a side of length 0")));
        }
        // The file gives the innermost dimension first.
        shape.reverse();
        let kind = cursor.u32("a tensor's type")?;
        let Some(format) = format_of(kind) else {
            return Err(GgufError::UnsupportedType {
                path: cursor.path.to_owned(),
                tensor: name.to_owned(),
                kind: type_name(kind).map_or_else(|| format!("type {kind}"), str::to_owned),
            });
        };
        let offset = cursor.u64("a tensor's place")?;
        Ok(Self {
            name,
            format,
            shape,
            offset,
        })
    }

    fn bytes(&self, cursor: &Cursor<'_>) -> Result<usize, GgufError> {
        let columns = self.shape.last().copied().unwrap_or(1);
        if !columns.is_multiple_of(self.format.block_len() as u64) {
            let source = FormatError::PartialBlock {
                format: self.format,
                block: self.format.block_len(),
                elements: columns,
            };
            return Err(self.shape_error(cursor, source));
        }
        self.format.tensor_bytes(&self.shape).ok_or_else(|| {
            let (name, shape) = (self.name, &self.shape);
            let reason = format!("tensor {name:?} of shape {shape:?} is larger than any memory");
            cursor.malformed(cursor.at, reason)
        })
    }

    fn shape_error(&self, cursor: &Cursor<'_>, source: FormatError) -> GgufError {
        GgufError::Shape {
            path: cursor.path.to_owned(),
            tensor: self.name.to_owned(),
            shape: self.shape.clone(),
            source,
        }
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    const KEY: &str = "general.alignment";
    let alignment = metadata.get::<u64>(KEY)?.unwrap_or(ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > ALIGNMENT_LIMIT {
        return Err(GgufError::WrongValue {
            path: metadata.path().to_owned(),
            key: KEY.to_owned(),
            want: "a power of two up to 1048576",
            got: alignment.to_string(),
        });
    }
    Ok(alignment)
}

/// The format with that number in `enum ggml_type`.
fn format_of(kind: u32) -> Option<PackedFormat> {
    Some(match kind {
        0 => PackedFormat::F32,
        1 => PackedFormat::F16,
        2 => PackedFormat::Q4_0,
        3 => PackedFormat::Q4_1,
        6 => PackedFormat::Q5_0,
        7 => PackedFormat::Q5_1,
        8 => PackedFormat::Q8_0,
        12 => PackedFormat::Q4_K,
        13 => PackedFormat::Q5_K,
        14 => PackedFormat::Q6_K,
        30 => PackedFormat::BF16,
        _ => return None,
    })
}

/// ggml's names of the types that are not supported.
fn type_name(kind: u32) -> Option<&'static str> {
    Some(match kind {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return None,
    })
}
