//! Dates as templates ask for them, by the letters of C's `strftime`.

use std::fmt::Write;

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Writes the moment `seconds` after 1970-01-01 UTC by `format`. A letter that is not known is
/// left as it is.
pub(super) fn format(format: &str, seconds: u64) -> String {
    // No date of a template is beyond the year 9999.
    let seconds = seconds.min(253_402_300_799);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let month_name = MONTHS.get(month as usize - 1).unwrap_or(&"");
    let day_name = DAYS[(days as usize + 4) % 7];
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        // Writing to a string does not fail.
        let _ = match letters.next() {
            Some('Y') => write!(out, "{year}"),
            Some('y') => write!(out, "{:02}", year % 100),
            Some('m') => write!(out, "{month:02}"),
            Some('d') => write!(out, "{day:02}"),
            Some('e') => write!(out, "{day:2}"),
            Some('B') => write!(out, "{month_name}"),
            Some('b' | 'h') => write!(out, "{month_name:.3}"),
            Some('A') => write!(out, "{day_name}"),
            Some('a') => write!(out, "{day_name:.3}"),
            Some('H') => write!(out, "{hour:02}"),
            Some('I') => write!(out, "{:02}", (hour + 11) % 12 + 1),
            Some('p') => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
            Some('M') => write!(out, "{minute:02}"),
            Some('S') => write!(out, "{:02}", second % 60),
            Some('F') => write!(out, "{year}-{month:02}-{day:02}"),
            Some('T') => write!(out, "{hour:02}:{minute:02}:{:02}", second % 60),
            Some('%') => write!(out, "%"),
            Some(other) => write!(out, "%{other}"),
            None => write!(out, "%"),
        };
    }
    out
}

/// Year, month and day of a number of days after 1970-01-01, by counting from the first of March
/// of the year 0 in spans of 400 years, which all have 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (span, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let january = month >= 10;
    let month = if january { month - 9 } else { month + 3 };
    (400 * span + year + u64::from(january), month, day)
}

#[cfg(test)]
mod tests {
    use super::format;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(format("%F %T %A", 0), "1970-01-01 00:00:00 Thursday");
        assert_eq!(format("%d %b %Y", 951_782_400), "29 Feb 2000");
        assert_eq!(
            format("%a %e %B %y %I:%M %p %H%S%%%", 1_700_000_000),
            "Tue 14 November 23 10:13 PM 2220%%"
        );
        assert_eq!(format("%Q", 1), "%Q");
        assert_eq!(format("%F", u64::MAX), "9999-12-31");
        for (days, expected) in [
            (59, "1970-03-01"),
            (19_782, "2024-02-29"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(format("%F", days * 86_400), expected);
        }
    }
}
