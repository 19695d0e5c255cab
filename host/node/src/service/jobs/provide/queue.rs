//! Who waits for a place, and for how long, and how many conversations of the kinds that take long there may
//! be at once.
//!
//! # What it must never do
//!
//! - Let those who wait, however many they are, take the room of those who bring receipts, ask for one, or say
//!   that a lease failed.
//! - Keep anybody waiting without saying so in the end: who is told that all are taken asks elsewhere, and
//!   comes again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_evidence::AccountId;
use skep_market::{Ask, Refusal};
use skep_swarm::{CONVERSATIONS, NodeId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a lease waits for a place. A requester gives a node no more than there are places, so that one
/// waits only where there are several.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many leases of one account may wait, and how many that one node asks for.
const WAITING: usize = 8;
/// How many conversations may be of the kinds that take long: the rest is for those that take a moment.
const LONG: usize = CONVERSATIONS / 4 * 3;

/// The places for leases, and who waits for one.
#[derive(Clone)]
pub(super) struct Queue {
    /// For those at work and those that wait with their input.
    places: Arc<Semaphore>,
    /// For conversations that take long.
    long: Arc<Semaphore>,
    waiting: Arc<Mutex<HashMap<Who, usize>>>,
}

/// One of those of whom only so many leases wait.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    Account(AccountId),
    Peer(NodeId),
}

/// A lease that waits, until this is dropped.
struct Queued<'a> {
    of: &'a Queue,
    who: [Who; 2],
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut waiting = self.of.waiting();
        for who in self.who {
            if let Some(count) = waiting.get_mut(&who) {
                *count -= 1;
                if *count == 0 {
                    waiting.remove(&who);
                }
            }
        }
    }
}

impl Queue {
    /// One for so many places.
    pub(super) fn new(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            long: Arc::new(Semaphore::new(LONG)),
            waiting: Arc::default(),
        }
    }

    /// Room for a conversation that begins with this; nothing if it needs none, because it takes a moment.
    pub(super) fn room_for(&self, ask: &Ask) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        match ask {
            Ask::Settle { .. } | Ask::Claim { .. } | Ask::Failed { .. } => Ok(None),
            Ask::Quote { .. } | Ask::Offer(_) | Ask::Attest { .. } => {
                let room = Arc::clone(&self.long).try_acquire_owned();
                room.map(Some).map_err(|_| Refusal::Busy)
            }
        }
    }

    /// A place for a lease of this account, for which this node asks.
    pub(super) async fn place(
        &self,
        account: AccountId,
        peer: NodeId,
    ) -> Result<OwnedSemaphorePermit, Refusal> {
        // Those that wait are served before.
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let _queued = self.queue([Who::Account(account), Who::Peer(peer)])?;
        let place = Arc::clone(&self.places).acquire_owned();
        match tokio::time::timeout(PATIENCE, place).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(Refusal::Busy),
        }
    }

    /// One more that waits, if not too many of theirs do.
    fn queue(&self, who: [Who; 2]) -> Result<Queued<'_>, Refusal> {
        let mut waiting = self.waiting();
        let has_all = |who: &Who| waiting.get(who).is_some_and(|count| *count >= WAITING);
        if who.iter().any(has_all) {
            return Err(Refusal::Busy);
        }
        for one in who {
            *waiting.entry(one).or_default() += 1;
        }
        drop(waiting);
        Ok(Queued { of: self, who })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Who, usize>> {
        // The counts are right after every statement, so a poisoned lock is still good.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use skep_evidence::AccountKey;
    use skep_registry::Digest;
    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::*;

    fn account(seed: u8) -> AccountId {
        AccountKey::from_seed(&[seed; 32]).id()
    }

    fn peer(seed: u8) -> NodeId {
        NodeId::from_bytes(account(seed).as_bytes()).unwrap()
    }

    /// Has so many wait, each of whom `who` tells whose it is; ends when none is left to come.
    async fn wait(queue: &Queue, who: impl Fn(u8) -> (u8, u8), count: u8) -> JoinSet<bool> {
        let mut waiting = JoinSet::new();
        for number in 0..count {
            let (queue, (account_of, peer_of)) = (queue.clone(), who(number));
            waiting.spawn(async move {
                let place = queue.place(account(account_of), peer(peer_of)).await;
                place.is_ok()
            });
            tokio::task::yield_now().await;
        }
        waiting
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_is_told_so_after_a_while_and_the_first_gets_what_becomes_free() {
        let queue = Queue::new(1);
        let taken = queue.place(account(1), peer(1)).await.unwrap();
        let begun = Instant::now();
        let refused = queue.place(account(2), peer(2)).await.unwrap_err();
        let took = begun.elapsed().as_secs();
        assert_eq!((refused, took), (Refusal::Busy, PATIENCE.as_secs()));
        assert!(queue.waiting().is_empty());
        let mut waiting = wait(&queue, |_| (2, 2), 1).await;
        drop(taken);
        // Nobody comes between.
        assert!(Arc::clone(&queue.places).try_acquire_owned().is_err());
        assert!(waiting.join_next().await.unwrap().unwrap());
        assert!(queue.place(account(3), peer(3)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn of_one_account_and_of_one_peer_only_so_many_wait() {
        let most = u8::try_from(WAITING).unwrap();
        let whose: [fn(u8) -> (u8, u8); 2] = [|n| (1, 10 + n), |n| (10 + n, 1)];
        for who in whose {
            let queue = Queue::new(1);
            let _taken = queue.place(account(9), peer(9)).await.unwrap();
            let waiting = wait(&queue, who, most).await;
            let begun = Instant::now();
            let (one, other) = who(most);
            let refused = queue.place(account(one), peer(other)).await.unwrap_err();
            assert_eq!(refused, Refusal::Busy);
            assert!(begun.elapsed().is_zero(), "it does not wait");
            // Whoever is neither waits, beside those.
            let others = wait(&queue, |_| (2, 2), 1).await;
            assert_eq!(queue.waiting()[&Who::Account(account(2))], 1);
            drop((waiting, others));
        }
    }

    #[tokio::test]
    async fn those_who_bring_receipts_find_room_however_many_others_there_are() {
        let queue = Queue::new(1);
        let attest = Ask::Attest { challenge: [0; 32] };
        let room = || queue.room_for(&attest);
        let mut taken: Vec<_> = (0..LONG).map(|_| room().unwrap().unwrap()).collect();
        assert_eq!(room().unwrap_err(), Refusal::Busy);
        let lease = Digest::of(b"lease");
        let receipts = Vec::new();
        for ask in [
            Ask::Settle { receipts },
            Ask::Claim { lease },
            Ask::Failed { lease },
        ] {
            assert!(queue.room_for(&ask).unwrap().is_none());
        }
        taken.pop();
        assert!(room().unwrap().is_some());
    }
}
