//! What this node knows of releases, and remembers.
//!
//! For each package there is one small file with its history as far as it was ever seen here, the
//! newest head that was ever seen, and which releases this node published. The head is what makes
//! a rolled-back or replaced history noticeable, so a damaged file is an error and never silently
//! dropped, and nothing is acted on before it is written down.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use skep_registry::{
    Digest, History, HistoryError, KnownHead, PackageName, PublisherId, SignedRelease,
};

use crate::disk::{Layout, write_atomic};
use crate::error::OpenError;

type Key = (PublisherId, PackageName);

/// What is known of every package.
#[derive(Debug)]
pub(crate) struct Releases {
    dir: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    packages: BTreeMap<Key, Package>,
    /// The releases of which every file is here: what this node offers.
    complete: HashMap<Digest, SignedRelease>,
}

#[derive(Clone, Debug)]
struct Package {
    history: History,
    head: KnownHead,
    published: Vec<Digest>,
}

/// One line of what a node offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The package's publisher.
    pub publisher: PublisherId,
    /// The package's name.
    pub name: PackageName,
    /// The newest release that is complete there.
    pub newest: Digest,
    /// That release's version.
    pub version: String,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u8,
    releases: Vec<Vec<u8>>,
    head: KnownHead,
    published: Vec<Digest>,
}

const FORMAT: u8 = 1;
const SUFFIX: &str = "history";

/// Why a history was not taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Disk(#[from] io::Error),
}

impl Releases {
    pub(crate) fn open(layout: &Layout) -> Result<Self, OpenError> {
        let dir = layout.releases.clone();
        let folder = |source| OpenError::Folder {
            path: dir.clone(),
            source,
        };
        let mut known = Known::default();
        for entry in fs::read_dir(&dir).map_err(folder)? {
            let path = entry.map_err(folder)?.path();
            if path.extension().and_then(|e| e.to_str()) != Some(SUFFIX) {
                continue;
            }
            let bytes = fs::read(&path).map_err(folder)?;
            match read(&bytes) {
                Ok(package) => {
                    let key = (package.history.publisher(), package.history.name().clone());
                    known.packages.insert(key, package);
                }
                Err(reason) => return Err(OpenError::Memory { path, reason }),
            }
        }
        Ok(Self {
            dir,
            known: Mutex::new(known),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every change is one insertion, so a poisoned lock is still good.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn history(&self, publisher: &PublisherId, name: &PackageName) -> Option<History> {
        let known = self.lock();
        let package = known.packages.get(&(*publisher, name.clone()))?;
        Some(package.history.clone())
    }

    pub(crate) fn known_head(
        &self,
        publisher: &PublisherId,
        name: &PackageName,
    ) -> Option<KnownHead> {
        let known = self.lock();
        Some(known.packages.get(&(*publisher, name.clone()))?.head)
    }

    /// Takes over a history that goes on from what is known, and remembers its head.
    pub(crate) fn adopt(&self, history: &History) -> Result<(), AdoptError> {
        let mut known = self.lock();
        let key = (history.publisher(), history.name().clone());
        let published = match known.packages.get(&key) {
            Some(package) => {
                history.check_against(&package.head)?;
                if package.history.releases().len() == history.releases().len() {
                    return Ok(());
                }
                package.published.clone()
            }
            None => Vec::new(),
        };
        self.write(
            &mut known,
            Package {
                history: history.clone(),
                head: history.known_head(),
                published,
            },
        )?;
        Ok(())
    }

    /// Appends a release to its package's history and remembers that it was published here.
    pub(crate) fn publish(&self, release: &SignedRelease) -> Result<(), AdoptError> {
        let mut known = self.lock();
        let key = (release.publisher(), release.name().clone());
        let digest = release.digest();
        let package = match known.packages.get(&key) {
            Some(package) => {
                let mut package = package.clone();
                if package.history.by_digest(&digest).is_none() {
                    package.history.extend(release.clone())?;
                    package.head = package.history.known_head();
                }
                if !package.published.contains(&digest) {
                    package.published.push(digest);
                }
                package
            }
            None => {
                let history = History::verify(vec![release.clone()])?;
                Package {
                    head: history.known_head(),
                    history,
                    published: vec![digest],
                }
            }
        };
        self.write(&mut known, package)?;
        Ok(())
    }

    /// Forgets that a release was published here, and returns it; none if it was not. Its place
    /// in the history stays.
    pub(crate) fn unpublish(&self, digest: &Digest) -> io::Result<Option<SignedRelease>> {
        let mut known = self.lock();
        let mut packages = known.packages.values();
        let Some(package) = packages.find(|package| package.published.contains(digest)) else {
            return Ok(None);
        };
        let mut package = package.clone();
        package.published.retain(|published| published != digest);
        let release = package.history.by_digest(digest).cloned();
        self.write(&mut known, package)?;
        Ok(release)
    }

    /// Writes a package's file, and only then lets others see it.
    fn write(&self, known: &mut Known, package: Package) -> io::Result<()> {
        let stored = Stored {
            format: FORMAT,
            releases: package
                .history
                .releases()
                .iter()
                .map(|r| r.encode().to_vec())
                .collect(),
            head: package.head,
            published: package.published.clone(),
        };
        let body = postcard::to_stdvec(&stored).map_err(io::Error::other)?;
        let mut bytes = blake3::hash(&body).as_bytes().to_vec();
        bytes.extend_from_slice(&body);
        let key = (package.history.publisher(), package.history.name().clone());
        write_atomic(&self.dir.join(file_name(&key)), &bytes)?;
        known.packages.insert(key, package);
        Ok(())
    }

    /// Releases that were published here, whether or not their files still are.
    pub(crate) fn published(&self) -> Vec<SignedRelease> {
        let known = self.lock();
        known
            .packages
            .values()
            .flat_map(|p| p.published.iter().filter_map(|d| p.history.by_digest(d)))
            .cloned()
            .collect()
    }

    /// Offers a release: every file of it is here. False when it was offered already.
    pub(crate) fn offer(&self, release: &SignedRelease) -> bool {
        let mut known = self.lock();
        known
            .complete
            .insert(release.digest(), release.clone())
            .is_none()
    }

    /// No longer offers a release. False when it was not offered.
    pub(crate) fn withdraw(&self, digest: &Digest) -> bool {
        self.lock().complete.remove(digest).is_some()
    }

    pub(crate) fn is_complete(&self, digest: &Digest) -> bool {
        self.lock().complete.contains_key(digest)
    }

    /// A release by its digest, from any history known here.
    pub(crate) fn by_digest(&self, digest: &Digest) -> Option<SignedRelease> {
        let known = self.lock();
        known.complete.get(digest).cloned().or_else(|| {
            let mut histories = known.packages.values().map(|p| &p.history);
            histories.find_map(|h| h.by_digest(digest)).cloned()
        })
    }

    /// Whether another release is known here in the place of this one: its publisher has signed both.
    pub(crate) fn has_another(&self, release: &SignedRelease) -> bool {
        let known = self.lock();
        let key = (release.publisher(), release.name().clone());
        known.packages.get(&key).is_some_and(|package| {
            let mut known = package.history.releases().iter();
            known.any(|known| {
                known.sequence() == release.sequence() && known.digest() != release.digest()
            })
        })
    }

    /// What this node offers, in order of publisher and name, after `after`; and whether there is
    /// more than `limit`.
    pub(crate) fn offers(&self, after: Option<&Key>, limit: usize) -> (Vec<Offer>, bool) {
        let known = self.lock();
        let mut newest: BTreeMap<Key, &SignedRelease> = BTreeMap::new();
        for release in known.complete.values() {
            let key = (release.publisher(), release.name().clone());
            if after.is_some_and(|after| key <= *after) {
                continue;
            }
            let best = newest.entry(key).or_insert(release);
            if release.sequence() > best.sequence() {
                *best = release;
            }
        }
        let more = newest.len() > limit;
        let offers = newest
            .into_iter()
            .take(limit)
            .map(|((publisher, name), release)| Offer {
                publisher,
                name,
                newest: release.digest(),
                version: release.version().to_string(),
            });
        (offers.collect(), more)
    }
}

/// One name for each package, safe on every file system.
fn file_name((publisher, name): &Key) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("skep releases file name v1");
    hasher.update(publisher.as_bytes());
    hasher.update(name.as_str().as_bytes());
    format!("{}.{SUFFIX}", hasher.finalize().to_hex())
}

/// Reads a package's file and checks all of it again.
fn read(bytes: &[u8]) -> Result<Package, String> {
    let (check, body) = bytes.split_at_checked(32).ok_or("it is cut short")?;
    if blake3::hash(body).as_bytes() != check {
        return Err("its check sum does not fit".to_owned());
    }
    let stored: Stored = postcard::from_bytes(body).map_err(|e| e.to_string())?;
    if stored.format != FORMAT {
        return Err(format!(
            "it has format {}, and this is format {FORMAT}",
            stored.format
        ));
    }
    let releases = stored
        .releases
        .iter()
        .map(|encoded| SignedRelease::decode(encoded).map_err(|e| e.to_string()))
        .collect::<Result<_, _>>()?;
    let history = History::verify(releases).map_err(|e| e.to_string())?;
    history
        .check_against(&stored.head)
        .map_err(|e| e.to_string())?;
    Ok(Package {
        history,
        head: stored.head,
        published: stored.published,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{draft, key};

    fn chain(versions: &[&str]) -> Vec<SignedRelease> {
        let mut releases: Vec<SignedRelease> = Vec::new();
        for version in versions {
            let release = draft("tool", version, &[])
                .sign(key(1), releases.last())
                .unwrap();
            releases.push(release);
        }
        releases
    }

    fn open(dir: &std::path::Path) -> Result<Releases, OpenError> {
        Releases::open(&Layout::create(dir).unwrap())
    }

    #[test]
    fn heads_survive_and_rolled_back_or_forked_histories_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let all = chain(&["1.0.0", "1.1.0", "2.0.0"]);
        let long = History::verify(all.clone()).unwrap();
        let short = History::verify(all[..2].to_vec()).unwrap();
        open(dir.path()).unwrap().adopt(&long).unwrap();

        let again = open(dir.path()).unwrap();
        assert_eq!(
            again.known_head(&key(1).id(), long.name()),
            Some(long.known_head())
        );
        assert_eq!(again.history(&key(1).id(), long.name()), Some(long.clone()));
        again.adopt(&long).unwrap();
        assert!(matches!(
            again.adopt(&short),
            Err(AdoptError::History(HistoryError::RolledBack {
                known: 2,
                offered: 1
            }))
        ));
        let other = chain(&["1.0.0", "1.2.0", "2.0.0"]);
        let forked = History::verify(other).unwrap();
        assert!(matches!(
            again.adopt(&forked),
            Err(AdoptError::History(HistoryError::Forked { at_sequence: 2 }))
        ));
    }

    #[test]
    fn any_flipped_bit_of_the_memory_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path())
            .unwrap()
            .publish(&chain(&["1.0.0"])[0])
            .unwrap();
        let path = fs::read_dir(dir.path().join("releases"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let good = fs::read(&path).unwrap();
        for i in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[i] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            assert!(
                matches!(open(dir.path()), Err(OpenError::Memory { .. })),
                "byte {i}"
            );
        }
        fs::write(&path, &good[..20]).unwrap();
        assert!(matches!(open(dir.path()), Err(OpenError::Memory { .. })));
    }

    #[test]
    fn publishing_extends_and_repeating_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let releases = open(dir.path()).unwrap();
        let all = chain(&["1.0.0", "1.1.0"]);
        // The second cannot come first.
        assert!(matches!(
            releases.publish(&all[1]),
            Err(AdoptError::History(HistoryError::NoBeginning { first: 1 }))
        ));
        releases.publish(&all[0]).unwrap();
        releases.publish(&all[1]).unwrap();
        releases.publish(&all[0]).unwrap();
        assert_eq!(open(dir.path()).unwrap().published(), all);
    }

    #[test]
    fn what_is_taken_back_is_not_published_but_stays_in_the_history() {
        let dir = tempfile::tempdir().unwrap();
        let releases = open(dir.path()).unwrap();
        let all = chain(&["1.0.0", "1.1.0", "1.2.0"]);
        releases.publish(&all[0]).unwrap();
        releases.publish(&all[1]).unwrap();
        let taken = releases.unpublish(&all[1].digest()).unwrap();
        assert_eq!(taken.as_ref(), Some(&all[1]));
        assert_eq!(releases.unpublish(&all[1].digest()).unwrap(), None);
        let again = open(dir.path()).unwrap();
        assert_eq!(again.published(), all[..1]);
        assert_eq!(again.by_digest(&all[1].digest()).as_ref(), Some(&all[1]));
        again.publish(&all[2]).unwrap();
        assert_eq!(again.published(), [all[0].clone(), all[2].clone()]);
    }

    #[test]
    fn offers_are_listed_in_order_and_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let releases = open(dir.path()).unwrap();
        let all = chain(&["1.0.0", "1.1.0"]);
        for release in &all {
            assert!(releases.offer(release));
        }
        assert!(!releases.offer(&all[0]));
        let other = draft("another", "0.1.0", &[]).sign(key(1), None).unwrap();
        releases.offer(&other);
        let (first, more) = releases.offers(None, 1);
        assert!(more);
        assert_eq!((first[0].name.as_str(), first.len()), ("another", 1));
        let after = (first[0].publisher, first[0].name.clone());
        let (second, more) = releases.offers(Some(&after), 1);
        assert!(!more);
        assert_eq!(
            (second[0].newest, second[0].version.as_str()),
            (all[1].digest(), "1.1.0")
        );
        assert!(releases.withdraw(&all[1].digest()));
        assert_eq!(
            releases.offers(Some(&after), 1).0[0].newest,
            all[0].digest()
        );
    }
}
