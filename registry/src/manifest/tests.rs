//! What is read from a `skep.toml`, and what is said of a wrong one.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::grants::ModelGrant;

const COMPONENT: &str = r#"
[package]
name = "batch-classifier"
version = "0.1.0"
description = "Labels records by meaning"
license = "Apache-2.0 OR MIT"
kind = "component"
readme = "README.md"

[component]
world = "batch-classifier"
path = "batch_classifier.wasm"

[grants]
tensor = true
models = ["default", "minilm"]
adapters = ["village"]
swarm-read = ["af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"]
swarm-write = true
jobs = { max-price = "0.50" }

[limits]
memory = "256 MiB"
cpu-time = "20 s"
time = "30 s"
device-memory = "1 GiB"
device-work = "10 TFLOP"
handles = 1_000
call-bytes = "16 MiB"
output = "1 GB"
storage = "0 B"
log = "64 KiB"
"#;

const MODEL: &str = r#"
package = { name = "mini-embed", version = "1.0.0", kind = "model" }
[model]
path = "mini-embed"
task = "sentence-encoder"
"#;

const ADAPTER: &str = r#"
package = { name = "village-voice", version = "1.0.0", kind = "adapter" }
[adapter]
path = "lora"
base = "skep-mini-lm"
base-digest = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
"#;

fn parse(text: &str) -> Manifest {
    Manifest::parse(text).unwrap()
}

/// The error of the component's manifest with one thing replaced.
fn error_with(from: &str, to: &str) -> String {
    assert!(COMPONENT.contains(from), "{from} is not in the manifest");
    Manifest::parse(&COMPONENT.replacen(from, to, 1))
        .unwrap_err()
        .to_string()
}

#[test]
fn everything_that_can_be_said_is_read() {
    let manifest = parse(COMPONENT);
    assert_eq!(manifest.name.as_str(), "batch-classifier");
    assert_eq!(manifest.version, Version::new(0, 1, 0));
    assert_eq!(
        manifest.description.as_deref(),
        Some("Labels records by meaning")
    );
    assert_eq!(manifest.license.as_deref(), Some("Apache-2.0 OR MIT"));
    assert_eq!(manifest.readme.unwrap().as_str(), "README.md");
    let Source::Component {
        world,
        path,
        grants,
        limits,
    } = manifest.source
    else {
        panic!("it is a component");
    };
    assert_eq!(world, World::BatchClassifier);
    assert_eq!(path.as_str(), "batch_classifier.wasm");
    assert_eq!(
        grants,
        Grants {
            tensor: true,
            models: BTreeSet::from([
                ModelGrant::Default,
                ModelGrant::Named {
                    publisher: None,
                    name: "minilm".parse().unwrap()
                }
            ]),
            adapters: BTreeSet::from([ModelGrant::Named {
                publisher: None,
                name: "village".parse().unwrap()
            }]),
            swarm_read: SwarmRead::Only(BTreeSet::from([Digest::of(b"")])),
            swarm_write: true,
            jobs: Some(JobsGrant { max_price: 500_000 }),
        }
    );
    assert_eq!(
        limits,
        Limits {
            memory: Some(256 << 20),
            cpu_time: Some(Duration::from_secs(20)),
            time: Some(Duration::from_secs(30)),
            device_memory: Some(1 << 30),
            device_work: Some(10_000_000_000_000),
            handles: Some(1_000),
            call_bytes: Some(16 << 20),
            output: Some(1_000_000_000),
            storage: Some(0),
            log: Some(64 << 10),
        }
    );
}

#[test]
fn what_is_left_out_is_not_granted_and_not_limited() {
    let manifest = parse(
        "[package]\nname = 'x'\nversion = '1.0.0'\nkind = 'component'\n[component]\nworld = 'task'\npath = 'x.wasm'",
    );
    let Source::Component { grants, limits, .. } = manifest.source else {
        panic!("it is a component");
    };
    assert_eq!(grants, Grants::default());
    assert_eq!(limits, Limits::default());
}

#[test]
fn a_model_is_a_folder_with_a_task() {
    let manifest = parse(MODEL);
    assert_eq!(
        manifest.source,
        Source::Model {
            path: "mini-embed".parse().unwrap(),
            task: ModelTask::SentenceEncoder
        }
    );
}

#[test]
fn an_adapter_is_a_folder_with_a_base() {
    let manifest = parse(ADAPTER);
    let base = Base {
        name: "skep-mini-lm".parse().unwrap(),
        digest: Digest::of(b""),
    };
    assert_eq!(
        manifest.source,
        Source::Adapter {
            path: "lora".parse().unwrap(),
            base: base.clone(),
        }
    );
    let draft = manifest.draft(Vec::new(), Vec::new());
    assert_eq!(draft.content, Content::Adapter(Adapter { base }));
    let error_with =
        |from: &str, to: &str| Manifest::parse(&ADAPTER.replace(from, to)).unwrap_err();
    insta::assert_snapshot!(error_with("base =", "bases ="), @"line 5, column 1: `adapter.bases`: unknown key; did you mean `base`?");
    insta::assert_snapshot!(error_with("base = \"skep-mini-lm\"\n", ""), @r#"line 3, column 1: `adapter.base`: this is missing; add base = "the-model's-name""#);
    insta::assert_snapshot!(error_with("kind = \"adapter\"", "kind = \"model\""), @r#"line 3, column 1: `adapter`: a package of kind "model" (line 2) has no [adapter]; remove it, or change the kind"#);
    assert!(Manifest::parse(&ADAPTER.replace("af1349", "af134")).is_err());
}

#[test]
fn a_star_reads_everything() {
    let text = COMPONENT.replace("swarm-read = [", "swarm-read = [\"*\", ");
    let Source::Component { grants, .. } = parse(&text).source else {
        panic!("it is a component");
    };
    assert_eq!(grants.swarm_read, SwarmRead::Everything);
}

#[test]
fn unknown_keys_are_refused_everywhere_with_a_suggestion() {
    insta::assert_snapshot!(error_with("name =", "nam ="), @"line 3, column 1: `package.nam`: unknown key; did you mean `name`?");
    insta::assert_snapshot!(error_with("[grants]", "[grant]"), @"line 14, column 2: `grant`: unknown key; did you mean `grants`?");
    insta::assert_snapshot!(error_with("tensor =", "tensors ="), @"line 15, column 1: `grants.tensors`: unknown key; did you mean `tensor`?");
    insta::assert_snapshot!(error_with("cpu-time =", "cpu_time ="), @"line 24, column 1: `limits.cpu_time`: unknown key; did you mean `cpu-time`?");
    insta::assert_snapshot!(error_with("world =", "colour ="), @"line 11, column 1: `component.colour`: unknown key; the keys here are world, path");
    insta::assert_snapshot!(error_with("max-price =", "max-prize ="), @"line 20, column 10: `grants.jobs.max-prize`: unknown key; did you mean `max-price`?");
    let model = MODEL.replace("task =", "tasks =");
    insta::assert_snapshot!(Manifest::parse(&model).unwrap_err(), @"line 5, column 1: `model.tasks`: unknown key; did you mean `task`?");
}

#[test]
fn what_is_missing_is_named_with_an_example() {
    insta::assert_snapshot!(Manifest::parse("").unwrap_err(), @"line 1, column 1: `package`: this is missing; add [package] with name, version and kind");
    insta::assert_snapshot!(error_with("version = \"0.1.0\"\n", ""), @r#"line 2, column 1: `package.version`: this is missing; add version = "0.1.0""#);
    insta::assert_snapshot!(error_with("kind = \"component\"\n", ""), @r#"line 2, column 1: `package.kind`: this is missing; add kind = "component", "model" or "adapter""#);
    insta::assert_snapshot!(error_with("world = \"batch-classifier\"\n", ""), @r#"line 10, column 1: `component.world`: this is missing; add world = "batch-classifier""#);
}

#[test]
fn wrong_values_are_shown_with_what_to_write() {
    insta::assert_snapshot!(error_with("tensor = true", "tensor = \"yes\""), @"line 15, column 10: `grants.tensor`: expected true or false, found text");
    insta::assert_snapshot!(error_with("handles = 1_000", "handles = \"many\""), @"line 28, column 11: `limits.handles`: expected a whole number, without quotes, found text");
    insta::assert_snapshot!(error_with("handles = 1_000", "handles = -1"), @"line 28, column 11: `limits.handles`: -1 is not a whole number from 0 to 18446744073709551615");
    insta::assert_snapshot!(error_with("\"256 MiB\"", "268435456"), @"line 23, column 10: `limits.memory`: expected text, in quotes, found a whole number");
    insta::assert_snapshot!(error_with("256 MiB", "256"), @"line 23, column 10: `limits.memory`: `256` is not a size: it has no unit; write for example `256 MiB`, `1.5 GB` or `4096 B`");
    insta::assert_snapshot!(error_with("kind = \"component\"", "kind = \"plugin\""), @r#"line 7, column 8: `package.kind`: `plugin` is not a kind of package; write "component", "model" or "adapter""#);
    insta::assert_snapshot!(error_with("world = \"batch-classifier\"", "world = \"batch\""), @"line 11, column 9: `component.world`: `batch` is not a world that this version of skep knows; it knows `task`, `async-task`, `batch-classifier`, `fine-tune`, `npc-renderer`, `village` and `verifier`");
    insta::assert_snapshot!(error_with("\"0.1.0\"", "\"0.1\""), @r#"line 4, column 11: `package.version`: `0.1` is not a version: unexpected end of input while parsing minor version number; write for example "0.1.0""#);
    insta::assert_snapshot!(error_with("\"0.1.0\"", "\"0.1.0+today\""), @"line 4, column 11: `package.version`: 0.1.0+today has build metadata (`+today`), which does not tell versions apart; leave it out");
    insta::assert_snapshot!(error_with("\"minilm\"", "\"default\""), @"line 16, column 22: `grants.models`: this model is granted already; remove one of the two");
    insta::assert_snapshot!(error_with("{ max-price = \"0.50\" }", "true"), @"line 20, column 8: `grants.jobs`: expected a table, found true or false");
    insta::assert_snapshot!(error_with("{ max-price = \"0.50\" }", "{}"), @r#"line 20, column 8: `grants.jobs.max-price`: this is missing; add max-price = "0.5", in credits"#);
    insta::assert_snapshot!(error_with("\"0.50\"", "0.5"), @"line 20, column 22: `grants.jobs.max-price`: expected text, in quotes, found a number with a point");
    insta::assert_snapshot!(error_with("0.50", "a lot"), @r#"line 20, column 22: `grants.jobs.max-price`: "a lot" is no amount of credits; write a number such as 2 or 0.25, with at most six decimals"#);
    insta::assert_snapshot!(error_with("\"README.md\"", "\"../README.md\""), @"line 8, column 10: `package.readme`: a path within a package stays inside it and is written plainly: no part may be `.` or `..`");
    insta::assert_snapshot!(error_with("Labels records", "Labels \\u001b[31m records"), @r"line 5, column 15: `package.description`: it contains the control character '\u{1b}'; write one line of plain text");
    insta::assert_snapshot!(error_with("kind = \"component\"", "kind = \"model\""), @r#"line 10, column 1: `component`: a package of kind "model" (line 7) has no [component]; remove it, or change the kind"#);
}

#[test]
fn what_is_not_toml_is_shown_where_it_stops_being_so() {
    insta::assert_snapshot!(error_with("name = \"batch-classifier\"", "name = \"batch-classifier"), @r#"line 3, column 25: this is not TOML: invalid basic string, expected `"`"#);
    insta::assert_snapshot!(error_with("version = \"0.1.0\"", "name = \"twice\""), @"line 4, column 1: this is not TOML: duplicate key");
    let long = "#".repeat(Manifest::MAX_BYTES + 1);
    insta::assert_snapshot!(Manifest::parse(&long).unwrap_err(), @"a manifest has at most 262144 bytes, and this has 262145");
}

#[test]
fn an_excerpt_marks_the_place() {
    let error = Manifest::parse("[package]\n\tname = \"Größe\"\nversion = '1.0.0'\nkind = 'model'")
        .unwrap_err();
    assert_eq!(
        (error.line(), error.column(), error.key()),
        (Some(2), Some(9), Some("package.name"))
    );
    insta::assert_snapshot!(error.excerpt(), @r#"
      |
    2 | 	name = "Größe"
      | 	       ^^^^^^^
    "#);
}

#[test]
fn the_draft_says_what_the_manifest_says() {
    let manifest = parse(COMPONENT);
    let draft = manifest.draft(Vec::new(), vec!["skep:tensor/tensors@0.1.0".to_owned()]);
    assert_eq!(
        (&draft.name, &draft.version),
        (&manifest.name, &manifest.version)
    );
    let (
        Content::Component(component),
        Source::Component {
            grants,
            limits,
            path,
            ..
        },
    ) = (draft.content, manifest.source)
    else {
        panic!("it is a component");
    };
    assert_eq!(component.world.as_str(), "batch-classifier");
    assert_eq!(
        (component.entry, component.grants, component.limits),
        (path, grants, limits)
    );
}

proptest! {
    /// Whatever is cut out of a manifest or put into it, it is read or refused, and a mistake
    /// has a place within the file.
    #[test]
    fn no_text_panics(cut in 0..COMPONENT.len(), length in 0_usize..40, put in "\\PC{0,12}|[\\[\\]\"'=,.\n]{0,6}") {
        let mut text = COMPONENT.to_owned();
        text.replace_range(cut..(cut + length).min(COMPONENT.len()), &put);
        if let Err(error) = Manifest::parse(&text) {
            let line = error.line().unwrap();
            prop_assert!(line >= 1 && line <= text.matches('\n').count() + 1);
            prop_assert!(!error.excerpt().is_empty());
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
