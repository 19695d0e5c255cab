//! Runs of the world `fine-tune`: examples in, an adapter in the run's room.

use std::io::{Read, Write};
use std::sync::Arc;

use wasmtime::Store;

use super::cancel::Cancel;
use super::report::RunReport;
use super::spec::RunSpec;
use super::{Ending, FailedRun, explain};
use crate::error::RunError;
use crate::program::Program;
use crate::sandbox::Sandbox;
use crate::state::State;

/// What the guest does.
pub(crate) struct Work {
    settings: Vec<(String, String)>,
}

impl Work {
    pub(crate) async fn run(
        self,
        store: &mut Store<State>,
        program: &Program,
    ) -> Result<(), Ending> {
        let recipe = program.as_recipe()?;
        let recipe = recipe.instantiate_async(&mut *store).await?;
        let result = recipe
            .skep_workload_recipe()
            .call_train(&mut *store, &self.settings)
            .await?;
        // What the guest wrote before it failed is the caller's all the same.
        let flushed = store.data_mut().io.flush().await;
        result.map_err(explain::returned)?;
        // The other side has gone, and knows why.
        flushed.map_err(|_| RunError::Cancelled)?;
        Ok(())
    }
}

impl Sandbox {
    /// Runs a recipe on the examples that `input` holds. What it makes goes through the spec's
    /// [`TrainingRoom`](crate::TrainingRoom), what it writes besides to `output`. Blocks until it
    /// is over, as [`Sandbox::run_task`] does.
    ///
    /// # Errors
    /// [`FailedRun`], with what the run used.
    pub fn train(
        &self,
        program: &Arc<Program>,
        spec: &RunSpec,
        settings: &[(String, String)],
        mut input: impl Read,
        mut output: impl Write,
        cancel: &Cancel,
    ) -> Result<RunReport, FailedRun> {
        program.as_recipe()?;
        let work = super::Work::Train(Work {
            settings: settings.to_vec(),
        });
        self.run_with_streams(program, spec, work, &mut input, &mut output, cancel)
    }
}
