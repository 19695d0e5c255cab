//! Whether fine-tuning is worth doing: all-MiniLM-L6-v2 learns Debian's twelve largest sections from
//! the one-line descriptions of two hundred packages each, and is tested on five thousand others.
//!
//! Beside it stand the same encoder as it is, under a layer that learns in the same way, and the
//! same training by PEFT and PyTorch. What this module must never do: choose anything by what it
//! comes to on the tests, unless that speaks for the encoder that learns nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::environment::{Environment, output};
use crate::{debian, models, python};

/// Examples of each section.
const EXAMPLES: usize = 200;
/// Packages that are tested.
const TESTS: usize = 5000;
/// How the encoder is trained, here and by PEFT.
const SETTINGS: [&str; 7] = [
    "rank=16",
    "dropout=0.1",
    "epochs=8",
    "batch=32",
    "learning-rate=0.001",
    "held-out=0",
    "pass-tokens=2048",
];
/// Rates for the layer over the encoder as it is. It is one layer with nothing below it, so it has
/// larger ones and more time, and of all the best result.
const FROZEN_RATES: [&str; 2] = ["0.01", "0.03"];
const FROZEN_EPOCHS: &str = "epochs=20";
/// What PEFT runs on.
const PACKAGES: [&str; 3] = ["torch==2.15.0", "transformers==5.24.0", "peft==0.21.2"];

/// Runs all of it and prints what came of it.
///
/// # Errors
/// When something cannot be fetched, started or read.
pub fn run(environment: &Environment, peft: Option<&Path>, seeds: usize) -> Result<()> {
    let model = models::fetch(environment)?;
    let folder = environment.target.join("tuning");
    fs::create_dir_all(&folder)?;
    let data = folder.join("packages.jsonl");
    let counts = write(&data)?;
    println!("{counts}: {}", data.display());

    // Nothing goes on from what an earlier comparison left.
    let home = folder.join("home");
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    let skep = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new(environment.skep());
        command.arg("--home").arg(&home).args(arguments);
        output(&mut command, "run skep")
    };
    skep(&["key", "new"])?;
    let train = |name: &str, settings: &[&str]| -> Result<Value> {
        let (data, model) = (data.to_string_lossy(), model.to_string_lossy());
        let mut arguments = vec!["--json", "finetune", "--data", &data, "--base", &model];
        arguments.extend(["--out", name, "--"]);
        arguments.extend(settings);
        let started = Instant::now();
        let printed = skep(&arguments)?;
        let seconds = started.elapsed().as_secs_f64();
        let last: Value = serde_json::from_str(printed.lines().last().unwrap_or_default())?;
        let accuracy = last["metrics"]["test-accuracy"].as_f64();
        let accuracy = accuracy.context("the recipe told no accuracy")?;
        println!("{name}: {:.2} % in {seconds:.0} s", 100.0 * accuracy);
        Ok(json!({"accuracy": accuracy, "seconds": seconds}))
    };
    let mut frozen = Vec::new();
    for rate in FROZEN_RATES {
        let rate = format!("learning-rate={rate}");
        let mut settings = SETTINGS.to_vec();
        settings.retain(|one| !one.starts_with("epochs=") && !one.starts_with("learning-rate="));
        settings.extend(["targets=none", FROZEN_EPOCHS, &rate]);
        frozen.push(train(&format!("frozen-{}", frozen.len()), &settings)?);
    }
    let python = match peft {
        Some(python) => python.to_owned(),
        None => python::with(environment, "tuning", &PACKAGES)?,
    };
    let (mut tuned, mut theirs) = (Vec::new(), Vec::new());
    for seed in 0..seeds {
        let seed = format!("seed={seed}");
        let settings = [&SETTINGS[..], &[&seed]].concat();
        tuned.push(train(&format!("tuned-{}", tuned.len()), &settings)?);
        theirs.push(by_peft(environment, &python, &data, &model, &settings)?);
    }
    let mean = |runs: &[Value]| {
        let all = runs.iter().filter_map(|run| run["accuracy"].as_f64());
        all.sum::<f64>() / runs.len() as f64
    };
    let means = json!({"tuned": mean(&tuned), "peft": mean(&theirs)});
    println!(
        "{}",
        json!({"tuned": tuned, "frozen": frozen, "peft": theirs, "means": means})
    );
    Ok(())
}

fn by_peft(
    environment: &Environment,
    python: &Path,
    data: &Path,
    model: &Path,
    settings: &[&str],
) -> Result<Value> {
    let script: PathBuf = environment
        .root
        .join("benches")
        .join("tune_side_by_side.py");
    let mut command = Command::new(python);
    command.arg(script).arg(data).arg(model).args(settings);
    let printed = output(&mut command, "train by PEFT")?;
    let last = printed.lines().last().unwrap_or_default();
    let told: Value = serde_json::from_str(last)?;
    println!("peft: {told}");
    Ok(told)
}

/// Writes the examples and the tests, and says how many there are.
fn write(path: &Path) -> Result<String> {
    let packages = debian::packages()?;
    let sections = debian::largest_sections(&packages, EXAMPLES)?;
    let mut tests = Vec::new();
    let mut lines = String::new();
    let mut line = |package: &debian::Package, split: &str| {
        let record = json!({
            "text": package.description, "label": package.section, "split": split,
        });
        lines.push_str(&record.to_string());
        lines.push('\n');
    };
    for (_, drawn) in &sections {
        let (examples, rest) = drawn.split_at(EXAMPLES);
        for package in examples {
            line(package, "train");
        }
        tests.extend(rest.iter().copied());
    }
    tests.sort_by_key(|package| debian::order(package));
    tests.truncate(TESTS);
    for package in &tests {
        line(package, "test");
    }
    fs::write(path, lines)?;
    let examples = sections.len() * EXAMPLES;
    Ok(format!("{examples} examples and {} tests", tests.len()))
}
