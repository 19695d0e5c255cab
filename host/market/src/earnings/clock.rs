//! Whether a reading of the clock is one by which things may be forgotten.
//!
//! A clock that is a month ahead for one start, as of a machine whose battery is empty, would have all forgotten that
//! was signed: nobody could pay it any more, and the same lease would be signed a second time.

use redb::ReadableTable as _;

use super::{Earnings, EarningsError, META, owing};

/// The last reading that was trusted.
const SEEN: &str = "seen";
/// The first of those readings since then that are too far ahead of it.
const AHEAD: &str = "ahead";
/// So much later than the last one a reading may be, in milliseconds: what is forgotten a day too early is not taken
/// again.
const LEAP: u64 = 24 * 60 * 60 * 1000;
/// One that is later is trusted if the clock still says so after this time, in milliseconds.
const CONFIRMED: u64 = 30 * 60 * 1000;

impl Earnings {
    /// Whether what is old by this reading of the clock, in milliseconds since 1970, may be forgotten. A reading that is
    /// more than a day later than the one before may be wrong, or nothing was read meanwhile: it is trusted if the
    /// clock has gone on from there for half an hour, and for no more than a day.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn trusts(&self, now: u64) -> Result<bool, EarningsError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            let signed = owing::newest(&transaction)?;
            let is_trusted = {
                let mut meta = transaction.open_table(META)?;
                let seen = meta.get(SEEN)?.map(|found| found.value());
                let ahead = meta.get(AHEAD)?.map(|found| found.value());
                let seen = seen.or(signed).unwrap_or(now);
                // How long ago the clock was as far ahead, if it can have gone on from there.
                let since = ahead.and_then(|ahead| now.checked_sub(ahead));
                let since = since.filter(|since| *since <= LEAP);
                let is_trusted = now <= seen.saturating_add(LEAP)
                    || since.is_some_and(|since| since >= CONFIRMED);
                if is_trusted {
                    meta.insert(SEEN, now)?;
                    meta.remove(AHEAD)?;
                } else if since.is_none() {
                    meta.insert(AHEAD, now)?;
                }
                is_trusted
            };
            transaction.commit()?;
            Ok(is_trusted)
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
        let trusts = |now| earnings.trusts(now).unwrap();
        // Before the first reading there is what was signed.
        assert!(!trusts(THEN + 31 * LEAP));
        assert!(trusts(THEN + LEAP));
        assert!(trusts(THEN + 2 * LEAP));
        let back = THEN + 10 * LEAP;
        assert!(!trusts(back));
        assert!(!trusts(back + CONFIRMED - 1));
        assert!(trusts(back + CONFIRMED));
        assert!(trusts(back + HOUR));
    }

    #[test]
    fn two_wrong_readings_do_not_speak_for_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let earnings = earnings(folder.path());
        let trusts = |now| earnings.trusts(now).unwrap();
        assert!(trusts(THEN));
        // The machine was off for days, and at its next start the clock is wrong.
        assert!(!trusts(THEN + 3 * LEAP));
        assert!(!trusts(THEN + 34 * LEAP));
        assert!(!trusts(THEN + 34 * LEAP + MINUTE));
        // It is right again, and what was wrong counts for nothing.
        assert!(!trusts(THEN + 3 * LEAP + HOUR));
        assert!(trusts(THEN + 3 * LEAP + 2 * HOUR));
        assert!(!trusts(THEN + 34 * LEAP + HOUR));
        // A clock that is behind forgets nothing that is not old, and all is well one round after it is right.
        assert!(trusts(LEAP));
        assert!(!trusts(THEN + 4 * LEAP));
        assert!(trusts(THEN + 4 * LEAP + HOUR));
    }

    #[test]
    fn where_nothing_was_signed_any_clock_is_good() {
        let folder = tempfile::tempdir().unwrap();
        let earnings = Earnings::open(&folder.path().join("earnings")).unwrap();
        assert!(earnings.trusts(THEN).unwrap());
        assert!(!earnings.trusts(THEN + 2 * LEAP).unwrap());
    }
}
