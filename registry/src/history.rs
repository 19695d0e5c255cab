//! The history of a package: every release in order, each naming the one before.
//!
//! A history that verifies is what the publisher signed, but it may be an old one, or one of two
//! that a dishonest publisher shows to different people. Whoever remembers the [`KnownHead`] they
//! saw last finds out; nobody can find out without remembering.

use semver::VersionReq;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::name::PackageName;
use crate::publisher::PublisherId;
use crate::release::{ReleaseError, SignedRelease};

/// The releases of one package, from the first on, each checked against the one before. There is
/// at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    head: SignedRelease,
    /// All of them, the head included.
    releases: Vec<SignedRelease>,
}

impl History {
    /// Checks that these releases are a history: all of one package, numbered from 0 without a
    /// gap, each naming the digest of the one before, versions rising.
    ///
    /// # Errors
    ///
    /// When they are not, with the first place at which they are not.
    pub fn verify(releases: Vec<SignedRelease>) -> Result<Self, HistoryError> {
        let mut releases = releases.into_iter();
        let first = releases.next().ok_or(HistoryError::Empty)?;
        if first.sequence() != 0 {
            return Err(HistoryError::NoBeginning {
                first: first.sequence(),
            });
        }
        let mut history = Self {
            head: first.clone(),
            releases: vec![first],
        };
        for next in releases {
            history.extend(next)?;
        }
        Ok(history)
    }

    /// Appends the next release.
    ///
    /// # Errors
    ///
    /// When it cannot follow the head; the history is then as it was.
    pub fn extend(&mut self, next: SignedRelease) -> Result<(), HistoryError> {
        next.check_follows(&self.head)
            .map_err(|reason| HistoryError::Broken {
                position: self.releases.len(),
                reason,
            })?;
        self.releases.push(next.clone());
        self.head = next;
        Ok(())
    }

    /// The latest release.
    #[must_use]
    pub fn head(&self) -> &SignedRelease {
        &self.head
    }

    /// All releases, from the first on.
    #[must_use]
    pub fn releases(&self) -> &[SignedRelease] {
        &self.releases
    }

    /// Whose package it is.
    #[must_use]
    pub fn publisher(&self) -> PublisherId {
        self.head.publisher()
    }

    /// The package's name under its publisher.
    #[must_use]
    pub fn name(&self) -> &PackageName {
        self.head.name()
    }

    /// The latest release whose version satisfies the requirement.
    #[must_use]
    pub fn find(&self, requirement: &VersionReq) -> Option<&SignedRelease> {
        self.releases
            .iter()
            .rev()
            .find(|release| requirement.matches(release.version()))
    }

    /// The release with this digest.
    #[must_use]
    pub fn by_digest(&self, digest: &Digest) -> Option<&SignedRelease> {
        self.releases
            .iter()
            .find(|release| release.digest() == *digest)
    }

    /// What to remember of this history, for the next [`History::check_against`].
    #[must_use]
    pub fn known_head(&self) -> KnownHead {
        KnownHead {
            sequence: self.head.sequence(),
            digest: self.head.digest(),
        }
    }

    /// Checks that this history goes on from what was known of it.
    ///
    /// # Errors
    ///
    /// When it is older, or another one.
    pub fn check_against(&self, known: &KnownHead) -> Result<(), HistoryError> {
        let same_place = usize::try_from(known.sequence)
            .ok()
            .and_then(|index| self.releases.get(index));
        match same_place {
            None => Err(HistoryError::RolledBack {
                known: known.sequence,
                offered: self.head.sequence(),
            }),
            Some(release) if release.digest() != known.digest => Err(HistoryError::Forked {
                at_sequence: known.sequence,
            }),
            Some(_) => Ok(()),
        }
    }
}

/// The latest release of a package that somebody has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KnownHead {
    /// Its place in the history, from 0.
    pub sequence: u64,
    /// Its digest.
    pub digest: Digest,
}

/// Why releases are not a history, or not the one that was known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// There are none.
    #[error("a package's history has at least one release, and this has none")]
    Empty,
    /// The first is not there.
    #[error(
        "the history starts at release number {first} instead of 0: its beginning is missing; ask another node for it"
    )]
    NoBeginning {
        /// The number of the first that is there.
        first: u64,
    },
    /// One of them does not follow the one before.
    #[error("the history breaks at position {position}: {reason}")]
    Broken {
        /// Which one, from 0.
        position: usize,
        /// Why it does not follow.
        reason: ReleaseError,
    },
    /// It ends before what was already known.
    #[error(
        "the history was rolled back: release number {known} is known here, and what is offered ends at \
         number {offered}; the node that offers it is out of date or hides releases, so ask another one"
    )]
    RolledBack {
        /// The number of the release that was known.
        known: u64,
        /// The number of the last that is offered.
        offered: u64,
    },
    /// It has another release where one was already known.
    #[error(
        "the history was forked: the publisher signed another release number {at_sequence} (or an earlier one) \
         than the one known here, so one of the two was made to replace the other; use neither until the \
         publisher says which one counts"
    )]
    Forked {
        /// The number of the release that was known.
        at_sequence: u64,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::release::tests::{draft, key};

    /// A history of `length` releases, versions 1.0.0, 1.1.0, …
    fn chain(length: usize) -> Vec<SignedRelease> {
        fork(&[], length, "A tool")
    }

    /// The releases up to `length` in all that follow `base`, telling forks apart by their
    /// description.
    fn fork(base: &[SignedRelease], length: usize, description: &str) -> Vec<SignedRelease> {
        let mut releases = base.to_vec();
        while releases.len() < length {
            let mut next = draft(&format!("1.{}.0", releases.len()));
            next.description = Some(description.to_owned());
            releases.push(next.sign(&key(1), releases.last()).unwrap());
        }
        releases
    }

    fn verify(releases: &[SignedRelease]) -> Result<History, HistoryError> {
        History::verify(releases.to_vec())
    }

    #[test]
    fn a_history_knows_its_releases() {
        let releases = chain(4);
        let history = verify(&releases).unwrap();
        assert_eq!(history.releases(), releases);
        assert_eq!(history.head(), &releases[3]);
        assert_eq!(history.publisher(), key(1).id());
        assert_eq!(history.name().as_str(), "tool");
        let find = |text: &str| history.find(&VersionReq::parse(text).unwrap());
        assert_eq!(find("*"), Some(&releases[3]));
        assert_eq!(find("=1.1.0"), Some(&releases[1]));
        assert_eq!(find("<1.3"), Some(&releases[2]));
        assert_eq!(find("2"), None);
        assert_eq!(history.by_digest(&releases[2].digest()), Some(&releases[2]));
        assert_eq!(history.by_digest(&Digest::of(b"")), None);
    }

    #[test]
    fn a_history_goes_on_from_what_was_known() {
        let releases = chain(3);
        let known = verify(&releases[..2]).unwrap().known_head();
        assert_eq!(verify(&releases).unwrap().check_against(&known), Ok(()));
        assert_eq!(
            verify(&releases[..2]).unwrap().check_against(&known),
            Ok(())
        );
    }

    #[test]
    fn a_failed_extension_changes_nothing() {
        let releases = chain(3);
        let mut history = verify(&releases[..1]).unwrap();
        let before = history.clone();
        assert!(history.extend(releases[2].clone()).is_err());
        assert_eq!(history, before);
        history.extend(releases[1].clone()).unwrap();
        assert_eq!(history.head(), &releases[1]);
    }

    #[test]
    fn the_errors_say_what_it_means_and_what_to_do() {
        let releases = chain(4);
        let known = verify(&releases).unwrap().known_head();
        insta::assert_snapshot!(verify(&[]).unwrap_err(), @"a package's history has at least one release, and this has none");
        insta::assert_snapshot!(verify(&releases[1..]).unwrap_err(), @"the history starts at release number 1 instead of 0: its beginning is missing; ask another node for it");
        insta::assert_snapshot!(
            verify(&[releases[0].clone(), releases[2].clone()]).unwrap_err(),
            @"the history breaks at position 1: release number 2 cannot follow number 0: one in between is missing, or the order is wrong"
        );
        let forked = fork(&releases[..2], 4, "Another tool");
        insta::assert_snapshot!(
            verify(&[&releases[..3], &forked[3..]].concat()).unwrap_err(),
            @"the history breaks at position 3: release number 3 names another release as the one before it: the history was altered, or the publisher signed two different ones"
        );
        insta::assert_snapshot!(
            verify(&releases[..2]).unwrap().check_against(&known).unwrap_err(),
            @"the history was rolled back: release number 3 is known here, and what is offered ends at number 1; the node that offers it is out of date or hides releases, so ask another one"
        );
        insta::assert_snapshot!(
            verify(&forked).unwrap().check_against(&known).unwrap_err(),
            @"the history was forked: the publisher signed another release number 3 (or an earlier one) than the one known here, so one of the two was made to replace the other; use neither until the publisher says which one counts"
        );
    }

    #[test]
    fn another_package_or_publisher_is_not_of_this_history() {
        let releases = chain(1);
        let other = draft("1.1.0").sign(&key(2), None).unwrap();
        assert!(matches!(
            verify(&[releases[0].clone(), other]),
            Err(HistoryError::Broken {
                position: 1,
                reason: ReleaseError::OtherPackage { .. }
            })
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However releases are taken from a history, put in another order, repeated or replaced
        /// by others that the publisher signed: either it is refused, or it is a beginning of the
        /// one or of the other history, and then whoever knew the first sees that.
        #[test]
        fn nothing_but_the_history_passes(
            length in 2_usize..6, at in 0_usize..6,
            picks in proptest::collection::vec((any::<bool>(), 0_usize..6), 1..8),
        ) {
            let truth = chain(length);
            let other = fork(&truth[..at.min(length - 1)], length, "Another tool");
            let known = verify(&truth).unwrap().known_head();
            let offered: Vec<_> = picks
                .iter()
                .map(|(first, index)| if *first { &truth } else { &other }[index % length].clone())
                .collect();
            if let Ok(history) = History::verify(offered.clone()) {
                prop_assert!(truth.starts_with(&offered) || other.starts_with(&offered));
                prop_assert_eq!(history.check_against(&known).is_ok(), offered == truth);
            }
        }

        /// The single changes, each of which has to be refused.
        #[test]
        fn every_single_change_is_refused(length in 2_usize..6, a in any::<proptest::sample::Index>(), b in any::<proptest::sample::Index>()) {
            let truth = chain(length);
            let known = verify(&truth).unwrap().known_head();
            let (a, b) = (a.index(length), b.index(length));
            let refused = |releases: Vec<SignedRelease>| match History::verify(releases) {
                Ok(history) => history.check_against(&known).is_err(),
                Err(_) => true,
            };
            let mut removed = truth.clone();
            removed.remove(a);
            prop_assert!(refused(removed));
            let mut repeated = truth.clone();
            repeated.insert(a, truth[b].clone());
            prop_assert!(refused(repeated));
            let mut replaced = truth.clone();
            replaced[a] = fork(&truth[..a], length, "Another tool")[a].clone();
            prop_assert!(refused(replaced));
            if a != b {
                let mut swapped = truth;
                swapped.swap(a, b);
                prop_assert!(refused(swapped));
            }
        }
    }
}
