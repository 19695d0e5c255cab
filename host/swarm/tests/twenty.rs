//! Twenty nodes on loopback, a third of which leave while the others look for blobs and fetch them:
//! whatever still has a provider is found.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{content, limits, offer, publish};
use mainline::Testnet;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use skep_registry::{Digest, PublisherKey};
use skep_swarm::{
    Announcement, Capability, Dht, Limits, Need, NodeId, Swarm, SwarmConfig, TicketDiscovery, Want,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;

const NODES: usize = 20;
/// A third of them.
const LEAVING: usize = 7;
const BLOBS: usize = 40;
/// Nothing here takes as long.
const DEADLINE: Duration = Duration::from_secs(120);

/// A blob, and which nodes have it.
struct Held {
    data: Vec<u8>,
    holders: BTreeSet<usize>,
}

fn blobs(random: &mut StdRng) -> Vec<Held> {
    let blob = |number: usize| {
        let count = random.random_range(1..=4);
        let all: Vec<usize> = (0..NODES).collect();
        Held {
            data: content(number as u64, 20_000 + 1_000 * number),
            holders: all.choose_multiple(random, count).copied().collect(),
        }
    };
    (0..BLOBS).map(blob).collect()
}

async fn put(nodes: &[Swarm], blobs: &[Held]) {
    for blob in blobs {
        for holder in &blob.holders {
            offer(&nodes[*holder], &blob.data).await;
        }
    }
}

/// Waits until a condition holds, which the nodes bring about by themselves.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, wait).await;
    waited.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Has those who stay look for every blob that they have not got and fetch it, several at a time,
/// while the others leave one after the other. Returns how many were found.
async fn look_while_a_third_leaves(
    random: &mut StdRng,
    mut nodes: Vec<Option<Swarm>>,
    blobs: &[Held],
) -> usize {
    let mut order: Vec<usize> = (0..NODES).collect();
    order.shuffle(random);
    let leaving = order.split_off(NODES - LEAVING);
    let staying: Vec<usize> = order;
    let mut searches: Vec<(usize, usize)> = Vec::new();
    for (number, blob) in blobs.iter().enumerate() {
        let still = blob.holders.iter().any(|holder| staying.contains(holder));
        let others: Vec<_> = staying
            .iter()
            .filter(|n| !blob.holders.contains(n))
            .collect();
        if still {
            searches.extend(
                others
                    .choose_multiple(random, 3)
                    .map(|node| (**node, number)),
            );
        }
    }
    searches.shuffle(random);
    let total = searches.len();
    assert!(total > BLOBS, "the seed leaves enough to look for: {total}");

    // One leaves after each few searches that ended, so that searches are under way whenever one
    // does: nobody waits until the one before it has told everybody.
    let (ended, next) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let gone: Vec<Swarm> = leaving.iter().map(|n| nodes[*n].take().unwrap()).collect();
    let leave = {
        let (ended, next) = (ended.clone(), next.clone());
        async move {
            let mut going = JoinSet::new();
            for (number, node) in gone.into_iter().enumerate() {
                while ended.load(Ordering::SeqCst) < number * total / (2 * LEAVING) {
                    next.notified().await;
                }
                going.spawn(async move { node.shutdown().await });
            }
            going.join_all().await;
        }
    };
    let leave = tokio::spawn(leave);
    let mut looking = JoinSet::new();
    let mut waiting = searches.into_iter();
    loop {
        while looking.len() < 8
            && let Some((node, number)) = waiting.next()
        {
            let (node, data) = (nodes[node].clone().unwrap(), blobs[number].data.clone());
            let (ended, next) = (ended.clone(), next.clone());
            looking.spawn(async move {
                let digest = Digest::of(&data);
                let found = node.find_blob(&digest, &[]).await.unwrap();
                assert_eq!(found.size, data.len() as u64);
                let fetched = node.fetch_blob(&digest, found.size, &found.providers, None);
                let (blob, _) = fetched.await.unwrap();
                assert_eq!(blob.read_at(0, data.len()).await.unwrap(), data);
                ended.fetch_add(1, Ordering::SeqCst);
                next.notify_one();
            });
        }
        match looking.join_next().await {
            Some(looked) => looked.unwrap(),
            None => break,
        }
    }
    leave.await.unwrap();

    // What went with those who left is not found, and that is said.
    let someone = nodes[staying[0]].as_ref().unwrap();
    let mut lost = JoinSet::new();
    for blob in blobs {
        if blob.holders.iter().all(|holder| leaving.contains(holder)) {
            let (someone, digest) = (someone.clone(), Digest::of(&blob.data));
            lost.spawn(async move {
                assert!(someone.find_blob(&digest, &[]).await.is_err());
            });
        }
    }
    lost.join_all().await;
    let mut closing = JoinSet::new();
    for node in nodes.into_iter().flatten() {
        closing.spawn(async move { node.shutdown().await });
    }
    closing.join_all().await;
    ended.load(Ordering::SeqCst)
}

fn patience() -> Limits {
    Limits {
        connect: Duration::from_secs(3),
        stall: Duration::from_secs(5),
        // A third of the answers come from nobody.
        discovery: Duration::from_secs(5),
        gossip: Duration::from_millis(500),
        ..limits()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_gossip_a_blob_is_found_while_anyone_has_it() {
    let mut random = StdRng::seed_from_u64(20);
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = Vec::new();
    for number in 0..NODES {
        let config = SwarmConfig {
            gossip: true,
            limits: patience(),
            ..SwarmConfig::loopback(dir.path().join(number.to_string()))
        };
        let node = Swarm::open(config).await.unwrap();
        // Each knows one other when it begins.
        if let Some(earlier) = nodes.choose(&mut random) {
            let earlier: &Swarm = earlier;
            node.add_discovery(Arc::new(TicketDiscovery::from(earlier.ticket())));
        }
        nodes.push(node);
    }
    let blobs = blobs(&mut random);
    put(&nodes, &blobs).await;
    // One of them takes work, with a model ready for it.
    let worker = &nodes[3];
    let key = PublisherKey::generate().unwrap();
    let model = publish(worker, &key, "a-model", "1.0.0", &[("weights", b"few")]).await;
    let ready = model.digest();
    let capability = Capability {
        device: "cpu".to_owned(),
        memory: 1 << 30,
        slots: 2,
        tariff: [0, 5, 7, 0],
    };
    worker.announce(Some(capability));
    let work = Want::Jobs(Need {
        ready: vec![ready],
        ..Need::default()
    });
    for node in &nodes {
        node.gossip();
    }
    until("everybody knows what everybody has", async || {
        nodes.iter().enumerate().all(|(number, node)| {
            let known = node.acquaintances();
            let has = |holder: usize, want: &Want| {
                let said = known.iter().find(|said| said.node() == nodes[holder].id());
                holder == number || said.is_some_and(|said| said.has(want))
            };
            let blobs = blobs.iter().all(|blob| {
                let want = Want::Blob(Digest::of(&blob.data));
                blob.holders.iter().all(|holder| has(*holder, &want))
            });
            blobs && known.len() == NODES - 1 && has(3, &work)
        })
    })
    .await;
    // Who takes work is found by what it is, has and asks.
    let need = |device: &str, bytes: u64| {
        Want::Jobs(Need {
            ready: vec![ready],
            device: Some(device.to_owned()),
            memory: 1 << 30,
            tariff: Some([0, 5, bytes, 0]),
        })
    };
    // Others are suggested by those who know nothing of work: by the tickets.
    let found = nodes[17].find(&need("cpu", 7)).await;
    assert!(found.iter().any(|node| node.id == worker.id()), "{found:?}");
    let heard_of = |want: &Want| {
        let known = nodes[17].acquaintances();
        let able = known.iter().filter(|said| said.has(want));
        able.map(Announcement::node).collect::<Vec<NodeId>>()
    };
    assert_eq!(heard_of(&need("cpu", 7)), [worker.id()]);
    assert_eq!(heard_of(&need("cuda", 7)), []);
    assert_eq!(heard_of(&need("cpu", 6)), []);

    let nodes = nodes.into_iter().map(Some).collect();
    let found = look_while_a_third_leaves(&mut random, nodes, &blobs).await;
    assert!(found > BLOBS, "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_dht_a_blob_is_found_while_anyone_has_it() {
    let mut random = StdRng::seed_from_u64(21);
    let dir = tempfile::tempdir().unwrap();
    let net = Testnet::builder(8).build().unwrap();
    let mut nodes = Vec::new();
    for number in 0..NODES {
        let config = SwarmConfig {
            dht: Some(Dht {
                bootstrap: net.bootstrap.clone(),
            }),
            limits: patience(),
            ..SwarmConfig::loopback(dir.path().join(number.to_string()))
        };
        // Nobody knows anybody but the DHT.
        nodes.push(Swarm::open(config).await.unwrap());
    }
    let blobs = blobs(&mut random);
    put(&nodes, &blobs).await;
    let asking = &nodes[NODES - 1];
    let mut waiting = JoinSet::new();
    for blob in &blobs {
        let mut holders: BTreeSet<NodeId> = blob.holders.iter().map(|n| nodes[*n].id()).collect();
        holders.remove(&asking.id());
        let (asking, want) = (asking.clone(), Want::Blob(Digest::of(&blob.data)));
        waiting.spawn(async move {
            loop {
                let found = asking.find(&want).await;
                if holders
                    .iter()
                    .all(|id| found.iter().any(|node| node.id == *id))
                {
                    return;
                }
            }
        });
    }
    let waited = tokio::time::timeout(DEADLINE, waiting.join_all()).await;
    waited.expect("every holder of every blob is in the DHT");
    let nodes = nodes.into_iter().map(Some).collect();
    let found = look_while_a_third_leaves(&mut random, nodes, &blobs).await;
    assert!(found > BLOBS, "{found}");
    drop(net);
}
