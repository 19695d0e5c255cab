//! Running a program: one guest, on a thread of its own, under all of its limits.
//!
//! The caller's thread keeps the input and the output and the guest's thread keeps the guest;
//! they meet in bounded channels. Whatever happens to the guest, the caller gets a report of
//! what it used.

pub(crate) mod cancel;
mod classify;
mod explain;
mod fine_tune;
pub(crate) mod records;
pub(crate) mod renderer;
pub(crate) mod report;
pub(crate) mod session;
pub(crate) mod spec;
mod task;
pub(crate) mod verify;
pub(crate) mod village;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_tensor::Account;
use tokio::runtime::Runtime;
use wasmtime::Store;

use crate::devices::DeviceThreads;
use crate::engine::{Engines, Host};
use crate::error::RunError;
use crate::limits::RunLimits;
use crate::program::Program;
use crate::repeatable;
use crate::sandbox::Sandbox;
use crate::state::State;
use crate::task_io::TaskIo;
use crate::workers;
use cancel::Cancel;
use report::RunReport;
use spec::RunSpec;

/// A run that did not do its work: why, and what it used.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct FailedRun {
    /// Why.
    #[source]
    pub error: RunError,
    /// What it did and used until then.
    pub report: Box<RunReport>,
}

impl From<RunError> for FailedRun {
    /// A run that did not begin.
    fn from(error: RunError) -> Self {
        FailedRun {
            error,
            report: Box::default(),
        }
    }
}

/// What the guest does.
pub(crate) enum Work {
    Task(task::Work),
    Classify(classify::Work),
    Train(fine_tune::Work),
    Village(session::Work<village::Guest>),
    Render(session::Work<renderer::Guest>),
    Verify(session::Work<verify::Guest>),
}

impl Sandbox {
    /// The limits that a run with this spec has.
    pub fn limits_of(&self, spec: &RunSpec) -> RunLimits {
        RunLimits::of(&spec.limits, &self.owner)
    }

    /// Starts the guest on its thread. `done` is called there when it is over. Each of
    /// `cancels` calls it off: the caller's, and the run's own for when the caller's streams
    /// fail.
    fn start(
        &self,
        program: &Arc<Program>,
        spec: &RunSpec,
        cancels: [Cancel; 2],
        io: TaskIo,
        work: Work,
        done: impl FnOnce(RunReport, Result<(), RunError>) + Send + 'static,
    ) -> Result<(), RunError> {
        program.check(&spec.grants)?;
        let limits = self.limits_of(spec);
        let spec = Arc::new(spec.clone());
        let threads = Arc::clone(&self.threads);
        let engines = Arc::clone(&self.engines);
        let program = Arc::clone(program);
        self.workers
            .run(move |runtime| {
                let state = state(&spec, limits, &threads, io);
                let (report, result) =
                    run_guest(&engines, &program, state, &cancels, runtime, work);
                let report: workers::Report = Box::new(move || done(report, result));
                report
            })
            .map_err(|full| RunError::Busy {
                running: full.running,
            })
    }
}

/// The host's side of a run that begins now, on this thread.
pub(crate) fn state(
    spec: &Arc<RunSpec>,
    limits: RunLimits,
    threads: &Arc<DeviceThreads>,
    io: TaskIo,
) -> State {
    let account = Account::new(skep_tensor::Limits {
        device_memory: limits.device_memory,
        device_work: limits.device_work,
        deadline: Instant::now().checked_add(limits.wall),
    });
    spec.used.show(&account);
    State::new(Arc::clone(spec), limits, account, Arc::clone(threads), io)
}

/// Runs a guest on this thread, from its instantiation to when nothing of it is left.
fn run_guest(
    engines: &Engines,
    program: &Program,
    state: State,
    cancels: &[Cancel],
    runtime: &Runtime,
    work: Work,
) -> (RunReport, Result<(), RunError>) {
    let began = Instant::now();
    let _ticking = engines.ticker.run();
    let host = match engines.get(program.kind) {
        Ok(host) => host,
        Err(reason) => {
            let error = RunError::HostBug(reason);
            return (RunReport::default(), Err(error));
        }
    };
    let account = state.account.clone();
    let _computing = state.threads.computing();
    let mut store = open(host, state);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(under_the_clock(&mut store, program, cancels, work))
    }));
    // Whatever still works for this run on a device thread ends at its next look.
    account.cancel();
    let result = ended.unwrap_or_else(|panic| Err(RunError::HostBug(message(&*panic))));
    let report = report(&store, &account, began.elapsed());
    let guard = runtime.enter();
    if catch_unwind(AssertUnwindSafe(|| drop(store))).is_err() {
        tracing::error!("a fault of the host while a guest was cleared away");
    }
    drop(guard);
    (report, result)
}

async fn under_the_clock(
    store: &mut Store<State>,
    program: &Program,
    cancels: &[Cancel],
    work: Work,
) -> Result<(), RunError> {
    let limit = store.data().limits.wall;
    let run = async {
        let outcome = match work {
            Work::Task(work) => work.run(store, program).await,
            Work::Classify(work) => work.run(store, program).await,
            Work::Train(work) => work.run(store, program).await,
            Work::Village(work) => work.run(store, program).await,
            Work::Render(work) => work.run(store, program).await,
            Work::Verify(work) => work.run(store, program).await,
        };
        outcome.map_err(|ending| {
            let elsewhere = repeatable::why_it_ended(store.data());
            elsewhere.unwrap_or_else(|| ending.explain(store.data()))
        })?;
        repeatable::check(store.data())
    };
    let cancelled = async {
        match cancels {
            [] => std::future::pending().await,
            [one] => one.cancelled().await,
            [one, other, ..] => {
                tokio::select! {
                    () = one.cancelled() => {}
                    () = other.cancelled() => {}
                }
            }
        }
    };
    tokio::select! {
        biased;
        result = tokio::time::timeout(limit, run) => {
            result.unwrap_or(Err(RunError::WallTime { limit }))
        }
        () = cancelled => Err(RunError::Cancelled),
    }
}

/// How a guest's work ended early.
pub(crate) enum Ending {
    /// A trap, or an error of the host on the way into the guest.
    Trap(wasmtime::Error),
    /// Known already.
    Known(RunError),
}

impl From<wasmtime::Error> for Ending {
    fn from(error: wasmtime::Error) -> Self {
        Ending::Trap(error)
    }
}

impl From<RunError> for Ending {
    fn from(error: RunError) -> Self {
        Ending::Known(error)
    }
}

impl Ending {
    fn explain(self, state: &State) -> RunError {
        match self {
            Ending::Known(error) => error,
            Ending::Trap(error) => explain::trap(&error, state),
        }
    }
}

/// A store with every limit in place.
pub(crate) fn open(host: &Host, state: State) -> Store<State> {
    let limits = state.limits;
    let mut store = Store::new(&host.engine, state);
    store.limiter(|state| &mut state.memory);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut context| context.data_mut().on_tick());
    store.set_hostcall_fuel(usize::try_from(limits.call_bytes).unwrap_or(usize::MAX));
    // Both somewhat above what the host itself refuses with a typed error: as many resources,
    // and as many ends of streams and futures, for each of which there are two entries more.
    let handles = limits.handles as usize;
    store.set_max_component_handles(handles.saturating_mul(2).saturating_add(64));
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(handles.saturating_mul(3).saturating_add(256));
    }
    store
}

fn report(store: &Store<State>, account: &Account, elapsed: Duration) -> RunReport {
    let usage = account.usage();
    let state = store.data();
    let (log, log_truncated) = state.log.take();
    RunReport {
        seconds: elapsed.as_secs_f64(),
        cpu_ms: u64::try_from(state.clock.used().as_millis()).unwrap_or(u64::MAX),
        peak_memory_bytes: state.memory.peak,
        device_bytes_peak: usage.device_bytes_peak,
        kv_bytes_peak: state.texts.usage().device_bytes_peak,
        weights_bytes: state.lent.models.values().sum(),
        adapter_bytes: state.lent.adapters.values().sum(),
        devices: state.lent.devices.clone(),
        flops: usage.flops,
        tokens: usage.tokens,
        host_calls: state.host_calls,
        output_bytes: state.io.written,
        output_truncated: state.io.refused,
        jobs: state.begun.names.clone(),
        reports: state.reports.clone(),
        shown: state.showing.shown(),
        stored_bytes: state.stored.saturating_add(state.trainings.kept()),
        log,
        log_truncated,
        ..RunReport::default()
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
