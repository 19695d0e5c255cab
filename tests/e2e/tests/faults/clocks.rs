//! Whole nodes whose wall clocks are an hour off: they are found, given work, audited and paid like any
//! other, and what they sign says the time that they have. So it is with a requester whose clock is.

use std::time::{SystemTime, UNIX_EPOCH};

use skep_evidence::{Keys, Lease, Receipt, Signed};
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
    assert_audited(&audited);
    let homes = [off[0].home(), off[1].home(), right.home()];
    let spent = spent(&agreed) + spent(&audited);
    let earned = assert_conserved(&requester, &homes, spent);
    assert!(earned[..2].iter().all(|earned| *earned > 0), "{earned:?}");
    assert_finished(&requester, &[&agreed, &audited]);
}

/// Every result was looked at, and found right.
fn assert_audited(job: &Value) {
    for shard in job["job"]["shards"].as_array().unwrap() {
        let audits = shard["audits"].as_array().unwrap();
        assert!(!audits.is_empty(), "{shard}");
        let has_passed = |audit: &Value| audit["state"] == "passed";
        assert!(audits.iter().all(has_passed), "{shard}");
        assert_eq!(shard["outvoted"], serde_json::json!([]), "{shard}");
    }
}

/// Whether a time in milliseconds is another one by a clock that is so many seconds ahead of that one's.
fn is_near(time: u64, other: u64, ahead: i64) -> bool {
    let [time, other] = [time, other].map(|time| i64::try_from(time).unwrap());
    (time - other - 1000 * ahead).abs() < NEAR
}

#[test]
fn a_requester_whose_clock_is_an_hour_off_has_its_jobs_done_and_audited_and_pays_like_others() {
    let setting = Setting::new(20);
    let clocks = [HOUR, -HOUR];
    let programs = clocks.map(|ahead| with_clock(setting.folder.path(), ahead));
    let [Some(early), Some(late)] = programs else {
        return;
    };
    let providers = ["a", "b", "c"].map(|name| setting.provider(name, "", 2));
    let tickets = providers.each_ref().map(ticket);
    let home = setting.path("requester");
    let audit = ["--shards", "3", "--audit", "100%", "--min-stake", "0"];
    let more = [&audit[..], &["--deadline", "10 min"]].concat();
    let (mut jobs, mut paid) = (Vec::new(), 0);
    // One after the other: the second has books that are two hours ahead of its clock.
    for (ahead, program) in clocks.into_iter().zip([early, late]) {
        let requester = Node::start(&program, &home).unwrap();
        let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
        setting.assert_right();
        fs::remove_file(setting.path("result.jsonl")).unwrap();
        assert_eq!(job["job"]["state"], "done", "{job}");
        assert_audited(&job);
        drop(requester);

        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = u64::try_from(now.as_millis()).unwrap();
        let mut delivered = 0;
        for event in events_of(&home, &job["job"]) {
            match event {
                // What it signs has its own time, by which for one of them the lease is over before it begins.
                Event::Leased { encoding, .. } => {
                    let lease = Signed::<Lease>::decode(&encoding, &mut Keys::default()).unwrap();
                    assert!(is_near(lease.issued, now, ahead), "{} {now}", lease.issued);
                }
                // And what it gets has that of others.
                Event::Delivered { at, receipt, .. } => {
                    let receipt = Signed::<Receipt>::decode(&receipt, &mut Keys::default());
                    let finished = receipt.unwrap().finished;
                    assert!(is_near(at, finished, ahead), "{at} {finished}");
                    delivered += 1;
                }
                Event::Paid { .. } => paid += 1,
                _ => {}
            }
        }
        // Each result, and at least one look at it.
        assert!(delivered >= 6, "{delivered}");
        jobs.push(job);
    }
    let homes = providers.each_ref().map(Node::home);
    assert_conserved(&home, &homes, jobs.iter().map(spent).sum());
    let jobs: Vec<&Value> = jobs.iter().collect();
    assert_eq!(assert_finished(&home, &jobs), paid);
    let receipts = homes.map(|home| micro(&account(home), "receipts"));
    assert_eq!(receipts.iter().sum::<u64>(), paid, "{receipts:?}");
}
