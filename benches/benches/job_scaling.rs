//! What several providers are worth on work that waits rather than computes, and what a shard costs
//! beside the same run without a job: real node processes on loopback.
//!
//! ```text
//! job_scaling --skep FILE [--shards N] [--wait MILLISECONDS] [--rounds N]
//! ```
//!
//! The component waits and does nothing else, so that a machine with few processors shows what jobs
//! cost and not what its processors do. One provider and four take turns, with the same number of
//! shards; each takes one shard at a time. The time between two shards that one provider does one
//! after the other, less what the same component takes in the same sandbox, is what a shard costs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use skep_tests::{Node, ask, written};

const MANIFEST: &str = r#"[package]
name = "waiter"
version = "0.1.0"
description = "Waits, and does nothing else"
kind = "component"

[component]
world = "task"
path = "waiter.wasm"
"#;

struct Setting {
    folder: tempfile::TempDir,
    skep: PathBuf,
    package: String,
}

impl Setting {
    fn new(skep: PathBuf, wait: Duration, shards: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("package");
        fs::create_dir(&package).unwrap();
        let text = written::waiter(wait);
        fs::write(package.join("waiter.wasm"), wat::parse_str(text).unwrap()).unwrap();
        fs::write(package.join("skep.toml"), MANIFEST).unwrap();
        let lines: String = (0..shards).map(|line| format!("{line}\n")).collect();
        fs::write(folder.path().join("lines"), lines).unwrap();
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

    fn provider(&self, name: &str) -> Node {
        configure(&self.path(name), "[jobs]\naccept = true\n");
        Node::start(&self.skep, &self.path(name)).unwrap()
    }

    /// When each shard was done, from the job's beginning.
    fn job(&self, providers: &[Node], shards: usize) -> Vec<Duration> {
        let mut command = Command::new(&self.skep);
        command.arg("--home").arg(self.path("requester"));
        command.arg("--json");
        command.args([
            "job",
            "submit",
            &self.package,
            "--shards",
            &shards.to_string(),
        ]);
        command.arg("--input").arg(self.path("lines"));
        command.arg("--output").arg(self.path("out"));
        for provider in providers {
            let ticket = provider.status["ticket"].as_str().unwrap();
            command.args(["--provider", ticket]);
        }
        let began = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let done: Vec<Duration> = lines
            .map_while(Result::ok)
            .filter(|line| line.contains(": done"))
            .map(|_| began.elapsed())
            .collect();
        let answer = child.wait_with_output().unwrap();
        assert!(answer.status.success());
        let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
        assert_eq!(answer["job"]["finished"], shards);
        // Several that come together are told in one moment, and each of them is told.
        assert_eq!(done.len(), shards, "each shard is told to be done once");
        done
    }

    /// What the component takes in the sandbox of a node, without a job.
    fn alone(&self, node: &Node) -> Duration {
        let component = self.path("package/waiter.wasm");
        let out = self.path("alone");
        let (component, out) = (component.to_str().unwrap(), out.to_str().unwrap());
        let ran = node.ask(&["run", component, "--output", out]).unwrap();
        Duration::from_secs_f64(ran["seconds"].as_f64().unwrap())
    }
}

fn configure(home: &Path, more: &str) {
    fs::create_dir_all(home).unwrap();
    let text = format!("[network]\nlisten = \"127.0.0.1:0\"\nmdns = false\n{more}");
    fs::write(home.join("config.toml"), text).unwrap();
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn main() {
    let (mut skep, mut shards, mut wait, mut rounds) = (None, 60_usize, 200_u64, 3_usize);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().expect("a value for each option");
        match flag.as_str() {
            "--skep" => skep = Some(PathBuf::from(value())),
            "--shards" => shards = value().parse().unwrap(),
            "--wait" => wait = value().parse().unwrap(),
            "--rounds" => rounds = value().parse().unwrap(),
            // What cargo says to every benchmark.
            "--bench" => {}
            other => panic!("unknown option {other}"),
        }
    }
    let skep = skep.expect("--skep FILE");
    let setting = Setting::new(skep, Duration::from_millis(wait), shards);
    let requester = Node::start(&setting.skep, &setting.path("requester")).unwrap();
    let providers = ["a", "b", "c", "d"].map(|name| setting.provider(name));

    let alone = median((0..21).map(|_| setting.alone(&requester)).collect());
    let (mut one, mut four, mut between) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds.max(1) {
        let done = setting.job(&providers[..1], shards);
        between.extend(done.windows(2).map(|pair| pair[1] - pair[0]));
        one.push(*done.last().unwrap());
        four.push(*setting.job(&providers, shards).last().unwrap());
    }
    let (one, four, between) = (median(one), median(four), median(between));
    let seconds = |time: Duration| time.as_secs_f64();
    let rate = |time: Duration| shards as f64 / seconds(time);
    println!("{shards} shards that wait {wait} ms each; medians of {rounds} rounds");
    println!(
        "one provider    {:6.2} s, {:6.2} shards/s",
        seconds(one),
        rate(one)
    );
    println!(
        "four providers  {:6.2} s, {:6.2} shards/s",
        seconds(four),
        rate(four)
    );
    println!("four beside one {:6.2} x", seconds(one) / seconds(four));
    println!(
        "a shard costs   {:6.2} ms: {:.2} ms from one to the next, {:.2} ms without a job",
        1e3 * (seconds(between) - seconds(alone)),
        1e3 * seconds(between),
        1e3 * seconds(alone)
    );
}
