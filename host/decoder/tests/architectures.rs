//! Every architecture against what PyTorch makes of the same weights: tiny models of random
//! weights that `make_reference.py` made.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::PathBuf;

use proptest::prelude::*;
use safetensors::SafeTensors;
use skep_decoder::{Batch, Config, Decoder, ForwardError, LoadError, Part, Workspace};
use skep_kernels::Team;
use skep_kernels::kv::{KvFormat, KvPages, PAGE_TOKENS};

const MODELS: [&str; 7] = [
    "llama", "llama2", "smollm", "mistral", "qwen2", "qwen3", "gemma3",
];

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/models")
        .join(name)
}

struct Reference {
    prompt: Vec<u32>,
    positions: Vec<u32>,
    /// `[positions, vocabulary]`.
    logits: Vec<f32>,
    generated: Vec<u32>,
}

impl Reference {
    fn read(name: &str) -> Self {
        let bytes = std::fs::read(folder(name).join("reference.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| -> Vec<[u8; 4]> {
            let tensor = tensors.tensor(name).unwrap();
            tensor.data().as_chunks::<4>().0.to_vec()
        };
        let integers = |name| words(name).into_iter().map(u32::from_le_bytes).collect();
        Self {
            prompt: integers("prompt"),
            positions: integers("positions"),
            logits: words("logits")
                .into_iter()
                .map(f32::from_le_bytes)
                .collect(),
            generated: integers("generated"),
        }
    }
}

/// One sequence on its own pages.
struct Session<'a> {
    decoder: &'a Decoder,
    team: Team,
    workspace: Workspace,
    pages: KvPages,
    table: Vec<u32>,
    length: usize,
}

impl<'a> Session<'a> {
    fn new(decoder: &'a Decoder, format: KvFormat, threads: usize) -> Self {
        let count = 512 / PAGE_TOKENS;
        Self {
            decoder,
            team: Team::new(threads).unwrap(),
            workspace: Workspace::default(),
            pages: KvPages::new(decoder.kv_shape(format), count),
            // Backwards, so that a page's number is never its place.
            table: (0..count as u32).rev().collect(),
            length: 0,
        }
    }

    fn feed(&mut self, tokens: &[u32], outputs: &[usize]) -> Vec<f32> {
        let part = Part {
            tokens: tokens.len(),
            start: self.length,
            pages: &self.table,
            adapter: None,
        };
        let batch = Batch {
            tokens,
            parts: &[part],
            outputs,
        };
        let logits = self
            .decoder
            .forward(&self.team, &mut self.workspace, &mut self.pages, &batch)
            .unwrap();
        self.length += tokens.len();
        logits.to_vec()
    }

    fn generate(&mut self, first: &[f32], count: usize) -> Vec<u32> {
        let mut next = greedy(first);
        let mut all = vec![next];
        while all.len() < count {
            next = greedy(&self.feed(&[next], &[0]));
            all.push(next);
        }
        all
    }
}

fn greedy(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.unwrap().0 as u32
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .fold(0.0, |most, (a, b)| (a - b).abs().max(most))
}

#[test]
fn logits_and_greedy_texts_are_those_of_pytorch() {
    for name in MODELS {
        let reference = Reference::read(name);
        let decoder = Decoder::load(&folder(name)).unwrap();
        let mut session = Session::new(&decoder, KvFormat::F32, 2);
        let outputs: Vec<usize> = reference.positions.iter().map(|p| *p as usize).collect();
        let logits = session.feed(&reference.prompt, &outputs);
        let difference = largest_difference(&logits, &reference.logits);
        println!("{name}: logits within {difference:.1e}");
        assert!(difference < 1e-3, "{name}: {difference}");
        let last = &logits[logits.len() - decoder.config().vocabulary..];
        assert_eq!(session.generate(last, 64), reference.generated, "{name}");
    }
}

#[test]
fn smaller_keys_and_values_stay_close() {
    for name in MODELS {
        let reference = Reference::read(name);
        let decoder = Decoder::load(&folder(name)).unwrap();
        let outputs: Vec<usize> = reference.positions.iter().map(|p| *p as usize).collect();
        for (format, tolerance) in [(KvFormat::F16, 0.02), (KvFormat::Int8, 0.5)] {
            let mut session = Session::new(&decoder, format, 1);
            let logits = session.feed(&reference.prompt, &outputs);
            let difference = largest_difference(&logits, &reference.logits);
            println!("{name} with {format:?}: logits within {difference:.1e}");
            assert!(difference < tolerance, "{name} {format:?}: {difference}");
        }
    }
}

/// The same bits whether a prompt comes whole or in pieces, alone or beside another sequence, and
/// whatever the number of threads.
#[test]
fn a_sequence_does_not_depend_on_its_batch() {
    for name in MODELS {
        let prompt = Reference::read(name).prompt;
        let decoder = Decoder::load(&folder(name)).unwrap();
        let whole = Session::new(&decoder, KvFormat::F16, 1).feed(&prompt, &[prompt.len() - 1]);
        let mut pieces = Session::new(&decoder, KvFormat::F16, 2);
        let mut last = Vec::new();
        for piece in [
            &prompt[..37],
            &prompt[37..38],
            &prompt[38..150],
            &prompt[150..],
        ] {
            last = pieces.feed(piece, &[piece.len() - 1]);
        }
        assert_eq!(whole, last, "{name}");

        let mut shared = Session::new(&decoder, KvFormat::F16, 2);
        let (left, right) = shared.table.split_at(16);
        let (left, right) = (left.to_vec(), right.to_vec());
        let other: Vec<u32> = prompt.iter().rev().copied().collect();
        for (tokens, start) in [(120, 0), (80, 120)] {
            let both: Vec<u32> = [
                &other[start..start + tokens],
                &prompt[start..start + tokens],
            ]
            .concat();
            let part = |pages| Part {
                tokens,
                start,
                pages,
                adapter: None,
            };
            let batch = Batch {
                tokens: &both,
                parts: &[part(&left), part(&right)],
                outputs: &[both.len() - 1, tokens - 1],
            };
            let team = &shared.team;
            last = decoder
                .forward(team, &mut shared.workspace, &mut shared.pages, &batch)
                .unwrap()
                .to_vec();
        }
        assert_eq!(whole, last[..whole.len()], "{name}");
        assert_ne!(whole, last[whole.len()..], "{name}");
    }
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let decoder = Decoder::load(&folder("llama")).unwrap();
    let team = Team::new(1).unwrap();
    let mut pages = KvPages::new(decoder.kv_shape(KvFormat::F16), 2);
    let mut run = |tokens: &[u32], parts: &[(usize, usize, &[u32])], outputs: &[usize]| {
        let parts: Vec<_> = parts
            .iter()
            .map(|(tokens, start, pages)| Part {
                tokens: *tokens,
                start: *start,
                pages,
                adapter: None,
            })
            .collect();
        let batch = Batch {
            tokens,
            parts: &parts,
            outputs,
        };
        decoder
            .forward(&team, &mut Workspace::default(), &mut pages, &batch)
            .map(<[f32]>::len)
    };
    assert_eq!(run(&[5, 6], &[(2, 0, &[0])], &[1]), Ok(160));
    assert_eq!(run(&[], &[], &[]), Ok(0));
    assert_eq!(run(&[5], &[(1, 0, &[0])], &[]), Ok(0));
    let wrong = run(&[5, 160], &[(2, 0, &[0])], &[1]).unwrap_err();
    assert!(matches!(wrong, ForwardError::Token { token: 160, .. }));
    let wrong = run(&[5], &[(1, 512, &[0; 64])], &[0]).unwrap_err();
    assert!(matches!(wrong, ForwardError::Context { position: 512, .. }));
    for (tokens, parts, outputs) in [
        (
            &[5_u32, 6][..],
            &[(1_usize, 0_usize, &[0_u32][..])][..],
            &[0_usize][..],
        ),
        (&[5], &[(2, 0, &[0])], &[0]),
        (&[5], &[(1, 16, &[0])], &[0]),
        (&[5], &[(1, 0, &[2])], &[0]),
        (&[5], &[(1, usize::MAX, &[0])], &[0]),
        (&[5], &[(1, 0, &[0])], &[1]),
        (&[5], &[(usize::MAX, 1, &[0])], &[0]),
    ] {
        assert!(
            run(tokens, parts, outputs).is_err(),
            "{parts:?} {outputs:?}"
        );
    }
}

/// A model's folder with a change to its configuration.
fn changed(name: &str, change: impl Fn(&mut serde_json::Value)) -> Result<Decoder, LoadError> {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(folder(name).join(file), copy.path().join(file)).unwrap();
    }
    let path = copy.path().join("config.json");
    let mut json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(&path, json.to_string()).unwrap();
    Decoder::load(copy.path())
}

#[test]
fn configurations_that_lie_are_refused() {
    assert!(changed("llama", |_| ()).is_ok());
    for (key, value) in [
        ("num_attention_heads", 0.into()),
        ("num_attention_heads", 3.into()),
        ("num_key_value_heads", 0.into()),
        ("num_hidden_layers", 0.into()),
        ("num_hidden_layers", 3.into()),
        ("num_hidden_layers", u64::MAX.into()),
        ("hidden_size", (1_u64 << 60).into()),
        ("head_dim", 7.into()),
        ("head_dim", (1_u64 << 40).into()),
        ("vocab_size", 161.into()),
        ("vocab_size", (-1).into()),
        ("max_position_embeddings", 0.into()),
        ("rms_norm_eps", 0.into()),
        ("hidden_act", "relu".into()),
        ("mlp_bias", true.into()),
        ("rope_parameters", serde_json::json!({"rope_type": "yarn"})),
        (
            "rope_parameters",
            serde_json::json!({"rope_type": "linear"}),
        ),
        ("rope_parameters", serde_json::json!({"rope_theta": 0.0})),
        ("layer_types", serde_json::json!(["full_attention"])),
        ("model_type", serde_json::Value::Null),
    ] {
        let error = changed("llama", |json| json[key] = value.clone()).unwrap_err();
        println!("{key} = {value}: {error}");
    }
    let error = changed("llama", |json| json["model_type"] = "mamba".into()).unwrap_err();
    assert!(
        matches!(&error, LoadError::Architecture { architecture, .. } if architecture == "mamba")
    );
    assert!(error.to_string().contains("gemma3"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// One setting changed at will: an error, or a model whose logits are finite.
    #[test]
    fn a_changed_setting_never_breaks_a_model(
        name in prop::sample::select(MODELS.to_vec()),
        which in any::<prop::sample::Index>(),
        value in prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            (0_u64..200).prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            (-2.0_f64..2.0).prop_map(Into::into),
            "[a-z_]{0,12}".prop_map(Into::into),
            Just(serde_json::json!([])),
            Just(serde_json::json!({})),
        ],
    ) {
        // All settings, those of rotary positions among them, each by the way that leads to it.
        fn settings(json: &serde_json::Value, to: &str, all: &mut Vec<String>) {
            for (key, value) in json.as_object().into_iter().flatten() {
                let to = format!("{to}/{key}");
                settings(value, &to, all);
                all.push(to);
            }
        }
        let decoder = changed(name, |json| {
            let mut all = Vec::new();
            settings(json, "", &mut all);
            *json.pointer_mut(&all[which.index(all.len())]).unwrap() = value.clone();
        });
        match decoder {
            Ok(decoder) if decoder.config().context >= 8 => {
                let mut session = Session::new(&decoder, KvFormat::F32, 1);
                let logits = session.feed(&[3, 4, 5, 6, 7, 8, 9, 10], &[7]);
                prop_assert!(logits.iter().all(|x| x.is_finite()));
            }
            Ok(_) => {}
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

/// The configuration as it was written before transformers 5: rotary positions in keys of their
/// own, and Gemma's kinds of layers as one number. `kind` is what the kind of scaling was called.
fn older(json: &mut serde_json::Value, kind: &str) {
    let keys = json.as_object_mut().unwrap();
    let rope = keys.remove("rope_parameters").unwrap();
    let full = rope.get("full_attention").unwrap_or(&rope).clone();
    let mut scaling = full.as_object().unwrap().clone();
    keys.insert("rope_theta".into(), scaling.remove("rope_theta").unwrap());
    let named = scaling.remove("rope_type").unwrap();
    scaling.insert(kind.into(), named.clone());
    let scaling = (named != "default").then_some(scaling);
    keys.insert("rope_scaling".into(), serde_json::json!(scaling));
    if let Some(sliding) = rope.get("sliding_attention") {
        keys.insert("rope_local_base_freq".into(), sliding["rope_theta"].clone());
        keys.insert("sliding_window_pattern".into(), 2.into());
    }
    keys.remove("layer_types");
    keys.remove("_sliding_window_pattern");
}

#[test]
fn older_configurations_mean_the_same() {
    for name in MODELS {
        // Not the base that counts where nothing is said.
        let sliding = |json: &mut serde_json::Value| {
            if let Some(rope) = json["rope_parameters"].get_mut("sliding_attention") {
                rope["rope_theta"] = 20_000.0.into();
            }
        };
        let want = changed(name, sliding).unwrap();
        for kind in ["rope_type", "type"] {
            let got = changed(name, |json| {
                sliding(json);
                older(json, kind);
            });
            assert_eq!(got.unwrap().config(), want.config(), "{name} {kind}");
        }
        // Each of the older keys is read.
        let keys: &[&str] = match name {
            "llama" => &["rope_theta", "rope_scaling"],
            "qwen2" | "qwen3" => &["rope_theta"],
            "mistral" => &["sliding_window"],
            "gemma3" => &[
                "rope_theta",
                "rope_scaling",
                "rope_local_base_freq",
                "sliding_window_pattern",
                "sliding_window",
            ],
            _ => &[],
        };
        for key in keys {
            let without = changed(name, |json| {
                sliding(json);
                older(json, "rope_type");
                json.as_object_mut().unwrap().remove(*key).unwrap();
            });
            assert_ne!(
                without.unwrap().config(),
                want.config(),
                "{name} without {key}"
            );
        }
    }
}

/// The larger models of Gemma 3 see pictures too: their text part lies one level down, and its
/// configuration leaves out what is as the class has it.
#[test]
fn the_text_part_of_a_larger_gemma_is_the_same_model() {
    let scratch = tempfile::tempdir().unwrap();
    let text = std::fs::read(folder("gemma3").join("config.json")).unwrap();
    let mut text: serde_json::Value = serde_json::from_slice(&text).unwrap();
    older(&mut text, "rope_type");
    for key in [
        "rms_norm_eps",
        "hidden_activation",
        "rope_theta",
        "rope_local_base_freq",
    ] {
        text.as_object_mut().unwrap().remove(key).unwrap();
    }
    let json = serde_json::json!({"model_type": "gemma3", "text_config": text});
    std::fs::write(scratch.path().join("config.json"), json.to_string()).unwrap();
    let bytes = std::fs::read(folder("gemma3").join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let moved = tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| (format!("language_model.{name}"), view));
    let bytes = safetensors::serialize(moved, None).unwrap();
    std::fs::write(scratch.path().join("model.safetensors"), bytes).unwrap();

    let decoder = Decoder::load(scratch.path()).unwrap();
    let reference = Reference::read("gemma3");
    let mut session = Session::new(&decoder, KvFormat::F32, 1);
    let outputs: Vec<usize> = reference.positions.iter().map(|p| *p as usize).collect();
    let logits = session.feed(&reference.prompt, &outputs);
    let difference = largest_difference(&logits, &reference.logits);
    assert!(difference < 1e-3, "{difference}");
    let changed = changed("gemma3", |json| {
        json["text_config"] = serde_json::json!({"head_dim": "x"})
    });
    assert!(changed.is_err());
}

#[test]
fn configurations_are_read_as_they_are_meant() {
    let config = |name: &str| -> Config { Decoder::load(&folder(name)).unwrap().config().clone() };
    let gemma = config("gemma3");
    let windows: Vec<_> = gemma.layers.iter().map(|layer| layer.window).collect();
    assert_eq!(windows, [Some(40), None, Some(40)]);
    assert!((gemma.attention_scale - 1.0 / 24.0_f32.sqrt()).abs() < 1e-7);
    assert!(config("smollm").tied && !config("llama").tied);
    assert!(
        config("mistral")
            .layers
            .iter()
            .all(|layer| layer.window == Some(48))
    );
    assert!(
        config("qwen2")
            .layers
            .iter()
            .all(|layer| layer.window.is_none())
    );
}
