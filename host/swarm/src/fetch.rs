//! Fetching the files of a release from several providers at once.
//!
//! What is missing is cut into pieces, which wait in one queue. Each provider has a few workers
//! that take a piece, fetch it and take the next, so a fast provider does more of the work. A
//! provider that fails, lies or stalls loses its workers, and the rest of its piece goes back to
//! the queue. The fetch ends when the queue is empty, or when no worker is left.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bao_tree::{ChunkNum, ChunkRanges};
use iroh::Endpoint;
use iroh::endpoint::Connection;
use skep_registry::Digest;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::blobs::{Blobs, Presence};
use crate::busy::Busy;
use crate::config::Limits;
use crate::error::FetchError;
use crate::fault::{ProviderFault, explain, of};
use crate::ids::{NodeId, ProviderAddr};
use crate::repair::{MendError, mend};
use crate::report::{FetchReport, FileRef, Progress, ProgressFn};
use crate::transfer::{GROUP, Piece, PieceError, get_piece};

/// The size of a piece, in bytes: a multiple of the group, large enough that the hash pairs above
/// it and the round trip do not matter, small enough to share among providers.
const PIECE: u64 = 32 << 20;

/// How often a connection to one provider is made in one fetch.
const CONNECTIONS: usize = 4;

/// Progress is reported once for so many bytes.
const REPORT_EVERY: u64 = 1 << 20;

/// Everything a fetch needs of its node.
#[derive(Clone)]
pub(crate) struct Fetcher {
    pub(crate) endpoint: Endpoint,
    pub(crate) blobs: Blobs,
    pub(crate) limits: Arc<Limits>,
    pub(crate) busy: Arc<Busy>,
}

/// The queue of one fetch and what its workers report.
struct Job {
    fetcher: Fetcher,
    total: u64,
    names: HashMap<Digest, Arc<str>>,
    progress: Option<ProgressFn>,
    state: Mutex<State>,
    changed: Notify,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Piece>,
    /// Damaged blobs to mend, with their sizes.
    damaged: VecDeque<(Digest, u64)>,
    /// Workers that are busy with something, which may come back to the queue.
    active: usize,
    done: u64,
    reported: u64,
    report: FetchReport,
    fatal: Option<FetchError>,
}

enum Work {
    Piece(Piece),
    Mend(Digest, u64),
}

impl Fetcher {
    /// Fetches what is missing of `files` from `providers`.
    pub(crate) async fn fetch(
        &self,
        files: &[FileRef],
        providers: &[ProviderAddr],
        progress: Option<ProgressFn>,
    ) -> Result<FetchReport, FetchError> {
        let started = Instant::now();
        let mut distinct: BTreeMap<Digest, &FileRef> = BTreeMap::new();
        for file in files {
            let first = distinct.entry(file.digest).or_insert(file);
            if first.size != file.size {
                // One digest has one size, so one of the two is wrong.
                return Err(FetchError::Size {
                    path: file.path.clone(),
                    digest: file.digest,
                    signed: file.size,
                    actual: first.size,
                });
            }
        }
        let total = distinct
            .values()
            .fold(0_u64, |sum, f| sum.saturating_add(f.size));
        if total > self.limits.release_bytes {
            return Err(FetchError::TooLarge {
                size: total,
                limit: self.limits.release_bytes,
            });
        }
        let _busy = self.busy.take(distinct.keys()).await;
        let mut state = State {
            report: FetchReport {
                files: distinct.len(),
                ..FetchReport::default()
            },
            ..State::default()
        };
        for file in distinct.values() {
            self.plan(file, &mut state).await?;
        }
        state.done = state.report.bytes_present;
        let job = Arc::new(Job {
            fetcher: self.clone(),
            total,
            names: distinct
                .values()
                .map(|f| (f.digest, Arc::from(f.path.as_str())))
                .collect(),
            progress,
            state: Mutex::new(state),
            changed: Notify::new(),
        });
        job.run(providers).await?;
        for file in distinct.values() {
            if !matches!(self.blobs.presence(&file.digest).await?, Presence::Complete { size } if size == file.size)
            {
                return Err(FetchError::Store {
                    reason: format!("blob {} arrived and is not there", file.digest),
                });
            }
        }
        let mut report = std::mem::take(&mut job.lock().report);
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Puts what is missing of one file into the queue.
    async fn plan(&self, file: &FileRef, state: &mut State) -> Result<(), FetchError> {
        if let Presence::Complete { size } = self.blobs.presence(&file.digest).await? {
            if size != file.size {
                return Err(FetchError::Size {
                    path: file.path.clone(),
                    digest: file.digest,
                    signed: file.size,
                    actual: size,
                });
            }
            state.report.bytes_present += size;
            if self.blobs.is_damaged(&file.digest) {
                state.damaged.push_back((file.digest, size));
            }
            return Ok(());
        }
        let (missing, present) = self.blobs.missing(&file.digest, file.size).await?;
        state.report.bytes_present += present;
        state.queue.extend(pieces(file.digest, file.size, &missing));
        Ok(())
    }
}

/// Cuts the missing chunks of a blob into pieces.
fn pieces(digest: Digest, size: u64, missing: &ChunkRanges) -> Vec<Piece> {
    let mut out = Vec::new();
    let total = ChunkNum::chunks(size);
    let step = PIECE / 1024;
    let mut start = ChunkNum(0);
    while start < total {
        let end = ChunkNum(start.0 + step).min(total);
        let ranges = missing & &ChunkRanges::from(start..end);
        if !ranges.is_empty() {
            out.push(Piece {
                digest,
                size,
                ranges,
            });
        }
        start = end;
    }
    out
}

impl Job {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finished(&self) -> bool {
        let state = self.lock();
        state.fatal.is_some()
            || (state.queue.is_empty() && state.damaged.is_empty() && state.active == 0)
    }

    async fn run(self: &Arc<Self>, providers: &[ProviderAddr]) -> Result<(), FetchError> {
        if self.finished() {
            return Ok(());
        }
        if providers.is_empty() {
            return Err(FetchError::NoProviders {
                missing: self.total.saturating_sub(self.lock().done),
            });
        }
        let mut workers = JoinSet::new();
        for provider in providers {
            let (job, provider) = (self.clone(), provider.clone());
            workers.spawn(async move { job.serve_from(provider).await });
        }
        while workers.join_next().await.is_some() {
            if self.finished() {
                break;
            }
        }
        workers.shutdown().await;
        let mut state = self.lock();
        if let Some(fatal) = state.fatal.take() {
            return Err(fatal);
        }
        if state.queue.is_empty() && state.damaged.is_empty() && state.active == 0 {
            return Ok(());
        }
        let faults = std::mem::take(&mut state.report.faults);
        Err(match state.damaged.front() {
            Some((digest, _)) if state.queue.is_empty() => crate::error::BlobError::Corrupt {
                digest: *digest,
                offset: 0,
            }
            .into(),
            _ => FetchError::Exhausted {
                missing: self.total.saturating_sub(state.done),
                faults,
            },
        })
    }

    /// All the work of one provider, until there is none left or the provider fails. A connection
    /// that was lost after something came over it is made anew.
    async fn serve_from(self: Arc<Self>, provider: ProviderAddr) {
        let mut before = 0;
        for _ in 0..CONNECTIONS {
            let Err(fault) = self.serve_once(&provider).await else {
                return;
            };
            let sent = {
                let state = self.lock();
                state
                    .report
                    .providers
                    .get(&provider.id)
                    .copied()
                    .unwrap_or(0)
            };
            self.fault(&provider, fault.clone());
            if !matches!(fault, ProviderFault::Closed { .. }) || sent == before || self.finished() {
                return;
            }
            before = sent;
        }
    }

    /// The work of one provider over one connection.
    async fn serve_once(self: &Arc<Self>, provider: &ProviderAddr) -> Result<(), ProviderFault> {
        let limits = &self.fetcher.limits;
        let endpoint = &self.fetcher.endpoint;
        let connecting = endpoint.connect(provider.to_endpoint_addr(), iroh_blobs::ALPN);
        let connected = tokio::select! {
            connected = tokio::time::timeout(limits.connect, connecting) => connected,
            // Others may finish before this one even answers.
            () = self.until_finished() => return Ok(()),
        };
        let connection = match connected {
            Ok(Ok(connection)) => connection,
            Ok(Err(e)) => {
                let reason = explain(&e);
                return Err(ProviderFault::Unreachable { reason });
            }
            Err(_) => {
                let after = limits.connect;
                return Err(ProviderFault::NoAnswer { after });
            }
        };
        let mut streams = JoinSet::new();
        for _ in 0..limits.streams.max(1) {
            let (job, connection, provider) = (self.clone(), connection.clone(), provider.clone());
            streams.spawn(async move { job.work(&connection, &provider).await });
        }
        let mut outcome = Ok(());
        while let Some(ended) = streams.join_next().await {
            if let Ok(Err(fault)) = ended {
                outcome = Err(fault);
                break;
            }
        }
        // What the other streams were at goes back to the queue when they are dropped.
        streams.shutdown().await;
        connection.close(0_u32.into(), b"done");
        outcome
    }

    fn fault(&self, provider: &ProviderAddr, fault: ProviderFault) {
        tracing::debug!(%provider, %fault, "provider dropped");
        self.lock().report.faults.push(of(provider, fault));
        self.changed.notify_waiters();
    }

    async fn until_finished(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.finished() {
                return;
            }
            changed.await;
        }
    }

    /// Takes work and does it, until there is none.
    async fn work(
        self: &Arc<Self>,
        connection: &Connection,
        provider: &ProviderAddr,
    ) -> Result<(), ProviderFault> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Some(task) = Task::take(self) else {
                if self.finished() {
                    self.changed.notify_waiters();
                    return Ok(());
                }
                // Somebody else is busy with the rest; it may come back.
                changed.await;
                continue;
            };
            match task.perform(connection, provider).await {
                Ok(()) => {}
                Err(PieceError::Provider(fault)) => return Err(fault),
                Err(PieceError::Local(reason)) => {
                    self.lock().fatal = Some(FetchError::Store { reason });
                    self.changed.notify_waiters();
                    return Ok(());
                }
            }
        }
    }

    fn arrived(&self, digest: &Digest, provider: NodeId, bytes: u64) {
        let report = {
            let mut state = self.lock();
            state.done += bytes;
            state.report.bytes_fetched += bytes;
            state.report.chunks_verified += bytes.div_ceil(GROUP);
            *state.report.providers.entry(provider).or_default() += bytes;
            let due = state.done >= self.total || state.done >= state.reported + REPORT_EVERY;
            if due {
                state.reported = state.done;
            }
            due.then_some(state.done)
        };
        if let (Some(done), Some(progress)) = (report, &self.progress) {
            progress(&Progress {
                bytes_done: done.min(self.total),
                bytes_total: self.total,
                file: self
                    .names
                    .get(digest)
                    .cloned()
                    .unwrap_or_else(|| Arc::from("")),
                provider,
            });
        }
    }
}

/// Work that a worker has taken. If it is dropped undone, it goes back to the queue.
struct Task {
    job: Arc<Job>,
    work: Option<Work>,
}

impl Task {
    fn take(job: &Arc<Job>) -> Option<Self> {
        let mut state = job.lock();
        if state.fatal.is_some() {
            return None;
        }
        let work = match state.damaged.pop_front() {
            Some((digest, size)) => Work::Mend(digest, size),
            None => Work::Piece(state.queue.pop_front()?),
        };
        state.active += 1;
        drop(state);
        Some(Self {
            job: job.clone(),
            work: Some(work),
        })
    }

    async fn perform(
        mut self,
        connection: &Connection,
        provider: &ProviderAddr,
    ) -> Result<(), PieceError> {
        let stall = self.job.fetcher.limits.stall;
        let blobs = &self.job.fetcher.blobs;
        match self.work.as_mut() {
            Some(Work::Piece(piece)) => {
                // Part of it may have come by the last worker that had it.
                let (missing, _) = blobs
                    .missing(&piece.digest, piece.size)
                    .await
                    .map_err(|e| PieceError::Local(explain(&e)))?;
                piece.ranges = &piece.ranges & &missing;
                if !piece.ranges.is_empty() {
                    let digest = piece.digest;
                    let arrived = |n| self.job.arrived(&digest, provider.id, n);
                    get_piece(connection, &blobs.store, piece, stall, arrived).await?;
                }
            }
            Some(Work::Mend(digest, size)) => {
                match mend(blobs, connection, *digest, *size, stall).await {
                    Ok(fetched) => {
                        let mut state = self.job.lock();
                        state.report.mended.push(*digest);
                        state.report.bytes_fetched += fetched;
                        state.report.bytes_present =
                            state.report.bytes_present.saturating_sub(fetched);
                        state.report.chunks_verified += fetched.div_ceil(GROUP);
                        *state.report.providers.entry(provider.id).or_default() += fetched;
                    }
                    Err(MendError::Piece(e)) => return Err(e),
                    Err(MendError::Blob(e)) => return Err(PieceError::Local(explain(&e))),
                }
            }
            None => {}
        }
        self.work = None;
        Ok(())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let mut state = self.job.lock();
        state.active -= 1;
        match self.work.take() {
            Some(Work::Piece(piece)) => state.queue.push_front(piece),
            Some(Work::Mend(digest, size)) => state.damaged.push_front((digest, size)),
            None => {}
        }
        drop(state);
        self.job.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_cover_exactly_what_is_missing(
            size in 1_u64..200_000_000,
            mut cuts in prop::collection::btree_set(0_u64..200_000, 0..8),
        ) {
            let total = ChunkNum::chunks(size);
            if cuts.len() % 2 == 1 {
                cuts.pop_last();
            }
            let mut here = ChunkRanges::empty();
            let cuts: Vec<_> = cuts.into_iter().collect();
            for pair in cuts.chunks(2) {
                here |= ChunkRanges::from(ChunkNum(pair[0])..ChunkNum(pair[1]));
            }
            let missing = &ChunkRanges::from(..total) - &here;
            let mut union = ChunkRanges::empty();
            for piece in pieces(Digest::of(b"x"), size, &missing) {
                prop_assert!(!piece.ranges.is_empty());
                prop_assert!(!union.intersects(&piece.ranges));
                union |= piece.ranges;
            }
            prop_assert_eq!(union, missing);
        }
    }
}
