//! From a training as guests write it to one that the trainer is given, and back: every list no
//! longer than makes sense. Whether numbers do is for the trainer to say.

use std::path::{MAIN_SEPARATOR, Path};

use skep_tensor::{Account, MemoryCharge};
use skep_train::{Checkpointing, OptimizerKind, TrainError, TrainerOptions};

use crate::bindings::fine_tune::skep::train::training as contract;
use crate::bindings::task::skep::types::types::Error;
use crate::interfaces::HostError;
use crate::interfaces::text::requests::at_most;

/// Examples of one batch.
const EXAMPLES: usize = 65_536;
/// Tokens of one batch.
const TOKENS: usize = 1 << 20;
/// Bytes of host memory that a token of a batch takes beside its activations: itself, its weight,
/// where it lies, what it is to be, and what is said of it.
const TOKEN_BYTES: u64 = 96;
/// Names of target modules, and bytes of each.
const TARGETS: usize = 256;
const TARGET: usize = 256;
/// Bytes of a pattern of target modules.
const PATTERN: usize = 4096;

pub(super) fn lora_config(
    lora: contract::LoraConfig,
    dora: bool,
) -> Result<skep_train::LoraConfig, HostError> {
    let targets = match lora.targets {
        contract::Targets::AllLinear => skep_train::Targets::AllLinear,
        contract::Targets::Named(names) => {
            at_most("target modules", names.len(), TARGETS)?;
            for name in &names {
                at_most("bytes of a target module's name", name.len(), TARGET)?;
            }
            skep_train::Targets::Named(names)
        }
        contract::Targets::Pattern(pattern) => {
            at_most("bytes of a pattern", pattern.len(), PATTERN)?;
            skep_train::Targets::Pattern(pattern)
        }
    };
    Ok(skep_train::LoraConfig {
        rank: lora.rank as usize,
        alpha: lora.alpha,
        dropout: lora.dropout,
        rank_stabilized: lora.rank_stabilized,
        dora,
        targets,
        seed: lora.seed,
    })
}

pub(super) fn trainer_options(options: &contract::Options) -> TrainerOptions {
    TrainerOptions {
        optimizer: match options.optimizer {
            contract::Optimizer::Adamw => OptimizerKind::AdamW,
            contract::Optimizer::Adamw8Bit => OptimizerKind::AdamW8Bit,
        },
        checkpointing: match options.checkpoint_layers {
            true => Checkpointing::Layers,
            false => Checkpointing::None,
        },
        classes: options.classes.map(|classes| classes as usize),
        ..TrainerOptions::default()
    }
}

pub(super) fn loss(loss: contract::Loss) -> skep_train::Loss {
    match loss {
        contract::Loss::CrossEntropy => skep_train::Loss::CrossEntropy,
        contract::Loss::Classification => skep_train::Loss::Classification,
        contract::Loss::Preference(beta) => skep_train::Loss::Preference { beta },
        contract::Loss::PolicyGradient(clip) => skep_train::Loss::PolicyGradient {
            below: clip.below,
            above: clip.above,
        },
    }
}

pub(super) fn hyper_parameters(hyper: &contract::HyperParameters) -> skep_train::HyperParameters {
    skep_train::HyperParameters {
        learning_rate: hyper.learning_rate,
        betas: (hyper.beta1, hyper.beta2),
        epsilon: hyper.epsilon,
        weight_decay: hyper.weight_decay,
        clip: hyper.clip,
    }
}

/// Refuses a batch that is larger than one call's.
pub(super) fn at_most_tokens(batch: &[contract::Example]) -> Result<(), HostError> {
    at_most("examples in a batch", batch.len(), EXAMPLES)?;
    let tokens = batch.iter().map(|example| example.tokens.len()).sum();
    at_most("tokens in a batch", tokens, TOKENS)
}

/// The examples, and what the host needs to hold them.
pub(super) fn examples(
    batch: Vec<contract::Example>,
    account: &Account,
) -> Result<(Vec<skep_train::Example>, MemoryCharge), HostError> {
    let tokens: usize = batch.iter().map(|example| example.tokens.len()).sum();
    let charge = account.charge_memory(TOKEN_BYTES * (tokens + batch.len()) as u64)?;
    let example = |example: contract::Example| skep_train::Example {
        tokens: example.tokens,
        weights: example.weights,
        label: example.label,
        sampled_log_probabilities: example.sampled_log_probabilities,
        advantages: example.advantages,
        reference_log_probability: example.reference_log_probability,
    };
    Ok((batch.into_iter().map(example).collect(), charge))
}

/// A batch that has diverged is told by its loss.
pub(super) fn outcome_to_contract(
    done: Result<skep_train::Outcome, TrainError>,
) -> Result<contract::Outcome, HostError> {
    match done {
        Ok(outcome) => Ok(told(&outcome)),
        Err(TrainError::Diverged { .. }) => Ok(contract::Outcome {
            loss: f64::NAN,
            divisor: 1.0,
            tokens: 0,
            counted: 0,
        }),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn evaluation_to_contract(done: skep_train::Outcome) -> contract::Evaluation {
    contract::Evaluation {
        outcome: told(&done),
        log_probabilities: done.log_probabilities,
    }
}

fn told(outcome: &skep_train::Outcome) -> contract::Outcome {
    contract::Outcome {
        loss: outcome.loss,
        divisor: outcome.divisor,
        tokens: outcome.tokens,
        counted: outcome.counted,
    }
}

/// An error's text without where a folder lies on the machine.
pub(super) fn without(error: Error, folder: &Path) -> Error {
    let place = folder.display().to_string();
    let within = format!("{place}{MAIN_SEPARATOR}");
    let cut = |text: String| text.replace(&within, "").replace(&place, "its folder");
    match error {
        Error::Invalid(text) => Error::Invalid(cut(text)),
        Error::Failed(text) => Error::Failed(cut(text)),
        other => other,
    }
}

impl From<TrainError> for HostError {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Quota(error) => error.into(),
            error @ (TrainError::File { .. }
            | TrainError::Base(_)
            | TrainError::Diverged { .. }) => HostError::failed(error.to_string()),
            // Everything else is about what the guest asked for.
            other => HostError::invalid(other.to_string()),
        }
    }
}
