//! The typed keys and values at the head of a GGUF file.
//!
//! Values stay in the file: each is walked when the file is opened, so that its end is known and
//! its content sound, and read when somebody asks for it. So what metadata take in memory is
//! what their keys take.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use super::GgufError;
use super::cursor::Cursor;
use super::value::{FromMetadata, Kind, MetadataArray, MetadataValue};
use crate::source::Source;

/// Honest files have some dozens of keys.
const KEY_LIMIT: u64 = 1 << 16;
/// Honest keys have some dozens of bytes.
const KEY_NAME_LIMIT: usize = 256;
/// The least that a key and its value take: a length, one letter, a type, one byte.
const LEAST_ENTRY: u64 = 8 + 1 + 4 + 1;

/// The metadata of a file, by key.
pub struct Metadata {
    source: Source,
    values: BTreeMap<Box<str>, Stored>,
}

/// A value and where its content lies in the file.
struct Stored {
    kind: Kind,
    /// The element's kind and the number of elements, if the value is an array.
    array: Option<(Kind, u64)>,
    range: Range<usize>,
}

impl Metadata {
    /// Reads the number of entries that the header announces.
    pub(super) fn count(cursor: &mut Cursor<'_>) -> Result<u64, GgufError> {
        cursor.count(KEY_LIMIT, "metadata keys")
    }

    /// Reads `count` entries at the cursor, which stands in the bytes of `source`.
    pub(super) fn read(
        cursor: &mut Cursor<'_>,
        count: u64,
        source: &Source,
    ) -> Result<Self, GgufError> {
        cursor.expect_left(count, LEAST_ENTRY, "the list of metadata")?;
        let mut values = BTreeMap::new();
        for _ in 0..count {
            let key = cursor.name(KEY_NAME_LIMIT, "a metadata key")?;
            let stored = Stored::read(cursor)?;
            if values.insert(key.into(), stored).is_some() {
                return Err(GgufError::Duplicate {
                    path: cursor.path.to_owned(),
                    what: "metadata keys",
                    name: key.to_owned(),
                });
            }
        }
        Ok(Self {
            source: source.clone(),
            values,
        })
    }

    /// The file that these are the metadata of.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// All keys, in alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(|key| &**key)
    }

    /// The value of `key`, whatever its type.
    pub fn value(&self, key: &str) -> Option<MetadataValue<'_>> {
        let stored = self.values.get(key)?;
        let bytes = self.source.slice(&stored.range);
        match stored.array {
            Some((kind, len)) => Some(MetadataValue::Array(MetadataArray::new(kind, len, bytes))),
            None => stored.kind.scalar(bytes),
        }
    }

    /// The value of `key` as a `T`, or none if there is no such key.
    ///
    /// # Errors
    /// When the value has another type, or lies outside the range of `T`.
    pub fn get<'a, T: FromMetadata<'a>>(&'a self, key: &str) -> Result<Option<T>, GgufError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match T::from_metadata(value) {
            Some(value) => Ok(Some(value)),
            None => Err(GgufError::WrongValue {
                path: self.path().to_owned(),
                key: key.to_owned(),
                want: T::WANT,
                got: value.to_string(),
            }),
        }
    }

    /// The value of `key` as a `T`.
    ///
    /// # Errors
    /// As for [`Metadata::get`], and when there is no such key.
    pub fn need<'a, T: FromMetadata<'a>>(&'a self, key: &str) -> Result<T, GgufError> {
        self.get(key)?.ok_or_else(|| GgufError::MissingKey {
            path: self.path().to_owned(),
            key: key.to_owned(),
        })
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.keys().map(|key| (key, self.value(key))))
            .finish()
    }
}

impl Stored {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, GgufError> {
        let kind = read_kind(cursor)?;
        if kind != Kind::Array {
            let range = read_scalar(cursor, kind)?;
            return Ok(Stored {
                kind,
                array: None,
                range,
            });
        }
        let element_at = cursor.at;
        let element = read_kind(cursor)?;
        let len = cursor.u64("an array's length")?;
        let start = cursor.at;
        match element {
            Kind::Array => {
                let reason = "an array of arrays, which no reader of GGUF supports".to_owned();
                return Err(cursor.malformed(element_at, reason));
            }
            Kind::String => {
                cursor.expect_left(len, 8, "an array of strings")?;
                for _ in 0..len {
                    cursor.string("a string of an array")?;
                }
            }
            Kind::Bool => {
                let elements = cursor.take(len, "an array of booleans")?;
                if elements.iter().any(|&byte| byte > 1) {
                    let reason = "a boolean is neither 0 nor 1".to_owned();
                    return Err(cursor.malformed(start, reason));
                }
            }
            _ => {
                let bytes = len.saturating_mul(element.size() as u64);
                cursor.take(bytes, "an array of numbers")?;
            }
        }
        Ok(Stored {
            kind,
            array: Some((element, len)),
            range: start..cursor.at,
        })
    }
}

fn read_kind(cursor: &mut Cursor<'_>) -> Result<Kind, GgufError> {
    let at = cursor.at;
    let number = cursor.u32("the type of a metadata value")?;
    Kind::from_number(number)
        .ok_or_else(|| cursor.malformed(at, format!("there is no metadata type {number}")))
}

/// Where the content of a value that is no array lies.
fn read_scalar(cursor: &mut Cursor<'_>, kind: Kind) -> Result<Range<usize>, GgufError> {
    let start = cursor.at;
    if kind == Kind::String {
        let len = cursor.string("a metadata string")?.len();
        return Ok(cursor.at - len..cursor.at);
    }
    let bytes = cursor.take(kind.size() as u64, "a metadata value")?;
    if kind == Kind::Bool && bytes[0] > 1 {
        let reason = format!("a boolean is {}, neither 0 nor 1", bytes[0]);
        return Err(cursor.malformed(start, reason));
    }
    Ok(start..cursor.at)
}
