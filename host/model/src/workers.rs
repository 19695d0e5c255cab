//! The threads that run models, and the queue in which the calls of all runs meet.
//!
//! Callers put [`Job`]s into one queue and wait. A worker takes texts from the job at the front
//! until it has a batch's worth, fills up from the jobs behind it that want the same model, puts
//! what is unfinished to the back, and runs the batch. So a thousand small calls make full
//! batches, and a large call delays others by no more than a batch per worker. Because an
//! embedding does not depend on its batch, nothing of this shows in a result.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use crate::bert::Arena;
use crate::job::{Job, run_batch};

/// Tokens of a full batch: enough that weights are read seldom, few enough that a batch takes
/// some tens of milliseconds and its activations stay near the processor.
const BATCH_TOKENS: usize = 512;

/// Tokens below which a batch is not made smaller when little is left to share out.
const LEAST_TOKENS: usize = 48;

/// A pool of threads that run models. Clones are the same pool; its threads end with the last.
#[derive(Clone)]
pub struct Workers(Arc<Pool>);

struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    workers: usize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Arc<Job>>,
    stopped: bool,
}

/// Texts of a job that a worker took.
pub(crate) struct Claim {
    pub job: Arc<Job>,
    pub texts: Range<usize>,
}

impl Workers {
    /// A pool of its own with this many threads, at least one.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let workers = threads.max(1);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            workers,
        });
        let mut pool = Pool {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        for n in 0..workers {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("skep-model-{n}"));
            pool.threads.push(thread.spawn(move || shared.work())?);
        }
        Ok(Self(Arc::new(pool)))
    }

    /// The pool that encoders share unless they are given another: one thread per core.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn shared() -> std::io::Result<Self> {
        static POOL: OnceLock<Workers> = OnceLock::new();
        if let Some(pool) = POOL.get() {
            return Ok(pool.clone());
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let pool = Self::new(cores)?;
        Ok(POOL.get_or_init(|| pool).clone())
    }

    /// Threads of the pool.
    pub fn threads(&self) -> usize {
        self.0.shared.workers
    }

    pub(crate) fn submit(&self, job: Arc<Job>) {
        self.0.shared.lock().jobs.push_back(job);
        self.0.shared.wake.notify_all();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A worker catches what panics in a batch, so there is nothing to learn here. The
            // last handle may be dropped by a worker itself, which must not wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                drop(thread.join());
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut arena = Arena::default();
        while let Some(claims) = self.next() {
            run_batch(&claims, &mut arena);
        }
    }

    /// Waits for a batch's worth of texts. `None` when the pool is to end.
    fn next(&self) -> Option<Vec<Claim>> {
        let mut queue = self.lock();
        loop {
            if queue.stopped {
                return None;
            }
            let claims = queue.take(self.workers);
            if !claims.is_empty() {
                return Some(claims);
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Queue {
    fn take(&mut self, workers: usize) -> Vec<Claim> {
        let mut claims: Vec<Claim> = Vec::new();
        let mut tokens = 0;
        // Each job is looked at once; unfinished ones go to the back in their order.
        for _ in 0..self.jobs.len() {
            let goal = match claims.first() {
                None => BATCH_TOKENS,
                Some(_) if tokens + LEAST_TOKENS > BATCH_TOKENS => break,
                Some(_) => BATCH_TOKENS - tokens,
            };
            let Some(job) = self.jobs.pop_front() else {
                break;
            };
            if claims
                .first()
                .is_some_and(|first| !first.job.same_model(&job))
            {
                self.jobs.push_back(job);
                continue;
            }
            let (texts, taken, more) = job.claim(goal, LEAST_TOKENS, workers);
            if more {
                self.jobs.push_back(Arc::clone(&job));
            }
            tokens += taken;
            if !texts.is_empty() {
                claims.push(Claim { job, texts });
            }
        }
        claims
    }
}
