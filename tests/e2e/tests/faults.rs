//! Jobs over real node processes while something breaks: liars, cut cables, full disks, those who do
//! not deliver or do not pay, wrong clocks, and inputs of unusual shape. Each ends with the right
//! result or says why not; no credit is made or lost, and nothing that was finished is done again.
//!
//! Cut cables and full disks need network and mount namespaces, which only root may make, and wrong
//! clocks of whole nodes libfaketime. Where they are missing it is said that those tests did not run; with
//! `SKEP_TEST_ALL=1` these fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "faults/clocks.rs"]
mod clocks;
#[path = "faults/cut_off.rs"]
mod cut_off;
#[path = "faults/large.rs"]
mod large;
#[path = "faults/late.rs"]
mod late;
mod peers;
#[allow(dead_code, reason = "nobody looks for others here")]
mod places;
mod setting;

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use peers::{Liar, Manner, Requester, task_of};
use places::{Disk, is_root};
use serde_json::Value;
use setting::{
    Following, Occupied, Setting, account, assert_conserved, assert_finished, assert_kept,
    configure_with, micro, ticket,
};
use skep_evidence::Credits;
use skep_market::Refusal;
use skep_tests::{Built, Node, ask, run};

const HOUR: i64 = 3600;

fn spent(job: &Value) -> u64 {
    micro(&job["job"], "spent_micro")
}

/// How many leases each shard of a job took, the fewest first.
fn leases(job: &Value) -> Vec<u64> {
    let shards = job["job"]["shards"].as_array().unwrap().iter();
    let mut leases: Vec<u64> = shards.map(|shard| micro(shard, "leases")).collect();
    leases.sort_unstable();
    leases
}

#[test]
fn a_third_that_lies_at_once_changes_nothing() {
    let setting = Setting::new(60);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let honest = ["a", "b", "c", "d"].map(|name| setting.provider(name, "", 2));
    // Free and said to be ready, so that they are asked first.
    let liars = [66, 67].map(|seed| {
        let folder = setting.path(&format!("liar {seed}"));
        Liar::with(&folder, seed, Manner::Lies)
    });
    let mut tickets: Vec<&str> = honest.iter().map(ticket).collect();
    tickets.extend(liars.iter().map(|liar| &*liar.ticket));
    let more = ["--shards", "6", "--replicas", "2"];
    let mut following = Following::start(requester.home(), &setting.submit(&tickets, &more));
    let name = following.until_done(2);
    let before = requester.ask(&["job", "status", &name]).unwrap();
    let job = following.end();
    setting.assert_right();
    assert!(assert_kept(&before, &job) >= 2, "{before}");
    let homes = honest.each_ref().map(Node::home);
    assert_conserved(requester.home(), &homes, spent(&job));
    assert!(assert_finished(requester.home(), &[&job]) >= 12);
    for liar in &liars {
        assert_eq!(liar.paid.load(Ordering::SeqCst), 0, "a lie was paid for");
    }
    let shards = job["job"]["shards"].as_array().unwrap();
    let outvoted = |shard: &Value| shard["outvoted"].as_array().unwrap().len();
    assert!(shards.iter().map(outvoted).sum::<usize>() > 0, "{job}");
}

#[test]
fn a_provider_with_a_full_disk_says_so_and_works_again_once_there_is_room() {
    if !is_root() {
        return;
    }
    let setting = Setting::new(40);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let a = setting.provider("a", "", 2);
    let disk = Disk::new(&setting.path("c"), "64m");
    let c = setting.provider_by(disk.skep(), "c", "", 2);
    disk.fill(&c);
    // Full before it has the package: the other one does it all.
    let both = setting.submit(&[ticket(&a), ticket(&c)], &["--shards", "4"]);
    let first = requester.ask(&both).unwrap();
    setting.assert_right();
    // And alone it says why not.
    let alone = setting.submit(&[ticket(&c)], &["--shards", "2", "--deadline", "5 s"]);
    let ended = run(requester.home(), &alone).unwrap();
    assert_ne!(ended.code, 0, "{}", ended.stderr);
    let said = &ended.stderr;
    assert!(said.contains("No space left on device"), "{said}");
    disk.empty(&c);
    let alone = setting.submit(&[ticket(&c)], &["--shards", "2"]);
    let second = requester.ask(&alone).unwrap();
    setting.assert_right();
    // Full when it has all that it needs: nothing is signed that it does not keep.
    disk.fill(&c);
    let third = requester.ask(&both).unwrap();
    setting.assert_right();
    disk.empty(&c);
    let fourth = requester.ask(&alone).unwrap();
    setting.assert_right();
    let all = [first, second, third, fourth];
    let paid = assert_finished(requester.home(), &all.each_ref());
    // A receipt that came back while there was no room for it is asked for again.
    let views = [account(a.home()), disk.collects(&c)];
    let [earned, receipts] =
        ["earned_micro", "receipts"].map(|name| views.each_ref().map(|view| micro(view, name)));
    assert_eq!(
        earned.iter().sum::<u64>(),
        all.iter().map(spent).sum::<u64>()
    );
    assert_eq!(receipts.iter().sum::<u64>(), paid);
    assert!(earned[1] > 0);
}

/// A job of so many shards whose requester has no more room on its disk than so many mebibytes when the last one comes,
/// which is more.
fn requester_has_no_room(setting: &Setting, shards: usize, mebibytes: u32) {
    let disk = Disk::new(&setting.path("requester"), "128m");
    let requester = Node::start(disk.skep(), &setting.path("requester")).unwrap();
    let (a, c) = (setting.provider("a", "", 2), setting.provider("c", "", 1));
    let occupied = Occupied::new(setting, &c);
    let count = shards.to_string();
    let submit = setting.submit(&[ticket(&a), ticket(&c)], &["--shards", &count]);
    let mut following = Following::start_by(&disk.inside(&requester), requester.home(), &submit);
    let name = following.until_done(shards - 1);
    disk.fill(&requester);
    if mebibytes > 0 {
        disk.leave(&requester, mebibytes);
    }
    drop(occupied);
    let said = following.fails();
    assert!(said.contains("No space left on device"), "{said}");
    assert!(!setting.path("result.jsonl").exists());
    let inside =
        |arguments: &[&str]| ask(&disk.inside(&requester), requester.home(), arguments).unwrap();
    disk.empty(&requester);
    let paused = inside(&["job", "status", &name]);
    assert_eq!(paused["job"]["state"], "paused", "{paused}");
    let job = inside(&["job", "watch", &name]);
    setting.assert_right();
    assert!(assert_kept(&paused, &job) >= shards - 1, "{paused}");
    let own = inside(&["account"]);
    let own = &own["account"];
    let spent = spent(&job);
    assert_eq!(micro(own, "escrowed_micro"), 0);
    assert_eq!(micro(own, "available_micro"), 2_000_000 - spent);
    let earned = [&a, &c].map(|node| micro(&account(node.home()), "earned_micro"));
    assert_eq!(earned.iter().sum::<u64>(), spent);
}

#[test]
fn a_requester_with_a_full_disk_says_so_and_goes_on_once_there_is_room() {
    if !is_root() {
        return;
    }
    requester_has_no_room(&Setting::new(60), 3, 0);
}

#[test]
fn a_requester_without_room_for_a_large_output_says_so_and_goes_on_once_there_is_some() {
    if !is_root() {
        return;
    }
    // There is room for the journal, and for what is written down of others' failures.
    let line = format!("{}\n", "a line ".repeat(150_000));
    let setting = Setting::gathers(line.repeat(8).as_bytes());
    requester_has_no_room(&setting, 2, 2);
}

#[test]
fn a_provider_that_never_delivers_keeps_no_job_from_its_end() {
    let setting = Setting::new(60);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, b) = (setting.provider("a", "", 2), setting.provider("b", "", 2));
    let never = Liar::with(&setting.path("never"), 68, Manner::NeverDelivers);
    let tickets = [ticket(&a), ticket(&b), &never.ticket];
    let submit = setting.submit(&tickets, &["--shards", "12"]);
    let mut following = Following::start(requester.home(), &submit);
    let name = following.until_done(6);
    let before = requester.ask(&["job", "status", &name]).unwrap();
    let job = following.end();
    setting.assert_right();
    assert!(assert_kept(&before, &job) >= 6, "{before}");
    assert!(leases(&job).iter().sum::<u64>() > 12, "{job}");
    assert_conserved(requester.home(), &[a.home(), b.home()], spent(&job));
    assert_finished(requester.home(), &[&job]);
    assert_eq!(never.paid.load(Ordering::SeqCst), 0);
}

#[test]
fn a_requester_that_never_pays_gets_no_credit_into_any_book() {
    let setting = Setting::new(20);
    let a = setting.provider("a", "", 2);
    let requester = setting.path("requester");
    let submit = setting.submit(&[ticket(&a)], &["--shards", "1"]);
    let honest = ask(&Built::skep(), &requester, &submit).unwrap();
    let task = task_of(&requester);
    let before = account(a.home());
    let stranger = Requester::start(&setting.path("stranger"));
    let mut receipts = Vec::new();
    for number in 0..3 {
        let (output, receipt) = stranger.has_done(ticket(&a), &task, number, 0).unwrap();
        assert_eq!(output, setting.expected);
        receipts.push(receipt);
    }
    assert_eq!(account(a.home()), before, "what nobody paid is in no book");
    // Paid after all, it counts: once, however often it is shown.
    let receipt = receipts.swap_remove(1);
    stranger.pays(ticket(&a), receipt.clone());
    stranger.pays(ticket(&a), receipt.clone());
    let after = account(a.home());
    let price = receipt.price.micro();
    let earned = micro(&before, "earned_micro") + price;
    assert!(price > 0);
    assert_eq!(micro(&after, "earned_micro"), earned);
    assert_eq!(micro(&after, "receipts"), 2);
    // Others are served as before, and their books know nothing of it.
    let again = ask(&Built::skep(), &requester, &submit).unwrap();
    setting.assert_right();
    assert_finished(&requester, &[&honest, &again]);
    let spent = spent(&honest) + spent(&again);
    assert_eq!(micro(&account(a.home()), "earned_micro"), spent + price);
}

#[test]
fn who_owes_more_than_an_owner_allows_is_refused_until_it_has_paid() {
    let setting = Setting::new(20);
    let a = setting.provider("a", "unpaid = \"0\"\n", 2);
    let requester = setting.path("requester");
    let submit = setting.submit(&[ticket(&a)], &["--shards", "1"]);
    let first = ask(&Built::skep(), &requester, &submit).unwrap();
    let task = task_of(&requester);
    let stranger = Requester::start(&setting.path("stranger"));
    let (_, receipt) = stranger.has_done(ticket(&a), &task, 0, 0).unwrap();
    let price = receipt.price.micro();
    let books = || {
        let view = account(a.home());
        (micro(&view, "earned_micro"), micro(&view, "receipts"))
    };
    assert!(price > 0);
    let refused = stranger.has_done(ticket(&a), &task, 1, 0).unwrap_err();
    assert_eq!(
        refused,
        Refusal::Unpaid {
            owed: price,
            limit: 0
        }
    );
    // What it has not paid is in no book.
    assert_eq!(books(), (spent(&first), 1));
    // Others are served as before.
    let again = ask(&Built::skep(), &requester, &submit).unwrap();
    setting.assert_right();
    let earned = spent(&first) + spent(&again);
    assert_eq!(books(), (earned, 2));
    // The owner is told who it is. Nobody answers at that node.
    let told = run(a.home(), &["account", "collect"]).unwrap().stdout;
    let who = stranger.account().to_string();
    let credits = Credits::from_micro(price);
    let line = format!(
        "  missing   1 receipt of {} over {credits} credits, since ",
        &who[..10]
    );
    assert!(told.contains(&line), "{told}");
    assert!(told.contains("its node was not reached"), "{told}");
    let collected = a.ask(&["account", "collect"]).unwrap();
    let [missing] = &collected["missing"].as_array().unwrap()[..] else {
        panic!("{collected}");
    };
    assert_eq!(missing["account"], who);
    assert_eq!(
        (micro(missing, "receipts"), micro(missing, "micro")),
        (1, price)
    );
    stranger.pays(ticket(&a), receipt);
    let told = run(a.home(), &["account", "collect"]).unwrap().stdout;
    assert!(told.contains("\n  missing   no receipts\n"), "{told}");
    // It counts once it is paid, once, and what comes after it does not yet.
    assert_eq!(books(), (earned + price, 3));
    stranger.has_done(ticket(&a), &task, 2, 0).unwrap();
    assert_eq!(books(), (earned + price, 3));
    // Who paid for what it had done has no part in that.
    assert_eq!(assert_finished(&requester, &[&first, &again]), 2);
}

/// A job of two providers that was paid while the first was away, and has nobody running but those
/// given back: the requester, the home of the first and the second.
fn paid_while_away(setting: &Setting) -> (Node, PathBuf, Node, u64) {
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let (a, c) = (setting.provider("a", "", 2), setting.provider("c", "", 1));
    let occupied = Occupied::new(setting, &c);
    // Both have to agree, so that nothing is paid before the second has delivered.
    let more = ["--shards", "1", "--replicas", "2", "--detach"];
    let begun = requester
        .ask(&setting.submit(&[ticket(&a), ticket(&c)], &more))
        .unwrap();
    let name = begun["job"]["job"].as_str().unwrap();
    let second = account(c.home())["account"].clone();
    let begun = Instant::now();
    loop {
        let job = requester.ask(&["job", "status", name]).unwrap();
        let shard = &job["job"]["shards"][0];
        let has_first = shard["leases"] == 2 && shard["providers"] == serde_json::json!([second]);
        if has_first {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{job}");
    }
    let home = a.home().to_path_buf();
    a.kill().unwrap();
    drop(occupied);
    let job = requester.ask(&["job", "watch", name]).unwrap();
    setting.assert_right();
    assert_eq!(micro(&account(&home), "receipts"), 0);
    (requester, home, c, spent(&job))
}

#[test]
fn a_provider_that_was_away_gets_its_receipt_when_it_asks() {
    let setting = Setting::new(20);
    let (requester, home, c, spent) = paid_while_away(&setting);
    // It is back, and asks by itself or when it is told to.
    let a = Node::start(&Built::skep(), &home).unwrap();
    let collected = a.ask(&["account", "collect"]).unwrap();
    assert_eq!(micro(&collected["account"], "receipts"), 1);
    assert_eq!(collected["missing"], serde_json::json!([]));
    let earned = assert_conserved(requester.home(), &[a.home(), c.home()], spent);
    assert!(earned.iter().all(|earned| *earned > 0), "{earned:?}");
    // Again it is nothing new.
    let again = a.ask(&["account", "collect"]).unwrap();
    assert_eq!(again, collected);
}

#[test]
fn a_receipt_is_asked_for_where_the_requester_has_moved_to() {
    let setting = Setting::new(20);
    let (requester, home, c, spent) = paid_while_away(&setting);
    let before = ticket(&requester).to_owned();
    let at = requester.home().to_path_buf();
    // Taken while the old one is in use, so that it is another.
    let free = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop((requester, free));
    // Nobody is where the provider remembers it: the new address comes by gossip alone.
    let requester = Node::start_at(&Built::skep(), &at, &address).unwrap();
    assert_ne!(ticket(&requester), before);
    let network = format!("peers = [{:?}]\n", ticket(&requester));
    configure_with(&home, "guests = 2\n", &network, "[jobs]\naccept = true\n");
    let a = Node::start(&Built::skep(), &home).unwrap();
    let begun = Instant::now();
    while micro(
        &a.ask(&["account", "collect"]).unwrap()["account"],
        "receipts",
    ) != 1
    {
        let waited = begun.elapsed();
        assert!(
            waited < Duration::from_secs(240),
            "no receipt came from the new address"
        );
    }
    let earned = assert_conserved(requester.home(), &[a.home(), c.home()], spent);
    assert!(earned.iter().all(|earned| *earned > 0), "{earned:?}");
}

#[test]
fn clocks_that_are_an_hour_off_hurt_nobody() {
    let setting = Setting::new(20);
    let requester = setting.path("requester");
    let (mut paid, mut jobs) = (0, Vec::new());
    // A requester and providers that sign with other clocks than the other side's.
    for (seed, ahead) in [(70, HOUR), (71, -HOUR)] {
        let manner = Manner::Clock(setting.expected.clone(), ahead);
        let provider = Liar::with(&setting.path(&format!("clock {seed}")), seed, manner);
        let submit = setting.submit(&[&provider.ticket], &["--shards", "1"]);
        let job = ask(&Built::skep(), &requester, &submit).unwrap();
        setting.assert_right();
        assert_eq!(job["job"]["state"], "done");
        let made = &job["job"]["shards"][0]["providers"];
        assert_eq!(*made, serde_json::json!([provider.account]));
        paid += provider.paid.load(Ordering::SeqCst);
        jobs.push(job);
    }
    assert_eq!(paid, 2, "each has its receipt with both signatures");
    let a = setting.provider("a", "", 2);
    let submit = setting.submit(&[ticket(&a)], &["--shards", "1"]);
    let job = ask(&Built::skep(), &requester, &submit).unwrap();
    let task = task_of(&requester);
    let stranger = Requester::start(&setting.path("stranger"));
    let mut earned = spent(&job);
    jobs.push(job);
    for (number, ahead) in [(0, HOUR), (1, -HOUR)] {
        let (output, receipt) = stranger.has_done(ticket(&a), &task, number, ahead).unwrap();
        assert_eq!(output, setting.expected);
        earned += receipt.price.micro();
        stranger.pays(ticket(&a), receipt);
    }
    assert_eq!(micro(&account(a.home()), "earned_micro"), earned);
    // The requester paid for its own, and the stranger did not out of its ledger.
    let jobs: Vec<&Value> = jobs.iter().collect();
    assert_eq!(assert_finished(&requester, &jobs), 3);
}

#[test]
fn a_shard_for_each_line_comes_together_in_order() {
    let setting = Setting::new(150);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    // Two at work on eight each, and cheap, so that what the job may cost is enough for each.
    let providers = ["a", "b"].map(|name| setting.provider(name, CHEAP, 8));
    let nodes: Vec<&str> = providers.iter().map(ticket).collect();
    let more = ["--shards", "100000", "--max-price", "2"];
    let job = requester.ask(&setting.submit(&nodes, &more)).unwrap();
    let input = fs::read(setting.path("tickets.jsonl")).unwrap();
    let lines = input.iter().filter(|byte| **byte == b'\n').count();
    setting.assert_right();
    assert_eq!(job["job"]["shards"].as_array().unwrap().len(), lines);
    let homes = providers.each_ref().map(Node::home);
    assert_conserved(requester.home(), &homes, spent(&job));
}

/// Eight shards at once, at prices of which many are within what a job may cost.
const CHEAP: &str = "at-once = 8\nprice-per-teraflop = \"0.0001\"\n";

/// Ten thousand, or as many as the environment says in `SKEP_TINY_SHARDS`.
fn tiny_shards() -> usize {
    let asked = std::env::var("SKEP_TINY_SHARDS");
    asked.map_or(10_000, |asked| asked.parse().unwrap())
}

#[test]
fn thousands_of_tiny_shards_come_together_though_the_requester_is_killed() {
    let shards = tiny_shards();
    let setting = Setting::echoes(shards);
    let requester = setting.path("requester");
    let providers = ["a", "b"].map(|name| setting.provider(name, CHEAP, 8));
    let nodes: Vec<&str> = providers.iter().map(ticket).collect();
    let count = shards.to_string();
    let more = ["--shards", &count, "--max-price", "2"];
    let begun = Instant::now();
    let mut following = Following::start(&requester, &setting.submit(&nodes, &more));
    let name = following.until_done(shards / 2);
    following.kill();
    let job = ask(&Built::skep(), &requester, &["job", "watch", &name]).unwrap();
    println!("{shards} shards took {:?}", begun.elapsed());
    setting.assert_right();
    let lines = job["job"]["shards"].as_array().unwrap();
    assert_eq!(lines.len(), shards);
    for line in lines {
        assert_eq!(line["providers"].as_array().unwrap().len(), 1, "{line}");
    }
    let homes = providers.each_ref().map(Node::home);
    let earned = assert_conserved(&requester, &homes, spent(&job));
    assert!(earned.iter().all(|earned| *earned > 0), "{earned:?}");
    let receipts = homes.map(|home| micro(&account(home), "receipts"));
    assert_eq!(receipts.iter().sum::<u64>(), shards as u64);
}
