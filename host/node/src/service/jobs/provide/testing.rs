//! A provider's desk, leases for it, and packages for them, for the tests of its parts.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::Path;
use std::sync::{Arc, Weak};

use skep_evidence::{Agreed, Credits, Lease, Meter, Statement as _, Tariff};
use skep_market::{Earnings, Finished, Owed};
use skep_registry::{Component, Content, Digest, Grants, Limits, PublisherKey, SignedRelease};
use skep_swarm::Swarm;
use tokio::sync::Semaphore;

use super::super::leisure::Leisure;
use super::super::testing;
pub(super) use super::super::testing::key;
use super::begun::Begun;
use super::engaged::Engagements;
use super::packages::Questions;
use super::queue::Queue;
use super::untaken::Untaken;
use super::{Desk, places};
use crate::config::Jobs;

/// What is in each file of a package.
pub(super) const CONTENT: &[u8] = b"not really a component";

/// A lease of the requester with this seed, in which a byte costs a micro-credit. The provider has the key 1.
pub(super) fn lease(requester: u8, shard: u32, limit: u64) -> Agreed<Lease> {
    let lease = Lease {
        shard,
        tariff: Tariff {
            bytes: 1_000_000_000,
            ..Tariff::default()
        },
        allowance: Meter {
            bytes: 1_000,
            ..Meter::default()
        },
        limit: Credits::from_micro(limit),
        ..testing::lease(requester, 1)
    };
    let signed = lease.sign(&key(requester)).unwrap();
    signed.accept(&key(1)).unwrap()
}

/// The desk of the account with the key 1, with these rules, whose statements are in that file.
pub(super) fn desk(jobs: &Jobs, earnings: &Path) -> Desk {
    Desk {
        service: Weak::new(),
        account: Arc::new(key(1)),
        earnings: Arc::new(Earnings::open(earnings).unwrap()),
        slots: Arc::new(Semaphore::new(jobs.at_once as usize)),
        queue: Queue::new(places(jobs.at_once)),
        policy: Arc::new(jobs.policy()),
        leisure: Arc::new(Leisure::of(jobs)),
        engaged: Engagements::default(),
        begun: Begun::default(),
        untaken: Untaken::default(),
        questions: Questions::default(),
        keys: Arc::default(),
    }
}

/// Statements in a file that was cut off once it was open, and in whose place there is a folder now.
pub(super) fn broken_earnings(file: &Path) -> Arc<Earnings> {
    let earnings = Earnings::open(file).unwrap();
    let lease = |number: u8| Digest::of(&[number]);
    // So many that whoever opens the file has not read them all.
    for number in 0..8 {
        let signed = Finished {
            commitment: vec![1; 3_000],
            receipt: vec![2],
        };
        let owed = Owed {
            requester: key(9).id(),
            price: Credits::ZERO,
            since: 1,
            node: String::new(),
        };
        earnings.keep(lease(number), signed, &owed).unwrap();
    }
    drop(earnings);
    let earnings = Earnings::open(file).unwrap();
    let opened = File::options().write(true).open(file).unwrap();
    opened.set_len(0).unwrap();
    fs::remove_file(file).unwrap();
    fs::create_dir(file).unwrap();
    let read = earnings.finished(lease(0));
    assert!(read.is_err(), "it was read from a file that is gone");
    Arc::new(earnings)
}

/// Publishes a package that is a component, as far as its release says so.
pub(super) async fn published(node: &Swarm, key: &PublisherKey) -> SignedRelease {
    let content = Content::Component(Component {
        world: "task".parse().unwrap(),
        entry: "tool.wasm".parse().unwrap(),
        grants: Grants::default(),
        limits: Limits::default(),
        imports: Vec::new(),
    });
    published_as(node, key, "tool", content).await
}

/// Publishes a package of this name with one file, which has that of a component.
pub(super) async fn published_as(
    node: &Swarm,
    key: &PublisherKey,
    name: &str,
    content: Content,
) -> SignedRelease {
    node.import_bytes(CONTENT).await.unwrap();
    let release = testing::signed_release(key, name, content, ("tool.wasm", CONTENT));
    node.publish_release(&release).await.unwrap();
    release
}
