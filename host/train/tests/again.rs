//! Steps that are made once more by somebody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{Reference, base, examples, options, seed_lora};
use skep_train::{
    Divisor, Example, HyperParameters, LoraConfig, Loss, Made, OptimizerKind, Precision,
    TrainError, Trainer, TrainerOptions,
};

fn open(options: &TrainerOptions) -> Trainer {
    let lora = LoraConfig {
        dropout: 0.1,
        ..seed_lora()
    };
    Trainer::open(base("llama"), lora, options).unwrap()
}

/// Two batches, and a step.
fn made(texts: &[Example], step: usize) -> Made {
    let pair = [2 * step % 8, (2 * step + 1) % 8].map(|n| texts[n].clone());
    Made {
        batches: pair
            .into_iter()
            .map(|text| (vec![text], Loss::CrossEntropy, Divisor::Given(2.0)))
            .collect(),
        hyper: HyperParameters::default(),
    }
}

#[test]
fn a_step_is_a_function_of_where_it_began_and_what_it_was_made_of() {
    let texts = examples(&Reference::open("steps/reference.safetensors"));
    for optimizer in [OptimizerKind::AdamW, OptimizerKind::AdamW8Bit] {
        for precision in [Precision::F32, Precision::Bf16] {
            let options = TrainerOptions {
                optimizer,
                precision,
                ..options()
            };
            let mut first = open(&options);
            let mut states = vec![first.state().unwrap()];
            for step in 0..4 {
                first.make(&made(&texts, step)).unwrap();
                states.push(first.state().unwrap());
            }
            // Another one, that did something else before.
            let mut second = open(&options);
            second.make(&made(&texts, 3)).unwrap();
            for step in [2, 0, 3] {
                second.restore(&states[step]).unwrap();
                assert_eq!(second.state().unwrap(), states[step]);
                second.make(&made(&texts, step)).unwrap();
                assert_eq!(second.state().unwrap(), states[step + 1]);
            }
            // Of other texts, or of another state, comes another.
            second.restore(&states[1]).unwrap();
            second.make(&made(&texts, 2)).unwrap();
            assert_ne!(second.state().unwrap(), states[2]);
            second.restore(&states[0]).unwrap();
            second.make(&made(&texts, 1)).unwrap();
            assert_ne!(second.state().unwrap(), states[2]);
            second.begin_again();
            second.set_weights(open(&options).weights()).unwrap();
            assert_eq!(second.state().unwrap(), states[0]);
            let with = second.state_with(first.weights()).unwrap();
            second.set_weights(first.weights()).unwrap();
            assert_eq!(second.state().unwrap(), with);
        }
    }
}

#[test]
fn a_state_that_is_none_changes_nothing() {
    let texts = examples(&Reference::open("steps/reference.safetensors"));
    let mut trainer = open(&options());
    trainer.make(&made(&texts, 0)).unwrap();
    let sound = trainer.state().unwrap();
    let of_another = {
        let lora = LoraConfig {
            rank: 5,
            ..seed_lora()
        };
        let other = Trainer::open(base("llama"), lora, &options()).unwrap();
        other.state().unwrap()
    };
    for bytes in [
        Vec::new(),
        sound[..sound.len() - 1].to_vec(),
        of_another,
        vec![0xff; 64],
    ] {
        let refused = trainer.restore(&bytes);
        assert!(
            matches!(refused, Err(TrainError::State { .. })),
            "{refused:?}"
        );
        assert_eq!(trainer.state().unwrap(), sound);
    }
    assert!(trainer.state_with(&[0.0]).is_err());
}
