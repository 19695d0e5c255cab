//! Several providers of one blob at once, of whom some lie, stall or dawdle in the middle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::hostile::{Hostile, Sends, addr_of, endpoint};
use common::{Two, content, limits, node_with, offer};
use iroh::endpoint::Connection;
use iroh::protocol::{AcceptError, ProtocolHandler, Router};
use iroh_blobs::protocol::Request;
use iroh_blobs::store::mem::MemStore;
use n0_future::boxed::BoxStream;
use n0_future::{StreamExt, stream};
use skep_registry::Digest;
use skep_swarm::{
    Discovery, FaultOf, FetchError, Limits, ProviderAddr, ProviderFault, TicketDiscovery, Want,
};
use tokio::sync::{Barrier, Notify};

/// As long as no test here ever takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// A provider that sends nothing before others have been asked too, the first so many times that it is asked.
#[derive(Clone, Debug)]
struct Waiting(MemStore, Arc<Barrier>, usize);

impl Waiting {
    async fn start(blob: &[u8], barrier: Arc<Barrier>, waits: usize) -> (Router, ProviderAddr) {
        let store = MemStore::new();
        store.add_slice(blob).await.unwrap();
        let endpoint = endpoint().bind().await.unwrap();
        let addr = addr_of(&endpoint);
        let router = Router::builder(endpoint)
            .accept(iroh_blobs::ALPN, Self(store, barrier, waits))
            .spawn();
        (router, addr)
    }
}

impl ProtocolHandler for Waiting {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let mut waits = self.2;
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            let (request, _) = Request::read_async(&mut recv).await.unwrap();
            let Request::Get(request) = request else {
                panic!("{request:?}")
            };
            let (_, ranges) = request.ranges.as_single().unwrap();
            let export = self.0.export_bao(request.hash, ranges.clone());
            let bytes = export.bao_to_vec().await.unwrap();
            if waits > 0 {
                waits -= 1;
                self.1.wait().await;
            }
            send.write_all(&bytes).await.unwrap();
            let _ = send.finish();
        }
        Ok(())
    }
}

/// One stream to each provider.
fn one_each() -> Limits {
    Limits {
        streams: 1,
        ..limits()
    }
}

#[tokio::test]
async fn several_providers_send_one_blob_at_the_same_time() {
    let dir = tempfile::tempdir().unwrap();
    // Two pieces for each of four, and no piece arrives before all four are asked for one.
    let data = content(70, 4 << 20);
    let barrier = Arc::new(Barrier::new(4));
    let mut routers = Vec::new();
    let mut providers = Vec::new();
    for _ in 0..4 {
        let (router, addr) = Waiting::start(&data, barrier.clone(), usize::MAX).await;
        routers.push(router);
        providers.push(addr);
    }
    let b = node_with(&dir.path().join("b"), one_each()).await;
    let digest = Digest::of(&data);
    let fetch = b.fetch_blob(&digest, data.len() as u64, &providers, None);
    let (blob, report) = tokio::time::timeout(DEADLINE, fetch)
        .await
        .expect("each waits for the others")
        .unwrap();
    assert_eq!(blob.read_at(0, data.len()).await.unwrap(), data);
    assert_eq!(report.providers.len(), 4, "{report:?}");
    assert_eq!(report.bytes_fetched, data.len() as u64);
    b.shutdown().await;
    for router in routers {
        router.shutdown().await.unwrap();
    }
}

/// What is wrong with those that [`bad`] makes.
const BAD: [Sends; 4] = [
    Sends::Turns(100_000),
    Sends::Stall(100_000),
    Sends::Half(100_000),
    Sends::Garbage,
];

/// One of each that sends less than a piece, and what is not the blob.
async fn bad(blob: &[u8]) -> Vec<Hostile> {
    let mut bad = Vec::new();
    for sends in BAD {
        bad.push(Hostile::sending(sends, blob).await);
    }
    bad
}

/// Each of these is named once, with what it did, and nobody else is.
fn assert_named(bad: &[Hostile], faults: &[FaultOf]) {
    assert_eq!(faults.len(), BAD.len(), "{faults:?}");
    for (node, sends) in bad.iter().zip(BAD) {
        let of = faults.iter().find(|fault| fault.node == node.addr.id);
        let fault = &of.unwrap().fault;
        let is_it = match sends {
            Sends::Stall(_) => matches!(fault, ProviderFault::Stalled { .. }),
            Sends::Half(_) => matches!(fault, ProviderFault::Truncated { .. }),
            _ => matches!(fault, ProviderFault::WrongContent { .. }),
        };
        assert!(is_it, "{sends:?}: {fault}");
    }
}

#[tokio::test]
async fn liars_and_stallers_are_dropped_in_the_middle_and_the_rest_goes_on() {
    let data = content(71, 6 << 20);
    let patience = Limits {
        stall: Duration::from_secs(1),
        ..limits()
    };
    let two = Two::with(patience).await;
    let (honest, b) = (&two.a, &two.b);
    let digest = offer(honest, &data).await;
    let bad = bad(&data).await;
    // Only these at first: each sends a part, and none the whole.
    let providers: Vec<_> = bad.iter().map(|node| node.addr.clone()).collect();
    let fetch = b.fetch_blob(&digest, data.len() as u64, &providers, None);
    let alone = tokio::time::timeout(DEADLINE, fetch).await.unwrap();
    match alone {
        Err(FetchError::Exhausted { faults, .. }) => assert_named(&bad, &faults),
        other => panic!("{other:?}"),
    }
    // Then somebody finds an honest one while they are at it.
    b.add_discovery(Arc::new(TicketDiscovery::from(honest.ticket())));
    let fetch = b.fetch_blob(&digest, data.len() as u64, &providers, None);
    let (blob, report) = tokio::time::timeout(DEADLINE, fetch)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(blob.read_at(0, data.len()).await.unwrap(), data);
    assert!(
        report.bytes_present > 0,
        "what liars sent right is kept: {report:?}"
    );
    assert!(report.providers.contains_key(&honest.id()), "{report:?}");
    two.stop().await;
    for node in bad {
        node.stop().await;
    }
}

/// Suggests nodes once others have been asked, all of them.
#[derive(Debug)]
struct Later(Vec<ProviderAddr>, Vec<Arc<Notify>>);

impl Discovery for Later {
    fn name(&self) -> &'static str {
        "later"
    }

    fn providers(&self, _want: &Want) -> BoxStream<ProviderAddr> {
        let (nodes, all) = (self.0.clone(), self.1.clone());
        let later = async move {
            for asked in all {
                asked.notified().await;
            }
            stream::iter(nodes)
        };
        stream::once_future(later).flatten().boxed()
    }
}

#[tokio::test]
async fn liars_that_are_asked_first_are_named_and_two_that_are_honest_share_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    // Eight pieces, two for each of the bad ones.
    let data = content(73, 6 << 20);
    let digest = Digest::of(&data);
    let hurried = Limits {
        stall: Duration::from_secs(3),
        ..one_each()
    };
    let b = node_with(&dir.path().join("b"), hurried).await;
    let bad = bad(&data).await;
    // Neither of these sends anything before the other has been asked for a piece too.
    let barrier = Arc::new(Barrier::new(2));
    let (mut routers, mut honest) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let (router, addr) = Waiting::start(&data, barrier.clone(), 1).await;
        routers.push(router);
        honest.push(addr);
    }
    // And neither is there before each of the bad ones has been asked.
    let asked = bad.iter().map(Hostile::asked).collect();
    b.add_discovery(Arc::new(Later(honest.clone(), asked)));
    let providers: Vec<_> = bad.iter().map(|node| node.addr.clone()).collect();
    let fetch = b.fetch_blob(&digest, data.len() as u64, &providers, None);
    let (blob, report) = tokio::time::timeout(DEADLINE, fetch)
        .await
        .expect("those that are honest have all of it")
        .unwrap();
    assert_eq!(blob.read_at(0, data.len()).await.unwrap(), data);
    // The piece that is waited for in vain is nobody else's before that is told.
    assert_named(&bad, &report.faults);
    for node in &honest {
        assert!(report.providers.contains_key(&node.id), "{report:?}");
    }
    b.shutdown().await;
    for router in routers {
        router.shutdown().await.unwrap();
    }
    for node in bad {
        node.stop().await;
    }
}

/// One stream to each provider, of whom none ever stalls, and whoever has nothing to do helps another at once.
fn hedging() -> Limits {
    Limits {
        stall: Duration::from_secs(3600),
        hedge: Duration::from_millis(100),
        ..one_each()
    }
}

#[tokio::test]
async fn two_that_dawdle_over_one_piece_keep_nobody_waiting() {
    // One piece.
    let data = content(74, 500 << 10);
    let two = Two::with(hedging()).await;
    let (honest, b) = (&two.a, &two.b);
    let digest = offer(honest, &data).await;
    let slow = Hostile::sending(Sends::Trickle, &data).await;
    let other = Hostile::sending(Sends::Trickle, &data).await;
    // Both have it before anybody else is there.
    b.add_discovery(Arc::new(Later(
        vec![other.addr.clone()],
        vec![slow.asked()],
    )));
    b.add_discovery(Arc::new(Later(vec![honest.addr()], vec![other.asked()])));
    let from = [slow.addr.clone()];
    let fetch = b.fetch_blob(&digest, data.len() as u64, &from, None);
    let (blob, report) = tokio::time::timeout(DEADLINE, fetch)
        .await
        .expect("a third fetches the piece too")
        .unwrap();
    assert_eq!(blob.read_at(0, data.len()).await.unwrap(), data);
    // Without its help it would have come all the same, a little at a time.
    assert!(report.providers.contains_key(&honest.id()), "{report:?}");
    two.stop().await;
    for node in [slow, other] {
        node.stop().await;
    }
}

#[tokio::test]
async fn who_dawdles_keeps_nobody_waiting() {
    // At its pace a piece takes minutes, and it never stalls.
    let data = content(72, 8 << 20);
    let two = Two::with(hedging()).await;
    let (honest, b) = (&two.a, &two.b);
    let digest = offer(honest, &data).await;
    let slow = Hostile::sending(Sends::Trickle, &data).await;
    // It has a piece before anybody else is there.
    b.add_discovery(Arc::new(Later(vec![honest.addr()], vec![slow.asked()])));
    let from = [slow.addr.clone()];
    let fetch = b.fetch_blob(&digest, data.len() as u64, &from, None);
    let (blob, report) = tokio::time::timeout(DEADLINE, fetch)
        .await
        .expect("another fetches the piece too")
        .unwrap();
    assert_eq!(blob.read_at(0, data.len()).await.unwrap(), data);
    assert!(
        report.faults.is_empty(),
        "being slow is no fault: {report:?}"
    );
    two.stop().await;
    slow.stop().await;
}
