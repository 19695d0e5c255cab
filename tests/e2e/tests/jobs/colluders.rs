//! Nodes that lie together: all have the same wrong output, and each stands by the others as an auditor.

use std::collections::BTreeMap;

use super::audits::{CREDIT, line, own, stake};
use super::peers::Manner;
use super::*;

/// What each of those who lie has at stake, in credits: so much that auditors are drawn from among them
/// before anybody else is.
const STAKE: u64 = 100_000_000;
/// What each of the others has at stake where these are to be drawn first, and what those have then who lie: enough
/// to pay for each lie.
const MUCH: u64 = 200_000_000;
const LITTLE: u64 = 200;
/// What a proven fraud costs, in credits.
const FINE: u64 = 10;

fn accounts(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|account| account.as_str().unwrap()).collect()
}

/// A requester, four honest nodes with so many credits at stake, and two that lie alike with so many.
struct Sides {
    requester: Node,
    honest: [Node; 4],
    liars: [Liar; 2],
}

impl Sides {
    fn new(setting: &Setting, honest_stake: u64, lying_stake: u64) -> Self {
        let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
        let honest = ["a", "b", "c", "d"].map(|name| setting.provider(name, "", 2));
        // Free and said to be ready, so that both make each shard first.
        let liars = [66, 67].map(|seed| {
            let folder = setting.path(&format!("liar {seed}"));
            Liar::with(&folder, seed, Manner::LiesAlike)
        });
        for node in &honest {
            stake(requester.home(), &honest_stake.to_string(), &own(node));
        }
        for liar in &liars {
            stake(requester.home(), &lying_stake.to_string(), &liar.account);
        }
        Self {
            requester,
            honest,
            liars,
        }
    }

    fn tickets(&self) -> Vec<&str> {
        let honest = self.honest.iter().map(ticket);
        let lying = self.liars.iter().map(|liar| &*liar.ticket);
        honest.chain(lying).collect()
    }
}

#[test]
fn a_third_that_lies_alike_is_no_majority_and_pays_for_each_lie() {
    let setting = Setting::echoes(20);
    let sides = Sides::new(&setting, 10, STAKE);
    let (requester, honest, liars) = (&sides.requester, &sides.honest, &sides.liars);
    let tickets = sides.tickets();
    // One more has to agree than there are who lie.
    let agree = ["--shards", "2", "--replicas", "3", "--audit", "100%"];
    let more = [&agree[..], &["--max-price", "2"]].concat();
    let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();

    let job = &job["job"];
    let mut lied: Vec<&str> = liars.iter().map(|liar| &*liar.account).collect();
    lied.sort_unstable();
    let mut results = 0;
    for shard in job["shards"].as_array().unwrap() {
        let mut outvoted = accounts(&shard["outvoted"]);
        outvoted.sort_unstable();
        assert_eq!(outvoted, lied, "{shard}");
        let providers = accounts(&shard["providers"]);
        assert!(providers.len() >= 3, "{shard}");
        results += providers.len() as u64;
        for audit in shard["audits"].as_array().unwrap() {
            let is_lie = lied.contains(&audit["provider"].as_str().unwrap());
            let expected = if is_lie { "wrong" } else { "passed" };
            assert_eq!(audit["state"], expected, "{shard}");
        }
    }

    // Each lie costs what a fraud costs, by a proof that another node comes to the same by.
    let evidence = accounts(&job["evidence"]);
    let lies = evidence.len() as u64;
    assert_eq!(lies, 4, "two shards by two: {job}");
    for file in evidence {
        let judged = honest[0].ask(&["account", "judge", file]).unwrap();
        assert_eq!(judged["guilty"], true, "{judged}");
        let accused = judged["accused"].as_str().unwrap();
        assert!(lied.contains(&accused), "{judged}");
    }
    for liar in liars {
        let left = line(requester.home(), "stakes", &liar.account);
        assert_eq!(left, (STAKE - 2 * FINE) * CREDIT);
        assert_eq!(line(requester.home(), "balances", &liar.account), 0);
        assert_eq!(liar.paid.load(Ordering::SeqCst), 0, "a lie was paid for");
    }

    // Who told the truth has all of its stake, and the price of each result.
    let spent = micro(job, "spent_micro");
    let mut earned = 0;
    let mut receipts = 0;
    for node in honest {
        let (whose, books) = (own(node), account(node.home()));
        assert_eq!(line(requester.home(), "stakes", &whose), 10 * CREDIT);
        let its = micro(&books, "earned_micro");
        assert_eq!(line(requester.home(), "balances", &whose), its);
        earned += its;
        receipts += micro(&books, "receipts");
    }
    assert_eq!((earned, receipts), (spent, results));
    let books = account(requester.home());
    assert_eq!(micro(&books, "supply_micro"), 1_000_000_000 * CREDIT);
    assert_eq!(micro(&books, "escrowed_micro"), 0);
    // A quarter of each fine is the accuser's.
    let left = 2 * CREDIT - spent + lies * FINE * CREDIT / 4;
    assert_eq!(micro(&books, "available_micro"), left);

    // Neither is asked again.
    let submit = setting.submit(&tickets, &["--shards", "4"]);
    let again = requester.ask(&submit).unwrap();
    setting.assert_right();
    for shard in again["job"]["shards"].as_array().unwrap() {
        let providers = accounts(&shard["providers"]);
        let has_lied = |account: &&str| lied.contains(account);
        assert!(!providers.iter().any(has_lied), "{shard}");
        assert_eq!(shard["outvoted"], serde_json::json!([]), "{shard}");
    }
}

/// A job with two of six that lie alike, make each shard first, and agree with each other at once. What they have at
/// stake is so little that one of the others is the first of each draw.
fn no_friend_stands_for_whose_turn_it_is(shards: &[&str]) {
    let setting = Setting::echoes(32);
    let sides = Sides::new(&setting, MUCH, LITTLE);
    let (requester, honest, liars) = (&sides.requester, &sides.honest, &sides.liars);
    let tickets = sides.tickets();
    let more = [shards, &["--audit", "100%", "--max-price", "2"]].concat();
    let job = requester.ask(&setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();

    let job = &job["job"];
    let mut lies: BTreeMap<&str, u64> = BTreeMap::new();
    for liar in liars {
        lies.insert(&liar.account, 0);
    }
    let mut results = 0;
    for shard in job["shards"].as_array().unwrap() {
        let outvoted = accounts(&shard["outvoted"]);
        assert!(!outvoted.is_empty(), "who is ready makes it first: {shard}");
        for account in outvoted {
            *lies.get_mut(account).unwrap() += 1;
        }
        results += accounts(&shard["providers"]).len() as u64;
        for audit in shard["audits"].as_array().unwrap() {
            let has_lied = lies.contains_key(audit["provider"].as_str().unwrap());
            let expected = if has_lied { "wrong" } else { "passed" };
            assert_eq!(audit["state"], expected, "{shard}");
        }
    }

    // Each lie is charged, by a proof that another node comes to the same by, and none is paid for.
    let evidence = accounts(&job["evidence"]);
    let all: u64 = lies.values().sum();
    assert_eq!(evidence.len() as u64, all, "{job}");
    for file in evidence {
        let judged = honest[0].ask(&["account", "judge", file]).unwrap();
        assert_eq!(judged["guilty"], true, "{judged}");
        let accused = judged["accused"].as_str().unwrap();
        assert!(lies.contains_key(accused), "{judged}");
    }
    for liar in liars {
        let left = line(requester.home(), "stakes", &liar.account);
        assert_eq!(left, (LITTLE - lies[&*liar.account] * FINE) * CREDIT);
        assert_eq!(line(requester.home(), "balances", &liar.account), 0);
        assert_eq!(liar.paid.load(Ordering::SeqCst), 0, "a lie was paid for");
    }

    // Who told the truth has all of its stake, and the price of each result.
    let spent = micro(job, "spent_micro");
    let (mut earned, mut receipts) = (0, 0);
    for node in honest {
        let books = account(node.home());
        let staked = line(requester.home(), "stakes", &own(node));
        assert_eq!(staked, MUCH * CREDIT);
        earned += micro(&books, "earned_micro");
        receipts += micro(&books, "receipts");
    }
    assert_eq!((earned, receipts), (spent, results));
}

#[test]
fn of_two_that_lie_alike_none_passes_the_other_s_audit() {
    no_friend_stands_for_whose_turn_it_is(&["--shards", "8"]);
}

#[test]
fn two_replicas_that_lie_alike_do_not_pass_each_other_s_audits() {
    no_friend_stands_for_whose_turn_it_is(&["--shards", "2", "--replicas", "2"]);
}
