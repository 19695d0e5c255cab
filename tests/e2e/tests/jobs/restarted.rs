//! A provider that was killed in the middle of a shard and is started again in the same home: its requester
//! hears of it from the provider, before it has been silent for too long, and the job goes on with both.

use skep_market::Earnings;

use super::setting::{has_shard, until};
use super::*;

/// What a node says of the shards in the middle of which it was ended: how many, and of how many it is still
/// to tell.
fn interrupted(node: &Node) -> (u64, u64) {
    let status = node.ask(&["node", "status"]).unwrap();
    let interrupted = &status["interrupted"];
    (micro(interrupted, "shards"), micro(interrupted, "untold"))
}

fn shards(job: &Value) -> &Vec<Value> {
    job["shards"].as_array().unwrap()
}

#[test]
fn a_provider_that_was_killed_in_the_middle_says_so_when_it_is_back_and_goes_on() {
    let setting = Setting::new(60);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, c) = (setting.provider("a", "", 1), setting.provider("c", "", 1));
    let [account_a, account_c] = [&a, &c].map(|node| account(node.home())["account"].clone());
    // Each holds a shard that it cannot begin; the job is not over before a can.
    let (occupied_a, occupied_c) = (Occupied::new(&setting, &a), Occupied::new(&setting, &c));
    let more = ["--shards", "4", "--detach"];
    let submit = setting.submit(&[ticket(&a), ticket(&c)], &more);
    let begun = requester.ask(&submit).unwrap();
    let name = begun["job"]["job"].as_str().unwrap();
    let status = || requester.ask(&["job", "status", name]).unwrap()["job"].clone();
    until("they have no shards", || has_shard(&a) && has_shard(&c));
    let job = status();
    let is_held = |shard: &Value| shard["providers"] == serde_json::json!([account_c]);
    let lost = shards(&job).iter().position(is_held).unwrap();
    assert_eq!(interrupted(&c), (0, 0));

    let (home, address) = (c.home().to_path_buf(), c.status["addresses"][0].clone());
    c.kill().unwrap();
    drop(occupied_c);
    // What it has written down is which lease it had, and where its requester is.
    let copy = setting.path("earnings of c");
    fs::copy(home.join("earnings.redb"), &copy).unwrap();
    let noted = Earnings::open(&copy).unwrap().interrupt(8, 0).unwrap();
    let nodes: Vec<&str> = noted.iter().map(|work| work.node.as_str()).collect();
    assert_eq!(nodes, [ticket(&requester)]);

    let address = address.as_str().unwrap();
    let c = Node::start_at(&Built::skep(), &home, address).unwrap();
    until("the requester knows nothing of it", || {
        let job = status();
        let reason = job["reason"].as_str().unwrap_or_default();
        reason.contains("its node was ended in the middle of the work, and says so")
    });
    until("the provider goes on telling", || interrupted(&c) == (1, 0));
    // It has the others of this job that are free; the one that it lost goes to who has not had it.
    until("it does nothing more", || status()["finished"] == 2);
    let job = status();
    let line = &shards(&job)[lost];
    assert_eq!(line["state"], "waiting", "{job}");
    assert_eq!(line["leases"], 1, "{job}");

    drop(occupied_a);
    let job = requester.ask(&["job", "watch", name]).unwrap();
    setting.assert_right();
    let job = &job["job"];
    let mut by_c = 0;
    for (number, line) in shards(job).iter().enumerate() {
        let leases = if number == lost { 2 } else { 1 };
        assert_eq!(line["leases"], leases, "{job}");
        by_c += u64::from(line["providers"] == serde_json::json!([account_c]));
    }
    assert_eq!(by_c, 2, "{job}");
    let line = &shards(job)[lost];
    assert_eq!(line["providers"], serde_json::json!([account_a]));

    // Each shard is paid once, and by the receipts alone everybody has what the ledger says.
    let spent = micro(job, "spent_micro");
    assert_conserved(requester.home(), &[a.home(), c.home()], spent);
    for node in [&a, &c] {
        assert_eq!(micro(&account(node.home()), "receipts"), 2);
    }
    // Of the shard that it lost there is nothing with the one that lost it.
    let input = fs::read_to_string(setting.path("tickets.jsonl")).unwrap();
    let before = shards(job)[..lost].iter();
    let before: u64 = before.map(|line| micro(line, "records")).sum();
    let first = input.lines().nth(usize::try_from(before).unwrap()).unwrap();
    let first: Value = serde_json::from_str(first).unwrap();
    let secret = first["text"].as_str().unwrap().as_bytes();
    let has_it = |home: &Path| files(home).iter().any(|file| holds(file, secret));
    assert!(has_it(requester.home()), "the search finds what is there");
    assert!(!has_it(c.home()));
    // What was delivered long before it is killed was not interrupted.
    let home = c.home().to_path_buf();
    c.kill().unwrap();
    let c = Node::start(&Built::skep(), &home).unwrap();
    assert_eq!(interrupted(&c), (1, 0));
}
