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
use std::time::{Duration, Instant};

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
    others: OnceLock<Others>,
}

/// Says whether others want the processors.
type Others = Box<dyn Fn() -> bool + Send + Sync>;

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
            others: OnceLock::new(),
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

    /// Leaves others a sixteenth of the processors' time whenever `others` says that they want
    /// it: those who run below these threads, whom models that are never idle would starve. Only
    /// the first call counts.
    pub fn give_way_to(&self, others: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.0.shared.others.set(Box::new(others));
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
        let mut owed = Owed::default();
        while let Some(claims) = self.next() {
            // Whoever gets its result computes from then on; so others are those who do before.
            let wanted = self.others.get().is_some_and(|others| others());
            let began = Instant::now();
            run_batch(&claims, &mut arena);
            if let Some(rest) = owed.after(began.elapsed(), wanted) {
                std::thread::sleep(rest);
            }
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

/// The time that a worker owes to others.
#[derive(Default)]
struct Owed(Duration);

impl Owed {
    /// Shorter rests are saved up: falling asleep and waking up has a price of its own.
    const LEAST: Duration = Duration::from_millis(1);

    /// What to rest after a batch of this length.
    fn after(&mut self, worked: Duration, wanted: bool) -> Option<Duration> {
        if !wanted {
            self.0 = Duration::ZERO;
            return None;
        }
        self.0 += worked / 15;
        (self.0 >= Self::LEAST).then(|| std::mem::take(&mut self.0))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_get_a_sixteenth_when_they_want_it() {
        let mut owed = Owed::default();
        let batch = Duration::from_millis(3);
        assert!((0..1000).all(|_| owed.after(batch, false).is_none()));
        let rested: Duration = (0..1000).filter_map(|_| owed.after(batch, true)).sum();
        let share = rested.as_secs_f64() / (rested + 1000 * batch).as_secs_f64();
        assert!((0.062..0.063).contains(&share), "{share}");
    }
}
