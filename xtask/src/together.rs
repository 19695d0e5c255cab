//! Four node processes train one adapter of a decoder of 20 million weights: over loopback, and over
//! links of 200 ms and 10 Mbit/s.
//!
//! The links are cables between network namespaces, each with its own delay and rate in both
//! directions. Making them takes root; anybody else is told that it was not measured.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use skep_tests::{Built, Node, random, run, set_up};

use crate::debian;
use crate::environment::Environment;
use crate::slow_links::{Cable, SlowLinks};

/// Nodes, the one that leads included.
const NODES: usize = 4;
/// Examples of all of them.
const EXAMPLES: usize = 2000;
/// Letters of each, which are its tokens.
const LETTERS: usize = 96;
/// From one node to another it is twice the delay of a cable, so 200 ms, and 10 Mbit/s.
const CABLE: Cable = Cable {
    delay: Duration::from_millis(100),
    rate: 10e6,
};

/// A decoder of Llama's shape whose tokens are bytes.
pub const SHAPE: random::Shape = random::Shape {
    layers: 6,
    width: 512,
    hidden: 1408,
    heads: 8,
    kv_heads: 4,
    vocabulary: 4096,
    context: 512,
};

/// Steps of each node, and what else is asked of the training.
pub struct Plan {
    /// Steps of each node.
    pub steps: usize,
    /// Examples of a step.
    pub batch: usize,
}

/// Runs both, and prints a line of JSON for each.
///
/// # Errors
/// When a node cannot be started or the training fails.
pub fn bench(environment: &Environment, plan: &Plan) -> Result<()> {
    environment.build_host()?;
    let folder = environment.target.join("together");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let base = folder.join("base.gguf");
    random::gguf(&base, &SHAPE, 1)?;
    let data = folder.join("texts.jsonl");
    write_examples(environment, &data)?;
    measure(&folder, plan, &base, &data, "loopback", &Loopback)?;
    match Links::new(&folder) {
        Ok(links) => measure(&folder, plan, &base, &data, "200 ms, 10 Mbit/s", &links),
        Err(error) => {
            println!(
                "{}",
                json!({"links": "200 ms, 10 Mbit/s", "not_measured": error.to_string()})
            );
            Ok(())
        }
    }
}

/// Texts of nearly one length, so that no node has more to do than another.
fn write_examples(environment: &Environment, data: &Path) -> Result<()> {
    let texts = environment.target.join("tuning").join("descriptions.txt");
    debian::write_descriptions(&texts)?;
    let texts = fs::read_to_string(&texts)?;
    // Most descriptions are shorter, so as many as it takes make one text.
    let letters: Vec<char> = texts.replace('\n', ". ").chars().collect();
    let cut = letters.chunks_exact(LETTERS).map(|text| {
        let text: String = text.iter().collect();
        format!("{}\n", json!({"text": text}))
    });
    let lines: Vec<String> = cut.take(EXAMPLES).collect();
    ensure!(
        lines.len() == EXAMPLES,
        "there are {} texts only",
        lines.len()
    );
    Ok(fs::write(data, lines.concat())?)
}

/// Where nodes are.
trait Network {
    /// What starts `skep` at a place, and the address to listen on there.
    fn place(&self, number: usize) -> (PathBuf, String);
}

struct Loopback;

impl Network for Loopback {
    fn place(&self, _: usize) -> (PathBuf, String) {
        (Built::skep(), "127.0.0.1:0".to_owned())
    }
}

fn measure(
    folder: &Path,
    plan: &Plan,
    base: &Path,
    data: &Path,
    links: &str,
    network: &impl Network,
) -> Result<()> {
    let folder = folder.join(links.replace([' ', ',', '/'], "-"));
    let home = |number: usize| folder.join(format!("node-{number}"));
    for number in 0..NODES {
        set_up(&home(number))?;
        let (_, listen) = network.place(number);
        let text =
            format!("[network]\nlisten = \"{listen}\"\nmdns = false\n[trainings]\naccept = true\n");
        fs::write(home(number).join("config.toml"), text)?;
    }
    succeeds(&home(0), &["key", "new"])?;
    distribute(&home(0), (1..NODES).map(home), base)?;
    let members = (1..NODES).map(|number| {
        let (skep, listen) = network.place(number);
        Node::start_at(&skep, &home(number), &listen)
    });
    let members = members.collect::<Result<Vec<_>>>()?;
    let (skep, _) = network.place(0);
    let mut command = Command::new(skep);
    command
        .arg("--home")
        .arg(home(0))
        .args(["--json", "finetune"]);
    command.arg("--data").arg(data).args(["--base", "twenty"]);
    command.args(["--nodes", "4", "--every", "50", "--audit", "0"]);
    for member in &members {
        let ticket = member.status["ticket"].as_str();
        command.args(["--provider", ticket.context("a node without a ticket")?]);
    }
    command.args([
        "--",
        "rank=16",
        "held-out=0.02",
        "patience=0",
        "learning-rate=0.002",
    ]);
    command.arg(format!("steps={}", plan.steps));
    command.arg(format!("evaluate-every={}", plan.steps));
    command.arg(format!("batch={}", plan.batch));
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the training failed: {said}");
    let text = String::from_utf8(output.stdout)?;
    let trained: Value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
    let number = |pointer: &str| {
        let found = trained.pointer(pointer).and_then(Value::as_f64);
        found.with_context(|| format!("no {pointer} in {trained}"))
    };
    let gone = trained.pointer("/together/nodes").and_then(Value::as_array);
    let gone: Vec<&Value> = gone
        .into_iter()
        .flatten()
        .map(|node| &node["gone"])
        .collect();
    let adapter = home(0).join("trainings/texts/adapter/adapter_model.safetensors");
    let parameters = fs::metadata(adapter)?.len() as f64 / 4.0;
    let (seconds, waited) = (
        number("/together/seconds")?,
        number("/together/waited_seconds")?,
    );
    let contributed = number("/together/contributed_bytes")?;
    let line = json!({
        "links": links,
        "nodes": NODES,
        "steps": plan.steps,
        "seconds": seconds,
        "waited_seconds": waited,
        "utilisation": 1.0 - waited / seconds,
        "contributed_bytes": contributed,
        "sent_bytes": number("/together/sent_bytes")?,
        // Every gradient in bfloat16 at every step.
        "times_fewer": 2.0 * parameters * plan.steps as f64 / contributed,
        "held_out_before": number("/metrics/held-out-loss-before")?,
        "held_out": number("/metrics/held-out-loss")?,
        "gone": gone,
    });
    println!("{line}");
    Ok(())
}

/// Publishes the base in one home and installs it in the others, over loopback.
fn distribute(first: &Path, others: impl Iterator<Item = PathBuf>, base: &Path) -> Result<()> {
    let publisher = Node::start(&Built::skep(), first)?;
    let added = publisher.ask(&[
        "model".as_ref(),
        "add".as_ref(),
        base.as_os_str(),
        "--name".as_ref(),
        "twenty".as_ref(),
    ])?;
    let ticket = added["ticket"].as_str().context("no ticket of the base")?;
    for home in others {
        let node = Node::start(&Built::skep(), &home)?;
        node.ask(&["install", ticket])?;
    }
    Ok(())
}

fn succeeds(home: &Path, arguments: &[&str]) -> Result<()> {
    let ended = run(home, arguments)?;
    ensure!(ended.code == 0, "skep {arguments:?}: {}", ended.stderr);
    Ok(())
}

/// Nodes behind slow cables.
struct Links {
    links: SlowLinks,
    folder: PathBuf,
}

impl Links {
    fn new(folder: &Path) -> Result<Self> {
        let links = Self {
            links: SlowLinks::new(NODES, CABLE)?,
            folder: folder.to_path_buf(),
        };
        for number in 0..NODES {
            let (program, _) = links.place(number);
            write_script(&program, links.links.namespace(number))?;
        }
        Ok(links)
    }
}

impl Network for Links {
    fn place(&self, number: usize) -> (PathBuf, String) {
        let path = self.folder.join(format!("skep-at-{number}"));
        (path, format!("{}:0", SlowLinks::address(number)))
    }
}

/// A program that stands in for `skep` in a namespace.
fn write_script(path: &Path, namespace: &str) -> Result<()> {
    let skep = Built::skep();
    let text = format!(
        "#!/bin/bash\nexec ip netns exec {namespace} {} \"$@\"\n",
        skep.display()
    );
    fs::write(path, text)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}
