//! Models and adapters as folders of safetensors: Hugging Face's, GPTQ's, PEFT's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use super::{BLOCK, Random, Shape, half};

/// Writes the configuration and the weights of a Hugging Face folder, in `shards` files. Its
/// tokenizer is the caller's.
///
/// # Errors
/// When a file cannot be written.
pub fn hugging_face(folder: &Path, shape: &Shape, shards: usize, seed: u64) -> Result<()> {
    write_config(folder, shape, None)?;
    let tensors: Vec<Tensor> = shape
        .tensors()
        .into_iter()
        .map(|(name, rows, columns)| dense(&name, rows, columns, seed))
        .collect();
    write_shards(folder, &tensors, shards)
}

/// Writes such a folder whose linear layers are packed as GPTQ packs them: in groups of 32 inputs
/// that do not lie side by side ("act-order").
///
/// # Errors
/// When a file cannot be written.
pub fn gptq(folder: &Path, shape: &Shape, seed: u64) -> Result<()> {
    write_config(folder, shape, Some(BLOCK))?;
    let mut tensors = Vec::new();
    for (name, rows, columns) in shape.tensors() {
        if name.contains("norm") || !name.starts_with("blk.") {
            tensors.push(dense(&name, rows, columns, seed));
        } else {
            tensors.extend(packed(&name, rows, columns, seed));
        }
    }
    write_shards(folder, &tensors, 1)
}

fn write_config(folder: &Path, shape: &Shape, group: Option<usize>) -> Result<()> {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "max_position_embeddings": shape.context,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": false,
        "vocab_size": shape.vocabulary,
    });
    if let Some(group) = group {
        config["quantization_config"] = json!({
            "quant_method": "gptq",
            "bits": 4,
            "group_size": group,
            "desc_act": true,
            "sym": false,
        });
    }
    Ok(fs::write(folder.join("config.json"), config.to_string())?)
}

/// A tensor of a safetensors file.
struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    fn floats(name: String, shape: Vec<usize>, values: impl IntoIterator<Item = f32>) -> Self {
        Self {
            name,
            dtype: Dtype::F32,
            shape,
            bytes: values.into_iter().flat_map(f32::to_le_bytes).collect(),
        }
    }
}

/// A vector of ones, or a matrix of random numbers.
fn dense(gguf: &str, rows: usize, columns: usize, seed: u64) -> Tensor {
    let mut random = Random::new(seed, gguf);
    let size = 1.0 / (columns as f32).sqrt();
    let name = hugging_face_name(gguf);
    match rows {
        1 => Tensor::floats(name, vec![columns], vec![1.0; columns]),
        _ => {
            let values = (0..rows * columns).map(|_| random.signed() * size);
            Tensor::floats(name, vec![rows, columns], values)
        }
    }
}

/// The four tensors of a linear layer in GPTQ's form.
fn packed(gguf: &str, rows: usize, columns: usize, seed: u64) -> Vec<Tensor> {
    let mut random = Random::new(seed, gguf);
    let groups = columns / BLOCK;
    let layer = hugging_face_name(gguf).replace(".weight", "");
    let mut words = |count: usize| -> Vec<u8> {
        let words = (0..count).map(|_| (random.next() >> 32) as u32);
        words.flat_map(u32::to_le_bytes).collect()
    };
    // The elements are some five large in the mean square.
    let scale = half(1.0 / (5.0 * (columns as f32).sqrt())).to_le_bytes();
    let indices = (0..columns).map(|input| (input % groups) as i32);
    [
        (
            "qweight",
            Dtype::I32,
            vec![columns / 8, rows],
            words(columns / 8 * rows),
        ),
        (
            "qzeros",
            Dtype::I32,
            vec![groups, rows / 8],
            words(groups * rows / 8),
        ),
        (
            "scales",
            Dtype::F16,
            vec![groups, rows],
            scale.repeat(groups * rows),
        ),
        (
            "g_idx",
            Dtype::I32,
            vec![columns],
            indices.flat_map(i32::to_le_bytes).collect(),
        ),
    ]
    .into_iter()
    .map(|(part, dtype, shape, bytes)| Tensor {
        name: format!("{layer}.{part}"),
        dtype,
        shape,
        bytes,
    })
    .collect()
}

fn write_shards(folder: &Path, tensors: &[Tensor], shards: usize) -> Result<()> {
    let mut index = BTreeMap::new();
    for (number, own) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
        let file = match shards {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{shards:05}.safetensors", number + 1),
        };
        index.extend(own.iter().map(|tensor| (tensor.name.clone(), file.clone())));
        write_safetensors(&folder.join(file), own)?;
    }
    if shards > 1 {
        let index = json!({ "metadata": {}, "weight_map": index });
        fs::write(
            folder.join("model.safetensors.index.json"),
            index.to_string(),
        )?;
    }
    Ok(())
}

fn hugging_face_name(gguf: &str) -> String {
    let mut name = format!("{gguf}.weight");
    for (from, to) in [
        ("token_embd", "model.embed_tokens"),
        ("output_norm", "model.norm"),
        ("attn_output", "self_attn.o_proj"),
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("blk.", "model.layers."),
    ] {
        name = name.replace(from, to);
    }
    match name.as_str() {
        "output.weight" => "lm_head.weight".to_owned(),
        _ => name,
    }
}

/// What an adapter of queries and values has to know of its base.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Layers.
    pub layers: usize,
    /// Elements of a token's row between layers.
    pub width: usize,
    /// Elements of all queries of a token together.
    pub queries: usize,
    /// Elements of all values of a token together.
    pub values: usize,
}

/// Writes an adapter of queries and values in every layer as a PEFT folder.
///
/// # Errors
/// When a file cannot be written.
pub fn adapter(
    folder: &Path,
    base: &Attention,
    base_name: &str,
    rank: usize,
    seed: u64,
) -> Result<()> {
    let mut modules = Vec::new();
    for layer in 0..base.layers {
        for (name, outputs) in [("q_proj", base.queries), ("v_proj", base.values)] {
            let module = format!("model.layers.{layer}.self_attn.{name}");
            modules.push((module, outputs, base.width));
        }
    }
    peft(
        folder,
        &modules,
        &["q_proj", "v_proj"],
        base_name,
        rank,
        seed,
    )
}

/// Writes an adapter of the queries in every layer of an encoder, of which a token has so many elements
/// between layers, as a PEFT folder.
///
/// # Errors
/// When a file cannot be written.
pub fn encoder_adapter(
    folder: &Path,
    (layers, width): (usize, usize),
    base_name: &str,
    rank: usize,
    seed: u64,
) -> Result<()> {
    let module = |layer| format!("encoder.layer.{layer}.attention.self.query");
    let modules: Vec<_> = (0..layers)
        .map(|layer| (module(layer), width, width))
        .collect();
    peft(folder, &modules, &["query"], base_name, rank, seed)
}

/// Gives the adapter in a PEFT folder magnitudes (DoRA): each row of a matrix that it changes is brought to length 1.
///
/// # Errors
/// When a file cannot be read or written.
pub fn add_magnitudes(folder: &Path) -> Result<()> {
    let path = folder.join("adapter_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["use_dora"] = json!(true);
    fs::write(&path, config.to_string())?;
    let path = folder.join("adapter_model.safetensors");
    let bytes = fs::read(&path)?;
    let mut tensors = Vec::new();
    for (name, view) in SafeTensors::deserialize(&bytes)?.tensors() {
        if let Some(module) = name.strip_suffix(".lora_B.weight") {
            let outputs = view.shape()[0];
            let name = format!("{module}.lora_magnitude_vector");
            tensors.push(Tensor::floats(name, vec![outputs], vec![1.0; outputs]));
        }
        tensors.push(Tensor {
            name,
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        });
    }
    write_safetensors(&path, &tensors)
}

/// Writes an adapter of modules with so many outputs and inputs.
fn peft(
    folder: &Path,
    modules: &[(String, usize, usize)],
    targets: &[&str],
    base_name: &str,
    rank: usize,
    seed: u64,
) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut tensors = Vec::new();
    for (module, outputs, inputs) in modules {
        let sides = [("lora_A", [rank, *inputs]), ("lora_B", [*outputs, rank])];
        for (side, [rows, columns]) in sides {
            let name = format!("base_model.model.{module}.{side}.weight");
            let mut random = Random::new(seed, &name);
            // Large enough to change what is made.
            let size = 1.5 / (columns as f32).sqrt();
            let values = (0..rows * columns).map(|_| random.signed() * size);
            tensors.push(Tensor::floats(name, vec![rows, columns], values));
        }
    }
    let config = json!({
        "peft_type": "LORA",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": targets,
        "bias": "none",
    });
    fs::write(folder.join("adapter_config.json"), config.to_string())?;
    write_safetensors(&folder.join("adapter_model.safetensors"), &tensors)
}

fn write_safetensors(path: &Path, tensors: &[Tensor]) -> Result<()> {
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes)?;
        Ok((&tensor.name, view))
    });
    let views: Vec<_> = views.collect::<Result<_>>()?;
    Ok(fs::write(path, safetensors::serialize(views, None)?)?)
}
