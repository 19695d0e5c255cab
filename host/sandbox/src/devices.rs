//! The threads that device work runs on, so that it does not run on guests' threads.
//!
//! Models run at normal priority on threads of their own: whoever spins in a guest cannot take
//! a processor away from them. A guest's own large operators run below them, on a second set
//! of threads, because how many of those there are is for the guest to say. So that models that
//! are never idle do not starve guests, the number of guests that compute is counted for them.

use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::priority;
use crate::ticker::TICK;
use crate::turns::{self, Turn};

type Job = Box<dyn FnOnce() + Send>;

/// The device threads of one sandbox.
pub(crate) struct DeviceThreads {
    models: Sender<Job>,
    operators: rayon::ThreadPool,
    computing: GuestsComputing,
}

/// How many guests are running and do not wait for a model. Clones are the same number.
#[derive(Clone, Debug, Default)]
pub struct GuestsComputing(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Guests that neither wait nor rest.
    computing: AtomicIsize,
    /// Guests that wait for a model.
    waiting: AtomicIsize,
    /// Guests that would compute, and have had their turn.
    resting: AtomicIsize,
}

impl GuestsComputing {
    /// Whether there are any now.
    #[must_use]
    pub fn any(&self) -> bool {
        self.0.computing.load(Relaxed) > 0
    }

    /// Whether a guest waits for a model.
    pub(crate) fn models_are_wanted(&self) -> bool {
        self.0.waiting.load(Relaxed) > 0
    }

    /// The part of one processor that is each computing guest's while models are wanted.
    pub(crate) fn share(&self) -> f64 {
        let guests = self.0.computing.load(Relaxed) + self.0.resting.load(Relaxed);
        let processors = available_parallelism().map_or(2, usize::from);
        turns::share(processors, usize::try_from(guests).unwrap_or(0))
    }

    /// Rests for so long, or until no model is wanted.
    pub(crate) async fn rest(self, time: Duration) {
        let _resting = Counted::new(&self, Change::Rests);
        let (mut left, mut unwanted) = (time, 0);
        while !left.is_zero() && unwanted < turns::UNWANTED {
            let nap = TICK.min(left);
            tokio::time::sleep(nap).await;
            left -= nap;
            unwanted = if self.models_are_wanted() {
                0
            } else {
                unwanted + 1
            };
        }
    }
}

/// What a guest does from now on.
#[derive(Clone, Copy)]
enum Change {
    /// It begins, and computes.
    Begins,
    /// It waits for a model instead of computing.
    WaitsForModel,
    /// It waits for something else.
    Waits,
    /// It has had its turn.
    Rests,
}

/// What a guest does, until this is dropped.
pub(crate) struct Counted(GuestsComputing, Change);

impl Counted {
    fn new(guests: &GuestsComputing, change: Change) -> Self {
        let counted = Counted(guests.clone(), change);
        counted.apply(1);
        counted
    }

    fn apply(&self, sign: isize) {
        let counts = &self.0.0;
        let (computing, other) = match self.1 {
            Change::Begins => (1, None),
            Change::WaitsForModel => (-1, Some(&counts.waiting)),
            Change::Waits => (-1, None),
            Change::Rests => (-1, Some(&counts.resting)),
        };
        counts.computing.fetch_add(sign * computing, Relaxed);
        if let Some(other) = other {
            other.fetch_add(sign, Relaxed);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.apply(-1);
    }
}

/// A guest that waits for what other threads do, until they have something for it.
struct Waiting {
    counted: Mutex<Option<Counted>>,
    waker: Waker,
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        // The guest has something to compute with, whenever its thread comes to it.
        self.counted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.waker.wake_by_ref();
    }
}

/// The host failed in the middle of a job.
#[derive(Debug)]
pub(crate) struct Lost;

impl DeviceThreads {
    pub(crate) fn start() -> std::io::Result<Arc<Self>> {
        let cores = available_parallelism().map_or(2, usize::from);
        // The shared pool of the process is made here, by a thread of normal priority: threads
        // inherit the standing of the thread that makes them, and a guest's is low.
        rayon::broadcast(|_| ());
        let (models, jobs) = channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        for index in 0..cores {
            let jobs = Arc::clone(&jobs);
            std::thread::Builder::new()
                .name(format!("skep-model-{index}"))
                .spawn(move || serve(&jobs))?;
        }
        let operators = rayon::ThreadPoolBuilder::new()
            .num_threads(cores)
            .thread_name(|index| format!("skep-operator-{index}"))
            .start_handler(|_| priority::idle_this_thread())
            .build()
            .map_err(std::io::Error::other)?;
        Ok(Arc::new(DeviceThreads {
            models,
            operators,
            computing: GuestsComputing::default(),
        }))
    }

    /// Counts a guest that computes, until what is returned is dropped.
    pub(crate) fn computing(&self) -> Counted {
        Counted::new(&self.computing, Change::Begins)
    }

    /// The number of guests that compute.
    pub(crate) fn guests_computing(&self) -> GuestsComputing {
        self.computing.clone()
    }

    /// Runs a model's work at normal priority. It is begun whether or not anybody waits for what
    /// comes of it.
    pub(crate) fn model<T: Send + 'static, W: FnOnce() -> T + Send + 'static>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<T, Lost>> + Send + use<T, W> {
        let (sender, receiver) = oneshot::channel();
        let waiting = Counted::new(&self.computing, Change::WaitsForModel);
        let job: Job = Box::new(move || {
            let result = work();
            // The guest has its result to compute with, whenever its thread comes to it.
            drop(waiting);
            // The run may be over by now, and then nobody wants the result.
            let _ = sender.send(result);
        });
        // A job that cannot be sent is dropped with its sender, which the receiver is told.
        let _ = self.models.send(job);
        async { receiver.await.map_err(|_| Lost) }
    }

    /// Waits for what a model does, which is to wake the waker that it is given. The guest does
    /// not compute meanwhile.
    pub(crate) async fn waiting<T>(&self, poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        self.until(Change::WaitsForModel, poll).await
    }

    /// Waits for something other than a model, in the same way.
    pub(crate) async fn away<T>(&self, poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        self.until(Change::Waits, poll).await
    }

    async fn until<T>(
        &self,
        change: Change,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> T {
        std::future::poll_fn(|context| {
            let waker = Waker::from(Arc::new(Waiting {
                counted: Mutex::new(Some(Counted::new(&self.computing, change))),
                waker: context.waker().clone(),
            }));
            // If there is something already, the waker goes, and with it the count.
            poll(&mut Context::from_waker(&waker))
        })
        .await
    }

    /// Runs a guest's operator: where it is called if it is small, else on the threads for it,
    /// and then its time counts for the guest's turn.
    pub(crate) fn operator<T: Send>(
        &self,
        turn: &Turn,
        bytes: u64,
        work: impl FnOnce() -> T + Send,
    ) -> T {
        // Below this an operator takes less time than handing it over.
        const SMALL: u64 = 64 << 10;
        if bytes <= SMALL {
            work()
        } else {
            let began = Instant::now();
            let made = self.operators.install(work);
            turn.operator(began.elapsed());
            made
        }
    }
}

fn serve(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // A fault in one job is that job's: its sender is dropped, and its run is told.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_panics_is_lost_alone() {
        let threads = DeviceThreads::start().unwrap();
        let many = available_parallelism().map_or(2, usize::from) + 1;
        for _ in 0..many {
            assert!(threads.model(|| panic!("a fault")).await.is_err());
        }
        assert_eq!(threads.model(|| 7).await.unwrap(), 7);
        assert_eq!(threads.computing.0.computing.load(Relaxed), 0);
        assert!(!threads.computing.models_are_wanted());
    }

    #[tokio::test]
    async fn a_guest_that_waits_for_a_model_does_not_compute() {
        let threads = DeviceThreads::start().unwrap();
        let counted = threads.guests_computing();
        let guest = threads.computing();
        assert!(counted.any());
        let seen = counted.clone();
        let (any, wanted) = threads
            .model(move || (seen.any(), seen.models_are_wanted()))
            .await
            .unwrap();
        assert!(!any && wanted);
        assert!(counted.any() && !counted.models_are_wanted());
        drop(guest);
        assert!(!counted.any());
    }

    #[test]
    fn operators_give_their_result_whatever_their_size() {
        let threads = DeviceThreads::start().unwrap();
        let turn = Turn::new();
        assert_eq!(threads.operator(&turn, 1, || 1), 1);
        assert_eq!(threads.operator(&turn, 1 << 30, || 2), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_ends_early_when_no_model_is_wanted() {
        let guests = GuestsComputing::default();
        let hour = Duration::from_secs(3600);
        let began = tokio::time::Instant::now();
        let waits = Counted::new(&guests, Change::WaitsForModel);
        guests.clone().rest(hour).await;
        assert!(began.elapsed() >= hour);
        drop(waits);
        let began = tokio::time::Instant::now();
        guests.clone().rest(hour).await;
        assert!(began.elapsed() < hour / 1000);
    }
}
