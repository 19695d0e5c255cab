//! The recipe in Rust and the same in Python through the real binary: from the same examples, with the
//! same settings, both come to the same losses and publish the same adapter.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use skep_tests::{Built, compiled, lessons, random, run};

/// Whether the recipe in Python was built too. Without it there is nothing to compare.
fn are_built() -> bool {
    std::env::var_os("SKEP_RUST_ONLY").is_none()
}

/// A home with a key, and a file of examples.
struct Setting {
    folder: tempfile::TempDir,
}

/// What came of a training.
#[derive(Debug, PartialEq)]
struct Trained {
    /// The loss of every step, as it was written down.
    losses: String,
    /// What is said of the adapter, but for the digest of the recipe.
    lineage: Value,
    card: String,
}

impl Setting {
    fn new(examples: &str) -> Self {
        let setting = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(setting.path("examples.jsonl"), examples).unwrap();
        compiled::share(&setting.path("home")).unwrap();
        setting.ask(&["key", "new"]);
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a command that has to succeed, and returns the last line that it prints.
    fn ask(&self, arguments: &[&str]) -> Value {
        let all = [&["--json"][..], arguments].concat();
        let ended = run(&self.path("home"), &all).unwrap();
        assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.stderr);
        serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap()
    }

    /// Trains by a recipe, under a name of its own, and returns the digest of what was published with
    /// what came of it.
    fn train(
        &self,
        recipe: &str,
        name: &str,
        options: &[&str],
        settings: &[&str],
    ) -> (String, Trained) {
        let name = format!("{name}-{recipe}");
        let (component, data) = (Built::component(recipe), self.path("examples.jsonl"));
        let mut all = vec!["finetune", "--out", &name];
        all.extend(["--recipe", component.to_str().unwrap()]);
        all.extend(["--data", data.to_str().unwrap()]);
        all.extend(options);
        all.push("--");
        all.extend(settings);
        let told = self.ask(&all);
        let room = self.path("home").join("trainings").join(&name);
        let read = |name: &str| fs::read_to_string(room.join(name)).unwrap();
        let mut lineage: Value = serde_json::from_str(&read("adapter/lineage.json")).unwrap();
        lineage.as_object_mut().unwrap().remove("recipe").unwrap();
        let trained = Trained {
            losses: read("losses.jsonl"),
            lineage,
            card: read("adapter/README.md"),
        };
        let digest = told.pointer("/finetuned/digest").and_then(Value::as_str);
        (digest.unwrap().to_owned(), trained)
    }

    /// Trains by both recipes, which have to come to the same, and returns what that is with the
    /// digest of what the one in Rust published.
    fn train_by_both(&self, name: &str, options: &[&str], settings: &[&str]) -> (String, Trained) {
        let train = |recipe| self.train(recipe, name, options, settings);
        let (rust, python) = (train("fine-tune"), train("fine-tune-python"));
        assert_eq!(python.1, rust.1);
        rust
    }
}

fn metric(trained: &Trained, name: &str) -> f64 {
    let metric = trained.lineage["metrics"][name].as_f64();
    metric.unwrap_or_else(|| panic!("{name}: {}", trained.lineage))
}

#[test]
fn a_small_model_learns_texts_and_labels_and_is_gone_on_from() {
    if !are_built() {
        return;
    }
    let goods = ["honey", "bread", "rope", "cheese", "apples", "wool"];
    let of = |number: usize| {
        let thing = goods[number % goods.len()];
        let label = if number.is_multiple_of(2) {
            "goods"
        } else {
            "talk"
        };
        match number % 3 {
            0 => json!({"text": format!("{number} pounds of {thing}")}),
            1 => json!({"text": format!("Is there {thing}, {number}?"), "label": label}),
            _ => json!({"prompt": format!("{number} {thing}"), "completion": " for a penny"}),
        }
    };
    let lines: String = (0..24).map(|number| format!("{}\n", of(number))).collect();
    let setting = Setting::new(&lines);
    let model = setting.path("tiny.gguf");
    random::gguf(&model, &random::Shape::TINY, 1).unwrap();
    setting.ask(&["model", "add", model.to_str().unwrap()]);

    // The upper layer only, and three of its matrices: names alone do not say that.
    let pattern = r"/.*\.1\.\w{3,9}\.(q|v|up)_proj/";
    let targets = format!("targets={pattern}");
    let made = ["rank=2", "alpha=3", targets.as_str(), "batch=4", "seed=5"];
    let first = [
        "steps=6",
        "learning-rate=0.01",
        "schedule=linear",
        "patience=0",
    ];
    let settings = [&made[..], &first].concat();
    let (parent, trained) = setting.train_by_both("first", &["--base", "tiny"], &settings);
    assert_eq!(trained.losses.lines().count(), 7);
    assert_eq!(trained.lineage["parent"], Value::Null);
    let told = &trained.lineage["hyper_parameters"]["targets"];
    assert_eq!(told, &json!(pattern));

    let options = ["--base", "tiny", "--from", "first-fine-tune"];
    let more = [
        "epochs=1",
        "schedule=constant",
        "warm-up=0",
        "weight-decay=0",
    ];
    let settings = [&made[..], &more].concat();
    let (_, gone_on) = setting.train_by_both("more", &options, &settings);
    assert_eq!(gone_on.lineage["parent"], json!(parent));
    let (ended, begun) = (
        metric(&trained, "held-out-loss"),
        metric(&gone_on, "held-out-loss-before"),
    );
    assert!((begun - ended).abs() < 1e-5, "{ended} {begun}");

    // Conversations are laid out by a template, which this model does not have.
    let chats = setting.path("chats.jsonl");
    fs::write(&chats, lessons(4)).unwrap();
    for recipe in ["fine-tune", "fine-tune-python"] {
        let component = Built::component(recipe);
        let mut all = vec!["finetune", "--base", "tiny", "--out", recipe];
        all.extend(["--recipe", component.to_str().unwrap()]);
        all.extend(["--data", chats.to_str().unwrap()]);
        let ended = run(&setting.path("home"), &all).unwrap();
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        let says =
            "line 1: tiny has no template for conversations; write `prompt` and `completion`";
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
}

#[test]
fn an_encoder_learns_labels_and_is_measured_at_the_end() {
    if !are_built() {
        return;
    }
    let of = |number: usize| {
        let (text, label) = match number % 3 {
            0 => ("The invoice was charged twice, refund me", "billing"),
            1 => ("The parcel has not arrived at my door", "shipping"),
            _ => ("I forgot the password and cannot sign in", "login"),
        };
        let split = if number < 60 { "train" } else { "test" };
        json!({"text": format!("{text}, number {number}"), "label": label, "split": split})
    };
    let lines: String = (0..75).map(|number| format!("{}\n", of(number))).collect();
    let setting = Setting::new(&lines);
    let train = |name: &str, settings: &[&str]| {
        let common = ["rank=4", "batch=12", "patience=0", "seed=3", "held-out=0.2"];
        let settings = [&common[..], settings].concat();
        let base = ["--base", "skep-mini-embed"];
        let (_, trained) = setting.train_by_both(name, &base, &settings);
        let classes = json!(["billing", "login", "shipping"]);
        assert_eq!(trained.lineage["classes"], classes);
        assert_eq!(metric(&trained, "test-examples"), 15.0);
        trained
    };
    let whole = train("whole", &["learning-rate=0.005", "epochs=4"]);
    assert!(
        whole.card.contains("| accuracy on them |"),
        "{}",
        whole.card
    );
    // By chance it is a third.
    let share = metric(&whole, "test-accuracy");
    assert!(share > 0.5, "{share}");
    // Nothing but the layer over it.
    let head = train("head", &["targets=none", "epochs=1"]);
    assert_eq!(head.lineage["hyper_parameters"]["targets"], json!("none"));
}
