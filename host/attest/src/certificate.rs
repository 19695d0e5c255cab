//! X.509 certificates as far as a chain of three needs them (RFC 5280): a key, names, a time, and
//! who signed it. What is not looked at does not count.

use ring::digest::{SHA256, digest};
use ring::signature::{RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};
use x509_cert::Certificate as Parsed;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, Encode as _};

use crate::error::QuoteError;

/// RSASSA-PSS (RFC 8017). AMD's certificates are all signed so, with SHA-384 in each of its places.
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

/// One certificate of a chain.
pub(crate) struct Certificate {
    whose: &'static str,
    parsed: Parsed,
    signed: Vec<u8>,
}

impl Certificate {
    /// Reads one in DER.
    pub(crate) fn read(bytes: &[u8], whose: &'static str) -> Result<Self, QuoteError> {
        let none = |reason| QuoteError::Certificate { whose, reason };
        let parsed = Parsed::from_der(bytes).map_err(|_| none("is not one in DER"))?;
        let tbs = parsed.tbs_certificate();
        // The same bytes again: a certificate in DER has one encoding.
        let signed = tbs
            .to_der()
            .map_err(|_| none("cannot be written as it was read"))?;
        if parsed.signature_algorithm().oid != RSA_PSS || tbs.signature().oid != RSA_PSS {
            return Err(none("is not signed with RSASSA-PSS"));
        }
        Ok(Self {
            whose,
            parsed,
            signed,
        })
    }

    fn wrong(&self, reason: &'static str) -> QuoteError {
        let whose = self.whose;
        QuoteError::Certificate { whose, reason }
    }

    /// Whether it counts at a time in seconds since 1970.
    pub(crate) fn check_time(&self, now: u64) -> Result<(), QuoteError> {
        let validity = self.parsed.tbs_certificate().validity();
        if now < validity.not_before.to_unix_duration().as_secs() {
            return Err(self.wrong("does not count yet; is this machine's clock right?"));
        }
        if now > self.until() {
            return Err(self.wrong("has expired; is this machine's clock right?"));
        }
        Ok(())
    }

    /// The last second in which it counts, since 1970.
    pub(crate) fn until(&self) -> u64 {
        let validity = self.parsed.tbs_certificate().validity();
        validity.not_after.to_unix_duration().as_secs()
    }

    /// Whether the owner of another certificate made this one.
    pub(crate) fn check_issuer(&self, issuer: &Certificate) -> Result<(), QuoteError> {
        let tbs = self.parsed.tbs_certificate();
        if tbs.issuer() != issuer.parsed.tbs_certificate().subject() {
            return Err(self.wrong("names another issuer"));
        }
        let signature = self.parsed.signature().as_bytes();
        let signature = signature.ok_or_else(|| self.wrong("has a signature of broken bytes"))?;
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, issuer.key()?)
            .verify(&self.signed, signature)
            .map_err(|_| QuoteError::Signature {
                of: self.whose,
                by: issuer.whose,
            })
    }

    /// The public key: an RSA key by PKCS #1, a point of a curve by SEC 1.
    pub(crate) fn key(&self) -> Result<&[u8], QuoteError> {
        let info = self.parsed.tbs_certificate().subject_public_key_info();
        let key = info.subject_public_key.as_bytes();
        key.ok_or_else(|| self.wrong("has a key of broken bytes"))
    }

    /// SHA-256 of the public key with what kind it is (`SubjectPublicKeyInfo`).
    pub(crate) fn fingerprint(&self) -> Result<[u8; 32], QuoteError> {
        let info = self.parsed.tbs_certificate().subject_public_key_info();
        let bytes = info
            .to_der()
            .map_err(|_| self.wrong("has a key that cannot be written"))?;
        let mut found = [0; 32];
        found.copy_from_slice(digest(&SHA256, &bytes).as_ref());
        Ok(found)
    }

    /// The value of an extension, if it is there once.
    pub(crate) fn extension(&self, oid: ObjectIdentifier) -> Result<Option<&[u8]>, QuoteError> {
        let all = self.parsed.tbs_certificate().extensions();
        let mut those = all.into_iter().flatten().filter(|ext| ext.extn_id == oid);
        let first = those.next().map(|ext| ext.extn_value.as_bytes());
        match those.next() {
            None => Ok(first),
            Some(_) => Err(self.wrong("has an extension twice")),
        }
    }
}
