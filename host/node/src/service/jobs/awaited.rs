//! The leases from which something is awaited here, so that a provider that was ended in the middle of one
//! can say so, and nobody waits until it has been silent for long enough.
//!
//! # What it must never do
//!
//! - Believe of a lease what another node says than the one that it was given to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_registry::Digest;
use skep_swarm::NodeId;
use tokio::sync::oneshot;

/// The node that has a lease, and how to say that it failed.
type Theirs = (NodeId, oneshot::Sender<()>);

/// Each lease that is awaited.
#[derive(Debug, Default)]
pub struct Awaited(Mutex<HashMap<Digest, Theirs>>);

impl Awaited {
    /// Awaits a lease from this node, until what comes back is dropped.
    pub fn wait_for(self: &Arc<Self>, node: NodeId, lease: Digest) -> Waiting {
        let (sender, failed) = oneshot::channel();
        self.lock().insert(lease, (node, sender));
        let of = Arc::clone(self);
        Waiting { of, lease, failed }
    }

    /// Hears that a lease failed, from this node. Whether it is awaited from there.
    pub fn failed(&self, node: NodeId, lease: Digest) -> bool {
        let mut all = self.lock();
        let is_its = all.get(&lease).is_some_and(|(its, _)| *its == node);
        if is_its && let Some((_, sender)) = all.remove(&lease) {
            // Whoever waited may have what it wants by now.
            let _ = sender.send(());
        }
        is_its
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Theirs>> {
        // The map is whole after every statement, so a poisoned lock is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lease that is awaited until this is dropped.
#[derive(Debug)]
pub struct Waiting {
    of: Arc<Awaited>,
    lease: Digest,
    failed: oneshot::Receiver<()>,
}

impl Waiting {
    /// Returns once its provider says that it failed.
    pub async fn failed(&mut self) {
        if (&mut self.failed).await.is_err() {
            // Nobody can say so any more.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.failed.close();
        // One that was begun for the same lease meanwhile stays.
        let mut all = self.of.lock();
        all.retain(|lease, (_, sender)| *lease != self.lease || !sender.is_closed());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use skep_evidence::AccountKey;

    use super::*;

    #[test]
    fn a_lease_that_is_awaited_anew_is_not_forgotten_with_the_first() {
        let awaited = Arc::new(Awaited::default());
        let node = |seed| {
            let key = AccountKey::from_seed(&[seed; 32]);
            NodeId::from_bytes(key.id().as_bytes()).unwrap()
        };
        let lease = Digest::of(b"lease");
        let first = awaited.wait_for(node(1), lease);
        let second = awaited.wait_for(node(2), lease);
        drop(first);
        assert!(!awaited.failed(node(1), lease));
        assert!(awaited.failed(node(2), lease));
        drop(second);
        let third = awaited.wait_for(node(1), lease);
        drop(third);
        assert!(!awaited.failed(node(1), lease), "nobody waits any more");
    }
}
