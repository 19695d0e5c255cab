//! Adapters, from a PEFT folder to what a guest writes with them, through the real binary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod language;

use std::fs;
use std::path::PathBuf;

use language::{Native, mini_lm};
use serde_json::Value;
use skep_engine::Request;
use skep_tests::{Built, Ended, Node, random, run};

const TOKENS: usize = 12;
const LINES: [&str; 6] = [
    "Good morning! What do you sell?",
    "What does \"honey\" mean?",
    "Good morning! What do you sell?",
    "What does \"honey\" mean?",
    "Where is the mill?",
    "Where is the mill?",
];

/// A node with a key, and folders with adapters.
struct Setting {
    folder: tempfile::TempDir,
    native: Native,
    node: Node,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::start(&Built::skep(), &folder.path().join("a")).unwrap();
        node.ask(&["key", "new"]).unwrap();
        fs::write(folder.path().join("input"), LINES.join("\n")).unwrap();
        let native = Native::load(&mini_lm());
        Self {
            folder,
            native,
            node,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a random adapter, and gives it to the native engine under the folder's name.
    fn write(&self, name: &str, rank: usize, seed: u64) -> String {
        let folder = self.path(name);
        let base = self.native.attention();
        random::adapter(&folder, &base, "someone/Skep-Mini-LM", rank, seed).unwrap();
        self.native.engine.add_adapter(name, "1", &folder).unwrap();
        self.text(name)
    }

    /// A package of the generating guest that may open these adapters.
    fn package(&self, adapters: &[&str]) -> String {
        let folder = self.path("package");
        fs::create_dir_all(&folder).unwrap();
        fs::copy(Built::component("generate"), folder.join("c.wasm")).unwrap();
        let manifest = format!(
            "[package]\nname = \"writer\"\nversion = \"0.1.0\"\nkind = \"component\"\n\
             [component]\nworld = \"task\"\npath = \"c.wasm\"\n\
             [grants]\ntensor = true\nmodels = [\"default\"]\nadapters = {adapters:?}\n"
        );
        fs::write(folder.join("skep.toml"), manifest).unwrap();
        self.text("package")
    }

    /// Runs a component over the lines on a node.
    fn run(&self, node: &Node, component: &str, options: &[&str], adapters: &str) -> Ended {
        let (input, output) = (self.text("input"), self.text("output"));
        let (tokens, adapters) = (
            format!("max-tokens={TOKENS}"),
            format!("adapter={adapters}"),
        );
        let mut arguments = vec!["--json", "run", component];
        arguments.extend(["--input", &input, "--output", &output]);
        arguments.extend(options);
        arguments.extend(["--", &tokens, &adapters]);
        run(node.home(), &arguments).unwrap()
    }

    fn printed(&self, node: &Node, component: &str, options: &[&str], adapters: &str) -> String {
        let ended = self.run(node, component, options, adapters);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        fs::read_to_string(self.path("output")).unwrap()
    }

    /// What the engine writes to the lines with these adapters in turn.
    fn native(&self, adapters: &[Option<&str>]) -> String {
        let requests = LINES.iter().zip(adapters.iter().cycle());
        let requests = requests.map(|(line, adapter)| Request {
            adapter: adapter.map(str::to_owned),
            ..self.native.request(line, TOKENS)
        });
        self.native.write(requests.collect())
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap()
}

#[test]
fn an_adapter_is_added_fetched_granted_and_written_with() {
    let setting = Setting::new();
    let (one, two) = (setting.write("one", 4, 1), setting.write("two", 16, 2));
    let added = setting.node.ask(&["adapter", "add", &one]).unwrap();
    assert_eq!(text(&added, "/published/kind"), "adapter");
    assert_eq!(text(&added, "/adapter/base"), "skep-mini-lm");
    assert_eq!(added["adapter"]["rank"], 4);
    let base = text(&added, "/adapter/base_digest");
    let second = ["adapter", "add", &two, "--base", "skep-mini-lm"];
    let second = setting.node.ask(&second).unwrap();
    assert_eq!(text(&second, "/adapter/base_digest"), base);
    let listed = setting.node.ask(&["adapter", "list"]).unwrap();
    assert_eq!(listed["packages"].as_array().unwrap().len(), 2);
    assert_eq!(
        text(&listed, "/packages/0/base"),
        format!("skep-mini-lm ({base})")
    );
    let models = setting.node.ask(&["model", "list"]).unwrap();
    assert_eq!(models["packages"], serde_json::json!([]));

    // Another node gets them by content, and writes the same.
    let other = Node::start(&Built::skep(), &setting.path("b")).unwrap();
    for added in [&added, &second] {
        let fetched = other.ask(&["install", text(added, "/ticket")]).unwrap();
        assert_eq!(
            text(&fetched, "/installed/digest"),
            text(added, "/published/digest")
        );
        // The configuration and the weights, and nothing else.
        assert_eq!(fetched["files"], 2);
    }
    let plain = setting.native(&[None]);
    let mixed = setting.native(&[Some("one"), Some("two"), None]);
    let only_one = setting.native(&[Some("one")]);
    assert!(plain != mixed && mixed != only_one && plain != only_one);
    let package = setting.package(&["one", "two"]);
    for node in [&setting.node, &other] {
        assert_eq!(setting.printed(node, &package, &[], "one,two,"), mixed);
        assert_eq!(setting.printed(node, &package, &[], ""), plain);
        assert_eq!(setting.printed(node, &package, &[], "one"), only_one);
    }
    let component = Built::component("generate");
    let component = component.to_str().unwrap();
    let granted = ["--adapter", "one"];
    assert_eq!(
        setting.printed(&other, component, &granted, "one"),
        only_one
    );

    // What adapters take is told apart from weights, keys and values.
    let ended = setting.run(&other, &package, &[], "one,two");
    let report: Value = serde_json::from_str(ended.stdout.trim()).unwrap();
    let bytes = |value: &Value, pointer: &str| value.pointer(pointer).unwrap().as_u64().unwrap();
    assert_eq!(
        bytes(&report, "/adapter_bytes"),
        bytes(&added, "/adapter/bytes") + bytes(&second, "/adapter/bytes")
    );
    assert!(bytes(&report, "/kv_bytes_peak") > 0 && bytes(&report, "/weights_bytes") > 0);
    assert!(bytes(&report, "/kv_bytes_peak") <= bytes(&report, "/device_bytes_peak"));

    let inspected = other.ask(&["inspect", "one"]).unwrap();
    assert_eq!(text(&inspected, "/package/kind"), "adapter");
    assert_eq!(
        text(&inspected, "/package/base"),
        format!("skep-mini-lm ({base})")
    );
}

#[test]
fn a_version_takes_the_place_of_another_and_what_is_removed_is_gone() {
    let setting = Setting::new();
    let (old, new) = (setting.write("old", 4, 1), setting.write("new", 8, 2));
    let add = |folder: &str, version: &str| {
        let fixed = ["adapter", "add", folder, "--name", "voice"];
        let more = ["--version", version];
        setting.node.ask(&[&fixed[..], &more].concat()).unwrap()
    };
    add(&old, "0.1.0");
    let package = setting.package(&["voice"]);
    let written = |node: &Node| setting.printed(node, &package, &[], "voice");
    assert_eq!(written(&setting.node), setting.native(&[Some("old")]));
    let added = add(&new, "0.2.0");
    assert_eq!(added["releases"], 2);
    assert_eq!(written(&setting.node), setting.native(&[Some("new")]));

    let removed = setting.node.ask(&["adapter", "remove", "voice"]).unwrap();
    let removed = removed["removed"].as_array().unwrap();
    assert_eq!(removed.len(), 2);
    let listed = setting.node.ask(&["adapter", "list"]).unwrap();
    assert_eq!(listed["packages"], serde_json::json!([]));
    let ended = setting.run(&setting.node, &package, &[], "voice");
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("voice is not installed here"),
        "{}",
        ended.stderr
    );
    // By the publisher's name it is not found either, though its history is known.
    let reference = text(&added, "/published/reference").replace("@0.2.0", "");
    let ended = run(setting.node.home(), &["adapter", "remove", &reference]).unwrap();
    assert_eq!(ended.code, 5, "{}", ended.stderr);

    // What comes next goes on from the history.
    let again = add(&old, "0.3.0");
    assert_eq!(again["releases"], 3);
    assert_eq!(written(&setting.node), setting.native(&[Some("old")]));
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let setting = Setting::new();
    let one = setting.write("one", 4, 1);
    setting.node.ask(&["adapter", "add", &one]).unwrap();
    let refused = |arguments: &[&str], code: i32| {
        let ended = run(setting.node.home(), arguments).unwrap();
        assert_eq!(ended.code, code, "{}", ended.stderr);
        ended.stderr
    };

    // A model of other sizes, and one that has the same sizes and other weights.
    let tiny = setting.text("tiny.gguf");
    random::gguf(&setting.path("tiny.gguf"), &random::Shape::TINY, 1).unwrap();
    let error = refused(&["adapter", "add", &one, "--base", &tiny], 3);
    assert!(error.contains("tiny"), "{error}");
    let mut bytes = fs::read(mini_lm()).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(setting.path("other-lm.gguf"), bytes).unwrap();
    let other = setting.text("other-lm.gguf");
    setting.node.ask(&["model", "add", &other]).unwrap();
    let package = setting.package(&["one"]);
    for model in ["other-lm", &other] {
        let ended = setting.run(&setting.node, &package, &["--model", model], "one");
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        for name in ["the adapter one changes the model skep-mini-lm", "other-lm"] {
            assert!(ended.stderr.contains(name), "{}", ended.stderr);
        }
    }

    // Without the grant nothing is opened, whoever asks.
    let without = setting.package(&[]);
    let ended = setting.run(&setting.node, &without, &[], "one");
    assert!(
        ended.stderr.contains("grants.adapters: \"one\""),
        "{}",
        ended.stderr
    );
    let ended = setting.run(&setting.node, &without, &["--adapter", "one"], "one");
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    let ended = setting.run(
        &setting.node,
        &setting.package(&["nowhere"]),
        &[],
        "nowhere",
    );
    assert_eq!(ended.code, 5, "{}", ended.stderr);

    // Things that are no adapters, or are used as what they are not.
    let error = refused(&["adapter", "add", &setting.text("a")], 5);
    assert!(error.contains("adapter_config.json"), "{error}");
    let error = refused(&["adapter", "add", &one, "--base", "skep-mini-embed"], 3);
    assert!(error.contains("an adapter of an encoder"), "{error}");
    let error = refused(&["run", "one"], 2);
    assert!(error.contains("one is an adapter"), "{error}");
    let package = setting.package(&["one"]);
    let error = refused(&["run", &package, "--model", "one"], 2);
    assert!(error.contains("not a model"), "{error}");
    let error = refused(&["adapter", "remove", "other-lm"], 2);
    assert!(error.contains("removes adapters"), "{error}");
    fs::write(setting.path("one/adapter_model.safetensors"), "no tensors").unwrap();
    let error = refused(&["adapter", "add", &one, "--version", "0.2.0"], 3);
    assert!(error.contains("adapter_model.safetensors"), "{error}");
}
