//! Losses that compare texts with what another model makes of them, held against PyTorch's on the
//! same adapter.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

// The other tests use more of it.
mod common;

use common::{Reference, base, examples, gradients_agree, here, options, relative, seed_lora};
use skep_train::{Divisor, Example, HyperParameters, Loss, Outcome, Trainer};

const BETA: f32 = 0.2;

fn open() -> Trainer {
    Trainer::open(base("llama"), seed_lora(), &options()).unwrap()
}

/// A training that goes on from PEFT's adapter.
fn adapted() -> Trainer {
    let mut trainer = open();
    trainer.load_adapter(&here("llama")).unwrap();
    trainer
}

fn texts() -> Vec<Example> {
    examples(&Reference::open("llama/reference.safetensors"))
}

/// The first text and, beneath it, the third, each with what the base makes of it.
fn pair(trainer: &mut Trainer) -> Vec<Example> {
    let texts = texts();
    let mut pair = vec![texts[0].clone(), texts[2].clone()];
    let sums = trainer.reference_log_probabilities(&pair).unwrap();
    for (text, sum) in pair.iter_mut().zip(sums) {
        text.reference_log_probability = sum;
    }
    pair
}

fn near(what: &str, got: f64, want: &[f32]) {
    let want = f64::from(want[0]);
    assert!((got / want - 1.0).abs() < 2e-4, "{what}: {got}, not {want}");
}

#[test]
fn a_preference_has_pytorchs_loss_and_gradients() {
    let want = Reference::open("llama/preference.safetensors");
    let mut trainer = adapted();
    let mut pair = pair(&mut trainer);
    let sums = [0, 1].map(|n| pair[n].reference_log_probability);
    assert!(relative(&sums, &want.floats("reference")) < 1e-5);
    let loss = Loss::Preference { beta: BETA };
    let done = trainer.forward_backward(&pair, loss, Divisor::Own).unwrap();
    near("the loss", done.loss, &want.floats("loss"));
    assert_eq!((done.counted, done.divisor), (1, 1.0));
    gradients_agree(&trainer, &want, "preference");
    pair.reverse();
    let done = trainer.evaluate(&pair, loss, Divisor::Own).unwrap();
    near("exchanged", done.loss, &want.floats("exchanged"));
}

/// How much more the first text of a pair has gained over the base than the second.
fn margin(pair: &[Example], done: &Outcome) -> f64 {
    let gain = |n: usize| {
        let counted = done.log_probabilities[n].iter().zip(&pair[n].weights);
        let sum: f64 = counted
            .map(|(log, weight)| f64::from(*log) * f64::from(*weight))
            .sum();
        sum - f64::from(pair[n].reference_log_probability)
    };
    gain(0) - gain(1)
}

/// Whichever of two texts is preferred, steps make it the more probable one.
#[test]
fn every_step_raises_the_margin_of_what_is_preferred() {
    let loss = Loss::Preference { beta: BETA };
    let hyper = HyperParameters {
        learning_rate: 5e-3,
        ..HyperParameters::default()
    };
    for is_reversed in [false, true] {
        let mut trainer = open();
        let mut pair = pair(&mut trainer);
        if is_reversed {
            pair.reverse();
        }
        let mut margins = Vec::new();
        for step in 0..8 {
            let done = trainer.forward_backward(&pair, loss, Divisor::Own).unwrap();
            let margin = margin(&pair, &done);
            let want = (-f64::from(BETA) * margin).exp().ln_1p();
            assert!(
                (done.loss - want).abs() < 1e-4,
                "step {step}: {} with a margin of {margin}",
                done.loss
            );
            margins.push(margin);
            trainer.optim_step(&hyper).unwrap();
        }
        // The adapter begins by changing nothing.
        assert!(margins[0].abs() < 1e-3, "{margins:?}");
        assert!(
            margins.windows(2).all(|two| two[1] > two[0] + 1.0),
            "{margins:?}"
        );
    }
}

#[test]
fn a_policy_gradient_has_pytorchs_loss_and_gradients_with_bounds_that_differ() {
    let want = Reference::open("llama/policy.safetensors");
    let (sampled, advantages) = (want.floats("sampled"), want.floats("advantages"));
    let mut texts = texts();
    let mut start = 0;
    for text in &mut texts {
        let range = start..start + text.tokens.len();
        start = range.end;
        text.sampled_log_probabilities = sampled[range.clone()].to_vec();
        text.advantages = advantages[range].to_vec();
    }
    assert_eq!(start, sampled.len());
    let policy = |below, above| Loss::PolicyGradient { below, above };
    let mut trainer = adapted();
    let done = trainer
        .forward_backward(&texts, policy(0.1, 0.4), Divisor::Own)
        .unwrap();
    near("the loss", done.loss, &want.floats("loss"));
    gradients_agree(&trainer, &want, "policy");
    let other = trainer.evaluate(&texts, policy(0.4, 0.1), Divisor::Own);
    near("other bounds", other.unwrap().loss, &want.floats("other"));
}
