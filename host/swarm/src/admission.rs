//! Which connections have the places for those over which blobs are served, and which of them gives way.
//!
//! As long as there are places, `places` says who may have one. Once all are taken, a peer that has none is given that
//! of another: of the peer that has most, and of its connections the one over which nothing was sent for longest. So
//! nobody keeps others out by using many a little. Where no peer has more than one, only a connection that rests gives
//! way, so that a slow peer, to which something is sent now and then, keeps its own.
//!
//! # What it must never do
//!
//! - Take a place from a peer that has no other while something is being sent to it.
//! - Take a place from anybody for a peer that has one.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ids::NodeId;
use crate::places::{Place, Places};

/// The connections that have a place.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    places: Places,
    rest: Duration,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    /// How many there were so far: each has a number.
    admitted: u64,
    connections: HashMap<u64, Held>,
}

/// What a connection has as long as nobody else is given it.
#[derive(Debug)]
struct Held {
    peer: NodeId,
    /// When something was last sent over it, or when it began.
    used: Instant,
    given_up: Arc<Notify>,
    _place: Place,
}

/// A connection that was let in, until this is dropped. Its place may go to another before.
#[derive(Debug)]
pub(crate) struct Admitted {
    of: Admission,
    number: u64,
    given_up: Arc<Notify>,
}

impl Admission {
    /// Room for so many connections. One over which nothing was sent for as long as `rest` is at rest.
    pub(crate) fn new(all: usize, rest: Duration) -> Self {
        Self {
            places: Places::new(all),
            rest,
            open: Arc::default(),
        }
    }

    /// Lets a connection of this peer in, if there is a place for it or another gives way.
    pub(crate) fn admit(&self, peer: NodeId) -> Option<Admitted> {
        let mut open = self.open();
        let place = match self.places.take(peer) {
            Some(place) => place,
            None => {
                open.give_way(peer, self.rest)?;
                self.places.take(peer)?
            }
        };
        let number = open.admitted;
        open.admitted += 1;
        let given_up = Arc::new(Notify::new());
        let held = Held {
            peer,
            used: Instant::now(),
            given_up: Arc::clone(&given_up),
            _place: place,
        };
        open.connections.insert(number, held);
        Some(Admitted {
            of: self.clone(),
            number,
            given_up,
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // A connection is there whole or not at all, so a poisoned lock is still good.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Has one connection give its place up for a peer that has none. `None` if it has one, or nobody has to.
    fn give_way(&mut self, peer: NodeId, rest: Duration) -> Option<()> {
        let mut counts: HashMap<NodeId, usize> = HashMap::new();
        for held in self.connections.values() {
            *counts.entry(held.peer).or_default() += 1;
        }
        if counts.contains_key(&peer) {
            return None;
        }
        let count = |held: &Held| counts.get(&held.peer).copied().unwrap_or(0);
        let open = self.connections.iter();
        let (number, held) = open.min_by_key(|(_, held)| (Reverse(count(held)), held.used))?;
        if count(held) <= 1 && held.used.elapsed() < rest {
            return None;
        }
        let number = *number;
        let held = self.connections.remove(&number)?;
        held.given_up.notify_one();
        Some(())
    }
}

impl Admitted {
    /// Takes in that something was sent over the connection.
    pub(crate) fn used(&self) {
        if let Some(held) = self.of.open().connections.get_mut(&self.number) {
            held.used = Instant::now();
        }
    }

    /// Returns once its place is given to another, upon which the connection has to end.
    pub(crate) async fn given_up(&self) {
        self.given_up.notified().await;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.of.open().connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;
    use crate::announcement::tests::key;

    const REST: Duration = Duration::from_secs(30);

    fn peer(seed: u16) -> NodeId {
        key(seed).public().into()
    }

    /// All that this peer gets.
    fn all(admission: &Admission, seed: u16) -> Vec<Admitted> {
        std::iter::from_fn(|| admission.admit(peer(seed))).collect()
    }

    /// Whether another has its place.
    async fn has_gone(admitted: &Admitted) -> bool {
        timeout(Duration::ZERO, admitted.given_up()).await.is_ok()
    }

    /// How many of these have gone.
    async fn gone(admitted: &[Admitted]) -> usize {
        let mut gone = 0;
        for one in admitted {
            gone += usize::from(has_gone(one).await);
        }
        gone
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_have_many_give_way_to_who_has_none_however_much_they_use_them() {
        let admission = Admission::new(256, REST);
        let many: Vec<_> = (0..3).map(|seed| all(&admission, seed)).collect();
        let few: Vec<_> = (3..19).map(|seed| all(&admission, seed)).collect();
        assert!(many.iter().all(|held| held.len() == 64));
        assert!(few.iter().all(|held| held.len() == 4));
        // Over all but one something was sent a moment ago.
        advance(REST).await;
        let both = || many.iter().chain(&few).flatten();
        let rested = &many[1][7];
        both()
            .filter(|held| held.number != rested.number)
            .for_each(Admitted::used);
        let mut others = Vec::new();
        others.extend(admission.admit(peer(100)));
        assert!(has_gone(rested).await);
        // Whoever gave way does not get it back at the cost of others.
        assert!(admission.admit(peer(1)).is_none());
        others.extend((101..200).filter_map(|seed| admission.admit(peer(seed))));
        assert_eq!(others.len(), 100);
        assert_eq!(gone(&others).await, 0);
        for held in &few {
            assert_eq!(gone(held).await, 0, "it has few");
        }
        let mut left = Vec::new();
        for held in &many {
            left.push(
                held.iter()
                    .filter(|held| admission.open().connections.contains_key(&held.number))
                    .count(),
            );
        }
        left.sort_unstable();
        assert_eq!(left, [30, 31, 31], "they share what is left");
        drop((many, few, others));
        assert!(admission.places.are_free());
    }

    #[tokio::test(start_paused = true)]
    async fn where_each_has_one_only_who_rests_gives_way() {
        let admission = Admission::new(4, REST);
        let held: Vec<_> = (0..4)
            .filter_map(|seed| admission.admit(peer(seed)))
            .collect();
        assert_eq!(held.len(), 4);
        advance(REST - Duration::from_millis(1)).await;
        assert!(admission.admit(peer(4)).is_none());
        // To these something is sent, be it slowly.
        held[1..].iter().for_each(Admitted::used);
        advance(Duration::from_millis(1)).await;
        assert!(admission.admit(peer(1)).is_none(), "it has one");
        let other = admission.admit(peer(4)).unwrap();
        assert!(has_gone(&held[0]).await);
        assert_eq!(gone(&held[1..]).await, 0);
        assert!(admission.admit(peer(0)).is_none(), "nobody rests");
        // What has gone gives back nothing of what is another's.
        drop(held);
        let again: Vec<_> = (0..4)
            .filter_map(|seed| admission.admit(peer(seed)))
            .collect();
        assert_eq!(again.len(), 3);
        assert!(!has_gone(&other).await);
    }
}
