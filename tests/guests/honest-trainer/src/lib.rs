//! A recipe that learns by every loss that there is and tells what it came to, for the tests of
//! training. What it learns are tokens of its own choice, of a base that has at least 200. Its input
//! is one lesson, as JSON, and it prints JSON:
//!
//! - `{"lesson": "tokens", "rank", "steps"}`: next tokens, by so many steps;
//! - `{"lesson": "preference", "beta"}`: of each of two pairs, the first rather than the second;
//! - `{"lesson": "policy", "below", "above", "weights", "cases"}`: nothing, but what the policy
//!   gradient says of one text in each case of `[ratio, advantages]`, and whether it moves anything;
//! - `{"lesson": "reward", "below", "above"}`: the one of four samples that is rewarded;
//! - `{"lesson": "classes"}`: which of two tokens a text ends with.

use bindings::exports::skep::workload::recipe::Guest;
use bindings::skep::train::training::{Clip, Example, Loss, Metadata, Sampling, Trainer};
use bindings::skep::types::types::Error;
use bindings::skep::workload::io;
use serde_json::{Value, json};
use trainings::{hyper, lora, options, weighted};

#[path = "../../trainings.rs"]
mod trainings;

mod bindings {
    //! What `wit-bindgen` makes of the world `fine-tune`.
    #![allow(missing_docs, clippy::all, clippy::pedantic)]

    wit_bindgen::generate!({
        path: "../../../wit",
        world: "skep:workload/fine-tune",
        generate_all,
    });
}

const PROMPT: [u32; 5] = [3, 1, 4, 1, 5];
/// Bytes that are asked for at once.
const CHUNK: u32 = 64 << 10;
/// The rank, where a lesson names none.
const RANK: u32 = 4;
/// Steps of a preference and of classes.
const STEPS: usize = 12;
/// Samples that a reward is compared among, how often they are learned from, and by how many steps
/// each time.
const GROUP: usize = 4;
const ROUNDS: usize = 4;
const STEPS_OF_ROUND: usize = 2;
/// How large steps are.
const RATE: f32 = 0.01;

struct Honest;

impl Guest for Honest {
    fn train(_: Vec<(String, String)>) -> Result<(), Error> {
        let asked: Value =
            serde_json::from_slice(&read()?).map_err(|error| wrong(&error.to_string()))?;
        let told = learn(&asked)?;
        io::write(told.to_string().as_bytes())
    }
}

bindings::export!(Honest with_types_in bindings);

fn learn(asked: &Value) -> Result<Value, Error> {
    match asked["lesson"].as_str() {
        Some("tokens") => tokens(asked),
        Some("preference") => preference(asked),
        Some("policy") => policy(asked),
        Some("reward") => reward(asked),
        Some("classes") => classes(),
        _ => Err(wrong("there is no such lesson")),
    }
}

fn tokens(asked: &Value) -> Result<Value, Error> {
    let trainer = open(number(&asked["rank"])? as u32, None)?;
    let texts = [
        text(&PROMPT, &[9, 2, 6, 5, 3, 5, 8]),
        text(&PROMPT, &[9, 7, 9, 3, 2, 3]),
    ];
    let mut losses = Vec::new();
    for _ in 0..number(&asked["steps"])? as usize {
        let done = trainer.forward_backward(&texts, Loss::CrossEntropy, None)?;
        trainer.optim_step(hyper(RATE / 10.0))?;
        losses.push(done.loss);
    }
    Ok(json!({ "losses": losses, "parameters": trainer.info().parameters }))
}

fn preference(asked: &Value) -> Result<Value, Error> {
    let trainer = open(RANK, None)?;
    let other = [2, 7, 1, 8];
    let mut pairs = [
        text(&PROMPT, &[20, 21, 22]),
        text(&PROMPT, &[30, 31, 32, 33]),
        text(&other, &[40, 41]),
        text(&other, &[50, 51]),
    ];
    let references = trainer.reference_log_probabilities(&pairs)?;
    for (text, reference) in pairs.iter_mut().zip(&references) {
        text.reference_log_probability = *reference;
    }
    let beta = number(&asked["beta"])?;
    let mut steps = Vec::new();
    for _ in 0..STEPS {
        let likely = log_probabilities(&trainer, &pairs)?;
        let done = trainer.forward_backward(&pairs, Loss::Preference(beta), None)?;
        trainer.optim_step(hyper(RATE))?;
        steps.push(json!({ "loss": done.loss, "pairs": done.counted, "texts": likely }));
    }
    let after = trainer.reference_log_probabilities(&pairs)?;
    Ok(json!({ "references": references, "steps": steps, "references-after": after }))
}

fn policy(asked: &Value) -> Result<Value, Error> {
    let trainer = open(RANK, None)?;
    let weights = numbers(&asked["weights"])?;
    let written: Vec<u32> = (60..).take(weights.len()).collect();
    let mut text = text(&PROMPT, &written);
    text.weights = behind_prompt(&weights);
    let alone = std::slice::from_ref(&text);
    let now = trainer.evaluate(alone, Loss::CrossEntropy)?;
    let now = now.log_probabilities.first();
    let now = now.ok_or_else(|| wrong("a text has no probabilities"))?;
    let clip = clip(asked)?;
    let mut told = Vec::new();
    for case in asked["cases"].as_array().into_iter().flatten() {
        let ratio = number(&case[0])?;
        let text = Example {
            sampled_log_probabilities: now.iter().map(|log| log - ratio.ln()).collect(),
            advantages: behind_prompt(&numbers(&case[1])?),
            ..text.clone()
        };
        let done = trainer.forward_backward(&[text], Loss::PolicyGradient(clip), None)?;
        // A step of no size says how long the gradient is, and changes nothing.
        let step = trainer.optim_step(hyper(0.0))?;
        told.push(json!({ "loss": done.loss, "gradient": step.gradient_norm }));
    }
    Ok(json!({ "cases": told }))
}

fn reward(asked: &Value) -> Result<Value, Error> {
    let trainer = open(RANK, None)?;
    let sampling = Sampling {
        temperature: 1.0,
        seed: 5,
        max_tokens: 4,
    };
    let written = trainer.sample(&vec![PROMPT.to_vec(); GROUP], sampling)?;
    let longest = written.iter().map(Vec::len).max().unwrap_or(0);
    let good = written.iter().position(|tokens| tokens.len() == longest);
    let good = good.unwrap_or(0);
    let texts: Vec<Example> = written.iter().map(|own| text(&PROMPT, own)).collect();
    // By how many deviations the reward is above its mean (GRPO, arXiv 2402.03300).
    let mean = 1.0 / GROUP as f32;
    let deviation = (mean * (1.0 - mean)).sqrt();
    let advantage = |number| match number == good {
        true => (1.0 - mean) / deviation,
        false => -mean / deviation,
    };
    let clip = clip(asked)?;
    let before = log_probabilities(&trainer, &texts)?;
    for _ in 0..ROUNDS {
        let sampled = trainer.evaluate(&texts, Loss::CrossEntropy)?;
        let batch = texts.iter().zip(sampled.log_probabilities).enumerate();
        let batch: Vec<Example> = batch
            .map(|(number, (text, logs))| Example {
                advantages: vec![advantage(number); text.tokens.len()],
                sampled_log_probabilities: logs,
                ..text.clone()
            })
            .collect();
        for _ in 0..STEPS_OF_ROUND {
            trainer.forward_backward(&batch, Loss::PolicyGradient(clip), None)?;
            trainer.optim_step(hyper(RATE))?;
        }
    }
    let after = log_probabilities(&trainer, &texts)?;
    Ok(json!({ "written": written, "good": good, "before": before, "after": after }))
}

fn classes() -> Result<Value, Error> {
    let trainer = open(RANK, Some(2))?;
    let labelled = |number: u32| {
        let label = number % 2;
        let end = [7, 11][label as usize];
        Example {
            label: Some(label),
            ..text(&[], &[30 + 3 * number, end, end, end])
        }
    };
    let learned: Vec<Example> = (0..8).map(labelled).collect();
    let held_out: Vec<Example> = (8..12).map(labelled).collect();
    let mut losses = Vec::new();
    for _ in 0..STEPS {
        let done = trainer.forward_backward(&learned, Loss::Classification, None)?;
        trainer.optim_step(hyper(RATE))?;
        losses.push(done.loss);
    }
    let judged = trainer.evaluate(&held_out, Loss::Classification)?;
    trainer.name_classes(&["seven", "eleven"].map(str::to_owned))?;
    trainer.save(&Metadata {
        card: "It tells a seven from an eleven.".to_owned(),
        hyper_parameters: Vec::new(),
        metrics: Vec::new(),
    })?;
    let labels: Vec<Option<u32>> = held_out.iter().map(|text| text.label).collect();
    Ok(json!({
        "losses": losses,
        "held-out": {
            "labels": labels,
            "loss": judged.outcome.loss,
            "classes": judged.log_probabilities,
        },
    }))
}

/// What each text's written part is held for: the logarithm of its probability.
fn log_probabilities(trainer: &Trainer, texts: &[Example]) -> Result<Vec<f32>, Error> {
    let judged = trainer.evaluate(texts, Loss::CrossEntropy)?;
    let sums = judged
        .log_probabilities
        .iter()
        .map(|logs| logs.iter().sum::<f32>());
    Ok(sums.collect())
}

fn open(rank: u32, classes: Option<u32>) -> Result<Trainer, Error> {
    Trainer::open("default", &lora(rank), options(classes))
}

/// A text of which only what is written counts.
fn text(prompt: &[u32], written: &[u32]) -> Example {
    let none = prompt.iter().map(|_| 0.0);
    let weights = none.chain(written.iter().map(|_| 1.0)).collect();
    weighted([prompt, written].concat(), weights)
}

/// A number for each token, of which the prompt's are 0.
fn behind_prompt(written: &[f32]) -> Vec<f32> {
    let mut all = vec![0.0; PROMPT.len()];
    all.extend_from_slice(written);
    all
}

fn clip(asked: &Value) -> Result<Clip, Error> {
    Ok(Clip {
        below: number(&asked["below"])?,
        above: number(&asked["above"])?,
    })
}

fn number(value: &Value) -> Result<f32, Error> {
    let number = value.as_f64().map(|number| number as f32);
    number.ok_or_else(|| wrong("a number is missing"))
}

fn numbers(value: &Value) -> Result<Vec<f32>, Error> {
    value.as_array().into_iter().flatten().map(number).collect()
}

fn wrong(reason: &str) -> Error {
    Error::Invalid(reason.to_owned())
}

/// All of the input.
fn read() -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    loop {
        let chunk = io::read(CHUNK)?;
        if chunk.is_empty() {
            return Ok(all);
        }
        all.extend_from_slice(&chunk);
    }
}
