//! What goes, what stays, and what is known of both after a restart.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use n0_future::future::poll_once;

use super::*;
use crate::config::SwarmConfig;
use crate::testing::{draft, key};

#[tokio::test]
async fn what_is_chosen_to_go_is_not_made_the_owners_before_it_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let config = SwarmConfig::loopback(folder.path());
    let node = Swarm::open(config).await.unwrap();
    node.import_bytes(&b"here"[..]).await.unwrap();
    let draft = draft("tool", "1.0.0", &[("a", b"here")]);
    let release = draft.sign(key(1), None).unwrap();
    let digest = release.digest();
    let nobody = |_: &Digest| false;
    let in_use = node.bring(&release, &[], u64::MAX, &nobody).await.unwrap();
    drop(in_use);
    // Another is brought: it has been seen that this one has to go.
    let one_at_a_time = node.inner.installing.lock().await;
    let mut install = Box::pin(node.install(&release, &[], None));
    let waits = poll_fn(|context| Poll::Ready(install.as_mut().poll(context).is_pending()));
    assert!(waits.await);
    assert!(node.inner.brought.has(&digest));
    node.send_away(vec![digest]).await.unwrap();
    assert!(node.installed(&digest).is_err());
    drop(one_at_a_time);
    install.await.unwrap();
    assert!(node.installed(&digest).is_ok() && node.is_offered(&digest));
    assert!(!node.inner.brought.has(&digest));
    node.shutdown().await;
}

#[tokio::test]
async fn what_the_owner_installed_is_held_while_something_else_is_being_installed() {
    let folder = tempfile::tempdir().unwrap();
    let config = SwarmConfig::loopback(folder.path());
    let node = Swarm::open(config).await.unwrap();
    let releases = ["1.0.0", "1.1.0", "1.2.0"].map(|version| {
        let files: &[(&str, &[u8])] = &[("a", b"here")];
        draft("tool", version, files).sign(key(1), None).unwrap()
    });
    node.import_bytes(&b"here"[..]).await.unwrap();
    let [owned, brought, absent] = &releases;
    node.install(owned, &[], None).await.unwrap();
    let nobody = |_: &Digest| false;
    drop(node.bring(brought, &[], u64::MAX, &nobody).await.unwrap());

    let one_at_a_time = node.inner.installing.lock().await;
    let held = poll_once(node.hold(&owned.digest())).await;
    let held = held.expect("it waits for something else").unwrap();
    assert_eq!(held.installed.release, *owned);
    // What was brought may be about to go, and what is not here about to come.
    let (brought, absent) = (brought.digest(), absent.digest());
    let mut holding = pin!(node.hold(&brought));
    let mut waiting = pin!(node.hold(&absent));
    assert!(poll_once(holding.as_mut()).await.is_none());
    assert!(poll_once(waiting.as_mut()).await.is_none());
    drop(one_at_a_time);
    let held = holding.await.unwrap();
    assert_eq!(held.installed.release.digest(), brought);
    let there = node.inner.brought.lock().here[&brought].uses.strong_count();
    assert_eq!(there, 1, "it is in use");
    let missing = waiting.await;
    assert!(matches!(missing, Err(PackageError::NotInstalled { .. })));
    drop(held);
    let there = node.inner.brought.lock().here[&brought].uses.strong_count();
    assert_eq!(there, 0);
    node.shutdown().await;
}

fn going_of(who: &[Digest], is_enough: bool) -> Option<Going> {
    let who = who.to_vec();
    Some(Going { who, is_enough })
}

#[test]
fn room_that_was_lowered_is_there_once_the_store_has_been_swept() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let brought = Brought::open(&layout, Duration::from_secs(1)).unwrap();
    let releases = ["1.0.0", "1.1.0", "1.2.0"].map(|version| {
        let files: &[(&str, &[u8])] = &[("a", version.as_bytes())];
        draft("tool", version, files).sign(key(1), None).unwrap()
    });
    let [first, second, third] = releases.each_ref().map(SignedRelease::digest);
    for release in &releases[..2] {
        brought.note(release).unwrap();
    }
    let bytes = taken_by(&releases[2]);
    let go = || {
        let nobody = |_: &Digest| false;
        brought.must_go(&third, bytes, true, bytes, &nobody)
    };
    assert_eq!(go().ok(), going_of(&[first, second], false));
    for digest in [first, second] {
        brought.leaves(digest, bytes / 2);
        brought.forget(&digest).unwrap();
    }
    assert_eq!(go().ok(), going_of(&[], false), "the sweep is to come");
    brought.lock().leaving.clear();
    assert_eq!(go().ok(), going_of(&[], true));
}

#[test]
fn notes_survive_and_a_damaged_one_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let open = || Brought::open(&layout, Duration::from_secs(1)).unwrap();
    let releases = ["1.0.0", "1.1.0"].map(|version| {
        let files: &[(&str, &[u8])] = &[("a", version.as_bytes())];
        draft("tool", version, files).sign(key(1), None).unwrap()
    });
    let [first, second] = releases.each_ref().map(SignedRelease::digest);
    let brought = open();
    for release in &releases {
        brought.note(release).unwrap();
    }
    assert_eq!(brought.use_again(&Digest::of(b"other")).unwrap(), None);
    let bytes = taken_by(&releases[0]);
    assert!(bytes >= 2 * BLOCK);
    let nobody = |_: &Digest| false;
    let go = |brought: &Brought, more| {
        let room = bytes + taken_by(&releases[1]);
        let going = brought.must_go(&Digest::of(b"new"), more, true, room, &nobody);
        going.map(|going| going.who)
    };
    assert_eq!(go(&brought, 1).unwrap(), [first]);
    let in_use = brought.use_again(&first).unwrap();
    assert_eq!(go(&brought, 1).unwrap(), [second], "the other is in use");
    drop(in_use);
    assert!(matches!(
        go(&brought, u64::MAX),
        Err(BringError::TooLarge { .. })
    ));

    // Uses within an hour are not all on disk, what was brought is.
    let again = open();
    assert_eq!(go(&again, 1).unwrap(), [first]);
    assert_eq!(again.release_of(&second), Some(releases[1].clone()));
    fs::write(again.path(&second), b"damaged").unwrap();
    let again = open();
    let room = bytes;
    let go = |more| {
        let going = again.must_go(&Digest::of(b"new"), more, true, room, &nobody);
        going.map(|going| going.who)
    };
    assert_eq!(go(1).unwrap(), [second, first]);
    again.forget(&first).unwrap();
    assert!(go(bytes).unwrap().is_empty());
    again.is_whole(&releases[1]);
    assert_eq!(go(bytes).unwrap(), [second]);
    again.forget(&second).unwrap();
    assert!(open().lock().here.is_empty());
}
