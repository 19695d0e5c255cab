//! The leases that are here: which conversation each is in, and what it takes up until it is over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_evidence::{Agreed, Lease};
use skep_market::{Earnings, Unfinished};
use skep_registry::Digest;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::super::now;
use super::fault::Fault;
use super::{Desk, Stop, places};

/// The leases in a conversation, each with how to end that.
#[derive(Clone, Default)]
pub(super) struct Engagements(Arc<Mutex<HashMap<Digest, oneshot::Sender<()>>>>);

impl Engagements {
    /// Lists a lease until what comes back first is dropped. What comes second is ready once another
    /// conversation about it has taken this one's place.
    pub(super) fn engage(&self, lease: Digest) -> (Engaged, oneshot::Receiver<()>) {
        let (end, superseded) = oneshot::channel();
        let mut engaged = self.lock();
        // Dropping the earlier one's sender ends it as well as a message would.
        engaged.retain(|_, end| !end.is_closed());
        engaged.insert(lease, end);
        let of = self.clone();
        (Engaged { of, lease }, superseded)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lease in a conversation, listed until this is dropped.
pub(super) struct Engaged {
    of: Engagements,
    lease: Digest,
}

impl Drop for Engaged {
    fn drop(&mut self) {
        // One that has taken its place stays.
        let mut engaged = self.of.lock();
        engaged.retain(|lease, end| *lease != self.lease || !end.is_closed());
    }
}

/// What a lease takes up here: its place, and a note on disk that it was begun. Whatever ends without letting
/// go of it, as when the process ends, leaves the note behind.
pub(super) struct Held {
    note: u64,
    _place: OwnedSemaphorePermit,
}

impl Held {
    /// Takes the note away, and then gives the place to another: there are no more notes than places.
    pub(super) fn let_go(self, earnings: &Earnings) {
        let ended = tokio::task::block_in_place(|| earnings.end(self.note));
        if let Err(error) = ended {
            tracing::warn!(%error, "it stays written down that a lease is at work which is over");
        }
    }
}

impl Desk {
    /// Writes down that a lease begins which has its place, for the node with this ticket. Of its input
    /// nothing is here yet, and nothing of that is written.
    pub(super) fn hold(
        &self,
        place: OwnedSemaphorePermit,
        lease: &Agreed<Lease>,
        node: String,
        time: Duration,
    ) -> Result<Held, Stop> {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let work = Unfinished {
            lease: lease.digest(),
            requester: lease.requester,
            until: now().saturating_add(time),
            node,
        };
        let most = places(self.policy.slots);
        let begun = tokio::task::block_in_place(|| self.earnings.begin(&work, most));
        let note = begun.map_err(Fault::from)?;
        Ok(Held {
            note,
            _place: place,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use skep_swarm::NodeId;

    use super::super::queue::Queue;
    use super::super::testing::{broken_earnings, desk, key, lease};
    use super::*;
    use crate::config::Jobs;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_noted_on_a_broken_disk_gives_its_place_to_another() {
        let folder = tempfile::tempdir().unwrap();
        let jobs = Jobs::default();
        let whole = Desk {
            queue: Queue::new(1),
            ..desk(&jobs, &folder.path().join("earnings"))
        };
        let broken = Desk {
            earnings: broken_earnings(&folder.path().join("broken")),
            ..whole.clone()
        };
        let (lease, time) = (lease(2, 0, 1_000), Duration::from_secs(60));
        let peer = NodeId::from_bytes(key(2).id().as_bytes()).unwrap();
        let place = || whole.queue.place(lease.requester, peer);
        // The one place there is, for a lease that cannot be noted.
        let held = broken.hold(place().await.unwrap(), &lease, String::new(), time);
        assert!(matches!(held, Err(Stop::Broken(Fault::Earnings(_)))));
        // And for one whose note cannot be taken away.
        let held = whole.hold(place().await.unwrap(), &lease, String::new(), time);
        let Ok(held) = held else {
            panic!("it is noted");
        };
        held.let_go(&broken.earnings);
        assert!(place().await.is_ok());
    }
}
