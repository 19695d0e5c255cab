//! Checking ed25519 signatures, one or thousands, with the same answer either way.
//!
//! A signature `(R, s)` of the key `A` over a message holds if `8·(s·B − R − k·A)` is the neutral
//! element, where `k` is SHA-512 of `R`, `A` and the message: the cofactored equation of RFC 8032,
//! section 5.1.7, with `s` canonical and `A` a canonical encoding that is not of small order. The
//! factor of 8 is what makes checking many at once agree with checking each alone, whoever made
//! them: without it, a signer can make signatures that pass or fail depending on their company,
//! and two honest nodes could disagree about a balance for ever.
//!
//! Many are checked as one random linear combination (Bernstein and others, *High-speed
//! high-security signatures*, section 5). Its 128-bit coefficients come from a hash over all that
//! is checked, so that no randomness is needed and nobody can choose a signature after them.
//!
//! It must never accept a batch of which one signature alone would be refused.

use std::collections::HashMap;

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{IsIdentity as _, VartimeMultiscalarMul as _};
use sha2::{Digest as _, Sha512};

use crate::account::AccountId;

/// A signature to be checked: whose, over what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check<'a> {
    pub(crate) signer: AccountId,
    pub(crate) message: [u8; 32],
    pub(crate) signature: &'a [u8; 64],
}

/// So many signatures make one combination: enough to share its fixed cost, and few enough for a
/// few megabytes to hold their points.
const COMBINED: usize = 8192;

/// Keys that were met before, unpacked, so that each is unpacked once.
///
/// It holds at most [`Keys::CAPACITY`] and begins anew beyond that: strangers can make as many
/// keys as they like.
#[derive(Clone, Debug, Default)]
pub struct Keys(HashMap<AccountId, Option<EdwardsPoint>>);

impl Keys {
    /// How many keys are remembered at most.
    pub const CAPACITY: usize = 1 << 16;

    /// The point of a key; none if the bytes are not one that could sign anything.
    fn point(&mut self, id: AccountId) -> Option<EdwardsPoint> {
        if self.0.len() >= Self::CAPACITY && !self.0.contains_key(&id) {
            self.0.clear();
        }
        *self.0.entry(id).or_insert_with(|| unpack(id.as_bytes()))
    }

    /// Whether a signature holds.
    pub(crate) fn holds(&mut self, check: &Check<'_>) -> bool {
        self.term(check).is_some_and(|term| combine(&[term]))
    }

    /// Whether all hold; else the place of the first that does not.
    ///
    /// One that does not costs a check of each alone, which is some five times as much: whoever
    /// takes statements from strangers should remember who sent the bad one.
    pub(crate) fn all_hold(&mut self, checks: &[Check<'_>]) -> Result<(), usize> {
        let mut terms = Vec::with_capacity(checks.len().min(COMBINED));
        for (number, part) in checks.chunks(COMBINED).enumerate() {
            let first = number * COMBINED;
            terms.clear();
            for (place, check) in part.iter().enumerate() {
                terms.push(self.term(check).ok_or(first + place)?);
            }
            if !combine(&terms) {
                let bad = terms.iter().position(|term| !combine(&[*term]));
                // A combination fails only if a part of it does.
                return Err(first + bad.unwrap_or_default());
            }
        }
        Ok(())
    }

    fn term(&mut self, check: &Check<'_>) -> Option<Term> {
        let (head, tail) = check.signature.split_at(32);
        let (r, s): ([u8; 32], [u8; 32]) = (head.try_into().ok()?, tail.try_into().ok()?);
        let mut hash = Sha512::new();
        hash.update(r);
        hash.update(check.signer.as_bytes());
        hash.update(check.message);
        let wide: [u8; 64] = hash.finalize().into();
        Some(Term {
            a: self.point(check.signer)?,
            key: *check.signer.as_bytes(),
            r: CompressedEdwardsY(r).decompress()?,
            s: Option::from(Scalar::from_canonical_bytes(s))?,
            k: Scalar::from_bytes_mod_order_wide(&wide),
        })
    }
}

/// One signature's part of the equation.
#[derive(Clone, Copy)]
struct Term {
    key: [u8; 32],
    a: EdwardsPoint,
    r: EdwardsPoint,
    s: Scalar,
    k: Scalar,
}

fn unpack(bytes: &[u8; 32]) -> Option<EdwardsPoint> {
    let point = CompressedEdwardsY(*bytes).decompress()?;
    (point.compress().as_bytes() == bytes && !point.is_small_order()).then_some(point)
}

/// Whether `8·(Σ z·s·B − Σ z·R − Σ z·k·A)` is the neutral element.
fn combine(terms: &[Term]) -> bool {
    let mut coefficients = coefficients(terms);
    let mut base = Scalar::ZERO;
    let mut keys: HashMap<[u8; 32], (Scalar, EdwardsPoint)> = HashMap::new();
    let (mut scalars, mut points) = (Vec::new(), Vec::new());
    for term in terms {
        let z = coefficients();
        base += z * term.s;
        keys.entry(term.key).or_insert((Scalar::ZERO, -term.a)).0 += z * term.k;
        scalars.push(z);
        points.push(-term.r);
    }
    for (scalar, point) in keys.into_values() {
        scalars.push(scalar);
        points.push(point);
    }
    scalars.push(base);
    points.push(ED25519_BASEPOINT_POINT);
    EdwardsPoint::vartime_multiscalar_mul(&scalars, &points)
        .mul_by_cofactor()
        .is_identity()
}

/// A stream of coefficients, which depends on everything that is checked: `R`, `A` and the
/// message are in `k`.
fn coefficients(terms: &[Term]) -> impl FnMut() -> Scalar {
    let mut hash = blake3::Hasher::new_derive_key("skep batch of signatures, coefficients v1");
    for term in terms {
        hash.update(term.k.as_bytes());
        hash.update(term.s.as_bytes());
    }
    let mut stream = hash.finalize_xof();
    move || {
        let mut wide = [0; 32];
        stream.fill(&mut wide[..16]);
        // Odd, so that none is zero.
        wide[0] |= 1;
        Scalar::from_bytes_mod_order(wide)
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::EIGHT_TORSION;

    use super::*;
    use crate::account::AccountKey;

    fn key(seed: u8) -> AccountKey {
        AccountKey::from_seed(&[seed; 32])
    }

    fn signed(count: u8) -> Vec<(AccountId, [u8; 32], [u8; 64])> {
        (0..count)
            .map(|n| {
                let key = key(n % 5);
                (key.id(), [n; 32], key.sign(&[n; 32]))
            })
            .collect()
    }

    fn checks(signed: &[(AccountId, [u8; 32], [u8; 64])]) -> Vec<Check<'_>> {
        signed
            .iter()
            .map(|(signer, message, signature)| Check {
                signer: *signer,
                message: *message,
                signature,
            })
            .collect()
    }

    #[test]
    fn honest_signatures_hold_alone_and_together() {
        let signed = signed(40);
        let mut keys = Keys::default();
        assert_eq!(keys.all_hold(&checks(&signed)), Ok(()));
        assert!(checks(&signed).iter().all(|check| keys.holds(check)));
        assert_eq!(keys.all_hold(&[]), Ok(()));
    }

    #[test]
    fn one_wrong_bit_anywhere_is_found_in_a_batch() {
        let good = signed(20);
        let mut keys = Keys::default();
        for bit in (0..512).step_by(7) {
            let mut bad = good.clone();
            bad[13].2[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.all_hold(&checks(&bad)), Err(13), "bit {bit}");
        }
        let mut bad = good.clone();
        bad[7].1[0] ^= 1;
        assert_eq!(keys.all_hold(&checks(&bad)), Err(7));
        let mut bad = good;
        bad[9].0 = key(99).id();
        assert_eq!(keys.all_hold(&checks(&bad)), Err(9));
    }

    #[test]
    fn the_wrong_one_is_named_beyond_the_first_combination() {
        let good = signed(250);
        let mut many: Vec<_> = good.iter().cycle().take(COMBINED + 3).copied().collect();
        let mut keys = Keys::default();
        assert_eq!(keys.all_hold(&checks(&many)), Ok(()));
        for wrong in [COMBINED - 1, COMBINED, COMBINED + 2] {
            many[wrong].1[5] ^= 1;
            assert_eq!(keys.all_hold(&checks(&many)), Err(wrong));
            many[wrong].1[5] ^= 1;
        }
    }

    #[test]
    fn two_wrong_ones_do_not_cancel_out() {
        let mut bad = signed(2);
        // Added to one and taken from the other: unweighted sums would be as before.
        let shift = Scalar::from(5_u8);
        let s = |bytes: &[u8; 64]| {
            Option::<Scalar>::from(Scalar::from_canonical_bytes(
                bytes[32..].try_into().unwrap(),
            ))
            .unwrap()
        };
        let (first, second) = (s(&bad[0].2) + shift, s(&bad[1].2) - shift);
        bad[0].2[32..].copy_from_slice(first.as_bytes());
        bad[1].2[32..].copy_from_slice(second.as_bytes());
        assert_eq!(Keys::default().all_hold(&checks(&bad)), Err(0));
    }

    /// What a signer can do who adds a point of small order to `R`, with the secret scalar known:
    /// strict verification refuses it, plain batches sometimes do. Here both must say the same.
    #[test]
    fn small_order_points_do_not_split_batches_from_single_checks() {
        let secret = Scalar::from(123_456_789_u64);
        let id = AccountId::from_bytes((ED25519_BASEPOINT_POINT * secret).compress().to_bytes());
        let message = [3; 32];
        let nonce = Scalar::from(987_654_321_u64);
        let mut keys = Keys::default();
        for torsion in EIGHT_TORSION {
            let r = (ED25519_BASEPOINT_POINT * nonce + torsion)
                .compress()
                .to_bytes();
            let mut hash = Sha512::new();
            hash.update(r);
            hash.update(id.as_bytes());
            hash.update(message);
            let k = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
            let s = nonce + k * secret;
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&r);
            signature[32..].copy_from_slice(s.as_bytes());
            let odd = Check {
                signer: id,
                message,
                signature: &signature,
            };
            let alone = keys.holds(&odd);
            for company in 0..20 {
                let others = signed(company);
                let mut batch = checks(&others);
                batch.push(odd);
                assert_eq!(keys.all_hold(&batch).is_ok(), alone);
            }
        }
    }

    #[test]
    fn keys_of_small_order_and_other_spellings_sign_nothing() {
        let mut keys = Keys::default();
        for point in EIGHT_TORSION {
            assert!(
                keys.point(AccountId::from_bytes(point.compress().to_bytes()))
                    .is_none()
            );
        }
        // y = p + 1 is another spelling of y = 1.
        let mut spelling = [0xff; 32];
        (spelling[0], spelling[31]) = (0xee, 0x7f);
        assert!(keys.point(AccountId::from_bytes(spelling)).is_none());
    }

    #[test]
    fn a_scalar_has_one_spelling() {
        let mut signed = signed(1);
        // s + l, where l is the order of the group.
        let order: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9,
            0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut carry = 0_u16;
        for (byte, add) in signed[0].2[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            *byte = sum as u8;
            carry = sum >> 8;
        }
        assert_eq!(Keys::default().all_hold(&checks(&signed)), Err(0));
    }

    /// The third test vector of RFC 8032, section 7.1, signs two bytes; ours sign 32, so this
    /// holds the key derivation and the library's own signature against each other instead.
    #[test]
    fn it_agrees_with_the_library_that_signs() {
        use ed25519_dalek::{Signature, VerifyingKey};
        for (signer, message, signature) in signed(20) {
            let library = VerifyingKey::from_bytes(signer.as_bytes()).unwrap();
            assert!(
                library
                    .verify_strict(&message, &Signature::from_bytes(&signature))
                    .is_ok()
            );
        }
    }
}
