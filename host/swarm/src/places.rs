//! Places for what peers ask of this node at one moment, of which no peer may have all.
//!
//! # What it must never do
//!
//! - Leave no place for others because one peer, or a handful of them, takes them all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ids::NodeId;

/// So many places. One peer may have a quarter of them, and of the last quarter only those have one
/// that have few: a handful of peers cannot take all.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    slots: Arc<Semaphore>,
    peers: Arc<Mutex<HashMap<NodeId, usize>>>,
    /// Those that one peer may have.
    for_one: usize,
    /// How many a peer may have to be given one of the last.
    few: usize,
}

/// One peer's place, until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    peers: Arc<Mutex<HashMap<NodeId, usize>>>,
    peer: NodeId,
    _slot: OwnedSemaphorePermit,
}

impl Places {
    pub(crate) fn new(all: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(all)),
            peers: Arc::default(),
            for_one: (all / 4).max(1),
            few: (all / 64).max(1),
        }
    }

    /// Whether nobody has one.
    #[cfg(test)]
    pub(crate) fn are_free(&self) -> bool {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.is_empty()
    }

    /// A place for this peer, if there is one and it has not got all that it may have.
    pub(crate) fn take(&self, peer: NodeId) -> Option<Place> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        // As many are the last as one may have.
        let most = match self.slots.available_permits() < self.for_one {
            true => self.few,
            false => self.for_one,
        };
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = peers.entry(peer).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place {
            peers: Arc::clone(&self.peers),
            peer,
            _slot: slot,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = peers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announcement::tests::key;

    /// Takes all that each of these gets.
    fn taken(places: &Places, held: &mut Vec<Place>, peers: std::ops::Range<u16>) -> Vec<usize> {
        let take = |seed| {
            let before = held.len();
            let peer: NodeId = key(seed).public().into();
            held.extend(std::iter::from_fn(|| places.take(peer)));
            held.len() - before
        };
        peers.map(take).collect()
    }

    #[test]
    fn a_handful_of_peers_leaves_room_for_those_that_have_few() {
        for (all, for_one, few) in [(256, 64, 4), (64, 16, 1), (16, 4, 1)] {
            let places = Places::new(all);
            let mut held = Vec::new();
            let greedy = taken(&places, &mut held, 0..4);
            assert_eq!(greedy, [for_one, for_one, for_one, few]);
            assert_eq!(taken(&places, &mut held, 0..1), [0], "it has many already");
            // Each of those that come has room, until all is taken.
            let others = u16::try_from(for_one / few).unwrap();
            let more = taken(&places, &mut held, 4..3 + others);
            assert!(more.iter().all(|count| *count == few), "{more:?}");
            assert_eq!(taken(&places, &mut held, 500..501), [0]);
            held.clear();
            assert!(places.are_free());
            assert_eq!(places.slots.available_permits(), all);
        }
    }

    #[test]
    fn where_there_is_one_place_somebody_has_it() {
        let places = Places::new(1);
        let mut held = Vec::new();
        assert_eq!(taken(&places, &mut held, 0..2), [1, 0]);
        held.clear();
        assert_eq!(taken(&places, &mut held, 1..2), [1]);
    }
}
