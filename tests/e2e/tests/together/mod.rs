//! What the tests of trainings by several nodes share: their homes, a leader that runs, and a process
//! that stands still.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use skep_tests::{Built, Node, lessons, run, set_up};

/// Many times what a training of these tests takes.
const LONGEST: Duration = Duration::from_secs(300);
/// An outer step every 4 steps, of which each node makes 32.
const SETTINGS: [&str; 6] = [
    "rank=4",
    "batch=4",
    "learning-rate=0.01",
    "held-out=0.2",
    "steps=32",
    "evaluate-every=16",
];

pub struct Setting {
    folder: tempfile::TempDir,
}

impl Setting {
    pub fn new() -> Self {
        let setting = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(setting.path("shop.jsonl"), lessons(60)).unwrap();
        let leader = setting.path("leader");
        set_up(&leader).unwrap();
        let made = run(&leader, &["key", "new"]).unwrap();
        assert_eq!(made.code, 0, "{}", made.stderr);
        setting
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A node that takes part in trainings.
    pub fn member(&self, name: &str) -> Node {
        let home = self.path(name);
        set_up(&home).unwrap();
        take_part(&home);
        Node::start(&Built::skep(), &home).unwrap()
    }

    /// Three nodes with these settings of the recipe besides the usual ones.
    pub fn longer(&self, nodes: [&Node; 2], patience: &str, settings: &[&str]) -> Vec<String> {
        self.longer_by(&["--every", "4"], nodes, patience, settings)
    }

    /// The same, with what says how nodes train together.
    pub fn longer_by(
        &self,
        how: &[&str],
        nodes: [&Node; 2],
        patience: &str,
        settings: &[&str],
    ) -> Vec<String> {
        let mut all = self.arguments_by(how, &nodes.map(ticket), patience);
        all.retain(|word| !word.starts_with("steps="));
        all.extend(settings.iter().map(|word| (*word).to_owned()));
        all
    }

    pub fn arguments(&self, tickets: &[&str], patience: &str) -> Vec<String> {
        self.arguments_by(&["--every", "4"], tickets, patience)
    }

    /// The same, with what says how nodes train together.
    pub fn arguments_by(&self, how: &[&str], tickets: &[&str], patience: &str) -> Vec<String> {
        let data = self.path("shop.jsonl");
        let nodes = (tickets.len() + 1).to_string();
        let mut all = vec!["--json", "finetune", "--data", data.to_str().unwrap()];
        all.extend(["--nodes", &nodes, "--patience", patience]);
        all.extend(how);
        // Somebody has to show something in every turn.
        all.extend(["--audit", "100"]);
        for ticket in tickets {
            all.extend(["--provider", ticket]);
        }
        all.push("--");
        all.extend(SETTINGS);
        all.into_iter().map(str::to_owned).collect()
    }
}

/// Lets a node take part in trainings from its next start on.
pub fn take_part(home: &Path) {
    let configuration = home.join("config.toml");
    let mut text = fs::read_to_string(&configuration).unwrap();
    text.push_str("[trainings]\naccept = true\n");
    fs::write(configuration, text).unwrap();
}

pub fn ticket(node: &Node) -> &str {
    node.status["ticket"].as_str().unwrap()
}

/// A training that runs. It is ended when it takes too long, or when the test is over.
pub struct Leader {
    pub process: Child,
    output: BufReader<std::process::ChildStdout>,
    began: Instant,
}

impl Leader {
    pub fn start(home: &Path, arguments: &[String]) -> Self {
        let mut process = Command::new(Built::skep())
            .arg("--home")
            .arg(home)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let pid = process.id().to_string();
        std::thread::spawn(move || {
            std::thread::sleep(LONGEST);
            let _ = Command::new("kill").args(["-KILL", &pid]).status();
        });
        Self {
            output: BufReader::new(process.stdout.take().unwrap()),
            process,
            began: Instant::now(),
        }
    }

    /// Waits until it has said something.
    pub fn says(&mut self, what: &str) {
        let mut line = String::new();
        while !line.contains(what) {
            line.clear();
            let read = self.output.read_line(&mut line).unwrap();
            assert!(read > 0, "it ended before it said {what}");
        }
    }

    /// What came of it.
    pub fn result(mut self) -> Value {
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        let status = self.process.wait().unwrap();
        let took = self.began.elapsed();
        assert!(status.success(), "{status} after {took:?}: {text}");
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    }
}

pub fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap()
}

/// It has learned, and nobody was let go who should not have been.
pub fn assert_learned(trained: &Value) {
    let (before, after) = (
        number(trained, "/metrics/held-out-loss-before"),
        number(trained, "/metrics/held-out-loss"),
    );
    assert!(after < 0.5 * before, "{before} {after}");
}

/// A process that stands still until this is over.
pub struct Stopped(String);

impl Stopped {
    pub fn new(pid: u32) -> Self {
        let stopped = Self(pid.to_string());
        stopped.signal("-STOP");
        stopped
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.0]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}
