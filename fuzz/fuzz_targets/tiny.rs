//! A language model so small that fuzzing loads it for every input: every byte of its tensors is
//! the same, which whatever they are read as makes small numbers.

use skep_decoder::{Batch, Decoder, PagedAdapter, Part, Workspace};
use skep_kernels::Team;
use skep_kernels::kv::{KvFormat, KvPages};

/// Of bfloat16 it makes 0.0115, of 16-bit floats 1.06.
pub const BYTE: u8 = 0x3c;

/// Tensors of a file, each with its shape, outermost side first.
pub type Tensors = Vec<(String, Vec<u64>)>;

/// Those of a Hugging Face folder, with some that not all architectures have.
pub fn hugging_face() -> Tensors {
    let layer = "model.layers.0";
    let mut all = vec![
        ("model.embed_tokens.weight".to_owned(), vec![8, 4]),
        ("lm_head.weight".to_owned(), vec![8, 4]),
        ("model.norm.weight".to_owned(), vec![4]),
    ];
    for (name, shape) in [
        ("input_layernorm.weight", vec![4]),
        ("post_attention_layernorm.weight", vec![4]),
        ("pre_feedforward_layernorm.weight", vec![4]),
        ("post_feedforward_layernorm.weight", vec![4]),
        ("self_attn.q_proj.weight", vec![4, 4]),
        ("self_attn.k_proj.weight", vec![2, 4]),
        ("self_attn.v_proj.weight", vec![2, 4]),
        ("self_attn.o_proj.weight", vec![4, 4]),
        ("self_attn.q_proj.bias", vec![4]),
        ("self_attn.k_proj.bias", vec![2]),
        ("self_attn.v_proj.bias", vec![2]),
        ("self_attn.q_norm.weight", vec![2]),
        ("self_attn.k_norm.weight", vec![2]),
        ("mlp.gate_proj.weight", vec![4, 4]),
        ("mlp.up_proj.weight", vec![4, 4]),
        ("mlp.down_proj.weight", vec![4, 4]),
    ] {
        all.push((format!("{layer}.{name}"), shape));
    }
    all
}

/// A file of safetensors in bfloat16.
pub fn safetensors(tensors: &[(String, Vec<u64>)]) -> Vec<u8> {
    let (mut entries, mut end) = (Vec::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<u64>();
        entries.push(format!(
            r#""{name}":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{start},{end}]}}"#
        ));
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.resize(file.len() + end as usize, BYTE);
    file
}

/// The logits after one token, for a text without an adapter and, if there is one, for another
/// text with it. None where the model has no such token or position.
pub fn one_token(
    decoder: &Decoder,
    pages: &mut KvPages,
    adapter: Option<&PagedAdapter>,
) -> Option<Vec<f32>> {
    let config = decoder.config();
    if config.vocabulary < 2 || config.context < 2 {
        return None;
    }
    let part = |pages, adapter| Part {
        tokens: 1,
        start: 0,
        pages,
        adapter,
    };
    let mut parts = vec![part(&[0][..], None)];
    if adapter.is_some() {
        parts.push(part(&[1][..], adapter));
    }
    let tokens = vec![1; parts.len()];
    let outputs: Vec<usize> = (0..parts.len()).collect();
    let batch = Batch {
        tokens: &tokens,
        parts: &parts,
        outputs: &outputs,
    };
    let team = Team::new(1).expect("a team of one");
    let mut workspace = Workspace::default();
    let logits = decoder.forward(&team, &mut workspace, pages, &batch);
    Some(logits.expect("the batch is sound").to_vec())
}

/// Room for two texts and a small adapter.
pub fn pages(decoder: &Decoder) -> KvPages {
    KvPages::new(decoder.kv_shape(KvFormat::F32), 512)
}
