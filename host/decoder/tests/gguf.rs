//! GGUF files of the same models: written here from the Hugging Face folders, as llama.cpp's
//! converter lays them out, they give the same logits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};

use skep_decoder::{AdapterWeights, Batch, Decoder, Part, Workspace};
use skep_kernels::Team;
use skep_kernels::kv::{KvFormat, KvPages};
use skep_weights::{PackedFormat, WeightsFile};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/models")
        .join(name)
}

/// A value of a GGUF file's metadata.
enum Value<'a> {
    U32(u32),
    F32(f32),
    Text(&'a str),
}

/// A tensor: its name, its dimensions with the outermost first, its type's number, its bytes.
type Tensor = (String, Vec<u64>, u32, Vec<u8>);

fn write_gguf(path: &Path, metadata: &[(String, Value<'_>)], tensors: &[Tensor]) {
    let mut out = b"GGUF".to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        match value {
            Value::U32(value) => {
                out.extend(4_u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Value::F32(value) => {
                out.extend(6_u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Value::Text(value) => {
                out.extend(8_u32.to_le_bytes());
                text(&mut out, value);
            }
        }
    }
    let mut data = Vec::new();
    for (name, shape, kind, bytes) in tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        for extent in shape.iter().rev() {
            out.extend(extent.to_le_bytes());
        }
        out.extend(kind.to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        data.extend(bytes);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    std::fs::write(path, out).unwrap();
}

/// Rounds rows to blocks of Q8_0: the largest magnitude of 32 becomes 127.
fn to_q8_0(values: &[f32]) -> Vec<u8> {
    let mut out = Vec::new();
    for block in values.chunks_exact(32) {
        let most = block.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let scale = f16_bits(most / 127.0);
        out.extend(scale.to_le_bytes());
        let scale = f16_value(scale);
        for x in block {
            let rounded = if scale > 0.0 {
                (x / scale).round()
            } else {
                0.0
            };
            out.push(rounded.clamp(-127.0, 127.0) as i8 as u8);
        }
    }
    out
}

/// The half-precision number next below, which is near enough for a scale.
fn f16_bits(value: f32) -> u16 {
    if value == 0.0 {
        return 0;
    }
    let bits = value.to_bits();
    let exponent = ((bits >> 23) & 0xff) as i32 - 127 + 15;
    assert!((1..31).contains(&exponent), "{value} is no normal half");
    ((exponent as u16) << 10) | ((bits >> 13) & 0x3ff) as u16
}

fn f16_value(bits: u16) -> f32 {
    if bits == 0 {
        return 0.0;
    }
    let exponent = i32::from(bits >> 10) - 15;
    (1.0 + f32::from(bits & 0x3ff) / 1024.0) * 2.0_f32.powi(exponent)
}

/// Puts the rows of each head in the order of the original Llama: pairs side by side.
fn in_pairs(bytes: &[u8], heads: usize, rows: usize) -> Vec<u8> {
    let row = bytes.len() / rows;
    let dim = rows / heads;
    (0..rows)
        .flat_map(|to| {
            let (head, place) = (to / dim, to % dim);
            let from = head * dim + place / 2 + (place % 2) * (dim / 2);
            bytes[from * row..(from + 1) * row].to_vec()
        })
        .collect()
}

/// Converts a folder; matrices are rounded to Q8_0 if that is wanted.
fn convert(name: &str, architecture: &str, rounded: bool, path: &Path) {
    let weights = WeightsFile::open(&folder(name)).unwrap();
    let text = std::fs::read(folder(name).join("config.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let figure = |key: &str| json[key].as_u64().unwrap() as u32;
    let (heads, kv_heads) = (figure("num_attention_heads"), figure("num_key_value_heads"));
    let dim = json["head_dim"]
        .as_u64()
        .map_or(figure("hidden_size") / heads, |dim| dim as u32);
    let rope = &json["rope_parameters"];
    let base = rope["rope_theta"].as_f64().unwrap();
    let key = |key: &str| format!("{architecture}.{key}");
    let metadata = [
        ("general.architecture".to_owned(), Value::Text(architecture)),
        (key("block_count"), Value::U32(figure("num_hidden_layers"))),
        (key("context_length"), Value::U32(512)),
        (key("embedding_length"), Value::U32(figure("hidden_size"))),
        (
            key("feed_forward_length"),
            Value::U32(figure("intermediate_size")),
        ),
        (key("attention.head_count"), Value::U32(heads)),
        (key("attention.head_count_kv"), Value::U32(kv_heads)),
        (key("attention.key_length"), Value::U32(dim)),
        (key("attention.layer_norm_rms_epsilon"), Value::F32(1e-6)),
        (key("rope.freq_base"), Value::F32(base as f32)),
    ];
    let mut tensors = Vec::new();
    for hugging in weights.names() {
        let tensor = weights.tensor(hugging).unwrap();
        let mut values = vec![0.0; tensor.rows() * tensor.columns()];
        tensor.dequantize(&mut values).unwrap();
        let is_matrix = tensor.shape().len() == 2;
        // A row of 48 elements is no whole number of blocks.
        let (kind, mut bytes) = if is_matrix && rounded && tensor.columns().is_multiple_of(32) {
            (8, to_q8_0(&values))
        } else if is_matrix {
            assert_eq!(tensor.format(), PackedFormat::BF16);
            (30, tensor.bytes().to_vec())
        } else {
            (0, values.iter().flat_map(|x| x.to_le_bytes()).collect())
        };
        let gguf = gguf_name(hugging);
        let paired =
            |heads: u32, bytes: &[u8]| in_pairs(bytes, heads as usize, (heads * dim) as usize);
        if architecture == "llama" && gguf.contains("attn_q.") {
            bytes = paired(heads, &bytes);
        } else if architecture == "llama" && gguf.contains("attn_k.") {
            bytes = paired(kv_heads, &bytes);
        }
        tensors.push((gguf, tensor.shape().to_vec(), kind, bytes));
    }
    if rope["rope_type"] == "llama3" {
        // What to divide each frequency by, as the converter computes it.
        let of = |key: &str| rope[key].as_f64().unwrap();
        let (factor, low, high) = (of("factor"), of("low_freq_factor"), of("high_freq_factor"));
        let original = of("original_max_position_embeddings");
        let factors: Vec<u8> = (0..dim / 2)
            .flat_map(|i| {
                let frequency = base.powf(-2.0 * f64::from(i) / f64::from(dim));
                let wavelength = std::f64::consts::TAU / frequency;
                let divisor = if wavelength < original / high {
                    1.0
                } else if wavelength > original / low {
                    factor
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    1.0 / ((1.0 - smooth) / factor + smooth)
                };
                (divisor as f32).to_le_bytes()
            })
            .collect();
        tensors.push((
            "rope_freqs.weight".to_owned(),
            vec![u64::from(dim / 2)],
            0,
            factors,
        ));
    }
    write_gguf(path, &metadata, &tensors);
}

fn gguf_name(hugging: &str) -> String {
    let mut name = hugging.trim_start_matches("model.").to_owned();
    for (from, to) in [
        ("embed_tokens", "token_embd"),
        ("lm_head", "output"),
        ("layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ] {
        name = name.replace(from, to);
    }
    if name == "norm.weight" {
        "output_norm.weight".to_owned()
    } else {
        name
    }
}

/// With an adapter of `tests/adapters`, or without.
fn logits(decoder: &Decoder, adapter: Option<&str>) -> Vec<f32> {
    let mut pages = KvPages::new(decoder.kv_shape(KvFormat::F32), 100);
    let adapter = adapter.map(|name| {
        let folder = folder("../adapters").join(name);
        let page_bytes = pages.memory().page_bytes();
        let weights = AdapterWeights::load(&folder, decoder.config(), "tiny", page_bytes).unwrap();
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
        ("smollm", "llama"),
        ("qwen2", "qwen2"),
        ("qwen3", "qwen3"),
    ] {
        let want = logits(&Decoder::load(&folder(name)).unwrap(), None);
        for (rounded, tolerance) in [(false, 1e-4), (true, 0.2)] {
            let path = scratch.path().join(format!("{name}-{rounded}.gguf"));
            convert(name, architecture, rounded, &path);
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
    convert("llama", "llama", false, &path);
    let hugging = Decoder::load(&folder("llama")).unwrap();
    let gguf = Decoder::load(&path).unwrap();
    for name in ["plain", "stable", "patterns", "layer"] {
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
    let metadata = [("general.architecture".to_owned(), Value::Text("clip"))];
    write_gguf(&path, &metadata, &[]);
    let error = Decoder::load(&path).unwrap_err().to_string();
    assert!(error.contains("\"clip\" is not supported"), "{error}");
}
