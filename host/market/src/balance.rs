//! What receipts alone say about who has earned and spent what.

use std::collections::{BTreeMap, BTreeSet};

use skep_evidence::{AccountId, Agreed, Receipt};

/// What each account gained by these receipts, in micro-credits; less than zero is what it spent.
/// A lease counts once, with the first receipt for it. The sum over all accounts is zero.
///
/// Anyone who holds the receipts can compute this, and needs nobody's ledger for it.
pub fn recompute<'a>(
    receipts: impl IntoIterator<Item = &'a Agreed<Receipt>>,
) -> BTreeMap<AccountId, i128> {
    let mut paid = BTreeSet::new();
    let mut gained: BTreeMap<AccountId, i128> = BTreeMap::new();
    for receipt in receipts {
        if !paid.insert(receipt.lease) {
            continue;
        }
        *gained.entry(receipt.requester).or_default() -= i128::from(receipt.price.micro());
        for (account, part) in receipt.payments() {
            *gained.entry(account).or_default() += i128::from(part.micro());
        }
    }
    gained
}
