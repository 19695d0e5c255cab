//! GGUF files, written from Hugging Face folders as llama.cpp's converter lays them out.

use std::path::Path;

use skep_weights::format::dequantize;
use skep_weights::{PackedFormat, WeightsFile};

/// A value of a GGUF file's metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    U32(u32),
    F32(f32),
    Text(String),
}

/// A tensor: its name, its dimensions with the outermost first, its type's number, its bytes.
pub type Tensor = (String, Vec<u64>, u32, Vec<u8>);

/// What a file consists of.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
}

impl Contents {
    pub fn set(&mut self, key: &str, value: Value) {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.push((key.to_owned(), value));
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }

    pub fn bytes(&self) -> Vec<u8> {
        let (metadata, tensors) = (&self.metadata, &self.tensors);
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
        out
    }
}

/// The number of a quantized format in a file.
pub fn kind(format: PackedFormat) -> u32 {
    match format {
        PackedFormat::Q4_0 => 2,
        PackedFormat::Q4_1 => 3,
        PackedFormat::Q5_0 => 6,
        PackedFormat::Q5_1 => 7,
        PackedFormat::Q8_0 => 8,
        PackedFormat::Q4_K => 12,
        PackedFormat::Q5_K => 13,
        PackedFormat::Q6_K => 14,
        other => panic!("{other} is not quantized"),
    }
}

/// Blocks of random bits of a quantized format for so many elements, with scales and minima that
/// make them about as large as a model's weights of 256 inputs, around zero.
pub fn random_blocks(format: PackedFormat, elements: usize, seed: u64) -> Vec<u8> {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    let count = elements / format.block_len() * format.block_bytes();
    let mut bytes: Vec<u8> = (0..count).map(|_| next()).collect();
    // Where the scale lies and what it is, and how many of it the minimum is.
    let (place, scale, minimum) = match format {
        PackedFormat::Q4_0 => (0, 0.013, None),
        PackedFormat::Q4_1 => (0, 0.013, Some(-7.5)),
        PackedFormat::Q5_0 => (0, 0.0065, None),
        PackedFormat::Q5_1 => (0, 0.0065, Some(-15.5)),
        PackedFormat::Q8_0 => (0, 0.0008, None),
        PackedFormat::Q4_K => (0, 2.5e-4, Some(7.5)),
        PackedFormat::Q5_K => (0, 1.25e-4, Some(15.5)),
        PackedFormat::Q6_K => (208, 6.2e-5, None),
        other => panic!("{other} is not quantized"),
    };
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        // Up to a half more, so that blocks differ.
        let scale = scale * (1.0 + f32::from(block[format.block_bytes() / 2]) / 512.0);
        block[place..place + 2].copy_from_slice(&f16_bits(scale).to_le_bytes());
        if let Some(minimum) = minimum {
            block[2..4].copy_from_slice(&f16_bits(minimum * scale).to_le_bytes());
        }
    }
    bytes
}

/// A small Llama of random blocks, packed as llama.cpp mixes formats: rows of 256 in those of 256
/// elements, rows of 288 in what it falls back to. With `expanded`, the same weights in 32 bits.
pub fn mixture(expanded: bool) -> Contents {
    use PackedFormat::{Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
    let downs = [Q5_1, Q5_0, Q8_0, Q4_1, Q4_0];
    let mut contents = Contents::default();
    contents.set("general.architecture", Value::Text("llama".to_owned()));
    for (key, figure) in [
        ("block_count", downs.len() as u32),
        ("context_length", 512),
        ("embedding_length", 256),
        ("feed_forward_length", 288),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ] {
        contents.set(&format!("llama.{key}"), Value::U32(figure));
    }
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    contents.set(epsilon, Value::F32(1e-5));
    let mut tensors = vec![
        ("token_embd".to_owned(), [160, 256], Q6_K),
        ("output".to_owned(), [160, 256], Q6_K),
    ];
    for (layer, down) in downs.into_iter().enumerate() {
        for (name, shape, format) in [
            ("attn_q", [256, 256], Q4_K),
            ("attn_k", [128, 256], Q5_K),
            ("attn_v", [128, 256], Q6_K),
            ("attn_output", [256, 256], Q4_K),
            ("ffn_gate", [288, 256], Q5_K),
            ("ffn_up", [288, 256], Q4_K),
            ("ffn_down", [256, 288], down),
        ] {
            tensors.push((format!("blk.{layer}.{name}"), shape, format));
        }
    }
    let norms = (0..downs.len())
        .flat_map(|layer| ["attn", "ffn"].map(|norm| format!("blk.{layer}.{norm}_norm.weight")));
    for name in norms.chain(["output_norm.weight".to_owned()]) {
        let ones = [1.0_f32; 256].map(f32::to_le_bytes).concat();
        contents.tensors.push((name, vec![256], 0, ones));
    }
    for (seed, (name, shape, format)) in tensors.into_iter().enumerate() {
        let bytes = random_blocks(format, (shape[0] * shape[1]) as usize, seed as u64);
        let (kind, bytes) = match expanded {
            false => (kind(format), bytes),
            true => {
                let mut values = vec![0.0; (shape[0] * shape[1]) as usize];
                dequantize(format, &bytes, &mut values).unwrap();
                (0, values.iter().flat_map(|x| x.to_le_bytes()).collect())
            }
        };
        let name = format!("{name}.weight");
        contents.tensors.push((name, shape.to_vec(), kind, bytes));
    }
    contents
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

/// The half-precision number next to zero from here, which is near enough for a scale.
pub fn f16_bits(value: f32) -> u16 {
    if value == 0.0 {
        return 0;
    }
    let bits = value.to_bits();
    let exponent = ((bits >> 23) & 0xff) as i32 - 127 + 15;
    assert!((1..31).contains(&exponent), "{value} is no normal half");
    ((bits >> 16) & 0x8000) as u16 | ((exponent as u16) << 10) | ((bits >> 13) & 0x3ff) as u16
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
pub fn convert(folder: &Path, architecture: &str, rounded: bool) -> Contents {
    let weights = WeightsFile::open(folder).unwrap();
    let text = std::fs::read(folder.join("config.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let figure = |key: &str| json[key].as_u64().unwrap() as u32;
    let (heads, kv_heads) = (figure("num_attention_heads"), figure("num_key_value_heads"));
    let dim = json["head_dim"]
        .as_u64()
        .map_or(figure("hidden_size") / heads, |dim| dim as u32);
    let gemma = architecture == "gemma3";
    let rope = match &json["rope_parameters"] {
        of_kinds if gemma => &of_kinds["full_attention"],
        rope => rope,
    };
    let base = rope["rope_theta"].as_f64().unwrap();
    let epsilon = json["rms_norm_eps"].as_f64().unwrap();
    let mut contents = Contents::default();
    contents.set("general.architecture", Value::Text(architecture.to_owned()));
    for (key, value) in [
        ("block_count", Value::U32(figure("num_hidden_layers"))),
        ("context_length", Value::U32(512)),
        ("embedding_length", Value::U32(figure("hidden_size"))),
        (
            "feed_forward_length",
            Value::U32(figure("intermediate_size")),
        ),
        ("attention.head_count", Value::U32(heads)),
        ("attention.head_count_kv", Value::U32(kv_heads)),
        ("attention.key_length", Value::U32(dim)),
        (
            "attention.layer_norm_rms_epsilon",
            Value::F32(epsilon as f32),
        ),
        ("rope.freq_base", Value::F32(base as f32)),
    ] {
        contents.set(&format!("{architecture}.{key}"), value);
    }
    if gemma {
        let sliding = &json["rope_parameters"]["sliding_attention"]["rope_theta"];
        let sliding = sliding.as_f64().unwrap() as f32;
        let factor = rope["factor"].as_f64().unwrap() as f32;
        let window = figure("sliding_window");
        for (key, value) in [
            ("attention.sliding_window", Value::U32(window)),
            ("rope.freq_base_swa", Value::F32(sliding)),
            ("rope.scaling.type", Value::Text("linear".to_owned())),
            ("rope.scaling.factor", Value::F32(factor)),
        ] {
            contents.set(&format!("gemma3.{key}"), value);
        }
    }
    let tensors = &mut contents.tensors;
    for hugging in weights.names() {
        let tensor = weights.tensor(hugging).unwrap();
        let mut values = vec![0.0; tensor.rows() * tensor.columns()];
        tensor.dequantize(&mut values).unwrap();
        let is_matrix = tensor.shape().len() == 2;
        if gemma && hugging.ends_with("norm.weight") {
            // What Gemma adds to the weights of its norms is added in the file.
            values.iter_mut().for_each(|x| *x += 1.0);
        }
        // A row of 48 elements is no whole number of blocks.
        let (kind, mut bytes) = if is_matrix && rounded && tensor.columns().is_multiple_of(32) {
            (8, to_q8_0(&values))
        } else if is_matrix {
            assert_eq!(tensor.format(), PackedFormat::BF16);
            (30, tensor.bytes().to_vec())
        } else {
            (0, values.iter().flat_map(|x| x.to_le_bytes()).collect())
        };
        let gguf = gguf_name(hugging, gemma);
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
        let factors = factors(rope, base, dim);
        tensors.push((
            "rope_freqs.weight".to_owned(),
            vec![u64::from(dim / 2)],
            0,
            factors,
        ));
    }
    contents
}

/// What to divide each frequency by for Llama 3.1, as the converter computes it.
fn factors(rope: &serde_json::Value, base: f64, dim: u32) -> Vec<u8> {
    let of = |key: &str| rope[key].as_f64().unwrap();
    let (factor, low, high) = (of("factor"), of("low_freq_factor"), of("high_freq_factor"));
    let original = of("original_max_position_embeddings");
    (0..dim / 2)
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
        .collect()
}

fn gguf_name(hugging: &str, gemma: bool) -> String {
    let after_attention = if gemma {
        "post_attention_norm"
    } else {
        "ffn_norm"
    };
    let mut name = hugging.trim_start_matches("model.").to_owned();
    for (from, to) in [
        ("embed_tokens", "token_embd"),
        ("lm_head", "output"),
        ("layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        // The same name stands for another norm in Gemma, which has one more before it.
        ("post_attention_layernorm", after_attention),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
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
