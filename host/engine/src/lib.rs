//! The language-model engine: one batch for every guest.
//!
//! Requests of all callers meet in one scheduler, which puts together batch after batch: the next
//! token of every text that is being written, and parts of prompts, as many as fit a budget.
//! Keys and values lie in pages of one pool that texts share where they begin alike.
//!
//! | module | what it is |
//! |---|---|
//! | [`adapters`] | adapters by name and version, and where each of them is |
//! | [`request`] | what is asked, and what is answered |
//! | [`Engine`] | a model's thread, and the calls that feed it |
//! | [`runner`] | who computes: the processor, or a device |
//! | [`scheduler`] | what goes through the model next |
//! | [`sampling`] | choosing the next token |
//! | [`speculation`] | several tokens from one pass of the model |
//!
//! What this crate must never do: let what one caller gets depend on who else is served; hold a
//! page that is charged to nobody and can be had by nobody; take more requests than it has room
//! for; know anything of components or networks.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod adapters;
mod checking;
mod cost;
mod engine;
pub mod error;
mod fairness;
mod generation;
mod grammars;
mod holding;
mod likelihood;
mod mailbox;
mod model;
mod pages;
mod prefix;
pub mod request;
mod rests;
pub mod runner;
pub mod sampling;
pub mod scheduler;
mod sequence;
pub mod speculation;
mod writing;

pub use adapters::{
    ActiveAdapter, AdapterInfo, AdapterPool, AdapterStore, Lease, Residency, StoreError,
    StoreOptions,
};
pub use checking::{CheckRequest, Checked, FollowRequest, Followed};
pub use engine::{Engine, MemoryReport};
pub use error::{EngineError, StartError};
pub use generation::{Checks, Embeddings, Follows, Generation, Scores};
pub use grammars::Grammars;
pub use model::{LanguageModel, ModelError};
pub use pages::PagePool;
pub use request::{
    Caller, ChoiceScore, Chunk, Completion, Finish, Priority, Request, Sampling, ScoreRequest,
    TokenLogprob,
};
pub use rests::BackgroundTime;
pub use runner::{Backend, ModelRunner, OnDevice, Processor, RunnerError};
pub use sampling::{Chosen, Distribution, Sampler, SamplingError, Scratch, TokenMask};
pub use scheduler::{Options, Tally, page_bytes};
pub use skep_text::Constraint;
pub use speculation::{DraftError, DraftModel, DraftOptions, Follow, NgramDraft, verify};
