//! The main job, as a person would do it by hand: publish a component and a model on one node,
//! have another fetch and verify both by content address, and run the component there over
//! real input.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use skep_tests::Node;
use skep_tickets::Format;

use crate::environment::Environment;
use crate::{debian, guests};

/// How many tickets the demo labels.
const TICKETS: usize = 4000;
/// How many examples of each label the classifier learns from.
const EXAMPLES: usize = 8;
/// After how many tickets there is a line that is no record, as real files have them.
const BAD_LINE_EVERY: usize = 500;
/// The seed of the generated tickets.
const SEED: u64 = 7;

#[derive(Args)]
pub struct Options {
    /// Print the summary as one JSON object on the last line.
    #[arg(long)]
    json: bool,
    /// Classify all of Debian's package descriptions by section instead, with all-MiniLM-L6-v2,
    /// beside scikit-learn's TF-IDF and logistic regression. Needs apt and pip.
    #[arg(long)]
    debian: bool,
    /// Take the host and the guest as they are built, and build nothing.
    #[arg(long)]
    built: bool,
}

/// What the demo classifies, and with what.
pub struct Job {
    pub input: PathBuf,
    pub labels: PathBuf,
    pub truth: HashMap<String, String>,
    pub model: PathBuf,
    pub model_name: &'static str,
}

/// Runs the demo.
pub fn run(environment: &Environment, options: &Options) -> Result<()> {
    let total = Instant::now();
    if !options.built {
        say("building the host and the batch classifier");
        environment.build_host()?;
        guests::build_rust(environment)?;
    }
    let package = guests::package(environment, "batch-classifier")?;

    let folder = environment.target.join("demo");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let job = if options.debian {
        debian::prepare(environment, &folder)?
    } else {
        tickets(environment, &folder)?
    };

    say("starting two nodes on loopback");
    let publisher = Node::start(&environment.skep(), &folder.join("a"))?;
    let runner = Node::start(&environment.skep(), &folder.join("b"))?;

    say("node A publishes the component and the model");
    publisher.ask(&["key", "new"])?;
    let component = publisher.ask(&["publish".as_ref(), package.as_os_str()])?;
    let model = publisher.ask(&[
        "model".as_ref(),
        "add".as_ref(),
        job.model.as_os_str(),
        "--name".as_ref(),
        job.model_name.as_ref(),
    ])?;

    say("node B fetches and verifies both by content address");
    let fetched_component = runner.ask(&["install", text(&component, "/ticket")?])?;
    let fetched_model = runner.ask(&["install", text(&model, "/ticket")?])?;

    say("node B runs the component in the sandbox");
    let output = folder.join("predictions.jsonl");
    let report = runner.ask(&[
        "run".as_ref(),
        text(&component, "/published/reference")?.as_ref(),
        "--input".as_ref(),
        job.input.as_os_str(),
        "--labels".as_ref(),
        job.labels.as_os_str(),
        "--output".as_ref(),
        output.as_os_str(),
        "--model".as_ref(),
        text(&model, "/published/reference")?.as_ref(),
    ])?;
    let (right, judged) = accuracy(&output, &job.truth)?;

    let mut summary = json!({
        "nodes": [publisher.pid(), runner.pid()],
        "component": fetched_component,
        "model": fetched_model,
        "run": report,
        "judged": judged,
        "accuracy": right as f64 / judged.max(1) as f64,
        "seconds": total.elapsed().as_secs_f64(),
    });
    if options.debian {
        say("scikit-learn at the same split");
        summary["baseline"] = debian::baseline(environment, &folder)?;
    }
    print(&summary);
    if options.json {
        println!("{summary}");
    }
    Ok(())
}

/// Writes the generated support tickets and says what the right answers are.
fn tickets(environment: &Environment, folder: &Path) -> Result<Job> {
    let tickets = skep_tickets::tickets(SEED, TICKETS);
    let labels = skep_tickets::labels(SEED, EXAMPLES);
    let input = folder.join("tickets.jsonl");
    let labels_file = folder.join("labels.json");
    skep_tickets::write_tickets(
        BufWriter::new(File::create(&input)?),
        &tickets,
        Format::Jsonl,
        false,
        Some(BAD_LINE_EVERY),
    )?;
    skep_tickets::write_labels(BufWriter::new(File::create(&labels_file)?), &labels)?;
    Ok(Job {
        input,
        labels: labels_file,
        truth: tickets
            .into_iter()
            .map(|ticket| (ticket.id, ticket.label.to_owned()))
            .collect(),
        model: environment.root.join("models").join("skep-mini-embed"),
        model_name: "skep-mini-embed",
    })
}

/// How many predictions are right, of how many that have a right answer.
fn accuracy(predictions: &Path, truth: &HashMap<String, String>) -> Result<(usize, usize)> {
    let text = fs::read_to_string(predictions)?;
    let (mut right, mut judged) = (0, 0);
    for line in text.lines() {
        let line: Value = serde_json::from_str(line)?;
        let Some(expected) = line["id"].as_str().and_then(|id| truth.get(id)) else {
            continue;
        };
        judged += 1;
        right += usize::from(line["label"].as_str() == Some(expected));
    }
    Ok((right, judged))
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .with_context(|| format!("the result has no {pointer}: {value}"))
}

fn say(what: &str) {
    eprintln!("\n=== {what}");
}

/// Prints the summary for a person.
fn print(summary: &Value) {
    let number = |pointer: &str| {
        summary
            .pointer(pointer)
            .and_then(Value::as_f64)
            .unwrap_or_default()
    };
    let mebibytes = |pointer: &str| number(pointer) / (1024.0 * 1024.0);
    println!("\nWhat moved, from node A to node B");
    for (name, at) in [("component", "/component"), ("model", "/model")] {
        println!(
            "  {name:<11} {:>8.2} MiB in {:.2} s; {} files, {} chunks verified against BLAKE3, \
             publisher's signature checked",
            mebibytes(&format!("{at}/bytes_fetched")),
            number(&format!("{at}/seconds")),
            number(&format!("{at}/files")),
            number(&format!("{at}/chunks_verified")),
        );
    }
    println!("What the sandbox allowed and used");
    for (name, used, limit, unit) in [
        ("memory", "peak_memory_bytes", "memory", "MiB"),
        ("on the device", "device_bytes_peak", "device_memory", "MiB"),
        ("device work", "flops", "device_work", "GFLOP"),
    ] {
        let divisor = if unit == "MiB" { 1024.0 * 1024.0 } else { 1e9 };
        println!(
            "  {name:<14} {:>12.1} of {:>12.1} {unit}",
            number(&format!("/run/{used}")) / divisor,
            number(&format!("/run/limits/{limit}")) / divisor,
        );
    }
    println!("  {:<14} {:>12}", "host calls", number("/run/host_calls"));
    println!("The job");
    println!(
        "  {} records, {} with errors, {:.2} s, {:.0} records/s",
        number("/run/records"),
        number("/run/errors"),
        number("/run/seconds"),
        number("/run/records_per_s"),
    );
    println!(
        "  accuracy {:.1} % on {} records",
        100.0 * number("/accuracy"),
        number("/judged"),
    );
    if let Some(baseline) = summary.get("baseline") {
        println!(
            "  accuracy {:.1} % of TF-IDF + logistic regression (scikit-learn) at the same split",
            100.0 * baseline["accuracy"].as_f64().unwrap_or_default(),
        );
    }
}
