//! Replicas over real nodes: the one that is another than enough others is looked at by a panel, and whoever is not
//! with the majority of that pays, be it the odd one or those against whom it was.

use super::audits::{CREDIT, assert_paid, line, own, stake};
use super::peers::Manner;
use super::*;

/// What each has at stake, and what a proven fraud costs, in credits.
const STAKE: u64 = 15;
const FINE: u64 = 10;
/// Asked for when nobody that is cheaper is left.
const DEAR: &str = "price-per-teraflop = \"0.01\"\nprice-per-gigabyte = \"0.1\"\n";

fn stakes(requester: &Node, accounts: &[&str]) {
    for whose in accounts {
        stake(requester.home(), &STAKE.to_string(), whose);
    }
}

/// Each accusation of the job is true for a node that has nothing but its file, and costs it nothing to say so. Whom
/// they accuse, in order.
fn accused(job: &Value, judge: &Node) -> Vec<String> {
    let files = job["evidence"].as_array().unwrap().iter();
    let accused = files.map(|file| {
        let judged = judge.ask(&["account", "judge", file.as_str().unwrap()]);
        let judged = judged.unwrap();
        assert_eq!(judged["guilty"], true, "{judged}");
        judged["accused"].as_str().unwrap().to_owned()
    });
    let mut accused: Vec<String> = accused.collect();
    accused.sort_unstable();
    accused
}

#[test]
fn of_three_the_one_that_is_odd_loses_its_stake_and_nobody_else_anything() {
    let setting = Setting::new(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, b) = (setting.provider("a", "", 2), setting.provider("b", "", 2));
    // It is free and says that it is ready, so that it is asked first.
    let liar = Liar::start(&setting.path("liar"));
    let honest = [own(&a), own(&b)];
    stakes(&requester, &[honest[0].as_str(), &honest[1], &liar.account]);
    let tickets = [ticket(&a), ticket(&b), &liar.ticket];
    // No result is drawn, and nobody is asked for a stake.
    let more = ["--shards", "1", "--replicas", "2"];
    let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();

    let job = &job["job"];
    let shard = &job["shards"][0];
    assert_eq!(shard["outvoted"], serde_json::json!([liar.account]));
    assert_eq!(shard["leases"], 3, "who told which is odd is the panel");
    let audits = shard["audits"].as_array().unwrap();
    assert_eq!(audits.len(), 1, "{shard}");
    assert_eq!(audits[0]["provider"], *liar.account, "{shard}");
    assert_eq!(audits[0]["state"], "wrong", "{shard}");
    assert_eq!(accused(job, &a), [liar.account.as_str()]);

    // Of what a fraud costs a quarter is the accuser's; what there is in all is as it was.
    let left = line(requester.home(), "stakes", &liar.account);
    assert_eq!(left, (STAKE - FINE) * CREDIT);
    assert_eq!(line(requester.home(), "balances", &liar.account), 0);
    assert_eq!(liar.paid.load(Ordering::SeqCst), 0, "a lie was paid for");
    for whose in &honest {
        assert_eq!(line(requester.home(), "stakes", whose), STAKE * CREDIT);
    }
    let spent = micro(job, "spent_micro");
    assert_paid(requester.home(), [&a, &b], spent, FINE * CREDIT / 4);
}

#[test]
fn where_fewer_than_three_have_something_at_stake_nobody_is_charged_for_being_odd() {
    let setting = Setting::new(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, b) = (setting.provider("a", "", 2), setting.provider("b", "", 2));
    let liar = Liar::start(&setting.path("liar"));
    stakes(&requester, &[&own(&a), &liar.account]);
    let tickets = [ticket(&a), ticket(&b), &liar.ticket];
    let more = ["--shards", "1", "--replicas", "2"];
    let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();

    let job = &job["job"];
    let shard = &job["shards"][0];
    assert_eq!(shard["outvoted"], serde_json::json!([liar.account]));
    assert_eq!(shard["audits"], serde_json::json!([]), "{shard}");
    assert_eq!(job["evidence"], serde_json::json!([]));
    for whose in [&own(&a), &liar.account] {
        assert_eq!(line(requester.home(), "stakes", whose), STAKE * CREDIT);
    }
    assert_eq!(liar.paid.load(Ordering::SeqCst), 0, "a lie was paid for");
    let homes = [&a, &b].map(Node::home);
    assert_conserved(requester.home(), &homes, micro(job, "spent_micro"));
}

#[test]
fn where_no_replica_is_odd_nobody_is_looked_at() {
    let setting = Setting::new(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let nodes = ["a", "b", "c"].map(|name| setting.provider(name, "", 2));
    let honest = nodes.each_ref().map(own);
    stakes(&requester, &honest.each_ref().map(String::as_str));
    let tickets = nodes.each_ref().map(ticket);
    let more = ["--shards", "3", "--replicas", "2", "--min-stake", "10"];
    let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();
    let job = &job["job"];
    for shard in job["shards"].as_array().unwrap() {
        assert_eq!(shard["audits"], serde_json::json!([]), "{shard}");
        assert_eq!(shard["outvoted"], serde_json::json!([]), "{shard}");
    }
    assert_eq!(job["evidence"], serde_json::json!([]));
    for whose in &honest {
        assert_eq!(line(requester.home(), "stakes", whose), STAKE * CREDIT);
    }
    let homes = nodes.each_ref().map(Node::home);
    assert_conserved(requester.home(), &homes, micro(job, "spent_micro"));
}

#[test]
fn two_that_lie_alike_pay_and_the_honest_one_against_whom_they_are_does_not() {
    let setting = Setting::echoes(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    // The first of those who lie and `a` make the shard. The second is cheaper than the rest, and tells which is odd.
    let a = setting.provider("a", "", 2);
    let others = ["b", "c", "d"].map(|name| setting.provider(name, DEAR, 2));
    let liars = [
        Liar::with(&setting.path("liar"), 66, Manner::LiesAlike),
        Liar::dear_with(&setting.path("friend"), 67, Manner::LiesAlike),
    ];
    let nodes = [&a, &others[0], &others[1], &others[2]];
    let honest = nodes.map(own);
    stakes(&requester, &honest.each_ref().map(String::as_str));
    let mut lied: Vec<&str> = liars.iter().map(|liar| &*liar.account).collect();
    stakes(&requester, &lied);
    lied.sort_unstable();
    let mut tickets: Vec<&str> = nodes.iter().map(|node| ticket(node)).collect();
    tickets.extend(liars.iter().map(|liar| &*liar.ticket));
    let more = ["--shards", "1", "--replicas", "2", "--min-stake", "10"];
    let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();

    let job = &job["job"];
    let shard = &job["shards"][0];
    let outvoted = shard["outvoted"].as_array().unwrap().iter();
    let mut outvoted: Vec<&str> = outvoted.map(|account| account.as_str().unwrap()).collect();
    outvoted.sort_unstable();
    assert_eq!(outvoted, lied, "{shard}");
    // The one that two were against was looked at, and found right.
    let audits = shard["audits"].as_array().unwrap();
    let of_a = audits.iter().find(|audit| audit["provider"] == *honest[0]);
    let of_a = of_a.unwrap_or_else(|| panic!("{shard}"));
    assert_eq!(of_a["state"], "passed", "{shard}");
    assert!(!of_a["auditors"].as_array().unwrap().is_empty(), "{shard}");

    // They are charged by proofs to which another node comes as well.
    assert_eq!(accused(job, &a), lied);
    for liar in &liars {
        let left = line(requester.home(), "stakes", &liar.account);
        assert_eq!(left, (STAKE - FINE) * CREDIT);
        assert_eq!(line(requester.home(), "balances", &liar.account), 0);
        assert_eq!(liar.paid.load(Ordering::SeqCst), 0, "a lie was paid for");
    }
    let spent = micro(job, "spent_micro");
    let mut earned = 0;
    for (node, whose) in nodes.iter().zip(&honest) {
        assert_eq!(line(requester.home(), "stakes", whose), STAKE * CREDIT);
        let its = micro(&account(node.home()), "earned_micro");
        assert_eq!(line(requester.home(), "balances", whose), its);
        earned += its;
    }
    assert_eq!(earned, spent);
    let books = account(requester.home());
    assert_eq!(micro(&books, "supply_micro"), 1_000_000_000 * CREDIT);
    assert_eq!(micro(&books, "escrowed_micro"), 0);
    let left = 2 * CREDIT - spent + 2 * FINE * CREDIT / 4;
    assert_eq!(micro(&books, "available_micro"), left);
}
