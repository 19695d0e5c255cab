//! A release of which only the digest is known, shown by a node that a stranger names: in memory, within
//! small bounds, and forgotten again.

use std::time::Duration;

use n0_future::{FuturesUnorderedBounded, StreamExt};
use skep_registry::{Digest, HistoryError, SignedRelease};

use crate::ask;
use crate::error::{ResolveError, package};
use crate::fault::{ProviderFault, of};
use crate::ids::{NodeId, ProviderAddr};
use crate::node::Swarm;

/// Nodes that are asked at one moment.
const AT_ONCE: usize = 8;
/// The longest encoding that is taken, in bytes: some thousand files.
const LARGEST: usize = 256 << 10;

impl Swarm {
    /// The release with this digest: known here, or as one of `providers` shows it within `wait`. Its
    /// signature holds; its package's history is asked of nobody, and nothing of it is remembered.
    ///
    /// # Errors
    ///
    /// When nobody shows it in time, its encoding has more than 256 KiB, or another release of the same
    /// publisher is known here in its place.
    pub async fn describe(
        &self,
        digest: &Digest,
        providers: &[ProviderAddr],
        wait: Duration,
    ) -> Result<SignedRelease, ResolveError> {
        if let Some(known) = self.inner.releases.by_digest(digest) {
            return Ok(known);
        }
        if providers.is_empty() {
            return Err(ResolveError::NoProviders {
                name: digest.to_string(),
            });
        }
        let asked = self.first_shown(digest, providers);
        let (shown_by, release) = match tokio::time::timeout(wait, asked).await {
            Ok(shown) => shown?,
            Err(_) => {
                let late = |node| of(node, ProviderFault::NoAnswer { after: wait });
                return Err(ResolveError::NotFound {
                    name: digest.to_string(),
                    faults: providers.iter().map(late).collect(),
                });
            }
        };
        if self.inner.releases.has_another(&release) {
            return Err(ResolveError::Refused {
                name: package(&release.publisher(), release.name()),
                source: HistoryError::Forked {
                    at_sequence: release.sequence(),
                },
                shown_by,
            });
        }
        Ok(release)
    }

    /// The release as the first node shows it that does. What the others send is dropped.
    async fn first_shown(
        &self,
        digest: &Digest,
        providers: &[ProviderAddr],
    ) -> Result<(NodeId, SignedRelease), ResolveError> {
        let inner = &self.inner;
        let mut waiting = providers.iter();
        let mut asking = FuturesUnorderedBounded::new(AT_ONCE);
        let mut faults = Vec::new();
        loop {
            while asking.len() < AT_ONCE
                && let Some(node) = waiting.next()
            {
                asking.push(async move {
                    let (endpoint, limits) = (&inner.endpoint, &inner.limits);
                    let shown = ask::release(endpoint, limits, node, digest, LARGEST).await;
                    (node, shown)
                });
            }
            match asking.next().await {
                Some((node, Ok(shown))) => return Ok((node.id, shown.release)),
                Some((node, Err(fault))) => faults.push(of(node, fault)),
                None => {
                    return Err(ResolveError::NotFound {
                        name: digest.to_string(),
                        faults,
                    });
                }
            }
        }
    }
}
