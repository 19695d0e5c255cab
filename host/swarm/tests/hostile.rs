//! Peers that lie, break off, or say nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::hostile::{Hostile, Reply, Sends, frame, showing};
use common::{content, draft, file_ref, limits, node, node_with, offer, publish};
use skep_registry::{HistoryError, PublisherKey, SignedRelease};
use skep_swarm::{FetchError, Limits, Presence, ProviderFault, ResolveError};

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
async fn an_answer_is_read_to_a_few_mebibytes_and_no_further() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let b = node(&dir.path().join("b")).await;
    // Nothing that would be looked at before the answer has come to its end.
    let release = frame(&Reply::Release {
        signed: vec![0; SignedRelease::MAX_BYTES],
        complete: true,
    });
    let says = [release.repeat(9), frame(&Reply::End { cut: false })].concat();
    let liar = Hostile::telling(says).await;
    let name = "tool".parse().unwrap();
    let from = std::slice::from_ref(&liar.addr);
    let error = b.resolve(&key.id(), &name, None, from).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("longer than answers may be"), "{text}");
    liar.stop().await;
    b.shutdown().await;
}

#[tokio::test]
async fn the_longest_history_counts_in_whatever_order_they_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let all = chain(&key, &["1.0.0", "1.1.0", "2.0.0"]);
    let mut shown = Vec::new();
    for length in [1, 3, 2] {
        shown.push(Hostile::telling(showing(&all[..length])).await);
    }
    let b = node(&dir.path().join("b")).await;
    let providers: Vec<_> = shown.iter().map(|node| node.addr.clone()).collect();
    let (id, name, wanted) = (key.id(), all[0].name(), "=1.0.0".parse().unwrap());
    let found = b.resolve(&id, name, Some(&wanted), &providers).await;
    let found = found.unwrap();
    assert_eq!(found.release, all[0]);
    assert_eq!(found.history.releases(), all);
    assert!(found.faults.is_empty(), "{:?}", found.faults);
    // Who shows less of it has that release all the same, and comes after those who show more.
    let order = [1, 2, 0].map(|number: usize| providers[number].clone());
    assert_eq!(found.providers, order);
    for node in shown {
        node.stop().await;
    }
    b.shutdown().await;
}

#[tokio::test]
async fn a_liar_is_dropped_and_the_next_provider_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = content(20, 2_000_000);
    let file = file_ref(&data);
    let a = node(&dir.path().join("a")).await;
    offer(&a, &data).await;
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
            Sends::Half(400_000),
            |f| {
                matches!(
                    f,
                    ProviderFault::Truncated {
                        received: 300_000..,
                        ..
                    }
                )
            },
            true,
        ),
        (
            Sends::Stall(400_000),
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
            assert!(report.bytes_present >= 300_000, "{sends:?}: {report:?}");
        }
        assert!(report.bytes_present + report.bytes_fetched >= file.size);
        b.verify(&file.digest).await.unwrap();
        liar.stop().await;
        b.shutdown().await;
    }
    a.shutdown().await;
}
