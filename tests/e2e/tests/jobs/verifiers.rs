//! A stricter verifier, which somebody else published: it refuses what the one that comes with skep
//! passes, says why, and costs nobody anything.

use super::audits::publish_verifier;
use super::*;

const MANIFEST: &str = r#"[package]
name = "strict-verifier"
version = "0.1.0"
description = "Wants a label for each record"
license = "MIT"
kind = "component"

[component]
world = "verifier"
path = "strict-verifier.wasm"
"#;

/// What it says of an output that it refuses, before what the output says.
const REFUSED: &str = " gives its record up: \"";

#[test]
fn what_the_usual_verifier_passes_a_stricter_one_of_another_publisher_refuses() {
    // After fifty records comes a line that is none, so that the second shard has an error for a label.
    let setting = Setting::new(60);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let providers = ["a", "b", "c"].map(|name| setting.provider(name, "", 2));
    let tickets: Vec<&str> = providers.iter().map(ticket).collect();
    let more = ["--shards", "2", "--audit", "100%", "--min-stake", "0"];
    let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();
    let name = job["job"]["job"].as_str().unwrap();

    // Whoever publishes it has nothing to do with the job, and a key of its own.
    let author = Node::start(&Built::skep(), &setting.path("author")).unwrap();
    let key = author.ask(&["key", "new"]).unwrap();
    let publisher = key["publisher"].as_str().unwrap();
    assert_ne!(publisher, setting.publisher);
    let folder = setting.path("strict");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("skep.toml"), MANIFEST).unwrap();
    let component = Built::component("strict-verifier");
    fs::copy(component, folder.join("strict-verifier.wasm")).unwrap();
    let published = author.ask(&["publish", &setting.text("strict")]).unwrap();
    let reference = published["published"]["reference"].as_str().unwrap();
    assert!(reference.starts_with(publisher), "{reference}");

    let before = account(requester.home());
    let check = |verifier: &str| {
        let check = ["job", "check", name, "--verifier", verifier];
        requester.ask(&check).unwrap()
    };
    let usual = check(&publish_verifier(&setting, &requester));
    let strict = check(published["ticket"].as_str().unwrap());
    assert_ne!(usual["verifier"], strict["verifier"]);
    // Both are asked about the same outputs: that of the provider and of each auditor.
    let asked = |checked: &Value| {
        let verdicts = checked["verdicts"].as_array().unwrap().iter();
        let which = |line: &Value| ["shard", "provider", "output"].map(|part| line[part].clone());
        verdicts.map(which).collect::<Vec<_>>()
    };
    assert_eq!(asked(&usual), asked(&strict));
    let mut refused = 0;
    for verdict in usual["verdicts"].as_array().unwrap() {
        assert_eq!(verdict["finding"], "right", "{usual}");
    }
    for verdict in strict["verdicts"].as_array().unwrap() {
        let evidence = verdict["evidence"].as_str().unwrap();
        if verdict["shard"] == 0 {
            assert_eq!(verdict["finding"], "right", "{strict}");
            assert_eq!(evidence, "each record has a label");
            continue;
        }
        assert_eq!(verdict["finding"], "wrong", "{strict}");
        let (_, why) = evidence.split_once(REFUSED).expect(evidence);
        assert!(why.len() > 1, "{evidence}");
        refused += 1;
    }
    assert!(refused >= 2, "{strict}");

    // A person is told the same, and by its name too once the verifier is here.
    let told = run(
        requester.home(),
        &["job", "check", name, "--verifier", reference],
    );
    let told = told.unwrap();
    assert_eq!(told.code, 0, "{}", told.stderr);
    let lines = told.stdout.lines();
    let wrong = lines.filter(|line| line.contains(" wrong ") && line.contains(REFUSED));
    assert_eq!(wrong.count(), refused, "{}", told.stdout);
    // It is an opinion: the result stands, and nobody pays for it.
    let status = requester.ask(&["job", "status", name]).unwrap();
    assert_eq!(status["job"], job["job"]);
    assert_eq!(account(requester.home()), before);
}
