//! Fetching the files of a release from several providers at once.
//!
//! What is missing is cut into pieces, which wait in one queue. Each provider has a few workers
//! that take a piece, fetch it and take the next, so a fast provider does more of the work. A
//! provider that fails, lies or stalls loses its workers, and the rest of its piece goes back to
//! the queue. One that is slow keeps its piece, and at the end, when others have nothing to do, one
//! of these fetches the rest of it too, and after a while one more, if that one is slow as well. The
//! fetch ends when the queue is empty, or when no worker is left and nobody else is found; one that is not for
//! the owner also when hardly anything arrives of it.

mod crawl;
mod task;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use iroh::Endpoint;
use iroh::endpoint::Connection;
use n0_future::boxed::BoxStream;
use n0_future::{StreamExt, stream};
use skep_registry::Digest;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::blobs::{Blobs, Presence};
use crate::busy::Busy;
use crate::config::Limits;
use crate::error::FetchError;
use crate::fault::{ProviderFault, explain, of};
use crate::ids::{NodeId, ProviderAddr};
use crate::node::MAX_FOUND;
use crate::pieces::{LARGEST_PIECE, SMALLEST_PIECE, bytes_of, pieces};
use crate::report::{FetchReport, FileRef, Progress, ProgressFn};
use crate::transfer::{GROUP, Piece, PieceError};

use crawl::until_it_crawls;
use task::Task;

/// Pieces for each request that can be in flight, if they are not too small.
const PIECES_EACH: u64 = 2;

/// How many providers fetch one piece at a time, at most.
const HOLDERS: usize = 4;

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
    /// After how long with hardly anything arriving a fetch is given up; never, if that is for the owner to say.
    pub(crate) crawl: Option<Duration>,
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
    queue: VecDeque<Queued>,
    /// What is damaged of blobs that are here.
    damaged: VecDeque<Piece>,
    /// How many bytes are still to arrive of damaged blobs that somebody is mending.
    mending: u64,
    /// Pieces that somebody is fetching.
    held: Vec<Holding>,
    /// Workers that are busy with something, which may come back to the queue.
    active: usize,
    done: u64,
    reported: u64,
    report: FetchReport,
    fatal: Option<FetchError>,
}

/// A piece that waits for a worker.
struct Queued {
    piece: Piece,
    /// Whether a worker of this fetch has had it: then what there is of it has been counted.
    is_tried: bool,
}

enum Work {
    Piece(Arc<Held>),
    Mend(Piece),
}

/// A piece that one worker is fetching, or several.
struct Held {
    piece: Piece,
    /// Whether a worker had it, and left it, before.
    is_tried: bool,
    /// The provider that had it first.
    first: NodeId,
    /// Whether one of them has all of it.
    done: watch::Sender<bool>,
}

/// Who is fetching a piece.
struct Holding {
    held: Arc<Held>,
    /// The providers, each once.
    by: Vec<NodeId>,
    /// When the last of them began.
    since: Instant,
}

impl State {
    /// How many bytes of so many are still to arrive. What is damaged counts among those that are done.
    fn missing(&self, total: u64) -> u64 {
        let damaged = self.damaged.iter();
        let damaged = damaged.map(|piece| bytes_of(&piece.ranges, piece.size));
        let damaged = damaged.fold(self.mending, u64::saturating_add);
        total.saturating_sub(self.done).saturating_add(damaged)
    }

    /// The worker of a provider leaves a piece undone: it goes back to the queue, unless another has it too.
    fn give_up(&mut self, held: &Arc<Held>, provider: NodeId) {
        if *held.done.borrow() {
            return;
        }
        let mut holding = self.held.iter_mut();
        if let Some(holding) = holding.find(|holding| Arc::ptr_eq(&holding.held, held)) {
            holding.by.retain(|by| *by != provider);
            if !holding.by.is_empty() {
                return;
            }
        }
        self.held
            .retain(|holding| !Arc::ptr_eq(&holding.held, held));
        self.queue.push_front(Queued {
            piece: held.piece.clone(),
            is_tried: true,
        });
    }
}

impl Fetcher {
    /// Fetches what is missing of `files` from `providers`, and from those in `more` as they come.
    /// Once no provider is left, the next in `more` is waited for as long as discovery may take.
    pub(crate) async fn fetch(
        &self,
        files: &[FileRef],
        providers: &[ProviderAddr],
        more: BoxStream<ProviderAddr>,
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
        let requests = (providers.len() * self.limits.streams).max(1) as u64;
        let piece = total / (requests * PIECES_EACH);
        let piece = piece
            .clamp(SMALLEST_PIECE, LARGEST_PIECE)
            .next_multiple_of(GROUP);
        for file in distinct.values() {
            self.plan(file, piece, &mut state).await?;
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
        job.run(providers, more).await?;
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
    async fn plan(&self, file: &FileRef, piece: u64, state: &mut State) -> Result<(), FetchError> {
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
                // All of it is read. No provider keeps a connection for that, on which nothing is asked.
                let ranges = self.blobs.find_damage(&file.digest).await?;
                state.damaged.push_back(Piece {
                    digest: file.digest,
                    size,
                    ranges,
                });
            }
            return Ok(());
        }
        let (missing, present) = self.blobs.missing(&file.digest, file.size).await?;
        state.report.bytes_present += present;
        let pieces = pieces(file.digest, file.size, &missing, piece);
        state.queue.extend(pieces.into_iter().map(|piece| Queued {
            piece,
            is_tried: false,
        }));
        Ok(())
    }
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

    async fn run(
        self: &Arc<Self>,
        providers: &[ProviderAddr],
        more: BoxStream<ProviderAddr>,
    ) -> Result<(), FetchError> {
        if self.finished() {
            return Ok(());
        }
        let mut workers = JoinSet::new();
        let mut asked = BTreeSet::new();
        let mut suggested = stream::iter(providers.to_vec()).chain(more);
        let mut searching = true;
        let crawling = self.until_it_crawls();
        tokio::pin!(crawling);
        // Since when there is nobody to fetch from.
        let mut alone = Some(tokio::time::Instant::now());
        while !self.finished() {
            let room = searching && asked.len() < MAX_FOUND.max(providers.len());
            let waiting = async {
                match alone {
                    Some(since) => {
                        tokio::time::sleep_until(since + self.fetcher.limits.discovery).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                node = suggested.next(), if room => match node {
                    Some(node) => if asked.insert(node.id) {
                        let job = self.clone();
                        workers.spawn(async move { job.serve_from(node).await });
                    },
                    None => searching = false,
                },
                Some(_) = workers.join_next(), if !workers.is_empty() => {}
                () = waiting, if searching => searching = false,
                after = &mut crawling, if !workers.is_empty() => {
                    let mut state = self.lock();
                    let missing = state.missing(self.total);
                    state.fatal.get_or_insert(FetchError::Crawls { missing, after });
                }
                else => break,
            }
            alone = match workers.is_empty() {
                true => alone.or_else(|| Some(tokio::time::Instant::now())),
                false => None,
            };
        }
        workers.shutdown().await;
        if asked.is_empty() {
            return Err(FetchError::NoProviders {
                missing: self.total.saturating_sub(self.lock().done),
            });
        }
        let mut state = self.lock();
        if let Some(fatal) = state.fatal.take() {
            return Err(fatal);
        }
        if state.queue.is_empty() && state.damaged.is_empty() && state.active == 0 {
            return Ok(());
        }
        let faults = std::mem::take(&mut state.report.faults);
        Err(match state.damaged.front() {
            Some(piece) if state.queue.is_empty() => crate::error::BlobError::Corrupt {
                digest: piece.digest,
                offset: 0,
            }
            .into(),
            _ => FetchError::Exhausted {
                missing: self.total.saturating_sub(state.done),
                faults,
            },
        })
    }

    /// Returns once this fetch crawls, with the time in which hardly anything has arrived.
    async fn until_it_crawls(&self) -> Duration {
        let Some(patience) = self.fetcher.crawl else {
            return std::future::pending().await;
        };
        until_it_crawls(patience, || self.pace()).await;
        patience
    }

    /// How many bytes have arrived in all, and how many are missing if any are being waited for. What was mended is
    /// read here once more, and somebody who connects has no piece yet.
    fn pace(&self) -> (u64, Option<u64>) {
        let state = self.lock();
        let missing = state.missing(self.total);
        let is_waiting = !state.held.is_empty() || state.mending > 0;
        (state.report.bytes_fetched, is_waiting.then_some(missing))
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
            let Some(task) = Task::take(self, provider.id) else {
                if self.finished() {
                    self.changed.notify_waiters();
                    return Ok(());
                }
                // Somebody else is busy with the rest; it may come back, or take too long.
                let _ = tokio::time::timeout(self.fetcher.limits.hedge, changed).await;
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

#[cfg(test)]
mod tests;
