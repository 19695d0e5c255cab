//! Adapters of a sentence encoder as it serves them: those of PEFT, and those of this crate, held
//! against what PEFT makes of the same texts with the same files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

// The other tests use more of it.
mod common;

use std::path::Path;
use std::sync::Arc;

use common::{Reference, here, options};
use skep_accounts::Account;
use skep_model::{Encoder, EncoderAdapter, EncoderOptions, Precision};
use skep_tensor::Device;
use skep_train::{Base, Divisor, Example, Loss, Trainer};

/// The texts of `make_adapters.py`.
fn texts() -> Vec<String> {
    let long: Vec<String> = (0..60).map(|n| format!("w{}", 3 + n * 7 % 150)).collect();
    let mut texts = ["w3 w70 w4", "w9", "w100 w101 w3 w3 nothing"]
        .map(str::to_owned)
        .to_vec();
    texts.push(long.join(" "));
    texts.push("w5 w5 w5 w5 w6 w7 w8".to_owned());
    texts
}

fn encoder(precision: Precision) -> Encoder {
    let mut options = EncoderOptions::default();
    options.precision = Some(precision);
    Encoder::load_with(&here("bert/model"), &Device::cpu(), options).unwrap()
}

fn adapted(encoder: &Encoder, folder: &Path) -> Encoder {
    let adapter = EncoderAdapter::load(folder, encoder).unwrap();
    encoder.with_adapter(Arc::new(adapter)).unwrap()
}

fn largest_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let pairs = got.iter().zip(want);
    pairs
        .map(|(got, want)| (got - want).abs())
        .fold(0.0, f32::max)
}

/// A training of the tiny encoder that goes on from an adapter.
fn trainer(folder: &Path) -> Trainer {
    let base = Arc::new(Base::encoder(&encoder(Precision::F32)).unwrap());
    Trainer::open_adapter(base, folder, &options()).unwrap()
}

#[test]
fn texts_have_pefts_classes_and_embeddings() {
    let encoder = encoder(Precision::F32);
    let account = Account::unlimited();
    // Made by PEFT, made here, and made by PEFT of a model that the encoder is a part of.
    for (name, has_classes) in [("batch", true), ("saved", true), ("masked", false)] {
        let folder = here(&format!("bert/{name}"));
        let reference = Reference::open(&format!("bert/{name}/texts.safetensors"));
        let adapted = adapted(&encoder, &folder);
        let embeddings = adapted.embed(&texts(), &account).unwrap().to_f32().unwrap();
        let error = largest_difference(&embeddings, &reference.floats("embeddings"));
        assert!(error < 1e-5, "{name}: {error}");
        let plain = encoder.embed(&texts(), &account).unwrap().to_f32().unwrap();
        assert!(
            largest_difference(&plain, &embeddings) > 1e-2,
            "{name} changes nothing"
        );
        let classes = adapted.classify(&texts(), &account);
        if !has_classes {
            let says = classes.unwrap_err().to_string();
            assert!(
                says.contains("no adapter with a layer for classes"),
                "{says}"
            );
            continue;
        }
        let logs = classes.unwrap().to_f32().unwrap();
        let error_of_classes = largest_difference(&logs, &reference.floats("logs"));
        assert!(error_of_classes < 1e-4, "{name}: {error_of_classes}");
        println!(
            "{name}: embeddings within {error:.1e} of PEFT's, logarithms of probabilities within \
             {error_of_classes:.1e}"
        );
    }
}

/// What `bert/saved` has, and PEFT was given, is what this crate saves.
#[test]
fn what_peft_was_given_is_what_is_saved() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = here("bert/saved");
    trainer(&folder).save(scratch.path(), "tiny-bert").unwrap();
    let read = |folder: &Path, file: &str| std::fs::read(folder.join(file)).unwrap();
    let both = |file: &str| (read(scratch.path(), file), read(&folder, file));
    let (got, want) = both("adapter_model.safetensors");
    assert!(got == want, "other weights");
    let (got, want) = both("adapter_config.json");
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    // The order of its fields is not its content.
    assert_eq!(json(&got), json(&want));
}

/// The trainer and the encoder that serves compute the same of what was trained.
#[test]
fn what_was_trained_is_what_is_served() {
    let encoder = encoder(Precision::F32);
    let mut trainer = trainer(&here("bert/saved"));
    let adapted = adapted(&encoder, &here("bert/saved"));
    let served = adapted.classify(&texts(), &Account::unlimited()).unwrap();
    let served = served.to_f32().unwrap();
    for (text, served) in texts().iter().zip(served.chunks(5)) {
        let example = Example {
            tokens: encoder.tokenize(text).unwrap(),
            label: Some(0),
            ..Example::default()
        };
        let done = trainer
            .evaluate(&[example], Loss::Classification, Divisor::Own)
            .unwrap();
        let error = largest_difference(&done.log_probabilities[0], served);
        assert!(error < 1e-4, "{text}: {error}");
    }
}

/// In 16 bits, which nodes serve with, classes stay near and the same texts have the same bits.
#[test]
fn sixteen_bits_stay_near() {
    let encoder = encoder(Precision::I16);
    let adapted = adapted(&encoder, &here("bert/batch"));
    let account = Account::unlimited();
    let all = adapted
        .classify(&texts(), &account)
        .unwrap()
        .to_f32()
        .unwrap();
    let want = Reference::open("bert/batch/texts.safetensors").floats("logs");
    let error = largest_difference(&all, &want);
    assert!(error < 2e-2, "{error}");
    for (n, text) in texts().into_iter().enumerate() {
        let alone = adapted
            .classify(&[text], &account)
            .unwrap()
            .to_f32()
            .unwrap();
        assert_eq!(alone, all[5 * n..5 * (n + 1)], "text {n}");
    }
}
