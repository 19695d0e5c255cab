//! Trainings that compute in 16 bits with parameters in 32: against PyTorch's, and against
//! themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;

use common::{Reference, base, examples, here, labelled, options, seed_lora};
use skep_accounts::Account;
use skep_model::{Encoder, EncoderOptions};
use skep_tensor::Device;
use skep_train::{
    Base, Checkpointing, Divisor, Example, HyperParameters, Loss, Precision, TrainError, Trainer,
    TrainerOptions,
};

fn sixteen_bits() -> TrainerOptions {
    TrainerOptions {
        precision: Precision::Bf16,
        ..options()
    }
}

fn step_size(learning_rate: f32) -> HyperParameters {
    HyperParameters {
        learning_rate,
        weight_decay: 0.01,
        ..HyperParameters::default()
    }
}

fn learn(trainer: &mut Trainer, texts: &[Example]) -> f64 {
    let done = trainer.forward_backward(texts, Loss::CrossEntropy, Divisor::Own);
    done.unwrap().loss
}

/// Under `torch.autocast` to bfloat16, with the same adapter, texts and order.
#[test]
fn fifty_steps_have_pytorchs_losses() {
    let texts = examples(&Reference::open("steps/reference.safetensors"));
    let exact = Reference::open("steps/reference.safetensors").floats("losses");
    let mut trainer = Trainer::open(base("llama"), seed_lora(), &sixteen_bits()).unwrap();
    trainer.load_adapter(&here("steps")).unwrap();
    let (mut worst, mut rounded) = (0.0_f64, 0.0_f64);
    let losses = Reference::open("steps/bf16.safetensors").floats("losses");
    for (step, (want, exact)) in losses.into_iter().zip(exact).enumerate() {
        let pair = [2 * step % 8, (2 * step + 1) % 8].map(|n| texts[n].clone());
        let loss = learn(&mut trainer, &pair);
        let error = (loss / f64::from(want) - 1.0).abs();
        assert!(error < 1e-2, "step {step}: {loss} instead of {want}");
        worst = worst.max(error);
        rounded = rounded.max((loss / f64::from(exact) - 1.0).abs());
        trainer.optim_step(&step_size(5e-3)).unwrap();
    }
    // Rounding shows, so it is not the other precision that was held against PyTorch.
    assert!(rounded > 1e-4, "{rounded}");
    println!("50 steps in bfloat16: losses within {worst:.1e} of PyTorch's");
}

/// What is kept in 16 bits was rounded before, so a layer that is computed again has the same
/// gradients to the bit, and a batch the same loss as one that is not learned from.
#[test]
fn keeping_in_half_the_memory_loses_nothing() {
    for name in ["llama", "smollm", "mistral", "qwen2", "qwen3", "gemma3"] {
        let texts = examples(&Reference::open(&format!("{name}/reference.safetensors")));
        let of = |precision, checkpointing| {
            let account = Account::unlimited();
            let options = TrainerOptions {
                precision,
                checkpointing,
                account: account.clone(),
                ..options()
            };
            let mut trainer = Trainer::open(base(name), seed_lora(), &options).unwrap();
            trainer.load_adapter(&here(name)).unwrap();
            let loss = learn(&mut trainer, &texts);
            let again = trainer.evaluate(&texts, Loss::CrossEntropy, Divisor::Own);
            assert_eq!(again.unwrap().loss.to_bits(), loss.to_bits(), "{name}");
            (
                trainer.gradients().to_vec(),
                account.usage().device_bytes_peak,
            )
        };
        let (kept, half) = of(Precision::Bf16, Checkpointing::None);
        let (again, _) = of(Precision::Bf16, Checkpointing::Layers);
        assert_eq!(kept, again, "{name}");
        let (exact, full) = of(Precision::F32, Checkpointing::None);
        let error = common::relative(&kept, &exact);
        assert!((1e-5..5e-2).contains(&error), "{name}: {error}");
        println!("{name}: {half} bytes at most, {full} in 32 bits, gradients within {error:.1e}");
    }
}

/// With many tokens, what is kept of them is most of what a training takes.
#[test]
fn many_tokens_take_less_memory() {
    let texts = examples(&Reference::open("gemma3/reference.safetensors"));
    let texts: Vec<Example> = texts.iter().cycle().take(60).cloned().collect();
    let peak = |precision| {
        let account = Account::unlimited();
        let options = TrainerOptions {
            precision,
            account: account.clone(),
            ..options()
        };
        let mut trainer = Trainer::open(base("gemma3"), seed_lora(), &options).unwrap();
        learn(&mut trainer, &texts);
        account.usage().device_bytes_peak
    };
    let (half, full) = (peak(Precision::Bf16), peak(Precision::F32));
    assert!(10 * half < 9 * full, "{half} of {full}");
    println!("{half} bytes at most instead of {full}");
}

/// The same of an encoder.
#[test]
fn an_encoder_keeps_in_half_the_memory_too() {
    let texts = labelled(&Reference::open("bert/batch/reference.safetensors"));
    let mut exactly = EncoderOptions::default();
    exactly.precision = Some(skep_model::Precision::F32);
    let encoder = Encoder::load_with(&here("bert/model"), &Device::cpu(), exactly).unwrap();
    let base = Arc::new(Base::encoder(&encoder).unwrap());
    let of = |precision, checkpointing| {
        let options = TrainerOptions {
            precision,
            checkpointing,
            classes: Some(5),
            ..options()
        };
        let mut trainer = Trainer::open(Arc::clone(&base), seed_lora(), &options).unwrap();
        trainer.load_adapter(&here("bert/batch")).unwrap();
        let done = trainer.forward_backward(&texts, Loss::Classification, Divisor::Own);
        (done.unwrap().loss, trainer.gradients().to_vec())
    };
    let (loss, kept) = of(Precision::Bf16, Checkpointing::None);
    assert_eq!(
        of(Precision::Bf16, Checkpointing::Layers),
        (loss, kept.clone())
    );
    let (exact, gradients) = of(Precision::F32, Checkpointing::None);
    let error = common::relative(&kept, &gradients);
    assert!((1e-5..5e-2).contains(&error), "{error}");
    assert!((loss / exact - 1.0).abs() < 1e-2, "{loss} {exact}");
}

/// Steps that 16 bits could not hold are not lost: the weights that are trained have 32.
#[test]
fn small_steps_add_up() {
    let texts = examples(&Reference::open("steps/reference.safetensors"));
    let mut trainer = Trainer::open(base("llama"), seed_lora(), &sixteen_bits()).unwrap();
    trainer.load_adapter(&here("steps")).unwrap();
    let before = trainer.weights().to_vec();
    for _ in 0..10 {
        learn(&mut trainer, &texts);
        trainer.optim_step(&step_size(1e-6)).unwrap();
    }
    // Of the first matrix, whose weights are some tenths: 16 bits have steps of a thousandth.
    let (_, _, first) = trainer.tensors().swap_remove(0);
    let moved: Vec<f32> = first
        .map(|at| (trainer.weights()[at] - before[at]).abs())
        .collect();
    let most = moved.iter().fold(0.0_f32, |most, x| most.max(*x));
    assert!((1e-6..2e-5).contains(&most), "{most}");
}

#[test]
fn a_training_goes_on_in_the_precision_that_it_began_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.checkpoint");
    let open =
        |options: &TrainerOptions| Trainer::open(base("llama"), seed_lora(), options).unwrap();
    open(&sixteen_bits()).checkpoint(&path, b"").unwrap();
    let other = open(&options()).resume(&path);
    assert!(
        matches!(&other, Err(TrainError::Checkpoint { reason, .. }) if reason.contains("bf16: true")),
        "{other:?}"
    );
    let mut same = open(&options());
    same.compute_in(Precision::Bf16);
    same.resume(&path).unwrap();
}
