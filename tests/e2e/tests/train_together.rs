//! `skep finetune --nodes` over real node processes: nodes that train together, one that is killed
//! in the middle, one that comes back, one that joins, one that stands still, one that sends what would
//! spoil the training, and one that says that it learns and does not; and the same where every step is
//! made together.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "together/joining.rs"]
mod joining;
#[path = "together/outsider.rs"]
mod outsider;
#[path = "together/stepwise.rs"]
mod stepwise;
mod together;

use std::fs;

use outsider::{Does, Outsider};
use serde_json::Value;
use skep_tests::{Built, Node, run};
use together::{Leader, Setting, Stopped, assert_learned, ticket};

#[test]
fn two_nodes_finish_what_three_began_when_one_is_killed() {
    let setting = Setting::new();
    let (first, second) = (setting.member("first"), setting.member("second"));
    let arguments = setting.arguments(&[ticket(&first), ticket(&second)], "60");
    let mut leader = Leader::start(&setting.path("leader"), &arguments);
    // Two turns are over, and the third has not come.
    leader.says("\"step\":10,");
    second.kill().unwrap();
    let trained = leader.result();
    assert_learned(&trained);
    let together = &trained["together"];
    // Eight turns, and one at the end.
    assert_eq!(together["turns"], 9, "{together}");
    let (first, second) = (&together["nodes"][0], &together["nodes"][1]);
    assert_eq!(first["accepted"], 9, "{together}");
    assert_eq!(first["gone"], Value::Null, "{together}");
    let counted = second["accepted"].as_u64().unwrap();
    assert!((2..9).contains(&counted), "{together}");
    assert!(second["gone"].is_string(), "{together}");
    assert_eq!(first["left_out"], serde_json::json!([]), "{together}");
    // Nobody waited for what a connection is given by default, half a minute, and less for the patience.
    let waited = together::number(&trained, "/together/waited_seconds");
    assert!(waited < 30.0, "{together}");
    // Who is killed while it is audited cannot show what it has computed, and that does not count.
    for left_out in second["left_out"].as_array().unwrap() {
        assert_eq!(left_out["round"], counted, "{together}");
        let why = left_out["why"].as_str().unwrap();
        assert!(why.starts_with("the connection ended"), "{together}");
    }
    // In each of nine turns one of those who were there was audited, and there was nothing to find;
    // at most one audit was cut off.
    let audited = first["audited"].as_u64().unwrap() + second["audited"].as_u64().unwrap();
    assert!((8..=9).contains(&audited), "{together}");
    // What was said of weights is a fraction of the weights.
    let adapter = fs::metadata(
        setting
            .path("leader")
            .join("trainings/shop/adapter/adapter_model.safetensors"),
    );
    let dense = 9 * adapter.unwrap().len();
    let said = together["contributed_bytes"].as_u64().unwrap();
    assert!(7 * said < dense, "{said} of {dense}");
    // And nobody was sent where all begin: each has made it by the same seed.
    let (sent, file) = (
        together["sent_bytes"].as_u64().unwrap(),
        fs::metadata(setting.path("shop.jsonl")).unwrap().len(),
    );
    let passed = 2 * 9 * 3 * (said / 9 + 300);
    assert!(
        sent < file + passed + 4096,
        "{sent}, of examples {file}, passed on {passed}"
    );
}

/// A node that is stopped hears nothing and says nothing, while its connection stands.
#[test]
fn who_stands_still_is_left_out_when_patience_is_over() {
    let setting = Setting::new();
    let (first, second) = (setting.member("first"), setting.member("second"));
    let arguments = setting.arguments(&[ticket(&first), ticket(&second)], "5");
    let mut leader = Leader::start(&setting.path("leader"), &arguments);
    leader.says("\"step\":6,");
    let _stopped = Stopped::new(second.pid());
    let trained = leader.result();
    assert_learned(&trained);
    let (first, second) = (
        &trained["together"]["nodes"][0],
        &trained["together"]["nodes"][1],
    );
    assert_eq!(first["accepted"], 9, "{trained}");
    let why = second["gone"].as_str().unwrap();
    assert!(
        why.contains("nothing came for") || why.contains("was not read for"),
        "{why}"
    );
    assert!(second["accepted"].as_u64().unwrap() < 9, "{trained}");
}

/// What is told of a training of this kind by three nodes, with these settings of the recipe, of which the
/// second is killed and started again. The leader stands still meanwhile, so that there is much of the
/// training left when it is back.
fn told_of_who_was_killed(how: &[&str], settings: &[&str]) -> Value {
    let setting = Setting::new();
    let (first, second) = (setting.member("first"), setting.member("second"));
    let home = second.home().to_owned();
    let address = second.status["addresses"][0].as_str().unwrap().to_owned();
    let arguments = setting.longer_by(how, [&first, &second], "60", settings);
    let mut leader = Leader::start(&setting.path("leader"), &arguments);
    leader.says("\"step\":6,");
    let stopped = Stopped::new(leader.process.id());
    second.kill().unwrap();
    let _second = Node::start_at(&Built::skep(), &home, &address).unwrap();
    drop(stopped);
    let trained = leader.result();
    assert_learned(&trained);
    trained["together"].clone()
}

fn comes_back(how: &[&str], steps: u64) {
    // The rate of who comes back falls with those of the others: with its own from the beginning, its
    // last contributions would be larger than theirs, and left out for that.
    let turns = steps / 4 + 1;
    let steps = format!("steps={steps}");
    let settings = [&steps, "patience=0", "schedule=linear"];
    let together = told_of_who_was_killed(how, &settings);
    let (first, second) = (&together["nodes"][0], &together["nodes"][1]);
    assert_eq!(first["gone"], Value::Null, "{together}");
    assert_eq!(first["accepted"], turns, "{together}");
    // It has as many steps as it was told when it was asked, and may be making the last when all are done.
    let gone = second["gone"].as_str().unwrap_or_default();
    assert!(
        gone.is_empty() || gone.contains("not at its end"),
        "{together}"
    );
    assert_eq!(second["returned"], 1, "{together}");
    // It has said things again since then, some of which were done again. One whose norm is too far
    // from the others' may be left out: its optimizer has begun anew.
    let said = second["accepted"].as_u64().unwrap();
    assert!((3..turns).contains(&said), "{together}");
    let audited = |node: &Value| node["audited"].as_u64().unwrap();
    assert!(audited(first) + audited(second) >= turns - 2, "{together}");
}

#[test]
fn who_was_killed_comes_back_between_rounds() {
    comes_back(&["--every", "4"], 60);
}

/// What is said after four steps is taken over three steps later, and so said again before it is decided of
/// those who come back.
#[test]
fn who_was_killed_comes_back_while_turns_are_under_way() {
    comes_back(&["--every", "4", "--fragments", "1", "--overlap", "3"], 60);
}

/// A part is said every other step and taken over at the next, while each turn is audited.
#[test]
fn turns_are_decided_while_steps_are_made() {
    let setting = Setting::new();
    let (first, second) = (setting.member("first"), setting.member("second"));
    let how = ["--every", "8", "--fragments", "4", "--overlap", "1"];
    let arguments = setting.longer_by(&how, [&first, &second], "60", &["steps=32"]);
    let trained = Leader::start(&setting.path("leader"), &arguments).result();
    assert_learned(&trained);
    let together = &trained["together"];
    // Sixteen turns, and one at the end for each part.
    assert_eq!(together["turns"], 20, "{together}");
    let nodes = together["nodes"].as_array().unwrap();
    for node in nodes {
        assert_eq!(node["gone"], Value::Null, "{together}");
        assert_eq!(node["accepted"], 20, "{together}");
    }
    let audited = |node: &Value| node["audited"].as_u64().unwrap();
    assert_eq!(nodes.iter().map(audited).sum::<u64>(), 20, "{together}");
}

/// What is told of a training of this kind with a node that does this, the first, and one that is
/// honest.
fn trained_beside(does: Does, how: &[&str]) -> Value {
    let setting = Setting::new();
    let honest = setting.member("honest");
    let outsider = Outsider::start(&setting.path("outsider"), does);
    let tickets = [outsider.ticket.as_str(), ticket(&honest)];
    let arguments = setting.arguments_by(how, &tickets, "60");
    let trained = Leader::start(&setting.path("leader"), &arguments).result();
    assert_learned(&trained);
    let together = &trained["together"];
    assert_eq!(together["nodes"][0]["node"], *outsider.node, "{together}");
    together.clone()
}

#[test]
fn who_learns_from_something_else_than_it_was_given_is_found_out() {
    let together = trained_beside(Does::Lie, &["--every", "4"]);
    let told = &together["nodes"][0];
    let why = told["gone"].as_str().unwrap();
    assert!(why.contains("did not do what it said"), "{together}");
    assert!(why.contains("examples whose turn it was"), "{together}");
    // The contribution in question did not count, and it was not asked to come back.
    let last = &told["left_out"][0]["why"];
    assert!(
        last.as_str().unwrap().contains("whose turn it was"),
        "{together}"
    );
    assert_eq!(told["returned"], 0, "{together}");
    assert_eq!(together["nodes"][1]["accepted"], 9, "{together}");
}

/// Without a turn before it, and so without a contribution that was ever looked at.
#[test]
fn who_lies_in_what_is_said_last_is_found_out() {
    let setting = Setting::new();
    let liar = Outsider::start(&setting.path("liar"), Does::LieAtTheEnd);
    let how = ["--every", "40", "--fragments", "1"];
    let arguments = setting.arguments_by(&how, &[&liar.ticket], "60");
    let trained = Leader::start(&setting.path("leader"), &arguments).result();
    assert_learned(&trained);
    let together = &trained["together"];
    assert_eq!(together["turns"], 1, "{together}");
    let told = &together["nodes"][0];
    assert_eq!(told["accepted"], 0, "{together}");
    let left_out = &told["left_out"][0];
    assert_eq!(left_out["round"], Value::Null, "{together}");
    let why = left_out["why"].as_str().unwrap();
    assert!(why.contains("whose turn it was"), "{together}");
}

/// Members' recipes go back to the best that they had, which is not where their last step led to.
#[test]
fn who_goes_back_to_its_best_can_show_it() {
    let setting = Setting::new();
    let (first, second) = (setting.member("first"), setting.member("second"));
    let settings = ["steps=32", "evaluate-every=2", "patience=0"];
    let mut arguments = setting.longer([&first, &second], "60", &settings);
    // So large a rate that a training is at its best in the middle.
    arguments.retain(|word| !word.starts_with("learning-rate=") && word != "evaluate-every=16");
    arguments.push("learning-rate=0.06".to_owned());
    let trained = Leader::start(&setting.path("leader"), &arguments).result();
    assert!(
        together::number(&trained, "/metrics/best-step") < 32.0,
        "{trained}"
    );
    let together = &trained["together"];
    let nodes = together["nodes"].as_array().unwrap();
    for node in nodes {
        assert_eq!(node["gone"], Value::Null, "{together}");
        assert_eq!(node["accepted"], 9, "{together}");
    }
    let audited: u64 = nodes
        .iter()
        .map(|node| node["audited"].as_u64().unwrap())
        .sum();
    assert_eq!(audited, 9, "{together}");
}

/// Of who is honest so many contributions count, and none of who would spoil a training of this kind.
fn leaves_out_who_spoils(how: &[&str], accepted: u64) {
    let together = trained_beside(Does::Spoil, how);
    let told = &together["nodes"][0];
    assert_eq!(told["accepted"], 0, "{together}");
    let why = |at: usize| told["left_out"][at]["why"].as_str().unwrap();
    assert!(why(0).contains("not finite"), "{together}");
    assert!(why(1).contains("times the median"), "{together}");
    assert!(why(2).contains("bytes and should have"), "{together}");
    let gone = told["gone"].as_str().unwrap();
    assert!(gone.contains("3 times in a row"), "{together}");
    assert_eq!(together["nodes"][1]["accepted"], accepted, "{together}");
}

#[test]
fn who_sends_what_would_spoil_a_training_is_left_out_by_name() {
    leaves_out_who_spoils(&["--every", "4"], 9);
}

#[test]
fn a_node_that_takes_part_in_nothing_says_so() {
    let setting = Setting::new();
    let home = setting.path("other");
    let other = Node::start(&Built::skep(), &home).unwrap();
    let arguments = setting.arguments(&[ticket(&other)], "20");
    let refused = run(&setting.path("leader"), &arguments).unwrap();
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("takes part in no trainings"),
        "{}",
        refused.stderr
    );
    // One that there is nobody for is one too many.
    let mut more = setting.arguments(&[], "20");
    let nodes = more.iter().position(|word| word == "1").unwrap();
    more[nodes] = "2".to_owned();
    let refused = run(&setting.path("leader"), &more).unwrap();
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("--provider"), "{}", refused.stderr);
}

/// What a node that comes back is told: its recipe goes on at that place of its schedule.
#[test]
fn a_recipe_goes_on_after_the_steps_that_all_have_made() {
    let setting = Setting::new();
    let data = setting.path("shop.jsonl");
    let mut arguments = vec!["--json", "finetune", "--data", data.to_str().unwrap(), "--"];
    arguments.extend(["rank=4", "batch=4", "learning-rate=0.01", "held-out=0.2"]);
    arguments.extend([
        "steps=50",
        "schedule=linear",
        "warm-up=0.1",
        "steps-made=40",
    ]);
    let ended = run(&setting.path("leader"), &arguments).unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let losses = fs::read_to_string(setting.path("leader/trainings/shop/losses.jsonl")).unwrap();
    let steps: Vec<Value> = losses
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|step: &Value| !step["loss"].is_null())
        .collect();
    let numbers: Vec<u64> = steps
        .iter()
        .map(|step| step["step"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (41..=50).collect::<Vec<u64>>());
    // Five steps of warm-up, and 45 in which the rate falls to nothing, 35 of which are over.
    let rate = steps[0]["learning_rate"].as_f64().unwrap();
    assert!((rate - 0.01 * 10.0 / 45.0).abs() < 1e-8, "{rate}");
}
