//! An encoder's adapter from a stranger: loading ends in an error, or in an adapter with which texts
//! become finite numbers or an error.
//!
//! The first byte chooses the file that the rest becomes, and whether the adapter has magnitudes; the
//! other file is sound.

#![no_main]

mod tiny;
mod tiny_encoder;

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use skep_model::{EncodeError, Encoder, EncoderAdapter};
use skep_tensor::{Account, Device};

fn settings(has_magnitudes: bool) -> String {
    format!(
        r#"{{"peft_type": "LORA", "base_model_name_or_path": "tiny", "r": 2, "lora_alpha": 4,
        "target_modules": ["query", "intermediate.dense"], "bias": "none",
        "modules_to_save": ["score"], "use_dora": {has_magnitudes}}}"#
    )
}

fn tensors(has_magnitudes: bool) -> tiny::Tensors {
    let mut all = Vec::new();
    for module in ["attention.self.query", "intermediate.dense"] {
        let module = format!("base_model.model.encoder.layer.0.{module}");
        all.push((format!("{module}.lora_A.weight"), vec![2, 2]));
        all.push((format!("{module}.lora_B.weight"), vec![2, 2]));
        if has_magnitudes {
            all.push((format!("{module}.lora_magnitude_vector"), vec![2]));
        }
    }
    all.push(("base_model.model.score.weight".to_owned(), vec![3, 2]));
    all
}

fuzz_target!(|bytes: &[u8]| {
    static BASE: OnceLock<(tempfile::TempDir, Encoder)> = OnceLock::new();
    let (folder, encoder) = BASE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let weights = tiny_encoder::weights();
        tiny_encoder::write(folder.path(), &tiny_encoder::files(&weights));
        let encoder = Encoder::load(folder.path(), &Device::cpu()).expect("the base is sound");
        (folder, encoder)
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
    tiny_encoder::write(folder.path(), &files);
    match EncoderAdapter::load(folder.path(), encoder) {
        Ok(adapter) => {
            let adapted = encoder
                .with_adapter(Arc::new(adapter))
                .expect("it fits the base");
            match adapted.embed(&["a".to_owned()], &Account::unlimited()) {
                Ok(tensor) => {
                    let rows = tensor.to_f32().expect("a finished tensor can be read");
                    assert!(rows.iter().all(|x| x.is_finite()));
                }
                Err(error) => assert!(!matches!(error, EncodeError::Internal(_)), "{error}"),
            }
        }
        Err(error) => {
            let _ = error.to_string();
        }
    }
});
