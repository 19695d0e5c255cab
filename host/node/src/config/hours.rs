//! Hours of a day, as an owner writes them.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// A part of each day by the machine's own clock, such as `22:00-07:30`: from the first minute, up to
/// and without the last. It may go over midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Hours {
    from: u16,
    to: u16,
}

/// What is not such a part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no part of a day; write it as `22:00-07:30`")]
pub struct NoHours(String);

impl Hours {
    /// Whether a minute of the day, from 0 to 1,439, is in it.
    pub fn contain(self, minute: u16) -> bool {
        match self.from <= self.to {
            true => (self.from..self.to).contains(&minute),
            false => minute >= self.from || minute < self.to,
        }
    }
}

impl FromStr for Hours {
    type Err = NoHours;

    fn from_str(text: &str) -> Result<Self, NoHours> {
        let minute = |text: &str| {
            let (hour, minute) = text.trim().split_once(':')?;
            let number = |text: &str| match text.len() {
                1..=2 if text.bytes().all(|letter| letter.is_ascii_digit()) => text.parse().ok(),
                _ => None,
            };
            let (hour, minute): (u16, u16) = (number(hour)?, number(minute)?);
            (minute < 60 && hour * 60 + minute <= DAY).then_some(hour * 60 + minute)
        };
        let parts = text.split_once('-');
        parts
            .and_then(|(from, to)| {
                let hours = Self {
                    from: minute(from)?,
                    to: minute(to)?,
                };
                (hours.from != hours.to).then_some(hours)
            })
            .ok_or_else(|| NoHours(text.to_owned()))
    }
}

impl TryFrom<String> for Hours {
    type Error = NoHours;

    fn try_from(text: String) -> Result<Self, NoHours> {
        text.parse()
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        let (from, to) = ((from / 60, from % 60), (to / 60, to % 60));
        write!(f, "{:02}:{:02}-{:02}:{:02}", from.0, from.1, to.0, to.1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hours_go_over_midnight_and_end_before_their_last_minute() {
        for (text, inside, outside) in [
            ("9:00-17:30", &[540, 1049][..], &[0, 539, 1050, 1439][..]),
            ("22:00-07:30", &[1320, 1439, 0, 449], &[450, 1319]),
            ("00:00-24:00", &[0, 1439], &[]),
            (" 23:59 - 00:00", &[1439], &[0, 1438]),
        ] {
            let hours: Hours = text.parse().unwrap();
            assert!(inside.iter().all(|minute| hours.contain(*minute)), "{text}");
            assert!(
                !outside.iter().any(|minute| hours.contain(*minute)),
                "{text}"
            );
            assert_eq!(hours.to_string().parse(), Ok(hours));
        }
        for text in [
            "",
            "9-17",
            "09:00",
            "09:60-10:00",
            "24:01-1:00",
            "+9:00-10:00",
            "8:00-8:00",
            "008:00-9:00",
        ] {
            assert!(text.parse::<Hours>().is_err(), "{text}");
        }
    }
}
