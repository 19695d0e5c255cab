//! Finding each other on the local network, and who there can do what is needed. Where the system lets no multicast
//! through (some containers), the tests say so and check at most that nothing hangs: nobody can make sure of it here.
//! Whole nodes find each other so in a network that their test makes itself, in `tests/e2e/tests/jobs/found.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::UdpSocket;
use std::time::Duration;

use common::{able, limits};
use skep_swarm::{Limits, OpenError, Swarm, SwarmConfig, Want};

/// A node that knows others by mDNS alone, and asks them what they say of themselves or does not.
async fn open(dir: &std::path::Path, gossip: bool) -> Result<Swarm, OpenError> {
    let mut config = SwarmConfig::loopback(dir);
    config.mdns = true;
    config.gossip = gossip;
    config.limits = Limits {
        discovery: Duration::from_secs(4),
        ..limits()
    };
    Swarm::open(config).await
}

/// Whether a multicast datagram sent from this machine comes back to it.
fn multicast_works() -> bool {
    let attempt = || -> std::io::Result<bool> {
        let group = "224.0.0.251".parse().unwrap();
        let receiver = UdpSocket::bind("0.0.0.0:0")?;
        receiver.join_multicast_v4(&group, &"0.0.0.0".parse().unwrap())?;
        receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
        let sender = UdpSocket::bind("0.0.0.0:0")?;
        sender.set_multicast_loop_v4(true)?;
        sender.send_to(b"skep", (group, receiver.local_addr()?.port()))?;
        let mut buffer = [0; 4];
        Ok(receiver
            .recv(&mut buffer)
            .is_ok_and(|n| &buffer[..n] == b"skep"))
    };
    attempt().unwrap_or(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_one_network_find_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let works = multicast_works();
    let (a, b) = match (
        open(&dir.path().join("a"), false).await,
        open(&dir.path().join("b"), false).await,
    ) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(e), _) | (_, Err(e)) => {
            assert!(!works && matches!(e, OpenError::Mdns { .. }), "{e}");
            eprintln!("NOT RUN: no multicast here: {e}");
            return;
        }
    };
    let found = b.find(&Want::Anything).await;
    if works {
        assert!(found.iter().any(|node| node.id == a.id()), "{found:?}");
    } else {
        eprintln!(
            "NOT RUN: no multicast here: discovery found {} nodes",
            found.len()
        );
    }
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_mdns_alone_who_can_do_what_is_needed_is_found_and_nobody_else() {
    if !multicast_works() {
        eprintln!("NOT RUN: no multicast here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = Vec::new();
    for name in able::NAMES {
        nodes.push(open(&dir.path().join(name), true).await.unwrap());
    }
    let nodes: [Swarm; able::NAMES.len()] = nodes.try_into().unwrap();
    let need = able::take_work(&nodes).await;
    let asking = open(&dir.path().join("asking"), true).await.unwrap();
    able::assert_found(&asking, &nodes, &need).await;
    for node in nodes.iter().chain([&asking]) {
        node.shutdown().await;
    }
}
