//! Signed statements: by one party, or agreed between two.
//!
//! *Architecture invariant:* a [`Signed`] or an [`Agreed`] can only be had by signing or by
//! checking signatures. What was read and not checked yet is an [`Unverified`].
//!
//! A statement is named by the digest of its body. Signatures are not part of the name, because
//! a signer can sign the same words in many ways.

use std::fmt;
use std::ops::Deref;

use minicbor::Decoder;
use skep_registry::Digest;

use crate::account::{AccountId, AccountKey};
use crate::signature::{Check, Keys};
use crate::wire::{Part, expect_length, malformed, written};

const FORMAT: u64 = 1;

/// Something that a party signs.
pub trait Statement: Part + Clone + fmt::Debug + PartialEq {
    /// What it is called in errors.
    const NAME: &'static str;
    /// The words that keep a signature of it from meaning anything else.
    const CONTEXT: &'static str;
    /// The greatest length of its encoding, signatures included, in bytes.
    const MAX_BYTES: usize;

    /// Whose signature it needs.
    fn signer(&self) -> AccountId;

    /// The rules that it keeps by itself.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    fn check(&self) -> Result<(), StatementError>;

    /// The digest of its encoding, which is its name.
    #[must_use]
    fn digest(&self) -> Digest {
        Digest::of(&body_of(self))
    }

    /// Signs it.
    ///
    /// # Errors
    ///
    /// When it breaks a rule, or the key is not that of [`Self::signer`].
    fn sign(self, key: &AccountKey) -> Result<Signed<Self>, StatementError> {
        self.check()?;
        if key.id() != self.signer() {
            return Err(StatementError::OtherKey {
                what: Self::NAME,
                expected: self.signer(),
                found: key.id(),
            });
        }
        let digest = self.digest();
        Ok(Signed {
            signature: key.sign(&message(Self::CONTEXT, digest)),
            digest,
            body: self,
        })
    }
}

/// A statement that takes two: one offers it, the other accepts it.
pub trait Agreement: Statement {
    /// The words of acceptance, other than [`Statement::CONTEXT`].
    const ACCEPTANCE: &'static str;

    /// Whose countersignature it needs.
    fn countersigner(&self) -> AccountId;
}

/// Why bytes are no statement, or a statement cannot be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Longer than any statement of its kind.
    #[error("this is no {what}: it has {size} bytes, and one has at most {limit}")]
    TooLarge {
        /// What it should be.
        what: &'static str,
        /// The number of bytes.
        size: usize,
        /// The most there may be.
        limit: usize,
    },
    /// Not the form of such a statement at all.
    #[error("this statement cannot be read: {reason}")]
    Malformed {
        /// Where reading it stopped.
        reason: String,
    },
    /// A form that this version does not know.
    #[error(
        "this {what} is written in format {found}, and this version of skep reads format 1; update skep"
    )]
    UnknownFormat {
        /// What it should be.
        what: &'static str,
        /// The format's number.
        found: u64,
    },
    /// The same facts in another spelling than the canonical one.
    #[error(
        "this statement is not written in its one canonical form; it was altered, or made by \
         something else than skep"
    )]
    NotCanonical,
    /// A signature that does not hold.
    #[error(
        "the signature on this {what} is not that of {signer}: it was altered or forged; do not \
         use it, and ask its sender for it again"
    )]
    BadSignature {
        /// What was to be signed.
        what: &'static str,
        /// Whose signature it should be.
        signer: AccountId,
    },
    /// A key that this statement is not to be signed with.
    #[error("this {what} is to be signed by {expected}, and the key is that of {found}")]
    OtherKey {
        /// What was to be signed.
        what: &'static str,
        /// Whose signature it needs.
        expected: AccountId,
        /// Whose key was given.
        found: AccountId,
    },
    /// A rule that every statement of its kind keeps is broken.
    #[error("{field}: {reason}")]
    Invalid {
        /// What is at fault.
        field: &'static str,
        /// The rule, and how it is broken.
        reason: &'static str,
    },
}

pub(crate) fn invalid(field: &'static str, reason: &'static str) -> StatementError {
    StatementError::Invalid { field, reason }
}

/// A statement whose signature holds.
#[derive(Clone, PartialEq)]
pub struct Signed<T> {
    body: T,
    digest: Digest,
    signature: [u8; 64],
}

impl<T: Statement> Signed<T> {
    /// Reads a statement and checks all that it alone can show.
    ///
    /// # Errors
    ///
    /// When anything at all is wrong with it.
    pub fn decode(encoding: &[u8], keys: &mut Keys) -> Result<Self, StatementError> {
        Unverified::<T>::decode(encoding)?.verify(keys)
    }

    /// The encoding: what is stored and sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = body_of(&self.body);
        written(|out| out.array(2)?.bytes(&body)?.bytes(&self.signature)?.ok())
    }

    /// What it says.
    #[must_use]
    pub fn body(&self) -> &T {
        &self.body
    }

    /// Its name: the digest of what it says.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl<T: Agreement> Signed<T> {
    /// Accepts it as the other party.
    ///
    /// # Errors
    ///
    /// When the key is not that of [`Agreement::countersigner`].
    pub fn accept(self, key: &AccountKey) -> Result<Agreed<T>, StatementError> {
        if key.id() != self.body.countersigner() {
            return Err(StatementError::OtherKey {
                what: T::NAME,
                expected: self.body.countersigner(),
                found: key.id(),
            });
        }
        let countersignature = key.sign(&message(T::ACCEPTANCE, self.digest));
        Ok(Agreed {
            signed: self,
            countersignature,
        })
    }
}

impl<T> Deref for Signed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.body
    }
}

impl<T: fmt::Debug> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signed").field(&self.body).finish()
    }
}

/// A statement that both parties signed.
#[derive(Clone, PartialEq)]
pub struct Agreed<T> {
    signed: Signed<T>,
    countersignature: [u8; 64],
}

impl<T: Agreement> Agreed<T> {
    /// Reads a statement and checks both signatures.
    ///
    /// # Errors
    ///
    /// When anything at all is wrong with it.
    pub fn decode(encoding: &[u8], keys: &mut Keys) -> Result<Self, StatementError> {
        Unverified::<T>::decode_agreed(encoding)?.verify_agreed(keys)
    }

    /// The encoding: what is stored and sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = body_of(&self.signed.body);
        written(|out| {
            out.array(3)?
                .bytes(&body)?
                .bytes(&self.signed.signature)?
                .bytes(&self.countersignature)?
                .ok()
        })
    }

    /// What the first party alone signed.
    #[must_use]
    pub fn signed(&self) -> &Signed<T> {
        &self.signed
    }
}

impl<T> Deref for Agreed<T> {
    type Target = Signed<T>;

    fn deref(&self) -> &Signed<T> {
        &self.signed
    }
}

impl<T: fmt::Debug> fmt::Debug for Agreed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Agreed").field(&self.signed.body).finish()
    }
}

/// A statement that was read, canonical and within the rules, whose signatures nobody has
/// checked yet: many are checked faster together.
#[derive(Clone, Debug, PartialEq)]
pub struct Unverified<T> {
    body: T,
    digest: Digest,
    signature: [u8; 64],
    countersignature: Option<[u8; 64]>,
}

impl<T: Statement> Unverified<T> {
    /// Reads a statement that one party signed.
    ///
    /// # Errors
    ///
    /// When anything but its signature is wrong with it.
    pub fn decode(encoding: &[u8]) -> Result<Self, StatementError> {
        Self::read(encoding, false)
    }

    fn read(encoding: &[u8], agreed: bool) -> Result<Self, StatementError> {
        if encoding.len() > T::MAX_BYTES {
            return Err(StatementError::TooLarge {
                what: T::NAME,
                size: encoding.len(),
                limit: T::MAX_BYTES,
            });
        }
        let mut input = Decoder::new(encoding);
        let parts = if agreed { 3 } else { 2 };
        expect_length(input.array()?, parts, "a signed statement")?;
        let bytes = input.bytes()?;
        let signature = Part::read(&mut input)?;
        let countersignature = agreed.then(|| Part::read(&mut input)).transpose()?;
        let body = read_body::<T>(bytes)?;
        let read = Self {
            digest: Digest::of(bytes),
            body,
            signature,
            countersignature,
        };
        // Any other spelling of the same facts differs from the one spelling that we write.
        if body_of(&read.body) != bytes || read.encode(bytes) != encoding {
            return Err(StatementError::NotCanonical);
        }
        read.body.check()?;
        Ok(read)
    }

    fn encode(&self, body: &[u8]) -> Vec<u8> {
        written(|out| {
            out.array(2 + u64::from(self.countersignature.is_some()))?;
            out.bytes(body)?.bytes(&self.signature)?;
            match &self.countersignature {
                Some(countersignature) => out.bytes(countersignature)?.ok(),
                None => Ok(()),
            }
        })
    }

    fn check(&self) -> Check<'_> {
        Check {
            signer: self.body.signer(),
            message: message(T::CONTEXT, self.digest),
            signature: &self.signature,
        }
    }

    /// Its name: the digest of what it says, whether or not anybody signed that.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What somebody says that its parties said. Nothing in it may be trusted before it is verified: whoever sent it
    /// may have made it up. It is for seeing whether it is worth that, such as whether it is about anything that is
    /// known here.
    #[must_use]
    pub fn claimed(&self) -> &T {
        &self.body
    }

    /// Checks the signature.
    ///
    /// # Errors
    ///
    /// [`StatementError::BadSignature`]
    pub fn verify(self, keys: &mut Keys) -> Result<Signed<T>, StatementError> {
        match keys.holds(&self.check()) {
            true => Ok(self.into_signed()),
            false => Err(bad_signature::<T>(self.body.signer())),
        }
    }

    fn into_signed(self) -> Signed<T> {
        Signed {
            body: self.body,
            digest: self.digest,
            signature: self.signature,
        }
    }
}

impl<T: Agreement> Unverified<T> {
    /// Reads a statement that both parties signed.
    ///
    /// # Errors
    ///
    /// When anything but its signatures is wrong with it.
    pub fn decode_agreed(encoding: &[u8]) -> Result<Self, StatementError> {
        Self::read(encoding, true)
    }

    /// Checks both signatures.
    ///
    /// # Errors
    ///
    /// [`StatementError::BadSignature`], or [`StatementError::Malformed`] if it was not read as
    /// one that both signed.
    pub fn verify_agreed(self, keys: &mut Keys) -> Result<Agreed<T>, StatementError> {
        let checked = verify_agreed(vec![self], keys).map_err(|(_, error)| error)?;
        checked.into_iter().next().ok_or_else(unsigned)
    }

    fn acceptance(&self) -> Option<Check<'_>> {
        Some(Check {
            signer: self.body.countersigner(),
            message: message(T::ACCEPTANCE, self.digest),
            signature: self.countersignature.as_ref()?,
        })
    }
}

/// Checks both signatures of many statements at once.
///
/// # Errors
///
/// The place of the first statement that is at fault, and the fault; then none is verified.
pub fn verify_agreed<T: Agreement>(
    statements: Vec<Unverified<T>>,
    keys: &mut Keys,
) -> Result<Vec<Agreed<T>>, (usize, StatementError)> {
    let mut checks = Vec::with_capacity(2 * statements.len());
    for (place, statement) in statements.iter().enumerate() {
        checks.push(statement.check());
        checks.push(statement.acceptance().ok_or_else(|| (place, unsigned()))?);
    }
    if let Err(bad) = keys.all_hold(&checks) {
        let signer = checks.get(bad).map(|check| check.signer);
        let error = signer.map_or_else(unsigned, bad_signature::<T>);
        return Err((bad / 2, error));
    }
    statements
        .into_iter()
        .enumerate()
        .map(|(place, statement)| {
            let countersignature = statement.countersignature;
            Ok(Agreed {
                countersignature: countersignature.ok_or_else(|| (place, unsigned()))?,
                signed: statement.into_signed(),
            })
        })
        .collect()
}

fn unsigned() -> StatementError {
    malformed("it was read as signed by one party, and both have to sign it")
}

fn bad_signature<T: Statement>(signer: AccountId) -> StatementError {
    StatementError::BadSignature {
        what: T::NAME,
        signer,
    }
}

/// What is signed: the body's digest under words that say what a signature of it means.
fn message(context: &str, digest: Digest) -> [u8; 32] {
    blake3::derive_key(context, digest.as_bytes())
}

fn body_of<T: Statement>(statement: &T) -> Vec<u8> {
    written(|out| {
        out.array(2)?.u64(FORMAT)?;
        statement.write(out)
    })
}

fn read_body<T: Statement>(bytes: &[u8]) -> Result<T, StatementError> {
    let mut input = Decoder::new(bytes);
    expect_length(input.array()?, 2, T::NAME)?;
    let format = input.u64()?;
    if format != FORMAT {
        return Err(StatementError::UnknownFormat {
            what: T::NAME,
            found: format,
        });
    }
    T::read(&mut input)
}

#[cfg(test)]
mod tests;
