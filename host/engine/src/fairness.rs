//! Who comes next: owners take turns by what they were given so far.
//!
//! Each owner has a counter of the tokens that were computed for it, tokens that were written
//! counted twice; whoever has the least is served next (Sheng et al., *Fairness in Serving Large
//! Language Models*, arXiv 2401.00588, algorithm 2). An owner that comes back after a pause starts
//! no lower than the least of those at work, so that nobody saves up turns.

use std::collections::HashMap;

/// Owners that are not at work and are remembered all the same, because they were given more than
/// those at work.
const REMEMBERED: usize = 4096;

#[derive(Debug, Default, Clone, Copy)]
struct Owner {
    served: u64,
    /// Requests that are not over.
    requests: usize,
}

/// The counters of all owners.
#[derive(Debug, Default)]
pub struct Turns {
    owners: HashMap<u64, Owner>,
}

impl Turns {
    /// A request of this owner's has come.
    pub fn arrive(&mut self, owner: u64) {
        let least = self.least();
        let entry = self.owners.entry(owner).or_default();
        if entry.requests == 0 {
            entry.served = entry.served.max(least.unwrap_or(0));
        }
        entry.requests += 1;
    }

    /// A request of this owner's is over.
    pub fn leave(&mut self, owner: u64) {
        if let Some(entry) = self.owners.get_mut(&owner) {
            entry.requests = entry.requests.saturating_sub(1);
        }
        if self.owners.len() > REMEMBERED {
            let least = self.least().unwrap_or(u64::MAX);
            self.owners
                .retain(|_, owner| owner.requests > 0 || owner.served > least);
        }
    }

    /// So many tokens were computed for this owner.
    pub fn serve(&mut self, owner: u64, tokens: u64) {
        if let Some(entry) = self.owners.get_mut(&owner) {
            entry.served = entry.served.saturating_add(tokens);
        }
    }

    /// What this owner was given so far.
    pub fn served(&self, owner: u64) -> u64 {
        self.owners.get(&owner).map_or(0, |owner| owner.served)
    }

    /// Owners that have requests.
    pub fn at_work(&self) -> usize {
        self.owners.values().filter(|o| o.requests > 0).count()
    }

    /// How many requests of this owner's are not over.
    pub fn requests(&self, owner: u64) -> usize {
        self.owners.get(&owner).map_or(0, |owner| owner.requests)
    }

    fn least(&self) -> Option<u64> {
        let at_work = self.owners.values().filter(|owner| owner.requests > 0);
        at_work.map(|owner| owner.served).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_saves_no_turns() {
        let mut turns = Turns::default();
        turns.arrive(1);
        turns.serve(1, 100);
        turns.arrive(2);
        assert_eq!(turns.served(2), 100);
        turns.serve(2, 50);
        turns.leave(2);
        // Nor does it forget what was given.
        turns.arrive(2);
        assert_eq!(turns.served(2), 150);
        assert_eq!((turns.at_work(), turns.requests(2)), (2, 1));
        turns.serve(1, 200);
        turns.leave(2);
        turns.arrive(2);
        assert_eq!(turns.served(2), 300);
    }

    #[test]
    fn owners_that_are_gone_are_forgotten() {
        let mut turns = Turns::default();
        turns.arrive(0);
        for owner in 1..10_000 {
            turns.arrive(owner);
            turns.leave(owner);
        }
        assert!(turns.owners.len() <= REMEMBERED + 1);
    }
}
