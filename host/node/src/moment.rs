//! Times for a person.

use chrono::DateTime;

/// A time in milliseconds since 1970, to the minute.
pub fn moment(ms: u64) -> String {
    let time = i64::try_from(ms)
        .ok()
        .and_then(DateTime::from_timestamp_millis);
    time.map_or_else(
        || "the end of time".to_owned(),
        |time| time.format("%Y-%m-%d %H:%M UTC").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_to_the_minute_and_may_be_beyond_what_there_is() {
        assert_eq!(moment(0), "1970-01-01 00:00 UTC");
        assert_eq!(moment(1_000_000_000_000), "2001-09-09 01:46 UTC");
        assert_eq!(moment(u64::MAX), "the end of time");
    }
}
