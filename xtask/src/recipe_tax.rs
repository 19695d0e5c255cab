//! The recipe as a sandboxed component, in Rust and in Python, beside the same loop natively: what a
//! step costs.
//!
//! All three train the same adapter on the same base, on texts of one length, as many a step. What the
//! texts say makes no difference to the time, so the native side (`host/train/examples/train_speed`)
//! makes tokens up. They take turns, each in a process of its own. The native loop keeps no checkpoints,
//! so the recipes are told to keep one at the end, which is after what is measured.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use skep_tests::{Built, Node, random, run, set_up};

use crate::environment::Environment;
use crate::guests;
use crate::together::SHAPE;

const ROUNDS: usize = 7;
const STEPS: usize = 40;
const BATCH: usize = 8;
/// Letters of a text, which are its tokens but for those that begin and end it.
const LETTERS: usize = 96;
/// What all are told.
const RANK: &str = "16";

/// Runs all three in turn, and prints a line of JSON.
///
/// # Errors
/// When one of them fails, or they did not do the same work.
pub fn bench(environment: &Environment, native: &Path) -> Result<()> {
    environment.build_host()?;
    let in_python = guests::build_in_python(environment, "fine-tune")?;
    let folder = environment.target.join("recipe-tax");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let base = folder.join("base.gguf");
    random::gguf(&base, &SHAPE, 1)?;
    let data = folder.join("texts.jsonl");
    fs::write(&data, texts())?;
    let home = folder.join("home");
    set_up(&home)?;
    let made = run(&home, &["key", "new"])?;
    ensure!(made.code == 0, "skep key new: {}", made.stderr);
    let node = Node::start(&Built::skep(), &home)?;
    let added = node.ask(&[
        "model".as_ref(),
        "add".as_ref(),
        base.as_os_str(),
        "--name".as_ref(),
        "twenty".as_ref(),
    ]);
    added.context("add the base")?;
    drop(node);
    let (mut component, mut python, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (seconds, tokens) = by_component(&home, &data, None)?;
        component.push(seconds);
        let (seconds, learned) = by_component(&home, &data, Some(&in_python))?;
        ensure!(
            learned == tokens,
            "{learned} tokens a step by the recipe in Python, and {tokens} by that in Rust"
        );
        python.push(seconds);
        // The first token of a text is not predicted.
        alone.push(natively(native, &base, tokens / BATCH + 1)?);
    }
    let milliseconds = |all: &[f64]| all.iter().map(|s| s * 1e3).collect::<Vec<_>>();
    let without = middle(&alone);
    println!(
        "{}",
        json!({
            "steps": STEPS,
            "texts_a_step": BATCH,
            "component_ms_a_step": milliseconds(&component),
            "python_ms_a_step": milliseconds(&python),
            "native_ms_a_step": milliseconds(&alone),
            "slower": middle(&component) / without - 1.0,
            "python_slower": middle(&python) / without - 1.0,
        })
    );
    Ok(())
}

/// Texts of one length, each another.
fn texts() -> String {
    let letters = b"abcdefghijklmnopqrstuvwxyz ";
    let text = |number: usize| -> String {
        let letter = |at: usize| letters[(number * 31 + at * at * 7 + at) % letters.len()] as char;
        (0..LETTERS).map(letter).collect()
    };
    let lines = (0..STEPS * BATCH).map(|number| format!("{}\n", json!({"text": text(number)})));
    lines.collect()
}

/// Seconds of a step after the first, and tokens that are learned in it, by a recipe or else by the one
/// that comes with skep.
fn by_component(home: &Path, data: &Path, recipe: Option<&Path>) -> Result<(f64, usize)> {
    let mut command = Command::new(Built::skep());
    command.arg("--home").arg(home);
    command.args([
        "--json", "finetune", "--fresh", "--base", "twenty", "--data",
    ]);
    command.arg(data);
    if let Some(recipe) = recipe {
        command.arg("--recipe").arg(recipe);
    }
    command.args([
        "--",
        &format!("rank={RANK}"),
        "dropout=0",
        "held-out=0",
        "patience=0",
        "schedule=constant",
        "learning-rate=0.001",
    ]);
    command.args([
        format!("steps={STEPS}"),
        format!("batch={BATCH}"),
        format!("evaluate-every={STEPS}"),
    ]);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the training failed: {said}");
    let text = String::from_utf8(output.stdout)?;
    let lines = text.lines().map(serde_json::from_str::<Value>);
    let steps: Vec<Value> = lines
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .filter(|line| line["tokens"].as_u64().is_some_and(|tokens| tokens > 0))
        .collect();
    let [first, .., last] = &steps[..] else {
        anyhow::bail!("no step is told of: {text}");
    };
    let number = |step: &Value, name: &str| step[name].as_f64().context("a step without a number");
    // The rate is that of all tokens since the training began.
    let since = |step: &Value| {
        Ok::<_, anyhow::Error>(number(step, "tokens")? / number(step, "tokens_per_s")?)
    };
    let made = number(last, "step")? - number(first, "step")?;
    let tokens = number(last, "tokens")? - number(first, "tokens")?;
    let seconds = (since(last)? - since(first)?) / made;
    Ok((seconds, (tokens / made) as usize))
}

/// Seconds of a step after the first, on texts of so many tokens.
fn natively(program: &Path, base: &Path, length: usize) -> Result<f64> {
    let mut command = Command::new(program);
    command.arg(base).args(["--rank", RANK]);
    for (name, value) in [("batch", BATCH), ("length", length), ("steps", STEPS - 1)] {
        command.arg(format!("--{name}")).arg(value.to_string());
    }
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the native loop failed: {said}");
    let result: Value = serde_json::from_slice(&output.stdout)?;
    let rate = result["tokens_per_second"].as_f64().context("no rate")?;
    Ok((BATCH * length) as f64 / rate)
}

fn middle(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
