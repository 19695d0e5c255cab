//! 4-bit weights in groups, as AWQ and GPTQ store them, repacked into one layout for kernels.
//!
//! Both quantize the input dimension of a linear layer in groups: a group of one output has a
//! scale and a zero-point, and element = (q − zero) · scale with `q` and `zero` from 0 to 15.
//! They differ in where the bits lie; a layer of `n` inputs, `m` outputs and `g` groups is
//!
//! | tensor | AWQ (`gemm`) | GPTQ |
//! |---|---|---|
//! | `qweight` I32 | `[n, m / 8]`, eight outputs in a word | `[n / 8, m]`, eight inputs in a word |
//! | `qzeros` I32 | `[g, m / 8]`, eight outputs in a word | the same |
//! | `scales` F16 | `[g, m]` | the same |
//! | `g_idx` I32 | none | `[n]`, the group of each input; may be missing |
//!
//! GPTQ puts element `i` of a word at bits `4 i`; AWQ puts elements 0, 2, 4, 6, 1, 3, 5, 7 there
//! in this order. GPTQ's first version (`checkpoint_format: gptq`, or none) stores each word of
//! zero-points with one subtracted from every element, and borrows from the next element where
//! that is 0; so one is added to the elements of the whole word, with carries, as GPTQModel does
//! when it reads such a file. The second version (`gptq_v2`) and AWQ store them as they are.
//! With "act-order" (`desc_act`) a group's inputs do not lie side by side, and `g_idx` says where
//! they are. A `g_idx` that is all zeros is one that was never filled in, as exllama has it.
//!
//! Sources: AutoAWQ `awq/utils/packing_utils.py`; AutoGPTQ
//! `auto_gptq/nn_modules/qlinear/qlinear_cuda.py`; GPTQModel `gptqmodel/utils/model.py`. They
//! multiply in 16-bit floats; (q − zero) · scale is exact in 32 bits, and theirs is it rounded.

mod config;
mod layout;

use std::path::PathBuf;

pub use config::{GroupedConfig, GroupedMethod};
pub use layout::{GroupInt4, GroupRow, GroupTensors};

/// Why 4-bit weights could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupedError {
    /// A file of settings could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of settings is not what it should be.
    #[error("{path} is malformed: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model is quantized in a way that is not supported.
    #[error("{path} asks for {feature}, which is not supported; AWQ and GPTQ of 4 bits are")]
    Unsupported {
        /// The file of settings.
        path: PathBuf,
        /// What it asks for.
        feature: String,
    },
    /// A tensor of a layer is missing.
    #[error("layer {layer:?} has no tensor {part:?}; the folder is incomplete")]
    Missing {
        /// The layer.
        layer: String,
        /// The tensor's name within the layer.
        part: &'static str,
    },
    /// A tensor of a layer has another type than the format says.
    #[error("{layer}.{part} is {got}; it must be {want}")]
    WrongType {
        /// The layer.
        layer: String,
        /// The tensor's name within the layer.
        part: &'static str,
        /// Its type.
        got: String,
        /// The type that it must have.
        want: &'static str,
    },
    /// The tensors of a layer do not fit together.
    #[error("{layer}.{part} has shape {got:?}: {reason}")]
    WrongShape {
        /// The layer.
        layer: String,
        /// The tensor's name within the layer.
        part: &'static str,
        /// Its shape.
        got: Vec<u64>,
        /// What it must be.
        reason: String,
    },
    /// A scale is NaN or infinite.
    #[error("{layer}.scales holds a NaN or an infinity; the weights are damaged")]
    NotFinite {
        /// The layer.
        layer: String,
    },
    /// The inputs are not shared out over the groups evenly.
    #[error("{layer}.g_idx is unsound: {reason}")]
    GroupIndex {
        /// The layer.
        layer: String,
        /// What is wrong with it.
        reason: String,
    },
}
