//! The main job with real processes: one node publishes, another fetches, verifies and runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use skep_tests::{Built, Node, ask, guest_package};
use skep_tickets::Format;

/// A folder with the batch classifier as a package, and tickets with their right answers.
struct Job {
    folder: tempfile::TempDir,
    truth: HashMap<String, String>,
    bad_lines: Vec<u64>,
}

impl Job {
    fn new(tickets: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        guest_package("batch-classifier", &folder.path().join("package")).unwrap();
        let tickets = skep_tickets::tickets(11, tickets);
        let mut input = Vec::new();
        let bad_lines =
            skep_tickets::write_tickets(&mut input, &tickets, Format::Jsonl, false, Some(50))
                .unwrap();
        fs::write(folder.path().join("tickets.jsonl"), input).unwrap();
        let labels = skep_tickets::labels_to_json(&skep_tickets::labels(11, 8));
        fs::write(folder.path().join("labels.json"), labels).unwrap();
        Self {
            truth: tickets
                .into_iter()
                .map(|ticket| (ticket.id, ticket.label.to_owned()))
                .collect(),
            folder,
            bad_lines,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn run(&self, package: &str, output: &str) -> Vec<String> {
        [
            "run",
            package,
            "--input",
            &self.text("tickets.jsonl"),
            "--labels",
            &self.text("labels.json"),
            "--output",
            &self.text(output),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn accuracy(&self, output: &str) -> f64 {
        let lines = lines(&self.path(output));
        let right = lines
            .iter()
            .filter_map(|line| Some((line["id"].as_str()?, line["label"].as_str()?)))
            .filter(|(id, label)| self.truth[*id] == *label)
            .count();
        right as f64 / self.truth.len() as f64
    }
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap()
}

#[test]
fn a_package_moves_from_node_to_node_and_does_the_same_everywhere() {
    let job = Job::new(300);
    let skep = Built::skep();
    let a = Node::start(&skep, &job.path("a")).unwrap();
    let b = Node::start(&skep, &job.path("b")).unwrap();
    a.ask(&["key", "new"]).unwrap();
    let published = a.ask(&["publish", &job.text("package")]).unwrap();
    let model = Built::root().join("models/skep-mini-embed");
    let model = a.ask(&["model", "add", model.to_str().unwrap()]).unwrap();

    let component = b.ask(&["install", text(&published, "/ticket")]).unwrap();
    assert!(component["bytes_fetched"].as_u64().unwrap() > 0);
    assert!(component["chunks_verified"].as_u64().unwrap() > 0);
    assert_eq!(
        text(&component, "/installed/digest"),
        text(&published, "/published/digest")
    );
    b.ask(&["install", text(&model, "/ticket")]).unwrap();

    let reference = text(&published, "/published/reference");
    let mut run = job.run(reference, "from-b.jsonl");
    run.extend([
        "--model".to_owned(),
        text(&model, "/published/reference").to_owned(),
    ]);
    let report = b.ask(&run).unwrap();
    for field in [
        "records",
        "errors",
        "seconds",
        "records_per_s",
        "peak_memory_bytes",
        "device_bytes_peak",
        "flops",
        "host_calls",
    ] {
        assert!(report[field].as_f64().unwrap() > 0.0, "{field} in {report}");
    }
    assert_eq!(
        report["errors"].as_u64().unwrap(),
        job.bad_lines.len() as u64
    );

    // One line for each line of the input, in its order; the bad ones say where they stand.
    let out = lines(&job.path("from-b.jsonl"));
    assert_eq!(out.len(), 300 + job.bad_lines.len());
    let failed: Vec<u64> = out
        .iter()
        .filter_map(|line| line["line"].as_u64())
        .collect();
    assert_eq!(failed, job.bad_lines);

    // The publisher gets the same bytes as the node that fetched it.
    let mut run = job.run(reference, "from-a.jsonl");
    run.extend([
        "--model".to_owned(),
        text(&model, "/published/reference").to_owned(),
    ]);
    a.ask(&run).unwrap();
    assert_eq!(
        fs::read(job.path("from-a.jsonl")).unwrap(),
        fs::read(job.path("from-b.jsonl")).unwrap()
    );
    // Guessing among eight labels is right one time in eight.
    assert!(job.accuracy("from-b.jsonl") > 0.5);

    // C gets everything from B, after A has gone.
    drop(a);
    let c = Node::start(&skep, &job.path("c")).unwrap();
    let fetched = c
        .ask(&["install", reference, "--from", text(&b.status, "/ticket")])
        .unwrap();
    assert_eq!(
        text(&fetched, "/installed/digest"),
        text(&published, "/published/digest")
    );
    assert_eq!(fetched["providers"][0], b.status["node"]);
}

#[test]
fn a_command_without_a_node_does_the_work_itself() {
    let job = Job::new(40);
    let skep = Built::skep();
    let home = job.path("home");
    skep_tests::set_up(&home).unwrap();
    ask(&skep, &home, &["key", "new"]).unwrap();
    let published = ask(&skep, &home, &["publish", &job.text("package")]).unwrap();
    let again = ask(&skep, &home, &["publish", &job.text("package")]).unwrap();
    assert_eq!(published["published"], again["published"]);
    assert_eq!(again["releases"], 1);
    let listed = ask(&skep, &home, &["list"]).unwrap();
    assert_eq!(listed["packages"][0], published["published"]);
    let report = ask(&skep, &home, &job.run("batch-classifier", "out.jsonl")).unwrap();
    assert_eq!(report["records"], 40);
    assert_eq!(report["model"], "skep-mini-embed");
}

/// The same algorithm against the same contract in three languages: what differs shows in the
/// contract, not in the labels.
#[test]
fn rust_python_and_javascript_give_the_same_labels() {
    if std::env::var_os("SKEP_RUST_ONLY").is_some() {
        return;
    }
    let job = Job::new(200);
    let skep = Built::skep();
    let home = job.path("home");
    let labels = |component: &str| -> Vec<Value> {
        let component = Built::component(component);
        let output = format!("{}.jsonl", component.file_stem().unwrap().to_str().unwrap());
        ask(&skep, &home, &job.run(component.to_str().unwrap(), &output)).unwrap();
        lines(&job.path(&output))
            .into_iter()
            .map(|line| line["label"].clone())
            .collect()
    };
    skep_tests::set_up(&home).unwrap();
    let rust = labels("batch-classifier");
    assert_eq!(rust, labels("batch-classifier-python"));
    assert_eq!(rust, labels("batch-classifier-js"));
}
