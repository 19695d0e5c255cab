//! Trainings of a sentence encoder against PEFT and PyTorch, and against the encoder itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{
    Reference, fifty_steps, gradients_agree, here, labelled, options, relative, seed_lora,
};
use skep_accounts::{Account, Limits};
use skep_model::{Encoder, EncoderOptions, Precision};
use skep_tensor::Device;
use skep_train::{
    Base, Checkpointing, Divisor, Example, HyperParameters, LoraConfig, Loss, Sampling, Targets,
    TrainError, Trainer, TrainerOptions,
};

fn encoder(folder: &Path) -> Encoder {
    let mut options = EncoderOptions::default();
    options.precision = Some(Precision::F32);
    Encoder::load_with(folder, &Device::cpu(), options).unwrap()
}

fn bert() -> Arc<Base> {
    Arc::new(Base::encoder(&encoder(&here("bert/model"))).unwrap())
}

fn five_classes() -> TrainerOptions {
    TrainerOptions {
        classes: Some(5),
        ..options()
    }
}

fn open(lora: LoraConfig, options: &TrainerOptions) -> Trainer {
    Trainer::open(bert(), lora, options).unwrap()
}

fn learn(trainer: &mut Trainer, texts: &[Example]) -> skep_train::Outcome {
    trainer
        .forward_backward(texts, Loss::Classification, Divisor::Own)
        .unwrap()
}

#[test]
fn one_batch_has_pefts_loss_and_gradients() {
    let reference = Reference::open("bert/batch/reference.safetensors");
    let texts = labelled(&reference);
    for checkpointing in [Checkpointing::None, Checkpointing::Layers] {
        let options = TrainerOptions {
            checkpointing,
            ..five_classes()
        };
        let mut trainer = open(seed_lora(), &options);
        trainer.load_adapter(&here("bert/batch")).unwrap();
        let outcome = learn(&mut trainer, &texts);
        let want = f64::from(reference.floats("loss")[0]);
        assert!((outcome.loss / want - 1.0).abs() < 1e-5, "{}", outcome.loss);
        let logs = outcome.log_probabilities.concat();
        assert!(relative(&logs, &reference.floats("logs")) < 1e-5);
        gradients_agree(&trainer, &reference, "bert");
        // Both matrices of six linear layers in two layers, and the layer over them.
        assert_eq!(trainer.tensors().len(), 2 * 6 * 2 + 2);
    }
}

#[test]
fn fifty_steps_have_pefts_losses() {
    let texts = labelled(&Reference::open("bert/steps/reference.safetensors"));
    let mut trainer = open(seed_lora(), &five_classes());
    trainer.load_adapter(&here("bert/steps")).unwrap();
    let loss = Loss::Classification;
    fifty_steps(&mut trainer, &texts, loss, "bert/steps", |_, _| {});
}

/// With half of its inputs dropped an adapter is judged as the same one without, bit for bit.
#[test]
fn nothing_is_dropped_where_nothing_is_learned() {
    let texts = labelled(&Reference::open("bert/batch/reference.safetensors"));
    let with = |dropout| {
        let lora = LoraConfig {
            dropout,
            ..seed_lora()
        };
        let mut trainer = open(lora, &five_classes());
        trainer.load_adapter(&here("bert/batch")).unwrap();
        trainer
    };
    let judge = |trainer: &mut Trainer| {
        let done = trainer.evaluate(&texts, Loss::Classification, Divisor::Own);
        done.unwrap()
    };
    let (mut whole, mut dropping) = (with(0.0), with(0.5));
    let want = judge(&mut whole);
    assert_eq!(judge(&mut dropping), want);
    assert_ne!(learn(&mut dropping, &texts).loss, want.loss);
    assert_eq!(judge(&mut dropping), want);
}

/// With nothing learned in the layers, what the classes are made of is the encoder's embedding
/// before it is brought to length 1.
#[test]
fn without_an_adapter_texts_are_what_the_encoder_makes_of_them() {
    let folder = here("bert/model");
    let encoder = encoder(&folder);
    let texts = ["w3 w70 w4", "w9", "w100 w101 w3 w3 nothing"].map(str::to_owned);
    let want = encoder.embed(&texts, &Account::unlimited()).unwrap();
    let want = want.to_f32().unwrap();
    let lora = LoraConfig {
        targets: Targets::Named(Vec::new()),
        ..seed_lora()
    };
    let options = TrainerOptions {
        classes: Some(32),
        ..options()
    };
    let mut trainer = open(lora, &options);
    assert_eq!(trainer.parameters(), 32 * 32 + 32);
    // The identity as the layer over it: the state itself comes out, but for a sum.
    let mut identity = vec![0.0; 32 * 32 + 32];
    for n in 0..32 {
        identity[n * 33] = 1.0;
    }
    trainer.set_weights(&identity).unwrap();
    for (text, want) in texts.iter().zip(want.chunks(32)) {
        let example = Example {
            tokens: encoder.tokenize(text).unwrap(),
            label: Some(0),
            ..Example::default()
        };
        let done = trainer
            .evaluate(&[example], Loss::Classification, Divisor::Own)
            .unwrap();
        // Of logits and their logarithms of probabilities the differences are the same.
        let got = &done.log_probabilities[0];
        let size = (0..32)
            .map(|n| (got[n] - got[0]).powi(2))
            .sum::<f32>()
            .sqrt();
        let wanted = (0..32)
            .map(|n| (want[n] - want[0]).powi(2))
            .sum::<f32>()
            .sqrt();
        for n in 0..32 {
            let (got, want) = ((got[n] - got[0]) / size, (want[n] - want[0]) / wanted);
            assert!((got - want).abs() < 1e-4, "{text}: {got} {want}");
        }
    }
}

/// The layer over a frozen encoder learns, and nothing else is there to learn.
#[test]
fn a_layer_over_a_frozen_encoder_learns_alone() {
    let reference = Reference::open("bert/steps/reference.safetensors");
    let texts = labelled(&reference);
    let lora = LoraConfig {
        targets: Targets::Named(Vec::new()),
        ..seed_lora()
    };
    let mut trainer = open(lora, &five_classes());
    let before = learn(&mut trainer, &texts).loss;
    let hyper = HyperParameters {
        learning_rate: 0.05,
        ..HyperParameters::default()
    };
    for _ in 0..40 {
        trainer.optim_step(&hyper).unwrap();
        learn(&mut trainer, &texts);
    }
    let after = learn(&mut trainer, &texts).loss;
    assert!(after < 0.7 * before, "{before} {after}");
    let scratch = tempfile::tempdir().unwrap();
    trainer.save(scratch.path(), "tiny-bert").unwrap();
    let names: Vec<String> = trainer
        .tensors()
        .into_iter()
        .map(|(name, ..)| name)
        .collect();
    assert_eq!(
        names,
        [
            "base_model.model.score.weight",
            "base_model.model.score.bias"
        ]
    );
}

#[test]
fn a_saved_adapter_is_what_was_trained_and_nf4_stays_near() {
    let reference = Reference::open("bert/steps/reference.safetensors");
    let texts = labelled(&reference);
    let mut trainer = open(seed_lora(), &five_classes());
    trainer.load_adapter(&here("bert/steps")).unwrap();
    for _ in 0..5 {
        learn(&mut trainer, &texts);
        trainer.optim_step(&HyperParameters::default()).unwrap();
    }
    let scratch = tempfile::tempdir().unwrap();
    trainer.save(scratch.path(), "tiny-bert").unwrap();
    let judge = |trainer: &mut Trainer| {
        let done = trainer.evaluate(&texts, Loss::Classification, Divisor::Own);
        done.unwrap()
    };
    let want = judge(&mut trainer);
    let mut again = open(seed_lora(), &five_classes());
    again.load_adapter(scratch.path()).unwrap();
    assert_eq!(judge(&mut again), want);
    let config = std::fs::read_to_string(scratch.path().join("adapter_config.json")).unwrap();
    assert!(config.contains(r"encoder\\.layer"), "{config}");

    let account = Account::unlimited();
    let rounded = Base::encoder_nf4(&encoder(&here("bert/model")), &account).unwrap();
    let mut rounded = Trainer::open(Arc::new(rounded), seed_lora(), &five_classes()).unwrap();
    rounded.load_adapter(scratch.path()).unwrap();
    let near = judge(&mut rounded);
    assert!(
        (near.loss - want.loss).abs() < 0.5,
        "{} {}",
        near.loss,
        want.loss
    );
    assert_ne!(near.loss, want.loss);
}

#[test]
fn what_an_encoder_cannot_learn_is_refused() {
    let refused = |options: &TrainerOptions, lora: LoraConfig| {
        let opened = Trainer::open(bert(), lora, options);
        opened.unwrap_err().to_string()
    };
    let says = refused(&options(), seed_lora());
    assert!(says.contains("the number of classes is none"), "{says}");
    let gates = LoraConfig {
        targets: Targets::Named(vec!["gate_proj".to_owned()]),
        ..seed_lora()
    };
    let says = refused(&five_classes(), gates);
    assert!(
        says.contains("encoder.layer.0.attention.self.query"),
        "{says}"
    );

    let reference = Reference::open("bert/batch/reference.safetensors");
    let mut texts = labelled(&reference);
    let mut trainer = open(seed_lora(), &five_classes());
    let words = trainer.forward_backward(&texts, Loss::CrossEntropy, Divisor::Own);
    let sampling = Sampling {
        temperature: 0.0,
        seed: 0,
        tokens: 1,
        end: None,
    };
    let sampled = trainer.sample(&[3], &sampling);
    let compared = trainer.reference_log_probabilities(&texts);
    for error in [
        words.unwrap_err(),
        sampled.unwrap_err(),
        compared.unwrap_err(),
    ] {
        assert!(matches!(error, TrainError::Setting { .. }), "{error}");
        assert!(error.to_string().contains("sentence encoder"), "{error}");
    }
    texts[0].tokens = vec![3; 81];
    let long = trainer.evaluate(&texts, Loss::Classification, Divisor::Own);
    assert!(matches!(long, Err(TrainError::Example { number: 0, .. })));
    texts[0].tokens = vec![160];
    let unknown = trainer.evaluate(&texts, Loss::Classification, Divisor::Own);
    assert!(matches!(unknown, Err(TrainError::Forward(_))));

    // An account that has no room for it.
    let account = Account::new(Limits {
        device_memory: 1 << 16,
        ..Limits::UNLIMITED
    });
    let tight = TrainerOptions {
        account,
        ..five_classes()
    };
    let opened = Trainer::open(bert(), seed_lora(), &tight);
    let refused = opened.and_then(|mut trainer| {
        trainer.forward_backward(&labelled(&reference), Loss::Classification, Divisor::Own)
    });
    assert!(matches!(refused, Err(TrainError::Quota(_))));
}
