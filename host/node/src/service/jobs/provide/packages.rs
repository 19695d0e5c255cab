//! The packages of others' jobs: described for a price, and brought here for a lease.
//!
//! Whoever asks for a price has signed nothing and paid nothing, so that what it names is looked at in memory,
//! a few questions at a time, and forgotten. A lease is signed, and yet costs whoever signs it nothing: what it
//! has brought here stays within the room that the owner gives (`keep-packages`).
//!
//! # What it must never do
//!
//! - Ask for a file of a package before the policy has admitted it.
//! - Have a question leave anything on the disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use skep_evidence::Lease;
use skep_market::{Policy, Refusal};
use skep_registry::{Digest, SignedRelease};
use skep_swarm::{BringError, InUse, NodeId, ProviderAddr, Swarm, taken_by};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::super::adapters::Families;
use super::super::collect::OLDEST;
use super::super::residence::Residences;
use super::super::work;
use super::{DAY, Stop, unavailable};
use crate::service::Service;

/// For how many questions at once nodes are asked that strangers name.
const QUESTIONS: usize = 4;
/// How long one more waits for its turn. Whoever asks waits for ten seconds in all.
const TURN: Duration = Duration::from_secs(2);
/// How long the nodes that are named for a question may take to show a release.
const ASKING: Duration = Duration::from_secs(6);
/// The same for a lease, of which whoever offered it hears that work on it goes on.
const SHOWING: Duration = Duration::from_secs(15);
/// How long a package may take to arrive, beside what its bytes take.
const ARRIVING: Duration = Duration::from_secs(60);
/// How many bytes of it have to arrive in a second.
const SLOWEST: u64 = 64 << 10;
/// No lease waits longer for it, and keeps its room for it, however large it is, nor for one that crawls. What has
/// come by then is there for the next one that asks for it.
const LATEST: Duration = Duration::from_secs(30 * 60);
/// How far the time at which a lease was made out may be from this node's, in milliseconds.
const AWAY: u64 = 14 * DAY;

// What is signed for a lease is remembered for longer than the same lease can be offered, and worked on.
const _: () = assert!(2 * AWAY + DAY < OLDEST);

/// Turns to ask nodes that strangers name: one at a time for whoever asks, so that nobody has all of them.
#[derive(Clone)]
pub(super) struct Questions {
    turns: Arc<Semaphore>,
    /// The turn of each node that asks at present.
    of_each: Arc<Mutex<HashMap<NodeId, Weak<Semaphore>>>>,
    patience: Duration,
}

impl Default for Questions {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(QUESTIONS)),
            of_each: Arc::default(),
            patience: TURN,
        }
    }
}

/// The turn of a question, until this is dropped.
struct Turn<'a> {
    _of_all: SemaphorePermit<'a>,
    _of_one: OwnedSemaphorePermit,
}

impl Questions {
    /// The release of this digest for a question of this node: known here, or as one of these nodes shows it when
    /// it is this question's turn.
    pub(super) async fn release(
        &self,
        swarm: &Swarm,
        asks: NodeId,
        package: Digest,
        sources: &[ProviderAddr],
    ) -> Result<SignedRelease, Stop> {
        if let Some(known) = swarm.release(&package) {
            return Ok(known);
        }
        let _turn = self.turn(asks).await?;
        described(swarm, package, sources, ASKING).await
    }

    /// The turn of a question of this node, which waits for no longer than there is patience.
    async fn turn(&self, asks: NodeId) -> Result<Turn<'_>, Refusal> {
        let of_one = self.of(asks);
        let turn = async {
            // Those that a node asks besides wait behind its own, and take no turn of others.
            let of_one = of_one.acquire_owned().await.ok()?;
            let of_all = self.turns.acquire().await.ok()?;
            Some(Turn {
                _of_all: of_all,
                _of_one: of_one,
            })
        };
        let turn = tokio::time::timeout(self.patience, turn).await;
        turn.ok().flatten().ok_or(Refusal::Busy)
    }

    /// The one turn of a node.
    fn of(&self, asks: NodeId) -> Arc<Semaphore> {
        // A turn is there whole or not at all, so a poisoned lock is still good.
        let mut of_each = self.of_each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(its) = of_each.get(&asks).and_then(Weak::upgrade) {
            return its;
        }
        // There are no more than conversations.
        of_each.retain(|_, its| its.strong_count() > 0);
        let its = Arc::new(Semaphore::new(1));
        of_each.insert(asks, Arc::downgrade(&its));
        its
    }
}

/// The room that the owner gives to what jobs bring, and what is kept ready of it.
pub(in super::super) struct Room {
    bytes: u64,
    residences: Arc<Residences>,
    pub(in super::super) families: Arc<Families>,
}

impl Room {
    pub(super) fn of(service: &Service) -> Self {
        Self {
            bytes: service.config.jobs.keep_packages,
            residences: Arc::clone(&service.jobs.residences),
            families: Arc::clone(&service.jobs.families),
        }
    }

    /// Refuses a package and its adapter that cannot be here together, whatever else goes.
    pub(in super::super) fn holds(
        &self,
        swarm: &Swarm,
        both: [&SignedRelease; 2],
    ) -> Result<(), Stop> {
        let [package, adapter] = both.map(|release| swarm.takes_of_room(release));
        let (bytes, room) = (package.saturating_add(adapter), self.bytes);
        match bytes <= room {
            true => Ok(()),
            false => Err(unavailable(&BringError::TooLarge { bytes, room })),
        }
    }

    /// The bytes of a small file, which is kept for nobody.
    pub(in super::super) async fn glance(
        &self,
        swarm: &Swarm,
        digest: &Digest,
        size: u64,
        sources: &[ProviderAddr],
    ) -> Result<Vec<u8>, Stop> {
        let is_spared = |release: &Digest| self.residences.keeps(release);
        let glance = swarm.glance(digest, size, sources, self.bytes, &is_spared);
        let bytes = tokio::time::timeout(patience(size), glance).await;
        let bytes = bytes
            .map_err(|_| late())?
            .map_err(|error| not_here(&error))?;
        Ok(bytes.to_vec())
    }
}

/// The release of this digest: known here, or as one of these nodes shows it.
pub(in super::super) async fn release(
    swarm: &Swarm,
    package: Digest,
    sources: &[ProviderAddr],
) -> Result<SignedRelease, Stop> {
    described(swarm, package, sources, SHOWING).await
}

async fn described(
    swarm: &Swarm,
    package: Digest,
    sources: &[ProviderAddr],
    wait: Duration,
) -> Result<SignedRelease, Stop> {
    let described = swarm.describe(&package, sources, wait).await;
    described.map_err(|error| unavailable(&error))
}

/// Whether the owner's policy lets in a shard of this package.
pub(super) fn admit(
    policy: &Policy,
    release: &SignedRelease,
    input_bytes: u64,
) -> Result<(), Stop> {
    let component = release.component().ok_or_else(|| {
        Refusal::Unavailable("the package is not a component, and cannot be run".to_owned())
    })?;
    work::is_for_jobs(&component.grants).map_err(|error| unavailable(&error))?;
    let world = component.world.as_str();
    let admitted = policy.admit(release.publisher(), world, input_bytes);
    admitted.map_err(Stop::from)
}

/// Whether a package is here, or could be brought here if nothing else were within this room, in bytes: where it
/// cannot, no lease is worth its while.
pub(super) fn may_be_had(swarm: &Swarm, release: &SignedRelease, room: u64) -> Result<(), Refusal> {
    let bytes = taken_by(release);
    match bytes > room && swarm.installed(&release.digest()).is_err() {
        true => Err(Refusal::Unavailable(format!(
            "the package takes {bytes} bytes of the disk, where each of its files lies twice, and what jobs bring may \
             take {room} (`keep-packages` in the configuration of that node)"
        ))),
        false => Ok(()),
    }
}

/// The package of a lease: brought here, if it is not, once the policy has admitted it.
pub(super) async fn obtained(
    swarm: &Swarm,
    policy: &Policy,
    package: Digest,
    input_bytes: u64,
    sources: &[ProviderAddr],
    room: &Room,
) -> Result<InUse, Stop> {
    let release = release(swarm, package, sources).await?;
    admit(policy, &release, input_bytes)?;
    bring(swarm, &release, sources, room).await
}

/// Installs a release for a job within the room that there is, if it is not here.
pub(in super::super) async fn bring(
    swarm: &Swarm,
    release: &SignedRelease,
    sources: &[ProviderAddr],
    room: &Room,
) -> Result<InUse, Stop> {
    let is_spared = |release: &Digest| room.residences.keeps(release);
    let bringing = swarm.bring(release, sources, room.bytes, &is_spared);
    let brought = tokio::time::timeout(patience(release.total_size()), bringing).await;
    brought
        .map_err(|_| late())?
        .map_err(|error| not_here(&error))
}

/// How long so many bytes may take.
fn patience(bytes: u64) -> Duration {
    let all = ARRIVING.saturating_add(Duration::from_secs(bytes / SLOWEST));
    all.min(LATEST)
}

fn late() -> Stop {
    Refusal::Unavailable("it did not arrive in time".to_owned()).into()
}

fn not_here(error: &BringError) -> Stop {
    match error {
        // What is in use now is not later, and what has gone is off the disk after the next sweep.
        BringError::NoRoom => Refusal::Busy.into(),
        error => unavailable(error),
    }
}

/// Whether a lease was made out lately, by the clock of this node: of those from long ago it no longer knows
/// what it signed for them, and it must not sign anything for one a second time.
pub(super) fn in_time(lease: &Lease, now: u64) -> Result<(), Refusal> {
    match now.abs_diff(lease.issued) <= AWAY {
        true => Ok(()),
        false => Err(Refusal::Lease(
            "it was made out more than two weeks before or after now, by the clock of this node"
                .to_owned(),
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use skep_evidence::{AccountKey, AuditTerms, Credits, Meter, Split, Tariff, Work};
    use skep_registry::{
        Component, Content, Draft, FileEntry, Grants, Limits, PublisherId, PublisherKey,
    };
    use skep_swarm::{Presence, SwarmConfig};

    use super::*;

    const CONTENT: &[u8] = b"not really a component";

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

    async fn published(node: &Swarm, key: &PublisherKey) -> SignedRelease {
        node.import_bytes(CONTENT).await.unwrap();
        let draft = Draft {
            name: "tool".parse().unwrap(),
            version: "1.0.0".parse().unwrap(),
            description: None,
            license: None,
            readme: None,
            content: Content::Component(Component {
                world: "task".parse().unwrap(),
                entry: "tool.wasm".parse().unwrap(),
                grants: Grants::default(),
                limits: Limits::default(),
                imports: Vec::new(),
            }),
            files: vec![FileEntry {
                path: "tool.wasm".parse().unwrap(),
                digest: Digest::of(CONTENT),
                size: CONTENT.len() as u64,
            }],
        };
        let release = draft.sign(key, None).unwrap();
        node.publish_release(&release).await.unwrap();
        release
    }

    /// How many entries each of these folders of the node has.
    fn kept(node: &Swarm) -> [usize; 3] {
        ["releases", "brought", "packages"]
            .map(|folder| fs::read_dir(node.dir().join(folder)).unwrap().count())
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
        let shown = questions.release(&provider, asks, digest, &sources).await;
        assert!(shown.is_ok_and(|shown| shown == release));
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
        let priced = may_be_had(&provider, &release, taken - 1);
        assert!(matches!(
            priced,
            Err(Refusal::Unavailable(reason)) if reason.contains("keep-packages")
        ));
        assert_eq!(may_be_had(&provider, &release, taken), Ok(()));
        assert_eq!(kept(&provider), [0; 3]);
        assert!(provider.release(&digest).is_none());
        let file = provider.presence(&Digest::of(CONTENT)).await;
        assert_eq!(file.unwrap(), Presence::Absent);

        let brought = obtained(&provider, &open, digest, 10, &sources, &large).await;
        let Ok(brought) = brought else {
            panic!("it is let in, and cannot be had");
        };
        assert_eq!(brought.installed.release, release);
        assert_eq!(may_be_had(&provider, &release, 0), Ok(()), "it is here");
        // Its history was asked of nobody.
        assert_eq!(kept(&provider), [0, 1, 1]);

        // While others ask, what is here is shown as ever.
        let busy = Questions {
            turns: Arc::new(Semaphore::new(0)),
            of_each: Arc::default(),
            patience: Duration::ZERO,
        };
        let known = busy.release(&provider, asks, digest, &[]).await;
        assert!(known.is_ok_and(|known| known == release));
        let unknown = busy.release(&provider, asks, Digest::of(b"other"), &sources);
        assert!(matches!(unknown.await, Err(Stop::Refused(Refusal::Busy))));
        author.shutdown().await;
        provider.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_package_and_its_adapter_are_not_waited_for_if_they_never_fit_together() {
        let folder = tempfile::tempdir().unwrap();
        let node = Swarm::open(SwarmConfig::loopback(folder.path()));
        let node = node.await.unwrap();
        let key = PublisherKey::generate().unwrap();
        let release = published(&node, &key).await;
        let both = [&release, &release];
        let takes = node.takes_of_room(&release);
        assert!(takes > 0);
        assert!(room(2 * takes).holds(&node, both).is_ok());
        assert!(matches!(
            room(2 * takes - 1).holds(&node, both),
            Err(Stop::Refused(Refusal::Unavailable(reason)))
                if reason.contains(&(2 * takes).to_string())
        ));
        // What the owner installed takes none of it.
        node.install(&release, &[], None).await.unwrap();
        assert!(room(0).holds(&node, both).is_ok());
        node.shutdown().await;
    }

    #[test]
    fn nothing_keeps_its_room_for_longer_than_half_an_hour_before_it_is_here() {
        let seconds = [0, 10 * SLOWEST, 1 << 30, u64::MAX].map(|bytes| patience(bytes).as_secs());
        assert_eq!(seconds, [60, 70, 1_800, 1_800]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_has_one_turn_however_much_it_asks() {
        let node = |seed: u8| {
            let account = AccountKey::from_seed(&[seed; 32]).id();
            NodeId::from_bytes(account.as_bytes()).unwrap()
        };
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

    #[test]
    fn leases_from_long_ago_are_refused_and_clocks_may_be_days_off() {
        let account = AccountKey::from_seed(&[1; 32]).id();
        let lease = |issued| Lease {
            job: Digest::of(b"job"),
            shard: 0,
            attempt: 0,
            requester: account,
            provider: account,
            work: Work {
                package: Digest::of(b"package"),
                model: None,
                adapter: None,
                input: Digest::of(b"input"),
                seed: 0,
            },
            tariff: Tariff::default(),
            allowance: Meter::default(),
            limit: Credits::ZERO,
            split: Split::default(),
            issued,
            deadline: issued + 1,
            audit: AuditTerms {
                secret: Digest::of(b"secret"),
                candidates: Digest::of(b"candidates"),
                rate: 0,
                panel: 3,
                exact: false,
                followed: false,
                follows: None,
            },
        };
        let now = 100 * DAY;
        for days in [87, 99, 100, 101, 113] {
            assert_eq!(in_time(&lease(days * DAY), now), Ok(()), "{days}");
        }
        for days in [0, 50, 85, 115, 200] {
            assert!(in_time(&lease(days * DAY), now).is_err(), "{days}");
        }
    }
}
