//! Credits: whole numbers, and how one amount is divided among several accounts.
//!
//! A credit is 1,000,000 micro-credits, and everything is counted in these. There is no fraction
//! of one, so that nothing is ever lost or made by rounding: what does not divide evenly stays
//! with whoever did the work.

use std::fmt;
use std::str::FromStr;

use minicbor::Decoder;
use serde::{Deserialize, Serialize};
use skep_registry::units::{self, CreditsError};

use crate::account::AccountId;
use crate::statement::{StatementError, invalid};
use crate::wire::{Out, Part, Written, encoded_struct, read_list, write_list};

/// An amount, in micro-credits.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Credits(u64);

impl Credits {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The most there can be of all credits together: sums of it fit in 63 bits.
    pub const MAX: Self = Self(units::MAX_CREDITS);
    /// The micro-credits of one credit.
    pub const ONE: u64 = units::CREDIT;

    /// An amount of micro-credits.
    #[must_use]
    pub const fn from_micro(micro: u64) -> Self {
        Self(micro)
    }

    /// The micro-credits in it.
    #[must_use]
    pub const fn micro(self) -> u64 {
        self.0
    }

    /// The sum, if there can be so much.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let sum = self.0.checked_add(other.0)?;
        (sum <= Self::MAX.0).then_some(Self(sum))
    }

    /// The difference, if it is not below zero.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// `parts` millionths of it, rounded down.
    #[must_use]
    pub fn millionths(self, parts: u32) -> Self {
        let product = u128::from(self.0) * u128::from(parts) / 1_000_000;
        Self(u64::try_from(product).unwrap_or(u64::MAX))
    }
}

/// Credits with as many decimals as needed: `1.25`.
impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&units::format_credits(self.0))
    }
}

/// As it is displayed: digits, and at most six decimals.
impl FromStr for Credits {
    type Err = CreditsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        units::parse_credits(text).map(Self)
    }
}

impl Part for Credits {
    fn write(&self, out: &mut Out) -> Written {
        self.0.write(out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        u64::read(input).map(Self)
    }
}

encoded_struct! {
    /// What one account gets of every price.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Share {
        /// Whose share it is.
        pub account: AccountId,
        /// How many millionths of the price.
        pub parts: u32,
    }
}

/// The most shares that a price is divided into, beside the provider's.
pub const MAX_SHARES: usize = 16;

/// How a price is divided: what the node's operator takes, and what goes to those whose work this
/// one builds on, such as the authors of an adapter and of its ancestors. The provider gets the
/// rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Split(Vec<Share>);

impl Split {
    /// A division into these shares.
    ///
    /// # Errors
    ///
    /// When there are more than [`MAX_SHARES`], one of nothing, two of the same account, or more
    /// than the whole.
    pub fn new(mut shares: Vec<Share>) -> Result<Self, StatementError> {
        shares.sort_unstable_by_key(|share| share.account);
        let split = Self(shares);
        split.check()?;
        Ok(split)
    }

    /// The shares, in the order of their accounts.
    #[must_use]
    pub fn shares(&self) -> &[Share] {
        &self.0
    }

    /// The same with one share more; an account that has one already gets both.
    ///
    /// # Errors
    ///
    /// As [`Split::new`].
    pub fn with(&self, more: Share) -> Result<Self, StatementError> {
        let mut shares = self.0.clone();
        match shares
            .iter_mut()
            .find(|share| share.account == more.account)
        {
            // More than the whole stays more than the whole.
            Some(share) => share.parts = share.parts.saturating_add(more.parts),
            None => shares.push(more),
        }
        Self::new(shares)
    }

    pub(crate) fn check(&self) -> Result<(), StatementError> {
        if self.0.len() > MAX_SHARES {
            return Err(invalid("shares", "there are more than 16"));
        }
        if self.0.iter().any(|share| share.parts == 0) {
            return Err(invalid("shares", "one of them is of nothing"));
        }
        if !self.0.is_sorted_by(|a, b| a.account < b.account) {
            return Err(invalid(
                "shares",
                "they are not in the order of their accounts, each of which may have one",
            ));
        }
        if self.0.iter().map(|s| u64::from(s.parts)).sum::<u64>() > 1_000_000 {
            return Err(invalid("shares", "together they are more than the whole"));
        }
        Ok(())
    }

    /// What each account gets of `price`; what rounding leaves over is the provider's. The
    /// amounts add up to `price`, and nobody is listed twice.
    #[must_use]
    pub fn divide(&self, price: Credits, provider: AccountId) -> Vec<(AccountId, Credits)> {
        let mut rest = price;
        let mut parts: Vec<(AccountId, Credits)> = Vec::with_capacity(self.0.len() + 1);
        for share in &self.0 {
            let part = price.millionths(share.parts).min(rest);
            rest = Credits(rest.0 - part.0);
            parts.push((share.account, part));
        }
        match parts.iter_mut().find(|(account, _)| *account == provider) {
            Some((_, part)) => part.0 += rest.0,
            None => parts.push((provider, rest)),
        }
        parts.retain(|(_, part)| *part != Credits::ZERO);
        parts
    }
}

impl Part for Split {
    fn write(&self, out: &mut Out) -> Written {
        write_list(&self.0, out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        read_list(input, MAX_SHARES).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account(n: u8) -> AccountId {
        AccountId::from_bytes([n; 32])
    }

    #[test]
    fn amounts_read_as_credits() {
        let text = |micro| Credits(micro).to_string();
        assert_eq!(text(0), "0");
        assert_eq!(text(1), "0.000001");
        assert_eq!(text(1_250_000), "1.25");
        assert_eq!(text(20_000_000), "20");
    }

    #[test]
    fn an_amount_is_read_as_it_is_written() {
        for micro in [0, 1, 1_250_000, 20_000_000, Credits::MAX.micro()] {
            let credits = Credits(micro);
            assert_eq!(credits.to_string().parse(), Ok(credits));
        }
        assert_eq!("0.50".parse(), Ok(Credits(500_000)));
        for wrong in [
            "",
            ".5",
            "5.",
            "-1",
            "+1",
            "1e3",
            "1.2345678",
            "99999999999999",
            "1.+5",
        ] {
            assert!(wrong.parse::<Credits>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sums_end_where_there_can_be_no_more() {
        assert_eq!(Credits::MAX.checked_add(Credits(1)), None);
        assert_eq!(Credits(1).checked_sub(Credits(2)), None);
        assert_eq!(Credits(u64::MAX).millionths(1_000_000).0, u64::MAX);
    }

    #[test]
    fn shares_that_make_no_sense_are_refused() {
        let share = |n, parts| Share {
            account: account(n),
            parts,
        };
        assert!(Split::new(vec![share(2, 1), share(1, 999_999)]).is_ok());
        assert!(Split::new(vec![share(1, 1), share(1, 2)]).is_err());
        assert!(Split::new(vec![share(1, 0)]).is_err());
        assert!(Split::new(vec![share(1, 600_000), share(2, 400_001)]).is_err());
        assert!(Split::new((0..17).map(|n| share(n, 1)).collect()).is_err());
    }

    proptest! {
        #[test]
        fn what_is_divided_adds_up(
            price in 0..Credits::MAX.0,
            parts in proptest::collection::btree_map(0..20_u8, 1..60_000_u32, 0..16),
            provider in 0..20_u8,
        ) {
            let shares = parts.into_iter().map(|(n, parts)| Share { account: account(n), parts });
            let split = Split::new(shares.collect()).unwrap();
            let divided = split.divide(Credits(price), account(provider));
            let sum = divided.iter().map(|(_, part)| part.0).sum::<u64>();
            prop_assert_eq!(sum, price);
            let mut accounts: Vec<_> = divided.iter().map(|(account, _)| account).collect();
            accounts.sort_unstable();
            accounts.dedup();
            prop_assert_eq!(accounts.len(), divided.len());
        }
    }
}
