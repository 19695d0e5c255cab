//! Whole nodes whose wall clocks are an hour off: they are found, given work, audited and paid like any
//! other, and what they sign says the time that they have.

use skep_evidence::{Keys, Receipt, Signed};
use skep_market::Event;

use super::places::with_clock;
use super::setting::events_of;
use super::*;

/// Within so many milliseconds a time is by the clock that it should be by: far less than an hour, and
/// longer than the test.
const NEAR: i64 = 10 * 60 * 1000;

#[test]
fn nodes_whose_clocks_are_an_hour_off_are_found_and_audited_and_paid_like_others() {
    let setting = Setting::new(20);
    let clocks = [HOUR, -HOUR];
    let programs = clocks.map(|ahead| with_clock(setting.folder.path(), ahead));
    let [Some(early), Some(late)] = programs else {
        return;
    };
    let right = setting.provider("right", "", 2);
    let peers = format!("peers = [{:?}]\n", ticket(&right));
    let off = [("ahead", early), ("behind", late)].map(|(name, program)| {
        let home = setting.path(name);
        configure_with(&home, "guests = 2\n", &peers, "[jobs]\naccept = true\n");
        Node::start(&program, &home).unwrap()
    });
    let requester = setting.path("requester");

    // Nobody else is named, and both have to agree: each makes every shard. By the clock that is ahead
    // the time of each lease is over before it begins.
    let tickets = off.each_ref().map(ticket);
    let more = ["--shards", "3", "--replicas", "2", "--deadline", "10 min"];
    let agreed = ask(&Built::skep(), &requester, &setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();
    let accounts = off.each_ref().map(|node| account(node.home()));
    let mut made = [0; 2];
    for event in events_of(&requester, &agreed["job"]) {
        let Event::Delivered { at, receipt, .. } = event else {
            continue;
        };
        let receipt = Signed::<Receipt>::decode(&receipt, &mut Keys::default()).unwrap();
        let signer = receipt.provider.to_string();
        let its = |account: &Value| account["account"] == *signer;
        let whose = accounts.iter().position(its).unwrap();
        let [signed, seen] = [receipt.finished, at].map(|time| i64::try_from(time).unwrap());
        let error = signed - seen - 1000 * clocks[whose];
        assert!(error.abs() < NEAR, "{signed} {seen} {whose}");
        made[whose] += 1;
    }
    assert_eq!(made, [3, 3]);

    // Nobody is named: an audit takes three, so that both are found by what the third has heard.
    let begun = Instant::now();
    while right.ask(&["node", "status"]).unwrap()["heard_of"] != 2 {
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(60), "they were not heard of");
    }
    configure_with(&requester, "", &peers, "");
    let audit = ["--shards", "6", "--audit", "100%", "--min-stake", "0"];
    let more = [&audit[..], &["--deadline", "10 min"]].concat();
    let audited = ask(&Built::skep(), &requester, &setting.submit(&[], &more)).unwrap();
    setting.assert_right();
    for shard in audited["job"]["shards"].as_array().unwrap() {
        let audits = shard["audits"].as_array().unwrap();
        assert!(!audits.is_empty(), "{shard}");
        let has_passed = |audit: &Value| audit["state"] == "passed";
        assert!(audits.iter().all(has_passed), "{shard}");
        assert_eq!(shard["outvoted"], serde_json::json!([]), "{shard}");
    }
    let homes = [off[0].home(), off[1].home(), right.home()];
    let spent = spent(&agreed) + spent(&audited);
    let earned = assert_conserved(&requester, &homes, spent);
    assert!(earned[..2].iter().all(|earned| *earned > 0), "{earned:?}");
}
