//! A blob of which only the digest is known: who has it, and how large it is.
//!
//! Nodes are asked as they are found, and the first that proves the blob's size ends the search.
//! Nothing of the blob has been stored by then, so whoever wanted it can still decide that it is
//! too large.

use std::collections::VecDeque;
use std::iter;
use std::sync::Arc;

use n0_future::{FuturesUnorderedBounded, MergeUnbounded, StreamExt, stream};
use skep_registry::Digest;

use crate::discovery::{Want, share_of_one};
use crate::error::{FetchError, FindError};
use crate::fault::{FaultOf, ProviderFault, explain, of};
use crate::ids::ProviderAddr;
use crate::node::{Blob, MAX_FOUND, Swarm};
use crate::report::{FetchReport, FileRef, ProgressFn};
use crate::size::proved_size;

/// Nodes that are asked at one moment.
const AT_ONCE: usize = 16;

/// A blob that somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundBlob {
    /// Its size in bytes, which a provider has proved.
    pub size: u64,
    /// Who to fetch it from: first the one that proved the size, then those that have not
    /// answered yet.
    pub providers: Vec<ProviderAddr>,
    /// Nodes that have not got it, or did not answer properly.
    pub faults: Vec<FaultOf>,
}

impl Swarm {
    /// Finds a blob: asks the nodes in `known` and whatever the discovery services find for its
    /// size, and for the proof of it.
    ///
    /// # Errors
    ///
    /// When nobody has proved a size by the time that all have answered, and the time for
    /// discovery is over.
    pub async fn find_blob(
        &self,
        digest: &Digest,
        known: &[ProviderAddr],
    ) -> Result<FoundBlob, FindError> {
        let limits = &self.inner.limits;
        let want = Want::Blob(*digest);
        let mut suggested = MergeUnbounded::new();
        let known = stream::iter(known.to_vec()).boxed();
        let found = self.services().into_iter();
        let found = found.map(|service| service.providers(&want));
        let mut turns = Turns::default();
        for (by, nodes) in iter::once(known).chain(found).enumerate() {
            suggested.push(nodes.map(move |node| (by, node)).boxed());
            turns.of.push(Turn::default());
        }
        let deadline = tokio::time::sleep(limits.discovery);
        tokio::pin!(deadline);
        let mut searching = true;
        let mut nodes: Vec<ProviderAddr> = Vec::new();
        let mut asking = FuturesUnorderedBounded::new(AT_ONCE);
        let mut faults: Vec<FaultOf> = Vec::new();
        let mut asked = 0;
        loop {
            while asking.len() < AT_ONCE
                && asked < MAX_FOUND
                && let Some((by, node)) = turns.take()
            {
                if let Some(node) = join(&mut nodes, node) {
                    asked += 1;
                    turns.begin(by);
                    asking.push(async move {
                        let size = self.ask_size(digest, &node).await;
                        (by, node, size)
                    });
                }
            }
            tokio::select! {
                next = suggested.next(), if searching && asked < MAX_FOUND => match next {
                    None => searching = false,
                    Some((_, node)) if node.id == self.id() => {}
                    Some((by, node)) => turns.wait(by, node),
                },
                () = &mut deadline, if searching => {
                    searching = false;
                    turns.end();
                }
                Some((by, node, answer)) = asking.next(), if !asking.is_empty() => match answer {
                    Err(fault) => {
                        turns.answered(by);
                        if is_gone(&fault) {
                            self.is_gone(&node);
                        }
                        faults.push(of(&node, fault));
                    }
                    Ok(size) => {
                        nodes.retain(|other| {
                            other.id != node.id && !faults.iter().any(|f| f.node == other.id)
                        });
                        nodes.insert(0, node);
                        return Ok(FoundBlob { size, providers: nodes, faults });
                    }
                },
                else => return Err(FindError { digest: *digest, faults }),
            }
        }
    }

    async fn ask_size(&self, digest: &Digest, node: &ProviderAddr) -> Result<u64, ProviderFault> {
        let limits = &self.inner.limits;
        let connecting = self
            .inner
            .endpoint
            .connect(node.to_endpoint_addr(), iroh_blobs::ALPN);
        let connection = tokio::time::timeout(limits.connect, connecting)
            .await
            .map_err(|_| ProviderFault::NoAnswer {
                after: limits.connect,
            })?
            .map_err(|e| ProviderFault::Unreachable {
                reason: explain(&e),
            })?;
        let size = proved_size(&connection, *digest, limits.stall).await;
        connection.close(0_u32.into(), b"done");
        size
    }

    /// Fetches one blob of a known size from `providers`, and from whoever the discovery services
    /// find meanwhile, or what is missing of it here. It is
    /// kept for as long as the handle, or a clone of it, is there, and served to nobody.
    ///
    /// # Errors
    ///
    /// When something is still missing and no provider is left; what arrived goes with the next
    /// sweep, and a fetch before that goes on from it.
    pub async fn fetch_blob(
        &self,
        digest: &Digest,
        size: u64,
        providers: &[ProviderAddr],
        progress: Option<ProgressFn>,
    ) -> Result<(Blob, FetchReport), FetchError> {
        // Before anything arrives, so that no sweep takes a half-fetched blob away.
        let held = self.inner.blobs.hold(digest).await;
        let held = held.map_err(|reason| FetchError::Store { reason })?;
        let file = FileRef {
            path: digest.to_string(),
            digest: *digest,
            size,
        };
        let mut more = MergeUnbounded::new();
        for service in self.services() {
            more.push(service.providers(&Want::Blob(*digest)));
        }
        let more = more.boxed();
        let report = self
            .fetcher()
            .fetch(std::slice::from_ref(&file), providers, more, progress)
            .await?;
        Ok((self.blob(*digest, size, Arc::new(held)), report))
    }
}

/// What one service has suggested.
#[derive(Debug, Default)]
struct Turn {
    /// Nodes that are still to be asked.
    waiting: VecDeque<ProviderAddr>,
    /// How many it has suggested in all.
    suggested: usize,
    /// How many of these are being asked.
    asking: usize,
}

/// What the services have suggested, by their numbers. None takes up all that can be asked at once: nodes that
/// do not answer hold their places for as long as a connection may take, and the search may be over by then.
#[derive(Debug, Default)]
struct Turns {
    of: Vec<Turn>,
    /// Whose turn it is.
    turn: usize,
}

impl Turns {
    /// Notes a node, unless the service has suggested as many as it may.
    fn wait(&mut self, by: usize, node: ProviderAddr) {
        let most = share_of_one(MAX_FOUND, self.of.len());
        if let Some(turn) = self.of.get_mut(by)
            && turn.suggested < most
        {
            turn.suggested += 1;
            turn.waiting.push_back(node);
        }
    }

    /// The next node to be asked, of the services in turn.
    fn take(&mut self) -> Option<(usize, ProviderAddr)> {
        let most = share_of_one(AT_ONCE, self.of.len());
        for _ in 0..self.of.len() {
            let by = self.turn % self.of.len();
            self.turn = by + 1;
            if let Some(turn) = self.of.get_mut(by)
                && turn.asking < most
                && let Some(node) = turn.waiting.pop_front()
            {
                return Some((by, node));
            }
        }
        None
    }

    /// A node that this service has suggested is asked.
    fn begin(&mut self, by: usize) {
        if let Some(turn) = self.of.get_mut(by) {
            turn.asking += 1;
        }
    }

    /// And has answered.
    fn answered(&mut self, by: usize) {
        if let Some(turn) = self.of.get_mut(by) {
            turn.asking -= 1;
        }
    }

    /// No more are asked.
    fn end(&mut self) {
        for turn in &mut self.of {
            turn.waiting.clear();
        }
    }
}

/// Whether a fault says that nobody is there.
fn is_gone(fault: &ProviderFault) -> bool {
    matches!(
        fault,
        ProviderFault::Unreachable { .. } | ProviderFault::NoAnswer { .. }
    )
}

/// Notes a node that was suggested. Returns it if it is to be asked: it is new, or has addresses
/// that it was not asked at.
fn join(nodes: &mut Vec<ProviderAddr>, node: ProviderAddr) -> Option<ProviderAddr> {
    let Some(known) = nodes.iter_mut().find(|known| known.id == node.id) else {
        nodes.push(node.clone());
        return Some(node);
    };
    let before = known.addrs.len();
    for addr in node.addrs {
        if !known.addrs.contains(&addr) {
            known.addrs.push(addr);
        }
    }
    (known.addrs.len() > before).then(|| known.clone())
}
