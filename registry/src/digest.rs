//! Names for content.
//!
//! A digest is the only name under which the swarm knows content. It must never be computed in
//! any other way than BLAKE3 over the whole content, and its text form has exactly one spelling.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The BLAKE3 hash of some content.
///
/// As text it is 64 lower-case hexadecimal digits, and only that: upper case is refused, so that
/// two digests are equal exactly when their texts are. Serde writes the text in formats for
/// people (JSON, TOML) and the 32 bytes in binary ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }

    /// The digest with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first ten digits: enough for a person to tell digests apart, never enough to fetch by.
    #[must_use]
    pub fn fmt_short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(10);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 64 {
            return Err(DigestError::Length {
                length: text.chars().count(),
            });
        }
        let mut bytes = [0; 32];
        match data_encoding::HEXLOWER.decode_mut(text.as_bytes(), &mut bytes) {
            Ok(_) => Ok(Self(bytes)),
            Err(_) => Err(DigestError::Character {
                found: text
                    .chars()
                    .find(|c| !matches!(c, '0'..='9' | 'a'..='f'))
                    .unwrap_or(char::REPLACEMENT_CHARACTER),
            }),
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            crate::text::deserialize(deserializer)
        } else {
            <[u8; 32]>::deserialize(deserializer).map(Self)
        }
    }
}

/// Why a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// It has another number of characters than 64.
    #[error(
        "a digest has 64 hexadecimal digits, and this has {length} characters; give the whole digest"
    )]
    Length {
        /// How many characters there are.
        length: usize,
    },
    /// It has a character that is not a lower-case hexadecimal digit.
    #[error(
        "a digest is written in the digits 0-9 and a-f (lower case), and this contains {found:?}"
    )]
    Character {
        /// The first such character.
        found: char,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_blake3() {
        // The published hash of the empty input.
        assert_eq!(
            Digest::of(b"").to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn the_text_form_has_one_spelling() {
        let digest = Digest::of(b"skep");
        let text = digest.to_string();
        assert_eq!(text.parse(), Ok(digest));
        assert_eq!(digest.fmt_short(), text[..10]);
        let upper = text.to_uppercase();
        assert!(matches!(
            upper.parse::<Digest>(),
            Err(DigestError::Character { .. })
        ));
        assert_eq!(
            text[..63].parse::<Digest>(),
            Err(DigestError::Length { length: 63 })
        );
        // 64 bytes of multi-byte characters must neither panic nor pass.
        assert!("é".repeat(32).parse::<Digest>().is_err());
    }

    #[test]
    fn the_errors_say_what_to_do() {
        assert_eq!(
            "af13".parse::<Digest>().unwrap_err().to_string(),
            "a digest has 64 hexadecimal digits, and this has 4 characters; give the whole digest"
        );
        assert_eq!(
            "g".repeat(64).parse::<Digest>().unwrap_err().to_string(),
            "a digest is written in the digits 0-9 and a-f (lower case), and this contains 'g'"
        );
    }
}
