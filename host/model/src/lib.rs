//! Sentence encoders: models of the BERT family that turn a text into a vector whose direction
//! is its meaning.
//!
//! An [`Encoder`] is loaded from a folder as Hugging Face and sentence-transformers lay it out,
//! once, and shared by all who use it; its word embeddings stay in the memory-mapped file. Texts
//! of all callers meet in one queue ([`Workers`]), are cut into batches of about equal numbers of
//! tokens and go through the network unpadded, one batch per thread. A [`Catalog`] holds the
//! models that a node has, by name and digest, and loads them on first use. An [`EncoderAdapter`] is a
//! small change to an encoder, with a layer that makes classes of texts, as PEFT saves it.
//!
//! What this crate must never do: trust a file (whatever a model's folder holds ends in an
//! embedding or in a [`LoadError`], not in a panic or an allocation of what it says); compute what
//! no account was charged for; let an embedding depend on the other texts that were embedded with
//! it; know anything of components or networks.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod adapter;
mod bert;
mod catalog;
mod cost;
mod encoder;
mod error;
mod folder;
mod job;
mod tokenizer;
mod weights;
mod workers;

pub use adapter::{AdapterError, EncoderAdapter};
pub use catalog::{Catalog, CatalogEntry, ModelName};
pub use cost::Cost;
pub use encoder::{Encoder, EncoderInfo, EncoderOptions, Network};
pub use error::{EncodeError, LoadError};
pub use skep_tensor::operators::{Activation, Isa, Pooling, Precision};
pub use workers::Workers;
