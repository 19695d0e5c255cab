//! Whom to ask: an order of providers, as a pure function of what is known of them.

use serde::{Deserialize, Serialize};
use skep_evidence::{AccountId, Credits};
use skep_registry::Digest;

use crate::reputation::Reputation;

/// What a provider holds ready, so that work begins at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warmth {
    /// The package, on its disk at least.
    pub package: bool,
    /// The model, in memory.
    pub model: bool,
    /// The adapter, in memory.
    pub adapter: bool,
}

impl Warmth {
    /// What takes longest to get ready counts most: gigabytes of a model before an adapter, and
    /// that before a package.
    fn rank(self) -> u8 {
        4 * u8::from(self.model) + 2 * u8::from(self.adapter) + u8::from(self.package)
    }
}

/// What is known of a provider that could be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Who.
    pub provider: AccountId,
    /// What a shard is expected to cost there.
    pub price: Credits,
    /// What it holds ready.
    pub warmth: Warmth,
    /// What was seen of it.
    pub reputation: Reputation,
    /// How many shards it takes at once.
    pub slots: u32,
    /// How many more it may be given, which wait there: see [`ahead`].
    pub ahead: u32,
}

/// The most shards that wait at a provider.
const AHEAD: u32 = 4;
/// Who works on more than this at once always has another while one is handed over.
const MANY: u32 = 32;

/// How many shards may wait at a provider that works on so many at once: the next is there when it is
/// done with one, and what is said about both costs it no time.
#[must_use]
pub fn ahead(slots: u32) -> u32 {
    match slots {
        0..=MANY => slots.min(AHEAD),
        _ => 0,
    }
}

impl Offer {
    /// Whether it may be asked at all: nobody who lied, asks for too much, or takes nothing.
    pub(crate) fn is_open(&self, limit: Credits) -> bool {
        self.reputation.is_trusted() && self.price <= limit && self.slots > 0
    }

    /// The expected price of a result, since what fails has to be paid for in time: the price over
    /// the likelihood that it delivers. Who asks for nothing is not for that taken to deliver.
    fn expected_price(&self) -> u128 {
        u128::from(self.price.micro().max(1)) * 1_000_000
            / u128::from(self.reputation.reliability().max(1))
    }
}

/// The providers that may be asked, best first: those that nobody doubts, of them those that do not mostly fail, then
/// those that hold more ready, then those whose results are expected to be cheaper. What a provider holds ready it says
/// itself, and a price of nothing stays small however often it fails: neither may keep whoever delivers waiting. Among equals the order depends on the job, so that not all
/// jobs go to the same one. Whoever lied, asks for more than `limit` or takes nothing is left out.
#[must_use]
pub fn rank(offers: &[Offer], limit: Credits, job: Digest) -> Vec<&Offer> {
    let open = offers.iter().filter(|offer| offer.is_open(limit));
    let mut order: Vec<_> = open
        .map(|offer| {
            let tie = blake3::keyed_hash(job.as_bytes(), offer.provider.as_bytes());
            let conduct = (
                offer.reputation.is_doubted(),
                offer.reputation.mostly_fails(),
            );
            let warmth = u8::MAX - offer.warmth.rank();
            let rank = (conduct, warmth, offer.expected_price(), *tie.as_bytes());
            (rank, offer)
        })
        .collect();
    order.sort_unstable_by_key(|(rank, _)| *rank);
    order.into_iter().map(|(_, offer)| offer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reputation::Conduct;
    use crate::testing::{account, credits, digest};

    fn offer(provider: u8, price: u64) -> Offer {
        Offer {
            provider: account(provider),
            price: credits(price),
            warmth: Warmth::default(),
            reputation: Reputation::default(),
            slots: 1,
            ahead: 0,
        }
    }

    fn order(offers: &[Offer]) -> Vec<AccountId> {
        let ranked = rank(offers, credits(1_000), digest("job", 0));
        ranked.into_iter().map(|offer| offer.provider).collect()
    }

    #[test]
    fn warmth_comes_first_then_price_and_reputation() {
        let warm = |provider, model, adapter, package| Offer {
            warmth: Warmth {
                package,
                model,
                adapter,
            },
            ..offer(provider, 900)
        };
        let mut reliable = offer(5, 150);
        (0..50).for_each(|_| reliable.reputation.note(Conduct::Delivered));
        let offers = [
            offer(1, 100),
            warm(2, false, true, true),
            warm(3, true, false, false),
            offer(4, 90),
            reliable,
        ];
        let expected = [3, 2, 5, 4, 1].map(account);
        assert_eq!(order(&offers), expected);
    }

    #[test]
    fn a_model_counts_before_an_adapter_and_that_before_a_package() {
        // Whoever holds more ready is dearer, so that no price puts it first.
        let offers = [0_u8, 1, 2, 3, 4, 5, 6, 7].map(|held| Offer {
            warmth: Warmth {
                package: held & 1 != 0,
                adapter: held & 2 != 0,
                model: held & 4 != 0,
            },
            ..offer(held, 100 + u64::from(held))
        });
        assert_eq!(order(&offers), [7, 6, 5, 4, 3, 2, 1, 0].map(account));
    }

    #[test]
    fn of_those_who_ask_for_nothing_who_fails_comes_last() {
        let mut fails = offer(1, 0);
        (0..3).for_each(|_| fails.reputation.note(Conduct::Failed));
        let mut delivers = offer(2, 0);
        delivers.reputation.note(Conduct::Delivered);
        // By the order among equals each of these would be the first of some job.
        for job in 0..10 {
            let offers = [fails, offer(3, 0), delivers];
            let ranked = rank(&offers, credits(9), digest("job", job));
            let ranked: Vec<AccountId> = ranked.into_iter().map(|offer| offer.provider).collect();
            assert_eq!(ranked, [2, 3, 1].map(account));
        }
    }

    #[test]
    fn who_is_doubted_is_asked_after_all_others_whatever_it_says() {
        let mut doubted = Offer {
            warmth: Warmth {
                package: true,
                model: true,
                adapter: true,
            },
            ..offer(1, 0)
        };
        doubted.reputation.note(Conduct::Outvoted);
        assert_eq!(order(&[doubted, offer(2, 900)]), [2, 1].map(account));
        doubted.reputation.note(Conduct::Agreed);
        assert_eq!(order(&[doubted, offer(2, 900)]), [1, 2].map(account));
    }

    #[test]
    fn who_mostly_fails_is_asked_after_others_whatever_it_says_to_hold_and_to_want() {
        let mut fails = Offer {
            warmth: Warmth {
                package: true,
                model: true,
                adapter: true,
            },
            ..offer(1, 0)
        };
        fails.reputation.note(Conduct::Failed);
        assert_eq!(order(&[fails, offer(2, 900)]), [1, 2].map(account));
        fails.reputation.note(Conduct::Failed);
        assert_eq!(order(&[fails, offer(2, 900)]), [2, 1].map(account));
        // Whom others contradict comes after it.
        let mut doubted = offer(3, 1);
        doubted.reputation.note(Conduct::Outvoted);
        assert_eq!(
            order(&[doubted, fails, offer(2, 900)]),
            [2, 1, 3].map(account)
        );
    }

    #[test]
    fn liars_the_dear_and_the_full_are_left_out() {
        let mut liar = offer(1, 1);
        liar.reputation.note(Conduct::Lied);
        let full = Offer {
            slots: 0,
            ..offer(2, 1)
        };
        assert_eq!(
            order(&[liar, full, offer(3, 1_001), offer(4, 1_000)]),
            [account(4)]
        );
    }

    #[test]
    fn equals_come_in_another_order_for_another_job() {
        let offers: Vec<_> = (1..30).map(|provider| offer(provider, 5)).collect();
        let first = |job| rank(&offers, credits(9), digest("job", job))[0].provider;
        let mut firsts: Vec<_> = (0..10).map(first).collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert!(firsts.len() > 4);
    }
}
