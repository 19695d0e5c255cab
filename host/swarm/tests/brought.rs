//! What the work of others has a node describe and bring: nothing that stays, and nothing beyond the room
//! that its owner gives.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::slice::from_ref;
use std::time::Duration;

use common::hostile::{Hostile, Reply, Sends, frame, showing};
use common::{Two, content, data_file, draft, limits, node, publish, visible};
use skep_registry::{Digest, HistoryError, PublisherKey, SignedRelease};
use skep_swarm::{
    BringError, FetchError, InstallError, Limits, Presence, ProviderFault, ResolveError, Swarm,
};

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
    let two = Two::start().await;
    let Two { a, b, key, .. } = &two;
    publish(a, key, "tool", "1.0.0", &[("f", b"one")]).await;
    let release = publish(a, key, "tool", "1.1.0", &[("f", b"two")]).await;
    let digest = release.digest();
    let described = b.describe(&digest, &[a.addr()], WAIT).await.unwrap();
    assert_eq!(described, release);
    assert_eq!(b.release(&digest), None);
    assert_eq!(b.history(&key.id(), release.name()), None);
    assert_eq!(
        ["releases", "brought", "packages"].map(|f| count(b, f)),
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
        .sign(key, Some(&first))
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
    two.stop().await;
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

/// Two nodes, and three packages of about one size that the first has.
async fn three() -> (Two, [SignedRelease; 3]) {
    let two = Two::start().await;
    let mut releases = Vec::new();
    for (seed, name) in [(1, "one"), (2, "two"), (3, "three")] {
        let content = content(seed, FILE);
        releases.push(publish(&two.a, &two.key, name, "1.0.0", &[("f", &content)]).await);
    }
    (two, releases.try_into().unwrap())
}

#[tokio::test]
async fn what_others_work_brings_stays_within_its_room_and_takes_nothing_from_the_owner() {
    let (two, releases) = three().await;
    let [owned, first, second] = &releases;
    let (from, b) = (two.sources(), &two.b);
    b.install(owned, &from, None).await.unwrap();
    // What the owner has takes none of the room.
    let used = b.bring(owned, &[], 0, &nobody).await.unwrap();
    assert_eq!(used.installed.release, *owned);
    drop(used);
    assert!(matches!(
        b.bring(first, &from, ONE - 1, &nobody).await,
        Err(BringError::TooLarge { bytes: ONE, .. })
    ));
    assert_eq!(count(b, "brought"), 0);

    // One has room, and the half of another that is on the disk until the next sweep.
    let room = ONE + ONE / 2;
    let used = b.bring(first, &from, room, &nobody).await.unwrap();
    assert!(b.is_offered(&first.digest()));
    assert_eq!(b.history(&two.key.id(), first.name()), None);
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
    let two = two.restarted().await;
    let b = &two.b;
    b.bring(second, &from, room, &nobody).await.unwrap();
    let mut here = [owned, second].map(|release| release.digest().to_string());
    here.sort();
    assert_eq!(visible(b), here);
    assert!(!b.is_offered(&first.digest()));
    assert!(b.is_offered(&owned.digest()));
    assert_eq!(count(b, "brought"), 1);
    // It comes back with what the store still has of it, which counts once.
    b.bring(first, &from, room, &nobody).await.unwrap();

    // What the owner installs is the owner's from then on, and nobody's work takes it away.
    b.install(first, &from, None).await.unwrap();
    assert_eq!(count(b, "brought"), 0);
    b.bring(second, &from, room, &nobody).await.unwrap();
    let all = releases.iter().map(|release| release.digest().to_string());
    let mut all: Vec<String> = all.collect();
    all.sort();
    assert_eq!(visible(b), all);
    // And what the owner removes is gone.
    b.remove(&second.digest()).await.unwrap();
    assert_eq!(count(b, "brought"), 0);
    two.stop().await;
}

#[tokio::test]
async fn where_the_room_was_lowered_what_is_too_much_goes_though_that_is_not_enough_at_once() {
    let (two, releases) = three().await;
    let (from, b) = (two.sources(), &two.b);
    for release in &releases[..2] {
        b.bring(release, &from, 2 * ONE, &nobody).await.unwrap();
    }
    let third = &releases[2];
    for _ in 0..2 {
        let brought = b.bring(third, &from, ONE, &nobody).await;
        assert!(matches!(brought, Err(BringError::NoRoom)), "{brought:?}");
        assert_eq!(["brought", "packages"].map(|f| count(b, f)), [0; 2]);
    }
    // The store is swept, as it is now and then.
    let two = two.restarted().await;
    let b = &two.b;
    b.bring(third, &from, ONE, &nobody).await.unwrap();
    assert_eq!(b.takes_of_room(third), ONE);
    b.install(third, &from, None).await.unwrap();
    assert_eq!(b.takes_of_room(third), 0);
    two.stop().await;
}

#[tokio::test]
async fn what_the_owner_works_with_stays_whoever_had_it_brought() {
    let (two, [first, second, _]) = three().await;
    let (first, second) = (&first, &second);
    let (from, b) = (two.sources(), &two.b);
    let room = ONE + ONE / 2;
    assert!(b.hold(&first.digest()).await.is_err());
    b.bring(first, &from, room, &nobody).await.unwrap();
    let held = b.hold(&first.digest()).await.unwrap();
    assert_eq!(held.installed.release, *first);
    let brought = b.bring(second, &from, room, &nobody).await;
    assert!(matches!(brought, Err(BringError::NoRoom)), "{brought:?}");
    assert_eq!(visible(b), [first.digest().to_string()]);
    drop(held);
    b.bring(second, &from, room, &nobody).await.unwrap();
    assert_eq!(visible(b), [second.digest().to_string()]);
    two.stop().await;
}

#[tokio::test]
async fn a_package_whose_note_is_damaged_takes_what_it_takes() {
    let (two, [first, second, _]) = three().await;
    let from = two.sources();
    let room = ONE + ONE / 2;
    two.b.bring(&first, &from, room, &nobody).await.unwrap();
    // It is read when the node starts.
    let note = two.b.dir().join("brought").join(first.digest().to_string());
    fs::write(note, b"damaged").unwrap();
    let two = two.restarted().await;
    two.b.bring(&second, &from, room, &nobody).await.unwrap();
    assert_eq!(visible(&two.b), [second.digest().to_string()]);
    two.stop().await;
}

#[tokio::test]
async fn what_could_not_be_fetched_counts_and_what_is_looked_at_too() {
    let (two, [first, second, _]) = three().await;
    let (first, second) = (&first, &second);
    let Two { a, b, .. } = &two;
    let from = two.sources();
    // Nobody is named who has it.
    assert!(matches!(
        b.bring(first, &[], ONE, &nobody).await,
        Err(BringError::Install(_))
    ));
    assert_eq!(count(b, "brought"), 1);
    let small = content(9, 1_000);
    let digest = a.import_bytes(small.clone()).await.unwrap().0;
    a.share(&digest).await.unwrap();
    let spared = |digest: &Digest| *digest == first.digest();
    let glance = b.glance(&digest, 1_000, &from, ONE, &spared).await;
    assert!(matches!(glance, Err(BringError::NoRoom)), "{glance:?}");
    assert_eq!(b.presence(&digest).await.unwrap(), Presence::Absent);
    let glance = b.glance(&digest, 1_000, &from, ONE, &nobody).await;
    assert_eq!(glance.unwrap(), small);
    assert_eq!(count(b, "brought"), 0, "it went to make room");
    // The next sweep takes what was looked at; until then there is no room for a whole package.
    assert!(matches!(
        b.bring(second, &from, ONE, &nobody).await,
        Err(BringError::NoRoom)
    ));
    two.stop().await;
}

#[tokio::test]
async fn what_stalls_or_crawls_is_given_up_and_comes_from_another_later() {
    let hour = Duration::from_secs(3600);
    let soon = Duration::from_millis(300);
    let [stalls, crawls] = [(soon, hour), (hour, soon)].map(|(stall, crawl)| Limits {
        stall,
        crawl,
        ..limits()
    });
    type Check = fn(&FetchError) -> bool;
    let cases: [(Sends, Limits, Check); 2] = [
        (Sends::Stall(400_000), stalls, |error| {
            let FetchError::Exhausted { faults, .. } = error else {
                return false;
            };
            matches!(faults[0].fault, ProviderFault::Stalled { .. })
        }),
        // A group arrives now and then, and the whole would take most of a minute.
        (Sends::Trickle, crawls, |error| {
            matches!(error, FetchError::Crawls { missing: 1.., .. })
        }),
    ];
    for (sends, hurried, check) in cases {
        let two = Two::with(hurried).await;
        let content = content(4, FILE);
        let release = publish(&two.a, &two.key, "slow", "1.0.0", &[("f", &content)]).await;
        let slow = Hostile::sending(sends, &content).await;
        let from = from_ref(&slow.addr);
        let bringing = tokio::time::timeout(WAIT, two.b.bring(&release, from, ONE, &nobody));
        let given_up = bringing.await.expect("it is waited for");
        match &given_up {
            Err(BringError::Install(InstallError::Fetch(error))) if check(error) => {}
            other => panic!("{sends:?}: {other:?}"),
        }
        assert!(visible(&two.b).is_empty());
        assert_eq!(count(&two.b, "brought"), 1, "what has come of it counts");
        let two = two.restarted().await;
        let brought = two.b.bring(&release, &two.sources(), ONE, &nobody).await;
        assert_eq!(brought.unwrap().installed.release, release);
        slow.stop().await;
        two.stop().await;
    }
}

#[tokio::test]
async fn what_is_mended_for_others_is_given_up_too_when_it_crawls() {
    let hurried = Limits {
        stall: Duration::from_secs(3600),
        crawl: Duration::from_millis(300),
        ..limits()
    };
    let two = Two::with(hurried).await;
    let content = content(5, FILE);
    let digest = Digest::of(&content);
    let release = publish(&two.a, &two.key, "damaged", "1.0.0", &[("f", &content)]).await;
    two.b.fetch(&release, &two.sources(), None).await.unwrap();
    fs::write(data_file(&two.b, &digest), vec![0; FILE]).unwrap();
    assert!(two.b.verify(&digest).await.is_err(), "it is damaged");
    let slow = Hostile::sending(Sends::Trickle, &content).await;
    let from = from_ref(&slow.addr);
    let bringing = tokio::time::timeout(WAIT, two.b.bring(&release, from, ONE, &nobody));
    match bringing.await.expect("it is waited for") {
        Err(BringError::Install(InstallError::Fetch(FetchError::Crawls {
            missing: 1.., ..
        }))) => {}
        other => panic!("{other:?}"),
    }
    assert!(visible(&two.b).is_empty());
    let two = two.restarted().await;
    let brought = two.b.bring(&release, &two.sources(), ONE, &nobody).await;
    assert_eq!(brought.unwrap().installed.release, release);
    two.b.verify(&digest).await.unwrap();
    slow.stop().await;
    two.stop().await;
}
