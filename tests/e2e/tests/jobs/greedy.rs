//! Requesters that want a provider to be there for nobody else, or for nothing: they send next to nothing, hang up,
//! ask for the same again, and have things kept ready that they do not pay for.

use super::peers::{Requester, Task, task_of};
use super::*;

/// A node that takes one shard at a time and a second that waits, with these rules and one guest's place; what
/// somebody may ask of it; and who does.
pub fn greedy(setting: &Setting, rules: &str) -> (Node, Task, Requester) {
    let c = setting.provider("c", rules, 1);
    let submit = setting.submit(&[ticket(&c)], &["--shards", "1"]);
    ask(&Built::skep(), &setting.path("requester"), &submit).unwrap();
    let task = task_of(&setting.path("requester"));
    let stranger = Requester::start(&setting.path("stranger"));
    (c, task, stranger)
}

fn is_served(setting: &Setting, nodes: &[&Node], shards: &str) -> Value {
    let tickets: Vec<&str> = nodes.iter().map(|node| ticket(node)).collect();
    let submit = setting.submit(&tickets, &["--shards", shards]);
    let job = ask(&Built::skep(), &setting.path("requester"), &submit).unwrap();
    setting.assert_right();
    job["job"].clone()
}

fn kept(node: &Node) -> usize {
    let status = node.ask(&["node", "status"]).unwrap();
    status["kept"].as_array().unwrap().len()
}

/// Waits until a node is at work on a shard, or on none. Whoever asks begins a process each time.
pub fn until_at_work(node: &Node, is_at_work: bool) {
    let begun = Instant::now();
    loop {
        let status = node.ask(&["node", "status"]).unwrap();
        let mut running = status["running"].as_array().unwrap().iter();
        let is_shard = |line: &Value| line["package"].as_str().unwrap().starts_with("a shard of");
        if running.any(is_shard) == is_at_work {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{status}");
    }
}

#[test]
fn who_sends_nothing_again_and_again_holds_no_place() {
    let setting = Setting::new(10);
    let (c, task, stranger) = greedy(&setting, "");
    // Both places are its own.
    let mut held = [1, 2].map(|number| {
        let offered = stranger.lease(ticket(&c), &task, number, 0, 0).unwrap();
        stranger.begins(ticket(&c), &offered).unwrap()
    });
    for held in &mut held {
        let refused = stranger.sends_nothing(held).to_string();
        assert!(refused.contains("chunk 0 has 0 bytes"), "{refused}");
    }
    // The conversations are over, though it does not hang up.
    is_served(&setting, &[&c], "1");
    drop(held);
}

#[test]
fn where_all_places_are_taken_receipts_are_and_shards_go_on_elsewhere() {
    let setting = Setting::new(10);
    let (c, task, stranger) = greedy(&setting, "");
    let a = setting.provider("a", "", 2);
    let (_, receipt) = stranger.has_done(ticket(&c), &task, 0, 0).unwrap();
    let occupied = Occupied::new(&setting, &c);
    // One is at work as long as the owner's own guest is there, and the other waits for it.
    let held = [1, 2].map(|number| {
        let offered = stranger.lease(ticket(&c), &task, number, 0, 0).unwrap();
        let mut held = stranger.begins(ticket(&c), &offered).unwrap();
        stranger.sends_input(&mut held);
        held
    });
    stranger.pays(ticket(&c), receipt);
    let job = is_served(&setting, &[&c, &a], "2");
    let maker = &account(a.home())["account"];
    let mut leases = 0;
    for shard in job["shards"].as_array().unwrap() {
        assert_eq!(shard["providers"], serde_json::json!([maker]), "{job}");
        leases += micro(shard, "leases");
    }
    assert_eq!(leases, 3, "one moved: {job}");
    drop((held, occupied));
    // Who was busy is asked again.
    is_served(&setting, &[&c], "1");
}

#[test]
fn what_was_called_off_is_owed_and_what_was_paid_is_not_done_again() {
    let setting = Setting::new(10);
    let (c, task, stranger) = greedy(&setting, "unpaid = \"0\"\n");
    let offered = stranger.lease(ticket(&c), &task, 0, 0, 0).unwrap();
    let (output, receipt) = stranger.has(ticket(&c), &offered).unwrap();
    // Who was killed before it had all of it gets it, and the same receipt.
    let (again, same) = stranger.has(ticket(&c), &offered).unwrap();
    assert_eq!((again, same.digest()), (output, receipt.digest()));
    stranger.pays(ticket(&c), receipt);
    let refused = stranger.has(ticket(&c), &offered).unwrap_err().to_string();
    assert!(refused.contains("its receipt has come back"), "{refused}");
    // Others have nothing to do with that.
    is_served(&setting, &[&c], "1");

    let other = Requester::with(&setting.path("other"), 78);
    let occupied = Occupied::new(&setting, &c);
    let offered = other.lease(ticket(&c), &task, 1, 0, 0).unwrap();
    let mut held = other.begins(ticket(&c), &offered).unwrap();
    other.sends_input(&mut held);
    until_at_work(&c, true);
    drop(held);
    until_at_work(&c, false);
    drop(occupied);
    let refused = other.has_done(ticket(&c), &task, 2, 0).unwrap_err();
    let is_unpaid = matches!(
        refused,
        Refusal::Unpaid {
            owed: 1..,
            limit: 0
        }
    );
    assert!(is_unpaid, "{refused}");
    // The lease itself is done: its requester may have been killed.
    other.has(ticket(&c), &offered).unwrap();
    is_served(&setting, &[&c], "1");
}

#[test]
fn who_had_no_room_for_what_was_made_is_handed_it_again_and_nothing_is_made_anew() {
    let setting = Setting::new(10);
    let (c, task, stranger) = greedy(&setting, "unpaid = \"0\"\n");
    let offered = stranger.lease(ticket(&c), &task, 0, 0, 0).unwrap();
    let mut held = stranger.begins(ticket(&c), &offered).unwrap();
    stranger.sends_input(&mut held);
    stranger.hears_of_the_end(&mut held);
    drop(held);
    let (output, receipt) = stranger.has(ticket(&c), &offered).unwrap();
    assert_eq!(output, setting.expected);
    // Work that is done anew for the same lease is owed from the fifth time on, and here nobody may owe anything.
    for _ in 0..7 {
        let (again, same) = stranger.has(ticket(&c), &offered).unwrap();
        assert_eq!((&again, same.digest()), (&output, receipt.digest()));
    }
    stranger.pays(ticket(&c), receipt);
    let refused = stranger.has(ticket(&c), &offered).unwrap_err().to_string();
    assert!(refused.contains("its receipt has come back"), "{refused}");
    is_served(&setting, &[&c], "1");
}

#[test]
fn what_the_disk_of_a_provider_keeps_from_being_begun_is_owed_by_nobody() {
    let setting = Setting::new(10);
    let (c, task, stranger) = greedy(&setting, "unpaid = \"0\"\n");
    let [models, aside] = ["embedded", "aside"].map(|name| c.home().join(name));
    fs::rename(&models, &aside).unwrap();
    fs::write(&models, b"no folder").unwrap();
    // It would be told that it owes something by the second.
    for number in 0..2 {
        let refused = stranger.has_done(ticket(&c), &task, number, 0).unwrap_err();
        let is_told =
            matches!(&refused, Refusal::Failed(why) if why.contains("a fault of the node"));
        assert!(is_told, "{refused}");
        // Where that node keeps its things is not its business.
        assert!(!refused.to_string().contains("embedded"), "{refused}");
    }
    fs::remove_file(&models).unwrap();
    fs::rename(&aside, &models).unwrap();
    let (output, _) = stranger.has_done(ticket(&c), &task, 2, 0).unwrap();
    assert_eq!(output, setting.expected);
    is_served(&setting, &[&c], "1");
}

#[test]
fn nothing_is_kept_ready_for_who_hangs_up() {
    let setting = Setting::new(10);
    let (c, task, stranger) = greedy(&setting, "");
    let lease = |number| stranger.lease(ticket(&c), &task, number, 0, 3_600).unwrap();
    let held = stranger.begins(ticket(&c), &lease(0)).unwrap();
    assert_eq!(kept(&c), 0, "nothing is signed");
    drop(held);
    let mut held = stranger.begins(ticket(&c), &lease(1)).unwrap();
    stranger.sends_nothing(&mut held);
    assert_eq!(kept(&c), 0);
    // Who has the work done has it kept.
    stranger.has(ticket(&c), &lease(2)).unwrap();
    assert_eq!(kept(&c), 1);
}
