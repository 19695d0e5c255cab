//! Accounts: keys that sign statements and to which credits belong.
//!
//! An account is an ed25519 key pair, of the same form as a publisher's: a publisher's own key is
//! the account that royalties go to. The secret half is wiped from memory when it is dropped, and
//! never printed.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer as _, SigningKey};
use serde::{Deserialize, Serialize};
use skep_registry::{PublisherId, PublisherIdError};

/// The public half of an account's key: the name of whoever signs with it.
///
/// These are 32 bytes that may be no key at all. Whether they are shows when a signature is
/// checked; an account that cannot sign can be paid but never pay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AccountId([u8; 32]);

impl AccountId {
    /// The account of these 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the public key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<PublisherId> for AccountId {
    fn from(publisher: PublisherId) -> Self {
        Self(*publisher.as_bytes())
    }
}

/// The text of a publisher's id, or hexadecimal digits where the bytes are no key.
impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PublisherId::from_bytes(&self.0) {
            Ok(id) => write!(f, "{id}"),
            Err(_) => {
                f.write_str("not-a-key:")?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountId({self})")
    }
}

impl FromStr for AccountId {
    type Err = AccountIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::from(text.parse::<PublisherId>()?))
    }
}

/// Why something is not an account's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountIdError {
    /// A character that the alphabet lacks.
    #[error(
        "an account id is written in the characters a-z and 2-7 (lower case), and this contains {found:?}"
    )]
    Character {
        /// The first such character.
        found: char,
    },
    /// Another length than all of them have.
    #[error(
        "an account id has {} characters, and this has {length}; copy the whole id",
        PublisherId::TEXT_LENGTH
    )]
    Length {
        /// How many characters there are.
        length: usize,
    },
    /// The check bytes do not fit the rest.
    #[error(
        "the account id is mistyped: its last characters do not fit the others; copy it again from its source"
    )]
    Mistyped,
    /// The bytes are no key that could sign anything.
    #[error("the account id is of no usable ed25519 public key")]
    NotAKey,
}

/// An account's text has the form of a publisher's, and is told as what it is.
impl From<PublisherIdError> for AccountIdError {
    fn from(error: PublisherIdError) -> Self {
        match error {
            PublisherIdError::Character { found } => Self::Character { found },
            PublisherIdError::Length { length } => Self::Length { length },
            PublisherIdError::Mistyped => Self::Mistyped,
            PublisherIdError::NotAKey => Self::NotAKey,
        }
    }
}

/// The secret half of an account's key. Whoever has it can sign in the account's name.
pub struct AccountKey(SigningKey);

impl AccountKey {
    /// The key that grows from 32 secret bytes, as RFC 8032 has it.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        // `SigningKey` wipes itself on drop.
        Self(SigningKey::from_bytes(seed))
    }

    /// The public half.
    #[must_use]
    pub fn id(&self) -> AccountId {
        AccountId(self.0.verifying_key().to_bytes())
    }

    pub(crate) fn sign(&self, message: &[u8; 32]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountKey(secret of {})", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_the_text_of_a_publisher() {
        let id = AccountKey::from_seed(&[7; 32]).id();
        let publisher = PublisherId::from_bytes(id.as_bytes()).unwrap();
        assert_eq!(id.to_string(), publisher.to_string());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(AccountId::from(publisher), id);
    }

    #[test]
    fn a_wrong_text_is_told_as_an_account_s() {
        let told = |text: &str| text.parse::<AccountId>().unwrap_err().to_string();
        assert_eq!(
            told("Me"),
            "an account id is written in the characters a-z and 2-7 (lower case), and this contains 'M'"
        );
        assert_eq!(
            told("me"),
            "an account id has 56 characters, and this has 2; copy the whole id"
        );
        let text = AccountKey::from_seed(&[7; 32]).id().to_string();
        let last = if text.ends_with('a') { "b" } else { "a" };
        let mistyped = format!("{}{last}", &text[..text.len() - 1]);
        assert!(told(&mistyped).starts_with("the account id is mistyped: "));
    }

    #[test]
    fn bytes_that_are_no_key_still_have_a_text() {
        let id = AccountId::from_bytes([0xff; 32]);
        assert_eq!(id.to_string(), format!("not-a-key:{}", "ff".repeat(32)));
        assert!(id.to_string().parse::<AccountId>().is_err());
    }

    #[test]
    fn debug_shows_the_public_half_only() {
        let key = AccountKey::from_seed(&[9; 32]);
        assert_eq!(
            format!("{key:?}"),
            format!("AccountKey(secret of {})", key.id())
        );
    }
}
