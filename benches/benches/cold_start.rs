//! How long a process takes that starts, finds a compiled component in the cache, runs it and
//! ends: `skep run`, timed from outside.
//!
//! ```text
//! cold_start --skep FILE --components FOLDER [--starts N]
//! ```
//!
//! Files are in the system's cache, as they are for whoever has just installed a component; the
//! process is new each time. A component that `--components` lacks is left out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod options;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use options::{number, options};
use skep_tests::written;

fn main() {
    let [skep, components, starts] = options(["--skep", "--components", "--starts"]);
    let skep = PathBuf::from(skep.expect("--skep FILE"));
    let components = PathBuf::from(components.expect("--components FOLDER"));
    let starts = number(starts, 30_usize);
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    std::fs::write(
        place("trivial.wasm"),
        wat::parse_str(written::trivial()).unwrap(),
    )
    .unwrap();
    let ticket = "{\"id\":\"1\",\"text\":\"I was charged twice\"}\n";
    std::fs::write(place("ticket.jsonl"), ticket).unwrap();
    let labels = skep_tickets::labels_to_json(&skep_tickets::labels(7, 1));
    std::fs::write(place("labels.json"), labels).unwrap();

    let nothing = times(starts, || {
        let mut command = Command::new(&skep);
        command.arg("--version");
        command
    });
    print("a process that only says its version", nothing);
    let home = place("home");
    let run = |component: &Path| {
        let mut command = Command::new(&skep);
        command.arg("--home").arg(&home).arg("run").arg(component);
        command.arg("--output").arg(place("output"));
        command
    };
    let trivial = times(starts, || run(&place("trivial.wasm")));
    print("a trivial task", trivial);
    for (what, name) in [
        ("the batch classifier in Rust", "batch-classifier"),
        ("the same in JavaScript", "batch-classifier-js"),
        ("the same in Python", "batch-classifier-python"),
    ] {
        let component = components.join(format!("{name}.wasm"));
        if !component.exists() {
            println!("{what}: not built");
            continue;
        }
        let measured = times(starts, || {
            let mut command = run(&component);
            command.arg("--input").arg(place("ticket.jsonl"));
            command.arg("--labels").arg(place("labels.json"));
            command
        });
        print(&format!("{what}, one record"), measured);
    }
}

/// The times of so many starts, sorted, after one that fills the cache.
fn times(starts: usize, command: impl Fn() -> Command) -> Vec<Duration> {
    let once = || {
        let mut command = command();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let began = Instant::now();
        let status = command.status().unwrap();
        let took = began.elapsed();
        assert!(status.success(), "{command:?} ended with {status}");
        took
    };
    once();
    let mut times: Vec<Duration> = (0..starts.max(1)).map(|_| once()).collect();
    times.sort();
    times
}

fn print(what: &str, times: Vec<Duration>) {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{what}: median {:.1} ms, fastest {:.1} ms, slowest {:.1} ms of {} starts",
        milliseconds(times[times.len() / 2]),
        milliseconds(times[0]),
        milliseconds(times[times.len() - 1]),
        times.len()
    );
}
