//! By which reading of the clock things may be forgotten.
//!
//! A clock that is a month ahead for one start, as of a machine whose battery is empty, would have all forgotten that
//! was signed: nobody could pay it any more, and the same lease would be signed a second time. On the other hand a node
//! that is never up for long, and off for days in between, has to forget as well. So what a clock says is believed once
//! it has gone on from there while somebody looked, or once a later start says that it is later still.

use redb::ReadableTable as _;

use super::{Earnings, EarningsError, META, owing};

/// The last reading that was trusted.
const SEEN: &str = "seen";
/// One since then that is too far ahead of it, and waits for another to confirm it.
const AHEAD: &str = "ahead";
/// So much later than the last one a reading may be, in milliseconds: what is forgotten a day too early is not taken
/// again.
const LEAP: u64 = 24 * 60 * 60 * 1000;
/// One that is later is trusted if the clock still says so after this time, in milliseconds.
const CONFIRMED: u64 = 30 * 60 * 1000;

impl Earnings {
    /// The time by which things may be forgotten where the clock says `now`, both in milliseconds since 1970;
    /// nothing if there is none yet. It is never later than `now`.
    ///
    /// A reading that is more than a day later than the last trusted one may be wrong, or nothing was read meanwhile.
    /// It is trusted if the clock has gone on from there for half an hour, and for no more than a day. Where it is more
    /// than a day later than one that waits for that, as at the next start of a node that was up for minutes, the
    /// earlier of the two is trusted, and the later one waits in its place: a single wrong reading has nothing
    /// forgotten, whichever of them it is.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn trusted(&self, now: u64) -> Result<Option<u64>, EarningsError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            let signed = owing::newest(&transaction)?;
            let trusted = {
                let mut meta = transaction.open_table(META)?;
                let seen = meta.get(SEEN)?.map(|found| found.value());
                let ahead = meta.get(AHEAD)?.map(|found| found.value());
                let seen = seen.or(signed).unwrap_or(now);
                // The reading that waits, and how long ago that was, if the clock can have gone on from there.
                let since = ahead.and_then(|ahead| Some((ahead, now.checked_sub(ahead)?)));
                let (trusted, waits) = match since {
                    _ if now <= seen.saturating_add(LEAP) => (Some(now), None),
                    Some((ahead, since)) if since > LEAP => (Some(ahead), Some(now)),
                    Some((_, since)) if since >= CONFIRMED => (Some(now), None),
                    Some((ahead, _)) => (None, Some(ahead)),
                    None => (None, Some(now)),
                };
                if let Some(trusted) = trusted {
                    meta.insert(SEEN, trusted)?;
                }
                match waits {
                    Some(waits) => {
                        meta.insert(AHEAD, waits)?;
                    }
                    None => {
                        meta.remove(AHEAD)?;
                    }
                }
                trusted
            };
            transaction.commit()?;
            Ok(trusted)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Owed;
    use crate::testing::{account, credits, digest};

    const MINUTE: u64 = 60 * 1000;
    const HOUR: u64 = 60 * MINUTE;
    /// When something was signed.
    const THEN: u64 = 100 * LEAP;

    fn earnings(path: &std::path::Path) -> Earnings {
        let earnings = Earnings::open(&path.join("earnings")).unwrap();
        let owed = Owed {
            requester: account(1),
            price: credits(7),
            since: THEN,
            node: String::new(),
        };
        let finished = crate::Finished {
            commitment: vec![1],
            receipt: vec![2],
        };
        earnings.keep(digest("lease", 1), finished, &owed).unwrap();
        earnings
    }

    #[test]
    fn a_clock_that_is_far_ahead_is_trusted_once_it_has_gone_on_from_there() {
        let folder = tempfile::tempdir().unwrap();
        let earnings = earnings(folder.path());
        let trusted = |now| earnings.trusted(now).unwrap();
        // Before the first reading there is what was signed.
        assert_eq!(trusted(THEN + 31 * LEAP), None);
        for now in [THEN + LEAP, THEN + 2 * LEAP] {
            assert_eq!(trusted(now), Some(now));
        }
        let back = THEN + 10 * LEAP;
        assert_eq!(trusted(back), None);
        assert_eq!(trusted(back + CONFIRMED - 1), None);
        for now in [back + CONFIRMED, back + HOUR] {
            assert_eq!(trusted(now), Some(now));
        }
    }

    #[test]
    fn two_wrong_readings_do_not_speak_for_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let earnings = earnings(folder.path());
        let trusted = |now| earnings.trusted(now).unwrap();
        assert_eq!(trusted(THEN), Some(THEN));
        // The machine was off for days, and at its next start the clock is wrong: by the two of them it is the earlier.
        let off = THEN + 3 * LEAP;
        let wrong = THEN + 34 * LEAP;
        assert_eq!(trusted(off), None);
        assert_eq!(trusted(wrong), Some(off));
        assert_eq!(trusted(wrong + MINUTE), None);
        // It is right again, and what was wrong counts for nothing.
        for now in [off + HOUR, off + 2 * HOUR] {
            assert_eq!(trusted(now), Some(now));
        }
        assert_eq!(trusted(wrong + HOUR), None);
        // A clock that is behind forgets nothing that is not old, and all is well one round after it is right.
        assert_eq!(trusted(LEAP), Some(LEAP));
        let next = THEN + 4 * LEAP;
        assert_eq!(trusted(next), None);
        assert_eq!(trusted(next + HOUR), Some(next + HOUR));
    }

    #[test]
    fn a_node_that_is_never_up_for_long_is_told_the_time_by_its_starts() {
        let folder = tempfile::tempdir().unwrap();
        drop(earnings(folder.path()));
        // At each start the file is opened anew: nothing is known but what is in it.
        let started = |now| {
            let earnings = Earnings::open(&folder.path().join("earnings")).unwrap();
            let trusted = earnings.trusted(now).unwrap();
            // A few minutes are nothing.
            assert_eq!(earnings.trusted(now + 5 * MINUTE).unwrap(), None);
            trusted
        };
        let day = |day: u64| THEN + day * LEAP;
        assert_eq!(started(day(3)), None);
        assert_eq!(started(day(6)), Some(day(3)));
        assert_eq!(started(day(9)), Some(day(6)));
        // The clock is an hour off, and then a month ahead for one start.
        assert_eq!(started(day(12) - HOUR), Some(day(9)));
        assert_eq!(started(day(45)), Some(day(12) - HOUR));
        assert_eq!(started(day(15)), None);
        assert_eq!(started(day(18)), Some(day(15)));
        // Nobody goes by one that is further ahead the next time, before it was seen twice.
        assert_eq!(started(day(100)), Some(day(18)));
        assert_eq!(started(day(21)), None);
        assert_eq!(started(day(24)), Some(day(21)));
    }

    #[test]
    fn where_nothing_was_signed_any_clock_is_good() {
        let folder = tempfile::tempdir().unwrap();
        let earnings = Earnings::open(&folder.path().join("earnings")).unwrap();
        assert_eq!(earnings.trusted(THEN).unwrap(), Some(THEN));
        assert_eq!(earnings.trusted(THEN + 2 * LEAP).unwrap(), None);
    }
}
