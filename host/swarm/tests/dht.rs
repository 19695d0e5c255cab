//! Nodes that take work, found by nothing but a DHT on loopback: by what they do and have ready, in
//! the order of what they sign, and whoever else may have announced itself there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::hostile::endpoint;
use common::{able, content, limits, offer, publish};
use iroh::SecretKey;
use iroh::endpoint::Connection;
use iroh::protocol::{AcceptError, ProtocolHandler, Router};
use mainline::{Id, Testnet};
use skep_registry::{Digest, PublisherKey};
use skep_swarm::{
    Announcement, Capability, Dht, Limits, Need, NodeId, ProviderAddr, Swarm, SwarmConfig, Want,
};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// Nothing here takes as long.
const DEADLINE: Duration = Duration::from_secs(120);
/// What was not found is looked for again after this: it is being announced, and the DHT has that to do.
const PAUSE: Duration = Duration::from_millis(200);

async fn open(dir: &Path, net: &Testnet, gossip: bool) -> Swarm {
    open_for(dir, net, gossip, Duration::from_secs(5)).await
}

/// The same, of which a search may take so long.
async fn open_for(dir: &Path, net: &Testnet, gossip: bool, discovery: Duration) -> Swarm {
    let config = SwarmConfig {
        gossip,
        dht: Some(Dht {
            bootstrap: net.bootstrap.clone(),
        }),
        limits: Limits {
            connect: Duration::from_secs(3),
            discovery,
            ..limits()
        },
        ..SwarmConfig::loopback(dir)
    };
    Swarm::open(config).await.unwrap()
}

/// Nodes of these names that know of each other by the DHT alone, or by what they tell each other too.
async fn open_all<const COUNT: usize>(
    dir: &Path,
    net: &Testnet,
    names: [&str; COUNT],
    gossip: bool,
) -> [Swarm; COUNT] {
    let mut nodes = Vec::new();
    for name in names {
        nodes.push(open(&dir.join(name), net, gossip).await);
    }
    nodes.try_into().unwrap()
}

fn capability(device: &str, bytes: u64) -> Capability {
    Capability {
        device: device.to_owned(),
        memory: 1 << 30,
        slots: 1,
        tariff: [0, 5, bytes, 0],
    }
}

fn ids(nodes: &[ProviderAddr]) -> BTreeSet<NodeId> {
    nodes.iter().map(|node| node.id).collect()
}

/// Looks again and again until what is found is all of these, and perhaps more.
async fn until_found(by: &Swarm, want: &Want, all: &[&Swarm]) -> Vec<ProviderAddr> {
    let looking = async {
        loop {
            let found = by.find(want).await;
            if all
                .iter()
                .all(|node| found.iter().any(|other| other.id == node.id()))
            {
                return found;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let found = tokio::time::timeout(DEADLINE, looking).await;
    found.unwrap_or_else(|_| panic!("not found: {want:?}"))
}

fn ready(release: Digest) -> Need {
    Need {
        ready: vec![release],
        ..Need::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_work_is_found_by_its_device_and_by_what_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let net = Testnet::builder(8).build().unwrap();
    let names = ["a", "b", "idle", "asking"];
    let [a, b, idle, asking] = open_all(dir.path(), &net, names, false).await;
    let key = PublisherKey::generate().unwrap();
    let model = publish(&a, &key, "a-model", "1.0.0", &[("weights", b"few")]).await;
    let adapter = publish(&b, &key, "an-adapter", "1.0.0", &[("weights", b"fewer")]).await;
    // Somebody who has the model, and works for nobody.
    idle.import_bytes(b"few".to_vec()).await.unwrap();
    idle.publish_release(&model).await.unwrap();
    a.announce(Some(capability("cpu", 7)));
    b.announce(Some(capability("cuda", 7)));
    let (model, adapter) = (model.digest(), adapter.digest());
    // All are in the DHT by then: who is missing below is not merely late.
    let (model_there, adapter_there) = (Want::Release(model), Want::Release(adapter));
    let (has_model, has_adapter) = ([&a, &idle], [&b]);
    tokio::join!(
        until_found(&asking, &model_there, &has_model),
        until_found(&asking, &adapter_there, &has_adapter),
    );

    let mut searches = JoinSet::new();
    for (need, all) in [
        (Need::default(), vec![&a, &b]),
        (ready(model), vec![&a]),
        (ready(adapter), vec![&b]),
        (
            Need {
                device: Some("cuda".to_owned()),
                ..Need::default()
            },
            vec![&b],
        ),
    ] {
        let (want, asking) = (Want::Jobs(need), asking.clone());
        let all: Vec<Swarm> = all.into_iter().cloned().collect();
        searches.spawn(async move {
            let all: Vec<&Swarm> = all.iter().collect();
            let found = until_found(&asking, &want, &all).await;
            let all: BTreeSet<NodeId> = all.iter().map(|node| node.id()).collect();
            assert_eq!(ids(&found), all, "{want:?}");
        });
    }
    searches.join_all().await;
    let nobodys = Want::Jobs(ready(Digest::of(b"nobody has this ready")));
    assert_eq!(asking.find(&nobodys).await, []);
    for node in [a, b, idle, asking] {
        node.shutdown().await;
    }
    drop(net);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_found_who_signs_that_it_meets_the_need_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let net = Testnet::builder(8).build().unwrap();
    let names = ["dear", "cheap", "asking"];
    let [dear, cheap, asking] = open_all(dir.path(), &net, names, true).await;
    let key = PublisherKey::generate().unwrap();
    let model = publish(&dear, &key, "a-model", "1.0.0", &[("weights", b"few")]).await;
    cheap.import_bytes(b"few".to_vec()).await.unwrap();
    cheap.publish_release(&model).await.unwrap();
    dear.announce(Some(capability("cpu", 8)));
    cheap.announce(Some(capability("cpu", 7)));
    let able = Need {
        tariff: Some([0, 5, 7, 0]),
        memory: 1 << 30,
        ..ready(model.digest())
    };
    let want = Want::Jobs(able.clone());
    // The DHT knows of no prices: both are suggested, and asked for what they sign.
    let all = [&dear, &cheap];
    let mut found = until_found(&asking, &want, &all).await;
    let begun = Instant::now();
    while asking.acquaintances().len() < all.len() {
        assert!(begun.elapsed() < DEADLINE, "nobody was heard of");
        found = until_found(&asking, &want, &all).await;
    }
    let order: Vec<NodeId> = found.iter().map(|node| node.id).collect();
    assert_eq!(order, [cheap.id(), dear.id()]);
    let meeting = |want: &Want| {
        let said = asking.acquaintances();
        let meeting = said.iter().filter(|said| said.has(want));
        meeting.map(Announcement::node).collect::<Vec<_>>()
    };
    assert_eq!(meeting(&want), [cheap.id()]);
    let more = Want::Jobs(Need {
        memory: (1 << 30) + 1,
        ..able
    });
    assert_eq!(meeting(&more), []);
    for node in [dear, cheap, asking] {
        node.shutdown().await;
    }
    drop(net);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_dht_alone_who_can_do_what_is_needed_is_found_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let net = Testnet::builder(8).build().unwrap();
    let nodes = open_all(dir.path(), &net, able::NAMES, true).await;
    // The DHT knows of no memory and no prices: who is found is asked.
    let need = able::take_work(&nodes).await;
    let asking = open(&dir.path().join("asking"), &net, true).await;
    able::assert_found(&asking, &nodes, &need).await;
    for node in nodes.iter().chain([&asking]) {
        node.shutdown().await;
    }
    drop(net);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_announces_a_thing_finds_the_others_that_have_it_meanwhile() {
    const BLOBS: usize = 12;
    let dir = tempfile::tempdir().unwrap();
    let net = Testnet::builder(8).build().unwrap();
    let [a, b, other] = open_all(dir.path(), &net, ["a", "b", "other"], false).await;
    let mut digests = Vec::new();
    for number in 0..BLOBS {
        let blob = content(number as u64, 100);
        let digest = offer(&a, &blob).await;
        b.import_bytes(blob).await.unwrap();
        digests.push(digest);
    }
    // Each is there when it has been announced, so that all are looked for at once.
    let mut searches = JoinSet::new();
    for digest in digests.clone() {
        let (a, other) = (a.clone(), other.clone());
        searches.spawn(async move { until_found(&other, &Want::Blob(digest), &[&a]).await });
    }
    searches.join_all().await;
    // Each a little later after its announcement has begun than the one before.
    let mut searches = JoinSet::new();
    for (later, digest) in digests.into_iter().enumerate() {
        let b = b.clone();
        searches.spawn(async move {
            b.share(&digest).await.unwrap();
            for _ in 0..16 * later {
                tokio::task::yield_now().await;
            }
            b.find(&Want::Blob(digest)).await
        });
    }
    for found in searches.join_all().await {
        assert_eq!(ids(&found), BTreeSet::from([a.id()]));
    }
    for node in [a, b, other] {
        node.shutdown().await;
    }
    drop(net);
}

/// What the DHT knows taking jobs by: the first bytes of the topic, written down a second time.
fn jobs() -> Id {
    let mut hasher = blake3::Hasher::new_derive_key("skep 2026 topics of announcements");
    hasher.update(&4_u64.to_be_bytes());
    hasher.update(b"jobs");
    Id::from_bytes(&hasher.finalize().as_bytes()[..20]).unwrap()
}

/// Puts a port of this machine into the DHT, as that of a node that takes jobs.
async fn announce_at(net: &Testnet, port: u16) -> mainline::async_dht::AsyncDht {
    let dht = mainline::Dht::builder()
        .bootstrap(&net.bootstrap)
        .bind_address(Ipv4Addr::LOCALHOST)
        .port(0)
        .build()
        .unwrap()
        .as_async();
    assert!(dht.bootstrapped().await);
    dht.announce_peer(jobs(), Some(port)).await.unwrap();
    dht
}

/// Answers who is there: the node `named`, which listens on `port`, signed with `key`. One that `hesitates` does so
/// when it is asked the same a second time. Counts the answers.
async fn answering(
    named: NodeId,
    key: SecretKey,
    port: u16,
    hesitates: bool,
) -> (u16, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let own = socket.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        let mut question = [0; 129];
        let mut before: Vec<u8> = Vec::new();
        loop {
            let (length, from) = socket.recv_from(&mut question).await.unwrap();
            assert_eq!((length, &question[..8]), (128, &b"skepwho1"[..]));
            let nonce = &question[8..24];
            if hesitates && before != nonce {
                before = nonce.to_vec();
                continue;
            }
            let domain = b"skep who is at this address 1\n";
            let message = [&domain[..], nonce, &port.to_be_bytes()].concat();
            let answer = [
                &b"skepwho1"[..],
                named.as_bytes(),
                &port.to_be_bytes(),
                &key.sign(&message).to_bytes(),
            ]
            .concat();
            socket.send_to(&answer, from).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (own, asked)
}

fn node_of(key: &SecretKey) -> NodeId {
    NodeId::from_bytes(key.public().as_bytes()).unwrap()
}

/// The frame of an announcement of a node that takes every job, good for three hours from
/// `issued` on and signed with `key`: what the protocol has, written down a second time.
fn announcement(node: NodeId, addr: SocketAddr, issued: u64, key: &SecretKey) -> Vec<u8> {
    let said = (
        node,
        issued,
        issued + 3 * 3600,
        vec![addr],
        Some(capability("cpu", 0)),
        vec![0_u8; 32],
    );
    let body = postcard::to_stdvec(&said).unwrap();
    let signature = key.sign(&[&b"skep announcement 1\n"[..], &body].concat());
    let bytes = [&signature.to_bytes()[..], &body].concat();
    let frame = postcard::to_stdvec(&bytes).unwrap();
    let length = u32::try_from(frame.len()).unwrap();
    [&length.to_be_bytes()[..], &frame].concat()
}

/// Tells the same to everybody.
#[derive(Clone, Debug)]
struct Gossiper(Arc<Vec<u8>>);

impl ProtocolHandler for Gossiper {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        if let Ok((mut send, _recv)) = connection.accept_bi().await {
            let _ = send.write_all(&self.0).await;
            let _ = send.finish();
            connection.closed().await;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forged_or_over_is_not_taken_from_who_is_in_the_dht() {
    let dir = tempfile::tempdir().unwrap();
    let net = Testnet::builder(8).build().unwrap();
    let [gossiper, late, stranger, victim] =
        [1, 2, 3, 4].map(|seed| SecretKey::from_bytes(&[seed; 32]));
    let endpoint = endpoint().secret_key(gossiper.clone());
    let endpoint = endpoint.bind().await.unwrap();
    let at = endpoint.bound_sockets()[0];
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    // It tells of one whose time is over, of one who has not signed it, and last of itself, so that
    // whoever knows it has heard of the others.
    let told = [
        announcement(node_of(&late), at, now - 4 * 3600, &late),
        announcement(node_of(&stranger), at, now, &gossiper),
        announcement(node_of(&gossiper), at, now, &gossiper),
    ]
    .concat();
    let router = Router::builder(endpoint)
        .accept(b"skep/gossip/1", Gossiper(Arc::new(told)))
        .spawn();
    let (truly, _) = answering(node_of(&gossiper), gossiper.clone(), at.port(), false).await;
    // And one names a node whose key it has not got.
    let (falsely, asked) = answering(node_of(&victim), gossiper.clone(), at.port(), false).await;
    let in_the_dht = (
        announce_at(&net, truly).await,
        announce_at(&net, falsely).await,
    );

    let asking = open(&dir.path().join("asking"), &net, true).await;
    let want = Want::Jobs(Need::default());
    let looking = async {
        loop {
            let found = asking.find(&want).await;
            let is_asked = asked.load(Ordering::SeqCst) > 0;
            if is_asked && !found.is_empty() && !asking.acquaintances().is_empty() {
                return found;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let found = tokio::time::timeout(DEADLINE, looking).await;
    let found = found.expect("both are found and asked");
    assert_eq!(ids(&found), BTreeSet::from([node_of(&gossiper)]));
    let heard = asking.acquaintances();
    let heard: Vec<NodeId> = heard.iter().map(Announcement::node).collect();
    assert_eq!(heard, [node_of(&gossiper)]);
    asking.shutdown().await;
    router.shutdown().await.unwrap();
    drop((in_the_dht, net));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_ends_when_all_whom_the_dht_names_have_answered_or_had_the_time_to() {
    // Only the answers can end it.
    const PATIENCE: Duration = Duration::from_secs(3600);
    let dir = tempfile::tempdir().unwrap();
    let net = Testnet::builder(8).build().unwrap();
    // One answers long after the DHT has, and one never does.
    let key = SecretKey::from_bytes(&[5; 32]);
    let slow = node_of(&key);
    let (slowly, _) = answering(slow, key, 4242, true).await;
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let never = silent.local_addr().unwrap().port();
    let in_the_dht = (
        announce_at(&net, slowly).await,
        announce_at(&net, never).await,
    );

    let alone = open_for(&dir.path().join("alone"), &net, false, PATIENCE).await;
    let gossiping = open_for(&dir.path().join("gossiping"), &net, true, PATIENCE).await;
    let nobodys = Digest::of(b"nobody has this");
    let searches = async {
        loop {
            let found = alone.find(&Want::Jobs(Need::default())).await;
            if !found.is_empty() {
                assert_eq!(ids(&found), BTreeSet::from([slow]));
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        // Where there is gossip, that looks in the DHT as well.
        for node in [&alone, &gossiping] {
            assert_eq!(node.find(&Want::Release(nobodys)).await, []);
            assert!(node.find_blob(&nobodys, &[]).await.is_err());
        }
    };
    let searches = tokio::time::timeout(DEADLINE, searches).await;
    searches.expect("a search goes on, or ends before whom it asked has answered");
    for node in [alone, gossiping] {
        node.shutdown().await;
    }
    drop((in_the_dht, silent, net));
}
