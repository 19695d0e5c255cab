//! The adapters of the village's voices: each makes replies of its voice that nobody learned from
//! likelier, by as much as the file beside them says.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use skep_accounts::{Account, Limits};
use skep_engine::{Caller, Engine, LanguageModel, Options, Priority, ScoreRequest};
use skep_kernels::Team;

const VOICES: [&str; 8] = [
    "brisk", "devout", "dreamy", "grand", "gruff", "shy", "warm", "wry",
];

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

/// Replies that nobody learned from, each a prompt's tokens and its own.
fn held_out(model: &LanguageModel, voice: &str) -> Vec<(Vec<u32>, Vec<u32>)> {
    let end = model.tokenizer.as_ref().unwrap().special().eos.unwrap();
    let text = fs::read_to_string(models().join("voices/held-out.jsonl")).unwrap();
    let lines = text
        .lines()
        .map(|line| -> Value { serde_json::from_str(line).unwrap() });
    lines
        .filter_map(|line| {
            let prompt = line["prompt"].as_str().unwrap();
            // The second line says who speaks: a name, a trade and a voice.
            let speaker = prompt.lines().nth(1).unwrap();
            if speaker.rsplit(", ").next() != Some(voice) {
                return None;
            }
            let whole = format!("{prompt}{}", line["completion"].as_str().unwrap());
            let (prompt, whole) = (
                model.encode_text(prompt).unwrap(),
                model.encode_text(&whole).unwrap(),
            );
            let mut reply = whole.strip_prefix(&prompt[..]).unwrap().to_vec();
            reply.push(end);
            Some((prompt, reply))
        })
        .collect()
}

/// The loss of the replies, in nats a token.
fn loss(engine: &Engine, replies: &[(Vec<u32>, Vec<u32>)], adapter: Option<&str>) -> f64 {
    let caller = Caller {
        account: Account::new(Limits::UNLIMITED),
        owner: 1,
        priority: Priority::Normal,
    };
    let requests = replies.iter().map(|(prompt, reply)| ScoreRequest {
        prompt: prompt.clone(),
        choices: vec![reply.clone()],
        adapter: adapter.map(str::to_owned),
        whole: false,
    });
    let scores = engine.score(&caller, requests.collect()).wait().unwrap();
    let all = scores.iter().flatten();
    let (sum, tokens) = all.fold((0.0, 0), |(sum, tokens), score| {
        (sum - f64::from(score.logprob), tokens + score.tokens)
    });
    sum / tokens as f64
}

#[test]
fn each_voice_makes_its_own_replies_likelier() {
    let file = models().join("skep-mini-lm/skep-mini-lm.gguf");
    let model = Arc::new(LanguageModel::load("skep-mini-lm", &file).unwrap());
    let team = Arc::new(Team::new(2).unwrap());
    let engine = Engine::start(Arc::clone(&model), team, Options::default()).unwrap();
    let told = fs::read(models().join("voices/voices.json")).unwrap();
    let told: Value = serde_json::from_slice(&told).unwrap();
    for voice in VOICES {
        engine
            .add_adapter(voice, "1", &models().join("voices").join(voice))
            .unwrap();
        let replies = held_out(&model, voice);
        assert_eq!(
            Some(replies.len() as u64),
            told[voice]["tested_on"].as_u64()
        );
        let (alone, with) = (
            loss(&engine, &replies, None),
            loss(&engine, &replies, Some(voice)),
        );
        println!("{voice}: {alone:.3} without, {with:.3} with");
        for (got, name) in [
            (alone, "loss_of_the_model_alone"),
            (with, "loss_with_the_adapter"),
        ] {
            // The trainer computes in floats what the engine does in 8 bits.
            let want = told[voice][name].as_f64().unwrap();
            assert!((got / want - 1.0).abs() < 0.02, "{voice}: {got} {want}");
        }
        assert!(with < 0.85 * alone, "{voice}: {alone} {with}");
        engine.remove_adapter(voice).unwrap();
    }
}
