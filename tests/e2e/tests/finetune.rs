//! `skep finetune` through the real binary: from examples in a file to an adapter that a guest
//! writes with, interrupted and not, and everything that can be wrong on the way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod language;
#[allow(dead_code, reason = "these tests cut no cable")]
mod places;
#[path = "finetune/settings.rs"]
mod settings;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use language::Native;
use places::{Disk, is_root};
use serde_json::Value;
use skep_tests::{Built, Ended, Node, lessons, random, run, set_up};

/// Settings of a training of a few seconds.
const QUICK: [&str; 4] = ["rank=4", "batch=4", "learning-rate=0.01", "held-out=0.2"];

/// A home with a key, and a file of examples.
struct Setting {
    folder: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        let setting = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(setting.path("shop.jsonl"), lessons(20)).unwrap();
        let made = run(&setting.path("home"), &["key", "new"]).unwrap();
        assert_eq!(made.code, 0, "{}", made.stderr);
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The arguments of a training with these options and settings, on the examples and by the
    /// recipe as it was built last unless they name others.
    fn arguments(&self, options: &[&str], settings: &[&str]) -> Vec<String> {
        let recipe = Built::component("fine-tune");
        let (data, recipe) = (self.text("shop.jsonl"), recipe.to_str().unwrap());
        let mut all = vec!["--json", "finetune"];
        for (option, value) in [("--data", data.as_str()), ("--recipe", recipe)] {
            if !options.contains(&option) {
                all.extend([option, value]);
            }
        }
        all.extend(options);
        all.push("--");
        all.extend(settings);
        all.into_iter().map(str::to_owned).collect()
    }

    fn train(&self, options: &[&str], settings: &[&str]) -> Ended {
        run(&self.path("home"), &self.arguments(options, settings)).unwrap()
    }

    /// A training of the examples by the recipe that comes with skep, whose author asks for a
    /// twentieth of every price.
    fn train_simply(&self, settings: &[&str]) -> Ended {
        let data = self.text("shop.jsonl");
        let command = ["--json", "finetune", "--data", &data, "--share", "5", "--"];
        run(&self.path("home"), &[&command[..], settings].concat()).unwrap()
    }

    fn training(&self, name: &str, file: &str) -> PathBuf {
        self.path("home").join("trainings").join(name).join(file)
    }

    fn losses(&self, name: &str) -> String {
        fs::read_to_string(self.training(name, "losses.jsonl")).unwrap()
    }

    fn lineage(&self, name: &str) -> Value {
        let text = fs::read(self.training(name, "adapter/lineage.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

fn last(ended: &Ended) -> Value {
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap()
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap()
}

#[test]
fn an_adapter_is_trained_published_and_written_with() {
    let setting = Setting::new();
    let node = Node::start(&Built::skep(), &setting.path("home")).unwrap();
    let settings = [&QUICK[..], &["steps=24", "evaluate-every=8"]].concat();
    let ended = setting.train_simply(&settings);
    let trained = last(&ended);
    assert!(text(&trained, "/finetuned/reference").ends_with("/shop@0.1.0"));
    assert_eq!(text(&trained, "/adapter/base"), "skep-mini-lm");
    assert_eq!(
        number(&trained, "/steps"),
        number(&trained, "/metrics/best-step")
    );
    let (before, after) = (
        number(&trained, "/metrics/held-out-loss-before"),
        number(&trained, "/metrics/held-out-loss"),
    );
    assert!(after < 0.5 * before, "{before} {after}");

    // Every step was told as it was made, and is in the file.
    let losses = setting.losses("shop");
    assert_eq!(losses.lines().count(), 25);
    let told = ended
        .stdout
        .lines()
        .filter(|line| line.contains("\"loss\""));
    assert!(told.count() > 1);
    let picture = fs::read(text(&trained, "/plot")).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
    let card = fs::read_to_string(text(&trained, "/card")).unwrap();
    assert!(card.contains("An adapter of skep-mini-lm"), "{card}");

    // The package says where it comes from, and has none of the examples.
    let lineage = setting.lineage("shop");
    assert_eq!(
        text(&lineage, "/base/digest"),
        text(&trained, "/adapter/base_digest")
    );
    assert_eq!(lineage["parent"], Value::Null);
    let data = fs::read(setting.path("shop.jsonl")).unwrap();
    assert_eq!(text(&lineage, "/data"), blake3::hash(&data).to_string());
    let recipe = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../guests/fine-tune/built/fine-tune.wasm"
    );
    let recipe = fs::read(recipe).unwrap();
    assert_eq!(text(&lineage, "/recipe"), blake3::hash(&recipe).to_string());
    assert_eq!(text(&lineage, "/hyper_parameters/rank"), "4");
    let inspected = node.ask(&["inspect", "shop"]).unwrap();
    let files = inspected["files"].as_array().unwrap();
    let names: Vec<&str> = files.iter().map(|file| text(file, "/path")).collect();
    assert_eq!(
        names,
        [
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "lineage.json"
        ]
    );

    // A guest writes with it as it was taught.
    let question = "What do you sell on Friday?";
    fs::write(setting.path("question"), question).unwrap();
    let written = |options: &[&str], adapter: &str| {
        let (input, output) = (setting.text("question"), setting.text("answer"));
        let component = Built::component("generate");
        let mut all = vec!["run", component.to_str().unwrap()];
        all.extend(["--input", &input, "--output", &output]);
        all.extend(options);
        all.extend(["--", "max-tokens=20", adapter]);
        let ended = run(node.home(), &all).unwrap();
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        fs::read_to_string(&output).unwrap()
    };
    let (taught, untaught) = (
        written(&["--adapter", "shop"], "adapter=shop"),
        written(&[], "adapter="),
    );
    assert!(
        taught.contains(" we sell ") && taught.contains(", and only "),
        "{taught} / {untaught}"
    );
    assert!(!untaught.contains(" we sell "), "{untaught}");

    // Trained on, it is the parent of what comes of it.
    let settings = [&QUICK[..], &["steps=2"]].concat();
    let options = ["--from", "shop", "--out", "stall", "--share", "2.5"];
    let child = last(&setting.train(&options, &settings));
    let lineage = setting.lineage("stall");
    assert_eq!(
        text(&lineage, "/parent"),
        text(&trained, "/finetuned/digest")
    );
    let family = &node.ask(&["inspect", "stall"]).unwrap()["family"];
    let members = family["members"].as_array().unwrap();
    let references: Vec<&str> = members.iter().map(|m| text(m, "/reference")).collect();
    assert_eq!(
        references,
        [
            text(&trained, "/finetuned/reference"),
            text(&child, "/finetuned/reference")
        ]
    );
    // Both are by one author, who gets the sum.
    assert_eq!(number(family, "/shares/0/percent"), 7.5);
    let parent = &node.ask(&["inspect", "shop"]).unwrap()["family"];
    assert_eq!(
        text(parent, "/children/0"),
        text(&child, "/finetuned/reference")
    );
    let drawn = run(node.home(), &["inspect", "stall"]).unwrap().stdout;
    assert!(
        drawn.contains("asks for 5 %") && drawn.contains("← this one"),
        "{drawn}"
    );
    let greedy = ["--from", "stall", "--out", "greedy", "--share", "93"];
    let refused = setting.train(&greedy, &settings);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("more than the whole"),
        "{}",
        refused.stderr
    );
    let begun = number(&child, "/metrics/held-out-loss-before");
    assert!((begun - after).abs() < 1e-6, "{begun} {after}");
    // The same name once more is its next version.
    let again = last(&setting.train(&[], &[&QUICK[..], &["steps=1"]].concat()));
    assert!(text(&again, "/finetuned/reference").ends_with("/shop@0.1.1"));
    assert_eq!(number(&again, "/releases"), 2.0);
}

#[test]
fn ctrl_c_keeps_a_checkpoint_and_the_same_command_goes_on() {
    let setting = Setting::new();
    let settings = [&QUICK[..], &["steps=60", "evaluate-every=10", "patience=0"]].concat();
    last(&setting.train(&["--out", "whole"], &settings));

    let home = setting.path("home");
    set_up(&home).unwrap();
    let arguments = setting.arguments(&["--out", "broken"], &settings);
    let mut process = Command::new(Built::skep())
        .arg("--home")
        .arg(&home)
        .args(&arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let third = lines.find(|line| line.as_ref().unwrap().contains("\"step\":3,"));
    assert!(third.is_some(), "it ended before step 3");
    let pid = process.id().to_string();
    let asked = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(asked.success());
    let mut says = String::new();
    let mut errors = process.stderr.take().unwrap();
    std::io::Read::read_to_string(&mut errors, &mut says).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(1), "{says}");
    assert!(says.contains("the same command goes on"), "{says}");
    let broken = setting.losses("broken");
    let whole = setting.losses("whole");
    assert!(
        whole.starts_with(&broken) && broken.len() < whole.len(),
        "{broken}"
    );
    assert!(setting.training("broken", "last.checkpoint").is_file());

    // Other data are another training, and what was begun is not lost by accident.
    fs::rename(setting.path("shop.jsonl"), setting.path("kept")).unwrap();
    fs::write(setting.path("shop.jsonl"), lessons(21)).unwrap();
    let refused = setting.train(&["--out", "broken"], &settings);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("other data"), "{}", refused.stderr);
    fs::rename(setting.path("kept"), setting.path("shop.jsonl")).unwrap();

    last(&setting.train(&["--out", "broken"], &settings));
    assert_eq!(setting.losses("broken"), whole);
    let weights = |name: &str| text(&setting.lineage(name), "/weights").to_owned();
    assert_eq!(weights("broken"), weights("whole"));
    assert!(!setting.training("broken", "last.checkpoint").exists());
}

/// A training that runs, by a program that stands in for `skep`.
struct Running {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(skep: &std::path::Path, home: &std::path::Path, arguments: &[String]) -> Self {
        let mut process = Command::new(skep)
            .arg("--home")
            .arg(home)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// The next step that it tells of, with its loss; none once it has ended.
    fn step(&mut self) -> Option<(u64, f64)> {
        loop {
            let told: Value = serde_json::from_str(&self.lines.next()?.unwrap()).unwrap();
            if let (Some(step), Some(loss)) = (told["step"].as_u64(), told["loss"].as_f64()) {
                return Some((step, loss));
            }
        }
    }

    /// What it says when it fails.
    fn fails(mut self) -> String {
        let mut says = String::new();
        let mut errors = self.process.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut errors, &mut says).unwrap();
        assert_eq!(self.process.wait().unwrap().code(), Some(1), "{says}");
        says
    }
}

#[test]
fn a_full_disk_at_a_checkpoint_leaves_the_one_before_it_whole() {
    if !is_root() {
        return;
    }
    let setting = Setting::new();
    let home = setting.path("home");
    set_up(&home).unwrap();
    let disk = Disk::new(&home, "256m");
    let node = Node::start(disk.skep(), &home).unwrap();
    // Far more steps than there is time for: it ends when a checkpoint cannot be kept.
    let settings = [
        &QUICK[..],
        &["steps=100000", "evaluate-every=4", "patience=0"],
    ]
    .concat();
    let arguments = setting.arguments(&[], &settings);
    let inside = disk.inside(&node);
    let mut training = Running::start(&inside, &home, &arguments);
    let mut told = Vec::new();
    while told.last().is_none_or(|(step, _)| *step < 9) {
        told.push(training.step().expect("it ended before step 9"));
    }
    disk.fill(&node);
    while let Some(step) = training.step() {
        told.push(step);
    }
    let said = training.fails();
    assert!(said.contains("No space left on device"), "{said}");

    // It goes on from the last checkpoint that was kept, as if nothing had been.
    disk.empty(&node);
    let mut again = Running::start(&inside, &home, &arguments);
    let (first, loss) = again.step().unwrap();
    assert!(first > 8 && first % 4 == 1, "{first}");
    let before = told.iter().find(|(step, _)| *step == first);
    assert!(
        before.is_none_or(|(_, before)| *before == loss),
        "{before:?} {loss}"
    );
    let pid = again.process.id().to_string();
    let asked = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(asked.success());
    let said = again.fails();
    assert!(said.contains("the same command goes on"), "{said}");
}

#[test]
fn what_cannot_be_trained_is_told_and_leaves_no_adapter() {
    let setting = Setting::new();
    let refused = |options: &[&str], settings: &[&str], code: i32, says: &str| {
        let ended = setting.train(options, settings);
        assert_eq!(ended.code, code, "{says}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{says}: {}", ended.stderr);
    };
    let file = |name: &str, lines: &str| {
        fs::write(setting.path(name), lines).unwrap();
        setting.text(name)
    };
    let good = "{\"text\": \"Good morning.\"}\n";
    for (lines, says) in [
        (format!("{good}{{\"text\":"), "line 2 is not JSON"),
        (String::new(), "there is nothing to learn from"),
        (
            format!("{good}{{\"text\": \"{}\"}}", "on and ".repeat(4000)),
            "line 2 has",
        ),
    ] {
        let data = file("bad.jsonl", &lines);
        refused(&["--data", &data], &QUICK, 1, says);
    }
    refused(
        &["--data", &setting.text("none.jsonl")],
        &QUICK,
        5,
        "none.jsonl",
    );
    refused(&["--key", "other"], &QUICK, 5, "other");
    refused(&["--recipe", "nowhere"], &QUICK, 5, "Without --recipe");
    let classifier = Built::component("batch-classifier");
    refused(
        &["--recipe", classifier.to_str().unwrap()],
        &QUICK,
        3,
        "no fine-tune",
    );
    refused(
        &["--out", "No Name"],
        &QUICK,
        2,
        "a name has lower-case letters",
    );
    refused(&[], &["rank"], 2, "name=value");
    refused(&[], &["rank=many"], 1, "rank is `many`");
    refused(&["--device-memory", "1 MiB"], &QUICK, 4, "device-memory");
    let wild = [&QUICK[..2], &["learning-rate=1000", "held-out=0.2"]].concat();
    refused(
        &["--out", "wild"],
        &wild,
        1,
        "the training diverged after step",
    );
    assert!(setting.training("wild", "last.checkpoint").is_file());
    let tamed = last(&setting.train(
        &["--out", "wild"],
        &[&QUICK[..], &["evaluate-every=2"]].concat(),
    ));
    assert!(number(&tamed, "/metrics/held-out-loss") > 0.0);

    // An adapter of another model.
    let tiny = setting.path("tiny.gguf");
    random::gguf(&tiny, &random::Shape::TINY, 1).unwrap();
    let attention = Native::load(&tiny).attention();
    random::adapter(&setting.path("stray"), &attention, "tiny", 4, 1).unwrap();
    let (tiny, stray) = (setting.text("tiny.gguf"), setting.text("stray"));
    for command in [
        vec!["model", "add", &tiny],
        vec!["adapter", "add", &stray, "--base", "tiny"],
    ] {
        let added = run(&setting.path("home"), &command).unwrap();
        assert_eq!(added.code, 0, "{}", added.stderr);
    }
    refused(
        &["--from", "stray"],
        &QUICK,
        1,
        "the adapter stray changes the model tiny",
    );
    refused(&["--from", "nobody"], &QUICK, 5, "nobody");
    refused(&["--base", "stray"], &QUICK, 5, "no model in it");
    let listed = run(&setting.path("home"), &["--json", "adapter", "list"]).unwrap();
    let listed = last(&listed);
    let names: Vec<&str> = listed["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| text(p, "/reference"))
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

/// A sentence encoder learns the labels of texts, and a training of it goes on from another.
#[test]
fn an_encoder_learns_to_tell_texts_apart() {
    let setting = Setting::new();
    let lines = |split: &str, from: usize, to: usize| -> String {
        let one = |n: usize| {
            let (text, label) = match n % 3 {
                0 => ("The invoice was charged twice, refund me", "billing"),
                1 => ("The parcel has not arrived at my door", "shipping"),
                _ => ("I forgot the password and cannot sign in", "login"),
            };
            let line = serde_json::json!({
                "text": format!("{text}, number {n}"), "label": label, "split": split,
            });
            format!("{line}\n")
        };
        (from..to).map(one).collect()
    };
    let all = [lines("train", 0, 60), lines("test", 60, 90)].concat();
    fs::write(setting.path("desk.jsonl"), &all).unwrap();
    let data = setting.text("desk.jsonl");
    let with = |options: &[&str]| -> Vec<String> {
        let common = ["--data", &data, "--base", "skep-mini-embed"];
        let all = common.iter().chain(options);
        all.map(|word| (*word).to_owned()).collect()
    };
    let train = |options: &[&str], settings: &[&str]| {
        let options = with(options);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        setting.train(&options, settings)
    };
    let settings = ["rank=4", "batch=12", "learning-rate=0.005", "epochs=4"];
    let trained = last(&train(&["--out", "desk"], &settings));
    assert_eq!(text(&trained, "/adapter/base"), "skep-mini-embed");
    assert_eq!(number(&trained, "/metrics/test-examples"), 30.0);
    let accuracy = number(&trained, "/metrics/test-accuracy");
    assert!(accuracy > 0.9, "{accuracy}");
    let lineage = setting.lineage("desk");
    assert_eq!(
        lineage["classes"],
        serde_json::json!(["billing", "login", "shipping"])
    );

    let mut more = settings.to_vec();
    more.push("seed=1");
    let child = last(&train(&["--out", "desk-two", "--from", "desk"], &more));
    assert_eq!(
        text(&setting.lineage("desk-two"), "/parent"),
        text(&trained, "/finetuned/digest")
    );
    let begun = number(&child, "/metrics/held-out-loss-before");
    assert!(
        begun < 0.5,
        "{begun}: it did not begin where the other ended"
    );
    // Nothing but the layer over it.
    let head = [&settings[..], &["targets=none"]].concat();
    let head = last(&train(&["--out", "head"], &head));
    assert!(number(&head, "/metrics/test-accuracy") > 0.34);

    // A label that only tests have is one that nothing teaches.
    let untaught = "{\"text\": \"Ship it abroad\", \"label\": \"export\", \"split\": \"test\"}";
    fs::write(setting.path("desk.jsonl"), all + untaught).unwrap();
    let refused = train(&["--out", "untaught"], &settings);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    for says in ["line 91: the label", "is only in the part for tests"] {
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
    }

    let unlabelled = setting.text("shop.jsonl");
    let refused = setting.train(
        &["--data", &unlabelled, "--base", "skep-mini-embed"],
        &settings,
    );
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("`text` and `label`"),
        "{}",
        refused.stderr
    );
}
