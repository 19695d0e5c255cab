//! Loading 4-bit groups costs what their file has, although they are repacked: at no time do a
//! model's file and what was made of it both lie in memory.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use skep_weights::{Matrix, WeightsFile};

/// Layers of 1,024 outputs and as many inputs: half a mebibyte of weights each.
const LAYERS: usize = 128;
const SIDE: usize = 1024;
const GROUP: usize = 128;

/// A line of `/proc/self/status`, in bytes.
fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse::<u64>().unwrap() * 1024
}

/// Writes a folder whose layers are stored as GPTQ does, and returns the bytes of its weights.
fn folder(path: &Path) -> u64 {
    let groups = SIDE / GROUP;
    let numbers = |bytes: usize, seed: u32| -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[1]
        };
        (0..bytes).map(|_| next()).collect()
    };
    let mut tensors = Vec::new();
    for layer in 0..LAYERS {
        let seed = layer as u32 + 1;
        let parts = [
            (
                "qweight",
                Dtype::I32,
                vec![SIDE / 8, SIDE],
                numbers(SIDE * SIDE / 2, seed),
            ),
            (
                "qzeros",
                Dtype::I32,
                vec![groups, SIDE / 8],
                numbers(groups * SIDE / 2, seed),
            ),
            // 0.5 in 16 bits: a scale has to be finite.
            (
                "scales",
                Dtype::F16,
                vec![groups, SIDE],
                [0, 0x38].repeat(groups * SIDE),
            ),
        ];
        for (part, dtype, shape, bytes) in parts {
            tensors.push((format!("layer.{layer}.{part}"), dtype, shape, bytes));
        }
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    let file = path.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &file).unwrap();
    let config = format!(
        r#"{{"quantization_config": {{"quant_method": "gptq", "bits": 4, "group_size": {GROUP},
            "desc_act": false, "sym": false}}}}"#
    );
    fs::write(path.join("config.json"), config).unwrap();
    fs::metadata(&file).unwrap().len()
}

// One test alone in its process, so that nothing else takes memory meanwhile.
#[test]
fn a_repacked_model_takes_its_file_and_at_most_five_percent_at_any_time() {
    let path = tempfile::tempdir().unwrap();
    let file = folder(path.path());
    assert!(file > 64 << 20, "{file}");
    // What the greatest use so far was is forgotten.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    let weights = WeightsFile::open(path.path()).unwrap();
    let matrices: Vec<Matrix> = (0..LAYERS)
        .map(|layer| {
            let side = SIDE as u64;
            weights
                .load_matrix(&format!("layer.{layer}"), side, side)
                .unwrap()
        })
        .collect();
    let peak = status("VmHWM:").saturating_sub(before);
    let percent = 100.0 * peak as f64 / file as f64;
    println!("a file of {file} bytes; at most {peak} bytes of memory more, {percent:.1} %");
    assert!(
        percent <= 105.0,
        "{peak} bytes for a file of {file}: {percent:.1} %"
    );
    // The file still says what it did: nothing was lost with the pages.
    let again = weights.load_matrix("layer.0", SIDE as u64, SIDE as u64);
    match (&matrices[0], again.unwrap()) {
        (Matrix::Grouped(one), Matrix::Grouped(other)) => assert!(*one == other),
        _ => panic!("the layer is none of 4-bit groups"),
    }
}
