//! What is owed to a provider: by lease, by who owes it, and by since when; and when what was signed is
//! forgotten.
//!
//! # What it must never do
//!
//! - Look at what others owe to say what one account does.
//! - Grow without end: what costs nothing is not owed, what is old is forgotten, and there is a most of it.

use redb::{
    ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition,
    WriteTransaction,
};
use skep_evidence::{AccountId, Credits, Receipt, Unverified};
use skep_registry::Digest;

use super::{Earnings, EarningsError, Owed, SIGNED};

/// Of each lease that was done and not paid: who is to pay how much, since when, and where it was
/// reached.
const OWED: TableDefinition<'_, &[u8; 32], (&[u8; 32], u64, u64, &str)> =
    TableDefinition::new("owed");
/// The price of each of these by its requester, since when, and the lease.
const BY_REQUESTER: TableDefinition<'_, &[u8; 72], u64> = TableDefinition::new("owed by requester");
/// The same leases by since when.
const BY_TIME: TableDefinition<'_, &[u8; 40], ()> = TableDefinition::new("owed by time");
/// All leases for which something was signed, by when that was.
const SIGNED_BY_TIME: TableDefinition<'_, &[u8; 40], ()> = TableDefinition::new("signed by time");

/// Of so many leases it is known that they are owed. If there are more, the oldest go.
const MOST: u64 = 20_000;
/// The longest ticket that is kept, in bytes.
const TICKET: usize = 1024;
/// How many leases are forgotten in one transaction: others wait for it.
const AT_ONCE: usize = 4_096;

/// A time and a lease, in order of time.
fn at(time: u64, lease: &[u8; 32]) -> [u8; 40] {
    let mut key = [0; 40];
    key[..8].copy_from_slice(&time.to_be_bytes());
    key[8..].copy_from_slice(lease);
    key
}

/// The lease of such a key.
fn lease_of(key: &[u8; 40]) -> [u8; 32] {
    let mut lease = [0; 32];
    lease.copy_from_slice(&key[8..]);
    lease
}

/// The same of one requester.
fn of(requester: &[u8; 32], time: u64, lease: &[u8; 32]) -> [u8; 72] {
    let mut key = [0; 72];
    key[..32].copy_from_slice(requester);
    key[32..].copy_from_slice(&at(time, lease));
    key
}

impl Earnings {
    /// What was done since then and not paid, each with its lease.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn owed(&self, since: u64) -> Result<Vec<(Digest, Owed)>, EarningsError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(OWED)?;
            let mut found = Vec::new();
            for row in table.iter()? {
                let (lease, owes) = row?;
                let (requester, price, at, node) = owes.value();
                if at >= since {
                    let owed = Owed {
                        requester: AccountId::from_bytes(*requester),
                        price: Credits::from_micro(price),
                        since: at,
                        node: node.to_owned(),
                    };
                    found.push((Digest::from_bytes(*lease.value()), owed));
                }
            }
            Ok(found)
        })
    }

    /// How much an account has not paid of what was done for it since then.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn unpaid(&self, requester: AccountId, since: u64) -> Result<Credits, EarningsError> {
        let requester = requester.as_bytes();
        let first = of(requester, since, &[0; 32]);
        let last = of(requester, u64::MAX, &[u8::MAX; 32]);
        self.with(|database| {
            let table = database.begin_read()?.open_table(BY_REQUESTER)?;
            let mut sum = Credits::ZERO;
            for row in table.range::<&[u8; 72]>(&first..=&last)? {
                let price = Credits::from_micro(row?.1.value());
                sum = sum.checked_add(price).unwrap_or(Credits::MAX);
            }
            Ok(sum)
        })
    }

    /// Forgets what was signed before then, and that it is owed, but no receipt that was paid. How many
    /// leases these were.
    ///
    /// For none of them may anything be signed again, which is for the caller to see to, as that the clock is
    /// right ([`Earnings::trusted`]).
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn forget_before(&self, time: u64) -> Result<u64, EarningsError> {
        let mut all = 0;
        loop {
            let forgotten = self.forget_some(time)?;
            all += forgotten as u64;
            if forgotten < AT_ONCE {
                return Ok(all);
            }
        }
    }

    fn forget_some(&self, time: u64) -> Result<usize, EarningsError> {
        let end = at(time, &[0; 32]);
        self.with(|database| {
            let transaction = database.begin_write()?;
            let mut old: Vec<[u8; 40]> = Vec::new();
            {
                let mut by_time = transaction.open_table(SIGNED_BY_TIME)?;
                for row in by_time.range::<&[u8; 40]>(..&end)?.take(AT_ONCE) {
                    let (key, _) = row?;
                    old.push(*key.value());
                }
                let mut signed = transaction.open_table(SIGNED)?;
                for key in &old {
                    by_time.remove(key)?;
                    signed.remove(&lease_of(key))?;
                }
            }
            for key in &old {
                remove(&transaction, &lease_of(key))?;
            }
            transaction.commit()?;
            Ok(old.len())
        })
    }
}

/// Makes the tables if they are not there, and fills those that an earlier version did not have.
pub(super) fn create(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let owed = transaction.open_table(OWED)?;
    let mut by_requester = transaction.open_table(BY_REQUESTER)?;
    let mut by_time = transaction.open_table(BY_TIME)?;
    let rows = owed.len()?;
    if by_requester.len()? != rows || by_time.len()? != rows {
        by_requester.retain(|_, _| false)?;
        by_time.retain(|_, _| false)?;
        for row in owed.iter()? {
            let (lease, owes) = row?;
            let (requester, price, since, _) = owes.value();
            by_requester.insert(&of(requester, since, lease.value()), price)?;
            by_time.insert(&at(since, lease.value()), ())?;
        }
    }
    let signed = transaction.open_table(SIGNED)?;
    let mut by_time = transaction.open_table(SIGNED_BY_TIME)?;
    if by_time.len()? != signed.len()? {
        by_time.retain(|_, _| false)?;
        for row in signed.iter()? {
            let (lease, statements) = row?;
            let receipt = Unverified::<Receipt>::decode(statements.value().1);
            let finished = receipt.map_or(0, |receipt| receipt.claimed().finished);
            by_time.insert(&at(finished, lease.value()), ())?;
        }
    }
    Ok(())
}

/// When the last was done of all that is signed.
pub(super) fn newest(transaction: &WriteTransaction) -> Result<Option<u64>, redb::Error> {
    let by_time = transaction.open_table(SIGNED_BY_TIME)?;
    let last = by_time.last()?;
    Ok(last.map(|(key, _)| {
        let mut time = [0; 8];
        time.copy_from_slice(&key.value()[..8]);
        u64::from_be_bytes(time)
    }))
}

/// Notes that something was signed for a lease, and what is owed for it. What costs nothing is not.
pub(super) fn add(
    transaction: &WriteTransaction,
    lease: Digest,
    owes: &Owed,
) -> Result<(), redb::Error> {
    let key = at(owes.since, lease.as_bytes());
    transaction.open_table(SIGNED_BY_TIME)?.insert(&key, ())?;
    if owes.price == Credits::ZERO {
        return Ok(());
    }
    make_room(transaction, MOST)?;
    let requester = owes.requester.as_bytes();
    let node = match owes.node.len() <= TICKET {
        true => owes.node.as_str(),
        false => "",
    };
    let price = owes.price.micro();
    transaction
        .open_table(OWED)?
        .insert(lease.as_bytes(), (requester, price, owes.since, node))?;
    transaction
        .open_table(BY_REQUESTER)?
        .insert(&of(requester, owes.since, lease.as_bytes()), price)?;
    transaction.open_table(BY_TIME)?.insert(&key, ())?;
    Ok(())
}

/// Forgets the oldest of what is owed, until there are fewer than `most`.
fn make_room(transaction: &WriteTransaction, most: u64) -> Result<(), redb::Error> {
    loop {
        let oldest = {
            let by_time = transaction.open_table(BY_TIME)?;
            if by_time.len()? < most {
                return Ok(());
            }
            let first = by_time.first()?;
            first.map(|(key, _)| lease_of(key.value()))
        };
        match oldest {
            Some(lease) => remove(transaction, &lease)?,
            None => return Ok(()),
        }
    }
}

/// Says that a lease is not owed: it was paid, or is forgotten.
pub(super) fn remove(transaction: &WriteTransaction, lease: &[u8; 32]) -> Result<(), redb::Error> {
    let whose = {
        let mut owed = transaction.open_table(OWED)?;
        let row = owed.remove(lease)?;
        row.map(|row| {
            let (requester, _, since, _) = row.value();
            (*requester, since)
        })
    };
    if let Some((requester, since)) = whose {
        transaction
            .open_table(BY_REQUESTER)?
            .remove(&of(&requester, since, lease))?;
        transaction.open_table(BY_TIME)?.remove(&at(since, lease))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use redb::Database;
    use skep_evidence::Statement as _;

    use super::*;
    use crate::Finished;
    use crate::testing::{account, credits, digest, key, receipt};

    fn owed(requester: u8, price: u64, since: u64) -> Owed {
        Owed {
            requester: account(requester),
            price: credits(price),
            since,
            node: "skep1…".to_owned(),
        }
    }

    fn finished() -> Finished {
        Finished {
            commitment: vec![1],
            receipt: vec![2],
        }
    }

    /// What a look at all of it says.
    fn scanned(earnings: &Earnings, requester: u8, since: u64) -> Credits {
        let all = earnings.owed(since).unwrap().into_iter();
        let its = all.filter(|(_, owed)| owed.requester == account(requester));
        let prices = its.map(|(_, owed)| owed.price.micro());
        credits(prices.sum())
    }

    /// How many rows the tables of this file have.
    fn rows(path: &Path) -> [u64; 5] {
        let database = Database::open(path).unwrap();
        let read = database.begin_read().unwrap();
        [
            read.open_table(SIGNED).unwrap().len().unwrap(),
            read.open_table(SIGNED_BY_TIME).unwrap().len().unwrap(),
            read.open_table(OWED).unwrap().len().unwrap(),
            read.open_table(BY_REQUESTER).unwrap().len().unwrap(),
            read.open_table(BY_TIME).unwrap().len().unwrap(),
        ]
    }

    #[derive(Clone, Debug)]
    enum Step {
        Keep(u64, u8, u64, u64),
        Paid(u64),
        Forget(u64),
        Open,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..12_u64, 1..4_u8, 0..3_u64, 0..8_u64)
                .prop_map(|(lease, who, price, since)| Step::Keep(lease, who, price, since)),
            3 => (0..12_u64).prop_map(Step::Paid),
            1 => (0..8_u64).prop_map(Step::Forget),
            1 => Just(Step::Open),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn by_requester_there_are_the_same_sums_as_in_all(
            steps in prop::collection::vec(step(), 1..24),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("earnings");
            let mut earnings = Earnings::open(&path).unwrap();
            for step in steps {
                match step {
                    Step::Keep(lease, who, price, since) => {
                        let owed = owed(who, price, since);
                        earnings.keep(digest("lease", lease), finished(), &owed).unwrap();
                    }
                    Step::Paid(lease) => {
                        earnings.paid(&[receipt(1, lease, 2, 1, 5)]).unwrap();
                    }
                    Step::Forget(time) => {
                        earnings.forget_before(time).unwrap();
                    }
                    Step::Open => {
                        drop(earnings);
                        earnings = Earnings::open(&path).unwrap();
                    }
                }
                for who in 1..4 {
                    for since in [0, 3, 7, 8] {
                        let unpaid = earnings.unpaid(account(who), since).unwrap();
                        prop_assert_eq!(unpaid, scanned(&earnings, who, since));
                    }
                }
            }
            drop(earnings);
            let [signed, by_time, owed, by_requester, owed_by_time] = rows(&path);
            prop_assert_eq!(signed, by_time);
            prop_assert_eq!([by_requester, owed_by_time], [owed; 2]);
        }
    }

    #[test]
    fn what_is_old_is_forgotten_and_what_was_paid_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("earnings");
        let earnings = Earnings::open(&path).unwrap();
        for n in 0..10 {
            let lease = digest("lease", n);
            earnings
                .keep(lease, finished(), &owed(1, 7, 100 + n))
                .unwrap();
        }
        earnings.paid(&[receipt(1, 3, 2, 1, 7)]).unwrap();
        assert_eq!(earnings.forget_before(105).unwrap(), 5);
        assert_eq!(earnings.forget_before(105).unwrap(), 0);
        assert_eq!(earnings.finished(digest("lease", 4)).unwrap(), None);
        assert_eq!(
            earnings.finished(digest("lease", 5)).unwrap(),
            Some(finished())
        );
        assert_eq!(earnings.unpaid(account(1), 0).unwrap(), credits(5 * 7));
        assert_eq!(earnings.receipts().unwrap().len(), 1);
        drop(earnings);
        assert_eq!(rows(&path), [5; 5]);
    }

    #[test]
    fn what_costs_nothing_is_owed_by_nobody_and_leaves_nothing_once_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("earnings");
        let earnings = Earnings::open(&path).unwrap();
        let free = receipt(1, 1, 2, 1, 0);
        let kept = earnings.keep(free.lease, finished(), &owed(1, 0, 100));
        assert_eq!(kept.unwrap(), finished());
        assert_eq!(earnings.owed(0).unwrap(), []);
        earnings.paid(std::slice::from_ref(&free)).unwrap();
        assert_eq!(earnings.receipts().unwrap(), []);
        // Until then one lease has one receipt, whatever it costs.
        let again = Finished {
            commitment: vec![3],
            receipt: vec![4],
        };
        let kept = earnings.keep(free.lease, again, &owed(1, 0, 100));
        assert_eq!(kept.unwrap(), finished());
        assert_eq!(earnings.forget_before(101).unwrap(), 1);
        drop(earnings);
        assert_eq!(rows(&path), [0; 5]);
    }

    #[test]
    fn where_more_is_owed_than_is_kept_the_oldest_go_and_long_tickets_are_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("earnings");
        let earnings = Earnings::open(&path).unwrap();
        for n in [3, 1, 2] {
            let lease = digest("lease", n);
            earnings
                .keep(lease, finished(), &owed(1, 1 << n, n))
                .unwrap();
        }
        let room = |most| {
            earnings.with(|database| {
                let transaction = database.begin_write()?;
                make_room(&transaction, most)?;
                transaction.commit()?;
                Ok(())
            })
        };
        room(4).unwrap();
        assert_eq!(earnings.unpaid(account(1), 0).unwrap(), credits(2 + 4 + 8));
        room(2).unwrap();
        assert_eq!(earnings.unpaid(account(1), 0).unwrap(), credits(8));
        let long = Owed {
            node: "s".repeat(TICKET + 1),
            ..owed(2, 5, 9)
        };
        earnings
            .keep(digest("lease", 9), finished(), &long)
            .unwrap();
        let all = earnings.owed(9).unwrap();
        assert_eq!((all.len(), all[0].1.node.as_str()), (1, ""));
    }

    #[test]
    fn a_file_of_an_earlier_version_gets_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("earnings");
        let agreed = receipt(1, 2, 2, 1, 7);
        let signed = Receipt::clone(&agreed).sign(&key(2)).unwrap();
        let requester = account(1);
        {
            let database = Database::create(&path).unwrap();
            let transaction = database.begin_write().unwrap();
            {
                let mut owed = transaction.open_table(OWED).unwrap();
                let row = (requester.as_bytes(), 7_u64, 50_u64, "skep1…");
                owed.insert(agreed.lease.as_bytes(), row).unwrap();
                let mut table = transaction.open_table(SIGNED).unwrap();
                let encoded = signed.encode();
                let row = (&b"commitment"[..], encoded.as_slice());
                table.insert(agreed.lease.as_bytes(), row).unwrap();
            }
            transaction.commit().unwrap();
        }
        let earnings = Earnings::open(&path).unwrap();
        assert_eq!(earnings.unpaid(account(1), 50).unwrap(), credits(7));
        assert_eq!(earnings.unpaid(account(1), 51).unwrap(), Credits::ZERO);
        // The receipt says when it was signed.
        assert_eq!(earnings.forget_before(agreed.finished).unwrap(), 0);
        assert_eq!(earnings.forget_before(agreed.finished + 1).unwrap(), 1);
        assert_eq!(earnings.owed(0).unwrap(), []);
    }
}
