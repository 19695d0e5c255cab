//! Four node processes train one adapter of a decoder of 20 million weights, in each way that there
//! is, over loopback, and by DiLoCo over links of 200 ms and 10 Mbit/s. Before that they all learn the
//! language together, from other texts, because whoever fine-tunes begins with a model that has.
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

use crate::environment::Environment;
use crate::slow_links::{Cable, SlowLinks};
use crate::{byte_pairs, debian};

/// Nodes, the one that leads included.
const NODES: usize = 4;
/// Texts that nobody learns from, nine of ten of which each adapter is tested on.
const TESTS: usize = 100;
/// Letters of each, which are some seventy tokens.
const LETTERS: usize = 256;
/// From one node to another it is twice the delay of a cable, so 200 ms, and 10 Mbit/s.
const CABLE: Cable = Cable {
    delay: Duration::from_millis(100),
    rate: 10e6,
};

/// A decoder of Llama's shape whose tokens are pairs of pairs of bytes, and so on.
pub const SHAPE: random::Shape = random::Shape {
    layers: 6,
    width: 512,
    hidden: 1408,
    heads: 8,
    kv_heads: 4,
    vocabulary: 4096,
    context: 512,
};

/// How much is trained.
pub struct Plan {
    /// Steps of each node.
    pub steps: usize,
    /// Examples of a step.
    pub batch: usize,
    /// Steps that all make before that, by all-reduce.
    pub learned: usize,
    /// The largest learning rate of the comparison.
    pub rate: f32,
    /// The ways that are wanted, all of them if none is named.
    pub only: Vec<String>,
    /// DiLoCo's outer rate and momentum, if not the usual ones.
    pub outer: Vec<f32>,
}

impl Plan {
    /// Examples of all nodes in so many steps, each learned from once.
    fn examples(&self, steps: usize) -> usize {
        steps * self.batch * NODES
    }

    fn wants(&self, way: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == way)
    }
}

/// Ways of training together, and what the command line calls them.
const METHODS: [(&str, &[&str]); 4] = [
    ("all-reduce", &["--method", "all-reduce"]),
    ("diloco-50", &["--every", "50", "--fragments", "1"]),
    ("diloco-100", &["--every", "100", "--fragments", "1"]),
    ("demo", &["--method", "demo"]),
];
/// What the command line calls training over the slow links.
const SLOW: &str = "slow";
/// What is trained there: the next fifth of the steps are made while a fragment is on its way.
const STREAMED: (&str, &[&str]) = ("diloco-50-streamed", &["--every", "50", "--overlap", "10"]);

/// Runs all of them over loopback, and one over the links, and prints a line of JSON for each.
///
/// # Errors
/// When a node cannot be started or a training fails.
pub fn bench(environment: &Environment, plan: &Plan) -> Result<()> {
    let names: Vec<&str> = METHODS
        .iter()
        .map(|(name, _)| *name)
        .chain([SLOW])
        .collect();
    for way in &plan.only {
        ensure!(
            names.contains(&way.as_str()),
            "there is no way `{way}`; --only takes {}",
            names.join(", ")
        );
    }
    environment.build_host()?;
    let folder = environment.target.join("together");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let base = folder.join("base.gguf");
    let text = descriptions(environment)?;
    let pairs = byte_pairs::learn(&text, SHAPE.vocabulary - 1)?;
    random::gguf_of_pairs(&base, &SHAPE, 1, &pairs)?;
    let texts = Texts::write(&folder, &text, plan)?;
    let swarm = Swarm::start(&folder, &base, "loopback", &Loopback)?;
    let mut first = None;
    let before = swarm.test(&texts, "untrained", None)?;
    let (from, before) = match plan.learned {
        0 => (None, before),
        steps => {
            let learned = Plan {
                steps,
                rate: 0.002,
                learned: 0,
                only: Vec::new(),
                outer: Vec::new(),
                batch: plan.batch,
            };
            let way = ("learned", METHODS[0].1);
            let done = swarm.train(&learned, (&texts.before, &texts), way, (None, before))?;
            println!("{}", done.told(&learned, None));
            (Some("learned"), done.loss)
        }
    };
    for way in METHODS.into_iter().filter(|(name, _)| plan.wants(name)) {
        let done = swarm.train(plan, (&texts.learned, &texts), way, (from, before))?;
        println!("{}", done.told(plan, Some(first.as_ref().unwrap_or(&done))));
        first.get_or_insert(done);
    }
    drop(swarm);
    if !plan.wants(SLOW) {
        return Ok(());
    }
    let links = "200 ms, 10 Mbit/s";
    match Links::new(&folder) {
        Ok(network) => {
            let swarm = Swarm::start(&folder, &base, links, &network)?;
            // These nodes have homes of their own, in which nothing was learned.
            let before = swarm.test(&texts, "untrained", None)?;
            let data = (texts.learned.as_path(), &texts);
            let done = swarm.train(plan, data, STREAMED, (None, before))?;
            let alike = first.as_ref().filter(|_| from.is_none());
            println!("{}", done.told(plan, alike));
            Ok(())
        }
        Err(error) => {
            let line = json!({"links": links, "not_measured": error.to_string()});
            println!("{line}");
            Ok(())
        }
    }
}

/// What nodes learn, what they have learned before that, and what adapters are tested on.
struct Texts {
    before: PathBuf,
    learned: PathBuf,
    unseen: PathBuf,
}

impl Texts {
    /// Texts of nearly one length, so that no node has more to do than another. Those that nobody
    /// learns from are the same however many are learned.
    fn write(folder: &Path, text: &str, plan: &Plan) -> Result<Self> {
        let letters: Vec<char> = text.chars().collect();
        let cut: Vec<&[char]> = letters.chunks_exact(LETTERS).collect();
        let (before, learned) = (plan.examples(plan.learned), plan.examples(plan.steps));
        ensure!(
            cut.len() >= TESTS + before + learned,
            "there are {} texts only",
            cut.len()
        );
        let (unseen, rest) = cut.split_at(TESTS);
        let (before, rest) = rest.split_at(before);
        let write = |name: &str, texts: &[&[char]]| {
            let lines = texts.iter().map(|text| {
                let text: String = text.iter().collect();
                format!("{}\n", json!({"text": text}))
            });
            let path = folder.join(name);
            fs::write(&path, lines.collect::<String>())?;
            Ok::<_, anyhow::Error>(path)
        };
        Ok(Self {
            before: write("before.jsonl", before)?,
            learned: write("texts.jsonl", &rest[..learned])?,
            unseen: write("unseen.jsonl", unseen)?,
        })
    }
}

/// The descriptions of Debian's packages, as one text: most are shorter than what is learned at once.
fn descriptions(environment: &Environment) -> Result<String> {
    let path = environment.target.join("tuning").join("descriptions.txt");
    debian::write_descriptions(&path)?;
    Ok(fs::read_to_string(&path)?.replace('\n', ". "))
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

/// Nodes that train together, the first of which leads.
struct Swarm<'a> {
    links: &'a str,
    home: PathBuf,
    skep: PathBuf,
    members: Vec<Node>,
}

impl<'a> Swarm<'a> {
    fn start(folder: &Path, base: &Path, links: &'a str, network: &impl Network) -> Result<Self> {
        let folder = folder.join(links.replace([' ', ',', '/'], "-"));
        let home = |number: usize| folder.join(format!("node-{number}"));
        for number in 0..NODES {
            set_up(&home(number))?;
            let (_, listen) = network.place(number);
            let text = format!(
                "[network]\nlisten = \"{listen}\"\nmdns = false\n[trainings]\naccept = true\n"
            );
            fs::write(home(number).join("config.toml"), text)?;
        }
        succeeds(&home(0), &["key", "new"])?;
        distribute(&home(0), (1..NODES).map(home), base)?;
        let members = (1..NODES).map(|number| {
            let (skep, listen) = network.place(number);
            Node::start_at(&skep, &home(number), &listen)
        });
        Ok(Self {
            links,
            home: home(0),
            skep: network.place(0).0,
            members: members.collect::<Result<Vec<_>>>()?,
        })
    }

    /// Trains one adapter, and tests it.
    fn train(
        &self,
        plan: &Plan,
        (data, texts): (&Path, &Texts),
        (name, arguments): (&'static str, &[&str]),
        (from, before): (Option<&str>, f64),
    ) -> Result<Done> {
        let mut command = self.finetune(data, name);
        command
            .args(["--nodes", "4", "--audit", "0"])
            .args(arguments);
        if let (true, [rate, momentum]) = (name.starts_with("diloco"), &plan.outer[..]) {
            command.arg(format!("--outer-rate={rate}"));
            command.arg(format!("--outer-momentum={momentum}"));
        }
        for member in &self.members {
            let ticket = member.status["ticket"].as_str();
            command.args(["--provider", ticket.context("a node without a ticket")?]);
        }
        if let Some(from) = from {
            command.args(["--from", from]);
        }
        // Nothing is held out, so that what all have agreed on last is what is saved.
        command.args(["--", "rank=16", "held-out=0"]);
        command.arg(format!("learning-rate={}", plan.rate));
        command.arg(format!("steps={}", plan.steps));
        command.arg(format!("batch={}", plan.batch));
        let trained = result(&mut command)?;
        let adapter = self
            .home
            .join("trainings")
            .join(name)
            .join("adapter/adapter_model.safetensors");
        let parameters = fs::metadata(adapter)?.len() / 4;
        Ok(Done {
            links: self.links.to_owned(),
            name,
            before,
            loss: self.test(texts, name, Some(name))?,
            trained,
            parameters,
        })
    }

    fn finetune(&self, data: &Path, name: &str) -> Command {
        let mut command = Command::new(&self.skep);
        command.arg("--home").arg(&self.home);
        command.args(["--json", "finetune", "--base", "twenty", "--out", name]);
        command.arg("--data").arg(data);
        command
    }

    /// The loss on texts that nobody has learned from, with an adapter or without: what a training
    /// that goes on from it finds before its first step, which is of size 0.
    fn test(&self, texts: &Texts, name: &str, adapter: Option<&str>) -> Result<f64> {
        let mut command = self.finetune(&texts.unseen, &format!("{name}-tested"));
        command.arg("--fresh");
        if let Some(adapter) = adapter {
            command.args(["--from", adapter]);
        }
        command.args(["--", "rank=16", "held-out=0.9", "learning-rate=0"]);
        command.args(["steps=1", "batch=1", "evaluate-every=2"]);
        number(&result(&mut command)?, "/metrics/held-out-loss-before")
    }
}

/// What came of a training.
struct Done {
    links: String,
    name: &'static str,
    before: f64,
    loss: f64,
    trained: Value,
    parameters: u64,
}

impl Done {
    /// As a line, beside what the first one sent and came to.
    fn told(&self, plan: &Plan, first: Option<&Self>) -> Value {
        let of = |done: &Self, pointer: &str| number(&done.trained, pointer).unwrap_or(f64::NAN);
        let bytes = "/together/contributed_bytes";
        let seconds = of(self, "/together/seconds");
        let waited = of(self, "/together/waited_seconds");
        let nodes = self.trained.pointer("/together/nodes");
        let nodes = nodes.and_then(Value::as_array).into_iter().flatten();
        let gone: Vec<&Value> = nodes.clone().map(|node| &node["gone"]).collect();
        let left_out: Vec<&Value> = nodes.map(|node| &node["left_out"]).collect();
        json!({
            "links": self.links,
            "method": self.name,
            "nodes": NODES,
            "steps": plan.steps,
            "texts": plan.steps * plan.batch * NODES,
            "parameters": self.parameters,
            "turns": self.trained["together"]["turns"],
            "contributed_bytes": of(self, bytes),
            "times_fewer": first.map(|first| of(first, bytes) / of(self, bytes)),
            "sent_bytes": of(self, "/together/sent_bytes"),
            "loss_before": self.before,
            "held_out_loss": self.loss,
            "beside_the_first_percent": first.map(|first| 100.0 * (self.loss / first.loss - 1.0)),
            "seconds": seconds,
            "waited_seconds": waited,
            "utilisation": 1.0 - waited / seconds,
            "gone": gone,
            "left_out": left_out,
        })
    }
}

/// The result of a command that says one.
fn result(command: &mut Command) -> Result<Value> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the training failed: {said}");
    let text = String::from_utf8(output.stdout)?;
    Ok(serde_json::from_str(
        text.lines().last().unwrap_or_default(),
    )?)
}

fn number(value: &Value, pointer: &str) -> Result<f64> {
    let found = value.pointer(pointer).and_then(Value::as_f64);
    found.with_context(|| format!("no {pointer} in {value}"))
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
