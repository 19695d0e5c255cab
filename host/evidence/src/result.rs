//! Commitments to results: whoever did work is bound to its output before anyone says who will
//! look at it.

use skep_registry::Digest;

use crate::account::AccountId;
use crate::lease::Lease;
use crate::meter::Meter;
use crate::statement::{Signed, Statement, StatementError};
use crate::wire::{Part as _, encoded_struct, written};

encoded_struct! {
    /// "This is what came out." Whoever does the work of a lease signs it before it gets to know
    /// whether it is audited, or is itself the auditor of somebody else.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct ResultCommitment {
        /// The lease under which the work was done.
        pub lease: Digest,
        /// The work that was done: [`crate::Work::digest`].
        pub work: Digest,
        /// Who did it, and signs.
        pub worker: AccountId,
        /// The output, in plain.
        pub output: Digest,
        /// What it took. The same work takes the same, so that an audit compares it too.
        pub meter: Meter,
        /// What it shows of its texts, if the lease has them followed: the digest of its
        /// [`crate::following::Transcript`], or of its [`crate::following::Observation`] where it
        /// followed another's.
        pub activations: Option<Digest>,
        /// 32 random bytes, so that nobody can know this statement's digest, and with it who will
        /// audit it, before it is made.
        pub nonce: [u8; 32],
    }
}

impl ResultCommitment {
    /// Whether it is about the work of this lease.
    #[must_use]
    pub fn is_under(&self, lease: &Signed<Lease>) -> bool {
        self.lease == lease.digest() && self.work == lease.work.digest()
    }

    /// The name of what it says came out, and of what that took: where the same work gives the same
    /// bytes and is metered alike, two results of it agree exactly if these are the same. There
    /// is no tolerance, since operations, tokens and bytes are counted from the input and the output
    /// and not measured. Seconds of residency are a matter of the lease and not of the work, and say
    /// nothing here.
    #[must_use]
    pub fn claim(&self) -> Digest {
        let meter = Meter {
            residency: 0,
            ..self.meter
        };
        Digest::of(&written(|out| {
            self.output.write(out)?;
            meter.write(out)
        }))
    }
}

impl Statement for ResultCommitment {
    const NAME: &'static str = "commitment to a result";
    const CONTEXT: &'static str = "skep commitment to a result, v2";
    const MAX_BYTES: usize = 512;

    fn signer(&self) -> AccountId {
        self.worker
    }

    fn check(&self) -> Result<(), StatementError> {
        Ok(())
    }
}
