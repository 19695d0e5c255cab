//! Receipts: what was done, what it used, what it costs.
//!
//! A receipt repeats what its lease said, so that it can be read alone: balances follow from
//! receipts without a look at anything else.

use skep_registry::Digest;

use crate::account::AccountId;
use crate::credits::{Credits, Split};
use crate::lease::{Lease, Work};
use crate::meter::Meter;
use crate::statement::{Agreement, Signed, Statement, StatementError, invalid};
use crate::wire::encoded_struct;

encoded_struct! {
    /// The bill for one shard. The provider signs it, the requester accepts.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Receipt {
        /// The lease under which the work was done, which can be paid once.
        pub lease: Digest,
        /// The job that the shard is part of.
        pub job: Digest,
        /// Which shard.
        pub shard: u32,
        /// How many receipts the provider had signed before this one, ever.
        pub sequence: u64,
        /// Who did the work, and signs.
        pub provider: AccountId,
        /// Who pays, and countersigns.
        pub requester: AccountId,
        /// What was done.
        pub work: Work,
        /// The commitment to the result that was signed before any audit.
        pub commitment: Digest,
        /// The output, in plain.
        pub output: Digest,
        /// What was used.
        pub meter: Meter,
        /// What it costs.
        pub price: Credits,
        /// Who else gets a part of the price.
        pub split: Split,
        /// When the work began, in milliseconds since 1970.
        pub started: u64,
        /// When it ended, in milliseconds since 1970.
        pub finished: u64,
    }
}

impl Receipt {
    /// What is wrong with this receipt under its lease, if anything is.
    #[must_use]
    pub fn breach_of(&self, lease: &Signed<Lease>) -> Option<&'static str> {
        let breaches = [
            (
                self.lease != lease.digest(),
                "the receipt is for another lease",
            ),
            (
                (self.job, self.shard) != (lease.job, lease.shard),
                "the receipt is for another shard than the lease",
            ),
            (
                (self.provider, self.requester) != (lease.provider, lease.requester),
                "the receipt is between others than the lease",
            ),
            (
                self.work != lease.work,
                "the receipt is for other work than the lease",
            ),
            (
                !self.meter.is_within(&lease.allowance),
                "more was metered than the lease allows",
            ),
            (
                lease.tariff.price(&self.meter) != Some(self.price),
                "the price is not what the lease's tariff makes of what was metered",
            ),
            (
                self.price > lease.limit,
                "the price is above the lease's limit",
            ),
            (
                self.split != lease.split,
                "the price is divided in another way than the lease says",
            ),
        ];
        breaches
            .into_iter()
            .find_map(|(breached, what)| breached.then_some(what))
    }

    /// What each account gets of the price, which adds up to the price.
    #[must_use]
    pub fn payments(&self) -> Vec<(AccountId, Credits)> {
        self.split.divide(self.price, self.provider)
    }
}

impl Statement for Receipt {
    const NAME: &'static str = "receipt";
    const CONTEXT: &'static str = "skep receipt, issued by its provider, v1";
    const MAX_BYTES: usize = 4096;

    fn signer(&self) -> AccountId {
        self.provider
    }

    fn check(&self) -> Result<(), StatementError> {
        if self.requester == self.provider {
            return Err(invalid("provider", "it is the requester itself"));
        }
        if self.finished < self.started {
            return Err(invalid("finished", "it is before the work began"));
        }
        if self.price > Credits::MAX {
            return Err(invalid("price", "it is more than all credits there can be"));
        }
        self.split.check()
    }
}

impl Agreement for Receipt {
    const ACCEPTANCE: &'static str = "skep receipt, accepted by its requester, v1";

    fn countersigner(&self) -> AccountId {
        self.requester
    }
}
