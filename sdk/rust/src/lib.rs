//! Write skep workloads in Rust.
//!
//! A workload is a WebAssembly component. It computes with what the node lends it through this
//! crate: [`Tensor`]s on the node's device, sentence [`Encoder`]s, [`LanguageModel`]s and their
//! [`Adapter`]s, [`Blob`]s of the swarm, [`Job`]s that other nodes do, and the [`input()`] and
//! [`output()`] of a task. It reaches nothing else: no files, no network, no clock worth trusting.
//!
//! There are two kinds:
//!
//! - A **task** is bytes in, bytes out. Write a function and hand it to [`export_task!`].
//! - A **classifier** labels records. Implement [`Classifier`] and hand the type to
//!   [`export_classifier!`]; the node parses the records and writes the results.
//!
//! ```no_run
//! use skep_sdk::{Encoder, Result, input, output};
//! use std::io::{BufRead, Write};
//!
//! fn similar(arguments: Vec<String>) -> Result<()> {
//!     let encoder = Encoder::open("default")?;
//!     let lines: Vec<String> = input().lines().collect::<std::io::Result<_>>()?;
//!     let scores = encoder
//!         .embed(&lines)?
//!         .matmul(&encoder.embed(&arguments)?.transpose(0, 1)?)?
//!         .to_vec()?;
//!     let mut output = output();
//!     for (line, scores) in lines.iter().zip(scores.chunks(arguments.len())) {
//!         writeln!(output, "{scores:?}\t{line}")?;
//!     }
//!     output.finish()
//! }
//!
//! # mod component { use super::*;
//! skep_sdk::export_task!(similar);
//! # }
//! # fn main() {}
//! ```
//!
//! # Asynchronous tasks
//!
//! With the crate's feature `async`, a task may be an `async fn`, exported by
//! `export_async_task!`, and read blobs and take texts as streams (`Blob::stream`,
//! `LanguageModel::stream`), several at once. Such a task
//! is of the world `async-task`; the node runs it on an engine where every call costs a little
//! more.
//!
//! # Errors and panics
//!
//! Whatever the node refuses comes back as a typed [`Error`] that says what to do. A panic ends
//! the run as a trap, and costs the person who started it an explanation: return errors.
//!
//! # Memory
//!
//! A tensor is a handle to memory on the device, which is charged to the run until the handle
//! is dropped. Rust drops at the end of a scope; in a long loop, see to it that what an
//! iteration made is dropped within it.

#![warn(missing_docs)]

// The export macros name this crate by its public name, inside the crate as well.
extern crate self as skep_sdk;

mod adapter;
#[doc(hidden)]
pub mod bindings;
mod blob;
#[cfg(feature = "async")]
mod blob_stream;
mod classifier;
mod encoder;
mod error;
mod jobs;
mod stream;
mod tensor;
mod text;
#[cfg(feature = "async")]
mod text_stream;

pub use adapter::{Adapter, AdapterInfo, Residency};
pub use blob::{Blob, BlobWriter};
#[cfg(feature = "async")]
pub use blob_stream::BlobStream;
pub use classifier::{Classifier, Document, Label, Prediction};
pub use encoder::{Encoder, EncoderInfo};
pub use error::{Error, Quota, Result};
pub use jobs::{Job, JobOptions, JobPlan, JobResult, JobState, JobStatus};
pub use stream::{Input, Output, input, output};
pub use tensor::{DType, Tensor};
pub use text::{
    ChoiceScore, Chunk, Completion, Constraint, Finish, Generation, LanguageModel, Message,
    ModelInfo, Prompt, Request, Sampling, ScoreRequest, TokenLogprob,
};
#[cfg(feature = "async")]
pub use text_stream::TextStream;

#[doc(hidden)]
pub use classifier::Holder;

/// Makes a function the `run` of a component of the world `task`.
///
/// The function takes the arguments of whoever started the run, and returns a [`Result`] whose
/// error is [`Error`] or converts into it.
///
/// ```
/// use skep_sdk::{Error, output};
/// use std::io::Write;
///
/// fn greet(arguments: Vec<String>) -> Result<(), Error> {
///     let mut output = output();
///     for name in &arguments {
///         writeln!(output, "Hello, {name}.")?;
///     }
///     output.finish()
/// }
///
/// # mod component { use super::*;
/// skep_sdk::export_task!(greet);
/// # }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_task {
    ($run:path) => {
        #[doc(hidden)]
        struct SkepTask;

        impl $crate::bindings::task::Guest for SkepTask {
            fn run(
                arguments: ::std::vec::Vec<::std::string::String>,
            ) -> ::core::result::Result<(), $crate::bindings::imports::skep::types::types::Error>
            {
                $run(arguments)
                    .map_err($crate::Error::from)
                    .map_err(::core::convert::Into::into)
            }
        }

        $crate::bindings::task::export_task_world!(SkepTask with_types_in $crate::bindings::task);
    };
}

/// Makes an asynchronous function the `run` of a component of the world `async-task`. As
/// [`export_task!`], otherwise.
#[cfg(feature = "async")]
#[macro_export]
macro_rules! export_async_task {
    ($run:path) => {
        #[doc(hidden)]
        struct SkepAsyncTask;

        impl $crate::bindings::async_task::Guest for SkepAsyncTask {
            async fn run(
                arguments: ::std::vec::Vec<::std::string::String>,
            ) -> ::core::result::Result<(), $crate::bindings::imports::skep::types::types::Error>
            {
                $run(arguments)
                    .await
                    .map_err($crate::Error::from)
                    .map_err(::core::convert::Into::into)
            }
        }

        $crate::bindings::async_task::export_async_task_world!(
            SkepAsyncTask with_types_in $crate::bindings::async_task
        );
    };
}

/// Makes a type that implements [`Classifier`] the classifier of a component of the world
/// `batch-classifier`.
#[macro_export]
macro_rules! export_classifier {
    ($classifier:ty) => {
        ::std::thread_local! {
            static SKEP_CLASSIFIER: $crate::Holder<$classifier> = const { $crate::Holder::new() };
        }

        #[doc(hidden)]
        struct SkepClassifier;

        impl $crate::bindings::batch_classifier::exports::skep::workload::classifier::Guest
            for SkepClassifier
        {
            fn fit(
                labels: ::std::vec::Vec<$crate::Label>,
            ) -> ::core::result::Result<(), $crate::bindings::imports::skep::types::types::Error>
            {
                SKEP_CLASSIFIER.with(|holder| holder.fit(labels)).map_err(::core::convert::Into::into)
            }

            fn classify(
                documents: ::std::vec::Vec<$crate::Document>,
            ) -> ::core::result::Result<
                ::std::vec::Vec<::core::result::Result<$crate::Prediction, ::std::string::String>>,
                $crate::bindings::imports::skep::types::types::Error,
            > {
                SKEP_CLASSIFIER
                    .with(|holder| holder.classify(documents))
                    .map_err(::core::convert::Into::into)
            }
        }

        $crate::bindings::batch_classifier::export_batch_classifier_world!(
            SkepClassifier with_types_in $crate::bindings::batch_classifier
        );
    };
}
