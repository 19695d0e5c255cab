//! Input and output of a shard, closed so that only the other side of its lease opens them.
//!
//! Each side makes an X25519 key that serves for one conversation about one lease, and signs it
//! with its account ([`SealingKey`]), for the node that it speaks from: who passes a conversation on is
//! another node, and found out by both. Both agree on a secret, out of which come two keys for
//! ChaCha20-Poly1305, one for each direction. Bytes go in chunks; each chunk's nonce is its number
//! and whether it is the last, so that none can be left out, doubled, moved or cut off unseen.
//!
//! # What it must never do
//!
//! - Keep a key longer than the conversation, or write one down: what was recorded on the way
//!   cannot be opened later, whatever is stolen from either side.
//! - Hold more than was announced and allowed.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::rand::SystemRandom;
use skep_evidence::{AccountId, AccountKey, Keys, SealingKey, Signed, Statement as _};
use skep_registry::Digest;
use zeroize::{Zeroize as _, Zeroizing};

/// The most plain bytes in one chunk.
pub const CHUNK: usize = 64 << 10;
/// The most bytes that a sealed chunk has: a flag, the bytes, and the tag.
pub const MAX_SEALED: usize = 1 + CHUNK + 16;

/// Why something cannot be sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The operating system gives no randomness.
    #[error("the operating system has no randomness to make a key of; try again later")]
    Randomness,
    /// The other side's key is none, not for this lease, or of another node.
    #[error("the other side's key is not one to seal this lease with: {reason}")]
    Key {
        /// What is wrong with it.
        reason: String,
    },
    /// A chunk that was altered, left out, moved or made by somebody else.
    #[error("chunk {number} does not open: it was altered, or is not the one that follows")]
    Chunk {
        /// Which, from 0.
        number: u64,
    },
    /// More than one chunk holds.
    #[error("a chunk has {size} bytes, and one holds at most {CHUNK}")]
    TooLarge {
        /// How many.
        size: usize,
    },
    /// One before the last that is not full: such chunks could go on for ever.
    #[error("chunk {number} has {size} bytes, and all before the last have {CHUNK}")]
    Short {
        /// Which, from 0.
        number: u64,
        /// How many.
        size: usize,
    },
    /// Something after the last chunk.
    #[error("there is more after the last chunk")]
    Ended,
    /// More or fewer bytes than were announced.
    #[error("{found} bytes came, and {announced} were announced")]
    Length {
        /// How many came, as far as they were looked at.
        found: u64,
        /// How many should have.
        announced: u64,
    },
}

/// The secret half of a key for one conversation.
pub struct SealSecret {
    secret: EphemeralPrivateKey,
    public: [u8; 32],
}

impl SealSecret {
    /// A new one.
    ///
    /// # Errors
    ///
    /// When there is no randomness.
    pub fn generate() -> Result<Self, SealError> {
        let secret = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new())
            .map_err(|_| SealError::Randomness)?;
        let public = secret
            .compute_public_key()
            .map_err(|_| SealError::Randomness)?;
        let public = public
            .as_ref()
            .try_into()
            .map_err(|_| SealError::Randomness)?;
        Ok(Self { secret, public })
    }

    /// The public half, signed for a lease by an account that speaks from this node.
    #[must_use]
    pub fn signed(
        &self,
        lease: Digest,
        node: [u8; 32],
        account: &AccountKey,
    ) -> Option<Signed<SealingKey>> {
        let statement = SealingKey {
            lease,
            holder: account.id(),
            node,
            key: self.public,
        };
        statement.sign(account).ok()
    }

    /// What this side sends and receives with, given what the other side signed, which speaks from
    /// `node`. `provides` says that this side is the provider.
    ///
    /// # Errors
    ///
    /// When the other key is none, or not `other`'s at that node for this lease.
    pub fn agree(
        self,
        lease: Digest,
        other: AccountId,
        node: [u8; 32],
        their_key: &[u8],
        provides: bool,
        keys: &mut Keys,
    ) -> Result<Sealed, SealError> {
        let wrong = |reason: String| SealError::Key { reason };
        let theirs = Signed::<SealingKey>::decode(their_key, keys)
            .map_err(|error| wrong(error.to_string()))?;
        if (theirs.lease, theirs.holder) != (lease, other) {
            return Err(wrong(
                "it is for another lease or of another account".to_owned(),
            ));
        }
        if theirs.node != node {
            return Err(wrong(
                "it is of another node than this one, which passes on what that says".to_owned(),
            ));
        }
        let (requester, provider) = match provides {
            true => (theirs.key, self.public),
            false => (self.public, theirs.key),
        };
        let both = [*lease.as_bytes(), requester, provider].concat();
        let key = UnparsedPublicKey::new(&X25519, theirs.key);
        let (input, output) = agree_ephemeral(self.secret, &key, |secret| {
            let derived = |context| {
                let mut material = Zeroizing::new(secret.to_vec());
                material.extend_from_slice(&both);
                Zeroizing::new(blake3::derive_key(context, &material))
            };
            (
                derived("skep shard, sealed from requester to provider v1"),
                derived("skep shard, sealed from provider to requester v1"),
            )
        })
        .map_err(|_| wrong("it is no point that a secret comes of".to_owned()))?;
        let (to_other, to_us) = match provides {
            true => (output, input),
            false => (input, output),
        };
        Ok(Sealed {
            sealer: Sealer(Stream::new(&to_other)?),
            opener: Opener(Stream::new(&to_us)?),
        })
    }
}

/// Both directions of a conversation.
pub struct Sealed {
    /// Closes what this side sends.
    pub sealer: Sealer,
    /// Opens what it receives.
    pub opener: Opener,
}

struct Stream {
    key: LessSafeKey,
    next: u64,
    ended: bool,
}

impl Stream {
    fn new(key: &[u8; 32]) -> Result<Self, SealError> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| SealError::Key {
            reason: "it has another length".to_owned(),
        })?;
        Ok(Self {
            key: LessSafeKey::new(key),
            next: 0,
            ended: false,
        })
    }

    fn nonce(&mut self, last: bool) -> Result<Nonce, SealError> {
        if self.ended {
            return Err(SealError::Ended);
        }
        let mut nonce = [0; 12];
        nonce[0] = u8::from(last);
        nonce[4..].copy_from_slice(&self.next.to_be_bytes());
        self.next += 1;
        self.ended = last;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// Closes chunks, in order.
pub struct Sealer(Stream);

impl Sealer {
    /// Closes the next chunk.
    ///
    /// # Errors
    ///
    /// When it is too large, or comes after the last.
    pub fn seal(&mut self, chunk: &[u8], last: bool) -> Result<Vec<u8>, SealError> {
        if chunk.len() > CHUNK {
            return Err(SealError::TooLarge { size: chunk.len() });
        }
        let number = self.0.next;
        let nonce = self.0.nonce(last)?;
        let mut sealed = Vec::with_capacity(MAX_SEALED);
        sealed.push(u8::from(last));
        sealed.extend_from_slice(chunk);
        let tag = self
            .0
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut sealed[1..])
            .map_err(|_| SealError::Chunk { number })?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// All chunks of these bytes, made one by one.
    pub fn chunks(mut self, bytes: &[u8]) -> impl Iterator<Item = Result<Vec<u8>, SealError>> {
        let count = bytes.len().div_ceil(CHUNK).max(1);
        (0..count).map(move |number| {
            let end = bytes.len().min((number + 1) * CHUNK);
            self.seal(&bytes[number * CHUNK..end], number + 1 == count)
        })
    }
}

/// Opens chunks, in order.
pub struct Opener(Stream);

impl Opener {
    fn open(&mut self, sealed: &mut [u8]) -> Result<(usize, bool), SealError> {
        let number = self.0.next;
        let last = match sealed.first() {
            Some(0) => false,
            Some(1) => true,
            _ => return Err(SealError::Chunk { number }),
        };
        let nonce = self.0.nonce(last)?;
        let plain = self
            .0
            .key
            .open_in_place(nonce, Aad::empty(), &mut sealed[1..])
            .map_err(|_| SealError::Chunk { number })?;
        Ok((plain.len(), last))
    }
}

/// What came through an [`Opener`] so far, or since it was last taken: never more than was announced.
pub struct Gathered {
    opener: Opener,
    announced: u64,
    /// What was taken before counts too.
    came: u64,
    bytes: Zeroizing<Vec<u8>>,
}

impl Gathered {
    /// Nothing yet of so many bytes, which whoever calls has found to be few enough.
    #[must_use]
    pub fn new(opener: Opener, announced: u64) -> Self {
        Self {
            opener,
            announced,
            came: 0,
            bytes: Zeroizing::default(),
        }
    }

    /// Opens the next chunk; tells whether it was the last.
    ///
    /// # Errors
    ///
    /// When it does not open, or there is more than was announced or, after the last, less, or it is not the
    /// last and not full.
    pub fn add(&mut self, mut sealed: Vec<u8>) -> Result<bool, SealError> {
        let number = self.opener.0.next;
        let (length, last) = self.opener.open(&mut sealed)?;
        if !last && length < CHUNK {
            sealed.zeroize();
            return Err(SealError::Short {
                number,
                size: length,
            });
        }
        let found = self.came + length as u64;
        if found > self.announced || (last && found < self.announced) {
            sealed.zeroize();
            return Err(SealError::Length {
                found,
                announced: self.announced,
            });
        }
        self.came = found;
        if self.bytes.capacity() - self.bytes.len() < length {
            // Grown by hand, so that no copy of it stays behind in memory that is given back.
            let rest = usize::try_from(self.announced - found).unwrap_or(usize::MAX);
            let filled = self.bytes.len() + length;
            let room = (2 * filled).min(filled.saturating_add(rest));
            let mut larger = Zeroizing::new(Vec::with_capacity(room));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(&sealed[1..=length]);
        sealed.zeroize();
        Ok(last)
    }

    /// The bytes that came since this was last asked, for whoever does not want all of them in memory at once.
    #[must_use]
    pub fn take(&mut self) -> Zeroizing<Vec<u8>> {
        std::mem::take(&mut self.bytes)
    }

    /// The bytes, after the last chunk.
    #[must_use]
    pub fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{account, digest, key};

    fn pair(lease: Digest) -> (Sealed, Sealed) {
        let (ours, theirs) = (
            SealSecret::generate().unwrap(),
            SealSecret::generate().unwrap(),
        );
        let our_key = ours.signed(lease, [1; 32], &key(1)).unwrap().encode();
        let their_key = theirs.signed(lease, [2; 32], &key(2)).unwrap().encode();
        let keys = &mut Keys::default();
        (
            ours.agree(lease, account(2), [2; 32], &their_key, false, keys)
                .unwrap(),
            theirs
                .agree(lease, account(1), [1; 32], &our_key, true, keys)
                .unwrap(),
        )
    }

    fn carried(sealer: Sealer, opener: Opener, bytes: &[u8]) -> Vec<u8> {
        let mut gathered = Gathered::new(opener, bytes.len() as u64);
        let mut last = false;
        for chunk in sealer.chunks(bytes) {
            assert!(!last);
            last = gathered.add(chunk.unwrap()).unwrap();
        }
        assert!(last);
        gathered.into_bytes().to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn what_is_sealed_is_opened_by_the_other_side(
            length in prop_oneof![0..5_usize, CHUNK - 2..CHUNK + 3, 3 * CHUNK - 1..3 * CHUNK + 2],
        ) {
            let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let (requester, provider) = pair(digest("lease", 1));
            prop_assert_eq!(&carried(requester.sealer, provider.opener, &bytes), &bytes);
            prop_assert_eq!(&carried(provider.sealer, requester.opener, &bytes), &bytes);
        }

        #[test]
        fn no_bytes_make_it_panic_or_grow(chunks in prop::collection::vec(
            prop::collection::vec(any::<u8>(), 0..40), 0..4
        )) {
            let (_, provider) = pair(digest("lease", 1));
            let mut gathered = Gathered::new(provider.opener, u64::MAX);
            for chunk in chunks {
                prop_assert!(gathered.add(chunk).is_err());
            }
        }
    }

    #[test]
    fn what_was_altered_left_out_doubled_or_cut_does_not_open() {
        let bytes = vec![7; 2 * CHUNK + 5];
        let sealed = || {
            let (requester, provider) = pair(digest("lease", 1));
            let chunks = requester.sealer.chunks(&bytes).map(Result::unwrap);
            (
                chunks.collect::<Vec<_>>(),
                Gathered::new(provider.opener, bytes.len() as u64),
            )
        };
        let (mut chunks, mut gathered) = sealed();
        chunks[0][100] ^= 1;
        assert_eq!(
            gathered.add(chunks[0].clone()),
            Err(SealError::Chunk { number: 0 })
        );
        let (chunks, mut gathered) = sealed();
        assert!(gathered.add(chunks[1].clone()).is_err(), "left out");
        let (chunks, mut gathered) = sealed();
        assert_eq!(gathered.add(chunks[0].clone()), Ok(false));
        assert!(gathered.add(chunks[0].clone()).is_err(), "doubled");
        // To call a chunk the last one is to alter it.
        let (mut chunks, mut gathered) = sealed();
        chunks[0][0] = 1;
        assert!(gathered.add(chunks[0].clone()).is_err(), "cut");
        let (chunks, mut gathered) = sealed();
        for chunk in chunks {
            gathered.add(chunk).unwrap();
        }
        assert_eq!(gathered.add(vec![1; 17]), Err(SealError::Ended));
    }

    #[test]
    fn what_is_taken_as_it_comes_is_all_of_it_and_counts() {
        let bytes: Vec<u8> = (0..2 * CHUNK + 5).map(|n| n as u8).collect();
        for (announced, is_all) in [(bytes.len(), true), (bytes.len() - 1, false)] {
            let (requester, provider) = pair(digest("lease", 1));
            let mut gathered = Gathered::new(provider.opener, announced as u64);
            let mut came = Vec::new();
            let added = requester.sealer.chunks(&bytes).map(|chunk| {
                let added = gathered.add(chunk.unwrap());
                let taken = gathered.take();
                assert!(taken.len() <= CHUNK);
                came.extend_from_slice(&taken);
                added
            });
            let added: Vec<_> = added.collect();
            assert!(added[..2].iter().all(|added| *added == Ok(false)));
            assert_eq!(added[2].is_ok(), is_all);
            assert_eq!(came == bytes, is_all);
        }
    }

    #[test]
    fn more_than_was_announced_is_refused() {
        let (requester, provider) = pair(digest("lease", 1));
        let mut gathered = Gathered::new(provider.opener, 10);
        let chunk = requester.sealer.chunks(&[0; 11]).next().unwrap().unwrap();
        assert!(matches!(
            gathered.add(chunk),
            Err(SealError::Length {
                found: 11,
                announced: 10
            })
        ));
    }

    #[test]
    fn a_chunk_before_the_last_that_is_not_full_is_refused() {
        for size in [0, 1, CHUNK - 1] {
            let (mut requester, provider) = pair(digest("lease", 1));
            let mut gathered = Gathered::new(provider.opener, 4 * CHUNK as u64);
            let full = requester.sealer.seal(&[1; CHUNK], false).unwrap();
            assert_eq!(gathered.add(full), Ok(false));
            let short = requester.sealer.seal(&vec![1; size], false).unwrap();
            let refused = SealError::Short { number: 1, size };
            assert_eq!(gathered.add(short), Err(refused));
        }
    }

    #[test]
    fn a_key_of_somebody_else_or_another_lease_is_refused() {
        let lease = digest("lease", 1);
        let stranger = SealSecret::generate().unwrap();
        let signed = stranger.signed(lease, [2; 32], &key(3)).unwrap().encode();
        let other = stranger
            .signed(digest("lease", 2), [2; 32], &key(2))
            .unwrap()
            .encode();
        for wrong in [signed, other, vec![0; 40]] {
            let ours = SealSecret::generate().unwrap();
            let keys = &mut Keys::default();
            let agreed = ours.agree(lease, account(2), [2; 32], &wrong, false, keys);
            assert!(matches!(agreed, Err(SealError::Key { .. })));
        }
        // A third one, who reads everything, opens nothing.
        let (requester, _) = pair(lease);
        let (_, spy) = pair(lease);
        let chunk = requester.sealer.chunks(b"secret").next().unwrap().unwrap();
        assert!(Gathered::new(spy.opener, 6).add(chunk).is_err());
    }

    #[test]
    fn who_passes_a_conversation_on_is_found_out_by_both_sides() {
        let lease = digest("lease", 1);
        let (requester, provider, between) = ([1; 32], [2; 32], [3; 32]);
        // What each of them signs is passed on as it is, and comes from the node in between.
        for (node, other, signer, provides) in [
            (provider, account(2), key(2), false),
            (requester, account(1), key(1), true),
        ] {
            let theirs = SealSecret::generate().unwrap();
            let their_key = theirs.signed(lease, node, &signer).unwrap().encode();
            let agree = |from| {
                let ours = SealSecret::generate().unwrap();
                let keys = &mut Keys::default();
                ours.agree(lease, other, from, &their_key, provides, keys)
            };
            assert!(agree(node).is_ok());
            let reason = match agree(between).map(|_| ()) {
                Err(SealError::Key { reason }) => reason,
                other => panic!("{other:?}"),
            };
            assert!(reason.contains("another node"), "{reason}");
            // Nor can who passes it on put its own node in.
            let forged = theirs.signed(lease, between, &key(3)).unwrap().encode();
            let ours = SealSecret::generate().unwrap();
            let keys = &mut Keys::default();
            let agreed = ours.agree(lease, other, between, &forged, provides, keys);
            assert!(matches!(agreed, Err(SealError::Key { .. })));
        }
    }
}
