//! Leases: what is to be done, by whom, at what price, until when.

use skep_registry::Digest;

use crate::account::AccountId;
use crate::audit::AuditTerms;
use crate::credits::{Credits, Split};
use crate::meter::{Meter, Tariff};
use crate::statement::{Agreement, Statement, StatementError, invalid};
use crate::wire::{Part, encoded_struct, written};

encoded_struct! {
    /// What is computed. In the deterministic profile the same work gives the same bytes, whoever
    /// does it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Work {
        /// The release of the package that runs.
        pub package: Digest,
        /// The model that it is given, if any.
        pub model: Option<Digest>,
        /// The adapter on that model, if any.
        pub adapter: Option<Digest>,
        /// The input: the shard's records in plain, before they are closed for the provider.
        pub input: Digest,
        /// What all randomness of the run grows from.
        pub seed: u64,
    }
}

impl Work {
    /// The name of this work.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&written(|out| self.write(out)))
    }
}

encoded_struct! {
    /// One shard given to one provider. The requester signs it, the provider accepts.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Lease {
        /// The job that the shard is part of.
        pub job: Digest,
        /// Which shard, from 0.
        pub shard: u32,
        /// Which lease of this shard, from 0: retries, hedges and replicas each have their own.
        pub attempt: u32,
        /// Who pays, and signs.
        pub requester: AccountId,
        /// Who does the work, and countersigns.
        pub provider: AccountId,
        /// What is to be done.
        pub work: Work,
        /// What the provider asks for.
        pub tariff: Tariff,
        /// The most that may be metered. Seconds of residency in it are reserved: a warm lease
        /// has some, a sporadic call has none.
        pub allowance: Meter,
        /// The most that the shard may cost.
        pub limit: Credits,
        /// Who else gets a part of the price.
        pub split: Split,
        /// When it was offered, in milliseconds since 1970.
        pub issued: u64,
        /// Until when the result is worth anything, in milliseconds since 1970.
        pub deadline: u64,
        /// Who may look at the result afterwards.
        pub audit: AuditTerms,
    }
}

impl Statement for Lease {
    const NAME: &'static str = "lease";
    const CONTEXT: &'static str = "skep lease, offered by its requester, v1";
    const MAX_BYTES: usize = 4096;

    fn signer(&self) -> AccountId {
        self.requester
    }

    fn check(&self) -> Result<(), StatementError> {
        if self.requester == self.provider {
            return Err(invalid("provider", "it is the requester itself"));
        }
        if self.deadline <= self.issued {
            return Err(invalid("deadline", "it is not after the lease was offered"));
        }
        if self.limit > Credits::MAX {
            return Err(invalid("limit", "it is more than all credits there can be"));
        }
        self.split.check()?;
        self.audit.check()
    }
}

impl Agreement for Lease {
    const ACCEPTANCE: &'static str = "skep lease, accepted by its provider, v1";

    fn countersigner(&self) -> AccountId {
        self.provider
    }
}
