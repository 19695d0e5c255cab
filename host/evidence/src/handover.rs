//! Handing over: which statements belong to a delivery.
//!
//! A receipt alone says under which lease it was signed, and not as an answer to what it was sent. Who
//! sends an old one for a new lease, or somebody else's, says by this that it is its own for this one.

use skep_registry::Digest;

use crate::account::AccountId;
use crate::statement::{Statement, StatementError};
use crate::wire::encoded_struct;

encoded_struct! {
    /// "This is what I deliver under this lease." The provider signs it with each delivery.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Handover {
        /// The lease that is delivered under.
        pub lease: Digest,
        /// Who delivers, and signs.
        pub provider: AccountId,
        /// The digest of the commitment to the result.
        pub commitment: Digest,
        /// The digest of the receipt.
        pub receipt: Digest,
    }
}

impl Statement for Handover {
    const NAME: &'static str = "handover";
    const CONTEXT: &'static str = "skep handover of a result, v1";
    const MAX_BYTES: usize = 512;

    fn signer(&self) -> AccountId {
        self.provider
    }

    fn check(&self) -> Result<(), StatementError> {
        Ok(())
    }
}
