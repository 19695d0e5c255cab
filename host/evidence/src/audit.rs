//! Who audits which result: committed first, revealed later.
//!
//! Before any work the requester binds itself to a secret (its digest is in the lease) and to a
//! list of candidates that the provider accepts with the lease. Then the provider binds itself to
//! its result, with random bytes of its own in it. The draw is a hash of the secret and of that
//! commitment:
//!
//! - the provider cannot tell it before it has committed, because it does not know the secret;
//! - the requester cannot choose it, because its secret was fixed before the provider's random
//!   bytes were;
//! - everyone can check it once the secret is revealed.
//!
//! One of the two can still refuse to go on once it knows the draw. A requester who does not
//! reveal cannot accuse; a provider who does not deliver is not paid.
//!
//! One auditor looks at a result. Only if it gets another output, a whole panel does the work
//! again, and whoever is not with the majority of the panel has lied: the provider, the auditor,
//! or whoever stood by them. A panel is large because it is rarely needed: with a fifth of all
//! stake in the hands of those who lie together, they have the majority of 3 in one of 10 panels,
//! and of 15 in one of 240.
//!
//! One more is drawn than has a say, in place of one that does not answer, so that of three a silent one leaves a
//! majority where there is a fourth.
//!
//! An auditor gets a lease of the same shard that looks like any other, and does not know that it
//! audits, or whom. So it cannot say what somebody else said before it. One that follows another's texts
//! knows that it audits, and not what was committed to ([`crate::following`]).
//!
//! Candidates are drawn by stake, so that many small identities are worth no more than a large
//! one.

use skep_registry::Digest;

use crate::account::AccountId;
use crate::credits::Credits;
use crate::statement::{StatementError, invalid};
use crate::wire::{
    Out, Part, Written, encoded_struct, expect_length, read_list, write_list, written,
};
use minicbor::Decoder;

/// The most that have a say in a disputed result.
pub const MAX_PANEL: u32 = 31;
/// So many more are drawn than have a say, for those that do not answer. A requester could leave out as many
/// whom it likes less: nobody can show that another was silent.
const SPARES: usize = 1;

/// What a lease says about audits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AuditTerms {
    /// [`AuditSecret::commitment`]
    pub secret: Digest,
    /// [`Candidates::digest`]
    pub candidates: Digest,
    /// How many of a million results may be audited. A requester that looks at those replicas which are odd, and
    /// cannot know beforehand which that is, names them all.
    pub rate: u32,
    /// How many have a say in a disputed result, the provider among them: an odd number from
    /// 3 to [`MAX_PANEL`].
    pub panel: u32,
    /// Whether the same work has to give the same bytes, as the deterministic profile
    /// promises. Only then is another output a fault by itself.
    pub exact: bool,
    /// Whether machines of other kinds audit it by following ([`crate::following`]): texts are
    /// drawn with shared noise, and the result comes with a transcript of them.
    pub followed: bool,
    /// The digest of the script that this lease's own work has to follow
    /// ([`crate::following::Script`]), if it is made out to audit another.
    pub follows: Option<Digest>,
}

impl Part for AuditTerms {
    /// Where nothing is followed nothing is said of it, so that what was signed before there was
    /// following is written as it was.
    fn write(&self, out: &mut Out) -> Written {
        out.array(if self.followed { 7 } else { 5 })?;
        self.secret.write(out)?;
        self.candidates.write(out)?;
        self.rate.write(out)?;
        self.panel.write(out)?;
        self.exact.write(out)?;
        if self.followed {
            self.followed.write(out)?;
            self.follows.write(out)?;
        }
        Ok(())
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        let length = input.array()?;
        let says_more = length == Some(7);
        expect_length(length, if says_more { 7 } else { 5 }, "AuditTerms")?;
        Ok(Self {
            secret: Part::read(input)?,
            candidates: Part::read(input)?,
            rate: Part::read(input)?,
            panel: Part::read(input)?,
            exact: Part::read(input)?,
            followed: if says_more { Part::read(input)? } else { false },
            follows: if says_more { Part::read(input)? } else { None },
        })
    }
}

impl AuditTerms {
    /// How many auditors have a say in a disputed result.
    #[must_use]
    pub const fn auditors(&self) -> usize {
        self.panel.saturating_sub(1) as usize
    }

    /// How many auditors are drawn, if there are so many: those, and one more for one that does not answer.
    #[must_use]
    pub const fn drawn(&self) -> usize {
        self.auditors() + SPARES
    }

    pub(crate) fn check(&self) -> Result<(), StatementError> {
        if self.rate > 1_000_000 {
            return Err(invalid(
                "audit rate",
                "it is more than a million in a million",
            ));
        }
        if self.follows.is_some() && !self.followed {
            return Err(invalid(
                "script",
                "nothing is followed where texts are not shown",
            ));
        }
        if self.followed && !self.exact {
            return Err(invalid(
                "following",
                "only what gives the same bytes beside its texts can be followed",
            ));
        }
        match self.panel {
            3..=MAX_PANEL if self.panel % 2 == 1 => Ok(()),
            _ => Err(invalid(
                "audit panel",
                "it is not an odd number from 3 to 31",
            )),
        }
    }
}

impl Part for bool {
    fn write(&self, out: &mut Out) -> Written {
        out.bool(*self)?.ok()
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        Ok(input.bool()?)
    }
}

/// What the requester binds itself to with a lease, and reveals once it has the result.
///
/// Every lease needs its own: a revealed one tells all other draws made with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuditSecret([u8; 32]);

impl AuditSecret {
    /// A secret of these 32 random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret of one lease among many that grow from the same random bytes, so that a
    /// requester has to keep one thing per job.
    #[must_use]
    pub fn of_lease(root: &[u8; 32], job: Digest, shard: u32, attempt: u32) -> Self {
        let mut hash = blake3::Hasher::new_derive_key("skep audit secret of a lease v1");
        hash.update(root);
        hash.update(job.as_bytes());
        hash.update(&shard.to_le_bytes());
        hash.update(&attempt.to_le_bytes());
        Self(*hash.finalize().as_bytes())
    }

    /// The 32 bytes, to be revealed.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What may be known of it beforehand.
    #[must_use]
    pub fn commitment(&self) -> Digest {
        Digest::from_bytes(blake3::derive_key(
            "skep audit secret, commitment v1",
            &self.0,
        ))
    }

    /// The draw that this secret makes of a commitment to a result, given by its digest.
    #[must_use]
    pub fn draw(&self, result: Digest) -> Draw {
        let input = [self.0, *result.as_bytes()].concat();
        Draw(blake3::derive_key("skep audit draw v1", &input))
    }
}

impl std::fmt::Debug for AuditSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuditSecret(of {})", self.commitment())
    }
}

/// Chance that both sides had a part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw([u8; 32]);

impl Draw {
    /// Whether a result is audited, where `rate` of a million are.
    #[must_use]
    pub fn is_audited(&self, rate: u32) -> bool {
        self.number(0) % 1_000_000 < u128::from(rate)
    }

    /// The first `count` auditors in the order in which they are drawn, none of whom is in
    /// `excluded`; fewer if there are not so many with a stake.
    #[must_use]
    pub fn auditors(
        &self,
        candidates: &Candidates,
        count: usize,
        excluded: &[AccountId],
    ) -> Vec<AccountId> {
        let mut left: Vec<&Candidate> = candidates
            .0
            .iter()
            .filter(|candidate| !excluded.contains(&candidate.account))
            .collect();
        let mut drawn = Vec::new();
        for turn in 1.. {
            // At most 4,096 stakes of 63 bits each.
            let total: u128 = left.iter().map(|c| u128::from(c.stake.micro())).sum();
            if drawn.len() == count || total == 0 {
                break;
            }
            let mut point = self.number(turn) % total;
            let place = left.iter().position(|candidate| {
                let stake = u128::from(candidate.stake.micro());
                let hit = point < stake;
                point = point.saturating_sub(stake);
                hit
            });
            match place {
                Some(place) => drawn.push(left.remove(place).account),
                None => break,
            }
        }
        drawn
    }

    /// The number of one turn: 128 bits, so that what is left of a division by a sum of stakes is
    /// as good as even.
    fn number(&self, turn: u64) -> u128 {
        let mut hash = blake3::Hasher::new_derive_key("skep audit draw, numbers v1");
        hash.update(&self.0);
        hash.update(&turn.to_le_bytes());
        let mut bytes = [0; 16];
        hash.finalize_xof().fill(&mut bytes);
        u128::from_le_bytes(bytes)
    }
}

encoded_struct! {
    /// Someone who could audit.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Candidate {
        /// Who.
        pub account: AccountId,
        /// What it has at stake, by which it is drawn.
        pub stake: Credits,
    }
}

/// Those of whom auditors are drawn, in the order of their accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates(Vec<Candidate>);

/// Why a list of candidates is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// More than [`Candidates::MAX`].
    #[error(
        "there are {found} candidates to audit, and a list has at most {}; leave out those with the least stake",
        Candidates::MAX
    )]
    TooMany {
        /// How many there are.
        found: usize,
    },
    /// One account more than once.
    #[error("account {account} is listed twice; list each candidate once")]
    Twice {
        /// Which.
        account: AccountId,
    },
}

impl Candidates {
    /// The most candidates of one list.
    pub const MAX: usize = 4096;

    /// A list of these.
    ///
    /// # Errors
    ///
    /// When there are too many, or one of them twice.
    pub fn new(mut candidates: Vec<Candidate>) -> Result<Self, AuditError> {
        if candidates.len() > Self::MAX {
            return Err(AuditError::TooMany {
                found: candidates.len(),
            });
        }
        candidates.sort_unstable_by_key(|candidate| candidate.account);
        let twice = candidates
            .windows(2)
            .find(|two| two[0].account == two[1].account);
        match twice {
            Some(two) => Err(AuditError::Twice {
                account: two[0].account,
            }),
            None => Ok(Self(candidates)),
        }
    }

    /// The candidates, in the order of their accounts.
    #[must_use]
    pub fn list(&self) -> &[Candidate] {
        &self.0
    }

    /// The digest of the list, to which a lease binds both sides.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// The list as bytes, of which [`Self::digest`] is the digest.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        written(|out| self.write(out))
    }

    /// Reads a list.
    ///
    /// # Errors
    ///
    /// When the bytes are none, or the candidates are not in the order of their accounts.
    pub fn decode(encoding: &[u8]) -> Result<Self, StatementError> {
        let candidates = Self::read(&mut Decoder::new(encoding))?;
        match candidates.0.is_sorted_by(|a, b| a.account < b.account) {
            true => Ok(candidates),
            false => Err(StatementError::NotCanonical),
        }
    }
}

impl Part for Candidates {
    fn write(&self, out: &mut Out) -> Written {
        write_list(&self.0, out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        read_list(input, Self::MAX).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(stakes: &[u64]) -> Candidates {
        let list = stakes.iter().enumerate().map(|(n, stake)| Candidate {
            account: AccountId::from_bytes([n as u8; 32]),
            stake: Credits::from_micro(*stake),
        });
        Candidates::new(list.collect()).unwrap()
    }

    fn draw(n: u64) -> Draw {
        let mut secret = [0; 32];
        secret[..8].copy_from_slice(&n.to_le_bytes());
        AuditSecret(secret).draw(Digest::of(b"result"))
    }

    #[test]
    fn a_draw_depends_on_both_sides() {
        let secret = AuditSecret::from_bytes([1; 32]);
        let other = AuditSecret::from_bytes([2; 32]);
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        assert_eq!(secret.draw(one), secret.draw(one));
        assert_ne!(secret.draw(one), secret.draw(two));
        assert_ne!(secret.draw(one), other.draw(one));
        assert_ne!(secret.commitment(), other.commitment());
    }

    #[test]
    fn the_rate_is_kept() {
        let audited = |rate| (0..20_000).filter(|n| draw(*n).is_audited(rate)).count();
        assert_eq!(audited(0), 0);
        assert_eq!(audited(1_000_000), 20_000);
        // 5 % of 20,000 is 1,000; the draws are fixed, and five deviations wide is wide enough
        // for any good hash.
        let at_five = audited(50_000);
        assert!((846..=1_154).contains(&at_five), "{at_five}");
    }

    #[test]
    fn stakes_weigh_and_the_excluded_are_never_drawn() {
        let candidates = candidates(&[0, 1_000, 3_000, 6_000]);
        let excluded = [AccountId::from_bytes([1; 32])];
        let mut first = [0; 4];
        for n in 0..9_000 {
            let drawn = draw(n).auditors(&candidates, 5, &excluded);
            assert_eq!(drawn.len(), 2, "those without stake are not drawn");
            first[usize::from(drawn[0].as_bytes()[0])] += 1;
        }
        assert_eq!((first[0], first[1]), (0, 0));
        // 3,000 of 9,000 expected.
        assert!((2_780..=3_220).contains(&first[2]), "{first:?}");
    }

    proptest! {
        #[test]
        fn auditors_are_distinct_candidates(
            stakes in proptest::collection::vec(0..u64::MAX / 2, 0..20),
            n: u64,
            count in 0..25_usize,
        ) {
            let candidates = candidates(&stakes);
            let mut drawn = draw(n).auditors(&candidates, count, &[]);
            let staked = stakes.iter().filter(|stake| **stake > 0).count();
            prop_assert_eq!(drawn.len(), count.min(staked));
            drawn.sort_unstable();
            drawn.dedup();
            prop_assert_eq!(drawn.len(), count.min(staked));
        }
    }

    #[test]
    fn a_list_names_each_once() {
        let twice = Candidate {
            account: AccountId::from_bytes([1; 32]),
            stake: Credits::ZERO,
        };
        assert!(matches!(
            Candidates::new(vec![twice; 2]),
            Err(AuditError::Twice { .. })
        ));
        assert!(matches!(
            Candidates::new(vec![twice; 5_000]),
            Err(AuditError::TooMany { found: 5_000 })
        ));
    }
}
