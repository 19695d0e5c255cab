//! The host's side of the contract: one module for each WIT interface.
//!
//! A guest's mistake becomes a typed error of the contract; only the use of a handle that the
//! guest does not hold, and a call that carries more bytes than a call may, end the run. Each
//! call is counted. Nothing here keeps state of its own: that is in [`State`].

mod adapters;
mod blob_streams;
mod blobs;
pub(crate) mod contents;
mod encoders;
mod io;
mod jobs;
mod reports;
mod tensors;
pub(crate) mod text;
mod text_streams;
mod training;
mod types;

use wasmtime::component::{HasSelf, Linker};

use crate::bindings::async_task::skep::model::text_streams::add_to_linker as text_streams_to_linker;
use crate::bindings::async_task::skep::swarm::blob_streams::add_to_linker as blob_streams_to_linker;
use crate::bindings::fine_tune::skep::train::training::add_to_linker as training_to_linker;
use crate::bindings::task::Task;
use crate::bindings::verifier::skep::verify::contents::add_to_linker as contents_to_linker;
use crate::bindings::verifier::skep::verify::reports::add_to_linker as reports_to_linker;
use crate::engine::EngineKind;
use crate::state::State;

pub(crate) use text::requests::chunk_to_contract;
pub(crate) use types::{HostError, reported};

/// Links every interface that this host has. Which of them a component may use is checked
/// before it is instantiated.
pub(crate) fn link(linker: &mut Linker<State>, kind: EngineKind) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    if kind == EngineKind::Concurrent {
        wasmtime_wasi::p3::add_to_linker(linker)?;
        blob_streams_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
        text_streams_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    }
    contents_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    reports_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    training_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    Task::add_to_linker::<_, HasSelf<State>>(linker, |state| state)
}
