//! The project's own small language model, read from its GGUF file: the likeliest tokens after
//! some texts are those that PyTorch computes from the same weights, which transformers confirms
//! (`models/lm_gguf.py`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};

use serde::Deserialize;
use skep_decoder::{Batch, Decoder, Part, Workspace};
use skep_kernels::Team;
use skep_kernels::kv::{KvFormat, KvPages, PAGE_TOKENS};

/// What the model makes of a text.
#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    likeliest: Vec<usize>,
    logprobs: Vec<f32>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/skep-mini-lm")
}

/// The log-probabilities of the token after these.
fn after(decoder: &Decoder, tokens: &[u32]) -> Vec<f32> {
    let count = 512 / PAGE_TOKENS;
    let mut pages = KvPages::new(decoder.kv_shape(KvFormat::F32), count);
    let table: Vec<u32> = (0..count as u32).collect();
    let part = Part {
        tokens: tokens.len(),
        start: 0,
        pages: &table,
    };
    let batch = Batch {
        tokens,
        parts: &[part],
        outputs: &[tokens.len() - 1],
    };
    let team = Team::new(1).unwrap();
    let mut workspace = Workspace::default();
    let logits = decoder.forward(&team, &mut workspace, &mut pages, &batch);
    let logits = logits.unwrap();
    let most = logits.iter().fold(f32::MIN, |most, x| most.max(*x));
    let sum: f32 = logits.iter().map(|x| (x - most).exp()).sum();
    logits.iter().map(|x| x - most - sum.ln()).collect()
}

#[test]
fn the_likeliest_tokens_are_those_of_pytorch() {
    let decoder = Decoder::load(&folder().join("skep-mini-lm.gguf")).unwrap();
    assert!(decoder.config().tied);
    let cases = std::fs::read(folder().join("reference.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
    for case in cases {
        let logprobs = after(&decoder, &case.ids);
        let best = (0..logprobs.len()).max_by(|a, b| logprobs[*a].total_cmp(&logprobs[*b]));
        let clear = case.logprobs[0] - case.logprobs[1] > 0.2;
        assert!(!clear || best == Some(case.likeliest[0]), "{:?}", case.text);
        for (token, wanted) in case.likeliest.iter().zip(&case.logprobs) {
            let difference = (logprobs[*token] - wanted).abs();
            // Activations are rounded to 8 bits on the way, as the weights are.
            assert!(difference < 0.1, "{:?}: {difference}", case.text);
        }
    }
}
