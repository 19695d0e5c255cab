//! What everybody was given and lost by other things than receipts, kept beside the ledger: by what was posted, and
//! never by what the ledger says that it came to.

use std::collections::BTreeMap;

use skep_evidence::AccountId;

use super::{DISPUTE, PostError, Posted, Step, TERMS};
use crate::testing::account;

/// When the work of the receipts of these tests ends.
const FINISHED: u64 = 2;

#[derive(Default)]
pub(super) struct Beside {
    given: BTreeMap<AccountId, i128>,
    staked: BTreeMap<AccountId, u64>,
    bound: BTreeMap<AccountId, u64>,
    pub(super) burned: u64,
}

impl Beside {
    /// What an account was given, less what was taken from it.
    pub(super) fn given(&self, who: AccountId) -> i128 {
        self.given.get(&who).copied().unwrap_or(0)
    }

    /// What it has at stake.
    pub(super) fn staked(&self, who: AccountId) -> u64 {
        self.staked.get(&who).copied().unwrap_or(0)
    }

    fn give(&mut self, who: AccountId, amount: i128) {
        *self.given.entry(who).or_default() += amount;
    }

    fn bind(&mut self, who: AccountId, until: u64) {
        let known = self.bound.entry(who).or_default();
        *known = (*known).max(until);
    }

    /// Takes in what a step was to do, if it was done.
    pub(super) fn note(&mut self, step: &Step, outcome: &Result<Posted, PostError>) {
        let bound = |who: u8| self.bound.get(&account(who)).copied().unwrap_or(0);
        if let Step::Unstake(_, who, _, at) = step {
            // Before that time nothing comes back, and after it nothing is kept for that.
            let is_early = *at < bound(*who);
            match outcome {
                Ok(Posted::New { .. }) => assert!(!is_early, "{step:?}"),
                Err(PostError::Bound { until, .. }) => {
                    assert!(is_early, "{step:?}");
                    assert_eq!(*until, bound(*who), "{step:?}");
                }
                // Told before anybody looks at what is bound.
                Ok(Posted::Already { .. }) | Err(PostError::Conflict { .. }) => {}
                Err(_) => assert!(!is_early, "{step:?}"),
            }
        }
        if !matches!(outcome, Ok(Posted::New { .. })) {
            return;
        }
        match step {
            Step::Deposit(_, who, amount) => self.give(account(*who), i128::from(*amount)),
            Step::Withdraw(_, who, amount) => self.give(account(*who), -i128::from(*amount)),
            Step::Stake(_, who, amount) => {
                *self.staked.entry(account(*who)).or_default() += amount;
            }
            Step::Unstake(_, who, amount, _) => {
                *self.staked.entry(account(*who)).or_default() -= amount;
            }
            Step::Bind(_, who, until) => self.bind(account(*who), *until),
            Step::Judge {
                worker,
                accuser,
                right,
                ..
            } => {
                let (loser, winner) = match right {
                    true => (account(*worker), account(*accuser)),
                    false => (account(*accuser), account(*worker)),
                };
                let staked = self.staked.entry(loser).or_default();
                let fine = TERMS.fine.micro().min(*staked);
                *staked -= fine;
                let reward = match loser == winner {
                    true => 0,
                    false => fine * u64::from(TERMS.reward) / 1_000_000,
                };
                self.give(loser, -i128::from(fine));
                self.give(winner, i128::from(reward));
                self.burned += fine - reward;
            }
            Step::Settle(parts) => {
                for (_, provider, ..) in parts {
                    self.bind(account(*provider), FINISHED + DISPUTE);
                }
            }
            // These move what somebody has, or are receipts.
            Step::Escrow(..) | Step::Refund(..) | Step::Release { .. } | Step::Reopen => {}
        }
    }
}
