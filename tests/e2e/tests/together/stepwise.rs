//! Trainings by three node processes whose every step is made together.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use safetensors::SafeTensors;
use serde_json::Value;
use skep_tests::{Built, ask, run};

use super::outsider::Does;
use super::together::{Leader, Setting, assert_learned, number, ticket};
use super::{leaves_out_who_spoils, told_of_who_was_killed, trained_beside};

/// How many weights are trained, by the adapter that was saved.
fn parameters(setting: &Setting) -> f64 {
    let adapter = setting.path("leader/trainings/shop/adapter/adapter_model.safetensors");
    fs::metadata(adapter).unwrap().len() as f64 / 4.0
}

/// With each contribution, and once more at the end, a node says which weights it has, and one that
/// has others is let go: so all have made the same steps, to the bit. Their steps are made again,
/// one in every turn.
fn all_learn_the_same(method: &str, settings: &[&str], times_fewer: f64) {
    let setting = Setting::new();
    let (first, second) = (setting.member("first"), setting.member("second"));
    let tickets = [ticket(&first), ticket(&second)];
    let mut arguments = setting.arguments_by(&["--method", method], &tickets, "60");
    arguments.extend(settings.iter().map(|setting| (*setting).to_owned()));
    let trained = Leader::start(&setting.path("leader"), &arguments).result();
    assert_learned(&trained);
    assert_eq!(trained["steps"], 32, "{trained}");
    let together = &trained["together"];
    assert_eq!(together["method"], method, "{together}");
    assert_eq!(together["turns"], 33, "{together}");
    let mut audited = 0;
    for node in together["nodes"].as_array().unwrap() {
        assert_eq!(node["accepted"], 33, "{together}");
        assert_eq!(node["left_out"], serde_json::json!([]), "{together}");
        assert_eq!(node["gone"], Value::Null, "{together}");
        audited += node["audited"].as_u64().unwrap();
    }
    assert_eq!(audited, 32, "{together}");
    let said = number(&trained, "/together/contributed_bytes");
    let all = 2.0 * parameters(&setting) * 32.0;
    assert!(said * times_fewer < all, "{said} of {all}");
}

#[test]
fn three_nodes_learn_by_all_reduce() {
    // A header of 15 bytes, and an adapter's file has one too.
    all_learn_the_same("all-reduce", &[], 0.9);
}

#[test]
fn three_nodes_learn_by_demo() {
    all_learn_the_same("demo", &[], 40.0);
}

#[test]
fn three_nodes_learn_directions_and_lengths_by_demo() {
    // Lengths are a vector for each matrix, of which more is said than of matrices.
    all_learn_the_same("demo", &["dora=yes"], 10.0);
}

fn goes_on_without(method: &str) {
    let setting = Setting::new();
    let (first, second) = (setting.member("first"), setting.member("second"));
    let tickets = [ticket(&first), ticket(&second)];
    let arguments = setting.arguments_by(&["--method", method], &tickets, "60");
    let mut leader = Leader::start(&setting.path("leader"), &arguments);
    leader.says("\"step\":10,");
    second.kill().unwrap();
    let trained = leader.result();
    assert_learned(&trained);
    let together = &trained["together"];
    let (first, second) = (&together["nodes"][0], &together["nodes"][1]);
    assert_eq!(first["accepted"], 33, "{together}");
    assert_eq!(first["gone"], Value::Null, "{together}");
    let counted = second["accepted"].as_u64().unwrap();
    assert!((10..33).contains(&counted), "{together}");
    assert!(second["gone"].is_string(), "{together}");
}

#[test]
fn two_nodes_finish_by_all_reduce_what_three_began() {
    goes_on_without("all-reduce");
}

#[test]
fn two_nodes_finish_by_demo_what_three_began() {
    goes_on_without("demo");
}

#[test]
fn who_sends_what_would_spoil_all_reduce_is_left_out_by_name() {
    leaves_out_who_spoils(&["--method", "all-reduce"], 33);
}

#[test]
fn who_sends_what_would_spoil_demo_is_left_out_by_name() {
    leaves_out_who_spoils(&["--method", "demo"], 33);
}

#[test]
fn who_says_other_gradients_than_those_of_its_examples_is_found_out() {
    for method in ["all-reduce", "demo"] {
        let together = trained_beside(Does::Lie, &["--method", method]);
        let told = &together["nodes"][0];
        let why = told["gone"].as_str().unwrap();
        assert!(why.contains("examples whose turn it was"), "{together}");
        assert_eq!(told["returned"], 0, "{together}");
        assert_eq!(together["nodes"][1]["accepted"], 33, "{together}");
    }
}

/// It gets the weights and the optimizer's state of that moment, and makes the same steps as all from
/// then on: otherwise it would be let go again for having other weights.
#[test]
fn who_was_killed_comes_back_to_all_reduce() {
    let settings = ["steps=64", "patience=0", "schedule=linear"];
    let together = told_of_who_was_killed(&["--method", "all-reduce"], &settings);
    let (first, second) = (&together["nodes"][0], &together["nodes"][1]);
    assert_eq!(first["accepted"], 65, "{together}");
    assert_eq!(second["returned"], 1, "{together}");
    let said = second["accepted"].as_u64().unwrap();
    assert!((10..65).contains(&said), "{together}");
}

/// The leader goes on from its checkpoint, and the other from there: from the weights, the optimizer's
/// state, and the place in the order of its examples and in the schedule.
#[test]
fn an_interrupted_training_by_all_reduce_comes_to_what_an_unbroken_one_does() {
    let setting = Setting::new();
    let other = setting.member("other");
    let how = ["--method", "all-reduce"];
    let arguments = setting.arguments_by(&how, &[ticket(&other)], "60");
    let mut broken = Leader::start(&setting.path("leader"), &arguments);
    broken.says("\"step\":10,");
    let pid = broken.process.id().to_string();
    let asked = Command::new("kill").args(["-INT", &pid]).status();
    assert!(asked.unwrap().success());
    assert!(!broken.process.wait().unwrap().success());
    // Its part in the first one has to be over, before it takes part in another.
    let mut ended = run(&setting.path("leader"), &arguments).unwrap();
    while ended.stderr.contains("takes part in another training") {
        ended = run(&setting.path("leader"), &arguments).unwrap();
    }
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let trained: Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert_learned(&trained);
    // Every step that was left was made again from what the other's order of examples has there.
    let turns = trained["together"]["turns"].as_u64().unwrap();
    assert!((2..33).contains(&turns), "{trained}");
    let node = &trained["together"]["nodes"][0];
    assert_eq!(node["accepted"], turns, "{trained}");
    assert_eq!(node["audited"], turns - 1, "{trained}");
    let broken = learned(&setting.path("leader"));

    let home = setting.path("unbroken");
    skep_tests::set_up(&home).unwrap();
    assert_eq!(run(&home, &["key", "new"]).unwrap().code, 0);
    Leader::start(&home, &arguments).result();
    assert!(broken == learned(&home), "they differ");
}

/// The tensors of an adapter that begin as zeros, by their names.
fn learned(home: &Path) -> HashMap<String, Vec<f32>> {
    let file = home.join("trainings/shop/adapter/adapter_model.safetensors");
    let bytes = fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |data: &[u8]| {
        let words = data.chunks_exact(4);
        let words = words.map(|word| f32::from_le_bytes(word.try_into().unwrap()));
        words.collect()
    };
    let named = tensors.iter().filter(|(name, _)| name.contains("lora_B"));
    named
        .map(|(name, tensor)| (name.to_owned(), numbers(tensor.data())))
        .collect()
}

/// How far one is from the other, beside how far that has come.
fn distance(from: &HashMap<String, Vec<f32>>, to: &HashMap<String, Vec<f32>>) -> f64 {
    let (mut apart, mut come) = (0.0, 0.0);
    for (name, numbers) in to {
        for (x, y) in from[name].iter().zip(numbers) {
            apart += f64::from(x - y).powi(2);
            come += f64::from(*y).powi(2);
        }
    }
    (apart / come).sqrt()
}

/// Each of two nodes learns from all of its four examples at every step, and one node from all eight.
/// Each pair of examples is of the same words, so that both nodes count as many tokens.
#[test]
fn two_nodes_learn_by_all_reduce_what_one_learns_from_both_parts() {
    let setting = Setting::new();
    let pairs = [
        ("honey", "bread"),
        ("rope", "salt"),
        ("wool", "cheese"),
        ("apples", "candles"),
    ];
    let lines = pairs.iter().flat_map(|(x, y)| {
        let line = |x, y| format!("{{\"text\": \"first {x} and then {y} to sell\"}}\n");
        [line(x, y), line(y, x)]
    });
    fs::write(setting.path("shop.jsonl"), lines.collect::<String>()).unwrap();
    let settings = |batch: &'static str| {
        let all = [
            "rank=4",
            "learning-rate=0.01",
            "held-out=0",
            "steps=12",
            "clip=1000000",
            batch,
        ];
        all.map(str::to_owned)
    };
    let other = setting.member("other");
    let mut arguments = setting.arguments_by(&["--method", "all-reduce"], &[ticket(&other)], "60");
    let place = arguments.iter().position(|word| word == "--").unwrap();
    arguments.truncate(place + 1);
    arguments.extend(settings("batch=4"));
    let trained = Leader::start(&setting.path("leader"), &arguments).result();
    let node = &trained["together"]["nodes"][0];
    assert_eq!(node["accepted"], 13, "{trained}");
    assert_eq!(node["audited"], 12, "{trained}");
    let together = learned(&setting.path("leader"));

    let alone = |batch: &'static str, name: &str, data: &Path| {
        let home = setting.path(name);
        skep_tests::set_up(&home).unwrap();
        assert_eq!(run(&home, &["key", "new"]).unwrap().code, 0);
        let data = data.to_str().unwrap();
        let mut arguments = vec!["finetune", "--data", data, "--out", "shop", "--"];
        let settings = settings(batch);
        arguments.extend(settings.iter().map(String::as_str));
        ask(&Built::skep(), &home, &arguments).unwrap();
        learned(&home)
    };
    let whole = alone("batch=8", "alone", &setting.path("shop.jsonl"));
    let apart = distance(&together, &whole);
    // What bfloat16 rounds, where AdamW makes much of little gradients.
    assert!(apart < 0.05, "{apart}");
    // Of one node's part alone comes something else.
    let text = fs::read_to_string(setting.path("shop.jsonl")).unwrap();
    let half: String = text
        .lines()
        .step_by(2)
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(setting.path("half.jsonl"), half).unwrap();
    let half = alone("batch=4", "half", &setting.path("half.jsonl"));
    let apart = distance(&half, &whole);
    assert!(apart > 0.2, "{apart}");
}
