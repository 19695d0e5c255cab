//! The configuration of a stranger's language model over sound weights: loading ends in an error or
//! in a model whose logits are finite.
//!
//! The first byte says of which kind it is: `config.json` of a folder, or the metadata of a GGUF
//! file, of which the second byte says how many there are.

#![no_main]

mod tiny;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use skep_decoder::Decoder;
use skep_weights::WeightsFile;

/// The tensors of a GGUF file of the same model.
fn gguf_tensors() -> tiny::Tensors {
    let mut all = vec![
        ("token_embd.weight".to_owned(), vec![8, 4]),
        ("output_norm.weight".to_owned(), vec![4]),
    ];
    for (name, shape) in [
        ("attn_norm.weight", vec![4]),
        ("post_attention_norm.weight", vec![4]),
        ("ffn_norm.weight", vec![4]),
        ("post_ffw_norm.weight", vec![4]),
        ("attn_q.weight", vec![4, 4]),
        ("attn_k.weight", vec![2, 4]),
        ("attn_v.weight", vec![2, 4]),
        ("attn_output.weight", vec![4, 4]),
        ("attn_q.bias", vec![4]),
        ("attn_k.bias", vec![2]),
        ("attn_v.bias", vec![2]),
        ("attn_q_norm.weight", vec![2]),
        ("attn_k_norm.weight", vec![2]),
        ("ffn_gate.weight", vec![4, 4]),
        ("ffn_up.weight", vec![4, 4]),
        ("ffn_down.weight", vec![4, 4]),
    ] {
        all.push((format!("blk.0.{name}"), shape));
    }
    all
}

/// A file with these metadata, so many of them.
fn gguf(count: u8, metadata: &[u8]) -> Vec<u8> {
    let tensors = gguf_tensors();
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(u64::from(count).to_le_bytes());
    file.extend(metadata);
    let mut end = 0_u64;
    for (name, shape) in &tensors {
        file.extend((name.len() as u64).to_le_bytes());
        file.extend(name.bytes());
        file.extend((shape.len() as u32).to_le_bytes());
        for side in shape.iter().rev() {
            file.extend(side.to_le_bytes());
        }
        file.extend(30_u32.to_le_bytes()); // bfloat16
        file.extend(end.to_le_bytes());
        end = (end + 2 * shape.iter().product::<u64>()).next_multiple_of(32);
    }
    // Wherever the data begin, they are the same bytes.
    file.resize(file.len().next_multiple_of(32) + end as usize, tiny::BYTE);
    file
}

fuzz_target!(|bytes: &[u8]| {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let weights = tiny::safetensors(&tiny::hugging_face());
            std::fs::write(folder.path().join("model.safetensors"), weights).expect("a file");
            folder
        })
        .path();
    let path = match bytes {
        [kind, config @ ..] if kind % 2 == 0 => {
            std::fs::write(folder.join("config.json"), config).expect("a file");
            folder.to_owned()
        }
        [_, count, metadata @ ..] => {
            let path = folder.join("model.gguf");
            std::fs::write(&path, gguf(*count, metadata)).expect("a file");
            path
        }
        _ => return,
    };
    let weights = match WeightsFile::open(&path) {
        Ok(weights) => weights,
        Err(error) => {
            let _ = error.to_string();
            return;
        }
    };
    // Metadata that go on as a list of tensors put other bytes into them.
    let sound = weights.names().all(|name| {
        let tensor = weights.tensor(name).expect("each name has a tensor");
        tensor.bytes().iter().all(|byte| *byte == tiny::BYTE)
    });
    match Decoder::from_weights(&weights) {
        Ok(decoder) => {
            let mut pages = tiny::pages(&decoder);
            if let Some(logits) = tiny::one_token(&decoder, &mut pages, None) {
                assert_eq!(logits.len(), decoder.config().vocabulary);
                assert!(!sound || logits.iter().all(|x| x.is_finite()));
            }
        }
        Err(error) => {
            let _ = error.to_string();
        }
    }
});
