//! How long choosing a token takes: `sampling_rates` prints nanoseconds a token for a vocabulary
//! of 131,072 under several options, medians of many.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Instant;

use skep_engine::sampling::{Sampler, Scratch, TokenMask};
use skep_engine::{NgramDraft, Sampling};

const VOCABULARY: usize = 1 << 17;

/// The median of the nanoseconds that a call takes.
fn median(mut work: impl FnMut()) -> u128 {
    let time = |_| {
        let began = Instant::now();
        work();
        began.elapsed().as_nanos()
    };
    let mut all: Vec<u128> = (0..201).map(time).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

fn main() {
    // Bell-shaped, with a few that stand out, as logits of models are.
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut logits: Vec<f32> = (0..VOCABULARY)
        .map(|_| (0..6).map(|_| next()).sum::<f32>() * 3.0 - 9.0)
        .collect();
    for n in 0..12 {
        logits[n * 9973] = 14.0 - n as f32 * 0.5;
    }
    let flat: Vec<f32> = logits.iter().map(|x| x * 0.01).collect();
    let base = Sampling {
        temperature: 0.8,
        ..Sampling::GREEDY
    };
    let cases = [
        ("greedy", Sampling::GREEDY),
        ("temperature", base.clone()),
        (
            "top_k 40",
            Sampling {
                top_k: 40,
                ..base.clone()
            },
        ),
        (
            "top_p 0.9",
            Sampling {
                top_p: 0.9,
                ..base.clone()
            },
        ),
        (
            "min_p 0.05",
            Sampling {
                min_p: 0.05,
                ..base.clone()
            },
        ),
        (
            "top_k 40, top_p 0.95, min_p 0.05",
            Sampling {
                top_k: 40,
                top_p: 0.95,
                min_p: 0.05,
                ..base.clone()
            },
        ),
        (
            "repetition_penalty 1.1, top_p 0.9",
            Sampling {
                repetition_penalty: 1.1,
                top_p: 0.9,
                ..base.clone()
            },
        ),
    ];
    let prompt: Vec<u32> = (0..2000).map(|n| n * 31 % VOCABULARY as u32).collect();
    let words = vec![0x5555_5555; VOCABULARY / 32];
    println!(
        "{:34}{:>10}{:>10}{:>12}{:>12}",
        "ns a token", "peaked", "flat", "half masked", "5 logprobs"
    );
    for (name, options) in cases {
        let sampler = Sampler::new(&options, &prompt, VOCABULARY).unwrap();
        let mut scratch = Scratch::default();
        let mut time = |logits: &[f32], mask, logprobs| {
            median(|| {
                let chosen = sampler.choose(logits, mask, logprobs, &mut scratch);
                std::hint::black_box(chosen.unwrap());
            })
        };
        let mask = Some(TokenMask::new(&words));
        println!(
            "{name:34}{:10}{:10}{:12}{:12}",
            time(&logits, None, None),
            time(&flat, None, None),
            time(&logits, mask, None),
            time(&logits, None, Some(5)),
        );
    }
    let mut ngrams = NgramDraft::new(Default::default(), &prompt);
    let mut draft = Vec::new();
    let mut token = 0;
    let a_thousand = median(|| {
        for _ in 0..1000 {
            token = (token * 5 + 3) % 4096;
            ngrams.push(token);
            ngrams.draft(8, &mut draft);
        }
    });
    println!("{:34}{:10}", "n-gram index and draft", a_thousand / 1000);
}
