//! Hugging Face folders of safetensors, mapped into memory.
//!
//! The weights are `model.safetensors`, or shards with `model.safetensors.index.json` beside
//! them, whose `weight_map` says which tensor lies in which shard. Where both are there, the
//! whole file counts, as in the Python library.
//!
//! The folder may come from anybody. Headers and the index are read up to a limit, an index
//! names only files beside itself, and every tensor that it lists must be where it says. Tensors
//! that a shard has and the index does not list are not handed out.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::Metadata;
use serde::Deserialize;

use crate::source::{Source, read_up_to};
use crate::tensor::{PackedTensor, RawTensor};

/// Headers and indexes are read up to this many bytes; those of honest models have at most
/// hundreds of thousands.
const HEADER_LIMIT: u64 = 16 << 20;
/// The largest models have some hundred shards.
const SHARD_LIMIT: usize = 1024;

/// Why a folder of safetensors could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// A file could not be opened, mapped or read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder has no weights that are read here.
    #[error(
        "{path} has neither model.safetensors nor model.safetensors.index.json; convert other \
         weights with `save_pretrained(…, safe_serialization=True)`"
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// A header or an index is larger than any honest one.
    #[error("the {what} of {path} has {bytes} bytes or more; at most {limit} are read")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The part of the file.
        what: &'static str,
        /// How many bytes it has at the least.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A file is not what its name says, or contradicts itself.
    #[error("{path} is malformed: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index names a file that does not lie beside it.
    #[error("{path} names the shard {shard:?}, which is no name of a safetensors file beside it")]
    OutsideFolder {
        /// The index.
        path: PathBuf,
        /// What it names.
        shard: String,
    },
    /// The index says that a shard holds a tensor, but it does not.
    #[error("{path} says that {shard:?} holds tensor {tensor:?}, but it does not")]
    NotInShard {
        /// The index.
        path: PathBuf,
        /// The shard.
        shard: String,
        /// The tensor.
        tensor: String,
    },
}

/// The tensors of a folder, or of a single file.
pub struct SafetensorsFolder {
    path: PathBuf,
    shards: usize,
    tensors: BTreeMap<Box<str>, RawTensor>,
}

/// The index of a sharded model. What else it says is not needed.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl SafetensorsFolder {
    /// Opens the weights of the model in the folder at `path`.
    ///
    /// # Errors
    /// When there are none, a file cannot be read or is unsound, or the index does not tell the
    /// truth about its shards.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let whole = path.join("model.safetensors");
        if whole.exists() {
            return Self::open_file(&whole);
        }
        let index = path.join("model.safetensors.index.json");
        if !index.exists() {
            return Err(FolderError::NoWeights {
                path: path.to_owned(),
            });
        }
        let mut folder = Self {
            path: path.to_owned(),
            shards: 0,
            tensors: BTreeMap::new(),
        };
        let Index { weight_map } = read_index(&index)?;
        let names: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
        if names.len() > SHARD_LIMIT {
            return Err(FolderError::Malformed {
                path: index,
                reason: format!(
                    "it names {} shards; at most {SHARD_LIMIT} are read",
                    names.len()
                ),
            });
        }
        let mut shards = BTreeMap::new();
        for name in names {
            if !is_shard_name(name) {
                return Err(FolderError::OutsideFolder {
                    path: index,
                    shard: name.chars().take(256).collect(),
                });
            }
            shards.insert(name, read_file(&path.join(name))?);
        }
        folder.shards = shards.len();
        for (tensor, shard) in &weight_map {
            let held = shards
                .get_mut(shard.as_str())
                .and_then(|tensors| tensors.remove(tensor.as_str()));
            let Some(held) = held else {
                return Err(FolderError::NotInShard {
                    path: index,
                    shard: shard.clone(),
                    tensor: tensor.clone(),
                });
            };
            folder.tensors.insert(tensor.as_str().into(), held);
        }
        Ok(folder)
    }

    /// Opens a single safetensors file, whatever its name.
    ///
    /// # Errors
    /// When it cannot be read or is unsound.
    pub fn open_file(path: &Path) -> Result<Self, FolderError> {
        Ok(Self {
            path: path.to_owned(),
            shards: 1,
            tensors: read_file(path)?,
        })
    }

    /// The folder, or the file, that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of files that hold the tensors.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// The tensor of that name, of whatever type.
    pub fn raw(&self, name: &str) -> Option<&RawTensor> {
        self.tensors.get(name)
    }

    /// The tensor of that name, if it is one of F32, F16 or BF16.
    pub fn tensor(&self, name: &str) -> Option<PackedTensor> {
        self.raw(name)?.packed()
    }

    /// All tensors, by name in alphabetical order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &RawTensor)> {
        self.tensors.iter().map(|(name, tensor)| (&**name, tensor))
    }
}

impl fmt::Debug for SafetensorsFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SafetensorsFolder")
            .field("path", &self.path)
            .field("shards", &self.shards)
            .field("tensors", &self.tensors)
            .finish()
    }
}

fn read_index(path: &Path) -> Result<Index, FolderError> {
    let content = read_up_to(path, HEADER_LIMIT).map_err(|source| io(path, source))?;
    if content.len() as u64 > HEADER_LIMIT {
        return Err(FolderError::TooLarge {
            path: path.to_owned(),
            what: "content",
            bytes: content.len() as u64,
            limit: HEADER_LIMIT,
        });
    }
    serde_json::from_slice(&content).map_err(|error| malformed(path, error.to_string()))
}

/// Whether `name` is the bare name of a safetensors file, so that it stays in its folder.
fn is_shard_name(name: &str) -> bool {
    let path = Path::new(name);
    path.file_name() == Some(OsStr::new(name))
        && !name.contains(['/', '\\', '\0'])
        && path.extension() == Some(OsStr::new("safetensors"))
}

/// Maps a file and checks its header: every tensor lies inside the file, and no byte belongs to
/// two.
fn read_file(path: &Path) -> Result<BTreeMap<Box<str>, RawTensor>, FolderError> {
    let source = Source::map(path).map_err(|source| io(path, source))?;
    let bytes = source.bytes();
    let header = bytes
        .first_chunk::<8>()
        .map(|bytes| u64::from_le_bytes(*bytes))
        .ok_or_else(|| malformed(path, format!("it has only {} bytes", bytes.len())))?;
    if header > HEADER_LIMIT {
        return Err(FolderError::TooLarge {
            path: path.to_owned(),
            what: "header",
            bytes: header,
            limit: HEADER_LIMIT,
        });
    }
    // Not the library's own way into a file: that one adds to the data's length before it has
    // held it against the file, which overflows where a header says so.
    let data = 8 + header as usize;
    let header = bytes.get(8..data).ok_or_else(|| {
        let len = bytes.len();
        malformed(
            path,
            format!("its header ends at byte {data}, the file at {len}"),
        )
    })?;
    let header: Metadata =
        serde_json::from_slice(header).map_err(|e| malformed(path, e.to_string()))?;
    if header.data_len() != bytes.len() - data {
        return Err(malformed(
            path,
            format!(
                "its header speaks of {} bytes of data, but {} are there",
                header.data_len(),
                bytes.len() - data
            ),
        ));
    }
    let mut tensors = BTreeMap::new();
    for (name, info) in header.tensors() {
        let (start, end) = info.data_offsets;
        if start > end || end > bytes.len() - data {
            return Err(malformed(
                path,
                format!("tensor {name:?} lies outside the file"),
            ));
        }
        let shape: Arc<[u64]> = info.shape.iter().map(|&side| side as u64).collect();
        let range = data + start..data + end;
        let tensor = RawTensor::new(info.dtype, shape, source.clone(), range);
        tensors.insert(name.into(), tensor);
    }
    Ok(tensors)
}

fn io(path: &Path, source: std::io::Error) -> FolderError {
    FolderError::Io {
        path: path.to_owned(),
        source,
    }
}

fn malformed(path: &Path, reason: String) -> FolderError {
    FolderError::Malformed {
        path: path.to_owned(),
        reason,
    }
}
