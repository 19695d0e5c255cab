//! A model's weights, whichever container they come in.

use std::path::{Path, PathBuf};

use crate::folder::{FolderError, SafetensorsFolder};
use crate::format::FormatError;
use crate::gguf::{Gguf, GgufError};
use crate::grouped::{GroupInt4, GroupedConfig, GroupedError};
use crate::tensor::PackedTensor;

/// Why weights could not be opened, or a tensor not be taken from them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The GGUF file is unsound.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The folder of safetensors is unsound.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The 4-bit weights are unsound.
    #[error(transparent)]
    Grouped(#[from] GroupedError),
    /// There is no such tensor.
    #[error("{path} has no tensor {name:?}, which the model's configuration needs")]
    Missing {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{path}: tensor {name:?} has shape {got:?}, but the configuration says {want:?}")]
    WrongShape {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        got: Vec<u64>,
        /// The shape that it should have.
        want: Vec<u64>,
    },
    /// A tensor holds elements that no weight may be.
    #[error("{path}: tensor {name:?}: {source}")]
    Unsound {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong with it.
        source: FormatError,
    },
}

/// A weight matrix `[outputs, inputs]` as it is stored.
#[derive(Debug)]
#[non_exhaustive]
pub enum Matrix {
    /// Rows of blocks.
    Packed(PackedTensor),
    /// 4-bit groups, of AWQ or GPTQ.
    Grouped(GroupInt4),
}

/// The weights of a model: a GGUF file, split or whole, or a folder of safetensors.
#[derive(Debug)]
#[non_exhaustive]
pub enum WeightsFile {
    /// A GGUF file.
    Gguf {
        /// Where it, or its first part, lies.
        path: PathBuf,
        /// The file.
        file: Gguf,
    },
    /// A folder of safetensors.
    Safetensors {
        /// The folder.
        folder: SafetensorsFolder,
        /// How its linear layers are quantized, if they are.
        grouped: Option<GroupedConfig>,
    },
}

impl WeightsFile {
    /// Opens a folder of safetensors, or else a GGUF file.
    ///
    /// # Errors
    /// When a file cannot be read or is unsound.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        if path.is_dir() {
            return Ok(WeightsFile::Safetensors {
                folder: SafetensorsFolder::open(path)?,
                grouped: GroupedConfig::read(path)?,
            });
        }
        Ok(WeightsFile::Gguf {
            path: path.to_owned(),
            file: Gguf::open(path)?,
        })
    }

    /// The file or folder that was opened.
    pub fn path(&self) -> &Path {
        match self {
            WeightsFile::Gguf { path, .. } => path,
            WeightsFile::Safetensors { folder, .. } => folder.path(),
        }
    }

    /// The bytes of all tensors, as they are stored.
    pub fn bytes(&self) -> u64 {
        match self {
            WeightsFile::Gguf { file, .. } => {
                file.tensors().map(|(_, t)| t.bytes().len() as u64).sum()
            }
            WeightsFile::Safetensors { folder, .. } => {
                folder.tensors().map(|(_, t)| t.bytes().len() as u64).sum()
            }
        }
    }

    /// The names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (gguf, folder) = match self {
            WeightsFile::Gguf { file, .. } => (Some(file), None),
            WeightsFile::Safetensors { folder, .. } => (None, Some(folder)),
        };
        gguf.into_iter()
            .flat_map(|file| file.tensors().map(|(name, _)| name))
            .chain(
                folder
                    .into_iter()
                    .flat_map(|folder| folder.tensors().map(|(name, _)| name)),
            )
    }

    /// The tensor of that name, if there is one and its elements are weights rather than, say,
    /// integers. Nothing of its content was looked at.
    pub fn tensor(&self, name: &str) -> Option<PackedTensor> {
        match self {
            WeightsFile::Gguf { file, .. } => file.tensor(name).cloned(),
            WeightsFile::Safetensors { folder, .. } => folder.tensor(name),
        }
    }

    /// The tensor of that name and shape, all of it finite: what a model is loaded from. Reads
    /// every scale of the tensor.
    ///
    /// # Errors
    /// When there is no such tensor, its shape is another, or an element is NaN or infinite.
    pub fn load(&self, name: &str, shape: &[u64]) -> Result<PackedTensor, WeightsError> {
        let Some(tensor) = self.tensor(name) else {
            return Err(WeightsError::Missing {
                path: self.path().to_owned(),
                name: name.to_owned(),
            });
        };
        self.check_shape(name, tensor.shape(), shape)?;
        match tensor.check_finite() {
            Ok(()) => Ok(tensor),
            Err(source) => Err(WeightsError::Unsound {
                path: self.path().to_owned(),
                name: name.to_owned(),
                source,
            }),
        }
    }

    /// The matrix `[outputs, inputs]` of the linear layer `layer`, whose tensor is named
    /// `<layer>.weight`, or whose tensors are named `<layer>.qweight` and so on where the layer
    /// is stored as AWQ and GPTQ do. Repacks the latter, which takes as much memory as they do, and
    /// lets go of the file's pages.
    ///
    /// # Errors
    /// As for [`WeightsFile::load`], and when the 4-bit tensors do not fit together.
    pub fn load_matrix(
        &self,
        layer: &str,
        outputs: u64,
        inputs: u64,
    ) -> Result<Matrix, WeightsError> {
        if let WeightsFile::Safetensors {
            folder,
            grouped: Some(config),
        } = self
            && folder.raw(&format!("{layer}.qweight")).is_some()
        {
            let matrix = GroupInt4::load(folder, config, layer)?;
            let shape = [matrix.rows() as u64, matrix.columns() as u64];
            self.check_shape(&format!("{layer}.qweight"), &shape, &[outputs, inputs])?;
            return Ok(Matrix::Grouped(matrix));
        }
        self.load(&format!("{layer}.weight"), &[outputs, inputs])
            .map(Matrix::Packed)
    }

    fn check_shape(&self, name: &str, got: &[u64], want: &[u64]) -> Result<(), WeightsError> {
        if got == want {
            return Ok(());
        }
        Err(WeightsError::WrongShape {
            path: self.path().to_owned(),
            name: name.to_owned(),
            got: got.to_vec(),
            want: want.to_vec(),
        })
    }
}
