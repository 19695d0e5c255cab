//! Providers that have a shard and deliver it too late, since they are slow, stopped or cut off: the shard is made by
//! another and paid once, and who was late is neither paid for it nor called a liar.

use std::process::Command;

use serde_json::json;
use skep_market::{Conduct, Event};

use super::places::Cable;
use super::setting::{events_of, has_shard, remembered, reputation, until};
use super::*;

/// How many leases of these jobs came to nothing by what their providers did.
fn failed(requester: &Path, jobs: &[&Value]) -> usize {
    let events = jobs
        .iter()
        .flat_map(|job| events_of(requester, &job["job"]));
    events
        .filter(|event| matches!(event, Event::Failed { .. }))
        .count()
}

/// How many receipts each of two providers has.
fn receipts(a: &Node, c: &Node) -> [u64; 2] {
    [a, c].map(|node| micro(&account(node.home()), "receipts"))
}

/// A job of which one shard is on a node that then cannot be reached; `cut` makes it so, and ends it. The node works
/// for the same requester again afterwards.
fn partition(setting: &Setting, requester: Node, a: &Node, c: &Node, cut: &dyn Fn(bool)) {
    let home = requester.home().to_path_buf();
    let occupied = Occupied::new(setting, c);
    let submit = setting.submit(&[ticket(a), ticket(c)], &["--shards", "3"]);
    let mut following = Following::start(&home, &submit);
    let name = following.until_done(2);
    let before = requester.ask(&["job", "status", &name]).unwrap();
    cut(true);
    let job = following.end();
    setting.assert_right();
    assert!(assert_kept(&before, &job) >= 2, "{before}");
    assert_eq!(leases(&job), [1, 1, 2], "{job}");
    cut(false);
    drop(occupied);
    let again = setting.submit(&[ticket(c)], &["--shards", "1", "--only"]);
    let again = requester.ask(&again).unwrap();
    setting.assert_right();
    // Each is paid for what it delivered: the lease that was cut off is not paid beside the one that took its place.
    let jobs = [&job, &again];
    let [first, second] = jobs.map(spent);
    let earned = assert_conserved(&home, &[a.home(), c.home()], first + second);
    assert_eq!(earned, [first, second]);
    assert!(second > 0);
    assert_eq!(assert_finished(&home, &jobs), 4);
    assert_eq!(receipts(a, c), [3, 1]);
    // Who was silent has failed, unless another delivered before that was noticed; it has not lied, nor is it doubted.
    let failed = failed(&home, &jobs);
    drop(requester);
    let delivered = reputation(&[Conduct::Delivered; 3]);
    assert_eq!(remembered(&home, a.home()), delivered);
    let mut seen = vec![Conduct::Failed; failed];
    seen.push(Conduct::Delivered);
    assert_eq!(remembered(&home, c.home()), reputation(&seen));
}

#[test]
fn a_cable_that_is_cut_for_the_length_of_a_job_and_mended_costs_one_lease() {
    if !is_root() {
        return;
    }
    let setting = Setting::new(60);
    let cable = Cable::new(setting.folder.path());
    let [near, far] = cable.ends();
    let requester = Node::start(near, &setting.path("requester")).unwrap();
    let a = setting.provider_by(near, "a", "", 2);
    let c = setting.provider_by(far, "c", "", 1);
    partition(&setting, requester, &a, &c, &|cut| cable.set(!cut));
}

#[test]
fn a_provider_that_is_stopped_and_goes_on_later_costs_one_lease() {
    let setting = Setting::new(60);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, c) = (setting.provider("a", "", 2), setting.provider("c", "", 1));
    let pid = c.pid().to_string();
    partition(&setting, requester, &a, &c, &|stop| {
        let signal = if stop { "-STOP" } else { "-CONT" };
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
    });
}

#[test]
fn who_is_slow_and_comes_second_is_neither_paid_nor_blamed() {
    let setting = Setting::new(60);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let home = requester.home().to_path_buf();
    let (a, c) = (setting.provider("a", "", 2), setting.provider("c", "", 1));
    // It says all the time that it is at work, and is late after a quarter of the time that the job has.
    let occupied = Occupied::new(&setting, &c);
    let more = ["--shards", "3", "--deadline", "80 s"];
    let submit = setting.submit(&[ticket(&a), ticket(&c)], &more);
    let mut following = Following::start(&home, &submit);
    until("it was given no shard", || has_shard(&c));
    let name = following.until_done(2);
    let before = requester.ask(&["job", "status", &name]).unwrap();
    let job = following.end();
    setting.assert_right();
    assert!(assert_kept(&before, &job) >= 2, "{before}");
    assert_eq!(leases(&job), [1, 1, 2], "{job}");
    let slow = account(c.home())["account"].clone();
    for shard in job["job"]["shards"].as_array().unwrap() {
        assert_ne!(shard["providers"], json!([slow]), "{job}");
        assert_eq!(shard["outvoted"], json!([]), "{job}");
    }
    // Its lease was withdrawn when the other one delivered, and nothing failed.
    let events = events_of(&home, &job["job"]);
    let its = events.iter().filter_map(|event| match event {
        Event::Leased { id, provider, .. } if slow == *provider.to_string() => Some(*id),
        _ => None,
    });
    let withdrawn = events.iter().filter_map(|event| match event {
        Event::Withdrawn { id, .. } => Some(*id),
        _ => None,
    });
    assert!(its.eq(withdrawn), "{events:?}");
    assert_eq!(failed(&home, &[&job]), 0);

    // It goes on, and what it asks for comes too late.
    until("it holds what was withdrawn", || !has_shard(&c));
    drop(occupied);
    let collected = c.ask(&["account", "collect"]).unwrap();
    assert_eq!(micro(&collected["account"], "receipts"), 0, "{collected}");
    assert_eq!(assert_finished(&home, &[&job]), 3);

    // It is given the next shard, and paid for that one.
    let again = setting.submit(&[ticket(&c)], &["--shards", "1", "--only"]);
    let again = requester.ask(&again).unwrap();
    setting.assert_right();
    assert_eq!(leases(&again), [1], "{again}");
    let jobs = [&job, &again];
    let [first, second] = jobs.map(spent);
    let earned = assert_conserved(&home, &[a.home(), c.home()], first + second);
    assert_eq!(earned, [first, second]);
    assert!(second > 0);
    assert_eq!(assert_finished(&home, &jobs), 4);
    assert_eq!(receipts(&a, &c), [3, 1]);
    drop(requester);
    for (node, delivered) in [(&a, 3), (&c, 1)] {
        let seen = vec![Conduct::Delivered; delivered];
        assert_eq!(remembered(&home, node.home()), reputation(&seen));
    }
}
