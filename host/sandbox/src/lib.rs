//! The sandbox: WebAssembly components under hard limits, with nothing they were not granted.
//!
//! - [`Sandbox::load`] takes a component from anywhere and makes a [`Program`] of it: its size,
//!   structure and imports are checked, and it is compiled unless this node has done so before.
//! - [`Sandbox::run_task`] and [`Sandbox::classify`] run a program under a [`RunSpec`], on a
//!   thread of its own, and return a [`RunReport`] or a [`FailedRun`] that says which limit
//!   ended it.
//! - [`Sandbox::train`] runs a recipe for fine-tuning, which is given a [`TrainingRoom`] besides.
//! - [`Sandbox::open_verifier`] begins a run that judges what others made of some work.
//! - [`Sandbox::open_village`] and [`Sandbox::open_renderer`] begin a run that stays: the guest
//!   lives on from call to call, with limits for all of them and for each.
//!
//! A guest's mistake is a typed error of the contract in `wit/`; a guest's misdeed ends the run
//! with a typed [`RunError`]; a fault of the host ends that run and not the node.
//!
//! This is the only crate that knows wasmtime. What it must never do: run a component whose
//! imports were not checked against its grants, load a compiled artefact that this node did not
//! make, let anything of a guest outlive its run, or block on a guest without a clock.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod bindings;
mod blobs;
mod cache;
mod compile;
mod devices;
mod engine;
mod error;
mod following;
mod grants;
mod inspect;
mod interfaces;
mod jobs;
mod language;
mod limits;
mod log;
mod measure;
mod models;
mod priority;
mod program;
mod repeatable;
mod run;
mod sandbox;
mod state;
mod streams;
mod task_io;
mod text_stream;
mod ticker;
mod training;
mod turns;
mod workers;
mod writing;

pub use blobs::{Allowance, BlobError, Blobs, OpenBlob, OpenWriter, Pending, ReadBlob, WriteBlob};
pub use compile::{CompileIn, compile_process};
pub use devices::GuestsComputing;
pub use engine::EngineKind;
pub use error::{LoadError, Quota, QuotaExcess, RunError, raised_by};
pub use following::{Shown, Texts};
pub use grants::Refusal;
pub use jobs::{Doing, Job, JobError, JobOrder, JobState, JobStatus, Jobs, OpenJob};
pub use language::{
    AdapterInfo, Answer, EncoderChange, Follows, LanguageModel, LanguageModelInfo, Message,
    OpenAdapter, OpenModel, Prompt, Residency, TextAdapter, TextGeneration,
};
pub use limits::RunLimits;
pub use models::{BaseModel, EncoderInfo, ModelError, Models, OpenEncoder, TextEncoder};
pub use program::{Origin, Program};
pub use run::FailedRun;
pub use run::cancel::Cancel;
pub use run::records::{OutcomeSink, Progress};
pub use run::renderer::{Rendered, Renderer};
pub use run::report::{Reported, RunReport};
pub use run::session::{CallError, CallLimits};
pub use run::spec::{RunSpec, Used};
pub use run::verify::{Content, Finding, Verdict, VerifiedWork, Verifier};
pub use run::village::{Beginning, Village};
/// What a village and a renderer tell each other, and what a village tells whoever plays it: the
/// records of the contract (`skep:workload/npc`, `skep:workload/villages`), as they are.
pub mod records {
    pub use crate::bindings::renderer::exports::skep::workload::renderer::Manner;
    pub use crate::bindings::village::exports::skep::workload::villages::{
        Deed, Event, Fault, Outcome, View, Violation, Whereabouts, Wish,
    };
    pub use crate::bindings::village::skep::workload::npc::{
        Action, Claim, Heard, Intent, Mood, Regard, Relation, Reply, Scene, Speaker,
    };
}
pub use sandbox::{Sandbox, SandboxConfig};
pub use training::{
    Meeting, Met, Others, Rehearsal, SavedAdapter, SharedTrainer, StepTogether, Stepped,
    TrainingProgress, TrainingRoom,
};
