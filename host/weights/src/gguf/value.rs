//! Metadata values and the Rust types that they can be read as.

use std::fmt;

/// The type of a metadata value, as the file numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

/// A value of the metadata.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum MetadataValue<'a> {
    /// An integer of any of the unsigned types.
    Uint(u64),
    /// An integer of any of the signed types.
    Int(i64),
    /// A float of either width.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    String(&'a str),
    /// An array, all of whose elements have one type.
    Array(MetadataArray<'a>),
}

/// An array of the metadata, read element by element.
#[derive(Clone, Copy, PartialEq)]
pub struct MetadataArray<'a> {
    kind: Kind,
    len: u64,
    /// Walked when the file was opened: `len` sound elements and nothing else.
    bytes: &'a [u8],
}

/// A Rust type that a metadata value can be read as.
pub trait FromMetadata<'a>: Sized {
    /// What must be there, for the error.
    const WANT: &'static str;

    /// The value, if it has the type and lies in its range.
    fn from_metadata(value: MetadataValue<'a>) -> Option<Self>;
}

impl Kind {
    pub fn from_number(number: u32) -> Option<Self> {
        const KINDS: [Kind; 13] = [
            Kind::U8,
            Kind::I8,
            Kind::U16,
            Kind::I16,
            Kind::U32,
            Kind::I32,
            Kind::F32,
            Kind::Bool,
            Kind::String,
            Kind::Array,
            Kind::U64,
            Kind::I64,
            Kind::F64,
        ];
        KINDS.get(usize::try_from(number).ok()?).copied()
    }

    /// Bytes of a value; of a string or an array, those of its length.
    pub fn size(self) -> usize {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 | Kind::String | Kind::Array => 8,
        }
    }

    /// The value whose content is `bytes`; of a string, without its length.
    pub fn scalar(self, bytes: &[u8]) -> Option<MetadataValue<'_>> {
        use MetadataValue::{Bool, Float, Int, String, Uint};
        Some(match self {
            Kind::U8 => Uint(u8::from_le_bytes(*bytes.first_chunk()?).into()),
            Kind::I8 => Int(i8::from_le_bytes(*bytes.first_chunk()?).into()),
            Kind::U16 => Uint(u16::from_le_bytes(*bytes.first_chunk()?).into()),
            Kind::I16 => Int(i16::from_le_bytes(*bytes.first_chunk()?).into()),
            Kind::U32 => Uint(u32::from_le_bytes(*bytes.first_chunk()?).into()),
            Kind::I32 => Int(i32::from_le_bytes(*bytes.first_chunk()?).into()),
            Kind::U64 => Uint(u64::from_le_bytes(*bytes.first_chunk()?)),
            Kind::I64 => Int(i64::from_le_bytes(*bytes.first_chunk()?)),
            Kind::F32 => Float(f32::from_le_bytes(*bytes.first_chunk()?).into()),
            Kind::F64 => Float(f64::from_le_bytes(*bytes.first_chunk()?)),
            Kind::Bool => Bool(*bytes.first()? != 0),
            Kind::String => String(std::str::from_utf8(bytes).ok()?),
            Kind::Array => return None,
        })
    }
}

impl<'a> MetadataArray<'a> {
    pub(super) fn new(kind: Kind, len: u64, bytes: &'a [u8]) -> Self {
        Self { kind, len, bytes }
    }

    /// The number of its elements.
    pub fn len(&self) -> usize {
        // It fits: each element takes at least one byte of the file.
        self.len as usize
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its elements, in order.
    pub fn iter(self) -> impl Iterator<Item = MetadataValue<'a>> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let mut len = self.kind.size();
            if self.kind == Kind::String {
                let (size, after) = rest.split_first_chunk()?;
                len = usize::try_from(u64::from_le_bytes(*size)).ok()?;
                rest = after;
            }
            let (element, after) = rest.split_at_checked(len)?;
            rest = after;
            self.kind.scalar(element)
        })
    }
}

impl fmt::Debug for MetadataArray<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {:?}", self.len, self.kind)
    }
}

impl fmt::Display for MetadataValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetadataValue::Uint(value) => value.fmt(f),
            MetadataValue::Int(value) => value.fmt(f),
            MetadataValue::Float(value) => write!(f, "{value:?}"),
            MetadataValue::Bool(value) => value.fmt(f),
            MetadataValue::String(text) if text.len() > 64 => {
                write!(f, "a string of {} bytes", text.len())
            }
            MetadataValue::String(text) => write!(f, "{text:?}"),
            MetadataValue::Array(array) => write!(f, "an array ({array:?})"),
        }
    }
}

impl<'a> FromMetadata<'a> for u64 {
    const WANT: &'static str = "an integer of at least 0";

    fn from_metadata(value: MetadataValue<'a>) -> Option<Self> {
        match value {
            MetadataValue::Uint(value) => Some(value),
            MetadataValue::Int(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }
}

impl<'a> FromMetadata<'a> for u32 {
    const WANT: &'static str = "an integer from 0 to 4294967295";

    fn from_metadata(value: MetadataValue<'a>) -> Option<Self> {
        u32::try_from(u64::from_metadata(value)?).ok()
    }
}

impl<'a> FromMetadata<'a> for i64 {
    const WANT: &'static str = "an integer of 64 bits";

    fn from_metadata(value: MetadataValue<'a>) -> Option<Self> {
        match value {
            MetadataValue::Uint(value) => i64::try_from(value).ok(),
            MetadataValue::Int(value) => Some(value),
            _ => None,
        }
    }
}

impl<'a> FromMetadata<'a> for f32 {
    const WANT: &'static str = "a finite float";

    fn from_metadata(value: MetadataValue<'a>) -> Option<Self> {
        match value {
            MetadataValue::Float(value) => Some(value as f32).filter(|value| value.is_finite()),
            _ => None,
        }
    }
}

impl<'a> FromMetadata<'a> for bool {
    const WANT: &'static str = "true or false";

    fn from_metadata(value: MetadataValue<'a>) -> Option<Self> {
        match value {
            MetadataValue::Bool(value) => Some(value),
            _ => None,
        }
    }
}

impl<'a> FromMetadata<'a> for &'a str {
    const WANT: &'static str = "a string";

    fn from_metadata(value: MetadataValue<'a>) -> Option<Self> {
        match value {
            MetadataValue::String(text) => Some(text),
            _ => None,
        }
    }
}

impl<'a> FromMetadata<'a> for String {
    const WANT: &'static str = "a string";

    fn from_metadata(value: MetadataValue<'a>) -> Option<Self> {
        <&str>::from_metadata(value).map(str::to_owned)
    }
}

impl<'a> FromMetadata<'a> for MetadataArray<'a> {
    const WANT: &'static str = "an array";

    fn from_metadata(value: MetadataValue<'a>) -> Option<Self> {
        match value {
            MetadataValue::Array(array) => Some(array),
            _ => None,
        }
    }
}

/// All elements of an array, each in the range of `T`. What is allocated is bounded by what the
/// file holds: at most eight bytes for each of its own, and three where the elements are strings.
impl<'a, T: FromMetadata<'a>> FromMetadata<'a> for Vec<T> {
    const WANT: &'static str = "an array whose elements have the right type and range";

    fn from_metadata(value: MetadataValue<'a>) -> Option<Self> {
        MetadataArray::from_metadata(value)?
            .iter()
            .map(T::from_metadata)
            .collect()
    }
}
