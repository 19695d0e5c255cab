//! The batch classifier as a native program, to be measured beside the component.
//!
//! It is the guest's own source, compiled for this machine against a stand-in for the SDK that
//! calls the host's crates where the SDK calls the host: [`native_sdk`] is the sandbox left out,
//! and nothing else. Nothing here is shipped.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

// The guest names the SDK; here this crate goes by its name.
extern crate self as skep_sdk;

mod native_sdk;
mod program;

#[path = "../../guests/batch-classifier/src/lib.rs"]
mod batch_classifier;

pub use native_sdk::{
    Classifier, DType, Document, Encoder, Error, Label, Prediction, Result, Tensor,
};
pub use program::classify;
