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

mod options;
mod setting;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use options::{number, options};
use serde_json::Value;
use setting::{Setting, median};
use skep_tests::{Node, task_package, written};

/// A setting with a component that waits for so long, and an input of so many lines.
fn waiting(skep: PathBuf, wait: Duration, shards: usize) -> Setting {
    let component = wat::parse_str(written::waiter(wait)).unwrap();
    let lines: String = (0..shards).map(|line| format!("{line}\n")).collect();
    let make = |package: &Path| {
        let description = "Waits, and does nothing else";
        task_package(package, "waiter", description, "", &component).unwrap();
    };
    Setting::new(skep, make, &lines)
}

impl Setting {
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

fn main() {
    let names = ["--skep", "--shards", "--wait", "--rounds"];
    let [skep, shards, wait, rounds] = options(names);
    let (shards, wait) = (number(shards, 60_usize), number(wait, 200_u64));
    let rounds = number(rounds, 3_usize);
    let skep = PathBuf::from(skep.expect("--skep FILE"));
    let setting = waiting(skep, Duration::from_millis(wait), shards);
    let requester = setting.requester();
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
