//! Language models as people bring them: a GGUF file, one in parts, a Hugging Face folder, and
//! files that are not what they say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod language;

use std::fs;
use std::path::{Path, PathBuf};

use language::Native;
use serde_json::Value;
use skep_tests::random::{self, Shape};
use skep_tests::{Built, Node, configure, run};

const LINE: &str = "Once upon a time";

struct Setting {
    folder: tempfile::TempDir,
    node: Node,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::start(&Built::skep(), &folder.path().join("home")).unwrap();
        node.ask(&["key", "new"]).unwrap();
        fs::write(folder.path().join("input"), LINE).unwrap();
        Self { folder, node }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn add(&self, path: &Path) -> Value {
        self.node
            .ask(&["model".as_ref(), "add".as_ref(), path.as_os_str()])
            .unwrap()
    }

    /// What the guest writes with a model, and the report.
    fn written(&self, node: &Node, model: &str) -> (Vec<u8>, Value) {
        let (input, output) = (self.path("input"), self.path("output"));
        let component = Built::component("generate");
        let report = node
            .ask(&[
                "run".as_ref(),
                component.as_os_str(),
                "--model".as_ref(),
                model.as_ref(),
                "--input".as_ref(),
                input.as_os_str(),
                "--output".as_ref(),
                output.as_os_str(),
                "--".as_ref(),
                "max-tokens=20".as_ref(),
            ])
            .unwrap();
        (fs::read(output).unwrap(), report)
    }
}

fn native(path: &Path) -> Vec<u8> {
    let native = Native::load(path);
    let request = native.request(LINE, 20);
    native.write(vec![request]).into_bytes()
}

#[test]
fn a_gguf_file_whole_or_in_parts_is_added_fetched_and_written_with() {
    let setting = Setting::new();
    let whole = setting.path("whole.gguf");
    random::gguf(&whole, &Shape::TINY, 7).unwrap();
    let parts = random::split_gguf(setting.folder.path(), "parted", 3, &Shape::TINY, 7).unwrap();
    let expected = native(&whole);
    assert!(expected.len() > 5, "{expected:?}");

    let added = setting.add(&whole);
    assert_eq!(added["published"]["task"], "language-model");
    assert_eq!(added["model"]["architecture"], "llama");
    assert_eq!(added["model"]["context"], Shape::TINY.context);
    let (written, report) = setting.written(&setting.node, "whole");
    assert_eq!(written, expected);
    assert_eq!(report["weights_bytes"], added["model"]["weights_bytes"]);
    // Without having been added, too.
    assert_eq!(
        setting.written(&setting.node, whole.to_str().unwrap()).0,
        expected
    );

    // Whichever part is named, all of them come along.
    let added = setting.add(&parts[1]);
    let other = Node::start(&Built::skep(), &setting.path("other")).unwrap();
    let ticket = added["ticket"].as_str().unwrap();
    let fetched = other.ask(&["install", ticket]).unwrap();
    assert_eq!(fetched["files"], 3);
    let reference = added["published"]["reference"].as_str().unwrap();
    assert_eq!(setting.written(&other, reference).0, expected);
    fs::remove_file(&parts[2]).unwrap();
    let ended = run(
        setting.node.home(),
        &["model", "add", parts[0].to_str().unwrap()],
    )
    .unwrap();
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("parted-00003-of-00003.gguf"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_smaller_model_guesses_and_nothing_of_it_shows_but_its_weights() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    let drafts = "[drafts]\nlarge = \"small\"\nodd = \"stranger\"\nlost = \"nowhere\"\n";
    configure(&home, drafts).unwrap();
    let node = Node::start(&Built::skep(), &home).unwrap();
    node.ask(&["key", "new"]).unwrap();
    fs::write(folder.path().join("input"), LINE).unwrap();
    let setting = Setting { folder, node };
    let other_tokens = Shape {
        vocabulary: Shape::TINY.vocabulary + 1,
        ..Shape::TINY
    };
    let mut weights = std::collections::BTreeMap::new();
    for (name, shape, seed) in [
        ("small", &Shape::TINY, 3),
        ("large", &Shape::TINY, 7),
        ("odd", &Shape::TINY, 9),
        ("lost", &Shape::TINY, 11),
        ("stranger", &other_tokens, 3),
    ] {
        let path = setting.path(&format!("{name}.gguf"));
        random::gguf(&path, shape, seed).unwrap();
        let added = setting.add(&path);
        weights.insert(name, added["model"]["weights_bytes"].as_u64().unwrap());
    }
    let (written, report) = setting.written(&setting.node, "large");
    assert_eq!(written, native(&setting.path("large.gguf")));
    assert_eq!(report["weights_bytes"], weights["small"] + weights["large"]);
    let (input, component) = (setting.path("input"), Built::component("generate"));
    for (model, code, says) in [
        ("odd", 1, "their tokens are not the same"),
        ("lost", 5, "[drafts] of config.toml, for lost"),
    ] {
        let arguments = ["run", component.to_str().unwrap(), "--model", model];
        let input = ["--input", input.to_str().unwrap()];
        let ended = run(setting.node.home(), &[&arguments[..], &input].concat()).unwrap();
        assert_eq!(ended.code, code, "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
}

/// This build has no way to a card: whoever names one is told how to build one that has, and does
/// not get the processor in its place.
#[test]
fn a_device_that_is_not_there_is_an_error_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (home, input) = (folder.path().join("home"), folder.path().join("input"));
    fs::write(&input, LINE).unwrap();
    let component = Built::component("generate");
    let arguments = ["run", component.to_str().unwrap(), "--input"];
    for (device, code, says) in [
        ("cuda:7", 1, "-p skep-node --features cuda"),
        ("vulkan", 1, "-p skep-node --features wgsl"),
        ("gpu", 2, "\"gpu\" is no device"),
    ] {
        configure(&home, &format!("[engine]\ndevice = \"{device}\"\n")).unwrap();
        let ended = run(
            &home,
            &[&arguments[..], &[input.to_str().unwrap()]].concat(),
        )
        .unwrap();
        assert_eq!(ended.code, code, "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
}

/// Nor does a node of this build begin to serve, whatever it is that would be computed on the card.
#[test]
fn a_node_that_has_no_way_to_its_device_says_so_when_it_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    for (table, device, feature) in [
        ("engine", "cuda", "cuda"),
        ("engine", "vulkan:1", "wgsl"),
        ("trainings", "cuda:1", "cuda"),
    ] {
        configure(&home, &format!("[{table}]\ndevice = \"{device}\"\n")).unwrap();
        let ended = run(&home, &["node"]).unwrap();
        assert_eq!((ended.code, &*ended.stdout), (1, ""), "{}", ended.stderr);
        let begins =
            format!("error: device in [{table}] of config.toml: this skep was built without");
        assert!(ended.stderr.starts_with(&begins), "{}", ended.stderr);
        let says = format!("--features {feature}`, or name the device \"processor\"");
        assert!(ended.stderr.contains(&says), "{}", ended.stderr);
    }
}

#[test]
fn a_gguf_file_with_a_tokenizer_of_sentencepiece_is_added_fetched_and_written_with() {
    let setting = Setting::new();
    let path = setting.path("pieces.gguf");
    random::sentencepiece_gguf(&path, &Shape::TINY, 7).unwrap();
    let expected = native(&path);
    assert!(!expected.is_empty());
    let native = Native::load(&path);
    let tokens = native.engine.model().encode_text(LINE).unwrap();
    // A text begins with its mark, and words are made of pieces rather than of bytes.
    assert!(tokens[0] == 1 && tokens.len() == 5, "{tokens:?}");
    added_fetched_and_written(&setting, &path, "pieces", &expected);
}

#[test]
fn a_folder_of_gptq_is_added_fetched_and_written_with() {
    let setting = Setting::new();
    let folder = setting.path("packed");
    let shape = with_tokenizer(&folder);
    random::gptq(&folder, &shape, 9).unwrap();
    let expected = native(&folder);
    assert!(!expected.is_empty());
    added_fetched_and_written(&setting, &folder, "packed", &expected);
    // Groups of another size than the file says are refused by the tensor's name.
    let config = folder.join("config.json");
    let other = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        other.replace("\"group_size\":32", "\"group_size\":64"),
    )
    .unwrap();
    let arguments = ["model", "add", folder.to_str().unwrap()];
    let ended = run(setting.node.home(), &arguments).unwrap();
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    assert!(ended.stderr.contains("scales"), "{}", ended.stderr);
}

/// Adds a model, has another node fetch it, and has a guest write with it on both.
fn added_fetched_and_written(setting: &Setting, path: &Path, name: &str, expected: &[u8]) {
    let added = setting.add(path);
    assert_eq!(added["published"]["task"], "language-model");
    assert_eq!(setting.written(&setting.node, name).0, expected);
    let other = Node::start(&Built::skep(), &setting.path(&format!("{name}-b"))).unwrap();
    other
        .ask(&["install", added["ticket"].as_str().unwrap()])
        .unwrap();
    assert_eq!(setting.written(&other, name).0, expected);
}

/// A Hugging Face folder of one model, with the tokenizer of another.
fn hugging_face(folder: &Path, shards: usize) {
    let shape = with_tokenizer(folder);
    random::hugging_face(folder, &shape, shards, 9).unwrap();
}

/// A folder with a tokenizer in it: the shape of a tiny model that it fits.
fn with_tokenizer(folder: &Path) -> Shape {
    let tokenizer = Built::root().join("host/text/tests/folders/smollm");
    fs::create_dir_all(folder).unwrap();
    for entry in fs::read_dir(tokenizer).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let text = fs::read(folder.join("tokenizer.json")).unwrap();
    let json: Value = serde_json::from_slice(&text).unwrap();
    Shape {
        vocabulary: json["model"]["vocab"].as_object().unwrap().len() + 64,
        ..Shape::TINY
    }
}

#[test]
fn a_hugging_face_folder_is_added_fetched_and_written_with() {
    let setting = Setting::new();
    for (name, shards) in [("one-file", 1), ("shards", 3)] {
        let folder = setting.path(name);
        hugging_face(&folder, shards);
        added_fetched_and_written(&setting, &folder, name, &native(&folder));
    }
}

#[test]
fn files_that_lie_are_refused_by_name_and_reason() {
    let setting = Setting::new();
    let good = setting.path("good.gguf");
    random::gguf(&good, &Shape::TINY, 7).unwrap();
    let bytes = fs::read(&good).unwrap();
    let refused = |path: &Path, codes: &[i32], reason: &str| {
        let ended = run(
            setting.node.home(),
            &["model", "add", path.to_str().unwrap()],
        )
        .unwrap();
        assert!(codes.contains(&ended.code), "{}", ended.stderr);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(ended.stderr.contains(name), "{name}: {}", ended.stderr);
        assert!(ended.stderr.contains(reason), "{reason}: {}", ended.stderr);
        // It is said in words, and the node is as it was.
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    };
    let changed = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = setting.path(name);
        let mut bytes = bytes.clone();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        path
    };
    let cut = changed("cut.gguf", &|bytes| bytes.truncate(bytes.len() / 2));
    refused(&cut, &[3], "");
    let magic = changed("magic.gguf", &|bytes| bytes.truncate(4));
    refused(&magic, &[3], "");
    let many = changed("many.gguf", &|bytes| bytes[8..16].fill(0xff));
    refused(&many, &[3], "");
    let long = changed("long.gguf", &|bytes| bytes[24..32].fill(0x7f));
    refused(&long, &[3], "");
    let none = changed("none.gguf", &|bytes| bytes[..4].copy_from_slice(b"GGML"));
    refused(&none, &[2], "is no GGUF file");
    let unknown = changed("unknown.gguf", &|bytes| {
        let at = bytes.windows(5).position(|five| five == b"llama").unwrap();
        bytes[at..at + 5].copy_from_slice(b"lemma");
    });
    refused(&unknown, &[3], "lemma");

    // A tokenizer with more tokens than the model, broken JSON, and weights that are not there.
    let folder = setting.path("folder");
    hugging_face(&folder, 1);
    let shape = Shape {
        vocabulary: 32,
        ..Shape::TINY
    };
    random::hugging_face(&folder, &shape, 1, 1).unwrap();
    refused(&folder, &[3], "token");
    fs::write(folder.join("config.json"), "{\"model_type\": ").unwrap();
    refused(&folder, &[3], "config.json");
    hugging_face(&folder, 1);
    fs::write(folder.join("model.safetensors"), [0xff; 64]).unwrap();
    refused(&folder, &[3], "model.safetensors");
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    refused(&folder, &[3, 5], "");
    refused(&setting.path("home/keys"), &[5], "no model in it");
    let listed = setting.node.ask(&["model", "list"]).unwrap();
    assert_eq!(listed["packages"], serde_json::json!([]));
}
