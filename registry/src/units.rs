//! Amounts as people write them: `256 MiB`, `30 s`, `10 TFLOP`, and credits.
//!
//! A unit is always written, so that nobody takes bytes for megabytes; credits alone have none, as a
//! price has none on a label. Everything is exact: an
//! amount that does not come to a whole number of the smallest unit is refused, never rounded,
//! and what is printed is read back as the same amount.

use std::time::Duration;

/// A unit: how it is written, and what it stands for in the smallest unit of its kind.
type Unit = (&'static str, u64);

/// Bytes: the binary units of IEC 80000-13 and the decimal ones of the SI.
const BYTES: Kind = Kind {
    what: "a size",
    smallest: "bytes",
    examples: "`256 MiB`, `1.5 GB` or `4096 B`",
    units: &[
        ("B", 1),
        ("kB", 1_000),
        ("KB", 1_000),
        ("KiB", 1 << 10),
        ("MB", 1_000_000),
        ("MiB", 1 << 20),
        ("GB", 1_000_000_000),
        ("GiB", 1 << 30),
        ("TB", 1_000_000_000_000),
        ("TiB", 1 << 40),
    ],
    printed: &[
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("B", 1),
    ],
};

const MILLISECONDS: Kind = Kind {
    what: "a duration",
    smallest: "milliseconds",
    examples: "`30 s`, `500 ms` or `1.5 h`",
    units: &[
        ("ms", 1),
        ("s", 1_000),
        ("min", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ],
    printed: &[
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("min", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ],
};

const WORK: Kind = Kind {
    what: "an amount of work",
    smallest: "floating-point operations",
    examples: "`10 TFLOP`, `1.5 PFLOP` or `500 GFLOP`",
    units: &[
        ("FLOP", 1),
        ("kFLOP", 1_000),
        ("MFLOP", 1_000_000),
        ("GFLOP", 1_000_000_000),
        ("TFLOP", 1_000_000_000_000),
        ("PFLOP", 1_000_000_000_000_000),
    ],
    printed: &[
        ("PFLOP", 1_000_000_000_000_000),
        ("TFLOP", 1_000_000_000_000),
        ("GFLOP", 1_000_000_000),
        ("MFLOP", 1_000_000),
        ("kFLOP", 1_000),
        ("FLOP", 1),
    ],
};

/// Reads a size such as `256 MiB`, in bytes.
///
/// # Errors
///
/// When the text has no unit, an unknown one, or comes to no whole number of bytes.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    BYTES.parse(text)
}

/// Writes a size in the largest binary unit that divides it: `268435456` is `256 MiB`.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    BYTES.format(bytes)
}

/// Reads a duration such as `30 s`, to the millisecond.
///
/// # Errors
///
/// When the text has no unit, an unknown one, or comes to no whole number of milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    MILLISECONDS.parse(text).map(Duration::from_millis)
}

/// Writes a duration in the largest unit that divides its milliseconds: `90 s`, not `1.5 min`.
/// What is finer than a millisecond is not written.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    MILLISECONDS.format(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Reads an amount of work such as `10 TFLOP`, in floating-point operations.
///
/// # Errors
///
/// When the text has no unit, an unknown one, or comes to no whole number of operations.
pub fn parse_work(text: &str) -> Result<u64, UnitError> {
    WORK.parse(text)
}

/// Writes an amount of work in the largest unit that divides it.
#[must_use]
pub fn format_work(flops: u64) -> String {
    WORK.format(flops)
}

/// The millionths that a credit has.
pub const CREDIT: u64 = 1_000_000;
/// The most there can be of all credits together, in millionths: sums of it fit in 63 bits.
pub const MAX_CREDITS: u64 = i64::MAX as u64;

/// Reads an amount of credits such as `2` or `0.25`, in millionths.
///
/// # Errors
///
/// When the text is anything but digits and at most six decimals, or more than there can be.
pub fn parse_credits(text: &str) -> Result<u64, CreditsError> {
    let error = || CreditsError {
        text: text.chars().take(40).collect(),
    };
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let fits = !whole.is_empty() && (1..=6).contains(&decimals.len());
    if !fits || !digits(whole) || !digits(decimals) {
        return Err(error());
    }
    let whole: u64 = whole.parse().map_err(|_| error())?;
    let decimals: u64 = format!("{decimals:0<6}").parse().map_err(|_| error())?;
    let micro = whole.checked_mul(CREDIT);
    micro
        .and_then(|micro| micro.checked_add(decimals))
        .filter(|micro| *micro <= MAX_CREDITS)
        .ok_or_else(error)
}

/// Writes millionths of a credit as credits, with as many decimals as needed: `1.25`.
#[must_use]
pub fn format_credits(micro: u64) -> String {
    let text = format!("{}.{:06}", micro / CREDIT, micro % CREDIT);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A text is not an amount of credits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no amount of credits; write a number such as 2 or 0.25, with at most six decimals"
)]
pub struct CreditsError {
    /// The text, cut after 40 characters.
    text: String,
}

/// One kind of amount.
struct Kind {
    what: &'static str,
    smallest: &'static str,
    examples: &'static str,
    units: &'static [Unit],
    /// The units that are printed, largest first; the last is worth one.
    printed: &'static [Unit],
}

impl Kind {
    fn parse(&self, text: &str) -> Result<u64, UnitError> {
        let trimmed = text.trim();
        let number_end = trimmed
            .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_'))
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(number_end);
        let unit = unit.trim_start();
        let Some((digits, decimals)) = read_number(number) else {
            return Err(self.error(text, Reason::NoNumber));
        };
        if unit.is_empty() {
            return Err(self.error(text, Reason::NoUnit));
        }
        let Some((_, worth)) = self.units.iter().find(|(name, _)| *name == unit) else {
            return Err(self.error(
                text,
                Reason::UnknownUnit {
                    nearest: self.nearest(unit),
                },
            ));
        };
        // digits < 10^20 < 2^67 and worth < 2^50, so the product fits in 128 bits.
        let total = digits * u128::from(*worth);
        let divisor = 10_u128.pow(decimals);
        if !total.is_multiple_of(divisor) {
            return Err(self.error(text, Reason::Fraction));
        }
        u64::try_from(total / divisor).map_err(|_| self.error(text, Reason::TooLarge))
    }

    fn format(&self, amount: u64) -> String {
        let unit = self
            .printed
            .iter()
            .find(|(_, worth)| amount >= *worth && amount.is_multiple_of(*worth));
        // Nothing is the largest unit of nothing: zero is printed in the smallest.
        match unit {
            Some((name, worth)) => format!("{} {name}", amount / worth),
            None => format!(
                "{amount} {}",
                self.printed.last().map_or("", |(name, _)| name)
            ),
        }
    }

    /// The unit that differs from `unit` in its case only, if there is one.
    fn nearest(&self, unit: &str) -> Option<&'static str> {
        self.units
            .iter()
            .map(|(name, _)| *name)
            .find(|name| name.eq_ignore_ascii_case(unit))
    }

    fn error(&self, text: &str, reason: Reason) -> UnitError {
        UnitError {
            text: text.chars().take(40).collect(),
            what: self.what,
            smallest: self.smallest,
            examples: self.examples,
            reason,
        }
    }
}

/// Reads `12`, `1_000` or `1.25` as its digits and the number of those after the point; at most
/// 20 digits in all.
fn read_number(text: &str) -> Option<(u128, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let fraction = fraction.trim_end_matches('0');
    let plain =
        |digits: &str| !digits.starts_with('_') && !digits.ends_with('_') && !digits.contains("__");
    if whole.is_empty() || text.ends_with('.') || !plain(whole) || fraction.contains(['.', '_']) {
        return None;
    }
    let digits: String = whole
        .chars()
        .chain(fraction.chars())
        .filter(|c| *c != '_')
        .collect();
    let digits = digits.trim_start_matches('0');
    if digits.len() > 20 {
        return None;
    }
    let value = if digits.is_empty() {
        0
    } else {
        digits.parse().ok()?
    };
    Some((
        value,
        u32::try_from(fraction.len())
            .ok()
            .filter(|decimals| *decimals <= 18)?,
    ))
}

/// Why a text is not an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: {}; write for example {examples}", self.why())]
pub struct UnitError {
    text: String,
    what: &'static str,
    smallest: &'static str,
    examples: &'static str,
    reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    NoNumber,
    NoUnit,
    UnknownUnit { nearest: Option<&'static str> },
    Fraction,
    TooLarge,
}

impl UnitError {
    fn why(&self) -> String {
        match self.reason {
            Reason::NoNumber => "it does not start with a number of at most 20 digits".to_owned(),
            Reason::NoUnit => "it has no unit".to_owned(),
            Reason::UnknownUnit {
                nearest: Some(unit),
            } => format!("its unit is unknown (did you mean `{unit}`?)"),
            Reason::UnknownUnit { nearest: None } => "its unit is unknown".to_owned(),
            Reason::Fraction => format!("it does not come to a whole number of {}", self.smallest),
            Reason::TooLarge => format!("it is more {} than can be counted", self.smallest),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_read_exactly() {
        assert_eq!(parse_bytes("256 MiB"), Ok(268_435_456));
        assert_eq!(parse_bytes("256MiB"), Ok(268_435_456));
        assert_eq!(parse_bytes("1.5 GB"), Ok(1_500_000_000));
        assert_eq!(parse_bytes("0.5 KiB"), Ok(512));
        assert_eq!(parse_bytes("1_000 B"), Ok(1_000));
        assert_eq!(parse_bytes("0 B"), Ok(0));
        assert_eq!(parse_duration("30 s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("1.5 h"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse_work("10 TFLOP"), Ok(10_000_000_000_000));
        assert_eq!(parse_work("0.1 kFLOP"), Ok(100));
    }

    #[test]
    fn amounts_are_printed_in_the_unit_that_fits() {
        assert_eq!(format_bytes(268_435_456), "256 MiB");
        assert_eq!(format_bytes(1_000), "1000 B");
        assert_eq!(format_bytes(0), "0 B");
        assert_eq!(format_duration(Duration::from_secs(90)), "90 s");
        assert_eq!(format_duration(Duration::from_secs(120)), "2 min");
        assert_eq!(format_work(10_000_000_000_000), "10 TFLOP");
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in [
            "",
            "MiB",
            "-1 MiB",
            "1,5 MiB",
            ". MiB",
            "1. MiB",
            ".5 MiB",
            "1.2.3 MiB",
            "_1 B",
            "1__0 B",
            "1e9 B",
            "٣ B",
            "1 B B",
            "999999999999999999999 B",
        ] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_errors_show_how_it_is_written() {
        insta::assert_snapshot!(parse_bytes("256").unwrap_err(), @"`256` is not a size: it has no unit; write for example `256 MiB`, `1.5 GB` or `4096 B`");
        insta::assert_snapshot!(parse_bytes("256 mib").unwrap_err(), @"`256 mib` is not a size: its unit is unknown (did you mean `MiB`?); write for example `256 MiB`, `1.5 GB` or `4096 B`");
        insta::assert_snapshot!(parse_bytes("0.3 B").unwrap_err(), @"`0.3 B` is not a size: it does not come to a whole number of bytes; write for example `256 MiB`, `1.5 GB` or `4096 B`");
        insta::assert_snapshot!(parse_bytes("99999999 TiB").unwrap_err(), @"`99999999 TiB` is not a size: it is more bytes than can be counted; write for example `256 MiB`, `1.5 GB` or `4096 B`");
        insta::assert_snapshot!(parse_duration("soon").unwrap_err(), @"`soon` is not a duration: it does not start with a number of at most 20 digits; write for example `30 s`, `500 ms` or `1.5 h`");
        insta::assert_snapshot!(parse_work("10 parsecs").unwrap_err(), @"`10 parsecs` is not an amount of work: its unit is unknown; write for example `10 TFLOP`, `1.5 PFLOP` or `500 GFLOP`");
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(amount in any::<u64>(), shift in 0_u32..64) {
            // Shifted, so that every magnitude comes up.
            let amount = amount >> shift;
            prop_assert_eq!(parse_bytes(&format_bytes(amount)), Ok(amount));
            prop_assert_eq!(parse_work(&format_work(amount)), Ok(amount));
            let duration = Duration::from_millis(amount);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn multiples_of_a_unit_are_read_back(count in 0_u64..10_000, unit in 0_usize..10) {
            let amount = count * BYTES.units[unit].1;
            prop_assert_eq!(parse_bytes(&format_bytes(amount)), Ok(amount));
        }

        #[test]
        fn no_text_panics(text in "[0-9._]{0,30}[ a-zA-Z]{0,8}") {
            let _ = (parse_bytes(&text), parse_duration(&text), parse_work(&text));
        }
    }
}
