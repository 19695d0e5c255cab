//! Which blobs other nodes may have.
//!
//! A node serves the files of the releases that it offers, and what was shared by name; nothing
//! else leaves it, even to somebody who knows the digest. A request is refused before any byte of
//! the blob is read. Lists of blobs (hash sequences) are never served, because a list could name
//! blobs that are not offered; nobody may push.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use iroh_blobs::Hash;
use iroh_blobs::protocol::ChunkRangesSeq;
use iroh_blobs::provider::events::{
    AbortReason, ConnectMode, EventMask, EventResult, EventSender, ObserveMode, ProviderMessage,
    RequestMode, ThrottleMode,
};
use tokio::sync::{mpsc, watch};

/// The blobs that may be served, counted by how many releases offer them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    offered: Arc<Mutex<HashMap<Hash, usize>>>,
    changed: Arc<watch::Sender<u64>>,
}

impl Gate {
    pub(crate) fn offer(&self, hash: Hash) {
        *self.lock().entry(hash).or_default() += 1;
        self.changed.send_modify(|version| *version += 1);
    }

    pub(crate) fn withdraw(&self, hash: Hash) {
        let mut offered = self.lock();
        if let Some(count) = offered.get_mut(&hash) {
            *count -= 1;
            if *count == 0 {
                offered.remove(&hash);
                self.changed.send_modify(|version| *version += 1);
            }
        }
    }

    /// Says when other blobs are served than before.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The digests of what is served, in order.
    pub(crate) fn offered(&self) -> Vec<[u8; 32]> {
        let mut offered: Vec<_> = self.lock().keys().map(|hash| *hash.as_bytes()).collect();
        offered.sort_unstable();
        offered
    }

    pub(crate) fn allows(&self, hash: &Hash) -> bool {
        self.lock().contains_key(hash)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Hash, usize>> {
        // The map is consistent after every statement, so a poisoned lock is still good.
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blob(&self, hash: &Hash, ranges: &ChunkRangesSeq) -> EventResult {
        if ranges.is_blob() && self.allows(hash) {
            Ok(())
        } else {
            Err(AbortReason::Permission)
        }
    }

    /// Starts the doorkeeper: what it returns goes to the blob protocol's handler. How many connections there are is
    /// for `admission`.
    pub(crate) fn guard(&self) -> EventSender {
        let mask = EventMask {
            connected: ConnectMode::None,
            get: RequestMode::Intercept,
            get_many: RequestMode::Disabled,
            push: RequestMode::Disabled,
            observe: ObserveMode::Intercept,
            throttle: ThrottleMode::None,
        };
        let (sender, receiver) = EventSender::channel(64, mask);
        tokio::spawn(self.clone().run(receiver));
        sender
    }

    async fn run(self, mut receiver: mpsc::Receiver<ProviderMessage>) {
        while let Some(message) = receiver.recv().await {
            match message {
                ProviderMessage::GetRequestReceived(msg) => {
                    let request = &msg.inner.request;
                    let verdict = self.blob(&request.hash, &request.ranges);
                    let _ = msg.tx.send(verdict).await;
                }
                ProviderMessage::ObserveRequestReceived(msg) => {
                    let verdict = if self.allows(&msg.inner.request.hash) {
                        Ok(())
                    } else {
                        Err(AbortReason::Permission)
                    };
                    let _ = msg.tx.send(verdict).await;
                }
                // Switched off by the mask, where answering nothing refuses; or that a connection has ended.
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_of_two_releases_stays_until_both_are_withdrawn() {
        let gate = Gate::default();
        let hash = Hash::new(b"shared");
        gate.offer(hash);
        gate.offer(hash);
        gate.withdraw(hash);
        assert!(gate.allows(&hash));
        gate.withdraw(hash);
        assert!(!gate.allows(&hash));
        gate.withdraw(hash);
        assert!(!gate.allows(&hash));
    }

    #[test]
    fn a_list_is_refused_even_when_the_blob_is_offered() {
        let gate = Gate::default();
        let hash = Hash::new(b"a list");
        gate.offer(hash);
        assert!(gate.blob(&hash, &ChunkRangesSeq::root()).is_ok());
        assert!(gate.blob(&hash, &ChunkRangesSeq::all()).is_err());
        assert!(
            gate.blob(&Hash::new(b"other"), &ChunkRangesSeq::root())
                .is_err()
        );
    }
}
