//! Who computes what the scheduler puts together: a processor, or a device with memory of its own.
//!
//! A [`Backend`] is a machine that models can be put on; a [`ModelRunner`] is one model on it, with
//! the pages of its pool. The scheduler says which tokens go through the model and which page is
//! whose, whoever computes; everything that texts are (drawing, constraints, stops) happens on the
//! processor, from logits that a pass hands over whole.
//!
//! | module | what it is |
//! |---|---|
//! | [`Processor`] | the processors of this machine |
//! | [`OnDevice`] | whatever implements [`skep_kernels::operators::Device`] |
//!
//! What an implementation must never do: panic over a fault of a device; let a pass end well that
//! has not been computed to its end, because what it computed is remembered for other texts.

mod device;
mod processor;

use std::sync::Arc;

use skep_decoder::{Batch, Decoder, ForwardError};
use skep_kernels::kv::KvFormat;

pub use device::OnDevice;
pub use processor::Processor;

use crate::adapters::AdapterPool;

/// A machine that models can be put on.
pub trait Backend: Send + Sync {
    /// What people call it.
    fn name(&self) -> &str;

    /// Puts a model on it, with a pool of so many pages in which keys and values are kept in this
    /// format.
    ///
    /// # Errors
    /// When there is no room for it, or its weights have a form that cannot be computed there.
    fn load(
        &self,
        decoder: &Arc<Decoder>,
        format: KvFormat,
        pages: usize,
    ) -> Result<Box<dyn ModelRunner>, RunnerError>;
}

/// A model where it is computed, and the pages of its pool.
pub trait ModelRunner: Send {
    /// Runs a batch: keeps the keys and values of its tokens in their pages, and leaves in
    /// `results` the logits of its outputs, and the last hidden states of the tokens at `states`,
    /// places in the batch.
    ///
    /// # Errors
    /// When the batch is none for this model, or the device fails. Pages of the batch's own tokens
    /// may have been written to.
    fn run(
        &mut self,
        batch: &Batch<'_>,
        states: &[usize],
        results: &mut Results,
    ) -> Result<(), RunnerError>;

    /// As [`ModelRunner::run`], for texts that are only compared with what somebody else wrote: it may
    /// be less exact where that takes less time.
    ///
    /// # Errors
    /// As [`ModelRunner::run`].
    fn run_rounded(
        &mut self,
        batch: &Batch<'_>,
        states: &[usize],
        results: &mut Results,
    ) -> Result<(), RunnerError> {
        self.run(batch, states, results)
    }

    /// Whether [`ModelRunner::run_rounded`] computes anything else than [`ModelRunner::run`]. Then
    /// texts of both kinds share neither a batch nor keys and values.
    fn rounds(&self) -> bool {
        false
    }

    /// Copies the keys and values of the first `slots` tokens of a page to another.
    ///
    /// # Errors
    /// When there is no such page or there are not so many slots, or the device fails.
    fn copy(&mut self, from: u32, to: u32, slots: usize) -> Result<(), RunnerError>;

    /// The pool as adapters use it.
    fn adapter_pool(&mut self) -> &mut dyn AdapterPool;

    /// Bytes that are taken of a device's own memory, by everything that was put there through its
    /// backend: none on the processor, whose memory is the machine's.
    fn device_bytes(&self) -> u64;
}

/// What a pass leaves. The next pass may write over it.
#[derive(Debug, Default)]
pub struct Results {
    /// `[outputs, vocabulary]`: what may follow the tokens in question.
    pub logits: Vec<f32>,
    /// `[states, width]`: after the final norm.
    pub states: Vec<f32>,
}

/// Why something was not computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunnerError {
    /// The batch is none for this model.
    #[error(transparent)]
    Batch(#[from] ForwardError),
    /// The device did not do what it was asked.
    #[error("{device} failed: {reason}")]
    Device {
        /// What people call it.
        device: String,
        /// Why.
        reason: String,
    },
}
