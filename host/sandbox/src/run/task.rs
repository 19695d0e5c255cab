//! Runs of the worlds `task` and `async-task`: bytes in, bytes out.

use std::io::{Read, Write};
use std::sync::Arc;

use tokio::sync::mpsc;
use wasmtime::Store;

use super::cancel::Cancel;
use super::report::RunReport;
use super::spec::RunSpec;
use super::{Ending, FailedRun, explain};
use crate::error::RunError;
use crate::program::{Program, TaskKind};
use crate::sandbox::Sandbox;
use crate::state::State;
use crate::task_io::{Request, TaskIo};

/// Chunks of output that may wait for a slow caller.
const WAITING: usize = 8;

/// What the guest does.
pub(crate) struct Work {
    arguments: Vec<String>,
}

impl Work {
    pub(crate) async fn run(
        self,
        store: &mut Store<State>,
        program: &Program,
    ) -> Result<(), Ending> {
        let result = match program.as_task()? {
            TaskKind::Sync(task) => {
                let task = task.instantiate_async(&mut *store).await?;
                task.call_run(&mut *store, &self.arguments).await?
            }
            TaskKind::Async(task) => {
                let task = task.instantiate_async(&mut *store).await?;
                let arguments = self.arguments;
                store
                    .run_concurrent(async move |store| task.call_run(store, arguments).await)
                    .await??
            }
        };
        // What the guest wrote before it failed is the caller's all the same.
        let flushed = store.data_mut().io.flush().await;
        result.map_err(explain::returned)?;
        // The other side has gone, and knows why.
        flushed.map_err(|_| RunError::Cancelled)?;
        Ok(())
    }
}

impl Sandbox {
    /// Runs a task on `input`, and writes what it makes to `output`. Blocks until it is over.
    ///
    /// Both streams are used on the calling thread only. A read or a write that does not
    /// return holds this call up, though not the end of the guest when its time is over.
    ///
    /// # Errors
    /// [`FailedRun`], with what the run used. What the guest wrote until then was written.
    pub fn run_task(
        &self,
        program: &Arc<Program>,
        spec: &RunSpec,
        arguments: &[String],
        mut input: impl Read,
        mut output: impl Write,
        cancel: &Cancel,
    ) -> Result<RunReport, FailedRun> {
        program.as_task()?;
        let work = super::Work::Task(Work {
            arguments: arguments.to_vec(),
        });
        self.run_with_streams(program, spec, work, &mut input, &mut output, cancel)
    }

    /// Runs a guest that reads the one stream and writes the other, and waits for its end.
    pub(super) fn run_with_streams(
        &self,
        program: &Arc<Program>,
        spec: &RunSpec,
        work: super::Work,
        input: &mut impl Read,
        output: &mut impl Write,
        cancel: &Cancel,
    ) -> Result<RunReport, FailedRun> {
        let (requests, mut asked) = mpsc::channel(WAITING);
        let io = TaskIo::new(requests);
        let (done, ended) = tokio::sync::oneshot::channel();
        let stop = Cancel::new();
        let cancels = [cancel.clone(), stop.clone()];
        self.start(program, spec, cancels, io, work, move |report, result| {
            // Both ends are of this function, which waits below.
            let _ = done.send((report, result));
        })?;
        let failure = serve(&mut asked, input, output);
        if failure.is_err() {
            stop.cancel();
        }
        drop(asked);
        let (report, result) = ended.blocking_recv().map_err(|_| {
            FailedRun::from(RunError::HostBug("the guest's thread was lost".to_owned()))
        })?;
        let result = match failure {
            Err(error) => Err(error),
            Ok(()) => result.and_then(|()| output.flush().map_err(RunError::Output)),
        };
        match result {
            Ok(()) => Ok(report),
            Err(error) => Err(FailedRun {
                error,
                report: Box::new(report),
            }),
        }
    }
}

impl Sandbox {
    /// Runs a task without arguments, input or output on the calling thread and the given event
    /// loop: the part of a run that the guest's own thread does, with every limit in place.
    /// It is what short runs in great number cost, without handing them over.
    ///
    /// # Errors
    /// [`FailedRun`], with what the run used.
    pub fn run_here(
        &self,
        program: &Program,
        spec: &Arc<RunSpec>,
        runtime: &tokio::runtime::Runtime,
    ) -> Result<RunReport, FailedRun> {
        program.as_task()?;
        program.check(&spec.grants).map_err(RunError::from)?;
        let work = super::Work::Task(Work {
            arguments: Vec::new(),
        });
        let (report, result) = super::run_guest(
            &self.engines,
            program,
            super::state(spec, self.limits_of(spec), &self.threads, TaskIo::default()),
            &[],
            runtime,
            work,
        );
        match result {
            Ok(()) => Ok(report),
            Err(error) => Err(FailedRun {
                error,
                report: Box::new(report),
            }),
        }
    }
}

/// Answers the guest's requests until it is over, or a stream of the caller's fails.
fn serve(
    requests: &mut mpsc::Receiver<Request>,
    input: &mut impl Read,
    output: &mut impl Write,
) -> Result<(), RunError> {
    while let Some(request) = requests.blocking_recv() {
        match request {
            Request::Read(length, answer) => {
                let mut bytes = vec![0; length];
                let read = loop {
                    match input.read(&mut bytes) {
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                        read => break read.map_err(RunError::Input)?,
                    }
                };
                bytes.truncate(read);
                // A guest whose time is over does not wait for it.
                let _ = answer.send(bytes);
            }
            Request::Write(bytes) => output.write_all(&bytes).map_err(RunError::Output)?,
        }
    }
    Ok(())
}
