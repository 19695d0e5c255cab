//! The table `[jobs]` of a node's configuration: what of others' work is done here.

use std::fmt;
use std::time::Duration;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use skep_evidence::{AccountId, Credits, Share, Tariff};
use skep_market::Policy;
use skep_registry::{PublisherId, World, units};

use super::Hours;

/// What of others' work is done here, and for how much.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Jobs {
    /// Whether any is.
    pub accept: bool,
    /// Whose packages are run; none named is everybody's.
    pub publishers: Vec<PublisherId>,
    /// The worlds that are run; none named is all that jobs are made of.
    #[serde(deserialize_with = "worlds")]
    pub worlds: Vec<World>,
    /// The most that the input of a shard may have, such as `16 MiB`.
    #[serde(deserialize_with = "bytes")]
    pub largest_input: u64,
    /// The most that its output may have.
    #[serde(deserialize_with = "bytes")]
    pub largest_output: u64,
    /// How many shards run at once.
    pub at_once: u32,
    /// When shards may begin, such as `22:00-07:30`, by the machine's own clock; none is always.
    pub hours: Vec<Hours>,
    /// The part of all processors, such as `25 %`, above which what other programs take keeps new
    /// shards out. None is not to look.
    pub pause_above: Option<Part>,
    /// The part of the time of whatever computes language models, a card or the processors, that
    /// texts of jobs may take.
    pub device_share: Part,
    /// Credits for 10¹² operations on the device.
    #[serde(deserialize_with = "credits")]
    pub price_per_teraflop: Credits,
    /// Credits for 10⁹ bytes of input and output.
    #[serde(deserialize_with = "credits")]
    pub price_per_gigabyte: Credits,
    /// Credits for an hour in which package, models and adapter are kept ready for somebody.
    #[serde(deserialize_with = "credits")]
    pub price_per_hour: Credits,
    /// Who takes a part of what is earned here, if anybody does.
    pub operator: Option<Operator>,
    /// The longest for which one lease may have them kept ready, such as `1 h`.
    #[serde(deserialize_with = "duration")]
    pub longest_warm: Duration,
    /// The most that packages and adapters may take of the disk which jobs have brought, such as `20 GiB`.
    #[serde(deserialize_with = "bytes")]
    pub keep_packages: u64,
    /// The most credits that one requester may owe for work of the last day.
    #[serde(deserialize_with = "credits")]
    pub unpaid: Credits,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            accept: false,
            publishers: Vec::new(),
            worlds: Vec::new(),
            largest_input: 16 << 20,
            largest_output: 64 << 20,
            at_once: 1,
            hours: Vec::new(),
            pause_above: None,
            device_share: Part(1.0),
            price_per_teraflop: Credits::from_micro(1_000),
            price_per_gigabyte: Credits::from_micro(10_000),
            price_per_hour: Credits::from_micro(10_000),
            operator: None,
            longest_warm: Duration::from_secs(60 * 60),
            keep_packages: 20 << 30,
            unpaid: Credits::from_micro(Credits::ONE),
        }
    }
}

impl Jobs {
    /// The rules for what comes in.
    pub fn policy(&self) -> Policy {
        Policy {
            take: self.accept,
            publishers: self.publishers.iter().copied().collect(),
            worlds: self.worlds.iter().map(ToString::to_string).collect(),
            largest_input: self.largest_input,
            largest_output: self.largest_output,
            slots: self.at_once,
            residency: self.longest_warm.as_secs(),
            tariff: Tariff {
                tokens: 0,
                flops: self.price_per_teraflop.micro(),
                bytes: self.price_per_gigabyte.micro(),
                residency: self.price_per_hour.micro(),
            },
            operator: self.operator.map(|operator| operator.0),
            unpaid: self.unpaid,
        }
    }
}

impl Jobs {
    /// `device-share` in percent, at least one.
    pub fn device_percent(&self) -> u8 {
        // A part is within 0 and 1.
        (100.0 * self.device_share.0).round().max(1.0) as u8
    }
}

/// Who operates the node or the market that it is found on, for a part of every price: an account and its
/// share, such as `{ account = "…", share = "5 %" }`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "WrittenOperator")]
pub struct Operator(Share);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenOperator {
    account: String,
    share: Part,
}

impl TryFrom<WrittenOperator> for Operator {
    type Error = String;

    fn try_from(written: WrittenOperator) -> Result<Self, String> {
        let account: Result<AccountId, _> = written.account.parse();
        let account = account.map_err(|error| format!("`{}`: {error}", written.account))?;
        // A part is within 0 and 1, so this is within a million.
        let parts = (f64::from(written.share.0) * 1e6).round() as u32;
        match parts {
            0 => Err("a share of nothing; leave `operator` out".to_owned()),
            parts => Ok(Self(Share { account, parts })),
        }
    }
}

/// A part of the whole, from 0 to 1.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub struct Part(pub f32);

impl TryFrom<String> for Part {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let percent = text.trim().strip_suffix('%').map(str::trim);
        let number = percent.and_then(|number| number.parse::<f32>().ok());
        match number {
            Some(number) if (0.0..=100.0).contains(&number) => Ok(Self(number / 100.0)),
            _ => Err(format!(
                "`{text}` is no part of the whole; write it as `25 %`"
            )),
        }
    }
}

/// A text as it stands in the file. Whoever leaves its quotation marks out is told of them, and of no types.
struct Quoted;

impl Visitor<'_> for Quoted {
    type Value = String;

    fn expecting(&self, told: &mut fmt::Formatter<'_>) -> fmt::Result {
        told.write_str("a value in quotation marks")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = deserializer.deserialize_str(Quoted)?;
    units::parse_bytes(&text).map_err(serde::de::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = deserializer.deserialize_str(Quoted)?;
    units::parse_duration(&text).map_err(serde::de::Error::custom)
}

pub(super) fn credits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Credits, D::Error> {
    let text = deserializer.deserialize_str(Quoted)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn worlds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<World>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let worlds = names.iter().map(|name| name.parse());
    worlds
        .collect::<Result<_, _>>()
        .map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use skep_evidence::AccountKey;

    use super::*;

    #[test]
    fn the_share_of_the_device_is_a_part_of_its_time() {
        let read = |text: &str| toml::from_str::<Jobs>(text).unwrap().device_percent();
        assert_eq!(read(""), 100);
        assert_eq!(read("device-share = \"25 %\""), 25);
        assert_eq!(read("device-share = \"0 %\""), 1);
        assert!(toml::from_str::<Jobs>("device-share = \"101 %\"").is_err());
    }

    #[test]
    fn what_jobs_bring_has_twenty_gibibytes_unless_the_owner_says_otherwise() {
        let read = |text: &str| toml::from_str::<Jobs>(text).unwrap().keep_packages;
        assert_eq!(read(""), 20 << 30);
        assert_eq!(read("keep-packages = \"3 MiB\""), 3 << 20);
        assert_eq!(read("keep-packages = \"30 GiB\""), 30 << 30);
    }

    #[test]
    fn whoever_leaves_quotation_marks_out_is_told_of_them() {
        let written = [
            "price-per-teraflop = 0.001",
            "largest-input = 16",
            "longest-warm = 60",
        ];
        for text in written {
            let error = toml::from_str::<Jobs>(text).unwrap_err().to_string();
            let told = "expected a value in quotation marks";
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn an_operator_has_an_account_and_a_share() {
        let account = AccountKey::from_seed(&[7; 32]).id();
        let read = |share: &str| {
            let text = format!("operator = {{ account = \"{account}\", share = \"{share}\" }}");
            toml::from_str::<Jobs>(&text)
        };
        let operator = read("2.5 %").unwrap().policy().operator;
        let parts = 25_000;
        assert_eq!(operator, Some(Share { account, parts }));
        for wrong in ["0 %", "101 %", "-1 %", "5"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let nobody = "operator = { account = \"me\", share = \"5 %\" }";
        let error = toml::from_str::<Jobs>(nobody).unwrap_err().to_string();
        assert!(error.contains("`me`: an account id has 56"), "{error}");
        assert_eq!(Jobs::default().policy().operator, None);
    }
}
