//! Guests in three languages write with the language model that comes with skep, through the real
//! binary: what they print is what the engine writes without any of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod language;

use std::fs;
use std::path::PathBuf;

use language::{Native, mini_lm};
use serde_json::Value;
use skep_engine::{Request, Sampling};
use skep_tests::{Built, Node, compiled};

const LINES: [&str; 5] = [
    "What does \"honey\" mean?",
    "ticket: I was charged twice for March.",
    "Good morning! What do you sell?",
    "It is a truth universally acknowledged, that",
    "libfoo1",
];
const TOKENS: usize = 24;

/// The same workload in each language.
fn components() -> Vec<&'static str> {
    match std::env::var_os("SKEP_RUST_ONLY") {
        Some(_) => vec!["generate"],
        None => vec!["generate", "generate-python", "generate-js"],
    }
}

struct Setting {
    folder: tempfile::TempDir,
    node: Node,
}

impl Setting {
    /// A node with an input of some lines.
    fn new(lines: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        compiled::share(&home).unwrap();
        let node = Node::start(&Built::skep(), &home).unwrap();
        fs::write(folder.path().join("input"), lines.join("\n")).unwrap();
        Self { folder, node }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What a component prints with these arguments, and the report.
    fn run(&self, component: &str, arguments: &[&str]) -> (String, Value) {
        let (input, output) = (self.path("input"), self.path("output"));
        let component = Built::component(component);
        let mut command = vec![
            "run".as_ref(),
            component.as_os_str(),
            "--input".as_ref(),
            input.as_os_str(),
            "--output".as_ref(),
            output.as_os_str(),
            "--".as_ref(),
        ];
        command.extend(arguments.iter().map(std::ffi::OsStr::new));
        let report = self.node.ask(&command).unwrap();
        (fs::read_to_string(output).unwrap(), report)
    }
}

/// What the engine writes to the same lines.
fn native(change: impl Fn(Request) -> Request) -> String {
    let native = Native::load(&mini_lm());
    let requests = LINES
        .iter()
        .map(|line| change(native.request(line, TOKENS)));
    native.write(requests.collect())
}

#[test]
fn rust_python_and_javascript_write_what_the_engine_writes() {
    let setting = Setting::new(&LINES);
    let greedy = native(|request| request);
    assert_eq!(greedy.lines().count(), LINES.len());
    assert!(greedy.lines().any(|line| line.len() > 10), "{greedy}");
    let sampling = Sampling {
        temperature: 0.8,
        seed: 7,
        ..Sampling::GREEDY
    };
    let sampled = native(|request| Request {
        sampling: sampling.clone(),
        ..request
    });
    assert_ne!(greedy, sampled);
    let tokens = format!("max-tokens={TOKENS}");
    for component in components() {
        let (printed, report) = setting.run(component, &[&tokens]);
        assert_eq!(printed, greedy, "{component}");
        let (streamed, _) = setting.run(component, &[&tokens, "stream"]);
        assert_eq!(streamed, greedy, "{component}, streamed");
        let drawn = [tokens.as_str(), "temperature=0.8", "seed=7"];
        assert_eq!(setting.run(component, &drawn).0, sampled, "{component}");
        let streamed = setting.run(component, &[&drawn[..], &["stream"]].concat());
        assert_eq!(streamed.0, sampled, "{component}, streamed");

        // What the run took, apart: the weights are the file's, keys and values are a part of
        // what was charged.
        let bytes = |name: &str| report[name].as_u64().unwrap();
        let file = fs::metadata(mini_lm()).unwrap().len();
        assert_eq!(report["text_model"], "skep-mini-lm");
        assert!(bytes("weights_bytes") > file / 2 && bytes("weights_bytes") <= file);
        assert!(bytes("kv_bytes_peak") > 0);
        assert!(bytes("device_bytes_peak") >= bytes("kv_bytes_peak"));
        assert_eq!(bytes("adapter_bytes"), 0);
        // A build without a way to a card computes on the processor, and says so.
        assert_eq!(report["devices"], serde_json::json!({ "processor": 0 }));
        assert!(bytes("flops") > 0);
    }
}

#[test]
fn json_is_what_its_schema_admits() {
    let setting = Setting::new(&LINES[1..2]);
    let schema = r#"{"type": "object", "additionalProperties": false,
        "properties": {"label": {"enum": ["billing", "login"]}, "urgent": {"type": "boolean"}},
        "required": ["label", "urgent"]}"#;
    let schema = format!("json-schema={schema}");
    let mut first = None;
    for component in components() {
        for more in [&[][..], &["stream"], &["temperature=1.5", "seed=3"]] {
            let arguments = [&["max-tokens=64", schema.as_str()][..], more].concat();
            let (printed, _) = setting.run(component, &arguments);
            let value: Value = serde_json::from_str(&printed)
                .unwrap_or_else(|error| panic!("{component}, {more:?}: {error} in {printed:?}"));
            let label = value["label"].as_str().unwrap();
            assert!(["billing", "login"].contains(&label), "{printed}");
            assert!(value["urgent"].is_boolean(), "{printed}");
            assert_eq!(value.as_object().unwrap().len(), 2, "{printed}");
            if !more.contains(&"seed=3") {
                let first = first.get_or_insert_with(|| printed.clone());
                assert_eq!(*first, printed, "{component}");
            }
        }
    }
}

#[test]
fn what_a_guest_asks_wrongly_is_said_to_whoever_runs_it() {
    let setting = Setting::new(&LINES[..1]);
    for component in components() {
        let component = Built::component(component);
        let ask = |arguments: &[&str]| {
            let input = setting.path("input");
            let fixed = [
                "run",
                component.to_str().unwrap(),
                "--input",
                input.to_str().unwrap(),
                "--",
            ];
            let ended = skep_tests::run(setting.node.home(), &[&fixed[..], arguments].concat());
            let ended = ended.unwrap();
            assert_ne!(ended.code, 0, "{arguments:?}");
            ended.stderr
        };
        let schema = ask(&["json-schema={\"type\": 5}"]);
        assert!(schema.contains("constraint is not valid"), "{schema}");
        let unknown = ask(&["colour=red"]);
        assert!(unknown.contains("colour is no argument"), "{unknown}");
        let adapter = ask(&["adapter=village"]);
        assert!(adapter.contains("grants.adapters"), "{adapter}");
    }
}
