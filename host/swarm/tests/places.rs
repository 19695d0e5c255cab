//! How much of what a node does for others one peer may take, that says nothing and goes on saying nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use bao_tree::io::BaoContentItem;
use common::hostile::{connect, endpoint};
use common::{content, gossiping, limits, offer};
use iroh::Endpoint;
use iroh::endpoint::Connection;
use iroh_blobs::Hash;
use iroh_blobs::get::fsm::{self, AtStartRoot, BlobContentNext, ConnectedNext};
use iroh_blobs::protocol::GetRequest;
use skep_registry::Digest;
use skep_swarm::{Limits, Swarm};
use tokio::task::JoinSet;

/// As long as nothing here ever takes.
const DEADLINE: Duration = Duration::from_secs(30);
/// The frame of a question that is none.
const NO_QUESTION: [u8; 4] = [0; 4];
/// What is answered to it, and by a node that is busy: the bytes on the wire, written down a second time.
const MALFORMED: [u8; 6] = [0, 0, 0, 2, 3, 2];
const BUSY: [u8; 6] = [0, 0, 0, 2, 3, 1];

/// A node with eight places for each kind of thing, and patience for an hour.
async fn node(dir: &Path) -> Swarm {
    let patient = Limits {
        request: Duration::from_secs(3600),
        idle: Duration::from_secs(3600),
        answers: 8,
        connections: 8,
        ..limits()
    };
    gossiping(dir, patient).await
}

/// Connects so many times under one name, and waits until one of these connections is ended. Returns those that
/// are not.
async fn without_one(from: &Endpoint, node: &Swarm, alpn: &[u8], count: usize) -> Vec<Connection> {
    let mut held = Vec::new();
    let mut ending = JoinSet::new();
    for _ in 0..count {
        let connection = connect(from, node, alpn).await;
        held.push(connection.clone());
        ending.spawn(async move { connection.closed().await });
    }
    let ended = tokio::time::timeout(DEADLINE, ending.join_next()).await;
    ended.expect("it may have all of them").unwrap().unwrap();
    held.retain(|connection| connection.close_reason().is_none());
    held
}

/// What is answered to a question that is none.
async fn answer(connection: &Connection) -> Vec<u8> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&NO_QUESTION).await.unwrap();
    send.finish().unwrap();
    let answer = tokio::time::timeout(DEADLINE, recv.read_to_end(64)).await;
    answer.unwrap().unwrap()
}

#[tokio::test]
async fn one_peer_cannot_have_all_connections_to_which_blobs_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(&dir.path().join("a")).await;
    let digest = offer(&node, b"for everybody").await;
    let greedy = endpoint().bind().await.unwrap();
    let held = without_one(&greedy, &node, iroh_blobs::ALPN, 3).await;
    assert_eq!(held.len(), 2);
    let other = common::node(&dir.path().join("b")).await;
    other.find_blob(&digest, &[node.addr()]).await.unwrap();
    other.shutdown().await;
    node.shutdown().await;
    greedy.close().await;
}

#[tokio::test]
async fn who_has_no_connection_is_served_blobs_where_others_use_all_places() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(&dir.path().join("a")).await;
    let digest = offer(&node, b"for everybody").await;
    let (mut peers, mut held) = (Vec::new(), Vec::new());
    for count in [2, 2, 2, 1, 1] {
        let peer = endpoint().bind().await.unwrap();
        for _ in 0..count {
            let connection = connect(&peer, &node, iroh_blobs::ALPN).await;
            let answer = ask_for(&connection, &digest).await.unwrap();
            let blob = read(answer, Duration::from_millis(1)).await;
            assert_eq!(blob.unwrap(), b"for everybody");
            held.push(connection);
        }
        peers.push(peer);
    }
    let other = common::node(&dir.path().join("b")).await;
    other.find_blob(&digest, &[node.addr()]).await.unwrap();
    // It has the place of one of those who had several.
    let mut ending = JoinSet::new();
    for connection in &held[..6] {
        let connection = connection.clone();
        ending.spawn(async move { connection.closed().await });
    }
    let ended = tokio::time::timeout(DEADLINE, ending.join_next()).await;
    let ended = ended.expect("all of them go on").unwrap().unwrap();
    assert!(ended.to_string().contains("limit"), "{ended}");
    let go_on = |connection: &Connection| connection.close_reason().is_none();
    assert!(held[6..].iter().all(go_on));
    other.shutdown().await;
    node.shutdown().await;
    for peer in peers {
        peer.close().await;
    }
}

#[tokio::test]
async fn one_peer_cannot_have_all_exchanges_of_announcements() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(&dir.path().join("a")).await;
    let greedy = endpoint().bind().await.unwrap();
    let held = without_one(&greedy, &node, b"skep/gossip/1", 5).await;
    assert_eq!(held.len(), 4);
    let other = endpoint().bind().await.unwrap();
    let connection = connect(&other, &node, b"skep/gossip/1").await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.finish().unwrap();
    let told = tokio::time::timeout(DEADLINE, recv.read_to_end(1 << 20)).await;
    assert!(!told.unwrap().unwrap().is_empty(), "it tells of itself");
    node.shutdown().await;
    greedy.close().await;
    other.close().await;
}

#[tokio::test]
async fn one_peer_cannot_have_all_connections_on_which_releases_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(&dir.path().join("a")).await;
    let greedy = endpoint().bind().await.unwrap();
    let held = without_one(&greedy, &node, b"skep/releases/1", 3).await;
    assert_eq!(held.len(), 2);
    let other = endpoint().bind().await.unwrap();
    let connection = connect(&other, &node, b"skep/releases/1").await;
    assert_eq!(answer(&connection).await, MALFORMED);
    node.shutdown().await;
    greedy.close().await;
    other.close().await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_asked_ends() {
    let dir = tempfile::tempdir().unwrap();
    let hurried = Limits {
        request: Duration::from_millis(300),
        ..limits()
    };
    let node = common::node_with(&dir.path().join("a"), hurried).await;
    let silent = endpoint().bind().await.unwrap();
    let connection = connect(&silent, &node, b"skep/releases/1").await;
    // It is kept alive, so that nothing but the node ends it.
    let ended = tokio::time::timeout(DEADLINE, connection.closed()).await;
    ended.expect("it is kept for ever");
    node.shutdown().await;
    silent.close().await;
}

/// Asks for a whole blob, and reads nothing of the answer yet.
async fn ask_for(connection: &Connection, digest: &Digest) -> Result<AtStartRoot, String> {
    let request = GetRequest::blob(Hash::from_bytes(*digest.as_bytes()));
    let asking = fsm::start(connection.clone(), request, Default::default());
    let asking = asking.next().await.map_err(|error| error.to_string())?;
    match asking.next().await.map_err(|error| error.to_string())? {
        ConnectedNext::StartRoot(answer) => Ok(answer),
        other => Err(format!("{other:?}")),
    }
}

/// Reads the blob in an answer, no quicker than a group in so long.
async fn read(answer: AtStartRoot, pace: Duration) -> Result<Vec<u8>, String> {
    let header = answer.next().next().await;
    let (mut content, _) = header.map_err(|error| error.to_string())?;
    let mut blob = Vec::new();
    let mut pace = tokio::time::interval(pace);
    loop {
        match content.next().await {
            BlobContentNext::More((rest, item)) => {
                if let BaoContentItem::Leaf(leaf) = item.map_err(|error| error.to_string())? {
                    blob.extend_from_slice(&leaf.data);
                    pace.tick().await;
                }
                content = rest;
            }
            BlobContentNext::Done(_) => return Ok(blob),
        }
    }
}

#[tokio::test]
async fn a_connection_over_which_no_blob_is_sent_ends_and_gives_its_place_back() {
    let dir = tempfile::tempdir().unwrap();
    // One connection for each peer.
    let hurried = Limits {
        idle: Duration::from_millis(300),
        connections: 4,
        ..limits()
    };
    let node = common::node_with(&dir.path().join("a"), hurried).await;
    // More than is on its way while nobody reads.
    let large = offer(&node, &content(80, 4 << 20)).await;
    let small = offer(&node, b"small").await;
    let (mut peers, mut held) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let peer = endpoint().bind().await.unwrap();
        held.push(connect(&peer, &node, iroh_blobs::ALPN).await);
        peers.push(peer);
    }
    // Nothing is asked on the first, a part of a question on the second, and on the third nothing is read.
    let (mut send, _recv) = held[1].open_bi().await.unwrap();
    send.write_all(&[0]).await.unwrap();
    let _answer = ask_for(&held[2], &large).await.unwrap();
    for connection in &held {
        // It is kept alive, so that nothing but the node ends it.
        let ended = tokio::time::timeout(DEADLINE, connection.closed()).await;
        let ended = ended.expect("it is kept for ever").to_string();
        assert!(ended.contains("nothing was sent"), "{ended}");
    }
    for peer in &peers {
        // Its place is free a moment after it has heard of the end.
        let served = async {
            loop {
                let connection = connect(peer, &node, iroh_blobs::ALPN).await;
                if let Ok(answer) = ask_for(&connection, &small).await
                    && let Ok(blob) = read(answer, Duration::from_millis(1)).await
                {
                    return blob;
                }
            }
        };
        let served = tokio::time::timeout(DEADLINE, served).await;
        assert_eq!(served.expect("its place is taken"), b"small");
    }
    node.shutdown().await;
    for peer in peers {
        peer.close().await;
    }
}

#[tokio::test]
async fn a_connection_over_which_a_blob_is_sent_goes_on_for_as_long_as_that_takes() {
    let dir = tempfile::tempdir().unwrap();
    let idle = Duration::from_secs(2);
    let hurried = Limits { idle, ..limits() };
    let node = common::node_with(&dir.path().join("a"), hurried).await;
    let data = content(81, 8 << 20);
    let digest = offer(&node, &data).await;
    // However long the disk takes to have it, the blob is read without waiting for that.
    node.flush().await.unwrap();
    let peer = endpoint().bind().await.unwrap();
    let connection = connect(&peer, &node, iroh_blobs::ALPN).await;
    let began = Instant::now();
    let answer = ask_for(&connection, &digest).await.unwrap();
    // Of 512 groups less than a hundred are on their way while nobody reads.
    let reading = read(answer, Duration::from_millis(9));
    let blob = tokio::time::timeout(DEADLINE, reading).await.unwrap();
    assert!(blob.expect("it was cut off") == data);
    assert!(began.elapsed() > 2 * idle, "it was no slower than others");
    node.shutdown().await;
    peer.close().await;
}

#[tokio::test]
async fn nobody_may_send_what_nobody_reads() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(&dir.path().join("a")).await;
    let other = endpoint().bind().await.unwrap();
    let connection = connect(&other, &node, b"skep/releases/1").await;
    // What the node allows is known once it has answered.
    assert_eq!(answer(&connection).await, MALFORMED);
    let opened = n0_future::future::poll_once(connection.open_uni()).await;
    assert!(opened.is_none(), "a stream of one direction was opened");
    node.shutdown().await;
    other.close().await;
}

#[tokio::test]
async fn one_peer_cannot_have_all_answers() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(&dir.path().join("a")).await;
    let greedy = endpoint().bind().await.unwrap();
    let connection = connect(&greedy, &node, b"skep/releases/1").await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        // A part of a question, the rest of which never comes.
        send.write_all(&[0]).await.unwrap();
        held.push((send, recv));
    }
    assert_eq!(answer(&connection).await, BUSY);
    let other = endpoint().bind().await.unwrap();
    let connection = connect(&other, &node, b"skep/releases/1").await;
    assert_eq!(answer(&connection).await, MALFORMED);
    node.shutdown().await;
    greedy.close().await;
    other.close().await;
}
