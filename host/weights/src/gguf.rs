//! GGUF files: one file, or the parts of a split one, mapped into memory.
//!
//! Written against ggml's format description (`docs/gguf.md`) and the reader in its `gguf.cpp`.
//! A file is a header, metadata, a list of tensors, and the tensors' data:
//!
//! | bytes | content |
//! |---|---|
//! | 4 | `GGUF` |
//! | 4 | version: 2 or 3; all numbers are little-endian |
//! | 8 + 8 | number of tensors, number of metadata entries |
//! | … | for each entry: key, type, value; strings carry their length in eight bytes |
//! | … | for each tensor: name, dimensions (innermost first), type, place of its data |
//! | … | zeros up to the alignment, then the data, each tensor at a multiple of the alignment |
//!
//! The file may come from anybody. What it announces is held against the bytes that are there
//! before anything is allocated for it, and every tensor that is handed out lies inside the file
//! and shares no byte with another.

mod cursor;
mod directory;
mod error;
mod metadata;
mod split;
mod tokenizer;
mod value;

use std::path::Path;

pub use error::GgufError;
pub use metadata::Metadata;
pub use tokenizer::{GgufTokenizer, SpecialTokens, TokenKind, TokenizerKind};
pub use value::{FromMetadata, MetadataArray, MetadataValue};

use crate::source::Source;
use crate::tensor::PackedTensor;
use cursor::Cursor;
use directory::Tensors;

/// An opened model file, all parts of it.
#[derive(Debug)]
pub struct Gguf {
    version: u32,
    parts: usize,
    metadata: Metadata,
    tensors: Tensors,
}

/// What one file holds.
struct Part {
    version: u32,
    metadata: Metadata,
    tensors: Tensors,
}

impl Gguf {
    /// Opens the file at `path` and, where that is the first part of a split model, the others
    /// beside it.
    ///
    /// # Errors
    /// When a file cannot be read, is no sound GGUF file, or holds a tensor in a format that is
    /// not supported. Scales are not looked at here; see [`PackedTensor::check_finite`].
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::assemble(map(path)?, |number, count| {
            map(&split::part_path(path, number, count)?)
        })
    }

    /// Reads a file, or the parts of a split one in order, from memory. Errors call them
    /// `part 0` and so on.
    ///
    /// # Errors
    /// As for [`Gguf::open`].
    pub fn from_parts(parts: Vec<Vec<u8>>) -> Result<Self, GgufError> {
        let mut parts = parts
            .into_iter()
            .enumerate()
            .map(|(number, bytes)| Source::owned(&format!("part {number}"), bytes));
        let first = parts
            .next()
            .unwrap_or_else(|| Source::owned("part 0", Vec::new()));
        Self::assemble(first, |number, count| {
            parts.next().ok_or_else(|| GgufError::Split {
                path: format!("part {number}").into(),
                reason: format!("it is missing; the model has {count} parts"),
            })
        })
    }

    /// The version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The number of files that the model is split into.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// The metadata: those of the first part, if there are several.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensor of that name, from whichever part holds it.
    pub fn tensor(&self, name: &str) -> Option<&PackedTensor> {
        self.tensors.get(name)
    }

    /// All tensors, by name in alphabetical order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &PackedTensor)> {
        self.tensors.iter().map(|(name, tensor)| (&**name, tensor))
    }

    /// The tokenizer that the metadata describe, or none if they describe none.
    ///
    /// # Errors
    /// When the description contradicts itself or is of a kind that is not supported.
    pub fn tokenizer(&self) -> Result<Option<GgufTokenizer>, GgufError> {
        GgufTokenizer::read(&self.metadata)
    }

    fn assemble(
        first: Source,
        mut source_of: impl FnMut(u64, u64) -> Result<Source, GgufError>,
    ) -> Result<Self, GgufError> {
        let Part {
            version,
            metadata,
            mut tensors,
        } = Part::read(&first)?;
        let count = split::begin(&metadata)?;
        for number in 1..count {
            let part = Part::read(&source_of(number, count)?)?;
            split::check_part(&part.metadata, number, count)?;
            for (name, tensor) in part.tensors {
                if tensors.contains_key(&name) {
                    return Err(GgufError::Duplicate {
                        path: part.metadata.path().to_owned(),
                        what: "tensors, in different parts,",
                        name: name.into(),
                    });
                }
                tensors.insert(name, tensor);
            }
        }
        split::check_total(&metadata, tensors.len())?;
        Ok(Self {
            version,
            parts: count as usize,
            metadata,
            tensors,
        })
    }
}

impl Part {
    fn read(source: &Source) -> Result<Self, GgufError> {
        let path = source.path();
        let mut cursor = Cursor {
            path,
            bytes: source.bytes(),
            at: 0,
        };
        if cursor.bytes.first_chunk::<4>() != Some(b"GGUF") {
            return Err(GgufError::NotGguf {
                path: path.to_owned(),
            });
        }
        cursor.at = 4;
        let version = cursor.u32("the version")?;
        match version {
            2 | 3 => {}
            _ if (1..=3).contains(&version.swap_bytes()) => {
                return Err(GgufError::BigEndian {
                    path: path.to_owned(),
                });
            }
            _ => {
                return Err(GgufError::Version {
                    path: path.to_owned(),
                    version,
                });
            }
        }
        let tensor_count = directory::count(&mut cursor)?;
        let entry_count = Metadata::count(&mut cursor)?;
        let metadata = Metadata::read(&mut cursor, entry_count, source)?;
        let tensors = directory::read(&mut cursor, tensor_count, &metadata, source)?;
        Ok(Self {
            version,
            metadata,
            tensors,
        })
    }
}

fn map(path: &Path) -> Result<Source, GgufError> {
    Source::map(path).map_err(|source| GgufError::Io {
        path: path.to_owned(),
        source,
    })
}
