//! A recipe that does what it must not, for the tests of training. Its one setting names what, and
//! it passes the host's refusal on. A deed that is let through is an error of its own.
//!
//! It exports the `run` of a task too, which opens a trainer in a run that was not started to
//! train.

use bindings::exports::skep::workload::recipe;
use bindings::skep::train::training::{
    Example, LoraConfig, Loss, Metadata, Options, Sampling, Targets, Trainer,
};
use bindings::skep::types::types::Error;
use trainings::{hyper, lora, options, weighted};

#[path = "../../trainings.rs"]
mod trainings;

mod bindings {
    //! What `wit-bindgen` makes of the world `fine-tune` with the export of a task beside.
    #![allow(missing_docs, clippy::all, clippy::pedantic)]

    wit_bindgen::generate!({
        path: "../../../wit",
        inline: "
            package hostile:trainer;
            world both {
                include skep:workload/fine-tune@0.1.0;
                use skep:types/types@0.1.0.{error};
                export run: func(arguments: list<string>) -> result<_, error>;
            }
        ",
        world: "hostile:trainer/both",
        generate_all,
    });
}

/// The rank of an adapter that nothing is wrong with.
const RANK: u32 = 2;

struct Hostile;

fn open_with(lora: &LoraConfig) -> Result<Trainer, Error> {
    Trainer::open("default", lora, options(None))
}

fn open() -> Result<Trainer, Error> {
    open_with(&lora(RANK))
}

fn example(tokens: usize) -> Example {
    weighted(vec![7; tokens], Vec::new())
}

fn learn(trainer: &Trainer, batch: &[Example]) -> Result<(), Error> {
    trainer
        .forward_backward(batch, Loss::CrossEntropy, None)
        .map(|_| ())
}

fn metadata(card: String) -> Metadata {
    Metadata {
        card,
        hyper_parameters: Vec::new(),
        metrics: Vec::new(),
    }
}

/// Does it again and again, until the host says no.
fn for_ever<T>(mut deed: impl FnMut(u32) -> Result<T, Error>) -> Result<(), Error> {
    let mut kept = Vec::new();
    for number in 0.. {
        kept.push(deed(number)?);
    }
    Ok(())
}

fn act(deed: &str) -> Result<(), Error> {
    match deed {
        "rank" => open_with(&LoraConfig {
            rank: u32::MAX,
            ..lora(RANK)
        })
        .map(|_| ()),
        "largest-rank" => open_with(&LoraConfig {
            rank: 1024,
            ..lora(RANK)
        })
        .map(|_| ()),
        "alpha" => open_with(&LoraConfig {
            alpha: f32::NAN,
            ..lora(RANK)
        })
        .map(|_| ()),
        "pattern" => open_with(&LoraConfig {
            targets: Targets::Pattern("(a{1000}){1000}".to_owned()),
            ..lora(RANK)
        })
        .map(|_| ()),
        "targets" => open_with(&LoraConfig {
            targets: Targets::Named(vec!["nothing".to_owned(); 100_000]),
            ..lora(RANK)
        })
        .map(|_| ()),
        "classes" => Trainer::open(
            "default",
            &lora(RANK),
            Options {
                classes: Some(u32::MAX),
                ..options(None)
            },
        )
        .map(|_| ()),
        "trainers" => for_ever(|_| open()),
        "secret" => Trainer::open("secret", &lora(RANK), options(None)).map(|_| ()),
        "secret-adapter" => open()?.continue_from("secret"),
        "batch" => learn(&open()?, &vec![example(1); 70_000]),
        "tokens" => learn(&open()?, &vec![example(1100); 1000]),
        "context" => learn(&open()?, &[example(100_000)]),
        "activations" => learn(&open()?, &vec![example(64); 500]),
        "work" => {
            let (trainer, batch) = (open()?, vec![example(64); 4]);
            for_ever(|_| learn(&trainer, &batch))
        }
        "token" => {
            let mut stray = example(4);
            stray.tokens[2] = u32::MAX;
            learn(&open()?, &[stray])
        }
        "weights" => {
            let mut stray = example(4);
            stray.weights = vec![1.0, f32::NAN, 1.0, 1.0];
            learn(&open()?, &[stray])
        }
        "divisor" => open()?
            .forward_backward(&[example(4)], Loss::CrossEntropy, Some(f32::NAN))
            .map(|_| ()),
        "beta" => open()?
            .forward_backward(&vec![example(4); 2], Loss::Preference(f32::NAN), None)
            .map(|_| ()),
        "empty" => learn(&open()?, &[]),
        "early-step" => open()?.optim_step(hyper(0.1)).map(|_| ()),
        "learning-rate" => {
            let trainer = open()?;
            learn(&trainer, &[example(8)])?;
            trainer.optim_step(hyper(f32::NAN)).map(|_| ())
        }
        "samples" => {
            let sampling = Sampling {
                temperature: 0.0,
                seed: 0,
                max_tokens: 1,
            };
            open()?
                .sample(&vec![vec![7]; 100_000], sampling)
                .map(|_| ())
        }
        "escape" => open()?.checkpoint("../../escaped", &[]),
        "names" => {
            let trainer = open()?;
            for_ever(|number| trainer.checkpoint(&number.to_string(), &[]))
        }
        "note" => open()?.checkpoint("last", &vec![0; 5 << 20]),
        "storage" => {
            let trainer = open_with(&LoraConfig {
                rank: 8,
                ..lora(RANK)
            })?;
            for_ever(|number| trainer.checkpoint(&number.to_string(), &[]))
        }
        "card" => open()?.save(&metadata("x".repeat(70_000))).map(|_| ()),
        other => Err(Error::Failed(format!("there is no deed {other}"))),
    }?;
    Err(Error::Failed(format!("{deed} was let through")))
}

impl recipe::Guest for Hostile {
    fn train(settings: Vec<(String, String)>) -> Result<(), Error> {
        settings.iter().try_for_each(|(_, deed)| act(deed))
    }
}

impl bindings::Guest for Hostile {
    fn run(_: Vec<String>) -> Result<(), Error> {
        open().map(|_| ())
    }
}

bindings::export!(Hostile with_types_in bindings);
