//! Adapters' folders that are not what they say, and adapters that share batches.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::Tiny;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use skep_model::{AdapterError, EncodeError, Encoder, EncoderAdapter, EncoderOptions, Precision};
use skep_tensor::{Account, Device, Limits, QuotaError, QuotaKind};

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

const PREFIX: &str = "base_model.model.";
const RANK: usize = 3;
const CLASSES: usize = 4;

/// An adapter of queries and of the second product, with a layer for classes.
fn adapter(seed: u64) -> (Value, Tensors) {
    let tiny = Tiny::new();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut tensors = Tensors::new();
    let mut put = |name: String, shape: Vec<usize>| {
        let values = (0..shape.iter().product()).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 58) as f32 / 64.0 - 0.5
        });
        let values = values.collect();
        tensors.insert(format!("{PREFIX}{name}"), (shape, values));
    };
    for layer in 0..tiny.layers {
        for (part, inputs) in [
            ("attention.self.query", tiny.hidden),
            ("output.dense", tiny.intermediate),
        ] {
            let module = format!("encoder.layer.{layer}.{part}");
            put(format!("{module}.lora_A.weight"), vec![RANK, inputs]);
            put(format!("{module}.lora_B.weight"), vec![tiny.hidden, RANK]);
        }
    }
    put("score.weight".to_owned(), vec![CLASSES, tiny.hidden]);
    put("score.bias".to_owned(), vec![CLASSES]);
    let config = json!({
        "peft_type": "LORA",
        "base_model_name_or_path": "someone/tiny",
        "r": RANK,
        "lora_alpha": 6,
        "target_modules": r"encoder\.layer\.\d+\.(attention\.self\.query|output\.dense)",
        "modules_to_save": ["score"],
    });
    (config, tensors)
}

fn write(folder: &Path, config: &Value, tensors: &Tensors) {
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, (*shape).clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    let file = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.join("adapter_model.safetensors"), file).unwrap();
}

fn encoder() -> Encoder {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    Encoder::load(folder.path(), &Device::cpu()).unwrap()
}

fn loaded(
    encoder: &Encoder,
    seed: u64,
    change: impl Fn(&mut Value, &mut Tensors),
) -> Result<EncoderAdapter, AdapterError> {
    let (mut config, mut tensors) = adapter(seed);
    change(&mut config, &mut tensors);
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &config, &tensors);
    EncoderAdapter::load(folder.path(), encoder)
}

/// Gives each matrix magnitudes, and says so. They are around those of the tiny model's rows.
fn add_magnitudes(config: &mut Value, tensors: &mut Tensors) {
    config["use_dora"] = json!(true);
    let modules: Vec<(String, usize)> = tensors
        .iter()
        .filter_map(|(name, (shape, _))| {
            let module = name.strip_suffix(".lora_B.weight")?;
            Some((module.to_owned(), shape[0]))
        })
        .collect();
    for (number, (module, outputs)) in modules.into_iter().enumerate() {
        let of = |output: usize| 1.0 + (output * 7 + number * 3) as f32 % 11.0 / 4.0;
        let lengths = (0..outputs).map(of).collect();
        let name = format!("{module}.lora_magnitude_vector");
        tensors.insert(name, (vec![outputs], lengths));
    }
}

#[test]
fn folders_that_lie_are_refused_by_what_is_wrong() {
    let encoder = encoder();
    assert!(loaded(&encoder, 1, |_, _| ()).is_ok());
    let query = format!("{PREFIX}encoder.layer.1.attention.self.query");
    let (a, b) = (
        format!("{query}.lora_A.weight"),
        format!("{query}.lora_B.weight"),
    );
    let refused = |change: &dyn Fn(&mut Value, &mut Tensors), kind: &str, named: &str| {
        let error = loaded(&encoder, 1, change).unwrap_err();
        let got = match &error {
            AdapterError::Malformed { .. } => "malformed",
            AdapterError::Unsupported { .. } => "unsupported",
            AdapterError::WrongBase { .. } => "base",
            AdapterError::NotFinite { .. } => "not finite",
            AdapterError::Config(_) => "config",
            _ => "another",
        };
        assert_eq!(got, kind, "{error}");
        assert!(error.to_string().contains(named), "{error}");
    };
    let insert = |name: &str, shape: Vec<usize>| {
        let values = vec![0.5; shape.iter().product()];
        let name = format!("{PREFIX}{name}");
        move |_: &mut Value, tensors: &mut Tensors| {
            drop(tensors.insert(name.clone(), (shape.clone(), values.clone())));
        }
    };
    // What is missing.
    refused(
        &|_, tensors| drop(tensors.remove(&a)),
        "malformed",
        "no lora_A",
    );
    refused(
        &|_, tensors| drop(tensors.remove(&b)),
        "malformed",
        "no lora_B",
    );
    refused(&|_, tensors| tensors.clear(), "malformed", "score");
    let without_query = |_: &mut Value, tensors: &mut Tensors| {
        tensors.retain(|name, _| !name.contains("layer.1.attention"));
    };
    refused(&without_query, "malformed", "layer.1.attention.self.query");
    let bare = |config: &mut Value, tensors: &mut Tensors| {
        config["modules_to_save"] = Value::Null;
        tensors.clear();
    };
    refused(&bare, "malformed", "no matrices");
    // What is no part of LoRA or DoRA here.
    let extra = insert("pooler.dense.lora_A.weight", vec![3, 24]);
    refused(&extra, "unsupported", "pooler.dense");
    refused(
        &insert("classifier.weight", vec![4, 24]),
        "unsupported",
        "pooler",
    );
    let saved = |config: &mut Value, _: &mut Tensors| config["modules_to_save"] = json!(["head"]);
    refused(&saved, "unsupported", "\"head\"");
    let rank = |config: &mut Value, _: &mut Tensors| config["r"] = json!(1025);
    refused(&rank, "unsupported", "rank 1025");
    // Magnitudes are there as the configuration says, and are those of these layers.
    let dora = |config: &mut Value, _: &mut Tensors| config["use_dora"] = json!(true);
    refused(&dora, "malformed", "has no lora_magnitude_vector");
    let magnitude = "encoder.layer.1.attention.self.query.lora_magnitude_vector";
    refused(&insert(magnitude, vec![24]), "malformed", "use_dora");
    let longer = |config: &mut Value, tensors: &mut Tensors| {
        add_magnitudes(config, tensors);
        insert(magnitude, vec![25])(config, tensors);
    };
    refused(&longer, "base", "someone/tiny");
    let spoiled = |config: &mut Value, tensors: &mut Tensors| {
        add_magnitudes(config, tensors);
        tensors.get_mut(&format!("{PREFIX}{magnitude}")).unwrap().1[5] = f32::NAN;
    };
    refused(&spoiled, "not finite", "lora_magnitude_vector");
    // Other shapes, and whose fault they are.
    let other = insert(
        "encoder.layer.1.attention.self.query.lora_A.weight",
        vec![3, 25],
    );
    refused(&other, "base", "someone/tiny");
    let other = insert(
        "encoder.layer.1.attention.self.query.lora_B.weight",
        vec![24, 4],
    );
    refused(&other, "malformed", "the rank is");
    refused(&insert("score.weight", vec![4, 23]), "base", "someone/tiny");
    refused(&insert("score.bias", vec![5]), "malformed", "score.bias");
    refused(&insert("score.weight", vec![96]), "malformed", "no matrix");
    let deeper = insert(
        "encoder.layer.2.attention.self.query.lora_A.weight",
        vec![3, 24],
    );
    refused(&deeper, "base", "2 layers");
    let value = insert(
        "encoder.layer.0.attention.self.value.lora_A.weight",
        vec![3, 24],
    );
    refused(&value, "malformed", "does not target");
    let moved = |config: &mut Value, tensors: &mut Tensors| {
        config["target_modules"] = json!(["query", "output.dense"]);
        config["exclude_modules"] = json!(["attention.output.dense"]);
        let tensor = tensors.remove(&b).unwrap();
        tensors.insert(b.replace("model.encoder.", "model.bert.encoder."), tensor);
    };
    refused(&moved, "malformed", "two places");
    let spoiled = |_: &mut Value, tensors: &mut Tensors| {
        tensors.get_mut(&b).unwrap().1[3] = f32::NAN;
    };
    refused(&spoiled, "not finite", "lora_B");
    let huge = |config: &mut Value, _: &mut Tensors| config["lora_alpha"] = json!(1e300);
    refused(&huge, "not finite", "lora_B");
}

/// Gives each of the adapter's pairs this rank, and small elements.
fn set_rank(rank: usize, config: &mut Value, tensors: &mut Tensors) {
    config["r"] = json!(rank);
    for (name, (shape, values)) in tensors.iter_mut() {
        if name.ends_with(".lora_A.weight") {
            shape[0] = rank;
        } else if name.ends_with(".lora_B.weight") {
            shape[1] = rank;
        } else {
            continue;
        }
        *values = vec![0.01; shape.iter().product()];
    }
}

/// What measuring takes is said once and before anything is measured, and reading ends wherever it is not to go
/// on: between matrices, and between every four rows of one.
#[test]
fn reading_says_first_what_measuring_takes_and_ends_between_rows() {
    let encoder = encoder();
    for magnitudes in [true, false] {
        let (mut config, mut tensors) = adapter(1);
        let (mut matrices, mut pieces, mut elements) = (0, 0, 0);
        for (name, (a, _)) in &tensors {
            let Some(module) = name.strip_suffix(".lora_A.weight") else {
                continue;
            };
            let (b, _) = &tensors[&format!("{module}.lora_B.weight")];
            matrices += 1;
            pieces += b[0].div_ceil(4);
            elements += b[0] * a[1];
        }
        let mut all = vec![0; matrices];
        let mut want = 0;
        if magnitudes {
            add_magnitudes(&mut config, &mut tensors);
            want = 2 * (elements * (RANK + 1)) as u64;
            all.resize(matrices + pieces, 0);
            all.insert(0, want);
        }
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &config, &tensors);
        let read = |refused: usize| {
            let asked = RefCell::new(Vec::new());
            let goes_on = |flops: u64| {
                let mut asked = asked.borrow_mut();
                asked.push(flops);
                let (quota, limit) = (QuotaKind::Time, 1);
                match asked.len() == refused {
                    true => Err(QuotaError {
                        quota,
                        limit,
                        asked: 1,
                    }),
                    false => Ok(()),
                }
            };
            let read = EncoderAdapter::load_while(folder.path(), &encoder, &goes_on);
            (read.map(|read| read.measuring_flops()), asked.take())
        };
        let (whole, asked) = read(0);
        assert_eq!(whole.unwrap(), want);
        assert_eq!(asked, all);
        for refused in [1, 2, 3, asked.len() / 2, asked.len()] {
            let (read, asked) = read(refused);
            assert!(matches!(read, Err(AdapterError::Quota(_))), "{refused}");
            assert_eq!(asked, all[..refused], "nothing goes on after that");
        }
    }
}

/// Reading one with magnitudes takes longer the larger its rank is.
#[test]
fn beside_magnitudes_rank_256_is_the_most() {
    let encoder = encoder();
    let read = |rank: usize, has_magnitudes: bool| {
        loaded(&encoder, 1, |config, tensors| {
            set_rank(rank, config, tensors);
            if has_magnitudes {
                add_magnitudes(config, tensors);
            }
        })
    };
    assert_eq!(read(256, true).unwrap().rank(), 256);
    let error = read(257, true).unwrap_err();
    assert!(matches!(error, AdapterError::Unsupported { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("rank 257") && text.contains("256"), "{text}");
    // Without magnitudes nothing is measured.
    assert_eq!(read(257, false).unwrap().rank(), 257);
}

/// The tiny model with an adapter merged into its weights: each row of `W + scale · B · A`, brought to
/// its magnitude if there is one. Biases stay as they are.
fn merged(tensors: &Tensors, scale: f64) -> Tiny {
    let mut tiny = Tiny::new();
    for (name, (shape, values)) in &mut tiny.tensors {
        let Some(module) = name.strip_suffix(".weight") else {
            continue;
        };
        let of = |end: &str| tensors.get(&format!("{PREFIX}{module}.{end}"));
        let (Some((_, a)), Some((_, b))) = (of("lora_A.weight"), of("lora_B.weight")) else {
            continue;
        };
        let rows = values.chunks_mut(shape[1]).zip(b.chunks(RANK));
        for (output, (row, b)) in rows.enumerate() {
            let changed = row.iter().enumerate().map(|(column, own)| {
                let a = a.iter().skip(column).step_by(shape[1]);
                let products = b.iter().zip(a).map(|(b, a)| f64::from(*b) * f64::from(*a));
                f64::from(*own) + scale * products.sum::<f64>()
            });
            let changed: Vec<f64> = changed.collect();
            let length = changed.iter().map(|x| x * x).sum::<f64>().sqrt();
            let magnitude = of("lora_magnitude_vector");
            let gain = magnitude.map_or(1.0, |(_, all)| f64::from(all[output]) / length);
            for (to, changed) in row.iter_mut().zip(&changed) {
                *to = (gain * changed) as f32;
            }
        }
    }
    tiny
}

/// Against the plain definition in double precision, with the adapter in the weights.
#[test]
fn magnitudes_are_those_of_the_rows_of_merged_weights() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    let mut options = EncoderOptions::default();
    options.precision = Some(Precision::F32);
    let encoder = Encoder::load_with(folder.path(), &Device::cpu(), options).unwrap();
    let (mut config, mut tensors) = adapter(5);
    add_magnitudes(&mut config, &mut tensors);
    // `alpha / rank`, of the adapter's configuration.
    let want = merged(&tensors, 2.0);
    let without = tensors.clone().into_iter();
    let without = without.filter(|(name, _)| !name.ends_with("lora_magnitude_vector"));
    let without = merged(&without.collect(), 2.0);
    let own = loaded(&encoder, 5, add_magnitudes).unwrap();
    let plain = loaded(&encoder, 5, |_, _| ()).unwrap();
    let outputs = 2 * 2 * 24;
    assert_eq!(own.bytes(), plain.bytes() + 2 * 4 * outputs);
    let own = encoder.with_adapter(Arc::new(own)).unwrap();
    let plain = encoder.with_adapter(Arc::new(plain)).unwrap();
    for (text, ids) in [
        ("a", &[2, 4, 3][..]),
        ("a bee", &[2, 4, 5, 3][..]),
        ("hive honey comb !", &[2, 6, 8, 9, 11, 3][..]),
    ] {
        let of = |encoder: &Encoder| {
            let row = encoder.embed(&[text.to_owned()], &Account::unlimited());
            row.unwrap().to_f32().unwrap()
        };
        let most = |got: &[f32], want: &[f64]| {
            let pairs = got.iter().zip(want);
            pairs.fold(0.0, |most: f64, (a, b)| (f64::from(*a) - b).abs().max(most))
        };
        assert!(most(&of(&own), &want.embed(ids)) < 1e-4, "{text}");
        assert!(most(&of(&plain), &without.embed(ids)) < 1e-4, "{text}");
        assert!(most(&of(&own), &without.embed(ids)) > 1e-2, "{text}");
    }
}

#[test]
fn texts_with_different_adapters_share_batches_and_stay_what_they_are() {
    let encoder = encoder();
    let with = |seed: u64, magnitudes: bool| {
        let adapter = match magnitudes {
            true => loaded(&encoder, seed, add_magnitudes),
            false => loaded(&encoder, seed, |_, _| ()),
        };
        encoder.with_adapter(Arc::new(adapter.unwrap())).unwrap()
    };
    let adapted = [
        with(1, false),
        with(2, false),
        with(3, true),
        with(1, true),
        encoder.clone(),
    ];
    let words = ["a", "bee", "hive", "honey", "comb", "!", "bees"];
    let text = |n: usize| -> String {
        let all: Vec<&str> = (0..=n % 6)
            .map(|place| words[(n + place * place) % 7])
            .collect();
        all.join(" ")
    };
    let texts: Vec<String> = (0..40).map(text).collect();
    let embed = |encoder: &Encoder, texts: &[String]| {
        let rows = encoder.embed(texts, &Account::unlimited()).unwrap();
        rows.to_f32().unwrap()
    };
    // One after the other, and one text alone.
    let want: Vec<Vec<f32>> = adapted
        .iter()
        .map(|encoder| embed(encoder, &texts))
        .collect();
    for (n, own) in want.iter().enumerate() {
        assert!(want.iter().skip(n + 1).all(|other| own != other), "{n}");
        let alone = embed(&adapted[n], &texts[7..8]);
        assert_eq!(alone, own[7 * 24..8 * 24]);
    }
    // All at once.
    std::thread::scope(|scope| {
        for (encoder, want) in adapted.iter().zip(&want) {
            scope.spawn(|| {
                for _ in 0..8 {
                    assert!(
                        embed(encoder, &texts) == *want,
                        "other texts changed an embedding"
                    );
                }
            });
        }
    });
    let logs = adapted[0].classify(&texts, &Account::unlimited()).unwrap();
    assert_eq!(logs.shape(), [40, CLASSES as u32]);
    for row in logs.to_f32().unwrap().chunks(CLASSES) {
        let sum: f32 = row.iter().map(|x| x.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{row:?}");
    }
}

#[test]
fn an_adapter_is_charged_and_only_fits_its_base() {
    let encoder = encoder();
    let adapter = Arc::new(loaded(&encoder, 1, |_, _| ()).unwrap());
    assert_eq!((adapter.rank(), adapter.classes()), (RANK, Some(CLASSES)));
    assert_eq!(adapter.named_base(), Some("someone/tiny"));
    let adapted = encoder.with_adapter(Arc::clone(&adapter)).unwrap();
    let texts = ["a bee".to_owned()];
    let tokens: u64 = encoder
        .count_tokens(&texts)
        .unwrap()
        .iter()
        .map(|n| u64::from(*n))
        .sum();
    let flops = |encoder: &Encoder| {
        let account = Account::unlimited();
        encoder.embed(&texts, &account).unwrap();
        account.usage().flops
    };
    let tiny = Tiny::new();
    let pairs = tiny.layers * RANK * (2 * tiny.hidden + tiny.intermediate + tiny.hidden);
    assert_eq!(flops(&adapted) - flops(&encoder), 2 * tokens * pairs as u64);
    let magnitudes = Arc::new(loaded(&encoder, 1, add_magnitudes).unwrap());
    let magnitudes = encoder.with_adapter(magnitudes).unwrap();
    let outputs = (tiny.layers * 2 * tiny.hidden) as u64;
    assert_eq!(flops(&magnitudes) - flops(&adapted), 2 * tokens * outputs);
    let tight = Account::new(Limits {
        device_work: flops(&encoder),
        ..Limits::UNLIMITED
    });
    let refused = adapted.embed(&texts, &tight);
    assert!(matches!(refused, Err(EncodeError::Quota(_))), "{refused:?}");

    let folder = tempfile::tempdir().unwrap();
    let mut wider = Tiny::new();
    wider.layers = 1;
    wider.write(folder.path());
    let other = Encoder::load(folder.path(), &Device::cpu()).unwrap();
    assert!(matches!(
        other.with_adapter(adapter),
        Err(EncodeError::Adapter)
    ));
    let none = encoder.classify(&texts, &Account::unlimited());
    assert!(matches!(none, Err(EncodeError::NoClasses)));
    // One without matrices: classes alone.
    let only_head = loaded(&encoder, 1, |config, tensors| {
        config["target_modules"] = json!([]);
        tensors.retain(|name, _| name.contains("score"));
    });
    let only_head = encoder.with_adapter(Arc::new(only_head.unwrap())).unwrap();
    let account = Account::unlimited();
    let (plain, own) = (
        encoder.embed(&texts, &account),
        only_head.embed(&texts, &account),
    );
    assert_eq!(
        plain.unwrap().to_f32().unwrap(),
        own.unwrap().to_f32().unwrap()
    );
    only_head.classify(&texts, &account).unwrap();
}
