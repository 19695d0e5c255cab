//! Leases that a provider has begun: a note of each from when it is accepted until it is over, so that
//! a process that was killed in the middle leaves behind whom to tell.
//!
//! # What it must never do
//!
//! - Grow: there are no more notes than leases that may be here at once, and as many of those that were
//!   interrupted, whatever ends without saying so.
//! - Hold anything of the work: a note says which lease, whose, and until when.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use redb::{
    ReadableDatabase as _, ReadableTable, ReadableTableMetadata as _, TableDefinition,
    WriteTransaction,
};
use skep_evidence::AccountId;
use skep_registry::Digest;

use super::{Change, Earnings, EarningsError, META};

/// A note: lease, requester, until when, and a ticket.
type Row = (&'static [u8; 32], &'static [u8; 32], u64, &'static str);

/// The lease, who asked for it, until when, and where that one is reached, by how many were begun before.
/// One lease may be here twice: it is asked for again before anyone here knows that its requester has gone.
const BEGUN: TableDefinition<'_, u64, Row> = TableDefinition::new("begun");
/// The same by the lease, of those whose process has gone, until their requesters know.
const INTERRUPTED: TableDefinition<'_, &[u8; 32], (&[u8; 32], u64, &str)> =
    TableDefinition::new("interrupted");
/// How many there were ever.
const INTERRUPTIONS: &str = "interruptions";

/// A lease that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Which.
    pub lease: Digest,
    /// Who asked for it.
    pub requester: AccountId,
    /// Until when anybody waits for it, in milliseconds since 1970.
    pub until: u64,
    /// The ticket of the node that asked for it, by which it can be told.
    pub node: String,
}

impl Earnings {
    /// Notes that the work of a lease begins. Of interrupted work of the same lease nobody is told any
    /// more. What comes back is the number under which the note is taken away again ([`Earnings::end`]).
    ///
    /// There are at most `most` notes: if there are more, the oldest go.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn begin(&self, work: &Unfinished, most: usize) -> Result<u64, EarningsError> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        self.write_with_others(Change::Begun {
            number,
            work: work.clone(),
            most,
        })?;
        Ok(number)
    }

    /// Takes the note of a lease away: it was delivered or refused, or nobody waits for it any more.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn end(&self, number: u64) -> Result<(), EarningsError> {
        self.write_with_others(Change::Ended { number }).map(drop)
    }

    /// Says of all leases that were begun and are not over that they were interrupted, and which these
    /// are. It is for a process that has begun none yet: whoever did has gone.
    ///
    /// At most `most` are to be told of, those for which somebody waits the longest, and none for which
    /// nobody waits `now`, in milliseconds since 1970. All of them are counted.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn interrupt(&self, most: usize, now: u64) -> Result<Vec<Unfinished>, EarningsError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            let mut found = BTreeMap::new();
            {
                let mut begun = transaction.open_table(BEGUN)?;
                while let Some((_, row)) = begun.pop_first()? {
                    let (lease, requester, until, node) = row.value();
                    let lease = Digest::from_bytes(*lease);
                    found.insert(lease, read(lease, (requester, until, node)));
                }
                let mut interrupted = transaction.open_table(INTERRUPTED)?;
                for work in found.values() {
                    let row = (work.requester.as_bytes(), work.until, work.node.as_str());
                    interrupted.insert(work.lease.as_bytes(), row)?;
                }
                let mut all = list(&interrupted)?;
                all.sort_by_key(|work| Reverse(work.until));
                let waited_for = all.iter().take(most).take_while(|work| work.until > now);
                for work in all.iter().skip(waited_for.count()) {
                    interrupted.remove(work.lease.as_bytes())?;
                }
                let mut meta = transaction.open_table(META)?;
                let before = meta.get(INTERRUPTIONS)?.map_or(0, |found| found.value());
                meta.insert(INTERRUPTIONS, before.saturating_add(found.len() as u64))?;
            }
            transaction.commit()?;
            Ok(found.into_values().collect())
        })
    }

    /// The leases that were interrupted and whose requesters do not know it.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn untold(&self) -> Result<Vec<Unfinished>, EarningsError> {
        self.with(|database| list(&database.begin_read()?.open_table(INTERRUPTED)?))
    }

    /// Whether a lease was interrupted, its requester does not know it, and nobody has begun it anew.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn is_untold(&self, lease: Digest) -> Result<bool, EarningsError> {
        self.with(|database| {
            let interrupted = database.begin_read()?.open_table(INTERRUPTED)?;
            Ok(interrupted.get(lease.as_bytes())?.is_some())
        })
    }

    /// Forgets that a lease was interrupted: its requester knows it, or waits for it no more.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn told(&self, lease: Digest) -> Result<(), EarningsError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            transaction
                .open_table(INTERRUPTED)?
                .remove(lease.as_bytes())?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// How many leases were ever interrupted.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn interruptions(&self) -> Result<u64, EarningsError> {
        self.with(|database| {
            let meta = database.begin_read()?.open_table(META)?;
            Ok(meta.get(INTERRUPTIONS)?.map_or(0, |found| found.value()))
        })
    }
}

/// Makes the tables if they are not there.
pub(super) fn create(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(BEGUN)?;
    transaction.open_table(INTERRUPTED)?;
    Ok(())
}

/// Writes a note, as one of `most`.
pub(super) fn write(
    transaction: &WriteTransaction,
    number: u64,
    work: &Unfinished,
    most: usize,
) -> Result<(), redb::Error> {
    let lease = work.lease.as_bytes();
    let mut begun = transaction.open_table(BEGUN)?;
    // These ended without saying so.
    while begun.len()? >= most.max(1) as u64 {
        begun.pop_first()?;
    }
    let row = (
        lease,
        work.requester.as_bytes(),
        work.until,
        work.node.as_str(),
    );
    begun.insert(number, row)?;
    transaction.open_table(INTERRUPTED)?.remove(lease)?;
    Ok(())
}

/// Takes a note away.
pub(super) fn remove(transaction: &WriteTransaction, number: u64) -> Result<(), redb::Error> {
    transaction.open_table(BEGUN)?.remove(number)?;
    Ok(())
}

fn list(
    interrupted: &impl ReadableTable<&'static [u8; 32], (&'static [u8; 32], u64, &'static str)>,
) -> Result<Vec<Unfinished>, redb::Error> {
    let mut all = Vec::new();
    for row in interrupted.iter()? {
        let (lease, row) = row?;
        all.push(read(Digest::from_bytes(*lease.value()), row.value()));
    }
    Ok(all)
}

fn read(lease: Digest, (requester, until, node): (&[u8; 32], u64, &str)) -> Unfinished {
    Unfinished {
        lease,
        requester: AccountId::from_bytes(*requester),
        until,
        node: node.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing::{account, credits, digest};
    use crate::{Finished, Owed};

    fn work(number: u64, until: u64) -> Unfinished {
        Unfinished {
            lease: digest("lease", number),
            requester: account(1),
            until,
            node: "skep1…".to_owned(),
        }
    }

    fn by_lease(mut all: Vec<Unfinished>) -> Vec<Unfinished> {
        all.sort_by_key(|work| work.lease);
        all
    }

    #[test]
    fn what_a_process_has_begun_and_not_ended_the_next_one_finds_interrupted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("earnings");
        {
            let earnings = Earnings::open(&path).unwrap();
            assert_eq!(earnings.interrupt(4, 0).unwrap(), []);
            let numbers = [1, 2, 3, 3].map(|n| earnings.begin(&work(n, 10), 4).unwrap());
            earnings.end(numbers[1]).unwrap();
            // The lease is at work in the conversation that took this one's place.
            earnings.end(numbers[2]).unwrap();
        }
        let left = by_lease(vec![work(1, 10), work(3, 10)]);
        {
            let earnings = Earnings::open(&path).unwrap();
            assert_eq!(earnings.untold().unwrap(), []);
            assert_eq!(by_lease(earnings.interrupt(4, 0).unwrap()), left);
            assert_eq!(by_lease(earnings.untold().unwrap()), left);
            earnings.told(work(3, 10).lease).unwrap();
            assert!(!earnings.is_untold(work(3, 10).lease).unwrap());
        }
        let earnings = Earnings::open(&path).unwrap();
        assert_eq!(earnings.interrupt(4, 0).unwrap(), []);
        assert_eq!(earnings.untold().unwrap(), [work(1, 10)]);
        assert_eq!(earnings.interruptions().unwrap(), 2);
        // It is asked for again, and done: there is nothing to tell.
        assert!(earnings.is_untold(work(1, 10).lease).unwrap());
        let number = earnings.begin(&work(1, 20), 4).unwrap();
        assert!(!earnings.is_untold(work(1, 10).lease).unwrap());
        earnings.end(number).unwrap();
        assert_eq!(earnings.interrupt(4, 0).unwrap(), []);
        assert_eq!(earnings.interruptions().unwrap(), 2);
    }

    #[test]
    fn there_are_no_more_notes_than_leases_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let earnings = Earnings::open(&folder.path().join("earnings")).unwrap();
        for n in 0..5 {
            earnings.begin(&work(n, 100 + n), 3).unwrap();
        }
        let found = earnings.interrupt(3, 0).unwrap();
        let last = by_lease((2..5).map(|n| work(n, 100 + n)).collect());
        assert_eq!(found, last);
        // Together with those from before there are as many again, and those that are waited for longest.
        for n in 5..8 {
            earnings.begin(&work(n, 103), 3).unwrap();
        }
        earnings.begin(&work(8, 200), 3).unwrap();
        assert_eq!(earnings.interrupt(3, 0).unwrap().len(), 3);
        let untold = earnings.untold().unwrap();
        let until: BTreeSet<u64> = untold.iter().map(|work| work.until).collect();
        assert_eq!((untold.len(), until), (3, [103, 104, 200].into()));
        assert_eq!(earnings.interruptions().unwrap(), 6);
        // Nobody waits for these any more.
        assert_eq!(earnings.interrupt(3, 104).unwrap(), []);
        assert_eq!(earnings.untold().unwrap(), [work(8, 200)]);
    }

    #[test]
    fn of_what_many_begin_sign_and_end_at_once_only_that_is_left_which_is_not_over() {
        let folder = tempfile::tempdir().unwrap();
        let earnings = Earnings::open(&folder.path().join("earnings")).unwrap();
        let owed = Owed {
            requester: account(1),
            price: credits(7),
            since: 1,
            node: "skep1…".to_owned(),
        };
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (earnings, owed) = (&earnings, &owed);
                scope.spawn(move || {
                    for n in 0..20 {
                        let work = work(100 * thread + n, 10);
                        let number = earnings.begin(&work, 8).unwrap();
                        let finished = Finished {
                            commitment: work.lease.as_bytes().to_vec(),
                            receipt: Vec::new(),
                        };
                        let kept = earnings.keep(work.lease, finished.clone(), owed).unwrap();
                        assert_eq!(kept, finished);
                        if n < 19 {
                            earnings.end(number).unwrap();
                        }
                    }
                });
            }
        });
        let left = (0..8).map(|thread| work(100 * thread + 19, 10)).collect();
        assert_eq!(earnings.interrupt(8, 0).unwrap(), by_lease(left));
        assert_eq!(earnings.owed(0).unwrap().len(), 8 * 20);
    }
}
