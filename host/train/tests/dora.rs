//! Trainings of magnitudes beside both matrices (DoRA, arXiv 2402.09353): against PEFT and PyTorch,
//! and against trainings without.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

// The other tests use more of it.
mod common;

use std::sync::Arc;

use common::{
    Reference, base, examples, fifty_steps, gradients_agree, here, labelled, model_folder, options,
    relative, seed_lora, step,
};
use safetensors::SafeTensors;
use skep_accounts::Account;
use skep_decoder::{AdapterError, Decoder};
use skep_model::{Encoder, EncoderOptions};
use skep_tensor::Device;
use skep_train::{
    Base, Checkpointing, Divisor, Example, LoraConfig, Loss, OptimizerKind, Outcome, Precision,
    TrainError, Trainer, TrainerOptions,
};

fn dora() -> LoraConfig {
    LoraConfig {
        dora: true,
        ..seed_lora()
    }
}

fn open(name: &str, lora: LoraConfig, options: &TrainerOptions) -> Trainer {
    Trainer::open(base(name), lora, options).unwrap()
}

/// The training of PEFT's adapter.
fn pefts(lora: LoraConfig, options: &TrainerOptions) -> Trainer {
    let mut trainer = open("qwen2", lora, options);
    trainer.load_adapter(&here("dora")).unwrap();
    trainer
}

fn bert() -> Arc<Base> {
    let mut exactly = EncoderOptions::default();
    exactly.precision = Some(skep_model::Precision::F32);
    let encoder = Encoder::load_with(&here("bert/model"), &Device::cpu(), exactly).unwrap();
    Arc::new(Base::encoder(&encoder).unwrap())
}

fn texts() -> Vec<Example> {
    examples(&Reference::open("steps/reference.safetensors"))
}

fn learn(trainer: &mut Trainer, texts: &[Example], loss: Loss) -> f64 {
    let done = trainer.forward_backward(texts, loss, Divisor::Own);
    done.unwrap().loss
}

fn judge(trainer: &mut Trainer, texts: &[Example]) -> Outcome {
    let done = trainer.evaluate(texts, Loss::CrossEntropy, Divisor::Own);
    done.unwrap()
}

/// Every magnitude that a training has, by its name.
fn magnitudes(trainer: &Trainer) -> Vec<(String, Vec<f32>)> {
    let tensors = trainer.tensors().into_iter();
    let of = tensors.filter(|(name, _, _)| name.ends_with("lora_magnitude_vector"));
    of.map(|(name, shape, place)| {
        assert_eq!(shape, [place.len()]);
        (name, trainer.weights()[place].to_vec())
    })
    .collect()
}

/// The gradients of a first batch and the losses of 50 steps.
fn learns_as_pefts(mut trainer: Trainer, texts: &[Example], loss: Loss, name: &str) {
    let errors = fifty_steps(&mut trainer, texts, loss, name, |trainer, reference| {
        gradients_agree(trainer, reference, name);
    });
    assert!(errors[0] < 1e-5, "{name}: {}", errors[0]);
}

#[test]
fn a_decoder_has_pefts_gradients_and_losses() {
    for checkpointing in [Checkpointing::None, Checkpointing::Layers] {
        let options = TrainerOptions {
            checkpointing,
            ..options()
        };
        let trainer = pefts(dora(), &options);
        learns_as_pefts(trainer, &texts(), Loss::CrossEntropy, "dora");
    }
}

#[test]
fn an_encoder_has_pefts_gradients_and_losses() {
    let texts = labelled(&Reference::open("bert/steps/reference.safetensors"));
    // What its files say is enough to go on from it.
    let trainer = Trainer::open_adapter(bert(), &here("bert/dora"), &options()).unwrap();
    assert!(trainer.lora().dora);
    learns_as_pefts(trainer, &texts, Loss::Classification, "bert/dora");
}

/// The base's share of what is dropped is not, as in PEFT, which was given the same inputs to drop.
#[test]
fn what_is_dropped_is_dropped_as_peft_does() {
    let reference = Reference::open("dora/dropped.safetensors");
    let want = f64::from(reference.floats("loss")[0]);
    for checkpointing in [Checkpointing::None, Checkpointing::Layers] {
        let options = TrainerOptions {
            checkpointing,
            ..options()
        };
        let dropping = LoraConfig {
            dropout: 0.3,
            seed: 5,
            ..dora()
        };
        let mut trainer = pefts(dropping, &options);
        let whole = judge(&mut pefts(dora(), &options), &texts()[..1]);
        assert_eq!(judge(&mut trainer, &texts()[..1]), whole);
        let loss = learn(&mut trainer, &texts()[..1], Loss::CrossEntropy);
        assert!((loss / want - 1.0).abs() < 1e-5, "{loss} {want}");
        assert!((loss / whole.loss - 1.0).abs() > 1e-3, "nothing is dropped");
        gradients_agree(&trainer, &reference, "dora with inputs dropped");
    }
}

/// Magnitudes begin as PEFT begins them, and change nothing then, in 16 bits neither.
#[test]
fn a_new_adapter_begins_with_the_lengths_of_the_bases_rows() {
    let encoders = TrainerOptions {
        classes: Some(5),
        ..options()
    };
    for (name, trainer) in [
        ("dora", open("qwen2", dora(), &options())),
        (
            "bert/dora",
            Trainer::open(bert(), dora(), &encoders).unwrap(),
        ),
    ] {
        let reference = Reference::open(&format!("{name}/reference.safetensors"));
        let all = magnitudes(&trainer);
        assert!(all.len() >= 12, "{name}: {}", all.len());
        for (tensor, got) in all {
            let want = reference.floats(&format!("first.{tensor}"));
            assert!(relative(&got, &want) < 1e-6, "{name}: {tensor}");
        }
    }
    for precision in [Precision::F32, Precision::Bf16] {
        let options = TrainerOptions {
            precision,
            ..options()
        };
        let judged = |lora| judge(&mut open("llama", lora, &options), &texts());
        assert_eq!(judged(dora()), judged(seed_lora()), "{precision:?}");
    }
}

/// What PEFT saved is what is saved of it here, by name, shape and byte.
#[test]
fn an_adapter_is_saved_as_peft_saves_it() {
    let scratch = tempfile::tempdir().unwrap();
    let trainer = pefts(dora(), &options());
    trainer.save(scratch.path(), "tiny-qwen2").unwrap();
    let read = |file: &str| {
        let both = [scratch.path().to_owned(), here("dora")];
        both.map(|folder| std::fs::read(folder.join(file)).unwrap())
    };
    let [got, want] = read("adapter_model.safetensors");
    let (got, want) = (
        SafeTensors::deserialize(&got).unwrap(),
        SafeTensors::deserialize(&want).unwrap(),
    );
    assert_eq!(got.len(), want.len());
    for name in want.names() {
        let (got, want) = (got.tensor(name).unwrap(), want.tensor(name).unwrap());
        assert_eq!(got.shape(), want.shape(), "{name}");
        assert!(got.data() == want.data(), "{name}");
    }
    for config in read("adapter_config.json") {
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["use_dora"], serde_json::json!(true));
    }
    let again = Trainer::open_adapter(base("qwen2"), scratch.path(), &options()).unwrap();
    assert_eq!(again.weights(), trainer.weights());
    assert!(again.lora().dora);
}

/// A GGUF file has the rows of queries and keys in another order, and so their magnitudes.
#[test]
fn magnitudes_are_saved_in_pefts_order() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("model.gguf");
    common::gguf::write_llama(&model_folder("smollm"), &file);
    let gguf = Arc::new(Base::stored(Arc::new(Decoder::load(&file).unwrap())));
    let mut trainer = open("smollm", dora(), &options());
    for _ in 0..3 {
        learn(&mut trainer, &texts(), Loss::CrossEntropy);
        step(&mut trainer);
    }
    let (there, back) = (scratch.path().join("there"), scratch.path().join("back"));
    trainer.save(&there, "tiny-smollm").unwrap();
    let mut other = Trainer::open_adapter(gguf, &there, &options()).unwrap();
    let (want, got) = (judge(&mut trainer, &texts()), judge(&mut other, &texts()));
    assert!(
        (got.loss / want.loss - 1.0).abs() < 1e-5,
        "{got:?} {want:?}"
    );
    assert_ne!(
        magnitudes(&trainer),
        magnitudes(&other),
        "the order is the same"
    );
    other.save(&back, "tiny-smollm").unwrap();
    let again = Trainer::open_adapter(base("smollm"), &back, &options()).unwrap();
    assert_eq!(again.weights(), trainer.weights());
}

#[test]
fn a_base_in_nf4_learns_as_its_dequantized_weights() {
    let scratch = tempfile::tempdir().unwrap();
    let decoder = Decoder::load(&model_folder("llama")).unwrap();
    let quantized = Arc::new(Base::nf4(&decoder, &Account::unlimited()).unwrap());
    common::write_dequantized(&quantized, "llama", scratch.path());
    let dense = Decoder::load(scratch.path()).unwrap();
    let dense = Arc::new(Base::stored(Arc::new(dense)));
    let run = |base: &Arc<Base>| {
        let mut trainer = Trainer::open(Arc::clone(base), dora(), &options()).unwrap();
        let before = trainer.weights().to_vec();
        let losses = [0; 3].map(|_| {
            let loss = learn(&mut trainer, &texts(), Loss::CrossEntropy);
            step(&mut trainer);
            loss
        });
        (before, losses, trainer.weights().to_vec())
    };
    assert_eq!(run(&quantized), run(&dense));
}

/// Whatever is kept or computed again, and however many threads there are, gradients have the same
/// bits; and in 16 bits they stay near those of 32.
#[test]
fn what_is_computed_again_is_the_same() {
    let of = |precision, checkpointing, threads| {
        let account = Account::unlimited();
        let options = TrainerOptions {
            precision,
            checkpointing,
            threads,
            account: account.clone(),
            ..options()
        };
        let dropping = LoraConfig {
            dropout: 0.2,
            ..dora()
        };
        let mut trainer = pefts(dropping, &options);
        let loss = learn(&mut trainer, &texts(), Loss::CrossEntropy);
        let gradients = trainer.gradients().to_vec();
        ((loss, gradients), account.usage().device_bytes_peak)
    };
    let (exact, _) = of(Precision::F32, Checkpointing::None, 2);
    for precision in [Precision::F32, Precision::Bf16] {
        let (want, most) = of(precision, Checkpointing::None, 2);
        let (again, less) = of(precision, Checkpointing::Layers, 2);
        assert!(again == want, "{precision:?}");
        assert!(less < most, "{less} {most}");
        assert!(of(precision, Checkpointing::None, 1).0 == want);
        if precision == Precision::Bf16 {
            let error = relative(&want.1, &exact.1);
            assert!((1e-5..5e-2).contains(&error), "{error}");
        }
    }
}

/// What a training takes is charged, what magnitudes need of it too: room for its output once more
/// for each linear layer.
#[test]
fn what_magnitudes_take_is_charged() {
    let peak = |lora| {
        let account = Account::unlimited();
        let options = TrainerOptions {
            account: account.clone(),
            ..options()
        };
        let mut trainer = open("llama", lora, &options);
        let before = account.usage().flops;
        learn(&mut trainer, &texts(), Loss::CrossEntropy);
        let usage = account.usage();
        (usage.device_bytes_peak, usage.flops - before)
    };
    let ((plain, less), (with, more)) = (peak(seed_lora()), peak(dora()));
    assert!(less < more, "{less} {more}");
    let trainer = open("llama", dora(), &options());
    let outputs: usize = magnitudes(&trainer).iter().map(|(_, m)| m.len()).sum();
    let tokens: usize = texts().iter().map(|text| text.tokens.len()).sum();
    let kept = 4 * (tokens * outputs) as u64;
    // Some of it in buffers that others have used before.
    assert!(with >= plain + kept / 2, "{with} bytes; {plain} and {kept}");
}

/// An optimizer in 8 bits, and a training that stops and goes on.
#[test]
fn a_training_goes_on_from_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.checkpoint");
    let options = TrainerOptions {
        optimizer: OptimizerKind::AdamW8Bit,
        ..options()
    };
    let go_on = |trainer: &mut Trainer| {
        for _ in 0..3 {
            learn(trainer, &texts(), Loss::CrossEntropy);
            step(trainer);
        }
    };
    let mut whole = pefts(dora(), &options);
    let before = magnitudes(&whole);
    go_on(&mut whole);
    whole.checkpoint(&path, b"half").unwrap();
    go_on(&mut whole);
    let mut again = open("qwen2", dora(), &options);
    assert_eq!(again.resume(&path).unwrap(), b"half");
    go_on(&mut again);
    assert_eq!(again.weights(), whole.weights());
    for (before, after) in before.iter().zip(magnitudes(&again)) {
        assert_ne!(*before, after, "a magnitude has learned nothing");
    }
    let other = open("qwen2", seed_lora(), &options).resume(&path);
    assert!(
        matches!(&other, Err(TrainError::Checkpoint { reason, .. }) if reason.contains("dora: true")),
        "{other:?}"
    );
    // Of a training without any, nothing is said: its bytes are what they were before there were any.
    let said = |lora: LoraConfig| {
        let state = open("qwen2", lora, &options).state().unwrap();
        let (_, header) = SafeTensors::read_metadata(&state).unwrap();
        let said = header.metadata().as_ref().unwrap();
        said["skep-training"].contains("dora")
    };
    assert_eq!((said(seed_lora()), said(dora())), (false, true));
}

#[test]
fn an_adapter_of_the_other_kind_is_not_gone_on_from() {
    for (mut trainer, folder, says) in [
        (
            open("qwen2", seed_lora(), &options()),
            here("dora"),
            "it has magnitudes (DoRA)",
        ),
        (
            open("qwen2", dora(), &options()),
            here("qwen2"),
            "it has no magnitudes",
        ),
    ] {
        let before = trainer.weights().to_vec();
        let refused = trainer.load_adapter(&folder).unwrap_err();
        assert!(
            matches!(refused, TrainError::Adapter(AdapterError::WrongBase { .. })),
            "{refused}"
        );
        assert!(refused.to_string().contains(says), "{refused}");
        assert_eq!(trainer.weights(), before);
    }
}

/// What the configuration says is what the file has.
#[test]
fn magnitudes_are_there_if_the_configuration_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let (weights, config) = ("adapter_model.safetensors", "adapter_config.json");
    for (of_weights, of_config, says) in [
        ("qwen2", "dora", "it has no"),
        ("dora", "qwen2", "is no target here"),
    ] {
        for (file, folder) in [(weights, of_weights), (config, of_config)] {
            std::fs::copy(here(folder).join(file), scratch.path().join(file)).unwrap();
        }
        let opened = Trainer::open_adapter(base("qwen2"), scratch.path(), &options());
        let refused = opened.unwrap_err().to_string();
        assert!(
            refused.contains(says) && refused.contains("lora_magnitude_vector"),
            "{refused}"
        );
    }
}
