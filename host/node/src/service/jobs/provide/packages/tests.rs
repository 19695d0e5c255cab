//! Packages of others' jobs between real nodes: who is asked for what, and what is here afterwards.

use std::collections::BTreeSet;
use std::fs;

use skep_evidence::{AccountKey, Credits, Tariff};
use skep_market::Answer;
use skep_registry::{Adapter, Base, Content, PublisherId, PublisherKey};
use skep_swarm::{Presence, SwarmConfig};
use tokio::time::advance;

use super::super::super::adapters;
use super::super::super::around::Wanted;
use super::super::super::testing::{key, lease};
use super::super::Desk;
use super::super::fault::Fault;
use super::super::testing::{CONTENT, desk, published, published_as};
use super::*;
use crate::config::{Config, Jobs};
use crate::embedded;
use crate::home::Home;

fn policy(publishers: BTreeSet<PublisherId>) -> Policy {
    Policy {
        take: true,
        publishers,
        worlds: BTreeSet::new(),
        largest_input: 100,
        largest_output: 100,
        slots: 1,
        residency: 0,
        tariff: Tariff::default(),
        operator: None,
        unpaid: Credits::ZERO,
    }
}

fn room(bytes: u64) -> Room {
    Room {
        bytes,
        residences: Arc::default(),
        families: Arc::default(),
    }
}

/// How many entries each of these folders of the node has.
fn kept(node: &Swarm) -> [usize; 3] {
    ["releases", "brought", "packages"]
        .map(|folder| fs::read_dir(node.dir().join(folder)).unwrap().count())
}

/// Questions of which all turns are taken, by somebody who keeps them.
fn no_turns() -> Questions {
    Questions {
        turns: Arc::new(Semaphore::new(0)),
        patience: Duration::ZERO,
        ..Questions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_the_policy_does_not_take_is_refused_before_a_file_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| Swarm::open(SwarmConfig::loopback(folder.path().join(name)));
    let (author, provider) = (open("a").await.unwrap(), open("b").await.unwrap());
    let [key, other] = [(); 2].map(|()| PublisherKey::generate().unwrap());
    let release = published(&author, &key).await;
    let (digest, sources) = (release.digest(), [author.addr()]);

    let questions = Questions::default();
    let asks = author.id();
    let alone = (digest, None);
    let shown = questions.releases(&provider, asks, alone, &sources).await;
    assert!(shown.is_ok_and(|shown| shown == (release.clone(), None)));
    let second = published(&author, &other).await;
    let both = (digest, Some(second.digest()));
    let shown = questions.releases(&provider, asks, both, &sources).await;
    let want = (release.clone(), Some(second));
    assert!(shown.is_ok_and(|shown| shown == want));
    let choosy = policy([other.id()].into());
    let large = room(1 << 30);
    let refused = obtained(&provider, &choosy, digest, 10, &sources, &large).await;
    assert!(matches!(refused, Err(Stop::Refused(Refusal::Publisher))));
    let open = policy(BTreeSet::new());
    let refused = obtained(&provider, &open, digest, 10, &sources, &room(1_000)).await;
    assert!(matches!(
        refused,
        Err(Stop::Refused(Refusal::Unavailable(reason))) if reason.contains("1000")
    ));
    // Who asks for a price is told so before it makes out a lease.
    let taken = taken_by(&release);
    let priced = may_be_had(&provider, &release, None, taken - 1);
    assert!(matches!(
        priced,
        Err(Refusal::Unavailable(reason)) if reason.contains("keep-packages")
    ));
    assert_eq!(may_be_had(&provider, &release, None, taken), Ok(()));
    assert_eq!(kept(&provider), [0; 3]);
    assert!(provider.release(&digest).is_none());
    let file = provider.presence(&Digest::of(CONTENT)).await;
    assert_eq!(file.unwrap(), Presence::Absent);

    let brought = obtained(&provider, &open, digest, 10, &sources, &large).await;
    let Ok(brought) = brought else {
        panic!("it is let in, and cannot be had");
    };
    assert_eq!(brought.installed.release, release);
    let here = may_be_had(&provider, &release, None, 0);
    assert_eq!(here, Ok(()), "it is here");
    // Its history was asked of nobody.
    assert_eq!(kept(&provider), [0, 1, 1]);

    // While others ask, what is here is shown as ever.
    let busy = no_turns();
    let known = busy.releases(&provider, asks, alone, &[]).await;
    assert!(known.is_ok_and(|known| known == (release, None)));
    let other = Digest::of(b"other");
    for unknown in [(other, None), (digest, Some(other))] {
        let refused = busy.releases(&provider, asks, unknown, &sources).await;
        assert!(matches!(refused, Err(Stop::Refused(Refusal::Busy))));
    }
    author.shutdown().await;
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_have_a_package_for_want_of_this_node_s_disk_hears_of_none_of_its_paths() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| Swarm::open(SwarmConfig::loopback(folder.path().join(name)));
    let (author, provider) = (open("a").await.unwrap(), open("b").await.unwrap());
    let key = PublisherKey::generate().unwrap();
    let release = published(&author, &key).await;
    let (anybody, large) = (policy(BTreeSet::new()), room(1 << 30));
    let path = folder.path().display().to_string();
    // What jobs bring cannot be noted, and then it has no place.
    for name in ["brought", "packages"] {
        let place = provider.dir().join(name);
        fs::remove_dir_all(&place).unwrap();
        fs::write(&place, b"no folder").unwrap();
        let (digest, sources) = (release.digest(), [author.addr()]);
        let refused = obtained(&provider, &anybody, digest, 10, &sources, &large).await;
        let Err(Stop::Broken(fault @ Fault::Package(_))) = refused else {
            panic!("{name} is no folder");
        };
        assert!(fault.to_string().contains(&path), "{name}: {fault}");
        let told = fault.told().to_string();
        assert!(!told.contains(&path), "{name}: {told}");
        fs::remove_file(&place).unwrap();
        fs::create_dir(&place).unwrap();
    }
    let sources = [author.addr()];
    let brought = obtained(&provider, &anybody, release.digest(), 10, &sources, &large);
    assert!(brought.await.is_ok());
    // Nor is it this node's fault that nobody has one.
    let unknown = Digest::of(b"unknown");
    let refused = obtained(&provider, &anybody, unknown, 10, &[author.addr()], &large).await;
    assert!(matches!(
        refused,
        Err(Stop::Refused(Refusal::Unavailable(_)))
    ));
    author.shutdown().await;
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_and_its_adapter_are_not_waited_for_if_they_never_fit_together() {
    let folder = tempfile::tempdir().unwrap();
    let node = Swarm::open(SwarmConfig::loopback(folder.path()));
    let node = node.await.unwrap();
    let mut releases = Vec::new();
    for _ in 0..2 {
        let key = PublisherKey::generate().unwrap();
        releases.push(published(&node, &key).await);
    }
    let both = [&releases[0], &releases[1]];
    let [package, adapter] = both;
    let [alone, beside] = both.map(|release| node.takes_of_room(release));
    let takes = alone + beside;
    assert!(alone > 0 && beside > 0);
    let is_told = |refused: &Refusal| {
        let reason = refused.to_string();
        reason.contains(&format!("adapter take {takes} bytes")) && reason.contains("keep-packages")
    };
    assert!(room(takes).holds(&node, both).is_ok());
    let refused = room(takes - 1).holds(&node, both);
    assert!(matches!(refused, Err(Stop::Refused(reason)) if is_told(&reason)));
    // Who asks for a price is told the same.
    let priced = |room| may_be_had(&node, package, Some(adapter), room);
    assert_eq!(priced(takes), Ok(()));
    assert!(priced(takes - 1).is_err_and(|refused| is_told(&refused)));
    assert_eq!(may_be_had(&node, package, None, takes - 1), Ok(()));
    assert!(priced(alone - 1).is_err_and(|refused| !is_told(&refused)));
    // An adapter that jobs have brought goes for the package, and has no room beside it after that.
    let nobody = |_: &Digest| false;
    drop(node.bring(adapter, &[], u64::MAX, &nobody).await.unwrap());
    assert!(priced(takes - 1).is_err_and(|refused| is_told(&refused)));
    drop(node.bring(package, &[], u64::MAX, &nobody).await.unwrap());
    assert_eq!(priced(0), Ok(()), "both are here");
    // What the owner installed takes none of it.
    for release in both {
        node.install(release, &[], None).await.unwrap();
    }
    assert!(room(0).holds(&node, both).is_ok());
    node.shutdown().await;
}

/// What a desk answers who asks at it for the price of a package that this node has.
async fn quoted(
    desk: &Desk,
    service: &Service,
    author: &Swarm,
    package: Digest,
) -> Result<Answer, Stop> {
    let wanted = Wanted {
        package,
        adapter: None,
        residency: 0,
    };
    let sources = [author.ticket().to_string()];
    let asked = (author.id(), &sources[..], [7; 32]);
    desk.quote(service, wanted, 10, asked).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_a_price_waits_for_a_turn_and_is_told_what_the_desk_does_not_take() {
    let folder = tempfile::tempdir().unwrap();
    let author = Swarm::open(SwarmConfig::loopback(folder.path().join("author")));
    let author = author.await.unwrap();
    let [key, other] = [(); 2].map(|()| PublisherKey::generate().unwrap());
    let release = published(&author, &key).await;
    let home = folder.path().join("home");
    skep_tests::set_up(&home).unwrap();
    let home = Home::open(Some(home)).unwrap();
    let mut service = Service::new(home.clone(), Config::load(&home).unwrap()).unwrap();
    let jobs = Jobs {
        accept: true,
        ..Jobs::default()
    };
    let open = desk(&jobs, &folder.path().join("earnings"));
    let package = release.digest();

    // What is not known here is asked about when it is its turn, and never beside those that have one.
    let busy = Desk {
        questions: no_turns(),
        ..open.clone()
    };
    let refused = quoted(&busy, &service, &author, package).await;
    assert!(matches!(refused, Err(Stop::Refused(Refusal::Busy))));
    let choosy = Desk {
        policy: Arc::new(policy([other.id()].into())),
        ..open.clone()
    };
    let refused = quoted(&choosy, &service, &author, package).await;
    assert!(matches!(refused, Err(Stop::Refused(Refusal::Publisher))));
    service.config.jobs.keep_packages = taken_by(&release) - 1;
    let refused = quoted(&open, &service, &author, package).await;
    assert!(matches!(
        refused,
        Err(Stop::Refused(Refusal::Unavailable(reason))) if reason.contains("keep-packages")
    ));
    service.config.jobs.keep_packages = taken_by(&release);
    let quoted = quoted(&open, &service, &author, package).await;
    assert!(matches!(quoted, Ok(Answer::Quote { .. })));
    // And nothing of it is here.
    assert_eq!(kept(service.swarm().await.unwrap()), [0; 3]);
    author.shutdown().await;
    service.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_never_fits_beside_its_package_is_refused_before_a_byte_of_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| Swarm::open(SwarmConfig::loopback(folder.path().join(name)));
    let (author, provider) = (open("a").await.unwrap(), open("b").await.unwrap());
    let key = PublisherKey::generate().unwrap();
    let package = published(&author, &key).await;
    let base = Base {
        name: embedded::LANGUAGE.name.parse().unwrap(),
        digest: embedded::LANGUAGE.digest(),
    };
    let content = Content::Adapter(Adapter { base });
    let adapter = published_as(&author, &key, "manner", content).await;
    let sources = [author.addr()];
    let anybody = policy(BTreeSet::new());
    let both = taken_by(&package) + taken_by(&adapter);
    let (little, enough) = (room(both - 1), room(both));
    let brought = obtained(&provider, &anybody, package.digest(), 10, &sources, &little);
    // It is in use as long as this is here, as it is for a lease, and makes no room.
    let Ok(in_use) = brought.await else {
        panic!("there is room for it");
    };
    let adapter = adapter.digest();
    let refused = adapters::obtained(&provider, &package, adapter, &sources, &little).await;
    // To be busy would be over at some time.
    assert!(matches!(
        refused,
        Err(Stop::Refused(Refusal::Unavailable(reason))) if reason.contains(&both.to_string())
    ));
    assert_eq!(kept(&provider), [0, 1, 1]);
    let fits = adapters::obtained(&provider, &package, adapter, &sources, &enough).await;
    assert!(fits.is_ok());
    assert_eq!(kept(&provider), [0, 2, 2]);
    drop(in_use);
    author.shutdown().await;
    provider.shutdown().await;
}

#[test]
fn nothing_keeps_its_room_for_longer_than_half_an_hour_before_it_is_here() {
    let seconds = [0, 10 * SLOWEST, 1 << 30, u64::MAX].map(|bytes| patience(bytes).as_secs());
    assert_eq!(seconds, [60, 70, 1_800, 1_800]);
}

fn node(seed: u8) -> NodeId {
    let account = key(seed).id();
    NodeId::from_bytes(account.as_bytes()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_node_has_one_turn_however_much_it_asks() {
    let questions = Questions::default();
    let one = questions.turn(node(1)).await;
    assert!(one.is_ok());
    for _ in 0..2 * QUESTIONS {
        assert_eq!(questions.turn(node(1)).await.err(), Some(Refusal::Busy));
    }
    // Others have theirs, as many as there are.
    let mut others = Vec::new();
    for seed in 2..=4 {
        others.push(questions.turn(node(seed)).await);
    }
    assert!(others.iter().all(Result::is_ok));
    assert_eq!(others.len() + 1, QUESTIONS);
    assert_eq!(questions.turn(node(5)).await.err(), Some(Refusal::Busy));
    drop(one);
    assert!(questions.turn(node(5)).await.is_ok());
    assert!(questions.turn(node(1)).await.is_ok());
    drop(others);
    // Nothing is remembered of those that ask no more.
    drop(questions.turn(node(6)).await);
    let of_each = questions.of_each.lock().unwrap();
    assert_eq!(of_each.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn those_whose_questions_take_long_leave_turns_for_others() {
    let questions = Questions::default();
    let long = TURN + Duration::from_millis(1);
    let mut held = Vec::new();
    for seed in 1..=4 {
        held.push(questions.turn(node(seed)).await);
    }
    assert!(held.iter().all(Result::is_ok));
    let refused = questions.turn(node(5)).await.err();
    assert_eq!(refused, Some(Refusal::Busy), "nobody knows them yet");
    advance(long).await;
    held.clear();
    // They come again, and have one turn together.
    let one = questions.turn(node(1)).await;
    assert!(one.is_ok());
    for seed in 2..=4 {
        let refused = questions.turn(node(seed)).await.err();
        assert_eq!(refused, Some(Refusal::Busy), "{seed}");
    }
    let mut others = Vec::new();
    for seed in 5..=7 {
        others.push(questions.turn(node(seed)).await);
    }
    assert!(others.iter().all(Result::is_ok));
    // One that is quick makes up for none that was not.
    drop((one, others));
    drop(questions.turn(node(2)).await);
    let second = questions.turn(node(2)).await;
    assert!(second.is_ok());
    let refused = questions.turn(node(3)).await.err();
    assert_eq!(refused, Some(Refusal::Busy));
    // It is over at some time.
    advance(REMEMBERED).await;
    let third = questions.turn(node(3)).await;
    let fourth = questions.turn(node(4)).await;
    assert!(third.is_ok() && fourth.is_ok());
}

#[tokio::test(start_paused = true)]
async fn no_more_of_those_whose_questions_take_long_are_remembered_than_there_is_room_for() {
    let questions = Questions::default();
    for number in 0..=MOST {
        let seed = Digest::of(&number.to_le_bytes());
        let account = AccountKey::from_seed(seed.as_bytes()).id();
        questions.took_long(NodeId::from_bytes(account.as_bytes()).unwrap());
        advance(Duration::from_millis(1)).await;
        assert_eq!(questions.slow().len(), MOST.min(number + 1));
    }
}

#[test]
fn leases_from_long_ago_are_refused_and_clocks_may_be_days_off() {
    let made_out = |issued| Lease {
        issued,
        deadline: issued + 1,
        ..lease(1, 1)
    };
    let now = 100 * DAY;
    for days in [87, 99, 100, 101, 113] {
        assert_eq!(in_time(&made_out(days * DAY), now), Ok(()), "{days}");
    }
    for days in [0, 50, 85, 115, 200] {
        assert!(in_time(&made_out(days * DAY), now).is_err(), "{days}");
    }
}
