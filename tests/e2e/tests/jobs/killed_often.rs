//! A requester that is killed again and again, wherever it has come by then: what is finished stays so, and is paid
//! once.
//!
//! Where it is killed is drawn by a seed that is printed, and told by what it says or has done, not by time. Whether it
//! is a command or a node is drawn too. At first one of its providers cannot begin what it has, so that it is killed a
//! few times before the job can be over.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use skep_evidence::{AccountId, Agreed, Keys, Receipt, Signed};
use skep_market::{AttemptId, Earnings, EntryKind, Event};
use skep_registry::Digest;

use super::killed::kinds;
use super::setting::{events_of, until};
use super::*;

/// Shards of the job.
const SHARDS: usize = 8;
/// As many of them has a provider at most that cannot begin any: one that is next, and one that waits there.
const HELD: usize = 2;
/// How often the requester is killed before that provider can, and after.
const KILLS: [usize; 2] = [4, 2];

/// Numbers that grow from a seed.
struct Draws(u64);

impl Draws {
    /// From a seed that nobody chose, unless `SKEP_TEST_SEED` says which. It is told in either case.
    fn new() -> Self {
        let seed = match std::env::var("SKEP_TEST_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                u64::from(since.subsec_nanos())
            }
        };
        eprintln!("drawn by SKEP_TEST_SEED={seed}");
        Self(seed)
    }

    /// One from `least` to `most`.
    fn between(&mut self, least: usize, most: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = self.0;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        drawn ^= drawn >> 31;
        let count = u64::try_from(most - least + 1).unwrap();
        least + usize::try_from(drawn % count).unwrap()
    }
}

/// The lease of which the result of a shard came, whose it was, and the receipt as its provider signed it.
type Finished = (AttemptId, AccountId, Vec<u8>);

/// The shards that are finished by these events. Nobody was given any of them after that.
fn finished(events: &[Event]) -> BTreeMap<u32, Finished> {
    let mut open: BTreeMap<AttemptId, AccountId> = BTreeMap::new();
    let mut found: BTreeMap<u32, Finished> = BTreeMap::new();
    for event in events {
        match event {
            Event::Leased { id, provider, .. } => {
                assert!(!found.contains_key(&id.shard), "{id:?} is made anew");
                open.insert(*id, *provider);
            }
            Event::Failed { id, .. } | Event::Withdrawn { id, .. } => {
                open.remove(id);
            }
            Event::Delivered { id, receipt, .. } => {
                // What comes of a lease that was withdrawn is not looked at.
                if let Some(provider) = open.remove(id) {
                    let its = (*id, provider, receipt.clone());
                    found.entry(id.shard).or_insert(its);
                }
            }
            _ => {}
        }
    }
    found
}

/// The leases whose receipts were paid by these events, each once.
fn paid(events: &[Event]) -> BTreeSet<AttemptId> {
    let mut paid = BTreeSet::new();
    for event in events {
        if let Event::Paid { id, .. } = event {
            assert!(paid.insert(*id), "{id:?} is paid twice");
        }
    }
    paid
}

fn count(home: &Path, kind: EntryKind) -> usize {
    kinds(home).into_iter().filter(|its| *its == kind).count()
}

/// The shards that are done as a job is shown.
fn done(job: &Value) -> BTreeSet<u32> {
    let shards = (0..).zip(job["shards"].as_array().unwrap());
    let done = shards.filter(|(_, shard)| shard["state"] == "done");
    done.map(|(number, _)| number).collect()
}

/// The shard that a line says is done.
fn said_done(line: &str) -> Option<u32> {
    let (_, told) = line.split_once(" shard ")?;
    let (shard, _) = told.split_once(": done by ")?;
    shard.parse().ok()
}

/// A requester between two of its processes.
struct Requester {
    home: PathBuf,
    submit: Vec<String>,
    /// What the name of its job begins with, once it has one.
    name: Option<String>,
    /// What was finished when it was last killed.
    kept: BTreeMap<u32, Finished>,
}

impl Requester {
    /// Begins or goes on as a command, which is killed when it has said so much of shards, or of so many that they are
    /// done, if it has not ended before. Returns those of which it said that.
    fn as_command(&mut self, told: usize, are_done: usize) -> BTreeSet<u32> {
        let arguments = match &self.name {
            None => self.submit.clone(),
            Some(name) => ["job", "watch", name].map(str::to_owned).to_vec(),
        };
        let mut following = Following::start(&self.home, &arguments);
        let said = following.until_told(told, are_done);
        following.kill();
        if self.name.is_none() {
            let name = said.first().unwrap().split(' ').nth(1).unwrap();
            self.name = Some(name.to_owned());
        }
        said.iter().filter_map(|line| said_done(line)).collect()
    }

    /// Begins or goes on as a node, which is killed when so many shards are done. Returns these.
    fn as_node(&mut self, are_done: usize) -> BTreeSet<u32> {
        let node = Node::start(&Built::skep(), &self.home).unwrap();
        let name = self.name.get_or_insert_with(|| {
            let submit = [&self.submit[..], &["--detach".to_owned()]].concat();
            let begun = node.ask(&submit).unwrap();
            begun["job"]["job"].as_str().unwrap().to_owned()
        });
        let mut said = BTreeSet::new();
        until("the job does not go on", || {
            let job = node.ask(&["job", "status", name.as_str()]).unwrap();
            said = done(&job["job"]);
            said.len() >= are_done
        });
        node.kill().unwrap();
        said
    }

    /// What is on the disk of one that was killed: all that was finished and all of which it `said` that, and nothing
    /// that is paid in its journal and not in its ledger. Returns the job as it is shown then.
    fn looks(&mut self, said: &BTreeSet<u32>) -> Value {
        let name = self.name.as_deref().unwrap();
        let status = ask(&Built::skep(), &self.home, &["job", "status", name]).unwrap();
        let job = status["job"].clone();
        let events = events_of(&self.home, &job);
        let found = finished(&events);
        for (shard, before) in &self.kept {
            assert_eq!(found.get(shard), Some(before), "{shard}");
        }
        let shards: BTreeSet<u32> = found.keys().copied().collect();
        assert_eq!(done(&job), shards, "{job}");
        assert!(said.is_subset(&shards), "{said:?} of {shards:?}");
        assert!(count(&self.home, EntryKind::Escrow) <= 1);
        let (posted, noted) = (count(&self.home, EntryKind::Release), paid(&events).len());
        assert!(posted >= noted, "{posted} are paid, and {noted} said to be");
        self.kept = found;
        job
    }
}

#[test]
fn killed_at_drawn_points_a_requester_keeps_what_is_finished_and_pays_for_it_once() {
    let setting = Setting::new(60);
    let mut draws = Draws::new();
    let (a, c) = (setting.provider("a", "", 2), setting.provider("c", "", 1));
    let shards = SHARDS.to_string();
    let more = ["--shards", shards.as_str()];
    let mut requester = Requester {
        home: setting.path("requester"),
        submit: setting.submit(&[ticket(&a), ticket(&c)], &more),
        name: None,
        kept: BTreeMap::new(),
    };
    let [in_the_middle, later] = KILLS;
    let mut occupied = Some(Occupied::new(&setting, &c));
    for kill in 0..in_the_middle + later {
        if kill == in_the_middle {
            drop(occupied.take());
        }
        // More than these are not sure to be done, and of each of those that are a line is said at first and one more
        // when it is.
        let sure = match occupied {
            Some(_) => SHARDS - HELD,
            None => SHARDS,
        };
        let before = requester.kept.len();
        let said = if draws.between(0, 1) == 0 {
            let told = draws.between(1, SHARDS + sure.saturating_sub(before));
            eprintln!("kill {kill}: a command, after {told} lines");
            requester.as_command(told, sure)
        } else {
            let are_done = draws.between(before.min(sure), sure);
            eprintln!("kill {kill}: a node, after {are_done} shards");
            requester.as_node(are_done)
        };
        let job = requester.looks(&said);
        if occupied.is_some() {
            assert_eq!(job["state"], "paused", "{job}");
            assert!(requester.kept.len() < SHARDS, "{job}");
            assert!(!setting.path("result.jsonl").exists());
        }
    }

    let name = requester.name.clone().unwrap();
    let watch = ["job", "watch", name.as_str()];
    let ended = ask(&Built::skep(), &requester.home, &watch).unwrap();
    setting.assert_right();
    assert_eq!(ended["job"]["state"], "done", "{ended}");
    let job = requester.looks(&(0..).take(SHARDS).collect());
    for (shard, (_, provider, _)) in &requester.kept {
        let providers = &job["shards"][*shard as usize]["providers"];
        let provider = Value::from(provider.to_string());
        assert!(providers.as_array().unwrap().contains(&provider), "{job}");
    }

    // Held once, paid once for each lease of which the result counts, and given back once.
    let events = events_of(&requester.home, &job);
    let paid = paid(&events);
    assert_eq!(count(&requester.home, EntryKind::Escrow), 1);
    assert_eq!(count(&requester.home, EntryKind::Release), paid.len());
    assert_eq!(count(&requester.home, EntryKind::Refund), 1);
    let spent = micro(&job, "spent_micro");
    assert_conserved(&requester.home, &[a.home(), c.home()], spent);

    // What the providers can show is just that, and what was finished is paid by the receipts that came of it then.
    let homes = [&a, &c].map(|node| node.home().to_path_buf());
    drop((a, c));
    let mut receipts: BTreeMap<Digest, Agreed<Receipt>> = BTreeMap::new();
    for home in homes {
        let earnings = Earnings::open(&home.join("earnings.redb")).unwrap();
        for receipt in earnings.receipts().unwrap() {
            let twice = receipts.insert(receipt.lease, receipt);
            assert!(twice.is_none(), "{twice:?}");
        }
    }
    let mut leases: BTreeMap<AttemptId, Digest> = BTreeMap::new();
    for event in &events {
        if let Event::Leased { id, lease, .. } = event {
            leases.insert(*id, *lease);
        }
    }
    let settled: BTreeSet<Digest> = paid.iter().map(|id| leases[id]).collect();
    let shown: BTreeSet<Digest> = receipts.keys().copied().collect();
    assert_eq!(shown, settled);
    let prices = receipts.values().map(|receipt| receipt.price.micro());
    assert_eq!(prices.sum::<u64>(), spent);
    for (shard, (id, provider, signed)) in &requester.kept {
        let signed = Signed::<Receipt>::decode(signed, &mut Keys::default()).unwrap();
        let receipt = &receipts[&leases[id]];
        assert_eq!(receipt.digest(), signed.digest(), "{shard}");
        assert_eq!((receipt.shard, receipt.provider), (*shard, *provider));
    }
}
