//! The trainings of the recipes for the tests of training: small ones, with nothing beside what they
//! need.

use crate::bindings::skep::train::training::{
    BaseWeights, Example, HyperParameters, LoraConfig, Optimizer, Options, Targets,
};

pub fn lora(rank: u32) -> LoraConfig {
    LoraConfig {
        rank,
        alpha: 2.0 * rank as f32,
        dropout: 0.0,
        rank_stabilized: false,
        targets: Targets::AllLinear,
        seed: 1,
    }
}

pub fn options(classes: Option<u32>) -> Options {
    Options {
        base: BaseWeights::Stored,
        optimizer: Optimizer::Adamw,
        checkpoint_layers: false,
        classes,
    }
}

pub fn hyper(learning_rate: f32) -> HyperParameters {
    HyperParameters {
        learning_rate,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
        clip: None,
    }
}

/// An example of tokens with their weights, and of nothing else.
pub fn weighted(tokens: Vec<u32>, weights: Vec<f32>) -> Example {
    Example {
        tokens,
        weights,
        label: None,
        sampled_log_probabilities: Vec::new(),
        advantages: Vec::new(),
        reference_log_probability: 0.0,
    }
}
