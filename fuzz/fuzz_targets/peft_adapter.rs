//! A PEFT adapter's folder from a stranger: loading ends in an error, or in an adapter that changes
//! the texts that have it and no others.
//!
//! The first byte chooses the file that the rest becomes, and whether the adapter has magnitudes; the
//! other file is sound.

#![no_main]

mod tiny;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use skep_decoder::{AdapterWeights, Decoder};

/// The base's configuration.
const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 8, "hidden_size": 4,
    "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 32, "rms_norm_eps": 1e-5}"#;

fn settings(has_magnitudes: bool) -> String {
    format!(
        r#"{{"peft_type": "LORA", "base_model_name_or_path": "tiny", "r": 2, "lora_alpha": 4,
        "target_modules": ["q_proj", "down_proj"], "bias": "none", "use_dora": {has_magnitudes}}}"#
    )
}

fn tensors(has_magnitudes: bool) -> tiny::Tensors {
    let mut all = Vec::new();
    for module in ["self_attn.q_proj", "mlp.down_proj"] {
        let module = format!("base_model.model.model.layers.0.{module}");
        all.push((format!("{module}.lora_A.weight"), vec![2, 4]));
        all.push((format!("{module}.lora_B.weight"), vec![4, 2]));
        if has_magnitudes {
            all.push((format!("{module}.lora_magnitude_vector"), vec![4]));
        }
    }
    all
}

fuzz_target!(|bytes: &[u8]| {
    static BASE: OnceLock<(tempfile::TempDir, Decoder, Vec<f32>)> = OnceLock::new();
    let (folder, decoder, alone) = BASE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let weights = tiny::safetensors(&tiny::hugging_face());
        std::fs::write(folder.path().join("config.json"), CONFIG).expect("a file");
        std::fs::write(folder.path().join("model.safetensors"), weights).expect("a file");
        let decoder = Decoder::load(folder.path()).expect("the base is sound");
        let mut pages = tiny::pages(&decoder);
        let alone = tiny::one_token(&decoder, &mut pages, None).expect("it has the token");
        (folder, decoder, alone)
    });
    let Some((&which, content)) = bytes.split_first() else {
        return;
    };
    let has_magnitudes = which & 2 != 0;
    let (settings, sound) = (settings(has_magnitudes), tensors(has_magnitudes));
    let sound = tiny::safetensors(&sound);
    let mut files: [(&str, &[u8]); 2] = [
        ("adapter_config.json", settings.as_bytes()),
        ("adapter_model.safetensors", &sound),
    ];
    files[usize::from(which) % 2].1 = content;
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).expect("a file");
    }
    let mut pages = tiny::pages(decoder);
    let page_bytes = pages.memory().page_bytes();
    match AdapterWeights::load(folder.path(), decoder, "tiny", page_bytes) {
        Ok(weights) => {
            let own = (2..2 + weights.adapter().pages() as u32).collect();
            let adapter = weights
                .place(pages.memory_mut(), own)
                .expect("the pages are there");
            let both = tiny::one_token(decoder, &mut pages, Some(&adapter));
            let both = both.expect("the base has the token");
            assert_eq!(both[..alone.len()], alone[..]);
        }
        Err(error) => {
            let _ = error.to_string();
        }
    }
});
