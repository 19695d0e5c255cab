//! Adapters' folders that are not what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

// The other tests use more of it.
#[allow(dead_code)]
mod common;

use common::{Row, Tensors, folder, forward, write_adapter, write_tensors};
use proptest::prelude::*;
use skep_decoder::{AdapterError, AdapterTarget, AdapterWeights, Decoder};
use skep_kernels::kv::{KvFormat, KvPages};

const QUERY: &str = "base_model.model.model.layers.0.self_attn.q_proj";

/// Loads an adapter of queries and values after a change to its settings and tensors.
fn changed(
    change: impl Fn(&mut serde_json::Value, &mut Tensors),
) -> Result<AdapterWeights, AdapterError> {
    let decoder = Decoder::load(&folder("models/llama")).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let targets = [AdapterTarget::Query, AdapterTarget::Value];
    let to = scratch.path().to_owned();
    let mut written = write_adapter(to, decoder.config(), 4, &targets, 1);
    let path = scratch.path().join("adapter_config.json");
    let mut json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut json, &mut written.tensors);
    std::fs::write(&path, json.to_string()).unwrap();
    let file = scratch.path().join("adapter_model.safetensors");
    write_tensors(&file, &written.tensors);
    AdapterWeights::load(scratch.path(), &decoder, "tiny", 4096)
}

#[test]
fn folders_that_lie_are_refused() {
    assert!(changed(|_, _| ()).is_ok());
    let a = format!("{QUERY}.lora_A.weight");
    let b = format!("{QUERY}.lora_B.weight");
    let malformed = |change: &dyn Fn(&mut serde_json::Value, &mut Tensors), named: &str| {
        let error = changed(change).unwrap_err();
        assert!(matches!(error, AdapterError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    };
    malformed(&|_, tensors| drop(tensors.remove(&b)), "no lora_B");
    malformed(&|_, tensors| drop(tensors.remove(&a)), "no lora_A");
    malformed(&|_, tensors| tensors.clear(), "no tensors");
    malformed(
        &|_, tensors| tensors.retain(|name, _| !name.contains("layers.1.self_attn.v_proj")),
        "layers.1.self_attn.v_proj",
    );
    malformed(
        &|json, _| json["target_modules"] = ["q_proj"].into(),
        "does not target",
    );
    malformed(
        &|json, _| json["target_modules"] = ["q_proj", "v_proj", "up_proj"].into(),
        "up_proj",
    );
    malformed(&|json, _| json["r"] = 5.into(), "the rank is");
    malformed(
        &|_, tensors| {
            let tensor = tensors[&a].clone();
            let other = a.replace("model.model.layers", "model.language_model.model.layers");
            tensors.insert(other, tensor);
        },
        "in two places",
    );
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let unsupported = |change: &dyn Fn(&mut serde_json::Value, &mut Tensors), named: &str| {
        let error = changed(change).unwrap_err();
        assert!(matches!(error, AdapterError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    };
    for extra in [
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.vision_tower.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.99999999999999999999.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
        "x",
    ] {
        let one = (vec![1, 1], vec![1.0]);
        unsupported(
            &|_, tensors| drop(tensors.insert(extra.to_owned(), one.clone())),
            extra,
        );
    }
    unsupported(&|json, _| json["r"] = 257.into(), "rank 257");
    unsupported(&|json, _| json["r"] = 0.into(), "rank 0");
    unsupported(&|json, _| json["r"] = u64::MAX.into(), "rank");
}

/// Gives each matrix a vector of magnitudes, and says so.
fn add_magnitudes(json: &mut serde_json::Value, tensors: &mut Tensors) {
    json["use_dora"] = true.into();
    let outputs = tensors.iter().filter_map(|(name, (shape, _))| {
        let module = name.strip_suffix(".lora_B.weight")?;
        Some((format!("{module}.lora_magnitude_vector"), shape[0]))
    });
    for (name, outputs) in outputs.collect::<Vec<_>>() {
        tensors.insert(name, (vec![outputs], vec![1.0; outputs]));
    }
}

#[test]
fn magnitudes_are_there_as_the_configuration_says() {
    let name = format!("{QUERY}.lora_magnitude_vector");
    let with = |change: &dyn Fn(&mut serde_json::Value, &mut Tensors)| {
        changed(|json, tensors| {
            add_magnitudes(json, tensors);
            change(json, tensors);
        })
    };
    assert_eq!(with(&|_, _| ()).unwrap().adapter().matrices(), 4);
    let malformed = |change: &dyn Fn(&mut serde_json::Value, &mut Tensors), named: &str| {
        let error = with(change).unwrap_err();
        assert!(matches!(error, AdapterError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    };
    malformed(&|json, _| json["use_dora"] = false.into(), "use_dora");
    malformed(
        &|_, tensors| drop(tensors.remove(&name)),
        "has no lora_magnitude_vector",
    );
    let insert = |shape: Vec<usize>, value: f32| {
        let values = vec![value; shape.iter().product()];
        let name = name.clone();
        move |_: &mut serde_json::Value, tensors: &mut Tensors| {
            drop(tensors.insert(name.clone(), (shape.clone(), values.clone())));
        }
    };
    for shape in [vec![31], vec![32, 1], vec![1, 32]] {
        let error = with(&insert(shape, 1.0)).unwrap_err();
        assert!(matches!(error, AdapterError::WrongBase { .. }), "{error}");
    }
    for value in [f32::NAN, f32::INFINITY] {
        let error = with(&insert(vec![32], value)).unwrap_err();
        assert!(matches!(error, AdapterError::NotFinite { .. }), "{error}");
        assert!(error.to_string().contains(&name), "{error}");
    }
}

#[test]
fn shapes_of_another_base_are_refused() {
    for (side, shape) in [
        ("lora_A", vec![4, 31]),
        ("lora_A", vec![32, 4]),
        ("lora_A", vec![4]),
        ("lora_B", vec![33, 4]),
        ("lora_B", vec![4, 32]),
        ("lora_B", vec![32, 4, 1]),
    ] {
        let error = changed(|_, tensors| {
            let count = shape.iter().product();
            let name = format!("{QUERY}.{side}.weight");
            tensors.insert(name, (shape.clone(), vec![0.5; count]));
        });
        let error = error.unwrap_err();
        assert!(
            matches!(error, AdapterError::WrongBase { .. }),
            "{shape:?}: {error}"
        );
    }
    let error = changed(|_, tensors| {
        let moved = tensors
            .keys()
            .find(|name| name.contains("layers.1"))
            .unwrap();
        let (moved, to) = (moved.clone(), moved.replace("layers.1", "layers.2"));
        let tensor = tensors.remove(&moved).unwrap();
        tensors.insert(to, tensor);
    });
    assert!(matches!(error, Err(AdapterError::WrongBase { .. })));
}

#[test]
fn numbers_that_cannot_be_used_are_refused() {
    let with = |a: f32, b: f32| {
        changed(|_, tensors| {
            for (name, (_, values)) in tensors.iter_mut() {
                values[3] = if name.contains("lora_A") { a } else { b };
            }
        })
    };
    for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert!(matches!(
            with(number, 1.0),
            Err(AdapterError::NotFinite { .. })
        ));
        assert!(matches!(
            with(1.0, number),
            Err(AdapterError::NotFinite { .. })
        ));
    }
    assert!(matches!(
        with(f32::MAX, f32::MAX),
        Err(AdapterError::NotFinite { .. })
    ));
    // Larger and smaller than 16-bit floats have them.
    assert!(with(1e9, 1e-3).is_ok() && with(0.0, 0.0).is_ok() && with(1e-30, 1e-30).is_ok());
    let error = changed(|json, _| json["lora_alpha"] = "much".into()).unwrap_err();
    assert!(matches!(error, AdapterError::Malformed { .. }), "{error}");
}

#[test]
fn files_that_are_not_there_are_named() {
    let decoder = Decoder::load(&folder("models/llama")).unwrap();
    let error = AdapterWeights::load(&folder("models/llama"), &decoder, "tiny", 4096);
    let error = error.unwrap_err();
    assert!(matches!(error, AdapterError::Read { .. }));
    assert!(error.to_string().contains("adapter_config.json"), "{error}");
    // A page that not even a row fits.
    let plain = folder("adapters/plain");
    let error = AdapterWeights::load(&plain, &decoder, "tiny", 32).unwrap_err();
    assert!(matches!(error, AdapterError::Shape(_)), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Bytes of either file changed at will, or a setting: an error, or an adapter that changes the
    /// texts that have it and no others.
    #[test]
    fn changed_files_never_harm_others(
        settings in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
        setting in prop::option::of((
            prop::sample::select(vec![
                "peft_type", "r", "lora_alpha", "target_modules", "exclude_modules", "bias",
                "layers_to_transform", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
                "init_lora_weights",
            ]),
            prop_oneof![
                Just(serde_json::Value::Null),
                any::<bool>().prop_map(Into::into),
                any::<i64>().prop_map(Into::into),
                any::<f64>().prop_map(Into::into),
                "[a-z_.*()\\[\\]{}0-9|+?]{0,16}".prop_map(Into::into),
                prop::collection::vec("[a-z_]{0,8}", 0..3).prop_map(Into::into),
                "[a-z_.*()\\[\\]]{0,8}".prop_map(|pattern| serde_json::json!({pattern: 4})),
            ],
        )),
    ) {
        let decoder = Decoder::load(&folder("models/llama")).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let targets = [AdapterTarget::Query, AdapterTarget::Value];
        let to = scratch.path().to_owned();
        write_adapter(to, decoder.config(), 4, &targets, 1);
        let config = scratch.path().join("adapter_config.json");
        if let Some((key, value)) = setting {
            let text = std::fs::read(&config).unwrap();
            let mut json: serde_json::Value = serde_json::from_slice(&text).unwrap();
            json[key] = value;
            std::fs::write(&config, json.to_string()).unwrap();
        }
        let file = match settings {
            true => config,
            false => scratch.path().join("adapter_model.safetensors"),
        };
        let mut bytes = std::fs::read(&file).unwrap();
        // Elsewhere in the tensors a byte is but another number.
        let length = bytes.len().min(1024);
        for (at, value) in changes {
            bytes[at.index(length)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(&file, bytes).unwrap();

        let mut pages = KvPages::new(decoder.kv_shape(KvFormat::F32), 64);
        let page_bytes = pages.memory().page_bytes();
        match AdapterWeights::load(scratch.path(), &decoder, "tiny", page_bytes) {
            Ok(weights) => {
                let own = (3..3 + weights.adapter().pages() as u32).collect();
                let adapter = weights.place(pages.memory_mut(), own).unwrap();
                let tokens = [5, 6, 7];
                let alone = forward(&decoder, 1, &mut pages, &[(&tokens, 0, &[0], None)]);
                let rows: [Row<'_>; 2] =
                    [(&tokens, 0, &[1], Some(&adapter)), (&tokens, 0, &[2], None)];
                let both = forward(&decoder, 1, &mut pages, &rows);
                prop_assert_eq!(&alone[0], &both[1]);
                prop_assert_eq!(both[0].len(), decoder.config().vocabulary);
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
