//! What a worker has taken, and what it does with it.

use std::sync::Arc;
use std::time::Instant;

use iroh::endpoint::Connection;
use tokio::sync::watch;

use super::{HOLDERS, Held, Holding, Job, Queued, Work};
use crate::fault::explain;
use crate::ids::{NodeId, ProviderAddr};
use crate::pieces::bytes_of;
use crate::repair::mend;
use crate::transfer::{GROUP, Piece, PieceError, get_piece};

/// Work that a worker has taken. If it is dropped undone, it goes back to the queue.
pub(super) struct Task {
    job: Arc<Job>,
    provider: NodeId,
    work: Option<Work>,
}

impl Task {
    /// What is next in the queue; or, when nothing is, the piece that others have had for longest
    /// since the last of them began.
    pub(super) fn take(job: &Arc<Job>, provider: NodeId) -> Option<Self> {
        let mut state = job.lock();
        if state.fatal.is_some() {
            return None;
        }
        let work = if let Some(damaged) = state.damaged.pop_front() {
            Work::Mend(damaged)
        } else if let Some(Queued { piece, is_tried }) = state.queue.pop_front() {
            let held = Arc::new(Held {
                piece,
                is_tried,
                first: provider,
                done: watch::Sender::new(false),
            });
            state.held.push(Holding {
                held: held.clone(),
                by: vec![provider],
                since: Instant::now(),
            });
            Work::Piece(held)
        } else {
            let slow = state.held.iter_mut().filter(|holding| {
                holding.by.len() < HOLDERS
                    && !holding.by.contains(&provider)
                    && holding.since.elapsed() >= job.fetcher.limits.hedge
            });
            let slowest = slow.min_by_key(|holding| holding.since)?;
            slowest.by.push(provider);
            slowest.since = Instant::now();
            Work::Piece(slowest.held.clone())
        };
        state.active += 1;
        drop(state);
        Some(Self {
            job: job.clone(),
            provider,
            work: Some(work),
        })
    }

    pub(super) async fn perform(
        mut self,
        connection: &Connection,
        provider: &ProviderAddr,
    ) -> Result<(), PieceError> {
        let stall = self.job.fetcher.limits.stall;
        let blobs = &self.job.fetcher.blobs;
        match self.work.as_ref() {
            Some(Work::Piece(held)) => {
                let mut piece = held.piece.clone();
                // Part of it may have come by another worker that had it; or by an earlier fetch that
                // was called off, of which the store took the last groups after it was asked.
                let (missing, _) = blobs
                    .missing(&piece.digest, piece.size)
                    .await
                    .map_err(|e| PieceError::Local(explain(&e)))?;
                let here = bytes_of(&(&piece.ranges - &missing), piece.size);
                if here > 0 && !held.is_tried && held.first == provider.id {
                    let mut state = self.job.lock();
                    state.report.bytes_present += here;
                    state.done += here;
                }
                piece.ranges = &piece.ranges & &missing;
                if !piece.ranges.is_empty() {
                    let digest = piece.digest;
                    let arrived = |n| self.job.arrived(&digest, provider.id, n);
                    let mut done = held.done.subscribe();
                    tokio::select! {
                        got = get_piece(connection, &blobs.store, &piece, stall, arrived) => got?,
                        // Another one was quicker.
                        _ = done.wait_for(|done| *done) => {}
                    }
                }
                held.done.send_replace(true);
            }
            Some(Work::Mend(damaged)) => self.mend(connection, damaged).await?,
            None => {}
        }
        self.work = None;
        Ok(())
    }

    async fn mend(&self, connection: &Connection, damaged: &Piece) -> Result<(), PieceError> {
        let fetcher = &self.job.fetcher;
        let mut fetched = 0;
        {
            let mut mending = Mending::begin(&self.job, self.provider, damaged);
            let arrived = |bytes: u64| {
                fetched += bytes;
                mending.arrived(bytes);
            };
            let stall = fetcher.limits.stall;
            mend(&fetcher.blobs, connection, damaged, stall, arrived).await?;
        }
        // It may be large, and nothing arrives while it is read.
        let rechecked = fetcher.blobs.recheck(&damaged.digest).await;
        rechecked.map_err(|e| PieceError::Local(explain(&e)))?;
        let mut state = self.job.lock();
        state.report.mended.push(damaged.digest);
        state.report.bytes_present = state.report.bytes_present.saturating_sub(fetched);
        Ok(())
    }
}

/// What a provider is still to send of a damaged blob, which is waited for until this is dropped.
struct Mending<'a> {
    job: &'a Job,
    provider: NodeId,
    missing: u64,
}

impl<'a> Mending<'a> {
    fn begin(job: &'a Job, provider: NodeId, damaged: &Piece) -> Self {
        let missing = bytes_of(&damaged.ranges, damaged.size);
        job.lock().mending += missing;
        Self {
            job,
            provider,
            missing,
        }
    }

    fn arrived(&mut self, bytes: u64) {
        let awaited = bytes.min(self.missing);
        self.missing -= awaited;
        let mut state = self.job.lock();
        state.mending -= awaited;
        state.report.bytes_fetched += bytes;
        state.report.chunks_verified += bytes.div_ceil(GROUP);
        *state.report.providers.entry(self.provider).or_default() += bytes;
    }
}

impl Drop for Mending<'_> {
    fn drop(&mut self) {
        self.job.lock().mending -= self.missing;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let mut state = self.job.lock();
        state.active -= 1;
        match self.work.take() {
            Some(Work::Piece(held)) => state.give_up(&held, self.provider),
            Some(Work::Mend(damaged)) => state.damaged.push_front(damaged),
            None => state.held.retain(|holding| !*holding.held.done.borrow()),
        }
        drop(state);
        self.job.changed.notify_waiters();
    }
}
