//! Every call of a language model as a guest makes it: what it is told is what the engine says
//! without any guest, and a stream brings the texts that a call brings as a whole.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod language;

use std::fs;

use language::{Native, mini_lm};
use serde_json::Value;
use skep_engine::{Request, ScoreRequest};
use skep_registry::Digest;
use skep_tests::{Built, Ended, Node, run};

const LINES: [&str; 4] = [
    "It is a truth universally acknowledged, that",
    " a single man must be in want of a wife",
    " the parcel was charged twice",
    " honey",
];
const TOKENS: usize = 24;

struct Setting {
    folder: tempfile::TempDir,
    node: Node,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::start(&Built::skep(), &folder.path().join("home")).unwrap();
        let package = folder.path().join("package");
        fs::create_dir(&package).unwrap();
        fs::copy(Built::component("text-calls"), package.join("c.wasm")).unwrap();
        let manifest = "[package]\nname = \"calls\"\nversion = \"0.1.0\"\nkind = \"component\"\n\
                        [component]\nworld = \"async-task\"\npath = \"c.wasm\"\n\
                        [grants]\ntensor = true\nmodels = [\"default\"]\n\
                        swarm-read = [\"*\"]\n";
        fs::write(package.join("skep.toml"), manifest).unwrap();
        fs::write(folder.path().join("input"), LINES.join("\n")).unwrap();
        Self { folder, node }
    }

    fn run(&self, what: &str) -> Ended {
        let path = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        let (package, input, output) = (path("package"), path("input"), path("output"));
        let arguments = [
            "--json", "run", &package, "--input", &input, "--output", &output, "--", what,
        ];
        run(self.node.home(), &arguments).unwrap()
    }

    fn made(&self, what: &str) -> Value {
        let ended = self.run(what);
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        let printed = fs::read(self.folder.path().join("output")).unwrap();
        serde_json::from_slice(&printed).unwrap()
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap()).collect()
}

fn near(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!(
            (got - want).abs() <= 1e-5 * want.abs().max(1.0),
            "{got} {want}"
        );
    }
}

#[test]
fn a_guest_judges_and_embeds_as_the_engine_does() {
    let (setting, native) = (Setting::new(), Native::load(&mini_lm()));
    let made = setting.made("judge");
    let model = native.engine.model();
    let config = model.decoder.config();
    assert_eq!(made["name"], "skep-mini-lm");
    let file = fs::read(mini_lm()).unwrap();
    assert_eq!(made["digest"], Digest::of(&file).to_string());
    for (name, number) in [
        ("context", config.context),
        ("vocabulary", config.vocabulary),
        ("dimensions", config.width),
    ] {
        assert_eq!(made[name], number, "{name}");
    }
    for (line, (tokens, text)) in LINES.iter().zip(
        made["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .zip(made["texts"].as_array().unwrap()),
    ) {
        assert_eq!(text, line);
        assert!(!tokens.as_array().unwrap().is_empty());
    }

    let tokens_of = |line: usize| -> Vec<u32> {
        let tokens = numbers(&made["tokens"][line]).into_iter();
        tokens.map(|token| token as u32).collect()
    };
    let request = ScoreRequest {
        prompt: model.encode_text(LINES[0]).unwrap(),
        choices: (1..LINES.len()).map(tokens_of).collect(),
        adapter: None,
        whole: false,
    };
    let caller = Native::caller();
    let scores = native.engine.score(&caller, vec![request]).wait().unwrap();
    let told = made["scores"].as_array().unwrap();
    let logprobs: Vec<f64> = told
        .iter()
        .map(|s| s["logprob"].as_f64().unwrap())
        .collect();
    let expected: Vec<f64> = scores[0].iter().map(|s| f64::from(s.logprob)).collect();
    near(&logprobs, &expected);
    for (told, score) in told.iter().zip(&scores[0]) {
        assert_eq!(told["tokens"], score.tokens);
    }
    // What the book goes on with is likelier than anything else, letter for letter.
    let each = |n: usize| logprobs[n] / scores[0][n].tokens as f64;
    assert!(each(0) > each(1), "{logprobs:?}");

    let prompts = LINES.iter().map(|line| model.encode_text(line).unwrap());
    let rows = native.engine.embed(&caller, prompts.collect()).wait();
    let rows: Vec<f64> = rows.unwrap().into_iter().map(f64::from).collect();
    near(&numbers(&made["vectors"]), &rows);
}

#[test]
fn a_stream_brings_what_a_call_brings_as_a_whole() {
    let (setting, native) = (Setting::new(), Native::load(&mini_lm()));
    let made = setting.made("stream");
    let requests = LINES.iter().map(|line| {
        let prompt = native.engine.model().encode_text(line).unwrap();
        Request::greedy(prompt, TOKENS)
    });
    let answers = native
        .engine
        .generate(&Native::caller(), requests.collect());
    let texts: Vec<String> = answers
        .wait()
        .into_iter()
        .map(|answer| answer.unwrap().remove(0).text)
        .collect();
    assert_eq!(made["texts"], serde_json::json!(texts));
    assert!(made["pieces"].as_u64().unwrap() > 1, "{made}");
}

#[test]
fn a_request_that_cannot_be_answered_ends_the_stream_in_its_error() {
    let setting = Setting::new();
    // One line is longer than the model's context.
    let long = "and ".repeat(10_000);
    fs::write(
        setting.folder.path().join("input"),
        [LINES[0], &long].join("\n"),
    )
    .unwrap();
    let ended = setting.run("stream");
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("the prompt has"), "{}", ended.stderr);
}

#[test]
fn a_stream_that_is_left_stops_the_writing() {
    let setting = Setting::new();
    let made = setting.made("leave");
    assert!(made["pieces"].as_u64().unwrap() > 0);
    // The node still writes for others.
    assert!(setting.made("stream")["pieces"].as_u64().unwrap() > 1);
}
