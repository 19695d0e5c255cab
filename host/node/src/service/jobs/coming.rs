//! How much of the disk outputs take that are on their way here, whatever others say and however many they are.
//!
//! What has come counts, and not what is announced: that costs nobody anything, and who only says that it will
//! send much would keep others out. Nobody waits for room, since who waits would keep what it has from others that wait
//! too.
//!
//! # What it must never do
//!
//! - Let one node take all of it.
//! - Keep out a node of which little is coming because much is coming of a handful of others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use skep_swarm::NodeId;

/// The most bytes of all outputs that are coming at one moment.
const MOST: u64 = 16 << 30;

/// Room for what is coming of all jobs of this process. Half of it is for whoever comes first: a quarter is the most of
/// one node, which is as much as 64 outputs have that are as large as nodes make them of which their owners say nothing
/// else. The rest is in 64 parts, one for each node.
#[derive(Clone, Debug)]
pub struct Coming {
    most: u64,
    taken: Arc<Mutex<Taken>>,
}

/// Bytes that have come, of all nodes and of each.
#[derive(Debug, Default)]
struct Taken {
    all: u64,
    of: HashMap<NodeId, u64>,
}

/// Room for what one conversation brings, until this is dropped.
#[derive(Debug)]
pub struct Room {
    coming: Coming,
    node: NodeId,
    bytes: u64,
}

impl Default for Coming {
    fn default() -> Self {
        Self::of(MOST)
    }
}

impl Coming {
    /// Room for so many bytes in all.
    pub fn of(most: u64) -> Self {
        Self {
            most,
            taken: Arc::default(),
        }
    }

    /// The most bytes that there ever is room for of one node.
    pub fn most_of_one(&self) -> u64 {
        self.most / 4
    }

    /// Room for what a node brings, of which nothing has come yet.
    pub fn room_for(&self, node: NodeId) -> Room {
        Room {
            coming: self.clone(),
            node,
            bytes: 0,
        }
    }
}

impl Room {
    /// Takes room for so many bytes more, or says that there is none and takes nothing.
    pub fn take(&mut self, bytes: u64) -> bool {
        let taken = &self.coming.taken;
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let before = taken.of.get(&self.node).copied().unwrap_or(0);
        let of_node = before.saturating_add(bytes);
        let all = taken.all.saturating_add(bytes);
        let most = match all > self.coming.most / 2 {
            true => self.coming.most / 128,
            false => self.coming.most_of_one(),
        };
        if all > self.coming.most || of_node > most {
            return false;
        }
        taken.all = all;
        taken.of.insert(self.node, of_node);
        self.bytes += bytes;
        true
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let taken = &self.coming.taken;
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= self.bytes;
        if let Some(of_node) = taken.of.get_mut(&self.node) {
            *of_node -= self.bytes;
            if *of_node == 0 {
                taken.of.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use skep_evidence::AccountKey;

    use super::*;

    const MOST: u64 = 1 << 20;
    const FOR_ONE: u64 = MOST / 4;
    const LITTLE: u64 = MOST / 128;

    fn node(seed: u8) -> NodeId {
        let key = AccountKey::from_seed(&[seed; 32]).id();
        NodeId::from_bytes(key.as_bytes()).unwrap()
    }

    #[test]
    fn of_one_node_no_more_comes_than_a_quarter_in_however_many_conversations() {
        let coming = Coming::of(MOST);
        let [mut one, mut other] = [(); 2].map(|()| coming.room_for(node(1)));
        assert!(one.take(FOR_ONE - 10) && other.take(10));
        assert!(!one.take(1) && !other.take(1));
        // Others have room, and what has come whole or was given up makes some.
        assert!(coming.room_for(node(2)).take(FOR_ONE));
        drop(other);
        assert!(!one.take(11) && one.take(10));
        drop(one);
        let taken = coming.taken.lock().unwrap();
        assert!(taken.all == 0 && taken.of.is_empty(), "{taken:?}");
    }

    #[test]
    fn a_handful_of_nodes_keeps_nobody_out_who_sends_little() {
        let coming = Coming::of(MOST);
        let mut much = [1, 2].map(|seed| coming.room_for(node(seed)));
        assert!(much.iter_mut().all(|room| room.take(FOR_ONE)));
        let mut rooms: Vec<Room> = (3..67).map(|seed| coming.room_for(node(seed))).collect();
        for room in &mut rooms {
            assert!(room.take(LITTLE) && !room.take(1));
        }
        assert!(!much[0].take(1));
        // There is no more.
        assert!(!coming.room_for(node(67)).take(1));
        assert!(coming.room_for(node(67)).take(0));
        drop(much);
        assert!(coming.room_for(node(67)).take(LITTLE));
    }
}
