//! From a package's name to the one release that is meant.
//!
//! Several nodes are asked for the package's history. A history counts only when every signature
//! in it holds, it hangs together, and it goes on from what this node has seen before; of those
//! that count the longest is taken, and the others must be its beginnings. So a node can hide
//! releases only from somebody who asks nobody else and has never seen them, and a publisher who
//! signs two contradicting histories is found out by whoever is shown both.

use std::sync::{Mutex, PoisonError};

use n0_future::StreamExt;
use semver::VersionReq;
use skep_registry::{
    Digest, History, HistoryError, KnownHead, PackageName, PackageRef, PublisherId, SignedRelease,
};

use crate::ask::{self, Shown};
use crate::error::{ResolveError, package};
use crate::fault::{FaultOf, ProviderFault, of};
use crate::ids::{NodeId, ProviderAddr};
use crate::node::Swarm;
use crate::releases::{AdoptError, Offer};

/// Nodes that are asked at one moment.
const AT_ONCE: usize = 16;

/// A release that was found, and from whom to fetch it.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The release.
    pub release: SignedRelease,
    /// The package's history, as far as anybody showed it.
    pub history: History,
    /// Nodes that say they have all of the release's files.
    pub providers: Vec<ProviderAddr>,
    /// Nodes that did not answer, or not properly.
    pub faults: Vec<FaultOf>,
}

/// The longest history of those that were shown, and who showed it. However many show one, so that many
/// bytes are kept at a time, and not those of all.
type Longest = (History, NodeId);

/// The head of a history that one node showed and the releases that it says it has wholly, or why the history is
/// refused.
type Heard = Result<(KnownHead, Vec<Digest>), HistoryError>;

/// One node's history, which verifies, as far as it is remembered.
struct Candidate {
    node: ProviderAddr,
    head: KnownHead,
    complete: Vec<Digest>,
}

/// The history of this package that a node has shown, and the releases that it says it has wholly.
fn checked(
    shown: Vec<Shown>,
    publisher: &PublisherId,
    name: &PackageName,
) -> Result<(History, Vec<Digest>), ProviderFault> {
    let complete = shown
        .iter()
        .filter(|shown| shown.complete)
        .map(|shown| shown.release.digest())
        .collect();
    let shown = shown.into_iter().map(|shown| shown.release).collect();
    match History::verify(shown) {
        Ok(history) if history.publisher() == *publisher && history.name() == name => {
            Ok((history, complete))
        }
        Ok(_) => Err(ProviderFault::FalseHistory {
            reason: "it is the history of another package".to_owned(),
        }),
        Err(e) => Err(ProviderFault::FalseHistory {
            reason: e.to_string(),
        }),
    }
}

/// Whose packages of this name are offered.
fn publishers_of(name: &PackageName, offers: Vec<Offer>) -> Vec<PublisherId> {
    let offers = offers.into_iter().filter(|offer| offer.name == *name);
    offers.map(|offer| offer.publisher).collect()
}

impl Swarm {
    /// What this node knows of a package, from the first release on.
    #[must_use]
    pub fn history(&self, publisher: &PublisherId, name: &PackageName) -> Option<History> {
        self.inner.releases.history(publisher, name)
    }

    /// A release that this node has seen, by its digest.
    #[must_use]
    pub fn release(&self, digest: &Digest) -> Option<SignedRelease> {
        self.inner.releases.by_digest(digest)
    }

    /// What this node offers to others.
    #[must_use]
    pub fn offers(&self) -> Vec<Offer> {
        self.inner.releases.offers(None, usize::MAX).0
    }

    /// What another node offers: at most `limit` packages, and whether there are more.
    ///
    /// # Errors
    ///
    /// When it does not answer, or not properly.
    pub async fn ask_offers(
        &self,
        node: &ProviderAddr,
        limit: u16,
    ) -> Result<(Vec<Offer>, bool), FaultOf> {
        ask::offers(&self.inner.endpoint, &self.inner.limits, node, limit)
            .await
            .map_err(|fault| of(node, fault))
    }

    /// Finds what a person meant by `reference`, asking `providers`.
    ///
    /// # Errors
    ///
    /// As [`resolve`](Self::resolve); and [`ResolveError::Ambiguous`] when no publisher is named
    /// and several offer a package of that name.
    pub async fn resolve_ref(
        &self,
        reference: &PackageRef,
        providers: &[ProviderAddr],
    ) -> Result<Resolved, ResolveError> {
        match reference {
            PackageRef::Digest(digest) => self.resolve_digest(digest, providers).await,
            PackageRef::Named {
                publisher: Some(publisher),
                name,
                version,
            } => {
                self.resolve(publisher, name, version.as_ref(), providers)
                    .await
            }
            PackageRef::Named {
                publisher: None,
                name,
                version,
            } => {
                let publisher = self.only_publisher(name, providers).await?;
                self.resolve(&publisher, name, version.as_ref(), providers)
                    .await
            }
        }
    }

    /// The one publisher that offers a package of this name.
    async fn only_publisher(
        &self,
        name: &PackageName,
        providers: &[ProviderAddr],
    ) -> Result<PublisherId, ResolveError> {
        let answers = self.ask_all(providers, |node| async move {
            let (endpoint, limits) = (&self.inner.endpoint, &self.inner.limits);
            let offers = ask::offers(endpoint, limits, node, u16::MAX).await;
            offers.map(|(offers, _)| publishers_of(name, offers))
        });
        let (answers, faults) = answers.await;
        let shown = answers.into_iter().flat_map(|(_, publishers)| publishers);
        let mut publishers: Vec<_> = shown.chain(publishers_of(name, self.offers())).collect();
        publishers.sort_unstable();
        publishers.dedup();
        match publishers[..] {
            [one] => Ok(one),
            [] if providers.is_empty() => Err(ResolveError::NoProviders {
                name: name.to_string(),
            }),
            [] => Err(ResolveError::NotFound {
                name: name.to_string(),
                faults,
            }),
            _ => Err(ResolveError::Ambiguous {
                name: name.to_string(),
                publishers: publishers.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    /// Finds the newest release of a package that satisfies `wanted` (or the newest of all),
    /// asking `providers`, and remembers the newest release seen. Without any provider that can be
    /// reached, what this node knows itself is used.
    ///
    /// # Errors
    ///
    /// When nobody has it, all that is shown is false, what is shown is older than or contradicts
    /// what was seen before, or no version satisfies `wanted`.
    pub async fn resolve(
        &self,
        publisher: &PublisherId,
        name: &PackageName,
        wanted: Option<&VersionReq>,
        providers: &[ProviderAddr],
    ) -> Result<Resolved, ResolveError> {
        let found = self.find_history(publisher, name, providers).await?;
        let release = match wanted {
            Some(wanted) => found.history.find(wanted),
            None => Some(found.history.head()),
        };
        let release = release.ok_or_else(|| ResolveError::NoVersion {
            name: package(publisher, name),
            wanted: wanted.map(ToString::to_string).unwrap_or_default(),
            versions: found
                .history
                .releases()
                .iter()
                .map(|r| r.version().to_string())
                .collect(),
        })?;
        let release = release.clone();
        Ok(found.resolved(release))
    }

    /// Finds the release with this digest, asking `providers`, and its package's history.
    ///
    /// # Errors
    ///
    /// As [`resolve`](Self::resolve).
    pub async fn resolve_digest(
        &self,
        digest: &Digest,
        providers: &[ProviderAddr],
    ) -> Result<Resolved, ResolveError> {
        let release = match self.inner.releases.by_digest(digest) {
            Some(release) => release,
            None if providers.is_empty() => {
                return Err(ResolveError::NoProviders {
                    name: digest.to_string(),
                });
            }
            None => {
                let answers = self.ask_all(providers, |node| async move {
                    let (endpoint, limits) = (&self.inner.endpoint, &self.inner.limits);
                    ask::release(endpoint, limits, node, digest, SignedRelease::MAX_BYTES).await
                });
                let (answers, faults) = answers.await;
                match answers.into_iter().next() {
                    Some((_, shown)) => shown.release,
                    None => {
                        return Err(ResolveError::NotFound {
                            name: digest.to_string(),
                            faults,
                        });
                    }
                }
            }
        };
        let found = self
            .find_history(&release.publisher(), release.name(), providers)
            .await?;
        match found.history.by_digest(digest) {
            Some(_) => Ok(found.resolved(release)),
            // It is signed, but the package's history has another release in its place.
            None => Err(ResolveError::Refused {
                name: package(&release.publisher(), release.name()),
                source: HistoryError::Forked {
                    at_sequence: release.sequence(),
                },
                shown_by: found.shown_by,
            }),
        }
    }

    /// Asks everybody the same question, several at a time.
    async fn ask_all<'a, T, F, Fut>(
        &self,
        providers: &'a [ProviderAddr],
        question: F,
    ) -> (Vec<(&'a ProviderAddr, T)>, Vec<FaultOf>)
    where
        F: Fn(&'a ProviderAddr) -> Fut,
        Fut: Future<Output = Result<T, ProviderFault>> + 'a,
    {
        let mut waiting = providers.iter();
        let mut asked = n0_future::FuturesUnorderedBounded::new(AT_ONCE);
        let (mut answers, mut faults) = (Vec::new(), Vec::new());
        loop {
            while asked.len() < AT_ONCE
                && let Some(node) = waiting.next()
            {
                let question = question(node);
                asked.push(async move { (node, question.await) });
            }
            match asked.next().await {
                Some((node, Ok(answer))) => answers.push((node, answer)),
                Some((node, Err(fault))) => faults.push(of(node, fault)),
                None => return (answers, faults),
            }
        }
    }

    /// Asks one node for the history of a package, and keeps it if it is the longest so far. Returns what
    /// there is to know of it otherwise; or why it does not go on from what was seen before.
    async fn hear_history(
        &self,
        publisher: &PublisherId,
        name: &PackageName,
        node: &ProviderAddr,
        longest: &Mutex<Option<Longest>>,
    ) -> Result<Heard, ProviderFault> {
        let (endpoint, limits) = (&self.inner.endpoint, &self.inner.limits);
        let shown = ask::history(endpoint, limits, node, publisher, name).await?;
        let (history, complete) = checked(shown, publisher, name)?;
        let known = self.inner.releases.known_head(publisher, name);
        if let Some(Err(source)) = known.map(|known| history.check_against(&known)) {
            return Ok(Err(source));
        }
        let head = history.known_head();
        let mut longest = longest.lock().unwrap_or_else(PoisonError::into_inner);
        // Of two that are as long the one that was shown first.
        if longest
            .as_ref()
            .is_none_or(|(longest, _)| longest.releases().len() < history.releases().len())
        {
            *longest = Some((history, node.id));
        }
        Ok(Ok((head, complete)))
    }

    async fn find_history(
        &self,
        publisher: &PublisherId,
        name: &PackageName,
        providers: &[ProviderAddr],
    ) -> Result<Found, ResolveError> {
        let releases = &self.inner.releases;
        let longest = Mutex::default();
        let answers = self.ask_all(providers, |node| {
            self.hear_history(publisher, name, node, &longest)
        });
        let (answers, mut faults) = answers.await;
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut refused: Option<(NodeId, HistoryError)> = None;
        for (node, answer) in answers {
            match answer {
                Ok((head, complete)) => candidates.push(Candidate {
                    node: node.clone(),
                    head,
                    complete,
                }),
                Err(source) => {
                    let reason = source.to_string();
                    faults.push(of(node, ProviderFault::FalseHistory { reason }));
                    // A fork says more than an old history does.
                    if !matches!(refused, Some((_, HistoryError::Forked { .. }))) {
                        refused = Some((node.id, source));
                    }
                }
            }
        }
        let full_name = || package(publisher, name);
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.head.sequence));
        let longest = longest.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some((history, shown_by)) = longest else {
            if let Some((shown_by, source)) = refused {
                return Err(ResolveError::Refused {
                    name: full_name(),
                    source,
                    shown_by,
                });
            }
            let lied = |f: &FaultOf| matches!(f.fault, ProviderFault::FalseHistory { .. });
            if faults.iter().any(lied) {
                faults.retain(lied);
                return Err(ResolveError::False {
                    name: full_name(),
                    faults,
                });
            }
            return match releases.history(publisher, name) {
                Some(history) => Ok(Found {
                    history,
                    candidates,
                    faults,
                    shown_by: self.id(),
                }),
                None if providers.is_empty() => {
                    Err(ResolveError::NoProviders { name: full_name() })
                }
                None => Err(ResolveError::NotFound {
                    name: full_name(),
                    faults,
                }),
            };
        };
        for other in &candidates {
            if let Err(e) = history.check_against(&other.head) {
                return Err(ResolveError::Fork {
                    name: full_name(),
                    first: shown_by,
                    second: other.node.id,
                    reason: e.to_string(),
                });
            }
        }
        match releases.adopt(&history) {
            Ok(()) => Ok(Found {
                history,
                candidates,
                faults,
                shown_by,
            }),
            Err(AdoptError::Disk(source)) => Err(ResolveError::Disk {
                name: full_name(),
                source,
            }),
            // Something newer was seen while this was going on.
            Err(AdoptError::History(source)) => Err(ResolveError::Refused {
                name: full_name(),
                source,
                shown_by,
            }),
        }
    }
}

struct Found {
    history: History,
    candidates: Vec<Candidate>,
    faults: Vec<FaultOf>,
    shown_by: NodeId,
}

impl Found {
    fn resolved(self, release: SignedRelease) -> Resolved {
        let digest = release.digest();
        let has_it = |c: &Candidate| c.complete.contains(&digest);
        Resolved {
            providers: self
                .candidates
                .into_iter()
                .filter(has_it)
                .map(|c| c.node)
                .collect(),
            release,
            history: self.history,
            faults: self.faults,
        }
    }
}
