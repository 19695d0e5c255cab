//! A small part of many results is audited: those that were drawn, as everybody finds who has what was
//! signed for them and the requester's secret, and no other.

use std::collections::{BTreeMap, BTreeSet};

use skep_evidence::{
    AccountId, Agreed, AuditSecret, Candidates, Keys, Lease, ResultCommitment, Signed,
};
use skep_market::{AttemptId, Event, Journal};

use super::setting::folder_of;
use super::*;

/// Of so many results none is drawn in one run of 800 million.
const SHARDS: usize = 400;
/// Five of a hundred, in millionths.
const RATE: u32 = 50_000;

fn read(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// What was signed for a result, and who may audit it by that, in their order: nobody unless it was drawn.
fn draw(
    folder: &Path,
    journal: &Journal,
    root: &[u8; 32],
    id: AttemptId,
) -> (Agreed<Lease>, Vec<AccountId>) {
    let trail = journal.trail(id).unwrap().unwrap();
    let keys = &mut Keys::default();
    let lease = Agreed::<Lease>::decode(&trail.lease, keys).unwrap();
    let result = Signed::<ResultCommitment>::decode(&trail.commitment, keys).unwrap();
    assert_eq!((lease.shard, lease.attempt), (id.shard, id.attempt));
    assert_eq!(lease.audit.rate, RATE);
    assert_eq!(result.lease, lease.digest());
    // The requester was bound to its secret before the provider was to its result.
    let secret = AuditSecret::of_lease(root, lease.job, id.shard, id.attempt);
    assert_eq!(lease.audit.secret, secret.commitment());
    let draw = secret.draw(result.digest());
    if !draw.is_audited(RATE) {
        return (lease, Vec::new());
    }
    let list = lease.audit.candidates;
    let list = fs::read(folder.join("candidates").join(list.to_string())).unwrap();
    let candidates = Candidates::decode(&list).unwrap();
    assert_eq!(candidates.digest(), lease.audit.candidates);
    let either = [lease.provider, lease.requester];
    let auditors = draw.auditors(&candidates, lease.audit.drawn(), &either);
    (lease, auditors)
}

#[test]
fn at_five_percent_the_results_that_are_audited_are_those_that_were_drawn() {
    let setting = Setting::echoes(SHARDS);
    let requester = setting.path("requester");
    let providers = ["a", "b", "c"].map(|name| setting.provider(name, "at-once = 8\n", 8));
    let tickets = providers.each_ref().map(ticket);
    let count = SHARDS.to_string();
    let audit = ["--audit", "5%", "--min-stake", "0", "--max-price", "2"];
    let more = [&audit[..], &["--shards", count.as_str()]].concat();
    let job = ask(&Built::skep(), &requester, &setting.submit(&tickets, &more)).unwrap();
    setting.assert_right();

    let job = &job["job"];
    let folder = folder_of(&requester, job);
    let spec = read(&folder.join("spec.json"));
    let root: [u8; 32] = serde_json::from_value(spec["root"].clone()).unwrap();
    let mut audits = BTreeMap::new();
    let (mut over, mut delivered) = (BTreeSet::new(), 0);
    // Of each shard: whose result was drawn, under which lease, and who may audit it.
    let mut drawn: BTreeMap<u32, Vec<(u32, AccountId, Vec<AccountId>)>> = BTreeMap::new();
    let name = job["job"].as_str().unwrap().parse().unwrap();
    let (journal, events) = Journal::open(&folder.join("journal.redb"), name).unwrap();
    for event in events {
        match event {
            Event::Leased { id, audits: of, .. } => {
                audits.insert(id, of);
            }
            Event::Failed { id, .. } | Event::Withdrawn { id, .. } => {
                over.insert(id);
            }
            // What comes of a lease that was withdrawn is not looked at.
            Event::Delivered { id, auditors, .. } if !over.contains(&id) => {
                delivered += 1;
                let (lease, mut expected) = draw(&folder, &journal, &root, id);
                if audits[&id].is_some() {
                    // Who audits is compared with another as it is.
                    expected.clear();
                }
                assert_eq!(auditors, expected, "{id:?}");
                if !expected.is_empty() {
                    let result = (id.attempt, lease.provider, expected);
                    drawn.entry(id.shard).or_default().push(result);
                }
            }
            _ => {}
        }
    }
    assert!(!drawn.is_empty(), "no result of {SHARDS} was drawn");
    // Nobody was asked to look at a result that was not drawn.
    for (id, of) in audits.iter().filter_map(|(id, of)| Some((id, (*of)?))) {
        let results = drawn.get(&id.shard).into_iter().flatten();
        assert!(results.map(|result| result.0).any(|it| it == of), "{id:?}");
    }

    // What the job tells is just that: each result that was drawn has passed, and no other was looked at.
    let shards = job["shards"].as_array().unwrap();
    assert_eq!(shards.len(), SHARDS);
    for (number, shard) in (0..).zip(shards) {
        let expected = drawn.remove(&number).unwrap_or_default();
        let audits = shard["audits"].as_array().unwrap();
        assert_eq!(audits.len(), expected.len(), "{shard}");
        for (audit, (_, provider, auditors)) in audits.iter().zip(expected) {
            assert_eq!(audit["provider"], *provider.to_string(), "{shard}");
            assert_eq!(audit["state"], "passed", "{shard}");
            let auditors: Vec<String> = auditors.iter().map(AccountId::to_string).collect();
            for asked in audit["auditors"].as_array().unwrap() {
                let asked = asked.as_str().unwrap();
                assert!(auditors.iter().any(|auditor| auditor == asked), "{shard}");
            }
        }
    }

    // Each result is paid once, those of auditors among them.
    let homes = providers.each_ref().map(Node::home);
    assert_conserved(&requester, &homes, micro(job, "spent_micro"));
    let receipts = homes.map(|home| micro(&account(home), "receipts"));
    assert_eq!(receipts.iter().sum::<u64>(), delivered);
}
