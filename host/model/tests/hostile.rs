//! Folders that lie: each ends in a typed error that names the file, or in an encoder that works.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{Tiny, WORDS, texts};
use proptest::prelude::*;
use serde_json::{Value, json};
use skep_model::{EncodeError, Encoder, LoadError};
use skep_tensor::{Account, Device};

fn load(folder: &Path) -> Result<Encoder, LoadError> {
    Encoder::load(folder, &Device::cpu())
}

/// Writes a tiny model, changes it, loads it.
fn broken(change: impl FnOnce(&Path)) -> LoadError {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    change(folder.path());
    load(folder.path()).expect_err("such a folder must be refused")
}

fn with_json(file: &str, change: impl FnOnce(&mut Value)) -> LoadError {
    broken(|folder| {
        let path = folder.join(file);
        let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(&path, value.to_string()).unwrap();
    })
}

fn with_weights(change: impl FnOnce(&mut Tiny)) -> LoadError {
    broken(|folder| {
        let mut tiny = Tiny::new();
        change(&mut tiny);
        std::fs::write(folder.join("model.safetensors"), tiny.safetensors()).unwrap();
    })
}

const QUERY: &str = "encoder.layer.1.attention.self.query.weight";

#[test]
fn files_that_are_not_there() {
    for file in [
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "1_Pooling/config.json",
    ] {
        let error = broken(|folder| std::fs::remove_file(folder.join(file)).unwrap());
        assert!(matches!(error, LoadError::Io { .. }), "{error}");
        assert!(error.to_string().contains(file), "{error}");
    }
}

#[test]
fn settings_out_of_range() {
    for (field, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(u64::MAX)),
        ("num_hidden_layers", json!(1_000_000_000)),
        ("num_attention_heads", json!(5)),
        ("num_attention_heads", json!(0)),
        ("intermediate_size", json!(1_u64 << 40)),
        ("vocab_size", json!(u64::MAX)),
        ("max_position_embeddings", json!(1_u64 << 60)),
        ("type_vocab_size", json!(0)),
        ("layer_norm_eps", json!(-1.0)),
        ("layer_norm_eps", json!(1e300)),
    ] {
        let error = with_json("config.json", |config| config[field] = value.clone());
        assert!(
            matches!(&error, LoadError::OutOfRange { field: named, .. } if *named == field),
            "{field} = {value}: {error}"
        );
    }
    let error = broken(|folder| {
        std::fs::write(
            folder.join("sentence_bert_config.json"),
            r#"{"max_seq_length": 2}"#,
        )
        .unwrap();
    });
    assert!(
        matches!(
            error,
            LoadError::OutOfRange {
                field: "max_seq_length",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn settings_of_the_wrong_kind() {
    for value in [json!(-3), json!("many"), json!(null), json!(1.5)] {
        let error = with_json("config.json", |config| config["hidden_size"] = value);
        assert!(matches!(error, LoadError::Malformed { .. }), "{error}");
    }
    for (field, value) in [
        ("model_type", "gpt2"),
        ("hidden_act", "swish"),
        ("position_embedding_type", "relative_key"),
    ] {
        let error = with_json("config.json", |config| config[field] = json!(value));
        assert!(matches!(error, LoadError::Unsupported { .. }), "{error}");
    }
    let error = with_json("modules.json", |modules| {
        modules[1]["path"] = json!("../elsewhere")
    });
    assert!(matches!(error, LoadError::Malformed { .. }), "{error}");
    let error = with_json("modules.json", |modules| {
        modules[1]["type"] = json!("sentence_transformers.models.Dense");
    });
    assert!(matches!(error, LoadError::Unsupported { .. }), "{error}");
    let error = with_json("1_Pooling/config.json", |pooling| {
        pooling["pooling_mode_cls_token"] = json!(true);
    });
    assert!(matches!(error, LoadError::Unsupported { .. }), "{error}");
    let error = with_json("1_Pooling/config.json", |pooling| {
        pooling["word_embedding_dimension"] = json!(25);
    });
    assert!(matches!(error, LoadError::OutOfRange { .. }), "{error}");
}

#[test]
fn files_that_are_too_large() {
    let error = broken(|folder| {
        let file = std::fs::File::create(folder.join("config.json")).unwrap();
        file.set_len(1 << 40).unwrap();
    });
    assert!(matches!(error, LoadError::TooLarge { .. }), "{error}");
}

#[test]
fn weights_that_lie_about_lengths() {
    let whole = Tiny::new().safetensors();
    for len in [0, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        let error = broken(|folder| {
            std::fs::write(folder.join("model.safetensors"), &whole[..len]).unwrap();
        });
        assert!(
            matches!(error, LoadError::Malformed { .. }),
            "{len}: {error}"
        );
    }
    for header in [u64::MAX, 1 << 62, 1 << 30, whole.len() as u64] {
        let mut lying = whole.clone();
        lying[..8].copy_from_slice(&header.to_le_bytes());
        let error = broken(|folder| {
            std::fs::write(folder.join("model.safetensors"), &lying).unwrap();
        });
        assert!(
            matches!(
                error,
                LoadError::Malformed { .. } | LoadError::TooLarge { .. }
            ),
            "{header}: {error}"
        );
    }
}

#[test]
fn tensors_that_do_not_fit() {
    let error = with_weights(|tiny| drop(tiny.tensors.remove(QUERY)));
    assert!(
        matches!(&error, LoadError::MissingTensor { name, .. } if name == QUERY),
        "{error}"
    );
    let error = with_weights(|tiny| {
        let (shape, _) = tiny.tensors.get_mut(QUERY).unwrap();
        *shape = vec![48, 12];
    });
    assert!(
        matches!(&error, LoadError::WrongShape { name, .. } if name == QUERY),
        "{error}"
    );
    let error = with_weights(|tiny| tiny.dtype = safetensors::Dtype::I32);
    assert!(matches!(error, LoadError::WrongType { .. }), "{error}");
}

#[test]
fn weights_that_are_not_finite() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for name in [
            QUERY,
            "embeddings.LayerNorm.bias",
            "embeddings.position_embeddings.weight",
        ] {
            let error = with_weights(|tiny| tiny.tensors.get_mut(name).unwrap().1[3] = bad);
            assert!(matches!(&error, LoadError::NotFinite { name: named, .. } if named == name));
        }
    }
    // Word embeddings stay in the file; a text that meets a broken one says so.
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    let bee = 5 * tiny.hidden;
    tiny.tensors
        .get_mut("embeddings.word_embeddings.weight")
        .unwrap()
        .1[bee] = f32::NAN;
    tiny.write(folder.path());
    let encoder = load(folder.path()).unwrap();
    let account = Account::unlimited();
    encoder.embed(&texts(&["honey"]), &account).unwrap();
    let error = encoder
        .embed(&texts(&["honey", "a bee"]), &account)
        .unwrap_err();
    assert!(
        matches!(error, EncodeError::NotFinite { text: 1 }),
        "{error}"
    );
    assert_eq!(account.usage().device_bytes, 0);
}

#[test]
fn tokenizers_that_do_not_fit() {
    let error = with_json("tokenizer.json", |tokenizer| {
        tokenizer["model"]["vocab"]["more"] = json!(WORDS.len());
    });
    assert!(
        matches!(error, LoadError::TokenOutsideVocabulary { token: 12, .. }),
        "{error}"
    );
    let error = with_json("tokenizer.json", |tokenizer| {
        tokenizer["post_processor"]["special_tokens"]["[SEP]"]["ids"] = json!([4_000_000_000_u32]);
    });
    assert!(matches!(error, LoadError::Malformed { .. }), "{error}");
    let error = broken(|folder| {
        std::fs::write(folder.join("tokenizer.json"), "{\"model\": {}}").unwrap();
    });
    assert!(matches!(error, LoadError::Malformed { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever bytes are changed in whichever file, loading ends, and what loads embeds.
    #[test]
    fn changed_bytes_end_in_an_error_or_an_encoder(
        file in prop::sample::select(vec![
            "config.json", "tokenizer.json", "model.safetensors", "modules.json",
            "1_Pooling/config.json",
        ]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let folder = tempfile::tempdir().unwrap();
        Tiny::new().write(folder.path());
        let path = folder.path().join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        // Half of the changes go to the front, where headers are.
        let front = bytes.len().min(2048);
        for (n, (at, byte)) in changes.iter().enumerate() {
            let len = if n % 2 == 0 { front } else { bytes.len() };
            bytes[at.index(len)] = *byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(&path, bytes).unwrap();
        match load(folder.path()) {
            Ok(encoder) => {
                let sentences = texts(&["a bee", "", "honeycomb !!"]);
                if let Ok(tensor) = encoder.embed(&sentences, &Account::unlimited()) {
                    prop_assert_eq!(tensor.shape(), &[3, encoder.info().dimensions]);
                    prop_assert!(tensor.to_f32().unwrap().iter().all(|x| x.is_finite()));
                }
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
