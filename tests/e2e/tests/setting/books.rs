//! What stays of jobs that are over, at their requester: what was made of each shard, what was paid for it, and what is
//! remembered of whom.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use skep_evidence::AccountId;
use skep_market::{AttemptId, Conduct, Dealings, Event, ReceiptFiles, Reputation, turnover};
use skep_tests::{Built, ask};

use super::{account, events_of, micro};

/// What is put into the ledger of each requester, in micro-credits.
const PUT_IN: u64 = 2_000_000;

/// The jobs of a requester that spent something are as they were when they ended, each shard of them was done and paid
/// for once, and its books say what they cost. `jobs` are the answers with which all of them ended. Returns how many
/// receipts it keeps.
pub fn assert_finished(requester: &Path, jobs: &[&Value]) -> u64 {
    let (mut spent, mut paid) = (0, 0);
    for job in jobs {
        let name = job["job"]["job"].as_str().unwrap();
        let now = ask(&Built::skep(), requester, &["job", "status", name]).unwrap();
        assert_eq!(now["job"], job["job"], "what was finished stays as it was");
        paid += assert_done_once(requester, &job["job"]);
        spent += micro(&job["job"], "spent_micro");
    }
    assert_eq!(assert_books(requester, spent), paid);
    paid
}

/// What counts of each shard of a job is one output of those who are said to have made it, each of them was paid for it
/// once, nobody was given the shard after that, and all of it comes to what the job spent and to the length of its
/// result. Returns how many leases were paid.
fn assert_done_once(requester: &Path, job: &Value) -> u64 {
    let mut leased: BTreeMap<AttemptId, String> = BTreeMap::new();
    let mut paid: BTreeMap<u32, Vec<AttemptId>> = BTreeMap::new();
    let mut made = BTreeMap::new();
    for event in events_of(requester, job) {
        match event {
            Event::Leased { id, provider, .. } => {
                let is_done = paid.contains_key(&id.shard);
                assert!(!is_done, "{id:?} is of a shard that was done: {job}");
                leased.insert(id, provider.to_string());
            }
            Event::Delivered {
                id,
                output,
                bytes,
                price,
                ..
            } => {
                let before = made.insert(id, (output, bytes, price.micro()));
                assert_eq!(before, None, "{id:?} came twice: {job}");
            }
            Event::Paid { id, .. } => {
                let of_it = paid.entry(id.shard).or_default();
                assert!(!of_it.contains(&id), "{id:?} was paid twice: {job}");
                of_it.push(id);
            }
            _ => {}
        }
    }
    let (mut spent, mut length) = (0, 0);
    for (number, shard) in (0_u32..).zip(job["shards"].as_array().unwrap()) {
        assert_eq!(shard["state"], "done", "{shard}");
        let of_it = &paid[&number];
        let (counts, bytes, _) = made[&of_it[0]];
        let mut makers: Vec<&str> = Vec::new();
        for id in of_it {
            let (output, _, price) = made[id];
            assert_eq!(output, counts, "{id:?} is another output: {shard}");
            spent += price;
            makers.push(&leased[id]);
        }
        length += bytes;
        let said = shard["providers"].as_array().unwrap().iter();
        let mut said: Vec<&str> = said.map(|account| account.as_str().unwrap()).collect();
        makers.sort_unstable();
        said.sort_unstable();
        assert_eq!(makers, said, "{shard}");
    }
    let said = (micro(job, "spent_micro"), micro(job, "result_bytes"));
    assert_eq!((spent, length), said, "{job}");
    paid.values().map(|of_it| of_it.len() as u64).sum()
}

/// The books of a requester, whoever was paid: over all accounts of its ledger there is what was put in, it has less
/// than that by what it spent, and that is what the receipts come to that it keeps with both signatures. Returns how
/// many these are.
fn assert_books(requester: &Path, spent: u64) -> u64 {
    let own = account(requester);
    assert_eq!(micro(&own, "supply_micro"), 1_000_000_000_000_000);
    assert_eq!(micro(&own, "escrowed_micro"), 0);
    assert_eq!(micro(&own, "available_micro"), PUT_IN - spent);
    let lists = ["balances", "stakes"].map(|list| own[list].as_array().unwrap());
    let others = lists.into_iter().flatten();
    let others: u64 = others.map(|line| micro(line, "micro")).sum();
    assert_eq!(micro(&own, "staked_micro") + others, spent, "{own}");
    let file = requester.with_extension("receipts");
    let write = ["account", "receipts", "--output", file.to_str().unwrap()];
    let wrote = ask(&Built::skep(), requester, &write).unwrap();
    let mut read = ReceiptFiles::default();
    read.add(&file, fs::File::open(&file).unwrap()).unwrap();
    let all = turnover(read.receipts());
    let paid = all.get(&id_of(&own)).map_or(0, |its| its.spent);
    assert_eq!(paid, i128::from(spent), "what the receipts come to");
    micro(&wrote["wrote"], "ordered")
}

/// Shards of a job that were done before are as they were then. Returns how many these are.
pub fn assert_kept(before: &Value, after: &Value) -> usize {
    let [before, after] = [before, after].map(|job| job["job"]["shards"].as_array().unwrap());
    assert_eq!(before.len(), after.len());
    let mut done = 0;
    for (before, after) in before.iter().zip(after) {
        if before["state"] == "done" {
            assert_eq!(before, after, "nothing that was finished is done again");
            done += 1;
        }
    }
    done
}

fn id_of(account: &Value) -> AccountId {
    account["account"].as_str().unwrap().parse().unwrap()
}

/// What a requester whose process has ended remembers of the provider in another home.
pub fn remembered(requester: &Path, provider: &Path) -> Reputation {
    let whose = id_of(&account(provider));
    let dealings = Dealings::open(&requester.join("dealings.redb")).unwrap();
    dealings.seen(whose)
}

/// What is remembered of whom all this was seen.
pub fn reputation(conducts: &[Conduct]) -> Reputation {
    let mut reputation = Reputation::default();
    conducts.iter().for_each(|seen| reputation.note(*seen));
    reputation
}
