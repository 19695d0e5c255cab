//! What work used, and what that costs.

use crate::credits::Credits;
use crate::wire::encoded_struct;

encoded_struct! {
    /// What was used.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Meter {
        /// Tokens read and written by language models.
        pub tokens: u64,
        /// Floating-point operations, counted before they are done.
        pub flops: u64,
        /// Bytes moved to and from the provider.
        pub bytes: u64,
        /// Seconds for which package, model and adapter were kept ready, begun ones counted whole.
        pub residency: u64,
    }
}

impl Meter {
    /// Whether every count is at most that of `limit`.
    #[must_use]
    pub fn is_within(&self, limit: &Self) -> bool {
        self.tokens <= limit.tokens
            && self.flops <= limit.flops
            && self.bytes <= limit.bytes
            && self.residency <= limit.residency
    }
}

encoded_struct! {
    /// What a provider asks for, in micro-credits.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Tariff {
        /// For a million tokens.
        pub tokens: u64,
        /// For 10¹² floating-point operations.
        pub flops: u64,
        /// For 10⁹ bytes.
        pub bytes: u64,
        /// For an hour of residency.
        pub residency: u64,
    }
}

impl Tariff {
    /// The price of what was used, each kind of use rounded up to a micro-credit. `None` if it is
    /// more than there can be.
    #[must_use]
    pub fn price(&self, meter: &Meter) -> Option<Credits> {
        let parts = [
            (self.tokens, meter.tokens, 1_000_000),
            (self.flops, meter.flops, 1_000_000_000_000),
            (self.bytes, meter.bytes, 1_000_000_000),
            (self.residency, meter.residency, 3_600),
        ];
        let mut sum = Credits::ZERO;
        for (rate, used, unit) in parts {
            let price = (u128::from(rate) * u128::from(used)).div_ceil(unit);
            sum = sum.checked_add(Credits::from_micro(u64::try_from(price).ok()?))?;
        }
        Some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_rounded_up_and_never_wraps() {
        let tariff = Tariff {
            tokens: 3,
            flops: 1,
            bytes: 0,
            residency: 3_600,
        };
        let meter = Meter {
            tokens: 1_000_001,
            flops: 1,
            bytes: u64::MAX,
            residency: 7,
        };
        assert_eq!(tariff.price(&meter), Some(Credits::from_micro(4 + 1 + 7)));
        assert_eq!(tariff.price(&Meter::default()), Some(Credits::ZERO));
        let endless = Tariff {
            residency: u64::MAX,
            ..tariff
        };
        let hours = Meter {
            residency: u64::MAX,
            ..meter
        };
        assert_eq!(endless.price(&hours), None);
    }
}
