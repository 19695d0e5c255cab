//! Sessions: runs whose guest stays between calls.
//!
//! A session is one run, with one store, one account and one set of limits, that does not end
//! with its first call. What a run may use, all calls of a session may use together; its wall
//! time goes from its beginning to its end, waiting for the next call included. Each call has
//! limits of its own beside those, so that no single one holds its caller up for long.
//!
//! A guest that traps, passes a limit or breaks its contract is never called again: the session
//! is over, and every later call says why. A guest that says no goes on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use wasmtime::Store;

use super::cancel::Cancel;
use super::report::{Reported, RunReport};
use super::spec::RunSpec;
use super::{Ending, FailedRun, explain};
use crate::bindings::task::skep::types::types::Error as Contract;
use crate::error::RunError;
use crate::program::Program;
use crate::sandbox::Sandbox;
use crate::state::State;
use crate::task_io::TaskIo;

/// What one call of a session may use, beside what the session has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// Time on a processor that the guest's own thread may use.
    pub cpu: Duration,
    /// Time from the call to its answer, waiting for a model included.
    pub wall: Duration,
}

impl Default for CallLimits {
    /// Long enough for a model on a slow machine, short enough for somebody who waits.
    fn default() -> Self {
        CallLimits {
            cpu: Duration::from_secs(30),
            wall: Duration::from_secs(120),
        }
    }
}

/// Why a call of a session has no result.
#[derive(Clone, Debug, Error)]
pub enum CallError {
    /// The guest said no, in the contract's words. The session goes on.
    #[error("{0}")]
    Refused(String),
    /// The session is over: why, and what it used.
    #[error("{0}")]
    Over(Arc<FailedRun>),
}

impl From<FailedRun> for CallError {
    fn from(failed: FailedRun) -> Self {
        CallError::Over(Arc::new(failed))
    }
}

impl From<RunError> for CallError {
    fn from(error: RunError) -> Self {
        FailedRun::from(error).into()
    }
}

/// A kind of guest that lives in sessions.
pub(crate) trait Resident: Sized + Send + 'static {
    /// Makes an instance.
    fn instantiate(
        store: &mut Store<State>,
        program: &Program,
    ) -> impl Future<Output = Result<Self, Ending>> + Send;

    /// The work of a session of such guests.
    fn work(work: Work<Self>) -> super::Work;
}

/// The future of a call: what the guest answered, or no.
pub(crate) type Answer<'a, T> =
    Pin<Box<dyn Future<Output = Result<Result<T, Contract>, Ending>> + Send + 'a>>;

/// A call on its way to the guest's thread.
type Job<G> = Box<
    dyn for<'a> FnOnce(
            &'a mut Store<State>,
            &'a mut G,
        ) -> Pin<Box<dyn Future<Output = Result<(), Ending>> + Send + 'a>>
        + Send,
>;

/// What the guest does: whatever comes.
pub(crate) struct Work<G> {
    calls: mpsc::UnboundedReceiver<Job<G>>,
    limits: CallLimits,
}

impl<G: Resident> Work<G> {
    pub(crate) async fn run(
        mut self,
        store: &mut Store<State>,
        program: &Program,
    ) -> Result<(), Ending> {
        let limits = self.limits;
        store.data_mut().clock.begin_call(limits.cpu);
        let mut guest = limits.hold(G::instantiate(store, program)).await?;
        let threads = Arc::clone(&store.data().threads);
        loop {
            // A guest that nobody calls does not compute.
            let next = threads.away(|context| self.calls.poll_recv(context));
            let Some(call) = next.await else {
                return Ok(());
            };
            store.data_mut().clock.begin_call(limits.cpu);
            limits.hold(call(store, &mut guest)).await?;
        }
    }
}

impl CallLimits {
    /// Holds a call to its wall time.
    async fn hold<T>(self, call: impl Future<Output = Result<T, Ending>>) -> Result<T, Ending> {
        let limit = self.wall;
        let late = |_| Ending::Known(RunError::CallTime { limit });
        tokio::time::timeout(limit, call).await.map_err(late)?
    }
}

/// The caller's side of a session. Dropping it ends the guest.
pub(crate) struct Session<G> {
    calls: mpsc::UnboundedSender<Job<G>>,
    ended: Option<oneshot::Receiver<(RunReport, Result<(), RunError>)>>,
    over: Option<Arc<FailedRun>>,
}

impl<G: Resident> Session<G> {
    /// Begins a session. Whether the guest can be instantiated shows with the first call.
    pub(crate) fn open(
        sandbox: &Sandbox,
        program: &Arc<Program>,
        spec: &RunSpec,
        limits: CallLimits,
        cancel: &Cancel,
    ) -> Result<Self, CallError> {
        let (calls, waiting) = mpsc::unbounded_channel();
        let (done, ended) = oneshot::channel();
        let work = G::work(Work {
            calls: waiting,
            limits,
        });
        let cancels = [cancel.clone(), Cancel::new()];
        sandbox.start(
            program,
            spec,
            cancels,
            TaskIo::default(),
            work,
            move |report, result| {
                // Whoever dropped the session does not want the report.
                let _ = done.send((report, result));
            },
        )?;
        Ok(Session {
            calls,
            ended: Some(ended),
            over: None,
        })
    }

    /// Calls the guest and waits for its answer. Not from within an event loop.
    pub(crate) fn call<T, F>(&mut self, work: F) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Store<State>, &'a mut G) -> Answer<'a, T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job<G> = Box::new(move |store, guest| {
            let work = work(store, guest);
            Box::pin(async move {
                // Nobody waits for it if the caller's thread was ended.
                let _ = answer.send(work.await?);
                Ok(())
            })
        });
        // If the guest has gone, so has the answer, which is seen below.
        let _ = self.calls.send(job);
        match answered.blocking_recv() {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(CallError::Refused(said(error))),
            Err(_) => Err(CallError::Over(self.why())),
        }
    }

    /// Takes what the guest has reported of others' outputs since this was last asked for, which
    /// makes room for more.
    pub(crate) fn reports(&mut self) -> Result<Vec<Reported>, CallError> {
        self.call(|store, _| {
            Box::pin(async move { Ok(Ok(std::mem::take(&mut store.data_mut().reports))) })
        })
    }

    /// Why the guest has gone.
    fn why(&mut self) -> Arc<FailedRun> {
        let ended = &mut self.ended;
        let over = self.over.get_or_insert_with(|| {
            let ended = ended.take().and_then(|ended| ended.blocking_recv().ok());
            let lost = || RunError::HostBug("the guest's thread was lost".to_owned());
            let (report, result) = ended.unwrap_or_else(|| (RunReport::default(), Err(lost())));
            Arc::new(FailedRun {
                error: result.err().unwrap_or_else(lost),
                report: Box::new(report),
            })
        });
        Arc::clone(over)
    }

    /// Ends the guest, and says what the session used.
    pub(crate) fn close(self) -> Result<RunReport, CallError> {
        let Session { calls, ended, over } = self;
        drop(calls);
        if let Some(over) = over {
            return Err(CallError::Over(over));
        }
        let lost = || RunError::HostBug("the guest's thread was lost".to_owned());
        let ended = ended.and_then(|ended| ended.blocking_recv().ok());
        let (report, result) = ended.ok_or_else(lost)?;
        match result {
            Ok(()) => Ok(report),
            Err(error) => Err(CallError::from(FailedRun {
                error,
                report: Box::new(report),
            })),
        }
    }
}

/// A guest's refusal in words.
pub(crate) fn said(error: Contract) -> String {
    match explain::returned(error) {
        RunError::Guest(reason) => reason,
        other => other.to_string(),
    }
}
