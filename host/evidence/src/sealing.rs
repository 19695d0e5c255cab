//! Keys to seal a shard with, signed by the account that opens with them.

use skep_registry::Digest;

use crate::account::AccountId;
use crate::statement::{Statement, StatementError};
use crate::wire::encoded_struct;

encoded_struct! {
    /// "What is sealed to this key for this lease, I open at this node." Each side of a lease makes a key
    /// that serves once, and signs it with the key of its account, so that nobody in between can put
    /// in one of their own, or pass on what both say without being seen.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct SealingKey {
        /// The lease whose input and output are sealed.
        pub lease: Digest,
        /// Who holds the secret half, and signs.
        pub holder: AccountId,
        /// The public key of the node that the holder speaks from.
        pub node: [u8; 32],
        /// The public half: a point of Curve25519.
        pub key: [u8; 32],
    }
}

impl Statement for SealingKey {
    const NAME: &'static str = "key to seal with";
    const CONTEXT: &'static str = "skep key to seal a shard with, v2";
    const MAX_BYTES: usize = 256;

    fn signer(&self) -> AccountId {
        self.holder
    }

    fn check(&self) -> Result<(), StatementError> {
        Ok(())
    }
}
