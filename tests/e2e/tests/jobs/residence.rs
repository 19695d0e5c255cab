//! What providers keep ready for those who pay for it, and what that costs.

use skep_evidence::{Meter, Tariff};
use skep_market::Earnings;

use super::*;

/// The prices of a node whose owner sets none.
const TARIFF: Tariff = Tariff {
    tokens: 0,
    flops: 1_000,
    bytes: 10_000,
    residency: 10_000,
};

/// What each receipt in a home meters; each is priced as its meter says.
fn meters(home: &Path) -> Vec<Meter> {
    let earnings = Earnings::open(&home.join("earnings.redb")).unwrap();
    let receipts = earnings.receipts().unwrap();
    let meters = receipts.iter().map(|receipt| {
        assert_eq!(TARIFF.price(&receipt.meter), Some(receipt.price));
        receipt.meter
    });
    meters.collect()
}

fn kept(node: &Node) -> Vec<Value> {
    let status = node.ask(&["node", "status"]).unwrap();
    status["kept"].as_array().unwrap().clone()
}

#[test]
fn what_is_kept_ready_is_paid_once_by_each_job_and_kept_for_its_time() {
    let setting = Setting::new(40);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let providers = ["a", "b"].map(|name| setting.provider(name, "", 2));
    let tickets: Vec<&str> = providers.iter().map(ticket).collect();
    let job = |more: &[&str]| {
        let more = [&["--shards", "6"], more].concat();
        let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
        setting.assert_right();
        micro(&job["job"], "spent_micro")
    };
    let sporadic = job(&[]);
    assert!(providers.iter().all(|node| kept(node).is_empty()));
    let warm = job(&["--warm", "1h"]);
    for node in &providers {
        let kept = kept(node);
        assert_eq!(kept.len(), 1, "{kept:?}");
        let left = kept[0]["seconds"].as_f64().unwrap();
        assert!((0.0..=3_600.0).contains(&left) && left > 3_000.0, "{left}");
    }
    // The work is the same, and each of the two is paid an hour more.
    assert_eq!(warm, sporadic + 2 * TARIFF.residency);
    let refused = setting.submit(&tickets, &["--shards", "6", "--warm", "2h"]);
    let refused = run(requester.home(), &refused).unwrap();
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    let said = "asked to keep things ready for 7200 s, and its owner allows for 3600 s";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);

    // What is kept for a second is let go of, and the other kept on.
    let c = setting.provider("c", "", 2);
    let short = setting.submit(&[ticket(&c)], &["--shards", "1", "--warm", "500 ms"]);
    let short = requester.ask(&short).unwrap();
    let begun = Instant::now();
    while !kept(&c).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is kept on");
    }
    assert!(providers.iter().all(|node| kept(node).len() == 1));

    let homes = [&providers[0], &providers[1], &c].map(Node::home);
    let spent = sporadic + warm + micro(&short["job"], "spent_micro");
    assert_conserved(requester.home(), &homes, spent);
    let homes = homes.map(Path::to_path_buf);
    drop((providers, c));
    let residency = |home: &Path| {
        let meters = meters(home).into_iter().map(|meter| meter.residency);
        meters.filter(|seconds| *seconds > 0).collect::<Vec<_>>()
    };
    assert_eq!(residency(&homes[0]), [3_600]);
    assert_eq!(residency(&homes[1]), [3_600]);
    assert_eq!(residency(&homes[2]), [1]);
}

#[test]
fn what_is_kept_ready_is_kept_on_when_the_node_is_ended_and_comes_back() {
    let setting = Setting::new(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let a = setting.provider("a", "", 2);
    let submit = setting.submit(&[ticket(&a)], &["--shards", "1", "--warm", "1h"]);
    requester.ask(&submit).unwrap();
    let before = kept(&a);
    assert_eq!(before.len(), 1, "{before:?}");
    let home = a.home().to_path_buf();
    a.kill().unwrap();
    let a = Node::start(&Built::skep(), &home).unwrap();
    let begun = Instant::now();
    let after = loop {
        let kept = kept(&a);
        if !kept.is_empty() {
            break kept;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not kept");
    };
    assert_eq!(after.len(), 1, "{after:?}");
    assert_eq!(after[0]["package"], before[0]["package"]);
    let seconds = |kept: &[Value]| kept[0]["seconds"].as_f64().unwrap();
    let (was, is) = (seconds(&before), seconds(&after));
    assert!(is < was && is > 3_000.0, "{is} s of {was} s");
    // Nobody pays for it again.
    let home = a.home().to_path_buf();
    drop(a);
    let residency: u64 = meters(&home).iter().map(|meter| meter.residency).sum();
    assert_eq!(residency, 3_600);
}

#[test]
fn a_list_of_what_is_kept_that_cannot_be_read_keeps_nobody_from_having_things_kept() {
    let setting = Setting::new(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let a = setting.provider("a", "", 2);
    let home = a.home().to_path_buf();
    a.kill().unwrap();
    let damaged = b"[{\"package\":";
    fs::write(home.join("kept.json"), damaged).unwrap();
    let a = Node::start(&Built::skep(), &home).unwrap();
    let submit = setting.submit(&[ticket(&a)], &["--shards", "1", "--warm", "1h"]);
    requester.ask(&submit).unwrap();
    setting.assert_right();
    assert_eq!(kept(&a).len(), 1);
    // What was there is not thrown away, and the owner is told.
    let aside = home.join("kept.json.damaged");
    assert_eq!(fs::read(&aside).unwrap(), damaged);
    let status = run(&home, &["node", "status"]).unwrap().stdout;
    assert!(status.contains(aside.to_str().unwrap()), "{status}");
    fs::remove_file(&aside).unwrap();
    let status = a.ask(&["node", "status"]).unwrap();
    assert_eq!(status["kept_damaged"], Value::Null);
}

#[test]
fn after_a_start_a_node_has_open_what_was_paid_for_and_loads_the_rest_for_the_next_shard() {
    let setting = Setting::new(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let loaded = |node: &Node| {
        let status = node.ask(&["node", "status"]).unwrap();
        status["loaded"].as_array().unwrap().len()
    };
    let job = |node: &Node, more: &[&str]| {
        let more = [&["--shards", "1"], more].concat();
        let submit = setting.submit(&[ticket(node)], &more);
        requester.ask(&submit).unwrap();
        setting.assert_right();
    };
    let paid: [(&str, &[&str]); 2] = [("warm", &["--warm", "1h"]), ("cold", &[])];
    let [warm, cold] = paid.map(|(name, more)| {
        let node = setting.provider(name, "", 2);
        assert_eq!(loaded(&node), 0, "nobody has asked {name} for anything");
        job(&node, more);
        assert_eq!(loaded(&node), 1, "{name}");
        let home = node.home().to_path_buf();
        let address = node.status["addresses"][0].as_str().unwrap().to_owned();
        node.kill().unwrap();
        Node::start_at(&Built::skep(), &home, &address).unwrap()
    });
    let begun = Instant::now();
    while kept(&warm).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not kept");
    }
    // The one opened it before anybody asked, the other waits for who does.
    assert_eq!((loaded(&warm), loaded(&cold)), (1, 0));
    for node in [&warm, &cold] {
        job(node, &[]);
        assert_eq!(loaded(node), 1);
    }
    // The work of all four was the same, and one of them paid for the hour besides.
    let homes = [warm.home().to_path_buf(), cold.home().to_path_buf()];
    drop((warm, cold));
    let [warm, cold] = homes.map(|home| meters(&home));
    let hours = |meters: &[Meter]| meters.iter().map(|meter| meter.residency).sum::<u64>();
    assert_eq!((hours(&warm), hours(&cold)), (3_600, 0));
    let work = |meter: &Meter| Meter {
        residency: 0,
        ..*meter
    };
    let works: Vec<Meter> = warm.iter().chain(&cold).map(work).collect();
    assert_eq!(works, vec![works[0]; 4]);
}
