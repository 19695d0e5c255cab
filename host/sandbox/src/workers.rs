//! The threads that guests run on: a bounded number, made when needed, kept for a while, and
//! below everything else in the operating system's eyes.
//!
//! Each has a small event loop of its own, so that a guest that waits for the host can be
//! dropped when its time is over, and so that no guest can hold up another's.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::priority;

/// How long a thread waits for its next guest.
const IDLE: Duration = Duration::from_secs(10);

/// What a thread does next, given its event loop.
type Job = Box<dyn FnOnce(&Runtime) -> Report + Send>;

/// Tells whoever waits that the job is over. Called when the thread is free again, so that who
/// was told finds it free.
pub(crate) type Report = Box<dyn FnOnce() + Send>;

/// There are as many guests as there may be.
#[derive(Debug)]
pub(crate) struct Full {
    pub running: usize,
}

#[derive(Clone)]
pub(crate) struct Workers(Arc<Shared>);

struct Shared {
    limit: usize,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<(u64, SyncSender<Job>)>,
    threads: usize,
    serial: u64,
}

impl Workers {
    pub(crate) fn new(limit: usize) -> Self {
        Workers(Arc::new(Shared {
            limit: limit.max(1),
            pool: Mutex::default(),
        }))
    }

    /// Runs a job on a thread of its own.
    pub(crate) fn run(
        &self,
        job: impl FnOnce(&Runtime) -> Report + Send + 'static,
    ) -> Result<(), Full> {
        let mut job: Job = Box::new(job);
        let mut pool = self.0.pool();
        while let Some((_, worker)) = pool.idle.pop() {
            match worker.send(job) {
                Ok(()) => return Ok(()),
                // It has just gone: take the next.
                Err(returned) => job = returned.0,
            }
        }
        if pool.threads >= self.0.limit {
            return Err(Full {
                running: pool.threads,
            });
        }
        let (sender, receiver) = sync_channel(1);
        pool.serial += 1;
        let id = pool.serial;
        let shared = Arc::clone(&self.0);
        let its_sender = sender.clone();
        let spawned = std::thread::Builder::new()
            .name("skep-guest".to_owned())
            .spawn(move || shared.serve(id, its_sender, &receiver));
        match spawned {
            Ok(_) => {
                pool.threads += 1;
                // A fresh channel of capacity one with its receiver alive takes one job.
                sender.send(job).map_err(|_| Full {
                    running: pool.threads,
                })
            }
            Err(error) => {
                tracing::warn!(%error, "no thread for a guest");
                Err(Full {
                    running: pool.threads,
                })
            }
        }
    }
}

impl Shared {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, id: u64, sender: SyncSender<Job>, jobs: &Receiver<Job>) {
        priority::idle_this_thread();
        match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => self.serve_on(&runtime, id, &sender, jobs),
            Err(error) => {
                tracing::error!(%error, "no event loop for a guest");
                self.pool().threads -= 1;
            }
        }
    }

    fn serve_on(&self, runtime: &Runtime, id: u64, sender: &SyncSender<Job>, jobs: &Receiver<Job>) {
        let mut next = jobs.recv().ok();
        while let Some(job) = next {
            let report = job(runtime);
            self.pool().idle.push((id, sender.clone()));
            report();
            next = match jobs.recv_timeout(IDLE) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Disconnected) => None,
                Err(RecvTimeoutError::Timeout) => {
                    let mut pool = self.pool();
                    let before = pool.idle.len();
                    pool.idle.retain(|(other, _)| *other != id);
                    if pool.idle.len() < before {
                        pool.threads -= 1;
                        return;
                    }
                    drop(pool);
                    // Taken from the list in this moment: its job is on the way.
                    jobs.recv().ok()
                }
            };
        }
        self.pool().threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// A job that waits for its gate and sends its thread's name.
    fn job(
        gate: std::sync::mpsc::Receiver<()>,
        done: std::sync::mpsc::Sender<std::thread::ThreadId>,
    ) -> impl FnOnce(&Runtime) -> Report + Send {
        move |_| {
            let _ = gate.recv();
            let id = std::thread::current().id();
            let report: Report = Box::new(move || done.send(id).unwrap());
            report
        }
    }

    #[test]
    fn there_are_never_more_than_the_limit_and_threads_are_used_again() {
        let workers = Workers::new(2);
        let (done, results) = channel();
        let gates: Vec<_> = (0..2)
            .map(|_| {
                let (open, gate) = channel();
                workers.run(job(gate, done.clone())).unwrap();
                open
            })
            .collect();
        let full = workers.run(job(channel().1, done.clone()));
        assert_eq!(full.unwrap_err().running, 2);
        drop(gates);
        let first = [results.recv().unwrap(), results.recv().unwrap()];
        // Whoever was told finds the thread free.
        workers.run(job(channel().1, done)).unwrap();
        assert!(first.contains(&results.recv().unwrap()));
    }
}
