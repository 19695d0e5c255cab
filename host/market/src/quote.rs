//! Whose a quotation is: the account that it names signs it, for the node that is asked and the question that it
//! is asked with. So nobody quotes in another's name, shows what somebody answered before, or passes on what
//! another node answers.

use skep_evidence::{AccountId, AccountKey, Keys, Quoting, Signed, Statement as _, StatementError};
use skep_registry::Digest;

use crate::message::{MessageError, Quotation};

/// Why a quotation is not its account's answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// What is signed does not hold.
    #[error("it does not show that the account it quotes for is its own: {0}")]
    Statement(#[from] StatementError),
    /// It is signed, and is something else than this answer.
    #[error("it does not show that the account it quotes for is its own: {0}")]
    Another(&'static str),
    /// It has no encoding.
    #[error(transparent)]
    Message(#[from] MessageError),
}

impl Quotation {
    /// That this is what its account answers at this node to this question, signed.
    ///
    /// # Errors
    ///
    /// When the key is not that of the account.
    pub fn signed(
        &self,
        node: [u8; 32],
        question: [u8; 32],
        account: &AccountKey,
    ) -> Result<Signed<Quoting>, Unproven> {
        let quoting = Quoting {
            provider: AccountId::from_bytes(self.account),
            node,
            question,
            quotation: self.digest()?,
        };
        Ok(quoting.sign(account)?)
    }

    /// Checks that its account answers this, at the node that was asked (`node`) and to the question that it was
    /// asked with.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn verify(
        &self,
        signed: &[u8],
        node: [u8; 32],
        question: [u8; 32],
        keys: &mut Keys,
    ) -> Result<(), Unproven> {
        let said = Signed::<Quoting>::decode(signed, keys)?;
        let is_so = |holds, why| match holds {
            true => Ok(()),
            false => Err(Unproven::Another(why)),
        };
        is_so(
            said.provider == AccountId::from_bytes(self.account),
            "another account signed it",
        )?;
        is_so(said.node == node, "it was signed for another node")?;
        is_so(
            said.question == question,
            "it was signed for another question",
        )?;
        is_so(
            said.quotation == self.digest()?,
            "another quotation was signed",
        )
    }

    fn digest(&self) -> Result<Digest, MessageError> {
        let bytes = postcard::to_stdvec(self).map_err(|_| MessageError)?;
        Ok(Digest::of(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choose::Warmth;
    use crate::message::{Answer, NUMERICS};
    use crate::testing::{account, digest, key};

    const NODE: [u8; 32] = [10; 32];
    const QUESTION: [u8; 32] = [20; 32];

    /// What key 2 asks for.
    fn quotation() -> Quotation {
        Quotation {
            account: *account(2).as_bytes(),
            tariff: [0, 1_000, 10_000, 0],
            operator: Some((*account(3).as_bytes(), 50_000)),
            slots: 2,
            warm: Warmth::default(),
            largest_output: 1 << 20,
            kind: *digest("kind", 1).as_bytes(),
            numerics: NUMERICS,
        }
    }

    fn signed(quotation: &Quotation, signer: u8) -> Vec<u8> {
        let signed = quotation.signed(NODE, QUESTION, &key(signer));
        signed.unwrap().encode()
    }

    fn verify(quotation: &Quotation, signed: &[u8]) -> Result<(), Unproven> {
        quotation.verify(signed, NODE, QUESTION, &mut Keys::default())
    }

    #[test]
    fn what_an_account_signs_at_its_node_is_its_answer() {
        let signed = signed(&quotation(), 2);
        assert_eq!(verify(&quotation(), &signed), Ok(()));
        // As it is sent.
        let answer = Answer::Quote {
            quotation: quotation(),
            signed,
        };
        let bytes = answer.encode().unwrap();
        match Answer::decode(&bytes).unwrap() {
            Answer::Quote { quotation, signed } => {
                assert_eq!(verify(&quotation, &signed), Ok(()));
            }
            answer => panic!("{answer:?}"),
        }
    }

    #[test]
    fn nobody_quotes_for_the_account_of_another() {
        // It has not got the key to sign with.
        let refused = quotation().signed(NODE, QUESTION, &key(4));
        let refused = refused.unwrap_err();
        assert!(matches!(
            refused,
            Unproven::Statement(StatementError::OtherKey { .. })
        ));
        // What it signs is its own account's, whatever else it says.
        let own = Quotation {
            account: *account(4).as_bytes(),
            ..quotation()
        };
        let refused = verify(&quotation(), &signed(&own, 4));
        assert_eq!(refused, Err(Unproven::Another("another account signed it")));
        // With the other's name written into it, the signature does not hold.
        let quoting = Quoting {
            provider: account(4),
            node: NODE,
            question: QUESTION,
            quotation: quotation().digest().unwrap(),
        };
        let mut forged = quoting.sign(&key(4)).unwrap().encode();
        let name = account(4);
        let mut places = forged.windows(32).enumerate();
        let place = places.find(|(_, bytes)| bytes == name.as_bytes());
        let (place, _) = place.unwrap();
        forged[place..place + 32].copy_from_slice(account(2).as_bytes());
        assert!(matches!(
            verify(&quotation(), &forged),
            Err(Unproven::Statement(StatementError::BadSignature { .. }))
        ));
        for nothing in [Vec::new(), vec![0x82; 100], vec![0; Quoting::MAX_BYTES + 1]] {
            let refused = verify(&quotation(), &nothing);
            assert!(matches!(refused, Err(Unproven::Statement(_))));
        }
    }

    #[test]
    fn an_answer_from_another_node_or_to_another_question_is_none() {
        let signed = signed(&quotation(), 2);
        let keys = &mut Keys::default();
        // Passed on by a node in between.
        let passed_on = quotation().verify(&signed, [11; 32], QUESTION, keys);
        let why = "it was signed for another node";
        assert_eq!(passed_on, Err(Unproven::Another(why)));
        // Kept from when somebody asked before.
        let stale = quotation().verify(&signed, NODE, [21; 32], keys);
        let why = "it was signed for another question";
        assert_eq!(stale, Err(Unproven::Another(why)));
    }

    #[test]
    fn nothing_in_a_quotation_is_other_than_its_account_signed() {
        let signed = signed(&quotation(), 2);
        let changes: [fn(&mut Quotation); 7] = [
            |other| other.tariff[1] = u64::MAX,
            |other| other.operator = None,
            |other| other.slots += 1,
            |other| other.warm.model = true,
            |other| other.largest_output += 1,
            |other| other.kind[0] ^= 1,
            |other| other.numerics += 1,
        ];
        for change in changes {
            let mut other = quotation();
            change(&mut other);
            let refused = verify(&other, &signed);
            let why = "another quotation was signed";
            assert_eq!(refused, Err(Unproven::Another(why)), "{other:?}");
        }
    }
}
