//! Who is passed on, heard of and told of, without a network.

use std::path::Path;

use skep_registry::Digest;

use super::*;
use crate::announcement::Need;
use crate::announcement::tests::{key, signed};
use crate::config::SwarmConfig;
use crate::discovery::TicketDiscovery;
use crate::node::Swarm;
use crate::topic::Topic;

/// As long as no test here ever takes.
const DEADLINE: Duration = Duration::from_secs(60);

fn id(seed: u16) -> NodeId {
    key(seed).public().into()
}

/// A node that waits so long for others.
async fn open(dir: &Path, connect: Duration) -> Swarm {
    let limits = Limits {
        connect,
        ..Limits::default()
    };
    let config = SwarmConfig {
        gossip: true,
        limits,
        ..SwarmConfig::loopback(dir)
    };
    Swarm::open(config).await.unwrap()
}

fn gossip(node: &Swarm) -> &Gossip {
    node.inner.gossip.as_ref().unwrap()
}

/// Everybody whom a search tells of before it ends.
async fn found(gossip: &Gossip) -> Vec<NodeId> {
    let nodes = gossip.providers(&Want::Anything).map(|node| node.id);
    let found = tokio::time::timeout(DEADLINE, nodes.collect()).await;
    found.expect("the search does not end")
}

#[tokio::test]
async fn of_whom_others_tell_nobody_is_told_before_it_has_said_so_itself() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path(), Duration::from_secs(8)).await;
    let (gossip, now) = (gossip(&node), seconds());
    for seed in 2..20 {
        gossip.take_in(signed(seed, &[], now).bytes, id(1));
    }
    assert_eq!(gossip.known().len(), 18);
    let own = gossip.shared.own.announcement().unwrap();
    assert_eq!(gossip.shown(), std::slice::from_ref(&own.bytes));
    // The very bytes that somebody else has shown.
    let bytes = signed(7, &[], now).bytes;
    gossip.take_in(bytes.clone(), id(7));
    assert_eq!(gossip.shown(), [own.bytes.clone(), bytes]);
    node.shutdown().await;
}

#[tokio::test]
async fn nodes_of_which_each_knows_the_one_before_hear_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut row: Vec<Swarm> = Vec::new();
    for number in 0..4 {
        let node = open(&dir.path().join(number.to_string()), Duration::from_secs(8)).await;
        if let Some(before) = row.last() {
            node.add_discovery(Arc::new(TicketDiscovery::from(before.ticket())));
        }
        row.push(node);
    }
    for _ in 0..8 {
        for node in &row {
            gossip(node).round().await;
        }
    }
    for node in &row {
        let heard: BTreeSet<NodeId> = node
            .acquaintances()
            .iter()
            .map(Announcement::node)
            .collect();
        let others = row.iter().map(Swarm::id).filter(|id| *id != node.id());
        let others: BTreeSet<NodeId> = others.collect();
        assert_eq!(heard, others);
        let told = gossip(node).shown().len();
        assert_eq!(told, row.len(), "each has heard from each");
    }
    for node in row {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn who_tells_of_many_that_are_not_there_does_not_fill_a_search_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path(), Duration::from_millis(200)).await;
    let (gossip, now) = (gossip(&node), seconds());
    for seed in 100..200 {
        gossip.take_in(signed(seed, &[], now).bytes, id(1));
    }
    // And two that have told of themselves.
    for seed in [1, 2] {
        gossip.take_in(signed(seed, &[], now).bytes, id(seed));
    }
    // It ends though most of those that it heard of were never asked.
    let found = found(gossip).await;
    assert!(found.contains(&id(2)), "{found:?}");
    assert_eq!(found.len(), BROUGHT + 1, "{found:?}");
    node.shutdown().await;
}

#[tokio::test]
async fn who_has_what_had_better_be_ready_is_told_first() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path(), Duration::from_secs(8)).await;
    let (gossip, now) = (gossip(&node), seconds());
    let package = Digest::of(b"a package");
    for seed in 2..60 {
        let ready = [Topic::ready(&package)];
        let topics = match seed {
            17 | 44 => &ready[..],
            _ => &[],
        };
        gossip.take_in(signed(seed, topics, now).bytes, id(seed));
    }
    let want = Want::Jobs(Need {
        rather: vec![package],
        ..Need::default()
    });
    let told = gossip.providers(&want).map(|node| node.id).take(3);
    let told: Vec<NodeId> = tokio::time::timeout(DEADLINE, told.collect())
        .await
        .expect("it tells of those that it knows");
    let first = BTreeSet::from([told[0], told[1]]);
    assert_eq!(first, BTreeSet::from([id(17), id(44)]));
    // Others take such work too, and are told of after them.
    assert!(!first.contains(&told[2]));
    let mut nodes: Vec<ProviderAddr> = [3, 44, 5]
        .map(|seed| signed(seed, &[], now).announcement.addr())
        .into();
    node.put_in_order(&want, &mut nodes);
    let order: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
    assert_eq!(order, [44, 3, 5].map(id));
    node.shutdown().await;
}

#[tokio::test]
async fn all_are_found_that_one_peer_tells_of_and_that_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let patient = Duration::from_secs(8);
    let asking = open(&dir.path().join("asking"), patient).await;
    let mut others = Vec::new();
    for number in 0..BROUGHT + 3 {
        let node = open(&dir.path().join(number.to_string()), patient).await;
        let said = gossip(&node).shared.own.announcement().unwrap();
        gossip(&asking).take_in(said.bytes.clone(), id(1));
        others.push(node);
    }
    let all: BTreeSet<NodeId> = others.iter().map(Swarm::id).collect();
    // It ends once they have answered.
    let found = found(gossip(&asking)).await;
    assert_eq!(found.len(), all.len(), "each is told once: {found:?}");
    assert_eq!(BTreeSet::from_iter(found), all);
    for node in others.into_iter().chain([asking]) {
        node.shutdown().await;
    }
}
