//! A recipe for fine-tuning: examples in JSON lines in, a LoRA adapter out.
//!
//! What is learned from is read by [`data`], cut into tokens by [`examples`], and learned by
//! [`training`]; [`settings`] says how, [`schedule`] with which rates and in which order, and
//! [`card`] what came of it. The weights and the kernels are the host's: this is a list of
//! decisions.
//!
//! What it must never do: keep a checkpoint of a training that has diverged, or make anything
//! depend on when it was interrupted.

mod card;
mod data;
mod examples;
mod schedule;
mod settings;
mod training;

use bindings::exports::skep::workload::recipe::Guest;
use bindings::skep::types::types::Error;

/// What `wit-bindgen` makes of the world `fine-tune`.
mod bindings {
    #![allow(missing_docs, clippy::all, clippy::pedantic)]

    wit_bindgen::generate!({
        path: "../../wit",
        world: "skep:workload/fine-tune",
        generate_all,
    });
}

struct Recipe;

impl Guest for Recipe {
    fn train(settings: Vec<(String, String)>) -> Result<(), Error> {
        let settings = settings::Settings::parse(&settings).map_err(Error::Invalid)?;
        training::train(&settings)
    }
}

bindings::export!(Recipe with_types_in bindings);
