//! A GGUF file of a tiny Llama, written as llama.cpp's converter lays it out.

use std::path::Path;

use skep_weights::WeightsFile;

/// Writes the folder's model, whose matrices are in bfloat16 and which has an embedding for its
/// output layer and no stretched rotary positions. Rows of queries and keys are put in the order
/// of the original Llama: the two parts of a rotary pair side by side.
pub fn write_llama(folder: &Path, path: &Path) {
    let weights = WeightsFile::open(folder).unwrap();
    let text = std::fs::read(folder.join("config.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let figure = |key: &str| json[key].as_u64().unwrap() as u32;
    let heads = figure("num_attention_heads");
    let dim = figure("hidden_size") / heads;
    let theta = json["rope_parameters"]["rope_theta"].as_f64().unwrap() as f32;
    let whole = [
        ("block_count", figure("num_hidden_layers")),
        ("context_length", figure("max_position_embeddings")),
        ("embedding_length", figure("hidden_size")),
        ("feed_forward_length", figure("intermediate_size")),
        ("attention.head_count", heads),
        ("attention.head_count_kv", figure("num_key_value_heads")),
        ("attention.key_length", dim),
    ];
    let floats = [
        ("attention.layer_norm_rms_epsilon", 1e-6),
        ("rope.freq_base", theta),
    ];
    let mut out = b"GGUF".to_vec();
    let name = |out: &mut Vec<u8>, name: &str| {
        out.extend((name.len() as u64).to_le_bytes());
        out.extend(name.as_bytes());
    };
    out.extend(3_u32.to_le_bytes());
    out.extend((weights.names().count() as u64).to_le_bytes());
    out.extend((1 + whole.len() as u64 + floats.len() as u64).to_le_bytes());
    name(&mut out, "general.architecture");
    out.extend(8_u32.to_le_bytes());
    name(&mut out, "llama");
    for (key, value) in whole {
        name(&mut out, &format!("llama.{key}"));
        out.extend(4_u32.to_le_bytes());
        out.extend(value.to_le_bytes());
    }
    for (key, value) in floats {
        name(&mut out, &format!("llama.{key}"));
        out.extend(6_u32.to_le_bytes());
        out.extend(value.to_le_bytes());
    }
    let mut data = Vec::new();
    for hugging in weights.names() {
        let tensor = weights.tensor(hugging).unwrap();
        let matrix = tensor.shape().len() == 2;
        let mut bytes = tensor.bytes().to_vec();
        if hugging.contains("q_proj") || hugging.contains("k_proj") {
            bytes = in_pairs(&bytes, dim as usize, tensor.rows());
        }
        if !matrix {
            let mut values = vec![0.0; tensor.columns()];
            tensor.dequantize(&mut values).unwrap();
            bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        }
        name(&mut out, &renamed(hugging));
        out.extend((tensor.shape().len() as u32).to_le_bytes());
        for side in tensor.shape().iter().rev() {
            out.extend(side.to_le_bytes());
        }
        out.extend(if matrix { 30_u32 } else { 0 }.to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        data.extend(bytes);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    std::fs::write(path, out).unwrap();
}

fn in_pairs(bytes: &[u8], dim: usize, rows: usize) -> Vec<u8> {
    let row = bytes.len() / rows;
    let from = |to: usize| to / dim * dim + to % dim / 2 + to % 2 * (dim / 2);
    let row_of = |to| bytes[from(to) * row..(from(to) + 1) * row].to_vec();
    (0..rows).flat_map(row_of).collect()
}

fn renamed(hugging: &str) -> String {
    let mut name = hugging.trim_start_matches("model.").to_owned();
    for (from, to) in [
        ("embed_tokens", "token_embd"),
        ("layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
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
