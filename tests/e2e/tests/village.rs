//! The village through the real binary: sandboxed components, the language model that comes with
//! skep, and a player who wants it to break. `cargo xtask bench village` plays a thousand turns.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod language;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use language::{Native, mini_lm};
use npc_scene::voices::VOICES;
use serde_json::Value;
use skep_evidence::{AccountKey, Report, Statement as _};
use skep_registry::Digest;
use skep_tests::village::{Campaign, Facts, PEOPLE, Table};
use skep_tests::{Built, Ended, random, run};

/// Talks in the ordinary test: some seconds.
const TALKS: u32 = 60;

fn campaign(home: &Path, grammar: bool, talks: u32) -> skep_tests::village::Figures {
    let campaign = Campaign {
        skep: &Built::skep(),
        home,
        village: &Built::component("village"),
        renderer: &Built::component("npc-renderer"),
        model: &Built::language_model(),
        talks,
        seed: 2026,
        grammar,
    };
    campaign.play().unwrap()
}

#[test]
fn a_hostile_player_corrupts_nothing_and_hears_nothing_false() {
    let home = tempfile::tempdir().unwrap();
    let figures = campaign(home.path(), true, TALKS);
    println!("{figures:#?}");
    assert_eq!(figures.corruptions, Vec::<String>::new());
    assert_eq!(figures.contradictions, Vec::<String>::new());
    assert_eq!(figures.talks, TALKS);
    assert_eq!(figures.evidence, figures.violated() as usize);
}

#[test]
fn a_hostile_player_and_a_hostile_renderer_together_corrupt_nothing() {
    // No model, so more talks, and actions: things are sold, asked for and refused, people leave.
    let home = tempfile::tempdir().unwrap();
    let campaign = Campaign {
        skep: &Built::skep(),
        home: home.path(),
        village: &Built::component("village"),
        renderer: &Built::component("hostile-renderer"),
        model: &Built::language_model(),
        talks: 1000,
        seed: 7,
        grammar: true,
    };
    let figures = campaign.play().unwrap();
    println!("{figures:#?}");
    assert_eq!(figures.corruptions, Vec::<String>::new());
    assert_eq!(figures.contradictions, Vec::<String>::new());
    for fault in ["contradiction", "illegal"] {
        assert!(
            figures.violations.contains_key(fault),
            "no {fault} was tried"
        );
    }
    for verb in ["nothing", "sell", "offer", "go"] {
        assert!(figures.actions.contains_key(verb), "nobody did {verb}");
    }
}

#[test]
fn without_the_grammar_the_village_refuses_what_is_false_and_says_who_it_was() {
    let home = tempfile::tempdir().unwrap();
    let figures = campaign(home.path(), false, TALKS / 2);
    println!("{figures:#?}");
    assert_eq!(figures.corruptions, Vec::<String>::new());
    assert_eq!(figures.contradictions, Vec::<String>::new());
    assert_eq!(figures.evidence, figures.violated() as usize);
    for record in records(&home.path().join("evidence.jsonl")) {
        let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("kind"), "skep village violation 2");
        for digest in [
            "model", "prompt", "renderer", "village", "state", "log", "node",
        ] {
            assert_eq!(text(digest).len(), 64, "{digest} of {record}");
        }
        assert_eq!(record["constrained"], false);
        // The renderer handed on what the model wrote.
        assert_eq!(record["output"], record["written"]);
    }
}

fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let records = text.lines().map(serde_json::from_str);
    records.collect::<Result<_, _>>().unwrap()
}

/// What says that a game is of these two components, and that evidence is written down in its home.
fn game(home: &Path, village: &str, renderer: &str) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    for (flag, path) in [
        ("--village", Built::component(village)),
        ("--renderer", Built::component(renderer)),
        ("--evidence", home.join("evidence.jsonl")),
    ] {
        arguments.extend([flag.into(), path.into()]);
    }
    arguments
}

/// A game with the village and a renderer that knows no manners.
fn hostile(home: &Path) -> Table {
    let mut arguments = game(home, "village", "hostile-renderer");
    arguments.extend(["--seed", "7"].map(OsString::from));
    let mut table = Table::start(&Built::skep(), home, &arguments).unwrap();
    // Somewhere somebody is at seven in the morning.
    for _ in 0..20 {
        if !table.view["people"].as_array().unwrap().is_empty() {
            return table;
        }
        let path = table.view["paths"][0].as_str().unwrap().to_owned();
        table.turn(&format!("go {path}")).unwrap();
    }
    panic!("nobody is anywhere: {}", table.view);
}

#[test]
fn what_a_hostile_renderer_proposes_is_refused_counted_and_written_down() {
    let home = tempfile::tempdir().unwrap();
    let mut table = hostile(home.path());
    let person = table.view["people"][0][0].as_str().unwrap().to_owned();
    let mut reasons = Vec::new();
    for (words, fault) in [
        ("garbage", "unreadable"),
        ("illegal", "illegal"),
        ("lie", "contradiction"),
        ("escape", "unchecked"),
    ] {
        let before = table.facts.clone();
        let answers = table.turn(&format!("{person}: {words}")).unwrap();
        let answer = &answers[0]["answer"];
        assert_eq!(answer["refused"]["fault"], fault, "{answer}");
        reasons.push(answer["refused"]["reason"].clone());
        assert_eq!(answer["action"], "nothing");
        assert!(!answer["line"].as_str().unwrap().is_empty());
        let shown = answer.to_string();
        assert!(
            !shown.contains("\\u001b") && !shown.contains("\\u0007"),
            "{shown}"
        );
        assert_eq!(table.facts.items, before.items);
        assert_eq!(table.facts.violations, before.violations + 1);
    }
    let written = records(&home.path().join("evidence.jsonl"));
    let faults: Vec<&Value> = written.iter().map(|record| &record["fault"]).collect();
    assert_eq!(
        faults,
        ["unreadable", "illegal", "contradiction", "unchecked"]
    );
    // What the village reported is what the player was told.
    let reported: Vec<Value> = written
        .iter()
        .map(|record| record["reason"].clone())
        .collect();
    assert_eq!(reported, reasons);
    // It asked no model, and nobody says that it did.
    assert!(
        written
            .iter()
            .all(|record| record["model"].is_null() && record["written"].is_null())
    );
    assert!(
        written
            .iter()
            .all(|record| record["words"] != "" && record["person"] == *person)
    );
    table.end().unwrap();
    evidence_is_judged_by_others(home.path());
}

/// A node signs nothing that the village did not report: not what is refused without a word, nor by
/// a report of another output; and it signs once what is reported a hundred times.
#[test]
fn only_what_a_village_reports_of_the_refused_reply_is_written_down() {
    let home = tempfile::tempdir().unwrap();
    let evidence = home.path().join("evidence.jsonl");
    // What the renderer writes there.
    let output = "{\"role\": \"assistant\"}";
    let digest = Digest::of(output.as_bytes()).to_string();
    let other = Digest::of(b"another output").to_string();
    let path = script(home.path(), &format!("nothing\n{other}\n{digest}\n"));
    let path = path.to_str().unwrap();
    let mut arguments: Vec<OsString> = ["--json", "play", "--seed", "7", "--script", path]
        .map(OsString::from)
        .into();
    arguments.extend(game(home.path(), "hostile-village", "hostile-renderer"));
    let ended = run(home.path(), &arguments).unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    // The player is told of each.
    let lines = ended.stdout.lines().map(serde_json::from_str::<Value>);
    let refused = lines.filter(|line| {
        let refused = &line.as_ref().unwrap()["answer"]["refused"];
        refused["fault"] == "leak" && refused["reason"] == "as it was refused"
    });
    assert_eq!(refused.count(), 3, "{}", ended.stdout);
    let written = records(&evidence);
    assert_eq!(written.len(), 1, "{written:?}");
    assert_eq!(written[0]["words"], *digest);
    assert_eq!(written[0]["output"], output);
    assert_eq!(written[0]["fault"], "leak");
    assert_eq!(written[0]["reason"], "as it was reported");
}

/// Judges a file of evidence in a home of somebody else's, with a village: what `skep` came to, and
/// what each record is worth.
fn judged(evidence: &Path, village: &Path) -> (Ended, Vec<Value>) {
    let other = tempfile::tempdir().unwrap();
    let arguments: [&OsStr; 6] = [
        "--json".as_ref(),
        "play".as_ref(),
        "--judge".as_ref(),
        evidence.as_os_str(),
        "--village".as_ref(),
        village.as_os_str(),
    ];
    let ended = run(other.path(), &arguments).unwrap();
    let lines = ended.stdout.lines().map(serde_json::from_str::<Value>);
    let lines = lines.collect::<Result<Vec<_>, _>>().unwrap();
    // A failure is told as an object too.
    let judged = lines.into_iter().filter(|line| line["worth"].is_string());
    let judged = judged.collect();
    (ended, judged)
}

/// A record as somebody signs it who can sign what they like.
fn signed(line: &str) -> String {
    let key = AccountKey::from_seed(&[9; 32]);
    let record = format!("{}}}", &line[..line.find(",\"reporter\":").unwrap()]);
    let output: Value = serde_json::from_str(&record).unwrap();
    let report = Report {
        reporter: key.id(),
        output: Digest::of(output["output"].as_str().unwrap().as_bytes()),
        record: Digest::of(record.as_bytes()),
    };
    let report = hex::encode(report.sign(&key).unwrap().encode());
    let record = &record[..record.len() - 1];
    format!(
        "{record},\"reporter\":\"{}\",\"report\":\"{report}\"}}",
        key.id()
    )
}

/// Whoever has the file, the games beside it and the village comes to the same verdict; what was
/// altered, forged or made up is told from it.
fn evidence_is_judged_by_others(home: &Path) {
    let village = Built::component("village");
    let path = home.join("evidence.jsonl");
    let honest = fs::read_to_string(&path).unwrap();
    let worths = |lines: &[Value]| -> Vec<String> {
        let worths = lines.iter().map(|line| line["worth"].as_str().unwrap());
        worths.map(str::to_owned).collect()
    };

    let (ended, lines) = judged(&path, &village);
    assert_eq!(worths(&lines), ["holds"; 4], "{}", ended.stderr);
    assert_eq!(ended.code, 0);

    // A word of it is changed; a record is another's; a line is none.
    let first = honest.lines().next().unwrap();
    let altered = first.replace("unreadable", "illegal");
    let stranger = first.replace(&lines[0]["reporter"].as_str().unwrap()[..8], "01234567");
    fs::write(&path, format!("{altered}\n{stranger}\nnothing\n{first}\n")).unwrap();
    let (ended, lines) = judged(&path, &village);
    assert_eq!(worths(&lines), ["unsound", "unsound", "unsound", "holds"]);
    assert_eq!(ended.code, 3, "{}", ended.stderr);

    // Who signs that a reply was refused which the village takes is found out, and so is who claims
    // another fault, or a moment that never was.
    let record: Value = serde_json::from_str(first).unwrap();
    let person = record["person"].as_str().unwrap();
    let words = "\"words\":\"garbage\"";
    let garbage = first.split("\"output\":").nth(1).unwrap();
    let garbage = &garbage[..garbage.find(",\"written\"").unwrap()];
    let lies: Vec<String> = [
        first.replace(garbage, "\"Good morning. | nothing\""),
        first.replace("\"fault\":\"unreadable\"", "\"fault\":\"leak\""),
        first
            .replace(words, "\"words\":\"Hello\"")
            .replace(person, "Nobody"),
        first.replace("\"talk\":0", "\"talk\":1"),
    ]
    .iter()
    .map(|lie| signed(lie))
    .collect();
    assert!(lies.iter().all(|lie| *lie != signed(first)));
    fs::write(&path, lies.join("\n")).unwrap();
    let (ended, lines) = judged(&path, &village);
    assert_eq!(worths(&lines), ["false"; 4], "{lines:?}");
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    fs::write(&path, signed(first)).unwrap();
    assert_eq!(worths(&judged(&path, &village).1), ["holds"]);
    fs::write(&path, format!("{altered}\n{stranger}\nnothing\n{first}\n")).unwrap();

    // Without the game, or with another village, nobody can tell.
    let (ended, lines) = judged(&path, &Built::component("hostile-village"));
    assert_eq!(worths(&lines)[3], "unknown");
    assert_eq!(ended.code, 3);
    for entry in fs::read_dir(home).unwrap() {
        let path = entry.unwrap().path();
        if path.extension() == Some("game".as_ref()) {
            fs::remove_file(path).unwrap();
        }
    }
    fs::write(&path, format!("{first}\n")).unwrap();
    let (ended, lines) = judged(&path, &village);
    assert_eq!(worths(&lines), ["unknown"]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
}

#[test]
fn a_renderer_that_fails_costs_one_answer_and_no_game() {
    let home = tempfile::tempdir().unwrap();
    let mut table = hostile(home.path());
    let person = table.view["people"][0][0].as_str().unwrap().to_owned();
    for words in ["trap", "fewer", "refuse"] {
        let before = table.facts.clone();
        let answers = table.turn(&format!("{person}: {words}")).unwrap();
        let hint = answers[0]["hint"].as_str().unwrap();
        assert!(hint.contains("does not answer"), "{hint}");
        assert_eq!(table.facts, before, "{words} changed the village");
    }
    // It is no violation: nothing was proposed.
    let answers = table.turn(&format!("{person}: hello")).unwrap();
    assert_eq!(answers[0]["answer"]["person"], *person);
    let tally = table.end().unwrap();
    assert_eq!(tally["talks"], 1);
}

#[test]
fn people_speak_with_the_adapters_of_their_voices() {
    let home = tempfile::tempdir().unwrap();
    let done = |arguments: &[&str]| {
        let ended = run(home.path(), arguments).unwrap();
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        ended.stdout
    };
    done(&["key", "new"]);
    let base = Native::load(&mini_lm()).attention();
    let mut arguments: Vec<OsString> = ["--without-grammar", "--temperature", "1.5", "--seed", "7"]
        .map(OsString::from)
        .into();
    let mut digests = Vec::new();
    let voices = [
        "brisk", "devout", "dreamy", "grand", "gruff", "shy", "warm", "wry",
    ];
    for (seed, voice) in voices.iter().enumerate() {
        let name = format!("voice-{voice}");
        let folder = home.path().join(&name);
        random::adapter(&folder, &base, "skep-mini-lm", 4, seed as u64).unwrap();
        let added = done(&["--json", "adapter", "add", folder.to_str().unwrap()]);
        let added: Value = serde_json::from_str(&added).unwrap();
        digests.push(added["published"]["digest"].as_str().unwrap().to_owned());
        arguments.extend(["--adapter".into(), name.into()]);
    }
    let (record, ..) = first_refused(home.path(), arguments);
    let adapter = record["adapter"].as_str().unwrap().to_owned();
    assert!(digests.contains(&adapter), "{adapter} of {digests:?}");

    let ended = play(home.path(), &["--adapter", "voice-nobody"]);
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert!(ended.stderr.contains("voice-nobody"), "{}", ended.stderr);
}

/// What is written down of the first reply that the village refuses in a game that is played like
/// this, with what is so then and who was spoken to.
fn first_refused(home: &Path, mut arguments: Vec<OsString>) -> (Value, Facts, String) {
    let evidence = home.join("evidence.jsonl");
    arguments.extend(game(home, "village", "npc-renderer"));
    let mut table = Table::start(&Built::skep(), home, &arguments).unwrap();
    let mut asked = String::new();
    // A model that is hot does not keep to the facts for long.
    for turn in 0..200 {
        let people = table.view["people"].as_array().unwrap();
        let line = match people.first() {
            Some(person) => {
                person[0].as_str().unwrap().clone_into(&mut asked);
                format!("{asked}: Who has the rope? ({turn})")
            }
            None => format!("go {}", table.view["paths"][0].as_str().unwrap()),
        };
        table.turn(&line).unwrap();
        if evidence.exists() && !records(&evidence).is_empty() {
            break;
        }
    }
    let facts = table.facts.clone();
    table.end().unwrap();
    (records(&evidence).remove(0), facts, asked)
}

/// With nothing else given, each person speaks with the adapter of their own voice, and with none
/// where that is asked for.
#[test]
fn people_speak_with_the_voices_that_come_with_skep() {
    for without in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let mut arguments: Vec<OsString> = ["--without-grammar", "--temperature", "1.5"]
            .map(OsString::from)
            .into();
        if without {
            arguments.push("--without-voices".into());
        }
        let (record, facts, asked) = first_refused(home.path(), arguments);
        if without {
            assert_eq!(record["adapter"], Value::Null);
            continue;
        }
        let person = facts.people[1..]
            .iter()
            .find(|person| PEOPLE[person.name] == asked)
            .unwrap();
        let voice = VOICES[person.voice].name;
        let digest = record["adapter"].as_str().unwrap();
        let used = home.path().join("embedded").join(digest);
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            let trained = Built::root().join("models/voices").join(voice).join(file);
            assert_eq!(
                fs::read(used.join(file)).unwrap(),
                fs::read(trained).unwrap(),
                "{asked} is {voice}"
            );
        }
    }
}

fn play(home: &Path, more: &[&str]) -> Ended {
    let parts = [
        ("--village", Built::component("village")),
        ("--renderer", Built::component("npc-renderer")),
        ("--model", Built::language_model()),
    ];
    let mut arguments = vec!["play"];
    for (name, path) in &parts {
        arguments.extend([*name, path.to_str().unwrap()]);
    }
    arguments.extend(more);
    run(home, &arguments).unwrap()
}

fn script(home: &Path, lines: &str) -> PathBuf {
    let path = home.join("script");
    fs::write(&path, lines).unwrap();
    path
}

/// The last line of a game in words, which has the village's hash.
fn hash(ended: &Ended) -> String {
    assert_eq!(ended.code, 0, "{ended:?}");
    let last = ended.stdout.lines().last().unwrap();
    let hash = last.rsplit(' ').next().unwrap().trim_end_matches('.');
    assert_eq!(hash.len(), 64, "{last}");
    hash.to_owned()
}

#[test]
fn the_same_script_plays_the_same_game_and_a_saved_one_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let saved = home.path().join("game");
    let saved = saved.to_str().unwrap();
    let lines = "wait 5\nhello there\nwait 120\nwhere is the map?\n";
    let path = script(home.path(), lines);
    let path = path.to_str().unwrap();
    let whole = hash(&play(home.path(), &["--script", path, "--save", saved]));
    assert_eq!(hash(&play(home.path(), &["--script", path])), whole);
    // Half of it, saved, and the other half after it was taken up.
    let (first, second) = lines.split_at(lines.find("wait 120").unwrap());
    let path = script(home.path(), first);
    let path = path.to_str().unwrap();
    hash(&play(home.path(), &["--script", path, "--save", saved]));
    let path = script(home.path(), second);
    let path = path.to_str().unwrap();
    assert_eq!(
        hash(&play(home.path(), &["--script", path, "--load", saved])),
        whole
    );
    // Another seed is another village.
    assert_ne!(
        hash(&play(home.path(), &["--script", path, "--seed", "8"])),
        whole
    );
    // A game that was changed is not taken up.
    let mut log = fs::read(saved).unwrap();
    let last = log.len() - 1;
    log[last] ^= 1;
    fs::write(saved, log).unwrap();
    let ended = play(home.path(), &["--load", saved]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(
        ended.stderr.contains("says it leads to"),
        "{}",
        ended.stderr
    );
}

#[test]
fn what_is_missing_is_said_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let ended = run(home.path(), &["play"]).unwrap();
    assert_eq!(ended.code, 5, "{ended:?}");
    assert!(
        ended.stderr.contains("cargo xtask play"),
        "{}",
        ended.stderr
    );
    let ended = play(home.path(), &["--load", "no-such-game"]);
    assert_eq!(ended.code, 5, "{ended:?}");
    let ended = play(home.path(), &["--temperature", "9"]);
    assert_eq!(ended.code, 2, "{ended:?}");
    let renderer = Built::component("npc-renderer");
    let renderer = renderer.to_str().unwrap();
    let ended = run(
        home.path(),
        &["play", "--village", renderer, "--renderer", renderer],
    )
    .unwrap();
    assert!(ended.stderr.contains("is no village"), "{}", ended.stderr);
}
