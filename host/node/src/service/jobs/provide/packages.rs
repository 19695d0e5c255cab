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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use skep_evidence::Lease;
use skep_market::{Policy, Refusal};
use skep_registry::{Digest, SignedRelease};
use skep_swarm::{
    BringError, FetchError, InUse, InstallError, NodeId, ProviderAddr, Swarm, taken_by,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::super::adapters::Families;
use super::super::collect::OLDEST;
use super::super::residence::Residences;
use super::super::work;
use super::fault::Fault;
use super::{DAY, Stop, unavailable};
use crate::service::Service;

/// For how many questions at once nodes are asked that strangers name.
const QUESTIONS: usize = 4;
/// How many of them may be of those of whom one took long lately: the others are for everybody else.
const LONG: usize = 1;
/// How long one more waits for its turn. Whoever asks waits for ten seconds in all. A question that takes longer than
/// this takes the turns of others.
const TURN: Duration = Duration::from_secs(2);
/// For how long it is remembered of a node that a question of it took long, and of how many nodes at most.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);
const MOST: usize = 1_024;
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

/// Turns to ask nodes that strangers name: one at a time for whoever asks, and few for those who name nodes that take
/// long to answer, or never do, so that a handful of them cannot have all.
#[derive(Clone)]
pub(super) struct Questions {
    turns: Arc<Semaphore>,
    /// Those that the slow may have of these.
    for_slow: Arc<Semaphore>,
    /// When the last question of a node was over that took long.
    slow: Arc<Mutex<HashMap<NodeId, Instant>>>,
    /// The turn of each node that asks at present.
    of_each: Arc<Mutex<HashMap<NodeId, Weak<Semaphore>>>>,
    patience: Duration,
}

impl Default for Questions {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(QUESTIONS)),
            for_slow: Arc::new(Semaphore::new(LONG)),
            slow: Arc::default(),
            of_each: Arc::default(),
            patience: TURN,
        }
    }
}

/// The turn of a question, until this is dropped.
struct Turn<'a> {
    of: &'a Questions,
    asks: NodeId,
    since: Instant,
    _of_all: SemaphorePermit<'a>,
    _of_slow: Option<SemaphorePermit<'a>>,
    _of_one: OwnedSemaphorePermit,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Whatever came of it, and whatever else this node asks: others waited for that long.
        if self.since.elapsed() > TURN {
            self.of.took_long(self.asks);
        }
    }
}

impl Questions {
    /// The releases of a package and of the adapter that it runs with, for a question of this node: known here, or
    /// as these nodes show them when it is this question's turn. Both are asked for at once, for there is no time
    /// for one after the other.
    pub(super) async fn releases(
        &self,
        swarm: &Swarm,
        asks: NodeId,
        (package, adapter): (Digest, Option<Digest>),
        sources: &[ProviderAddr],
    ) -> Result<(SignedRelease, Option<SignedRelease>), Stop> {
        let is_known = |release: &Digest| swarm.release(release).is_some();
        let _turn = match is_known(&package) && adapter.as_ref().is_none_or(is_known) {
            true => None,
            false => Some(self.turn(asks).await?),
        };
        let adapter = async {
            match adapter {
                Some(adapter) => described(swarm, adapter, sources, ASKING).await.map(Some),
                None => Ok(None),
            }
        };
        tokio::try_join!(described(swarm, package, sources, ASKING), adapter)
    }

    /// The turn of a question of this node, which waits for no longer than there is patience.
    async fn turn(&self, asks: NodeId) -> Result<Turn<'_>, Refusal> {
        let of_one = self.of(asks);
        let turn = async {
            // Those that a node asks besides wait behind its own, and take no turn of others.
            let of_one = of_one.acquire_owned().await.ok()?;
            let of_slow = match self.is_slow(asks) {
                true => Some(self.for_slow.acquire().await.ok()?),
                false => None,
            };
            let of_all = self.turns.acquire().await.ok()?;
            Some(Turn {
                of: self,
                asks,
                since: Instant::now(),
                _of_all: of_all,
                _of_slow: of_slow,
                _of_one: of_one,
            })
        };
        let turn = tokio::time::timeout(self.patience, turn).await;
        turn.ok().flatten().ok_or(Refusal::Busy)
    }

    /// Whether a question of this node took long lately, as far as that is remembered.
    fn is_slow(&self, asks: NodeId) -> bool {
        let over = self.slow().get(&asks).copied();
        over.is_some_and(|over| over.elapsed() < REMEMBERED)
    }

    /// A question of this node is over, and took long.
    fn took_long(&self, asks: NodeId) {
        let mut slow = self.slow();
        slow.retain(|_, over| over.elapsed() < REMEMBERED);
        if slow.len() >= MOST && !slow.contains_key(&asks) {
            let oldest = slow.iter().min_by_key(|(_, over)| **over);
            if let Some(oldest) = oldest.map(|(asked, _)| *asked) {
                slow.remove(&oldest);
            }
        }
        slow.insert(asks, Instant::now());
    }

    fn slow(&self) -> MutexGuard<'_, HashMap<NodeId, Instant>> {
        // A time is there whole or not at all, so a poisoned lock is still good.
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (bytes, room) = (together(swarm, both), self.bytes);
        match bytes <= room {
            true => Ok(()),
            false => Err(too_large("the package and its adapter take", bytes, room).into()),
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
        let bytes = bytes.map_err(|_| late())?.map_err(not_here)?;
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

/// Whether a package and the adapter that it runs with are here, or could be brought here if nothing else were within
/// this room, in bytes: where they cannot, no lease is worth its while. What the releases say of their sizes is what
/// they are brought by, so that nothing else holds at the lease.
pub(super) fn may_be_had(
    swarm: &Swarm,
    package: &SignedRelease,
    adapter: Option<&SignedRelease>,
    room: u64,
) -> Result<(), Refusal> {
    let is_here = |release: &SignedRelease| swarm.installed(&release.digest()).is_ok();
    let bytes = taken_by(package);
    if bytes > room && !is_here(package) {
        return Err(too_large("the package takes", bytes, room));
    }
    let Some(adapter) = adapter else {
        return Ok(());
    };
    // While one of them is brought, the other is in use and makes no room for it.
    let bytes = together(swarm, [package, adapter]);
    match bytes > room && !(is_here(package) && is_here(adapter)) {
        true => Err(too_large("the package and its adapter take", bytes, room)),
        false => Ok(()),
    }
}

/// What both take of the room for what jobs bring, in bytes.
fn together(swarm: &Swarm, both: [&SignedRelease; 2]) -> u64 {
    let [package, adapter] = both.map(|release| swarm.takes_of_room(release));
    package.saturating_add(adapter)
}

/// What takes so many bytes, and there is room for fewer.
fn too_large(what_takes: &str, bytes: u64, room: u64) -> Refusal {
    Refusal::Unavailable(format!(
        "{what_takes} {bytes} bytes of the disk, where each file lies twice, and what jobs bring may take {room} \
         (`keep-packages` in the configuration of that node)"
    ))
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
    brought.map_err(|_| late())?.map_err(not_here)
}

/// How long so many bytes may take.
fn patience(bytes: u64) -> Duration {
    let all = ARRIVING.saturating_add(Duration::from_secs(bytes / SLOWEST));
    all.min(LATEST)
}

fn late() -> Stop {
    Refusal::Unavailable("it did not arrive in time".to_owned()).into()
}

fn not_here(error: BringError) -> Stop {
    let is_told = match &error {
        // What is in use now is not later, and what has gone is off the disk after the next sweep.
        BringError::NoRoom => return Refusal::Busy.into(),
        BringError::TooLarge { .. } => true,
        BringError::Fetch(fetch) | BringError::Install(InstallError::Fetch(fetch)) => {
            !matches!(fetch, FetchError::Store { .. } | FetchError::Blob(_))
        }
        // What else there is says something of this node's disk.
        _ => false,
    };
    match is_told {
        true => unavailable(&error),
        false => Fault::from(error).into(),
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
mod tests;
