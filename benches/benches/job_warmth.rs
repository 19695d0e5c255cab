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

mod options;
mod setting;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use options::{number, options};
use setting::{Setting, median};
use skep_tests::{Node, task_package};

/// A setting with the component that has a language model go on with each line, and one line.
fn generating(skep: PathBuf, components: &Path) -> Setting {
    let component = fs::read(components.join("generate.wasm")).unwrap();
    let make = |package: &Path| {
        let (description, grants) = (
            "Goes on with each line",
            "[grants]\nmodels = [\"default\"]\n",
        );
        task_package(package, "generate", description, grants, &component).unwrap();
    };
    Setting::new(skep, make, "The lamp is lit.\n")
}

impl Setting {
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
        let node = self.provider(name);
        self.job(requester, &node, more);
        node.kill().unwrap();
        self.provider(name)
    }
}

fn keeps_nothing(node: &Node) -> bool {
    let status = node.ask(&["node", "status"]).unwrap();
    status["kept"].as_array().unwrap().is_empty()
}

fn milliseconds(times: Vec<Duration>) -> f64 {
    1e3 * median(times).as_secs_f64()
}

fn main() {
    let [skep, components, rounds] = options(["--skep", "--components", "--rounds"]);
    let skep = PathBuf::from(skep.expect("--skep FILE"));
    let components = PathBuf::from(components.expect("--components FOLDER"));
    let rounds = number(rounds, 5_usize).max(1);
    let setting = generating(skep, &components);
    let requester = setting.requester();
    let (mut warm, mut cold, mut again) = (Vec::new(), Vec::new(), Vec::new());
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
    println!(
        "first after a start, kept ready  {:8.1} ms",
        milliseconds(warm)
    );
    println!(
        "first after a start, not kept    {:8.1} ms",
        milliseconds(cold)
    );
    println!(
        "the next one there               {:8.1} ms",
        milliseconds(again)
    );
}
