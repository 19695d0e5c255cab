//! Why a GGUF file could not be read.

use std::path::PathBuf;

use crate::format::FormatError;

/// Why a GGUF file could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file could not be opened or mapped.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file does not begin as a GGUF file does.
    #[error("{path} is no GGUF file: it does not begin with the letters GGUF")]
    NotGguf {
        /// The file.
        path: PathBuf,
    },
    /// The file was written for big-endian machines.
    #[error(
        "{path} is a big-endian GGUF file; convert it to little-endian \
         (`gguf-convert-endian` of the Python package gguf does)"
    )]
    BigEndian {
        /// The file.
        path: PathBuf,
    },
    /// The file has a version that is not read here.
    #[error("{path} has GGUF version {version}; 2 and 3 are read, so convert the model anew")]
    Version {
        /// The file.
        path: PathBuf,
        /// The version it gives.
        version: u32,
    },
    /// The file ends before what it announces.
    #[error("{path} ends too early: {what} at byte {offset} takes {needed} bytes, {left} are left")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: &'static str,
        /// Where it begins.
        offset: usize,
        /// Bytes that it takes at the least.
        needed: u64,
        /// Bytes from there to the end.
        left: usize,
    },
    /// The file announces more of something than any honest one has.
    #[error("{path} announces {count} {what}; at most {limit} are read")]
    TooMany {
        /// The file.
        path: PathBuf,
        /// What is counted.
        what: &'static str,
        /// The announced count.
        count: u64,
        /// The limit.
        limit: u64,
    },
    /// Something at a place in the file is not as the format says.
    #[error("{path} is malformed at byte {offset}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The place.
        offset: usize,
        /// What is wrong.
        reason: String,
    },
    /// Two entries have the same name.
    #[error("{path} has two {what} named {name:?}")]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// Tensors or metadata keys.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A tensor is packed in a way that is not supported.
    #[error(
        "{path}: tensor {tensor:?} is {kind}, which is not supported; quantize the model to one \
         of F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K"
    )]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// ggml's name of the type, or its number.
        kind: String,
    },
    /// A tensor's shape does not go with its format.
    #[error("{path}: tensor {tensor:?} has shape {shape:?}: {source}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape, outermost dimension first.
        shape: Vec<u64>,
        /// Why it does not go.
        source: FormatError,
    },
    /// A tensor's data lie beyond the end of the file.
    #[error("{path}: tensor {tensor:?} ends at byte {end}, the file at {len}; it is cut short")]
    OutsideFile {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where its data would end.
        end: u64,
        /// Bytes of the file.
        len: usize,
    },
    /// Two tensors claim the same bytes.
    #[error("{path}: tensors {first:?} and {second:?} overlap")]
    Overlap {
        /// The file.
        path: PathBuf,
        /// The one that begins first.
        first: String,
        /// The other.
        second: String,
    },
    /// The metadata lack a key that is needed.
    #[error("{path} has no metadata {key:?}, which this model needs")]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A metadata value has another type, or lies out of range.
    #[error("{path}: metadata {key:?} is {got}, but must be {want}")]
    WrongValue {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What must be there.
        want: &'static str,
        /// What is there.
        got: String,
    },
    /// The files of a split model do not belong together.
    #[error("{path} is no sound part of a split model: {reason}")]
    Split {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The tokenizer that the metadata describe contradicts itself or the model.
    #[error("{path}: the tokenizer is unsound: {reason}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}
