//! The tensors of a safetensors file, mapped into memory and read row by row.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use crate::error::LoadError;

/// The header of a file is read up to this many bytes; those of honest encoders have thousands.
const HEADER_LIMIT: u64 = 8 << 20;

/// A mapped file of weights.
pub(crate) struct Weights {
    path: PathBuf,
    map: Arc<Mmap>,
    /// What stands before all names of the file.
    prefix: &'static str,
    tensors: Vec<(String, Entry)>,
}

struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// A matrix of weights in a mapped file.
#[derive(Clone)]
pub(crate) struct Matrix {
    map: Arc<Mmap>,
    element: Element,
    columns: usize,
    /// `rows * columns` elements, as was checked when the matrix was taken from the file.
    bytes: Range<usize>,
}

#[derive(Clone, Copy)]
enum Element {
    F32,
    F16,
    Bf16,
}

impl Weights {
    /// Maps `path` and checks its header: every tensor lies inside the file.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let io = |source| LoadError::Io {
            path: path.to_owned(),
            source,
        };
        let malformed = |reason: String| LoadError::Malformed {
            path: path.to_owned(),
            reason,
        };
        let file = File::open(path).map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(malformed("it is not a regular file".to_owned()));
        }
        // SAFETY: the map is only ever read as bytes, any of which are valid. Somebody who
        // truncates the file while it is mapped can stop the process; model files lie in the
        // node's own store, where nothing is changed in place.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let header = map
            .first_chunk::<8>()
            .map(|bytes| u64::from_le_bytes(*bytes))
            .ok_or_else(|| malformed(format!("it has only {} bytes", map.len())))?;
        if header > HEADER_LIMIT {
            return Err(LoadError::TooLarge {
                path: path.to_owned(),
                bytes: header,
                limit: HEADER_LIMIT,
            });
        }
        let parsed = SafeTensors::deserialize(&map).map_err(|e| malformed(e.to_string()))?;
        let start = map.as_ptr() as usize;
        let tensors: Vec<(String, Entry)> = parsed
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let offset = view.data().as_ptr() as usize - start;
                let entry = Entry {
                    dtype: view.dtype(),
                    shape: view.shape().to_vec(),
                    bytes: offset..offset + view.data().len(),
                };
                (name, entry)
            })
            .collect();
        let has = |name: &str| tensors.iter().any(|(own, _)| own == name);
        let prefix = if has("bert.embeddings.word_embeddings.weight") {
            "bert."
        } else {
            ""
        };
        Ok(Self {
            path: path.to_owned(),
            map: Arc::new(map),
            prefix,
            tensors,
        })
    }

    /// The matrix of that name and shape.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, LoadError> {
        self.take(name, vec![rows, columns], columns)
    }

    /// The vector of that name and length, all of it finite.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let row = self.take(name, vec![len], len)?;
        let mut values = vec![0.0; len];
        row.row(0, &mut values);
        self.finite(name, &values)?;
        Ok(values)
    }

    /// An error if one of `values`, read from tensor `name`, is not finite.
    pub fn finite(&self, name: &str, values: &[f32]) -> Result<(), LoadError> {
        if values.iter().all(|x| x.is_finite()) {
            return Ok(());
        }
        Err(LoadError::NotFinite {
            path: self.path.clone(),
            name: name.to_owned(),
        })
    }

    fn take(&self, name: &str, want: Vec<usize>, columns: usize) -> Result<Matrix, LoadError> {
        let full = format!("{}{name}", self.prefix);
        let Some((_, entry)) = self.tensors.iter().find(|(own, _)| *own == full) else {
            return Err(LoadError::MissingTensor {
                path: self.path.clone(),
                name: name.to_owned(),
            });
        };
        if entry.shape != want {
            return Err(LoadError::WrongShape {
                path: self.path.clone(),
                name: full,
                got: entry.shape.clone(),
                want,
            });
        }
        let element = match entry.dtype {
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::Bf16,
            other => {
                return Err(LoadError::WrongType {
                    path: self.path.clone(),
                    name: full,
                    dtype: format!("{other:?}"),
                });
            }
        };
        Ok(Matrix {
            map: Arc::clone(&self.map),
            element,
            columns,
            bytes: entry.bytes.clone(),
        })
    }
}

impl Matrix {
    /// Writes row `index` to `to`, as much of it as there is room for. A row that does not
    /// exist is NaN.
    pub fn row(&self, index: usize, to: &mut [f32]) {
        let size = match self.element {
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
        };
        let len = self.columns * size;
        let range = index
            .checked_mul(len)
            .and_then(|start| Some(start..start.checked_add(len)?));
        let all = self.map.get(self.bytes.clone());
        let Some(row) = range.and_then(|range| all?.get(range)) else {
            return to.fill(f32::NAN);
        };
        match self.element {
            Element::F32 => {
                for (to, bytes) in to.iter_mut().zip(row.as_chunks::<4>().0) {
                    *to = f32::from_le_bytes(*bytes);
                }
            }
            Element::F16 => {
                for (to, bytes) in to.iter_mut().zip(row.as_chunks::<2>().0) {
                    *to = half::f16::from_le_bytes(*bytes).to_f32();
                }
            }
            Element::Bf16 => {
                for (to, bytes) in to.iter_mut().zip(row.as_chunks::<2>().0) {
                    *to = half::bf16::from_le_bytes(*bytes).to_f32();
                }
            }
        }
    }
}
