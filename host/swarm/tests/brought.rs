//! What the work of others has a node describe and bring: nothing that stays, and nothing beyond the room
//! that its owner gives.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::slice::from_ref;
use std::time::Duration;

use common::hostile::{Hostile, Reply, frame, showing};
use common::{content, draft, node, publish, visible};
use skep_registry::{Digest, HistoryError, PublisherKey, SignedRelease};
use skep_swarm::{BringError, Presence, ResolveError, Swarm};

const WAIT: Duration = Duration::from_secs(10);
/// How many bytes the one file of a package has.
const FILE: usize = 1_000_000;
/// What such a package takes: the file twice and its release twice, each in whole blocks and one more.
const ONE: u64 = 2 * 1_007_616 + 2 * 8_192;

fn nobody(_: &Digest) -> bool {
    false
}

/// What is in a folder of the node.
fn count(node: &Swarm, folder: &str) -> usize {
    fs::read_dir(node.dir().join(folder)).unwrap().count()
}

#[tokio::test]
async fn what_a_stranger_asks_about_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let a = node(&dir.path().join("a")).await;
    publish(&a, &key, "tool", "1.0.0", &[("f", b"one")]).await;
    let release = publish(&a, &key, "tool", "1.1.0", &[("f", b"two")]).await;
    let b = node(&dir.path().join("b")).await;
    let digest = release.digest();
    let described = b.describe(&digest, &[a.addr()], WAIT).await.unwrap();
    assert_eq!(described, release);
    assert_eq!(b.release(&digest), None);
    assert_eq!(b.history(&key.id(), release.name()), None);
    assert_eq!(
        ["releases", "brought", "packages"].map(|f| count(&b, f)),
        [0; 3]
    );
    let file = Digest::of(b"two");
    assert_eq!(b.presence(&file).await.unwrap(), Presence::Absent);
    assert!(matches!(
        b.describe(&digest, &[], WAIT).await,
        Err(ResolveError::NoProviders { .. })
    ));

    // What is known is not asked for again, and says what is false.
    b.resolve_digest(&digest, &[a.addr()]).await.unwrap();
    assert_eq!(b.describe(&digest, &[], WAIT).await.unwrap(), release);
    let first = b.history(&key.id(), release.name()).unwrap().releases()[0].clone();
    let other = draft("tool", "1.1.0", &[("f", b"three")])
        .sign(&key, Some(&first))
        .unwrap();
    let liar = Hostile::telling(showing(from_ref(&other))).await;
    let forked = b
        .describe(&other.digest(), from_ref(&liar.addr), WAIT)
        .await;
    assert!(
        matches!(
            &forked,
            Err(ResolveError::Refused {
                source: HistoryError::Forked { at_sequence: 1 },
                ..
            })
        ),
        "{forked:?}"
    );
    liar.stop().await;
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn who_shows_more_than_one_release_or_a_long_one_is_not_read_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let b = node(&dir.path().join("b")).await;
    // Some hundred bytes for each of these files.
    let names: Vec<String> = (0..3_000)
        .map(|n| format!("{}{n}", "f".repeat(80)))
        .collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let long = draft("tool", "1.0.0", &files).sign(&key, None).unwrap();
    assert!((256 << 10..SignedRelease::MAX_BYTES).contains(&long.encode().len()));
    let short = draft("tool", "1.0.0", &[("f", b"one")])
        .sign(&key, None)
        .unwrap();
    let twice = [short.clone(), short.clone()];
    let broken = "broke the protocol";
    for (asked, says, why) in [
        (&long, showing(from_ref(&long)), "larger than 256 KiB"),
        (&short, showing(&twice), broken),
        (&short, frame(&Reply::End { cut: false }), broken),
    ] {
        let liar = Hostile::telling(says).await;
        let shown = b
            .describe(&asked.digest(), from_ref(&liar.addr), WAIT)
            .await;
        assert!(
            matches!(shown, Err(ResolveError::NotFound { .. })),
            "{shown:?}"
        );
        let refused = shown.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
        liar.stop().await;
    }
    b.shutdown().await;
}

/// Three packages of about one size, and the node that has them.
async fn three(node: &Swarm, key: &PublisherKey) -> Vec<SignedRelease> {
    let mut releases = Vec::new();
    for (seed, name) in [(1, "one"), (2, "two"), (3, "three")] {
        let content = content(seed, FILE);
        releases.push(publish(node, key, name, "1.0.0", &[("f", &content)]).await);
    }
    releases
}

#[tokio::test]
async fn what_others_work_brings_stays_within_its_room_and_takes_nothing_from_the_owner() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let a = node(&dir.path().join("a")).await;
    let releases = three(&a, &key).await;
    let [owned, first, second] = [0, 1, 2].map(|n: usize| &releases[n]);
    let from = [a.addr()];
    let mut b = node(&dir.path().join("b")).await;
    b.install(owned, &from, None).await.unwrap();
    // What the owner has takes none of the room.
    let used = b.bring(owned, &[], 0, &nobody).await.unwrap();
    assert_eq!(used.installed.release, *owned);
    drop(used);
    assert!(matches!(
        b.bring(first, &from, ONE - 1, &nobody).await,
        Err(BringError::TooLarge { bytes: ONE, .. })
    ));
    assert_eq!(count(&b, "brought"), 0);

    // One has room, and the half of another that is on the disk until the next sweep.
    let room = ONE + ONE / 2;
    let used = b.bring(first, &from, room, &nobody).await.unwrap();
    assert!(b.is_offered(&first.digest()));
    assert_eq!(b.history(&key.id(), first.name()), None);
    assert!(matches!(
        b.bring(second, &from, room, &nobody).await,
        Err(BringError::NoRoom)
    ));
    drop(used);
    let spared = |digest: &Digest| *digest == first.digest();
    assert!(matches!(
        b.bring(second, &from, room, &spared).await,
        Err(BringError::NoRoom)
    ));
    // It is still known after a restart whose it is.
    b.shutdown().await;
    drop(b);
    b = node(&dir.path().join("b")).await;
    b.bring(second, &from, room, &nobody).await.unwrap();
    let mut here = [owned, second].map(|release| release.digest().to_string());
    here.sort();
    assert_eq!(visible(&b), here);
    assert!(!b.is_offered(&first.digest()));
    assert!(b.is_offered(&owned.digest()));
    assert_eq!(count(&b, "brought"), 1);
    // It comes back with what the store still has of it, which counts once.
    b.bring(first, &from, room, &nobody).await.unwrap();

    // What the owner installs is the owner's from then on, and nobody's work takes it away.
    b.install(first, &from, None).await.unwrap();
    assert_eq!(count(&b, "brought"), 0);
    b.bring(second, &from, room, &nobody).await.unwrap();
    let all = releases.iter().map(|release| release.digest().to_string());
    let mut all: Vec<String> = all.collect();
    all.sort();
    assert_eq!(visible(&b), all);
    // And what the owner removes is gone.
    b.remove(&second.digest()).await.unwrap();
    assert_eq!(count(&b, "brought"), 0);
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn where_the_room_was_lowered_what_is_too_much_goes_though_that_is_not_enough_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let a = node(&dir.path().join("a")).await;
    let releases = three(&a, &key).await;
    let from = [a.addr()];
    let mut b = node(&dir.path().join("b")).await;
    for release in &releases[..2] {
        b.bring(release, &from, 2 * ONE, &nobody).await.unwrap();
    }
    let third = &releases[2];
    for _ in 0..2 {
        let brought = b.bring(third, &from, ONE, &nobody).await;
        assert!(matches!(brought, Err(BringError::NoRoom)), "{brought:?}");
        assert_eq!(["brought", "packages"].map(|f| count(&b, f)), [0; 2]);
    }
    // The store is swept, as it is now and then.
    b.shutdown().await;
    drop(b);
    b = node(&dir.path().join("b")).await;
    b.bring(third, &from, ONE, &nobody).await.unwrap();
    assert_eq!(b.takes_of_room(third), ONE);
    b.install(third, &from, None).await.unwrap();
    assert_eq!(b.takes_of_room(third), 0);
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn what_the_owner_works_with_stays_whoever_had_it_brought() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let a = node(&dir.path().join("a")).await;
    let releases = three(&a, &key).await;
    let (first, second) = (&releases[0], &releases[1]);
    let from = [a.addr()];
    let b = node(&dir.path().join("b")).await;
    let room = ONE + ONE / 2;
    assert!(b.hold(&first.digest()).await.is_err());
    b.bring(first, &from, room, &nobody).await.unwrap();
    let held = b.hold(&first.digest()).await.unwrap();
    assert_eq!(held.installed.release, *first);
    let brought = b.bring(second, &from, room, &nobody).await;
    assert!(matches!(brought, Err(BringError::NoRoom)), "{brought:?}");
    assert_eq!(visible(&b), [first.digest().to_string()]);
    drop(held);
    b.bring(second, &from, room, &nobody).await.unwrap();
    assert_eq!(visible(&b), [second.digest().to_string()]);
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn a_package_whose_note_is_damaged_takes_what_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let a = node(&dir.path().join("a")).await;
    let releases = three(&a, &key).await;
    let (first, second) = (&releases[0], &releases[1]);
    let from = [a.addr()];
    let mut b = node(&dir.path().join("b")).await;
    let room = ONE + ONE / 2;
    b.bring(first, &from, room, &nobody).await.unwrap();
    b.shutdown().await;
    let note = b.dir().join("brought").join(first.digest().to_string());
    drop(b);
    fs::write(note, b"damaged").unwrap();
    b = node(&dir.path().join("b")).await;
    b.bring(second, &from, room, &nobody).await.unwrap();
    assert_eq!(visible(&b), [second.digest().to_string()]);
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn what_could_not_be_fetched_counts_and_what_is_looked_at_too() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let a = node(&dir.path().join("a")).await;
    let releases = three(&a, &key).await;
    let [first, second] = [0, 1].map(|n: usize| &releases[n]);
    let from = [a.addr()];
    let b = node(&dir.path().join("b")).await;
    // Nobody is named who has it.
    assert!(matches!(
        b.bring(first, &[], ONE, &nobody).await,
        Err(BringError::Install(_))
    ));
    assert_eq!(count(&b, "brought"), 1);
    let small = content(9, 1_000);
    let digest = a.import_bytes(small.clone()).await.unwrap().0;
    a.share(&digest).await.unwrap();
    let spared = |digest: &Digest| *digest == first.digest();
    let glance = b.glance(&digest, 1_000, &from, ONE, &spared).await;
    assert!(matches!(glance, Err(BringError::NoRoom)), "{glance:?}");
    assert_eq!(b.presence(&digest).await.unwrap(), Presence::Absent);
    let glance = b.glance(&digest, 1_000, &from, ONE, &nobody).await;
    assert_eq!(glance.unwrap(), small);
    assert_eq!(count(&b, "brought"), 0, "it went to make room");
    // The next sweep takes what was looked at; until then there is no room for a whole package.
    assert!(matches!(
        b.bring(second, &from, ONE, &nobody).await,
        Err(BringError::NoRoom)
    ));
    a.shutdown().await;
    b.shutdown().await;
}
