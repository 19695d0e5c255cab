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
    type Err = PublisherIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<PublisherId>().map(Self::from)
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
