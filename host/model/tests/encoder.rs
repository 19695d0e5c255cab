//! What an encoder computes: against a plain implementation, against reference vectors of real
//! models, and the same whatever else is computed with it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Tiny, cosine, texts};
use safetensors::{Dtype, SafeTensors};
use skep_model::{EncodeError, Encoder, EncoderOptions, Isa, Precision, Workers};
use skep_tensor::{Account, Device, Limits, QuotaKind};

fn load(folder: &Path, precision: Precision, isa: Isa, threads: usize) -> Encoder {
    let mut options = EncoderOptions::default();
    options.precision = Some(precision);
    options.isa = Some(isa);
    options.workers = Some(Workers::new(threads).unwrap());
    Encoder::load_with(folder, &Device::cpu(), options).unwrap()
}

fn tiny() -> (tempfile::TempDir, Encoder) {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    let encoder = load(folder.path(), Precision::I16, Isa::best(), 2);
    (folder, encoder)
}

fn rows(encoder: &Encoder, texts: &[String]) -> Vec<Vec<f32>> {
    let tensor = encoder.embed(texts, &Account::unlimited()).unwrap();
    let width = encoder.info().dimensions;
    assert_eq!(tensor.shape(), [texts.len() as u32, width]);
    let all = tensor.to_f32().unwrap();
    all.chunks(width as usize).map(<[f32]>::to_vec).collect()
}

#[test]
fn agrees_with_the_plain_definition() {
    let sentences = texts(&[
        "Bees honeycomb",
        "a hive!",
        "",
        "honey",
        "wasp bee bee a hives",
    ]);
    // [CLS] … [SEP]; "wasp" is unknown.
    let ids: [&[usize]; 5] = [
        &[2, 5, 7, 8, 10, 3],
        &[2, 4, 6, 11, 3],
        &[2, 3],
        &[2, 8, 3],
        &[2, 1, 5, 5, 4, 6, 7, 3],
    ];
    for (act, pooling, prefix, dtype) in [
        ("gelu", "mean", "", Dtype::F32),
        ("gelu_new", "cls", "bert.", Dtype::F16),
        ("relu", "max", "", Dtype::BF16),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut tiny = Tiny::new();
        (tiny.act, tiny.pooling, tiny.prefix, tiny.dtype) = (act, pooling, prefix, dtype);
        tiny.write(folder.path());
        for isa in Isa::available() {
            for (precision, bound) in [(Precision::F32, 1e-10), (Precision::I16, 1e-6)] {
                let encoder = load(folder.path(), precision, isa, 1);
                for (got, ids) in rows(&encoder, &sentences).iter().zip(ids) {
                    let off = 1.0 - cosine(got, &tiny.embed(ids));
                    assert!(
                        off < bound,
                        "{act} {pooling} {precision:?} {}: {off}",
                        isa.name()
                    );
                    let length: f32 = got.iter().map(|x| x * x).sum();
                    assert!((length - 1.0).abs() < 1e-5);
                }
            }
        }
    }
}

#[test]
fn long_texts_are_cut_before_the_last_special_token() {
    let (_folder, encoder) = tiny();
    assert_eq!(encoder.info().max_tokens, 16);
    let long = vec!["bee ".repeat(50_000), "bee ".repeat(14), "hive ".repeat(15)];
    assert_eq!(encoder.count_tokens(&long).unwrap(), [50_002, 16, 17]);
    let got = rows(&encoder, &long);
    assert_eq!(got[0], got[1]);
    let ids: Vec<usize> = [2].into_iter().chain([6; 14]).chain([3]).collect();
    assert!(cosine(&got[2], &Tiny::new().embed(&ids)) > 0.999_999);
}

#[test]
fn an_embedding_does_not_depend_on_the_batch() {
    let (_folder, encoder) = tiny();
    let words = ["a", "bee", "hives", "honeycomb", "!", "unknown"];
    let sentences: Vec<String> = (0..700_usize)
        .map(|i| {
            let chosen = (0..i % 11).map(|w| words[(i * 7 + w * w) % words.len()]);
            chosen.collect::<Vec<_>>().join(" ")
        })
        .collect();
    let all = rows(&encoder, &sentences);
    let mut backwards = sentences.clone();
    backwards.reverse();
    let mut reversed = rows(&encoder, &backwards);
    reversed.reverse();
    assert!(all == reversed);
    for i in (0..700).step_by(13) {
        assert_eq!(rows(&encoder, &sentences[i..=i])[0], all[i], "text {i}");
    }
    // Many callers at once, whose texts share batches.
    std::thread::scope(|scope| {
        for part in 0..7 {
            let (encoder, sentences, all) = (&encoder, &sentences, &all);
            scope.spawn(move || {
                for chunk in 0..10 {
                    let range = part * 100 + chunk * 10..part * 100 + chunk * 10 + 10;
                    assert!(rows(encoder, &sentences[range.clone()]) == all[range]);
                }
            });
        }
    });
}

#[test]
fn accounts_pay_before_and_get_back() {
    let (_folder, encoder) = tiny();
    let sentences = texts(&["bee", "a hive", "honeycomb honey"]);
    let account = Account::unlimited();
    let tensor = encoder.embed(&sentences, &account).unwrap();
    let tokens = encoder.count_tokens(&sentences).unwrap();
    let flops = encoder
        .info()
        .cost
        .flops(tokens.iter().map(|&t| u64::from(t)));
    assert!(account.usage().flops >= flops);
    assert!(
        account.usage().flops < flops + flops / 10,
        "{flops} {:?}",
        account.usage()
    );
    let result = 4 * 3 * u64::from(encoder.info().dimensions);
    assert_eq!(account.usage().device_bytes, result);
    assert!(account.usage().device_bytes_peak > 2 * result);
    drop(tensor);
    assert_eq!(account.usage().device_bytes, 0);

    let limited = |device_memory, device_work, deadline| {
        let account = Account::new(Limits {
            device_memory,
            device_work,
            deadline,
        });
        let refused = encoder.embed(&sentences, &account).unwrap_err();
        assert_eq!(account.usage().device_bytes, 0);
        match refused {
            EncodeError::Quota(quota) => quota.quota,
            other => panic!("{other}"),
        }
    };
    assert_eq!(limited(result - 1, u64::MAX, None), QuotaKind::DeviceMemory);
    assert_eq!(limited(result + 1, u64::MAX, None), QuotaKind::DeviceMemory);
    assert_eq!(limited(u64::MAX, flops - 1, None), QuotaKind::DeviceWork);
    let past = Instant::now().checked_sub(Duration::from_secs(1));
    assert_eq!(limited(u64::MAX, u64::MAX, past), QuotaKind::Time);
    let cancelled = Account::unlimited();
    cancelled.cancel();
    assert!(matches!(
        encoder.embed(&sentences, &cancelled),
        Err(EncodeError::Quota(quota)) if quota.quota == QuotaKind::Time
    ));
}

#[test]
fn one_who_cannot_pay_does_not_disturb_the_others() {
    let (_folder, encoder) = tiny();
    let sentences = texts(&["bee hive"; 40]);
    let want = rows(&encoder, &sentences);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (encoder, sentences, want) = (&encoder, &sentences, &want);
            scope.spawn(move || {
                for _ in 0..20 {
                    if n % 2 == 0 {
                        assert!(rows(encoder, sentences) == *want);
                    } else {
                        let poor = Account::new(Limits {
                            device_work: 10,
                            ..Limits::UNLIMITED
                        });
                        assert!(encoder.embed(sentences, &poor).is_err());
                        assert_eq!(poor.usage().device_bytes, 0);
                    }
                }
            });
        }
    });
}

#[test]
fn no_texts_give_an_empty_tensor() {
    let (_folder, encoder) = tiny();
    assert!(rows(&encoder, &[]).is_empty());
    assert!(encoder.count_tokens(&[]).unwrap().is_empty());
}

/// The folder of the repository's models.
fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn compare_with_reference(folder: &Path, reference: &str) {
    let file = std::fs::read(models().join("reference").join(reference)).unwrap();
    let parsed = SafeTensors::deserialize(&file).unwrap();
    let view = parsed.tensor("embeddings").unwrap();
    let width = view.shape()[1];
    let values: Vec<f64> = view
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f64::from(f32::from_le_bytes(*bytes)))
        .collect();
    let list = std::fs::read_to_string(models().join("reference/sentences.json")).unwrap();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let sentences: Vec<String> = serde_json::from_value(list["sentences"].clone()).unwrap();
    assert_eq!(view.shape()[0], sentences.len());
    for (precision, bound) in [(Precision::F32, 1e-8), (Precision::I16, 1e-5)] {
        let encoder = load(folder, precision, Isa::best(), 2);
        let got = rows(&encoder, &sentences);
        for (s, (got, want)) in got.iter().zip(values.chunks(width)).enumerate() {
            let off = 1.0 - cosine(got, want);
            assert!(
                off < bound,
                "{precision:?}: {:?} is off by {off}",
                sentences[s]
            );
        }
    }
}

#[test]
fn the_embedded_model_gives_its_reference_vectors() {
    compare_with_reference(
        &models().join("skep-mini-embed"),
        "reference_skep_mini.safetensors",
    );
}

#[test]
fn minilm_gives_its_reference_vectors() {
    let folder = std::env::var_os("SKEP_MINILM")
        .map_or_else(|| models().join("cache/all-MiniLM-L6-v2"), PathBuf::from);
    if !folder.join("model.safetensors").exists() {
        eprintln!(
            "skipped: no model in {}; `cargo xtask fetch-models` gets it",
            folder.display()
        );
        return;
    }
    compare_with_reference(&folder, "reference_minilm.safetensors");
}

#[test]
fn a_model_is_loaded_once_and_shared() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(folder.path());
    let catalog = skep_model::Catalog::new(Device::cpu());
    let digest = skep_registry::Digest::of(b"tiny");
    catalog.add("tiny".parse().unwrap(), digest, folder.path().to_owned());
    assert!(!catalog.list()[0].loaded);
    let infos = std::thread::scope(|scope| {
        let open = || std::ptr::from_ref(catalog.open("tiny").unwrap().1.info()) as usize;
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert!(
        infos.iter().all(|info| *info == infos[0]),
        "one encoder for all"
    );
    assert!(catalog.list()[0].loaded);
    let (name, _) = catalog.open(&digest.to_string()).unwrap();
    assert_eq!(name.as_str(), "tiny");
}
