//! Blobs of which only the digest is known: finding them, proving their size, fetching them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use common::hostile::{Hostile, Sends};
use common::{Endless, Two, content, gossiping, limits, node, node_with, offer};
use n0_future::boxed::BoxStream;
use n0_future::{StreamExt, stream};
use skep_registry::Digest;
use skep_swarm::{
    BlobError, Discovery, Limits, NodeId, Presence, ProviderAddr, ProviderFault, TicketDiscovery,
    Want,
};
use tokio::sync::Notify;

#[tokio::test]
async fn a_blob_of_any_size_is_found_by_its_digest_and_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(&dir.path().join("a")).await;
    let b = node(&dir.path().join("b")).await;
    b.add_discovery(Arc::new(TicketDiscovery::from(a.ticket())));
    // Around the borders of chunks, groups and pieces.
    for size in [0, 1, 1024, 1025, 16_384, 16_385, 49_153, 1_000_000] {
        let data = content(30, size);
        let digest = offer(&a, &data).await;
        let found = b.find_blob(&digest, &[]).await.unwrap();
        assert_eq!(found.size, size as u64);
        assert_eq!(found.providers, [a.addr()]);
        let (blob, report) = b
            .fetch_blob(&digest, found.size, &found.providers, None)
            .await
            .unwrap();
        assert_eq!(blob.read_at(0, size).await.unwrap(), data);
        assert_eq!(report.bytes_fetched, size as u64);
    }
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn what_was_fetched_by_digest_is_kept_while_it_is_open_and_served_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(&dir.path().join("a")).await;
    let sweeping = Limits {
        sweep: Duration::from_millis(50),
        ..limits()
    };
    let b = node_with(&dir.path().join("b"), sweeping).await;
    let c = node(&dir.path().join("c")).await;
    let (first, second) = (content(31, 200_000), content(32, 200_000));
    let first = offer(&a, &first).await;
    let second = offer(&a, &second).await;
    let (kept, _) = b
        .fetch_blob(&first, 200_000, &[a.addr()], None)
        .await
        .unwrap();
    let (dropped, _) = b
        .fetch_blob(&second, 200_000, &[a.addr()], None)
        .await
        .unwrap();
    drop(dropped);
    let gone = async {
        while b.presence(&second).await.unwrap() != Presence::Absent {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone)
        .await
        .expect("nobody holds it, so a sweep takes it");
    kept.read_at(0, 200_000).await.unwrap();
    let error = c.find_blob(&first, &[b.addr()]).await.unwrap_err();
    assert!(
        matches!(error.faults[0].fault, ProviderFault::NotOffered { .. }),
        "{error}"
    );
    for node in [a, b, c] {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_blob_that_nobody_has_is_not_found_and_the_error_says_who_was_asked() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(&dir.path().join("a")).await;
    let b = node(&dir.path().join("b")).await;
    let digest = Digest::of(b"nobody has this");
    let nobody = b.find_blob(&digest, &[]).await.unwrap_err();
    assert!(nobody.to_string().contains("nobody was asked"), "{nobody}");
    let error = b
        .find_blob(&digest, &[a.addr(), b.addr()])
        .await
        .unwrap_err();
    assert_eq!(error.faults.len(), 1, "{error}");
    assert_eq!(error.faults[0].node, a.id());
    assert!(matches!(
        b.open_blob(&digest).await,
        Err(BlobError::NotHere { .. })
    ));
    a.shutdown().await;
    b.shutdown().await;
}

/// A node that has a blob, and one that has not and waits for so long for a provider that says nothing.
async fn offered(blob: &[u8], stall: Duration) -> (Two, Digest) {
    let patience = Limits { stall, ..limits() };
    let two = Two::with(patience).await;
    let digest = offer(&two.a, blob).await;
    (two, digest)
}

#[tokio::test]
async fn a_false_size_is_caught_before_anything_is_stored() {
    let data = content(33, 100_000);
    let (two, digest) = offered(&data, Duration::from_millis(500)).await;
    let Two { a: honest, b, .. } = &two;
    // Larger and smaller, by a byte and by whole groups; none at all; more than there can be.
    for size in [0, 1, 98_304, 99_999, 100_001, 114_689, 1 << 40, u64::MAX] {
        let liar = Hostile::sending(Sends::Size(size), &data).await;
        let error = b
            .find_blob(&digest, std::slice::from_ref(&liar.addr))
            .await
            .unwrap_err();
        let fault = &error.faults[0].fault;
        assert!(
            matches!(fault, ProviderFault::FalseSize { claimed, .. } if *claimed == size)
                || matches!(fault, ProviderFault::Truncated { .. }),
            "{size}: {fault}"
        );
        assert_eq!(b.presence(&digest).await.unwrap(), Presence::Absent);
        // Beside an honest node the lie costs nothing.
        let found = b
            .find_blob(&digest, &[liar.addr.clone(), honest.addr()])
            .await
            .unwrap();
        assert_eq!(found.size, 100_000);
        assert!(found.providers.contains(&honest.addr()));
        liar.stop().await;
    }
    for sends in [
        Sends::Garbage,
        Sends::Half(40),
        Sends::Stall(40),
        Sends::Endless,
    ] {
        let liar = Hostile::sending(sends, &data).await;
        let error = b
            .find_blob(&digest, std::slice::from_ref(&liar.addr))
            .await
            .unwrap_err();
        assert_eq!(error.faults.len(), 1, "{sends:?}: {error}");
        liar.stop().await;
    }
    two.stop().await;
}

#[tokio::test]
async fn a_provider_that_proves_the_size_and_sends_nothing_else_is_left() {
    let data = content(34, 1_000_000);
    let (two, digest) = offered(&data, Duration::from_millis(500)).await;
    let Two { a: honest, b, .. } = &two;
    let liar = Hostile::sending(Sends::Half(100_000), &data).await;
    let found = b
        .find_blob(&digest, std::slice::from_ref(&liar.addr))
        .await
        .unwrap();
    let error = b
        .fetch_blob(&digest, found.size, &found.providers, None)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("every provider failed"),
        "{error}"
    );
    let (blob, report) = b
        .fetch_blob(
            &digest,
            found.size,
            &[liar.addr.clone(), honest.addr()],
            None,
        )
        .await
        .unwrap();
    assert!(report.bytes_present > 0, "{report:?}");
    assert_eq!(blob.read_at(0, data.len()).await.unwrap(), data);
    liar.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn the_first_proof_ends_the_search() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(&dir.path().join("a")).await;
    let digest = offer(&a, b"here it is").await;
    // With patience for an hour: only the answer can end it.
    let patient = Limits {
        discovery: Duration::from_secs(3600),
        ..limits()
    };
    let b = node_with(&dir.path().join("b"), patient).await;
    b.add_discovery(Arc::new(Endless(vec![a.addr()])));
    let found = b.find_blob(&digest, &[]).await.unwrap();
    assert_eq!((found.size, found.providers), (10, vec![a.addr()]));
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn a_search_by_gossip_ends_when_all_that_are_known_have_answered() {
    let dir = tempfile::tempdir().unwrap();
    let a = gossiping(&dir.path().join("a"), limits()).await;
    // With patience for an hour: only the answers can end it.
    let patient = Limits {
        discovery: Duration::from_secs(3600),
        ..limits()
    };
    let b = gossiping(&dir.path().join("b"), patient).await;
    b.add_discovery(Arc::new(TicketDiscovery::from(a.ticket())));
    let digest = Digest::of(b"nobody has this");
    let searches = async {
        let error = b.find_blob(&digest, &[]).await.unwrap_err();
        (error, b.find(&Want::Anything).await)
    };
    let searches = tokio::time::timeout(Duration::from_secs(30), searches).await;
    let (error, found) = searches.expect("there is nobody left to ask");
    let asked: Vec<NodeId> = error.faults.iter().map(|fault| fault.node).collect();
    assert_eq!(asked, [a.id()], "{error}");
    assert_eq!(found, [a.addr()]);
    a.shutdown().await;
    b.shutdown().await;
}

/// Suggests these, and says when it has suggested as many as are asked at one moment.
#[derive(Debug)]
struct Loud(Vec<ProviderAddr>, Arc<Notify>);

impl Discovery for Loud {
    fn name(&self) -> &'static str {
        "loud"
    }

    fn providers(&self, _want: &Want) -> BoxStream<ProviderAddr> {
        let (nodes, suggested) = (self.0.clone(), self.1.clone());
        let nodes = stream::iter(nodes.into_iter().enumerate());
        let nodes = nodes.map(move |(number, node)| {
            if number == 15 {
                suggested.notify_one();
            }
            node
        });
        nodes.boxed()
    }
}

/// Suggests one node, once the other has suggested enough.
#[derive(Debug)]
struct Quiet(ProviderAddr, Arc<Notify>);

impl Discovery for Quiet {
    fn name(&self) -> &'static str {
        "quiet"
    }

    fn providers(&self, _want: &Want) -> BoxStream<ProviderAddr> {
        let (node, suggested) = (self.0.clone(), self.1.clone());
        let later = async move {
            suggested.notified().await;
            node
        };
        stream::once_future(later).boxed()
    }
}

#[tokio::test]
async fn a_service_that_suggests_many_that_do_not_answer_leaves_others_to_be_asked() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(&dir.path().join("a")).await;
    let digest = offer(&a, b"here it is").await;
    // Patience for an hour: a place that one of them has is not free again in time.
    let patient = Limits {
        connect: Duration::from_secs(3600),
        discovery: Duration::from_secs(3600),
        ..limits()
    };
    let b = node_with(&dir.path().join("b"), patient).await;
    // Nobody reads what comes there.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = |seed: u8| {
        let key = iroh::SecretKey::from_bytes(&[seed; 32]).public();
        ProviderAddr {
            id: NodeId::from_bytes(key.as_bytes()).unwrap(),
            addrs: vec![silent.local_addr().unwrap()],
        }
    };
    let suggested = Arc::new(Notify::new());
    let loud = Loud((1..=20).map(nobody).collect(), suggested.clone());
    b.add_discovery(Arc::new(loud));
    b.add_discovery(Arc::new(Quiet(a.addr(), suggested)));
    let found = tokio::time::timeout(Duration::from_secs(30), b.find_blob(&digest, &[])).await;
    let found = found.expect("all places are taken").unwrap();
    assert_eq!((found.size, &found.providers[0]), (10, &a.addr()));
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn a_fetch_that_is_called_off_stops_and_leaves_the_blob_to_others() {
    let data = content(35, 1_000_000);
    // Patience for an hour: a fetch that went on would hold the blob for so long.
    let (two, digest) = offered(&data, Duration::from_secs(3600)).await;
    let Two { a: honest, b, .. } = &two;
    let silent = Hostile::sending(Sends::Stall(500_000), &data).await;
    let fetch = {
        let (b, from) = (b.clone(), silent.addr.clone());
        tokio::spawn(async move {
            b.fetch_blob(&digest, 1_000_000, &[from], None)
                .await
                .is_ok()
        })
    };
    while b.presence(&digest).await.unwrap() == Presence::Absent {
        tokio::task::yield_now().await;
    }
    fetch.abort();
    assert!(fetch.await.unwrap_err().is_cancelled());
    let from = [honest.addr()];
    let again = b.fetch_blob(&digest, 1_000_000, &from, None);
    let (blob, _) = tokio::time::timeout(Duration::from_secs(30), again)
        .await
        .expect("nobody holds the blob any more")
        .unwrap();
    assert_eq!(blob.read_at(0, data.len()).await.unwrap(), data);
    silent.stop().await;
    two.stop().await;
}
