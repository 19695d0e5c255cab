//! Language models that read a text and say what comes next.
//!
//! One forward pass serves every architecture: what they differ in is a [`Config`], read from a
//! Hugging Face folder or from the metadata of a GGUF file. Weights stay packed as they are in
//! the file; keys and values live in pages that the caller hands out, so sequences may share
//! them; tokens of many sequences, of prompts and of texts being written, go through together.
//!
//! | module | what it is |
//! |---|---|
//! | [`adapter`] | low-rank adapters: read from PEFT folders, placed in pages, one for each text |
//! | [`config`] | what an architecture is made of, and where that is read from |
//! | [`model`] | a loaded model and its forward pass |
//!
//! What this crate must never do: trust a file (whatever it holds ends in a model or in a
//! [`LoadError`]); expand weights for keeps; let a token's logits depend on the other sequences
//! of its batch; know anything of guests, accounts or networks.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod adapter;
pub mod config;
mod error;
mod host;
mod layer;
pub mod model;
mod names;
mod pass;
mod placed;
mod project;

pub use adapter::{Adapter, AdapterError, AdapterTarget, AdapterWeights, PagedAdapter};
pub use config::{Architecture, Config, LayerConfig};
pub use error::{ForwardError, LoadError};
pub use layer::Layer;
pub use model::{Batch, Decoder, Part, Workspace};
pub use placed::{MatrixName, PlacedDecoder, PlacedError, PlacedWorkspace};
pub use project::{Linear, LinearWeights};
