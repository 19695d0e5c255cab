//! What a first shard waits for at a node that has just been started: with what it takes kept ready
//! there (`--warm`), and without. Real node processes on loopback, one line of text, one shard.
//!
//! ```text
//! job_warmth --skep FILE --components FOLDER [--rounds N]
//! ```
//!
//! Each round has a node whose first job paid for an hour and one whose first did not. Both are killed
//! and started again, and are given the same job once more, the one as soon as it says what it keeps.
//! Files are in the system's cache and components are compiled, so that what differs is what a node
//! has in its memory. A second job at the latter tells what is left without a start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use skep_tests::{Node, ask};

const MANIFEST: &str = r#"[package]
name = "generate"
version = "0.1.0"
description = "Goes on with each line"
kind = "component"

[component]
world = "task"
path = "generate.wasm"

[grants]
models = ["default"]
"#;

struct Setting {
    folder: tempfile::TempDir,
    skep: PathBuf,
    package: String,
}

impl Setting {
    fn new(skep: PathBuf, components: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("package");
        fs::create_dir(&package).unwrap();
        let component = components.join("generate.wasm");
        fs::copy(component, package.join("generate.wasm")).unwrap();
        fs::write(package.join("skep.toml"), MANIFEST).unwrap();
        fs::write(folder.path().join("lines"), "The lamp is lit.\n").unwrap();
        let requester = folder.path().join("requester");
        configure(&requester, "");
        ask(&skep, &requester, &["key", "new"]).unwrap();
        let published = ask(&skep, &requester, &["publish", package.to_str().unwrap()]).unwrap();
        ask(&skep, &requester, &["account", "add", "1000"]).unwrap();
        let package = published["published"]["reference"].as_str().unwrap();
        Self {
            package: package.to_owned(),
            folder,
            skep,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// How long a job of one shard takes.
    fn job(&self, requester: &Node, provider: &Node, more: &[&str]) -> Duration {
        let (input, output) = (self.path("lines"), self.path("out"));
        let (input, output) = (input.to_str().unwrap(), output.to_str().unwrap());
        let ticket = provider.status["ticket"].as_str().unwrap();
        let submit = ["job", "submit", &self.package, "--shards", "1"];
        let places = ["--input", input, "--output", output, "--provider", ticket];
        let began = Instant::now();
        requester
            .ask(&[&submit[..], &places, more].concat())
            .unwrap();
        began.elapsed()
    }

    /// A node that did a job, was killed, and has been started again.
    fn started_again(&self, requester: &Node, name: &str, more: &[&str]) -> Node {
        let home = self.path(name);
        configure(&home, "[jobs]\naccept = true\n");
        let node = Node::start(&self.skep, &home).unwrap();
        self.job(requester, &node, more);
        node.kill().unwrap();
        Node::start(&self.skep, &home).unwrap()
    }
}

fn configure(home: &Path, more: &str) {
    fs::create_dir_all(home).unwrap();
    let text = format!("[network]\nlisten = \"127.0.0.1:0\"\nmdns = false\n{more}");
    fs::write(home.join("config.toml"), text).unwrap();
}

fn keeps_nothing(node: &Node) -> bool {
    let status = node.ask(&["node", "status"]).unwrap();
    status["kept"].as_array().unwrap().is_empty()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    1e3 * times[times.len() / 2].as_secs_f64()
}

fn main() {
    let (mut skep, mut components, mut rounds) = (None, None, 5_usize);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().expect("a value for each option");
        match flag.as_str() {
            "--skep" => skep = Some(PathBuf::from(value())),
            "--components" => components = Some(PathBuf::from(value())),
            "--rounds" => rounds = value().parse().unwrap(),
            // What cargo says to every benchmark.
            "--bench" => {}
            other => panic!("unknown option {other}"),
        }
    }
    let skep = skep.expect("--skep FILE");
    let components = components.expect("--components FOLDER");
    let setting = Setting::new(skep, &components);
    let requester = Node::start(&setting.skep, &setting.path("requester")).unwrap();
    let (mut warm, mut cold, mut again) = (Vec::new(), Vec::new(), Vec::new());
    let rounds = rounds.max(1);
    for round in 0..rounds {
        let name = format!("warm-{round}");
        let node = setting.started_again(&requester, &name, &["--warm", "1h"]);
        while keeps_nothing(&node) {}
        warm.push(setting.job(&requester, &node, &[]));
        let name = format!("cold-{round}");
        let node = setting.started_again(&requester, &name, &[]);
        cold.push(setting.job(&requester, &node, &[]));
        again.push(setting.job(&requester, &node, &[]));
    }
    println!("a job of one line and one shard; medians of {rounds} rounds");
    println!("first after a start, kept ready  {:8.1} ms", median(warm));
    println!("first after a start, not kept    {:8.1} ms", median(cold));
    println!("the next one there               {:8.1} ms", median(again));
}
