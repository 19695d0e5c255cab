//! Peers that lie, break off, or say nothing, and a process that is killed in the middle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{content, draft, file_ref, limits, node, node_with, publish, visible};
use iroh::endpoint::{Connection, presets};
use iroh::protocol::{AcceptError, ProtocolHandler, Router};
use iroh::{Endpoint, RelayMode};
use iroh_blobs::protocol::Request;
use iroh_blobs::store::mem::MemStore;
use serde::Serialize;
use skep_registry::{Digest, HistoryError, PublisherKey, SignedRelease};
use skep_swarm::{
    FetchError, InstallError, Limits, NodeTicket, Presence, ProviderAddr, ProviderFault,
    ResolveError, Swarm,
};

/// What a hostile node answers to any question about releases. The same bytes on the wire as the
/// protocol's own type, written down a second time.
#[derive(Clone, Debug, Serialize)]
#[allow(dead_code, reason = "the order of the variants is the protocol")]
enum Reply {
    Release {
        signed: Vec<u8>,
        complete: bool,
    },
    Offer {
        publisher: [u8; 32],
        name: String,
        newest: [u8; 32],
        version: String,
    },
    End {
        cut: bool,
    },
}

fn frame(reply: &Reply) -> Vec<u8> {
    let body = postcard::to_stdvec(reply).unwrap();
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
}

fn showing(releases: &[SignedRelease]) -> Vec<u8> {
    let shown = releases.iter().map(|release| Reply::Release {
        signed: release.encode().to_vec(),
        complete: true,
    });
    shown
        .chain([Reply::End { cut: false }])
        .flat_map(|r| frame(&r))
        .collect()
}

/// How a hostile node sends blobs.
#[derive(Clone, Copy, Debug)]
enum Sends {
    /// The right size, and then something else.
    Garbage,
    /// What was asked for, up to so many bytes; then it ends the stream.
    Half(usize),
    /// What was asked for, up to so many bytes; then nothing, for ever.
    Stall(usize),
    /// A size of 2^62 and endless data.
    Endless,
}

#[derive(Clone, Debug)]
struct Teller(Arc<Vec<u8>>);

impl ProtocolHandler for Teller {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        while let Ok((mut send, _recv)) = connection.accept_bi().await {
            // The other side may turn away before it has read everything.
            let _ = send.write_all(&self.0).await;
            let _ = send.finish();
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct Sender(MemStore, Sends);

impl ProtocolHandler for Sender {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            let Self(store, sends) = self.clone();
            tokio::spawn(async move {
                let (request, _) = Request::read_async(&mut recv).await.unwrap();
                let Request::Get(request) = request else {
                    panic!("{request:?}")
                };
                let (_, ranges) = request.ranges.as_single().unwrap();
                let right = store
                    .export_bao(request.hash, ranges.clone())
                    .bao_to_vec()
                    .await
                    .unwrap();
                let bytes = match sends {
                    Sends::Garbage => [&right[..8], &content(99, 100_000)].concat(),
                    Sends::Half(n) | Sends::Stall(n) => right[..n.min(right.len())].to_vec(),
                    Sends::Endless => (1_u64 << 62).to_le_bytes().to_vec(),
                };
                let _ = send.write_all(&bytes).await;
                match sends {
                    Sends::Garbage | Sends::Half(_) => {}
                    Sends::Stall(_) => std::future::pending().await,
                    Sends::Endless => while send.write_all(&[7; 65536]).await.is_ok() {},
                }
                let _ = send.finish();
                let _ = send.stopped().await;
            });
        }
        Ok(())
    }
}

/// A node that is not skep's: it says and sends whatever it is told to.
struct Hostile {
    router: Router,
    addr: ProviderAddr,
}

impl Hostile {
    async fn start(says: Vec<u8>, sends: Sends, blobs: &[&[u8]]) -> Self {
        let store = MemStore::new();
        for blob in blobs {
            store.add_slice(blob).await.unwrap();
        }
        let endpoint = Endpoint::builder(presets::Minimal)
            .relay_mode(RelayMode::Disabled)
            .clear_ip_transports()
            .bind_addr("127.0.0.1:0")
            .unwrap()
            .bind()
            .await
            .unwrap();
        let addr = ProviderAddr {
            id: skep_swarm::NodeId::from_bytes(endpoint.id().as_bytes()).unwrap(),
            addrs: endpoint.bound_sockets(),
        };
        let router = Router::builder(endpoint)
            .accept(b"skep/releases/1", Teller(Arc::new(says)))
            .accept(iroh_blobs::ALPN, Sender(store, sends))
            .spawn();
        Self { router, addr }
    }

    async fn telling(says: Vec<u8>) -> Self {
        Self::start(says, Sends::Garbage, &[]).await
    }

    async fn sending(sends: Sends, blob: &[u8]) -> Self {
        Self::start(Vec::new(), sends, &[blob]).await
    }

    async fn stop(self) {
        self.router.shutdown().await.unwrap();
    }
}

fn chain(key: &PublisherKey, versions: &[&str]) -> Vec<SignedRelease> {
    let mut releases: Vec<SignedRelease> = Vec::new();
    for version in versions {
        let files: &[(&str, &[u8])] = &[("f", version.as_bytes())];
        releases.push(
            draft("tool", version, files)
                .sign(key, releases.last())
                .unwrap(),
        );
    }
    releases
}

#[tokio::test]
async fn a_forged_signature_is_refused_by_name_and_the_true_history_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let honest = node(&dir.path().join("a")).await;
    let release = publish(&honest, &key, "tool", "1.0.0", &[("f", b"true")]).await;
    let b = node(&dir.path().join("b")).await;

    // Another publisher's release, with the first one's signature, and each with a flipped bit.
    let mut forged = release.encode().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let says = [
        frame(&Reply::Release {
            signed: forged,
            complete: true,
        }),
        frame(&Reply::End { cut: false }),
    ]
    .concat();
    let liar = Hostile::telling(says).await;
    match b
        .resolve(
            &key.id(),
            release.name(),
            None,
            std::slice::from_ref(&liar.addr),
        )
        .await
    {
        Err(e @ ResolveError::False { .. }) => {
            assert!(
                e.to_string().contains("signature is not that of publisher"),
                "{e}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(
        b.history(&key.id(), release.name()).is_none(),
        "nothing false is remembered"
    );
    // A whole and truly signed history, but of somebody else.
    let other = PublisherKey::generate().unwrap();
    let stranger = Hostile::telling(showing(&chain(&other, &["1.0.0"]))).await;
    let providers = [liar.addr.clone(), stranger.addr.clone(), honest.addr()];
    let resolved = b
        .resolve(&key.id(), release.name(), None, &providers)
        .await
        .unwrap();
    assert_eq!(resolved.release, release);
    assert_eq!(resolved.providers, [honest.addr()]);
    assert_eq!(resolved.faults.len(), 2);
    for fault in &resolved.faults {
        assert!(
            matches!(fault.fault, ProviderFault::FalseHistory { .. }),
            "{fault}"
        );
    }
    liar.stop().await;
    stranger.stop().await;
    honest.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn a_rolled_back_or_forked_history_is_refused_even_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let all = chain(&key, &["1.0.0", "1.1.0", "2.0.0"]);
    let other = chain(&key, &["1.0.0", "1.1.1", "3.0.0", "4.0.0"]);
    let (id, name) = (key.id(), all[0].name().clone());
    let new = Hostile::telling(showing(&all)).await;
    let old = Hostile::telling(showing(&all[..2])).await;
    let fork = Hostile::telling(showing(&other)).await;
    let gap = Hostile::telling(showing(&all[1..])).await;

    let b = node(&dir.path().join("b")).await;
    // Shown both at once, and having seen neither: the publisher is caught.
    let both = [new.addr.clone(), fork.addr.clone()];
    assert!(matches!(
        b.resolve(&id, &name, None, &both).await,
        Err(ResolveError::Fork { .. })
    ));
    // An old history beside the new one does no harm.
    let providers = [old.addr.clone(), new.addr.clone()];
    let resolved = b.resolve(&id, &name, None, &providers).await.unwrap();
    assert_eq!(resolved.release, all[2]);

    let b_dir = b.dir().to_owned();
    b.shutdown().await;
    drop(b);
    let b = node(&b_dir).await;
    match b
        .resolve(&id, &name, None, std::slice::from_ref(&old.addr))
        .await
    {
        Err(
            e @ ResolveError::Refused {
                source:
                    HistoryError::RolledBack {
                        known: 2,
                        offered: 1,
                    },
                ..
            },
        ) => {
            assert!(e.to_string().contains("rolled back"), "{e}");
        }
        other => panic!("{other:?}"),
    }
    match b
        .resolve(&id, &name, None, &[old.addr.clone(), fork.addr.clone()])
        .await
    {
        Err(
            e @ ResolveError::Refused {
                source: HistoryError::Forked { .. },
                ..
            },
        ) => {
            assert!(e.to_string().contains("forked"), "{e}");
        }
        other => panic!("{other:?}"),
    }
    match b
        .resolve(&id, &name, None, std::slice::from_ref(&gap.addr))
        .await
    {
        Err(e @ ResolveError::False { .. }) => {
            assert!(e.to_string().contains("beginning is missing"), "{e}");
        }
        other => panic!("{other:?}"),
    }
    // A release that is signed, but replaced in the history: its digest does not help.
    match b
        .resolve_digest(&other[3].digest(), std::slice::from_ref(&fork.addr))
        .await
    {
        Err(ResolveError::Refused { .. } | ResolveError::NotFound { .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(b.history(&id, &name).unwrap().releases(), all);
    for hostile in [new, old, fork, gap] {
        hostile.stop().await;
    }
    b.shutdown().await;
}

#[tokio::test]
async fn answers_that_break_the_protocol_end_in_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let name = "tool".parse().unwrap();
    let b = node_with(
        &dir.path().join("b"),
        Limits {
            request: Duration::from_millis(500),
            ..limits()
        },
    )
    .await;
    let release = Reply::Release {
        signed: chain(&key, &["1.0.0"])[0].encode().to_vec(),
        complete: true,
    };
    let whole = frame(&release);
    for (says, expected) in [
        (Vec::new(), "has no end"),
        (vec![0xff; 4], "4294967295 bytes was announced"),
        (vec![0, 0, 0, 9, 1], "in the middle of a frame"),
        (vec![0, 0, 0, 1, 77], "does not decode"),
        (whole.clone(), "has no end"),
        (
            [&whole[..], &frame(&Reply::End { cut: true })].concat(),
            "longer than an answer",
        ),
        (
            [&whole[..], &whole, &frame(&Reply::End { cut: false })].concat(),
            "history breaks",
        ),
        // More frames than an answer may have.
        (
            frame(&Reply::End { cut: false }).repeat(1),
            "none of the nodes",
        ),
    ] {
        let liar = Hostile::telling(says).await;
        let error = b
            .resolve(&key.id(), &name, None, std::slice::from_ref(&liar.addr))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(expected)
                || (expected == "none of the nodes" && text.contains("at least one release")),
            "{text} does not say {expected}"
        );
        liar.stop().await;
    }
    b.shutdown().await;
}

#[tokio::test]
async fn a_liar_is_dropped_and_the_next_provider_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = content(20, 2_000_000);
    let file = file_ref(&data);
    let a = node(&dir.path().join("a")).await;
    a.import_bytes(data.clone()).await.unwrap();
    a.share(&file.digest).await.unwrap();
    let patience = Limits {
        stall: Duration::from_millis(300),
        ..limits()
    };
    type Check = fn(&ProviderFault) -> bool;
    let cases: [(Sends, Check, bool); 4] = [
        (
            Sends::Garbage,
            |f| matches!(f, ProviderFault::WrongContent { .. }),
            false,
        ),
        (
            Sends::Half(1_000_000),
            |f| {
                matches!(
                    f,
                    ProviderFault::Truncated {
                        received: 900_000..,
                        ..
                    }
                )
            },
            true,
        ),
        (
            Sends::Stall(1_000_000),
            |f| matches!(f, ProviderFault::Stalled { .. }),
            true,
        ),
        (
            Sends::Endless,
            |f| {
                matches!(
                    f,
                    ProviderFault::WrongSize {
                        signed: 2_000_000,
                        ..
                    }
                )
            },
            false,
        ),
    ];
    for (i, (sends, check, keeps)) in cases.into_iter().enumerate() {
        let liar = Hostile::sending(sends, &data).await;
        let b = node_with(&dir.path().join(format!("b{i}")), patience.clone()).await;
        // With the liar alone: a typed error, and what was right is kept, but not visible as whole.
        match b
            .fetch_files(
                std::slice::from_ref(&file),
                std::slice::from_ref(&liar.addr),
                None,
            )
            .await
        {
            Err(FetchError::Exhausted { missing, faults }) => {
                assert!(check(&faults[0].fault), "{sends:?}: {faults:?}");
                assert_eq!(missing < file.size, keeps, "{sends:?}: {missing} missing");
            }
            other => panic!("{sends:?}: {other:?}"),
        }
        let presence = b.presence(&file.digest).await.unwrap();
        assert_eq!(
            presence == Presence::Partial,
            keeps,
            "{sends:?}: {presence:?}"
        );
        assert!(b.open_blob(&file.digest).await.is_err());
        // With an honest one beside it: whole, and not from the beginning.
        let report = b
            .fetch_files(
                std::slice::from_ref(&file),
                &[liar.addr.clone(), a.addr()],
                None,
            )
            .await
            .unwrap();
        if keeps {
            assert!(report.bytes_present >= 900_000, "{sends:?}: {report:?}");
        }
        assert!(report.bytes_present + report.bytes_fetched >= file.size);
        b.verify(&file.digest).await.unwrap();
        liar.stop().await;
        b.shutdown().await;
    }
    a.shutdown().await;
}

/// Two pieces, so that two requests are cut off in the middle.
const KILLED_SIZE: usize = 48 << 20;
const KILLED_AFTER: usize = 12 << 20;

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
        middle.wait_for(|done| *done >= 20 << 20).await.unwrap();
        node.flush().await.unwrap();
        println!("\nIN THE MIDDLE");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = install => panic!("{ended:?}"),
        () = report => {}
    }
}
