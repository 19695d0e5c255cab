//! A device with memory of its own, whichever it is: weights and pages are copied there, and what
//! comes back are logits, states, and adapters that make room for others.

use std::sync::Arc;

use skep_decoder::{
    AdapterWeights, Batch, Decoder, PagedAdapter, PlacedDecoder, PlacedError, PlacedWorkspace,
};
use skep_kernels::kv::KvFormat;
use skep_kernels::operators::Device;

use super::{Backend, ModelRunner, Results, RunnerError};
use crate::adapters::{AdapterPool, StoreError};

/// A device that models are put on. The last bits of what it computes of a token may depend on
/// what else is in the batch, as far as the device's own operators let them.
pub struct OnDevice<O> {
    name: String,
    device: Arc<O>,
}

impl<O: Device> OnDevice<O> {
    /// This device, under the name by which people asked for it.
    pub fn new(name: impl Into<String>, device: O) -> Self {
        Self {
            name: name.into(),
            device: Arc::new(device),
        }
    }
}

impl<O: Device + 'static> Backend for OnDevice<O> {
    fn name(&self) -> &str {
        &self.name
    }

    fn load(
        &self,
        decoder: &Arc<Decoder>,
        format: KvFormat,
        pages: usize,
    ) -> Result<Box<dyn ModelRunner>, RunnerError> {
        let device = &self.device;
        let failed = |what: &str, error: O::Error| RunnerError::Device {
            device: self.name.clone(),
            reason: format!("{what}: {error}"),
        };
        let shape = decoder.kv_shape(format);
        let placed = decoder
            .place(&**device)
            .map_err(|error| failed("the model's weights", error))?;
        let pool = device.new_pages(shape, pages).map_err(|error| {
            let bytes = shape.page_bytes().saturating_mul(pages as u64);
            let what = format!("a pool of {pages} pages of keys and values, {bytes} bytes");
            failed(&what, error)
        })?;
        // Other threads go on from here, and find everything where it is to be.
        device
            .wait()
            .map_err(|error| failed("copying the model's weights", error))?;
        Ok(Box::new(Runner {
            decoder: placed,
            workspace: PlacedWorkspace::default(),
            pages: pool,
            name: self.name.clone(),
            device: Arc::clone(device),
        }))
    }
}

struct Runner<O: Device> {
    name: String,
    device: Arc<O>,
    decoder: PlacedDecoder<O>,
    workspace: PlacedWorkspace<O>,
    pages: O::Pages,
}

impl<O: Device> Runner<O> {
    fn failed(&self, error: &O::Error) -> RunnerError {
        RunnerError::Device {
            device: self.name.clone(),
            reason: error.to_string(),
        }
    }

    /// Runs a batch up to its logits and states; nothing says yet that they were computed.
    fn pass(
        &mut self,
        batch: &Batch<'_>,
        states: &[usize],
        results: &mut Results,
    ) -> Result<(), PlacedError<O::Error>> {
        let Self {
            device,
            decoder,
            workspace,
            pages,
            ..
        } = self;
        let device = &**device;
        let logits = decoder.forward(device, workspace, pages, batch)?;
        // Reading waits, so nothing is read that nobody asked for.
        if !batch.outputs.is_empty() {
            results.logits = device.read(logits).map_err(PlacedError::Device)?;
        }
        if !states.is_empty() {
            let rows = decoder.states(device, workspace, states);
            let rows = rows.and_then(|rows| device.read(rows));
            results.states = rows.map_err(PlacedError::Device)?;
        }
        Ok(())
    }
}

impl<O: Device> ModelRunner for Runner<O> {
    fn run(
        &mut self,
        batch: &Batch<'_>,
        states: &[usize],
        results: &mut Results,
    ) -> Result<(), RunnerError> {
        results.logits.clear();
        results.states.clear();
        self.pass(batch, states, results)
            .map_err(|error| match error {
                PlacedError::Batch(error) => RunnerError::Batch(error),
                PlacedError::Device(error) => self.failed(&error),
            })?;
        // What fails after it was launched says so here at the latest, and not in a later pass,
        // when what this one was to compute has been remembered.
        self.device.wait().map_err(|error| self.failed(&error))
    }

    fn copy(&mut self, from: u32, to: u32, slots: usize) -> Result<(), RunnerError> {
        let copied = self
            .device
            .copy_page(&mut self.pages, from as usize, to as usize, slots);
        copied.map_err(|error| self.failed(&error))
    }

    fn adapter_pool(&mut self) -> &mut dyn AdapterPool {
        self
    }

    fn device_bytes(&self) -> u64 {
        self.device.bytes()
    }
}

impl<O: Device> AdapterPool for Runner<O> {
    fn pages(&self) -> usize {
        self.device.pool(&self.pages).1
    }

    fn place(
        &mut self,
        weights: &AdapterWeights,
        pages: Vec<u32>,
    ) -> Result<PagedAdapter, StoreError> {
        let placed = weights.place_on(&*self.device, &mut self.pages, pages);
        let placed = placed.map_err(|error| StoreError::Device(error.to_string()))?;
        let waited = self.device.wait();
        waited.map_err(|error| StoreError::Device(self.failed(&error).to_string()))?;
        Ok(placed)
    }

    fn park(&mut self, adapter: &PagedAdapter) -> Result<AdapterWeights, StoreError> {
        let parked = adapter.park_from(&*self.device, &self.pages);
        parked.map_err(|error| StoreError::Device(error.to_string()))
    }
}
