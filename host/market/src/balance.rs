//! What receipts alone say about who has earned and spent what.
//!
//! A receipt repeats what its lease said, so that nothing else is needed: no ledger, no job, nobody's word.

use std::collections::{BTreeMap, BTreeSet};

use skep_evidence::{AccountId, Agreed, Receipt};
use skep_registry::Digest;

/// What one account owes another for a lease: one receipt says how much. It is told apart by the two as well as by the
/// lease, since anybody can sign a receipt that names a lease of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Debt {
    /// The lease.
    pub lease: Digest,
    /// Who did the work.
    pub provider: AccountId,
    /// Who pays.
    pub requester: AccountId,
}

impl Debt {
    /// What a receipt is for.
    #[must_use]
    pub fn of(receipt: &Receipt) -> Self {
        Self {
            lease: receipt.lease,
            provider: receipt.provider,
            requester: receipt.requester,
        }
    }
}

/// What an account got and what it is to pay, in micro-credits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turnover {
    /// What it got: prices of its work, and shares of those of others' work.
    pub earned: i128,
    /// The prices of what was done for it.
    pub spent: i128,
}

impl Turnover {
    /// What it gained; less than zero is what it owes.
    #[must_use]
    pub fn gained(&self) -> i128 {
        self.earned - self.spent
    }
}

/// What each account earned and spent by these receipts. A [`Debt`] counts once, with the first receipt for it.
/// All that is earned is spent by others.
pub fn turnover<'a>(
    receipts: impl IntoIterator<Item = &'a Agreed<Receipt>>,
) -> BTreeMap<AccountId, Turnover> {
    let mut paid = BTreeSet::new();
    let mut all: BTreeMap<AccountId, Turnover> = BTreeMap::new();
    for receipt in receipts {
        if !paid.insert(Debt::of(receipt)) {
            continue;
        }
        all.entry(receipt.requester).or_default().spent += i128::from(receipt.price.micro());
        for (account, part) in receipt.payments() {
            all.entry(account).or_default().earned += i128::from(part.micro());
        }
    }
    all
}

/// What each account gained by these receipts, in micro-credits; less than zero is what it spent.
/// A [`Debt`] counts once, with the first receipt for it. The sum over all accounts is zero.
///
/// Anyone who holds the receipts can compute this, and needs nobody's ledger for it.
pub fn recompute<'a>(
    receipts: impl IntoIterator<Item = &'a Agreed<Receipt>>,
) -> BTreeMap<AccountId, i128> {
    let all = turnover(receipts).into_iter();
    all.map(|(account, turnover)| (account, turnover.gained()))
        .collect()
}
