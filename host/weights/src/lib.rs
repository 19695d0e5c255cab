//! Weights at rest: the files that models come in, and the packed formats of what they hold.
//!
//! | module | what it reads |
//! |---|---|
//! | [`gguf`] | GGUF files, version 2 and 3, split or whole, with their metadata and tokenizer data |
//! | [`folder`] | Hugging Face folders of safetensors, sharded or whole |
//! | [`grouped`] | 4-bit weights as AWQ and GPTQ store them, repacked into one layout |
//! | [`peft`] | the configuration of adapters that PEFT wrote |
//! | [`pattern`] | the patterns in it, which say what modules are meant |
//! | [`low_rank`] | the matrices of such adapters |
//! | [`format`] | the blocks of F32 to Q6_K: their sizes, and what their bytes stand for |
//!
//! A decoder asks a [`WeightsFile`] for tensors by name and gets [`PackedTensor`]s: handles on
//! bytes that stay in the mapped file, so that opening a model costs no memory beyond the file
//! and weights are never expanded for keeps.
//!
//! What this crate must never do: trust a file (whatever it holds ends in tensors whose every
//! byte lies in the file or in a typed error, not in a panic or an allocation of what it says);
//! change what is on disk; compute with weights, which is the business of kernels above.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod folder;
pub mod format;
pub mod gguf;
pub mod grouped;
pub mod low_rank;
pub mod pattern;
pub mod peft;
mod source;
mod tensor;
mod weights;

pub use folder::{FolderError, SafetensorsFolder};
pub use format::{FormatError, PackedFormat};
pub use gguf::{Gguf, GgufError, GgufTokenizer};
pub use grouped::{GroupInt4, GroupedConfig, GroupedError};
pub use low_rank::{Changeable, LowRankError, LowRankPair, LowRankPairs};
pub use pattern::{ModulePattern, PatternError};
pub use peft::{PeftConfig, PeftError};
pub use tensor::{PackedTensor, RawTensor};
pub use weights::{Matrix, WeightsError, WeightsFile};
