//! Who publishes: a key pair, of which the public half is the publisher's name.
//!
//! The secret half leaves this module only into a file that nobody but its owner can read. It is
//! never printed, never serialised, and wiped from memory when it is dropped.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) mod file;

pub use file::KeyError;

/// A publisher's secret key (ed25519). Whoever has it can publish under the publisher's name.
pub struct PublisherKey(SigningKey);

impl PublisherKey {
    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    ///
    /// When the operating system has no randomness to give.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice())
            .map_err(|error| KeyError::Randomness(error.to_string()))?;
        Ok(Self::from_seed(&seed))
    }

    /// The public half.
    #[must_use]
    pub fn id(&self) -> PublisherId {
        PublisherId(self.0.verifying_key().to_bytes())
    }

    pub(crate) fn from_seed(seed: &[u8; 32]) -> Self {
        // `SigningKey` wipes itself on drop.
        Self(SigningKey::from_bytes(seed))
    }

    pub(crate) fn seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for PublisherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublisherKey(secret of {})", self.id())
    }
}

/// A publisher's public key, which is the publisher's name.
///
/// As text it is 56 characters of lower-case base32 (RFC 4648, no padding): the 32 bytes of the
/// key and three check bytes, so that a mistyped or cut name is told apart from one that merely
/// has published nothing. Every text has the same length, hence none is the beginning of another.
/// Serde writes the text in formats for people and the 32 bytes in binary ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublisherId([u8; 32]);

const CHECK_BYTES: usize = 3;
const TEXT_LENGTH: usize = 56;

impl PublisherId {
    /// How many characters the text of an id has.
    pub const TEXT_LENGTH: usize = TEXT_LENGTH;

    /// The publisher with this public key.
    ///
    /// # Errors
    ///
    /// When the bytes are no ed25519 public key, not its one canonical encoding, or a weak key
    /// (one of small order, for which a signature proves nothing).
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, PublisherIdError> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| PublisherIdError::NotAKey)?;
        if key.is_weak() || key.to_edwards().compress().to_bytes() != *bytes {
            return Err(PublisherIdError::NotAKey);
        }
        Ok(Self(*bytes))
    }

    /// The 32 bytes of the public key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first ten characters: for people to tell publishers apart, never to trust one by.
    #[must_use]
    pub fn fmt_short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(10);
        text
    }

    /// Whether `signature` is this publisher's over `message`, by the strict rules: no small-order
    /// points, and a canonical scalar, so that nobody can turn one valid signature into another.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
            key.verify_strict(message, &Signature::from_bytes(signature))
                .is_ok()
        })
    }

    fn check(&self) -> [u8; CHECK_BYTES] {
        let hash = blake3::derive_key("skep publisher id check bytes v1", &self.0);
        [hash[0], hash[1], hash[2]]
    }
}

impl fmt::Display for PublisherId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 32 + CHECK_BYTES];
        bytes[..32].copy_from_slice(&self.0);
        bytes[32..].copy_from_slice(&self.check());
        f.write_str(&BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl fmt::Debug for PublisherId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublisherId({self})")
    }
}

impl FromStr for PublisherId {
    type Err = PublisherIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(found) = text.chars().find(|c| !matches!(c, 'a'..='z' | '2'..='7')) {
            return Err(PublisherIdError::Character { found });
        }
        if text.len() != TEXT_LENGTH {
            return Err(PublisherIdError::Length { length: text.len() });
        }
        let mut bytes = [0; 32 + CHECK_BYTES];
        BASE32_NOPAD
            .decode_mut(text.to_ascii_uppercase().as_bytes(), &mut bytes)
            .map_err(|_| PublisherIdError::Mistyped)?;
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[..32]);
        // The check bytes first: they tell a typing mistake from a key that is none.
        if Self(key).check() != bytes[32..] {
            return Err(PublisherIdError::Mistyped);
        }
        Self::from_bytes(&key)
    }
}

impl Serialize for PublisherId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for PublisherId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            crate::text::deserialize(deserializer)
        } else {
            let bytes = <[u8; 32]>::deserialize(deserializer)?;
            Self::from_bytes(&bytes).map_err(serde::de::Error::custom)
        }
    }
}

/// Why something is not a publisher's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublisherIdError {
    /// A character that the alphabet lacks.
    #[error(
        "a publisher id is written in the characters a-z and 2-7 (lower case), and this contains {found:?}"
    )]
    Character {
        /// The first such character.
        found: char,
    },
    /// Another length than 56.
    #[error(
        "a publisher id has {TEXT_LENGTH} characters, and this has {length}; copy the whole id"
    )]
    Length {
        /// How many characters there are.
        length: usize,
    },
    /// The check bytes do not fit the rest.
    #[error(
        "the publisher id is mistyped: its last characters do not fit the others; copy it again from its source"
    )]
    Mistyped,
    /// The bytes are no key that could sign anything.
    #[error("these bytes are not a usable ed25519 public key")]
    NotAKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> PublisherKey {
        PublisherKey::from_seed(&[seed; 32])
    }

    #[test]
    fn an_id_round_trips_and_a_mistyped_one_is_refused_wherever_the_mistake_is() {
        let id = key(7).id();
        let text = id.to_string();
        assert_eq!(text.len(), TEXT_LENGTH);
        assert_eq!(text.parse(), Ok(id));
        for position in 0..TEXT_LENGTH {
            let mut wrong = text.clone().into_bytes();
            wrong[position] = if wrong[position] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(
                wrong.parse::<PublisherId>(),
                Err(PublisherIdError::Mistyped),
                "{wrong}"
            );
        }
    }

    #[test]
    fn an_id_has_one_spelling() {
        let text = key(7).id().to_string();
        assert!(matches!(
            text.to_uppercase().parse::<PublisherId>(),
            Err(PublisherIdError::Character { .. })
        ));
        assert_eq!(
            text[1..].parse::<PublisherId>(),
            Err(PublisherIdError::Length { length: 55 })
        );
        assert!("".parse::<PublisherId>().is_err());
    }

    #[test]
    fn weak_and_non_canonical_keys_are_no_ids() {
        // The neutral element: every signature with a zero scalar verifies loosely under it.
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(
            PublisherId::from_bytes(&identity),
            Err(PublisherIdError::NotAKey)
        );
        // y = p + 3 encodes the same point as y = 3 would, if that is a point at all.
        for low in 0..19 {
            let mut encoding = [0xff; 32];
            encoding[0] = 0xed + low.min(18);
            encoding[31] = 0x7f;
            assert_eq!(
                PublisherId::from_bytes(&encoding),
                Err(PublisherIdError::NotAKey)
            );
        }
    }

    #[test]
    fn a_signature_is_for_one_message_and_one_publisher() {
        let signature = key(1).sign(b"message");
        assert!(key(1).id().verify(b"message", &signature));
        assert!(!key(2).id().verify(b"message", &signature));
        assert!(!key(1).id().verify(b"another", &signature));
    }

    #[test]
    fn debug_shows_the_public_half_only() {
        let key = key(9);
        let shown = format!("{key:?}");
        assert!(shown.contains(&key.id().to_string()));
        let secret = data_encoding::BASE32_NOPAD
            .encode(key.seed())
            .to_lowercase();
        assert!(!shown.contains(&secret));
        assert!(!shown.contains("09090909") && !shown.contains("9, 9"));
    }

    #[test]
    fn generated_keys_differ() {
        assert_ne!(
            PublisherKey::generate().unwrap().id(),
            PublisherKey::generate().unwrap().id()
        );
    }

    #[test]
    fn the_errors_say_what_to_do() {
        insta::assert_snapshot!(
            "Abc".parse::<PublisherId>().unwrap_err(),
            @"a publisher id is written in the characters a-z and 2-7 (lower case), and this contains 'A'"
        );
        insta::assert_snapshot!(
            "abc".parse::<PublisherId>().unwrap_err(),
            @"a publisher id has 56 characters, and this has 3; copy the whole id"
        );
        insta::assert_snapshot!(
            PublisherIdError::Mistyped,
            @"the publisher id is mistyped: its last characters do not fit the others; copy it again from its source"
        );
    }
}
