//! GGUF files of the same models: written here from the Hugging Face folders, as llama.cpp's
//! converter lays them out, they give the same logits; and files whose metadata lie.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "common/gguf.rs"]
mod written;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use skep_decoder::{AdapterWeights, Batch, Config, Decoder, LoadError, Part, Workspace};
use skep_kernels::Team;
use skep_kernels::kv::{KvFormat, KvPages};
use skep_weights::WeightsFile;
use written::{Contents, Value, convert, mixture};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/models")
        .join(name)
}

/// With an adapter of `tests/adapters`, or without.
fn logits(decoder: &Decoder, adapter: Option<&str>) -> Vec<f32> {
    let mut pages = KvPages::new(decoder.kv_shape(KvFormat::F32), 100);
    let adapter = adapter.map(|name| {
        let folder = folder("../adapters").join(name);
        let page_bytes = pages.memory().page_bytes();
        let weights = AdapterWeights::load(&folder, decoder, "tiny", page_bytes).unwrap();
        let own = (4..4 + weights.adapter().pages() as u32).collect();
        weights.place(pages.memory_mut(), own).unwrap()
    });
    let tokens: Vec<u32> = (0..60).map(|n| 3 + n * 37 % 150).collect();
    let table = [0, 1, 2, 3];
    let part = Part {
        tokens: tokens.len(),
        start: 0,
        pages: &table,
        adapter: adapter.as_ref(),
    };
    let batch = Batch {
        tokens: &tokens,
        parts: &[part],
        outputs: &[20, 59],
    };
    let team = Team::new(1).unwrap();
    let mut workspace = Workspace::default();
    let logits = decoder.forward(&team, &mut workspace, &mut pages, &batch);
    logits.unwrap().to_vec()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .fold(0.0, |most, (a, b)| (a - b).abs().max(most))
}

#[test]
fn a_gguf_file_is_the_same_model() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, architecture) in [
        ("llama", "llama"),
        ("llama2", "llama"),
        ("smollm", "llama"),
        ("qwen2", "qwen2"),
        ("qwen3", "qwen3"),
    ] {
        let want = logits(&Decoder::load(&folder(name)).unwrap(), None);
        for (rounded, tolerance) in [(false, 1e-4), (true, 0.2)] {
            let path = scratch.path().join(format!("{name}-{rounded}.gguf"));
            convert(&folder(name), architecture, rounded).write(&path);
            let decoder = Decoder::load(&path).unwrap();
            let got = logits(&decoder, None);
            let difference = difference(&want, &got);
            println!("{name}, rounded {rounded}: {difference:.1e}");
            assert_eq!(got.len(), want.len());
            assert!(difference < tolerance, "{name} {rounded}: {difference}");
            // Rounding was really in it, where rows are whole blocks.
            assert!(
                !rounded || name == "smollm" || difference > 1e-4,
                "{name}: {difference}"
            );
        }
    }
}

/// Adapters are made for the order that Hugging Face's queries and keys have.
#[test]
fn an_adapter_does_the_same_to_a_gguf_file() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("llama.gguf");
    convert(&folder("llama"), "llama", false).write(&path);
    let hugging = Decoder::load(&folder("llama")).unwrap();
    let gguf = Decoder::load(&path).unwrap();
    for name in ["plain", "stable", "patterns", "layer", "dora"] {
        let want = logits(&hugging, Some(name));
        let difference_to = |other: &[f32]| difference(&want, other);
        let with = difference_to(&logits(&gguf, Some(name)));
        println!("{name}: {with:.1e}");
        assert!(with < 1e-4, "{name}: {with}");
        assert!(difference_to(&logits(&gguf, None)) > 0.1, "{name}");
    }
}

#[test]
fn a_gguf_file_of_another_kind_says_what_it_is() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("clip.gguf");
    let mut clip = Contents::default();
    clip.set("general.architecture", Value::Text("clip".to_owned()));
    clip.write(&path);
    let error = Decoder::load(&path).unwrap_err().to_string();
    assert!(error.contains("\"clip\" is not supported"), "{error}");
}

/// The tiny Gemma with its three layers again and again, its kinds of layers as the published
/// models have them, and queries and keys scaled by `1 / √scalar`.
fn gemma(to: &Path, layers: usize, pattern: usize, scalar: usize) {
    let text = std::fs::read(folder("gemma3").join("config.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let kinds: Vec<_> = (1..=layers)
        .map(|layer| match layer.is_multiple_of(pattern) {
            true => "full_attention",
            false => "sliding_attention",
        })
        .collect();
    json["num_hidden_layers"] = layers.into();
    json["layer_types"] = kinds.into();
    json["query_pre_attn_scalar"] = scalar.into();
    json["rope_parameters"]["sliding_attention"]["rope_theta"] = 20_000.0.into();
    std::fs::write(to.join("config.json"), json.to_string()).unwrap();
    let weights = WeightsFile::open(&folder("gemma3")).unwrap();
    let mut tensors = Vec::new();
    for name in weights.names() {
        let tensor = weights.tensor(name).unwrap();
        let Some((layer, rest)) = name
            .strip_prefix("model.layers.")
            .and_then(|name| name.split_once('.'))
        else {
            tensors.push((name.to_owned(), tensor));
            continue;
        };
        let layer: usize = layer.parse().unwrap();
        for layer in (layer..layers).step_by(3) {
            tensors.push((format!("model.layers.{layer}.{rest}"), tensor.clone()));
        }
    }
    let views = tensors.iter().map(|(name, tensor)| {
        let shape = tensor.shape().iter().map(|side| *side as usize).collect();
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape, tensor.bytes());
        (name, view.unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(to.join("model.safetensors"), bytes).unwrap();
}

/// What Gemma's files say with keys and names of their own, and the one thing that they do not
/// say: the scale of attention, which is another one in the largest model alone.
#[test]
fn gemma_from_gguf_is_the_same_model() {
    for (layers, pattern, scalar) in [(7, 6, 16), (3, 2, 16), (62, 6, 8)] {
        let scratch = tempfile::tempdir().unwrap();
        gemma(scratch.path(), layers, pattern, scalar);
        let hugging = Decoder::load(scratch.path()).unwrap();
        let path = scratch.path().join("gemma.gguf");
        let mut contents = convert(scratch.path(), "gemma3", false);
        if pattern != 6 {
            let key = "gemma3.attention.sliding_window_pattern";
            contents.set(key, Value::U32(pattern as u32));
        }
        contents.write(&path);
        let gguf = Decoder::load(&path).unwrap();
        let (want, got) = (hugging.config(), gguf.config());
        let expected = Config {
            norm_offset: 0.0,
            ..want.clone()
        };
        assert_eq!(*got, expected, "{layers} layers");
        assert_eq!(
            got.layers.iter().filter(|l| l.window.is_none()).count(),
            layers / pattern
        );
        let (want, got) = (logits(&hugging, None), logits(&gguf, None));
        let difference = difference(&want, &got);
        println!("{layers} layers: {difference:.1e}");
        assert!(difference < 1e-4, "{layers} layers: {difference}");
    }
    // Without a window all layers attend to everything, as in models made of it since.
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("gemma.gguf");
    let mut contents = convert(&folder("gemma3"), "gemma3", false);
    let window = "gemma3.attention.sliding_window";
    contents.metadata.retain(|(key, _)| key != window);
    contents.write(&path);
    let config = Decoder::load(&path).unwrap().config().clone();
    assert!(config.layers.iter().all(|layer| layer.window.is_none()));
}

/// Every quantized format in one file, against the same weights in 32 bits: what is left is the
/// rounding of activations.
#[test]
fn a_mixture_of_formats_is_the_model_that_it_unpacks_to() {
    let want = logits(&changed(&mixture(true)).unwrap(), None);
    let got = logits(&changed(&mixture(false)).unwrap(), None);
    let square: f32 = want.iter().map(|x| x * x).sum();
    let size = (square / want.len() as f32).sqrt();
    let difference = difference(&want, &got);
    println!("logits ±{size:.2}, within {difference:.2}");
    assert!(size > 0.1 && difference > 1e-4 * size, "{difference}");
    assert!(difference < 0.25 * size, "{difference} of {size}");
}

/// Loads a model after a change to its file.
fn changed(contents: &Contents) -> Result<Decoder, LoadError> {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.gguf");
    contents.write(&path);
    Decoder::load(&path)
}

#[test]
fn metadata_that_lie_are_refused() {
    use Value::{F32, U32};
    let text = |text: &str| Value::Text(text.to_owned());
    let llama = convert(&folder("llama"), "llama", false);
    assert!(changed(&llama).is_ok());
    for (key, value) in [
        ("block_count", U32(0)),
        ("block_count", U32(3)),
        ("block_count", U32(1 << 13)),
        ("block_count", U32(u32::MAX)),
        ("block_count", text("two")),
        ("block_count", F32(2.0)),
        ("context_length", U32(0)),
        ("context_length", U32(u32::MAX)),
        ("embedding_length", U32(0)),
        ("embedding_length", U32(64)),
        ("embedding_length", U32(u32::MAX)),
        ("feed_forward_length", U32(0)),
        ("feed_forward_length", U32(49)),
        ("feed_forward_length", U32(u32::MAX)),
        ("attention.head_count", U32(0)),
        ("attention.head_count", U32(3)),
        ("attention.head_count", U32(u32::MAX)),
        ("attention.head_count_kv", U32(0)),
        ("attention.head_count_kv", U32(3)),
        ("attention.head_count_kv", U32(4)),
        ("attention.head_count_kv", U32(u32::MAX)),
        ("attention.key_length", U32(0)),
        ("attention.key_length", U32(7)),
        ("attention.key_length", U32(16)),
        ("attention.key_length", U32(u32::MAX)),
        ("attention.layer_norm_rms_epsilon", F32(0.0)),
        ("attention.layer_norm_rms_epsilon", F32(-1e-6)),
        ("attention.layer_norm_rms_epsilon", F32(f32::NAN)),
        ("attention.layer_norm_rms_epsilon", F32(f32::INFINITY)),
        ("attention.layer_norm_rms_epsilon", F32(1e9)),
        ("attention.sliding_window", U32(0)),
        ("attn_logit_softcapping", F32(50.0)),
        ("final_logit_softcapping", F32(30.0)),
        ("rope.freq_base", F32(0.0)),
        ("rope.freq_base", F32(1.0)),
        ("rope.freq_base", F32(f32::NAN)),
        ("rope.freq_base_swa", F32(f32::INFINITY)),
        ("rope.scaling.type", text("yarn")),
        ("rope.scaling.type", U32(1)),
    ] {
        let mut lying = llama.clone();
        lying.set(&format!("llama.{key}"), value.clone());
        if key == "attention.key_length" {
            // It would be refused for having the factors of another head.
            lying
                .tensors
                .retain(|(name, ..)| name != "rope_freqs.weight");
        }
        let error = changed(&lying).unwrap_err();
        println!("{key} = {value:?}: {error}");
    }
    for factor in [0.0, -8.0, 1e-30] {
        let mut lying = llama.clone();
        lying.set("llama.rope.scaling.type", text("linear"));
        lying.set("llama.rope.scaling.factor", F32(factor));
        let error = changed(&lying).unwrap_err();
        assert!(matches!(error, LoadError::Malformed { .. }), "{error}");
    }
    let mut named = llama.clone();
    named.set("general.architecture", U32(3));
    assert!(matches!(changed(&named), Err(LoadError::Metadata(_))));
    // Whatever has no default has to be there.
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    ] {
        let mut without = llama.clone();
        without.metadata.retain(|(known, _)| known != key);
        let error = changed(&without).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
    // What frequencies are divided by, and the embedding, whose rows are the vocabulary.
    let floats = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
    for (shape, values) in [
        (vec![3], vec![1.0; 3]),
        (vec![2, 2], vec![1.0; 4]),
        (vec![4], vec![1.0, 1.0, 0.0, 1.0]),
        (vec![4], vec![1.0, -1.0, 1.0, 1.0]),
        (vec![4], vec![1.0, 1.0, f32::NAN, 1.0]),
    ] {
        let mut lying = llama.clone();
        lying
            .tensors
            .retain(|(name, ..)| name != "rope_freqs.weight");
        let bytes: Vec<u8> = floats(&values);
        lying
            .tensors
            .push(("rope_freqs.weight".to_owned(), shape, 0, bytes));
        let error = changed(&lying).unwrap_err();
        println!("{values:?}: {error}");
    }
    let mut without = llama.clone();
    without
        .tensors
        .retain(|(name, ..)| name != "token_embd.weight");
    let error = changed(&without).unwrap_err().to_string();
    assert!(error.contains("token_embd.weight"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Bytes of the metadata and the list of tensors changed at will: an error, or a model that
    /// runs.
    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let contents = convert(&folder("qwen3"), "qwen3", false);
        let mut bytes = contents.bytes();
        let data: usize = contents.tensors.iter().map(|t| t.3.len().next_multiple_of(32)).sum();
        let head = bytes.len() - data;
        for (at, value) in changes {
            bytes[at.index(head)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        match Decoder::load(&path) {
            Ok(decoder) => {
                let vocabulary = decoder.config().vocabulary;
                if decoder.config().context >= 60 && vocabulary >= 153 {
                    prop_assert_eq!(logits(&decoder, None).len(), 2 * vocabulary);
                }
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    /// Figures changed at will: an error, or a model whose logits are finite.
    #[test]
    fn changed_figures_never_break_a_model(
        which in any::<prop::sample::Index>(),
        figure in prop_oneof![0_u32..1024, any::<u32>()],
        number in prop_oneof![-2.0_f32..2.0, any::<f32>()],
    ) {
        let mut contents = convert(&folder("gemma3"), "gemma3", false);
        let places: Vec<usize> = (0..contents.metadata.len())
            .filter(|n| !matches!(contents.metadata[*n].1, Value::Text(_)))
            .collect();
        let value = &mut contents.metadata[places[which.index(places.len())]].1;
        *value = match value {
            Value::U32(_) => Value::U32(figure),
            _ => Value::F32(number),
        };
        if let Ok(decoder) = changed(&contents)
            && decoder.config().context >= 60
        {
            prop_assert!(logits(&decoder, None).iter().all(|x| x.is_finite()));
        }
    }
}
