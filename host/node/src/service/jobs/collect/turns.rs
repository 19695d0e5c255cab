//! Whom to ask next for receipts that are owed: so many in a round, and in which order.
//!
//! Anybody can owe something, and name a node that is not there. So the places of a round go in turn to those
//! who owe most, to those who owed something last, and to those who have waited for longest: whatever others plant,
//! nobody is passed over in round after round.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use skep_evidence::AccountId;
use skep_market::Owed;
use skep_registry::Digest;

/// The most who are asked in one round.
pub const MOST: usize = 256;

/// An account, and the ticket of the node from which it asked for the work.
type Who = (AccountId, String);

/// One who owes receipts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debtor {
    /// Who it is, and where.
    pub who: Who,
    /// For which leases, in the order in which to ask for them.
    pub leases: Vec<Digest>,
    /// What all of them cost, in micro-credits.
    micro: u128,
    /// When the first and the last of them was done, in milliseconds since 1970.
    since: (u64, u64),
}

/// What is remembered of those who were asked.
#[derive(Default)]
pub struct Turns(Mutex<State>);

#[derive(Default)]
struct State {
    /// How many rounds there were.
    round: u64,
    asked: BTreeMap<Who, Asked>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    /// In which round the last time.
    round: u64,
    /// How often in a row nobody was there.
    failures: u32,
}

impl Turns {
    /// Whom to ask in the next round, of all that is owed.
    pub fn next(&self, owed: Vec<(Digest, Owed)>) -> Vec<Debtor> {
        let mut state = self.lock();
        state.round += 1;
        let debtors = by_debtor(owed, state.round.is_multiple_of(2));
        state.asked.retain(|who, _| debtors.contains_key(who));
        let asked = |debtor: &Debtor| state.asked.get(&debtor.who).copied().unwrap_or_default();
        let all: Vec<(Debtor, Asked)> = debtors
            .into_values()
            .map(|debtor| {
                let asked = asked(&debtor);
                (debtor, asked)
            })
            .collect();
        let chosen = chosen(&all);
        let debtors = chosen.into_iter().filter_map(|place| all.get(place));
        debtors.map(|(debtor, _)| debtor.clone()).collect()
    }

    /// Notes that somebody was asked in this round, and whether anybody was there.
    pub fn asked(&self, who: Who, is_there: bool) {
        let mut state = self.lock();
        let round = state.round;
        let asked = state.asked.entry(who).or_default();
        asked.round = round;
        asked.failures = match is_there {
            true => 0,
            false => asked.failures.saturating_add(1),
        };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The map is consistent after every statement, so a poisoned lock is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that is owed by who owes it. Of one that has more leases than can be asked for in the time there is, the
/// newest are asked for first in one round, and the oldest in the next.
fn by_debtor(mut owed: Vec<(Digest, Owed)>, oldest_first: bool) -> BTreeMap<Who, Debtor> {
    owed.sort_by_key(|(_, owed)| owed.since);
    if !oldest_first {
        owed.reverse();
    }
    let mut debtors = BTreeMap::new();
    for (lease, owed) in owed {
        if owed.node.is_empty() {
            continue;
        }
        let who = (owed.requester, owed.node);
        let debtor = debtors.entry(who.clone()).or_insert_with(|| Debtor {
            who,
            leases: Vec::new(),
            micro: 0,
            since: (u64::MAX, 0),
        });
        debtor.leases.push(lease);
        debtor.micro += u128::from(owed.price.micro());
        let (first, last) = debtor.since;
        debtor.since = (first.min(owed.since), last.max(owed.since));
    }
    debtors
}

/// The places of those who are asked.
fn chosen(all: &[(Debtor, Asked)]) -> Vec<usize> {
    let mut orders = [(); 3].map(|()| (0..all.len()).collect::<Vec<usize>>());
    let [richest, newest, waiting] = &mut orders;
    richest.sort_by_key(|place| {
        let (debtor, asked) = &all[*place];
        (asked.failures, Reverse(debtor.micro))
    });
    newest.sort_by_key(|place| {
        let (debtor, asked) = &all[*place];
        (asked.failures, Reverse(debtor.since.1))
    });
    waiting.sort_by_key(|place| {
        let (debtor, asked) = &all[*place];
        (asked.round, debtor.since.0)
    });
    let mut is_chosen = BTreeSet::new();
    let mut chosen = Vec::new();
    let mut orders = orders.map(Vec::into_iter);
    while chosen.len() < MOST.min(all.len()) {
        for order in &mut orders {
            // The next one in this order that no other has chosen.
            let next = order.find(|place| !is_chosen.contains(place));
            if let Some(place) = next.filter(|_| chosen.len() < MOST) {
                is_chosen.insert(place);
                chosen.push(place);
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use skep_evidence::Credits;

    use super::*;

    fn account(seed: u8) -> AccountId {
        AccountId::from_bytes([seed; 32])
    }

    fn owes(number: u64, requester: u8, node: &str, price: u64, since: u64) -> (Digest, Owed) {
        let owed = Owed {
            requester: account(requester),
            price: Credits::from_micro(price),
            since,
            node: node.to_owned(),
        };
        (Digest::of(&number.to_le_bytes()), owed)
    }

    /// A thousand who are not there, each by a ticket of its own.
    fn planted(price: u64, since: u64) -> Vec<(Digest, Owed)> {
        let all = (0..1_000).map(|n| owes(n, 1, &format!("dead{n}"), price, since));
        all.collect()
    }

    /// In which round the honest one is asked, where nobody else is there.
    fn reached(honest: (u64, u64), mut more: impl FnMut(u64) -> Vec<(Digest, Owed)>) -> u64 {
        let turns = Turns::default();
        let mut owed = Vec::new();
        for round in 1..100 {
            owed.extend(more(round));
            let mut all = owed.clone();
            all.push(owes(1 << 32, 2, "honest", honest.0, honest.1));
            let asked = turns.next(all);
            assert_eq!(asked.len(), MOST);
            let whom: BTreeSet<Who> = asked.iter().map(|debtor| debtor.who.clone()).collect();
            assert_eq!(whom.len(), MOST, "nobody twice");
            if whom.contains(&(account(2), "honest".to_owned())) {
                return round;
            }
            for who in whom {
                turns.asked(who, false);
            }
        }
        u64::MAX
    }

    #[test]
    fn an_honest_debtor_is_reached_although_a_thousand_are_not_there() {
        let once = |price, since| {
            move |round| match round {
                1 => planted(price, since),
                _ => Vec::new(),
            }
        };
        // It owes most, or last, or has waited for longest.
        assert_eq!(reached((9, 50), once(5, 50)), 1);
        assert_eq!(reached((1, 51), once(5, 50)), 1);
        assert_eq!(reached((1, 49), once(5, 50)), 1);
        // It is the last of all, until the others are known not to be there.
        let place = 1_001_u64.div_ceil(MOST as u64);
        assert!(reached((1, 50), once(5, 50)) <= place);
        // And where others come in every round who owe more and owed it later.
        let ever = |round: u64| {
            let new = (0..1_000).map(|n| {
                let number = 1_000 * round + n;
                owes(number, 1, &format!("dead{number}"), 5, 100 + round)
            });
            new.collect::<Vec<_>>()
        };
        let before = |round| {
            let mut all = ever(round);
            if round == 1 {
                all.extend(planted(5, 50));
            }
            all
        };
        // A third of the places is for those who have waited: these are before it, and nobody else.
        let waited = 1_001_u64.div_ceil(MOST as u64 / 3);
        assert!(reached((1, 60), before) <= waited);
    }

    #[test]
    fn who_is_there_keeps_its_place_and_others_are_asked_after_it() {
        let turns = Turns::default();
        let mut all = planted(5, 50);
        all.push(owes(1 << 32, 2, "honest", 9, 40));
        let honest = (account(2), "honest".to_owned());
        for _ in 0..4 {
            let asked = turns.next(all.clone());
            assert_eq!(asked[0].who, honest, "it owes most, and is there");
            for debtor in asked {
                let is_there = debtor.who == honest;
                turns.asked(debtor.who, is_there);
            }
        }
        // Of who owes nothing any more nothing is remembered.
        all.truncate(10);
        assert_eq!(turns.next(all).len(), 10);
        assert!(turns.lock().asked.len() <= 10);
    }

    #[test]
    fn one_account_at_one_node_is_asked_once_for_all_of_its_leases() {
        let turns = Turns::default();
        let all = vec![
            owes(1, 1, "a", 5, 20),
            owes(2, 1, "a", 6, 10),
            owes(3, 2, "a", 1, 30),
            owes(4, 1, "", 7, 40),
        ];
        let leases = |asked: Vec<Debtor>| asked.into_iter().map(|debtor| debtor.leases);
        let named = |numbers: &[u64]| -> Vec<Digest> {
            let digests = numbers.iter().map(|n| Digest::of(&n.to_le_bytes()));
            digests.collect()
        };
        let first: Vec<_> = leases(turns.next(all.clone())).collect();
        assert_eq!(first, [named(&[1, 2]), named(&[3])]);
        let second: Vec<_> = leases(turns.next(all)).collect();
        assert_eq!(second, [named(&[2, 1]), named(&[3])], "the oldest first");
    }
}
