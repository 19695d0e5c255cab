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
//!
//! What this crate must never do: let what one caller gets depend on who else is served; hold a
//! page that is charged to nobody and can be had by nobody; take more requests than it has room
//! for; know anything of components or networks.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod adapters;
pub mod error;
pub mod request;

pub use adapters::{
    ActiveAdapter, AdapterInfo, AdapterStore, Lease, Residency, StoreError, StoreOptions,
};
pub use error::EngineError;
pub use request::{
    Caller, ChoiceScore, Chunk, Completion, Constraint, Finish, Priority, Request, Sampling,
    ScoreRequest, TokenLogprob,
};
