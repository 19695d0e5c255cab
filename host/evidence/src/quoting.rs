//! Quoting: whose price it is that a node asks for.
//!
//! An account that a node merely names may be anybody's. Who named another's would be given the leases that are
//! made out to that one, and have it blamed for what becomes of them. So the account signs what its node asks for.

use skep_registry::Digest;

use crate::account::AccountId;
use crate::statement::{Statement, StatementError};
use crate::wire::encoded_struct;

encoded_struct! {
    /// "I work at this node, and this is what I answer to this question." The provider signs it with each
    /// quotation. It is of no use to another node, which has another name, nor as an answer to another question.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Quoting {
        /// Who asks for the price, and signs.
        pub provider: AccountId,
        /// The public key of the node at which it works.
        pub node: [u8; 32],
        /// What it was asked with: bytes that nobody asked with before.
        pub question: [u8; 32],
        /// The digest of what it asks for.
        pub quotation: Digest,
    }
}

impl Statement for Quoting {
    const NAME: &'static str = "quotation";
    const CONTEXT: &'static str = "skep quotation of a price, v1";
    const MAX_BYTES: usize = 256;

    fn signer(&self) -> AccountId {
        self.provider
    }

    fn check(&self) -> Result<(), StatementError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::Keys;
    use crate::statement::Signed;
    use crate::testing::key;

    #[test]
    fn a_quotation_is_its_account_s_and_no_bit_of_it_can_be_changed() {
        let quoting = Quoting {
            provider: key(1).id(),
            node: [2; 32],
            question: [3; 32],
            quotation: Digest::of(b"what it asks for"),
        };
        assert!(quoting.sign(&key(2)).is_err());
        let bytes = quoting.sign(&key(1)).unwrap().encode();
        assert!(bytes.len() <= Quoting::MAX_BYTES);
        let read = Signed::<Quoting>::decode(&bytes, &mut Keys::default()).unwrap();
        assert_eq!(*read.body(), quoting);
        for bit in 0..8 * bytes.len() {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let read = Signed::<Quoting>::decode(&changed, &mut Keys::default());
            assert!(read.is_err(), "bit {bit}");
        }
    }
}
