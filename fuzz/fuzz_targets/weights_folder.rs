//! A folder of safetensors from a stranger, with layers of 4-bit groups as GPTQ and AWQ pack them:
//! opening it and loading the layers end in errors or in finite numbers.
//!
//! The first byte chooses the file that the rest becomes; the others are sound.

#![no_main]

use std::collections::BTreeMap;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use skep_weights::{Matrix, WeightsFile};

const CONFIG: &str = r#"{"quantization_config": {"quant_method": "gptq", "bits": 4,
    "group_size": 32, "desc_act": true}}"#;

const AWQ: &str = r#"{"quantization_config": {"quant_method": "awq", "bits": 4,
    "group_size": 32, "zero_point": true, "version": "gemm"}}"#;

/// Settings lie in files of their own beside it.
const WITHOUT: &str = "{}";

const INDEX: &str = r#"{"weight_map": {"l.qweight": "1.safetensors", "l.qzeros": "1.safetensors",
    "l.scales": "1.safetensors", "l.g_idx": "1.safetensors", "w.qweight": "1.safetensors",
    "w.qzeros": "1.safetensors", "w.scales": "1.safetensors", "a": "2.safetensors"}}"#;

/// Two layers of 64 inputs and 16 outputs in groups of 32: `l` as GPTQ packs them, `w` as AWQ does.
fn layers() -> Vec<u8> {
    let header = r#"{"l.qweight":{"dtype":"I32","shape":[8,16],"data_offsets":[0,512]},
        "l.qzeros":{"dtype":"I32","shape":[2,2],"data_offsets":[512,528]},
        "l.scales":{"dtype":"F16","shape":[2,16],"data_offsets":[528,592]},
        "l.g_idx":{"dtype":"I32","shape":[64],"data_offsets":[592,848]},
        "w.qweight":{"dtype":"I32","shape":[64,2],"data_offsets":[848,1360]},
        "w.qzeros":{"dtype":"I32","shape":[2,2],"data_offsets":[1360,1376]},
        "w.scales":{"dtype":"F16","shape":[2,16],"data_offsets":[1376,1440]}}"#;
    let mut data = vec![0x35; 592];
    for input in 0..64_i32 {
        data.extend((input % 2).to_le_bytes());
    }
    data.resize(1440, 0x35);
    file(header, &data)
}

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend(data);
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER
        .get_or_init(|| tempfile::tempdir().expect("a temporary folder"))
        .path();
    let Some((&which, content)) = bytes.split_first() else {
        return;
    };
    let plain = file(
        r#"{"a":{"dtype":"BF16","shape":[2,4],"data_offsets":[0,16]}}"#,
        &[0x3f; 16],
    );
    let layers = layers();
    let mut files = BTreeMap::from([
        ("config.json", CONFIG.as_bytes()),
        ("model.safetensors.index.json", INDEX.as_bytes()),
        ("1.safetensors", &layers),
        ("2.safetensors", &plain),
    ]);
    let (name, config) = match which % 7 {
        0 => ("config.json", CONFIG),
        1 => ("model.safetensors.index.json", CONFIG),
        2 => ("1.safetensors", CONFIG),
        3 => ("2.safetensors", CONFIG),
        4 => ("1.safetensors", AWQ),
        5 => ("quantize_config.json", WITHOUT),
        _ => ("quant_config.json", WITHOUT),
    };
    files.insert("config.json", config.as_bytes());
    files.insert(name, content);
    for name in ["quantize_config.json", "quant_config.json"] {
        let _ = std::fs::remove_file(folder.join(name));
    }
    for (name, content) in files {
        std::fs::write(folder.join(name), content).expect("a file");
    }
    let weights = match WeightsFile::open(folder) {
        Ok(weights) => weights,
        Err(error) => {
            let _ = error.to_string();
            return;
        }
    };
    for name in weights.names() {
        if let Some(tensor) = weights.tensor(name)
            && tensor.rows() > 0
        {
            let mut row = vec![0.0; tensor.columns()];
            tensor
                .dequantize_row(tensor.rows() - 1, &mut row)
                .expect("the last row is there");
        }
    }
    for layer in ["l", "w"] {
        match weights.load_matrix(layer, 16, 64) {
            Ok(Matrix::Grouped(matrix)) => {
                let mut row = [f32::NAN; 64];
                for index in 0..16 {
                    matrix.dequantize_row(index, &mut row);
                    assert!(row.iter().all(|value| value.is_finite()));
                }
            }
            Ok(_) => {}
            Err(error) => {
                let _ = error.to_string();
            }
        }
    }
});
