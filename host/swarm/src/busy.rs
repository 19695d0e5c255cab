//! Who is fetching what at this moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use skep_registry::Digest;
use tokio::sync::OwnedMutexGuard;

/// The blobs that are being fetched, so that two fetches of one blob do not fetch it twice: the
/// second waits for the first and then finds it here.
#[derive(Debug, Default)]
pub(crate) struct Busy(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl Busy {
    /// Takes the blobs, in one order for everybody, so that no two fetches wait for each other.
    pub(crate) async fn take(
        &self,
        digests: impl Iterator<Item = &Digest>,
    ) -> Vec<OwnedMutexGuard<()>> {
        let mut sorted: Vec<_> = digests.copied().collect();
        sorted.sort_unstable();
        let mut guards = Vec::with_capacity(sorted.len());
        for digest in sorted {
            let lock = {
                let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                map.retain(|_, lock| lock.strong_count() > 0);
                match map.get(&digest).and_then(Weak::upgrade) {
                    Some(lock) => lock,
                    None => {
                        let lock = Arc::default();
                        map.insert(digest, Arc::downgrade(&lock));
                        lock
                    }
                }
            };
            guards.push(lock.lock_owned().await);
        }
        guards
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_fetch_of_a_blob_waits_for_the_first() {
        let busy = Arc::new(Busy::default());
        let digests = [Digest::of(b"a"), Digest::of(b"b")];
        let first = busy.take(digests.iter()).await;
        let second = {
            let busy = busy.clone();
            tokio::spawn(async move { busy.take(digests[..1].iter()).await.len() })
        };
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        assert_eq!(second.await.unwrap(), 1);
    }
}
