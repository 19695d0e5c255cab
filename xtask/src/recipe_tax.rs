//! The recipe as a sandboxed component, beside the same loop natively: what a step costs.
//!
//! Both train the same adapter on the same base, on texts of one length, as many a step. What the texts
//! say makes no difference to the time, so the native side (`host/train/examples/train_speed`) makes
//! tokens up. They take turns, each in a process of its own. The native loop keeps no checkpoints, so
//! the recipe is told to keep one at the end, which is after what is measured.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use skep_tests::{Built, Node, random, run, set_up};

use crate::environment::Environment;
use crate::together::SHAPE;

const ROUNDS: usize = 7;
const STEPS: usize = 40;
const BATCH: usize = 8;
/// Letters of a text, which are its tokens but for those that begin and end it.
const LETTERS: usize = 96;
/// What both sides are told.
const RANK: &str = "16";

/// Runs both in turn, and prints a line of JSON.
///
/// # Errors
/// When one of them fails, or they did not do the same work.
pub fn bench(environment: &Environment, native: &Path) -> Result<()> {
    environment.build_host()?;
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
    let (mut component, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (seconds, tokens) = by_component(&home, &data)?;
        component.push(seconds);
        // The first token of a text is not predicted.
        alone.push(natively(native, &base, tokens / BATCH + 1)?);
    }
    let [mut sorted, mut sorted_alone] = [component.clone(), alone.clone()];
    let (with, without) = (middle(&mut sorted), middle(&mut sorted_alone));
    println!(
        "{}",
        json!({
            "steps": STEPS,
            "texts_a_step": BATCH,
            "component_ms_a_step": component.iter().map(|s| s * 1e3).collect::<Vec<_>>(),
            "native_ms_a_step": alone.iter().map(|s| s * 1e3).collect::<Vec<_>>(),
            "slower": with / without - 1.0,
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

/// Seconds of a step after the first, and tokens that are learned in it.
fn by_component(home: &Path, data: &Path) -> Result<(f64, usize)> {
    let mut command = Command::new(Built::skep());
    command.arg("--home").arg(home);
    command.args([
        "--json", "finetune", "--fresh", "--base", "twenty", "--data",
    ]);
    command.arg(data).args([
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

fn middle(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
