//! The processors of this machine, over weights as they lie in their mapped files.

use std::sync::Arc;

use skep_decoder::{Batch, Decoder, ForwardError, Workspace};
use skep_kernels::Team;
use skep_kernels::kv::{KvFormat, KvPages};

use super::{Backend, ModelRunner, Results, RunnerError};
use crate::adapters::AdapterPool;

/// The processors: products are shared out among a team of threads. A text has the same bits
/// whatever it is computed with.
pub struct Processor(pub Arc<Team>);

impl Backend for Processor {
    fn name(&self) -> &'static str {
        "processor"
    }

    fn load(
        &self,
        decoder: &Arc<Decoder>,
        format: KvFormat,
        pages: usize,
    ) -> Result<Box<dyn ModelRunner>, RunnerError> {
        Ok(Box::new(Runner {
            pages: KvPages::new(decoder.kv_shape(format), pages),
            decoder: Arc::clone(decoder),
            team: Arc::clone(&self.0),
            workspace: Workspace::default(),
        }))
    }
}

struct Runner {
    decoder: Arc<Decoder>,
    team: Arc<Team>,
    workspace: Workspace,
    pages: KvPages,
}

impl Runner {
    /// Leaves what is wanted of the last pass.
    fn hand_over(&mut self, states: &[usize], results: &mut Results) -> Result<(), RunnerError> {
        let width = self.decoder.config().width;
        results.states.resize(states.len() * width, 0.0);
        let rows = results.states.chunks_exact_mut(width.max(1));
        for (row, token) in rows.zip(states) {
            self.decoder.hidden(&self.workspace, *token, row)?;
        }
        self.workspace.swap_logits(&mut results.logits);
        Ok(())
    }
}

impl ModelRunner for Runner {
    fn run(
        &mut self,
        batch: &Batch<'_>,
        states: &[usize],
        results: &mut Results,
    ) -> Result<(), RunnerError> {
        let (workspace, pages) = (&mut self.workspace, &mut self.pages);
        self.decoder.forward(&self.team, workspace, pages, batch)?;
        self.hand_over(states, results)
    }

    fn run_rounded(
        &mut self,
        batch: &Batch<'_>,
        states: &[usize],
        results: &mut Results,
    ) -> Result<(), RunnerError> {
        let (workspace, pages) = (&mut self.workspace, &mut self.pages);
        self.decoder
            .forward_rounded(&self.team, workspace, pages, batch)?;
        self.hand_over(states, results)
    }

    fn rounds(&self) -> bool {
        self.decoder.rounds()
    }

    fn copy(&mut self, from: u32, to: u32, slots: usize) -> Result<(), RunnerError> {
        let copied = self.pages.copy(from as usize, to as usize, slots);
        Ok(copied.map_err(ForwardError::from)?)
    }

    fn adapter_pool(&mut self) -> &mut dyn AdapterPool {
        self.pages.memory_mut()
    }

    fn device_bytes(&self) -> u64 {
        0
    }
}
