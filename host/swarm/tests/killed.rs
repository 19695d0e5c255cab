//! A process that is killed in the middle of a transfer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::hostile::{Hostile, Sends};
use common::{content, limits, node, node_with, publish, visible};
use skep_registry::{Digest, PublisherKey, SignedRelease};
use skep_swarm::{FetchError, InstallError, Limits, NodeTicket, Presence, Swarm};

/// Eight pieces, so that four requests are cut off in the middle.
const KILLED_SIZE: usize = 48 << 20;
const KILLED_AFTER: usize = 11 << 19;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_fetch_leaves_nothing_visible_and_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let data = content(30, KILLED_SIZE);
    let a = node(&dir.path().join("a")).await;
    let release = publish(
        &a,
        &key,
        "tool",
        "1.0.0",
        &[("big", &data), ("small", b"small")],
    )
    .await;
    let stalling = Hostile::start(Vec::new(), Sends::Stall(KILLED_AFTER), &[&data, b"small"]).await;
    let b_dir = dir.path().join("b");
    std::fs::write(dir.path().join("release"), release.encode()).unwrap();

    let ticket = NodeTicket {
        node: stalling.addr.clone(),
    };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_is_killed", "--nocapture"])
        .env("SKEP_TEST_KILLED", &b_dir)
        .env("SKEP_TEST_RELEASE", dir.path().join("release"))
        .env("SKEP_TEST_TICKET", ticket.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = tokio::task::spawn_blocking(move || {
        lines
            .map_while(Result::ok)
            .any(|l| l.contains("IN THE MIDDLE"))
    });
    assert!(
        ready.await.unwrap(),
        "the child ended before it was in the middle"
    );
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    stalling.stop().await;

    let b = node(&b_dir).await;
    assert!(visible(&b).is_empty());
    assert!(b.offers().is_empty());
    let big = Digest::of(&data);
    assert_eq!(b.presence(&big).await.unwrap(), Presence::Partial);
    assert!(b.open_blob(&big).await.is_err());
    // It can go on only with somebody.
    assert!(matches!(
        b.install(&release, &[], None).await,
        Err(InstallError::Fetch(FetchError::NoProviders { .. }))
    ));
    let (installed, report) = b.install(&release, &[a.addr()], None).await.unwrap();
    assert_eq!(std::fs::read(installed.path("big").unwrap()).unwrap(), data);
    assert_eq!(visible(&b), [release.digest().to_string()]);
    let total = KILLED_SIZE as u64 + 5;
    assert_eq!(report.bytes_fetched + report.bytes_present, total);
    assert!(report.bytes_present >= 8 << 20, "{report:?}");
    a.shutdown().await;
    b.shutdown().await;
}

/// Not a test of its own: the process that the test above starts and kills.
#[tokio::test(flavor = "multi_thread")]
async fn the_process_that_is_killed() {
    let Some(dir) = std::env::var_os("SKEP_TEST_KILLED") else {
        return;
    };
    let release = std::fs::read(std::env::var_os("SKEP_TEST_RELEASE").unwrap()).unwrap();
    let release = SignedRelease::decode(&release).unwrap();
    let ticket: NodeTicket = std::env::var("SKEP_TEST_TICKET").unwrap().parse().unwrap();
    let node: Swarm = node_with(
        dir.as_ref(),
        Limits {
            stall: Duration::from_secs(600),
            ..limits()
        },
    )
    .await;
    let (far, mut middle) = tokio::sync::watch::channel(0);
    let progress = move |p: &skep_swarm::Progress| {
        far.send_replace(p.bytes_done);
    };
    let install = node.install(
        &release,
        std::slice::from_ref(&ticket.node),
        Some(Arc::new(progress)),
    );
    let report = async {
        middle.wait_for(|done| *done >= 15 << 20).await.unwrap();
        node.flush().await.unwrap();
        println!("\nIN THE MIDDLE");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = install => panic!("{ended:?}"),
        () = report => {}
    }
}
