//! Where an adapter comes from, as its signed release says it, and what its family gets of every
//! price.
//!
//! A release signs the digest of its `lineage.json`, which names the base, the adapter that it went
//! on from, and the share that its author asks for. Ancestors are named by the digests of their
//! releases, so nobody can be an ancestor of itself, put words into an ancestor's mouth, or lower
//! what it asks for: that is read from the ancestor's own release. What this module must never do:
//! take a family for whole of which a member is missing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use skep_registry::{Digest, PackageName, PublisherId, SignedRelease};

use crate::account::AccountId;
use crate::credits::{Share, Split};
use crate::statement::StatementError;

/// The file of a release that it is in.
pub const FILE: &str = "lineage.json";
/// Bytes that the file may have.
pub const MAX_BYTES: u64 = 1 << 20;
/// Adapters in one line: who goes on from so many asks for too much.
pub const MAX_GENERATIONS: usize = 64;

/// The file that the weights are in.
const WEIGHTS: &str = "adapter_model.safetensors";
const FORMAT: u32 = 1;
/// The whole of a price.
const WHOLE: u32 = 1_000_000;

/// What an adapter was made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// The version of this form: 1.
    pub format: u32,
    /// The model that it changes.
    pub base: Named,
    /// The release of the adapter that it went on from.
    pub parent: Option<Digest>,
    /// How many millionths of the price of every use its author asks for: of its own, and of every
    /// adapter that goes on from it.
    #[serde(default)]
    pub share: u32,
    /// The examples. They are not here.
    pub data: Digest,
    /// The component that trained it.
    pub recipe: Digest,
    /// The weights.
    pub weights: Digest,
    /// What it tells apart, if it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// Steps that it was trained for.
    pub steps: u64,
    /// What it was trained with, by the recipe's words.
    pub hyper_parameters: serde_json::Map<String, Value>,
    /// What it came to, by the recipe's words.
    pub metrics: serde_json::Map<String, Value>,
}

/// A model by name and digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// What it is called.
    pub name: String,
    /// The digest that a node knows it by.
    pub digest: Digest,
}

/// Why what is said of a family cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    /// The file is none, or not the one that was signed.
    #[error("the lineage of {release} is refused: {reason}")]
    Unsound {
        /// The release.
        release: Digest,
        /// What is wrong.
        reason: String,
    },
    /// It claims a parent that cannot be one.
    #[error("{release} names {parent} as the adapter that it went on from, and {reason}")]
    NoParent {
        /// The release.
        release: Digest,
        /// What it names.
        parent: Digest,
        /// Why that is none.
        reason: String,
    },
    /// The line is too long.
    #[error("{release} has more than {MAX_GENERATIONS} generations of adapters before it")]
    TooDeep {
        /// The release.
        release: Digest,
    },
    /// Nobody knows what an ancestor asks for that is not here.
    #[error(
        "{missing}, an ancestor, is not here, and so nobody knows what it asks for; \
         `skep install {missing}` fetches it"
    )]
    Missing {
        /// The ancestor.
        missing: Digest,
    },
    /// The shares cannot be paid.
    #[error("what the family asks for cannot be paid: {0}")]
    Shares(#[from] StatementError),
}

impl Lineage {
    /// Reads the file of a release, if it has one: `read` gets its bytes.
    ///
    /// # Errors
    /// When it is not the file that was signed, is no lineage, or says something of the base or the
    /// weights that the release does not.
    pub fn of(
        release: &SignedRelease,
        read: impl FnOnce() -> std::io::Result<Vec<u8>>,
    ) -> Result<Option<Self>, LineageError> {
        let unsound = |reason: String| LineageError::Unsound {
            release: release.digest(),
            reason,
        };
        let Some(entry) = release.file(FILE) else {
            return Ok(None);
        };
        let Some(adapter) = release.adapter() else {
            return Err(unsound("it is no adapter".to_owned()));
        };
        if entry.size > MAX_BYTES {
            return Err(unsound(format!("{FILE} has {} bytes", entry.size)));
        }
        let bytes = read().map_err(|error| unsound(format!("{FILE} cannot be read: {error}")))?;
        if Digest::of(&bytes) != entry.digest {
            return Err(unsound(format!("{FILE} is not the file that was signed")));
        }
        let lineage: Self = serde_json::from_slice(&bytes)
            .map_err(|error| unsound(format!("{FILE} says nothing of one: {error}")))?;
        if lineage.format != FORMAT {
            let format = lineage.format;
            return Err(unsound(format!("it is of format {format}, not {FORMAT}")));
        }
        if lineage.share > WHOLE {
            return Err(unsound(
                "its author asks for more than the whole".to_owned(),
            ));
        }
        if lineage.base.digest != adapter.base.digest {
            return Err(unsound(format!(
                "it names the base {}, and the release {}",
                lineage.base.digest, adapter.base.digest
            )));
        }
        match release.file(WEIGHTS) {
            Some(weights) if weights.digest == lineage.weights => Ok(Some(lineage)),
            _ => Err(unsound(
                "it is of other weights than the release has".to_owned(),
            )),
        }
    }

    /// One that is being written: [`Lineage::format`] as it is now.
    #[must_use]
    pub const fn format() -> u32 {
        FORMAT
    }
}

/// An adapter of a family.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The digest of its release.
    pub release: Digest,
    /// Whose it is: who gets its share.
    pub publisher: PublisherId,
    /// What it is called.
    pub name: PackageName,
    /// Its version.
    pub version: String,
    /// What it says of itself; nothing if it was not made here by a recipe.
    pub lineage: Option<Lineage>,
}

/// An adapter and those that it went on from.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// The adapter, its parent, and so on.
    pub members: Vec<Member>,
    /// An ancestor that is not here; what came before it is not known either.
    pub missing: Option<Digest>,
}

/// A release that was found, with what reads its lineage.
pub struct Found<R> {
    /// The release.
    pub release: SignedRelease,
    /// Reads its `lineage.json`.
    pub read: R,
}

impl Family {
    /// Follows a release to its ancestors; `find` has those that are here.
    ///
    /// # Errors
    /// When a lineage is unsound, a parent is no adapter of the same base, or there are too many
    /// generations.
    pub fn of<R>(
        release: Found<R>,
        mut find: impl FnMut(&Digest) -> Option<Found<R>>,
    ) -> Result<Self, LineageError>
    where
        R: FnOnce() -> std::io::Result<Vec<u8>>,
    {
        let mut family = Self {
            members: Vec::new(),
            missing: None,
        };
        let first = release.release.digest();
        let base = release.release.adapter().map(|adapter| adapter.base.digest);
        let mut next = Some(release);
        while let Some(Found { release, read }) = next.take() {
            if family.members.len() > MAX_GENERATIONS {
                return Err(LineageError::TooDeep { release: first });
            }
            let lineage = Lineage::of(&release, read)?;
            let (child, parent) = (release.digest(), lineage.as_ref().and_then(|l| l.parent));
            family.members.push(Member {
                release: child,
                publisher: release.publisher(),
                name: release.name().clone(),
                version: release.version().to_string(),
                lineage,
            });
            let Some(parent) = parent else { break };
            let Some(found) = find(&parent) else {
                family.missing = Some(parent);
                break;
            };
            let wrong = |reason: &str| LineageError::NoParent {
                release: child,
                parent,
                reason: reason.to_owned(),
            };
            // A release signs the digest of its lineage, which names its parent's digest: with this,
            // nobody is an ancestor of itself, whatever `find` says.
            if found.release.digest() != parent {
                return Err(wrong("what is here under that name is another release"));
            }
            match found.release.adapter() {
                None => return Err(wrong("that is no adapter")),
                Some(adapter) if Some(adapter.base.digest) != base => {
                    return Err(wrong("that changes another base"));
                }
                Some(_) => next = Some(found),
            }
        }
        Ok(family)
    }

    /// How the price of a use of the adapter is divided: every author's share, of an author of
    /// several the sum, and the rest to the provider.
    ///
    /// # Errors
    /// When a member is missing, or the shares are more than the whole or too many.
    pub fn split(&self) -> Result<Split, LineageError> {
        self.split_with(&[])
    }

    /// The same of an adapter that goes on from this one and whose author asks for so many
    /// millionths.
    ///
    /// # Errors
    /// As [`Family::split`].
    pub fn split_of_child(&self, author: PublisherId, share: u32) -> Result<Split, LineageError> {
        self.split_with(&[(author.into(), share)])
    }

    fn split_with(&self, more: &[(AccountId, u32)]) -> Result<Split, LineageError> {
        if let Some(missing) = self.missing {
            return Err(LineageError::Missing { missing });
        }
        let own = self.members.iter().map(|member| {
            let share = member.lineage.as_ref().map_or(0, |lineage| lineage.share);
            (member.publisher.into(), share)
        });
        let mut sums: BTreeMap<AccountId, u32> = BTreeMap::new();
        for (account, share) in own.chain(more.iter().copied()) {
            let sum = sums.entry(account).or_default();
            // More than the whole stays more than the whole.
            *sum = sum.saturating_add(share);
        }
        let shares = sums.into_iter().filter(|(_, parts)| *parts > 0);
        let shares = shares.map(|(account, parts)| Share { account, parts });
        Ok(Split::new(shares.collect())?)
    }
}

#[cfg(test)]
mod tests;
