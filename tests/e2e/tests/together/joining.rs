//! Nodes that come and go while others train: one that was not there at the beginning, one that takes
//! another's place, one that leaves in order, and one that stands still where all wait at every step.

use std::process::Command;

use serde_json::Value;
use skep_tests::{Built, Node, run};

use super::outsider::{Does, Outsider};
use super::together::{Leader, Setting, Stopped, assert_learned, number, take_part, ticket};

/// Steps of the longer trainings here.
const STEPS: u64 = 80;
/// So long that much is left when somebody has come, which takes some ten steps, at a rate at which there is
/// still something to learn then: who has nothing left to learn hardly moves, and who has just come would move
/// too far beside it. It goes with the place in the schedule.
const LONGER: [&str; 4] = [
    "steps=80",
    "learning-rate=0.005",
    "patience=0",
    "schedule=linear",
];

fn longer(setting: &Setting, how: &[&str], tickets: &[&str]) -> Vec<String> {
    let mut arguments = setting.arguments_by(how, tickets, "60");
    arguments.retain(|word| !word.starts_with("steps=") && !word.starts_with("learning-rate="));
    arguments.extend(LONGER.map(str::to_owned));
    arguments
}

fn count(node: &Value, what: &str) -> u64 {
    node[what].as_u64().unwrap()
}

/// It was never let go before the end. It has as many steps to make as it was told when it was asked, and
/// may be making the last ones when all are done.
fn assert_stayed(node: &Value) {
    let gone = node["gone"].as_str().unwrap_or_default();
    assert!(gone.is_empty() || gone.contains("not at its end"), "{node}");
    assert_eq!(node["returned"], 0, "{node}");
}

/// What a node is when a training begins without it.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    /// It is not running.
    Down,
    /// It runs, and its owner does not let it take part.
    Unwilling,
}

/// Two of three nodes begin, and the third is started in the middle.
fn joins(how: &[&str], before: Before, turns: u64) {
    let setting = Setting::new();
    let first = setting.member("first");
    let home = setting.path("third");
    let third = Node::start(&Built::skep(), &home).unwrap();
    let third_ticket = ticket(&third).to_owned();
    let address = third.status["addresses"][0].as_str().unwrap().to_owned();
    let mut third = Some(third);
    if before == Before::Down {
        third.take().unwrap().kill().unwrap();
    }
    // When it is started the next time.
    take_part(&home);
    let how = [how, &["--at-least", "2"]].concat();
    let arguments = longer(&setting, &how, &[ticket(&first), &third_ticket]);
    let mut leader = Leader::start(&setting.path("leader"), &arguments);
    leader.says("\"step\":6,");
    let stopped = Stopped::new(leader.process.id());
    if let Some(unwilling) = third.take() {
        unwilling.kill().unwrap();
    }
    let third = Node::start_at(&Built::skep(), &home, &address).unwrap();
    drop(stopped);
    let trained = leader.result();
    assert_learned(&trained);
    let together = &trained["together"];
    assert_eq!(together["turns"], turns, "{together}");
    let nodes = together["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2, "{together}");
    let (from_the_beginning, later) = (&nodes[0], &nodes[1]);
    assert_eq!(from_the_beginning["accepted"], turns, "{together}");
    assert_eq!(from_the_beginning["gone"], Value::Null, "{together}");
    assert_eq!(from_the_beginning["joined"], 0, "{together}");
    assert_eq!(later["node"], third.status["node"], "{together}");
    assert_stayed(later);
    // It was not there for the turns before, and has said something in some of those that were left.
    let (joined, said) = (count(later, "joined"), count(later, "accepted"));
    assert!((1..turns).contains(&joined), "{together}");
    assert!((3..=turns - joined).contains(&said), "{together}");
    // In each turn one of those who were there showed what it had done, and there was nothing to find.
    let audited = count(from_the_beginning, "audited") + count(later, "audited");
    assert!(audited >= turns - 2, "{together}");
    let listed = run(&setting.path("leader"), &["--json", "adapter", "list"]).unwrap();
    let listed: Value = serde_json::from_str(listed.stdout.lines().last().unwrap()).unwrap();
    let published = listed["packages"][0]["reference"].as_str();
    let reference = trained["finetuned"]["reference"].as_str();
    assert!(reference.is_some() && published == reference, "{listed}");
}

#[test]
fn who_was_not_up_joins_between_rounds() {
    joins(&["--every", "4"], Before::Down, STEPS / 4 + 1);
}

#[test]
fn who_refused_at_first_joins_all_reduce() {
    joins(&["--method", "all-reduce"], Before::Unwilling, STEPS + 1);
}

#[test]
fn who_refused_at_first_joins_demo() {
    joins(&["--method", "demo"], Before::Unwilling, STEPS + 1);
}

/// There is a place for one, and whoever has it lies. The other one learns from the same examples, and is
/// audited by the same order of them: in every turn, since nobody else is there.
#[test]
fn who_is_let_go_for_good_leaves_its_place_to_another() {
    let setting = Setting::new();
    let other = setting.member("other");
    let liar = Outsider::start(&setting.path("liar"), Does::Lie);
    let tickets = [liar.ticket.as_str(), ticket(&other)];
    let mut arguments = longer(&setting, &["--every", "4"], &tickets);
    // Who lies may be found out late, and who then comes has to have as much left to learn as others that come.
    let steps = arguments.iter_mut().find(|word| *word == LONGER[0]);
    *steps.unwrap() = "steps=160".to_owned();
    let nodes = arguments.iter().position(|word| word == "--nodes").unwrap();
    arguments[nodes + 1] = "2".to_owned();
    let trained = Leader::start(&setting.path("leader"), &arguments).result();
    assert_learned(&trained);
    let together = &trained["together"];
    let nodes = together["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2, "{together}");
    let (first, second) = (&nodes[0], &nodes[1]);
    assert_eq!(first["node"], *liar.node, "{together}");
    let why = first["gone"].as_str().unwrap();
    assert!(why.contains("did not do what it said"), "{together}");
    assert_eq!(first["accepted"], 0, "{together}");
    assert_eq!(first["returned"], 0, "{together}");
    assert_eq!(second["node"], other.status["node"], "{together}");
    assert_stayed(second);
    assert!(count(second, "joined") >= 2, "{together}");
    let said = count(second, "accepted");
    assert!(said >= 3, "{together}");
    // What it took over long before the end is not known any more at the end.
    assert!(count(second, "audited") + 1 >= said, "{together}");
}

/// The node is asked to end, as a person does with Ctrl-C, and says so to those who are connected.
fn leaves_in_order(how: &[&str], turns: u64) {
    let setting = Setting::new();
    let (first, second) = (setting.member("first"), setting.member("second"));
    let arguments = setting.arguments_by(how, &[ticket(&first), ticket(&second)], "60");
    let mut leader = Leader::start(&setting.path("leader"), &arguments);
    leader.says("\"step\":10,");
    // Nothing goes on until it has ended.
    let stopped = Stopped::new(leader.process.id());
    let pid = second.pid().to_string();
    let asked = Command::new("kill").args(["-INT", &pid]).status();
    assert!(asked.unwrap().success());
    drop(second);
    drop(stopped);
    let trained = leader.result();
    assert_learned(&trained);
    let together = &trained["together"];
    assert_eq!(together["turns"], turns, "{together}");
    let (first, second) = (&together["nodes"][0], &together["nodes"][1]);
    assert_eq!(first["accepted"], turns, "{together}");
    assert_eq!(first["gone"], Value::Null, "{together}");
    assert!(
        (1..turns).contains(&count(second, "accepted")),
        "{together}"
    );
    assert_eq!(second["returned"], 0, "{together}");
    let why = second["gone"].as_str().unwrap();
    assert!(why.starts_with("the connection ended"), "{together}");
    // So nobody waited until the patience with it was over.
    let waited = number(&trained, "/together/waited_seconds");
    assert!(waited < 60.0, "{together}");
}

#[test]
fn who_is_asked_to_end_leaves_between_rounds() {
    leaves_in_order(&["--every", "4"], 9);
}

#[test]
fn who_is_asked_to_end_leaves_all_reduce() {
    leaves_in_order(&["--method", "all-reduce"], 33);
}

/// All wait at every step, for as long as the patience lasts.
fn goes_on_without_who_stands_still(method: &str) {
    let setting = Setting::new();
    let (first, second) = (setting.member("first"), setting.member("second"));
    let tickets = [ticket(&first), ticket(&second)];
    let arguments = setting.arguments_by(&["--method", method], &tickets, "5");
    let mut leader = Leader::start(&setting.path("leader"), &arguments);
    leader.says("\"step\":6,");
    let _stopped = Stopped::new(second.pid());
    let trained = leader.result();
    assert_learned(&trained);
    let together = &trained["together"];
    assert_eq!(together["turns"], 33, "{together}");
    let (first, second) = (&together["nodes"][0], &together["nodes"][1]);
    assert_eq!(first["accepted"], 33, "{together}");
    assert_eq!(first["gone"], Value::Null, "{together}");
    assert!((6..33).contains(&count(second, "accepted")), "{together}");
    assert_eq!(second["returned"], 0, "{together}");
    let why = second["gone"].as_str().unwrap();
    assert!(
        why.contains("nothing came for") || why.contains("was not read for"),
        "{why}"
    );
}

#[test]
fn who_stands_still_is_left_out_of_all_reduce() {
    goes_on_without_who_stands_still("all-reduce");
}

#[test]
fn who_stands_still_is_left_out_of_demo() {
    goes_on_without_who_stands_still("demo");
}
