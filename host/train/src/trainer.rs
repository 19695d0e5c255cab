//! A training: gradients of batches, steps, evaluation, samples of what was learned.

mod device;
mod losses;
mod magnitudes;
mod pass;
mod sample;
mod together;

use std::fmt;
use std::sync::Arc;

use skep_accounts::{Account, MemoryCharge, QuotaError, QuotaKind};
use skep_kernels::Team;

use crate::base::{Base, Network};
use crate::batch::{Divisor, Example, Loss, Outcome, Packed};
use crate::bf16::Precision;
use crate::device::{Head, PassDevice};
use crate::error::TrainError;
use crate::gemm::Simd;
use crate::lora::{Layout, LoraConfig};
use crate::operators::head::target_probabilities;
use crate::operators::share_rows;
use crate::optimizer::{HyperParameters, Optimizer, OptimizerKind, StepOutcome};
use crate::pass::Keep;
use crate::pool::Pool;

pub use sample::Sampling;

/// What of a forward pass is kept for the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Checkpointing {
    /// All that it needs: fast.
    None,
    /// Each layer's input; the layer is computed again. A third more work for a fraction of the
    /// memory.
    Layers,
}

/// How a training is run, whatever it learns.
#[derive(Debug, Clone)]
pub struct TrainerOptions {
    /// What device memory and work are charged to.
    pub account: Account,
    /// What an optimizer's state is charged to where the device has no room.
    pub host: Account,
    /// Threads that compute.
    pub threads: usize,
    /// How the optimizer keeps its state.
    pub optimizer: OptimizerKind,
    /// What passes compute with.
    pub precision: Precision,
    /// What is kept for the backward pass.
    pub checkpointing: Checkpointing,
    /// For [`Loss::Classification`]: how many classes there are.
    pub classes: Option<usize>,
}

impl Default for TrainerOptions {
    fn default() -> Self {
        Self {
            account: Account::unlimited(),
            host: Account::unlimited(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            optimizer: OptimizerKind::AdamW,
            precision: Precision::F32,
            checkpointing: Checkpointing::None,
            classes: None,
        }
    }
}

/// Bytes that a training keeps between calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainerMemory {
    /// The base's weights, mapped or in memory.
    pub base: u64,
    /// The parameters that are trained.
    pub parameters: u64,
    /// Their gradients.
    pub gradients: u64,
    /// The optimizer's state.
    pub optimizer: u64,
}

/// A training of one adapter.
pub struct Trainer {
    pub(crate) base: Arc<Base>,
    pub(crate) lora: LoraConfig,
    pub(crate) layout: Layout,
    pub(crate) classes: Option<usize>,
    pub(crate) parameters: Vec<f32>,
    pub(crate) gradients: Vec<f32>,
    pub(crate) optimizer: Optimizer,
    /// Batches whose gradients were added since the last step.
    pub(crate) pending: u64,
    /// Batches since the beginning: which elements are dropped depends on it.
    pub(crate) batches: u64,
    pub(crate) precision: Precision,
    checkpointing: Checkpointing,
    /// What computes passes in place of the processor.
    device: Option<Arc<dyn PassDevice>>,
    account: Account,
    team: Team,
    simd: Simd,
    pool: Arc<Pool>,
    _charge: MemoryCharge,
}

impl fmt::Debug for Trainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer")
            .field("lora", &self.lora)
            .field("parameters", &self.layout.len)
            .field("steps", &self.steps())
            .finish_non_exhaustive()
    }
}

impl Trainer {
    /// Opens a training of a new adapter for this base, which changes nothing yet.
    ///
    /// # Errors
    /// When a setting is none that it may be, no linear layer is a target, or the account has no
    /// room for the parameters, their gradients and the optimizer's state; where magnitudes are
    /// learned, also when it has no room or work left to measure the base's rows.
    pub fn open(
        base: Arc<Base>,
        lora: LoraConfig,
        options: &TrainerOptions,
    ) -> Result<Self, TrainError> {
        let layout = Layout::new(&lora, &base, options.classes)?;
        let account = &options.account;
        let charge = account.charge_memory(8 * layout.len as u64)?;
        let optimizer = Optimizer::new(options.optimizer, layout.len, account, &options.host)?;
        let mut parameters = vec![0.0; layout.len];
        layout.begin(lora.seed, &mut parameters);
        let team = Team::new(options.threads).map_err(|error| TrainError::Setting {
            what: "the number of threads",
            got: format!("{} ({error})", options.threads),
            want: "as many as the system gives",
        })?;
        let mut trainer = Self {
            base,
            lora,
            classes: options.classes,
            gradients: vec![0.0; layout.len],
            layout,
            parameters,
            optimizer,
            pending: 0,
            batches: 0,
            precision: options.precision,
            checkpointing: options.checkpointing,
            device: None,
            account: account.clone(),
            team,
            simd: Simd::best(),
            pool: Pool::new(account),
            _charge: charge,
        };
        trainer.begin_magnitudes()?;
        Ok(trainer)
    }

    /// What the adapter is like.
    pub fn lora(&self) -> &LoraConfig {
        &self.lora
    }

    /// Parameters that are trained.
    pub fn parameters(&self) -> usize {
        self.layout.len
    }

    /// Batches whose gradients were added since the last step.
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// What it keeps between calls. Activations come and go with each call, and are in the
    /// account's usage.
    pub fn memory(&self) -> TrainerMemory {
        let parameters = 4 * self.layout.len as u64;
        TrainerMemory {
            base: self.base.bytes(),
            parameters,
            gradients: parameters,
            optimizer: self.optimizer.bytes(),
        }
    }

    /// Adds the gradients of a batch's loss to those since the last step.
    ///
    /// # Errors
    /// When the batch is unsound, there is no room or work left for it, or the loss is not
    /// finite. Once it has begun to compute, an error also drops the gradients of batches before.
    pub fn forward_backward(
        &mut self,
        examples: &[Example],
        loss: Loss,
        divisor: Divisor,
    ) -> Result<Outcome, TrainError> {
        let packed = Packed::new(examples, loss, self.classes, &self.base)?;
        // There and back: back is as much again, or twice with the layers computed again.
        let times = match self.checkpointing {
            Checkpointing::None => 2,
            Checkpointing::Layers => 3,
        };
        self.charge_work(&packed, times, true)?;
        // Moved out of the way, because the pass borrows the rest.
        let mut gradients = std::mem::take(&mut self.gradients);
        let mut done = self.compute(examples, loss, divisor, &packed, Some(&mut gradients));
        if matches!(&done, Err(error) if is_memory(error)) && self.make_room() {
            gradients.fill(0.0);
            let pending = std::mem::take(&mut self.pending);
            // Gradients of batches before are lost with the attempt, so it is made again only
            // where there were none.
            if pending == 0 {
                done = self.compute(examples, loss, divisor, &packed, Some(&mut gradients));
            }
        }
        self.gradients = gradients;
        let outcome = done.and_then(|outcome| match outcome.loss.is_finite() {
            true => Ok(outcome),
            false => Err(TrainError::Diverged { what: "the loss" }),
        });
        match &outcome {
            Ok(_) => {
                self.pending += 1;
                self.batches += 1;
            }
            Err(_) => self.drop_gradients(),
        }
        outcome
    }

    /// The loss of a batch as the weights are, without dropout: nothing changes.
    ///
    /// # Errors
    /// As [`Trainer::forward_backward`].
    pub fn evaluate(
        &mut self,
        examples: &[Example],
        loss: Loss,
        divisor: Divisor,
    ) -> Result<Outcome, TrainError> {
        let packed = Packed::new(examples, loss, self.classes, &self.base)?;
        self.charge_work(&packed, 1, true)?;
        let mut done = self.compute(examples, loss, divisor, &packed, None);
        if matches!(&done, Err(error) if is_memory(error)) && self.make_room() {
            done = self.compute(examples, loss, divisor, &packed, None);
        }
        done
    }

    /// For each text the logarithm of the probability that the base without the adapter gives
    /// it, each token's times its weight: what [`Loss::Preference`] compares with.
    ///
    /// # Errors
    /// As [`Trainer::forward_backward`].
    pub fn reference_log_probabilities(
        &mut self,
        examples: &[Example],
    ) -> Result<Vec<f32>, TrainError> {
        let Network::Decoder(decoder) = &self.base.network else {
            return Err(TrainError::only_decoders());
        };
        let packed = Packed::new(examples, Loss::CrossEntropy, None, &self.base)?;
        self.charge_work(&packed, 1, false)?;
        let mut sums = vec![0.0_f64; examples.len()];
        let targets: Vec<u32> = packed.targets.iter().map(|target| target.token).collect();
        let mut add = |row: usize, log: f32| {
            let target = &packed.targets[row];
            sums[target.example] += f64::from(log) * f64::from(target.weight);
        };
        if let Some(on) = self.device() {
            let mut slopes = |logs: &[f32]| {
                for (row, log) in logs.iter().enumerate() {
                    add(row, *log);
                }
                None
            };
            let head = Head::Tokens {
                targets: &targets,
                slopes: &mut slopes,
            };
            self.run_on(on, &packed, false, head, None)?;
            return Ok(sums.into_iter().map(|sum| sum as f32).collect());
        }
        let pass = self.pass(&packed, false, false)?;
        let _scratch = self
            .account
            .charge_memory(self.scratch_bytes(&packed, false))?;
        let pass = self.decoder_pass(pass, decoder, &packed);
        let states = self.decode(&pass, &packed, Keep::Nothing)?;
        let source = decoder.head().source();
        let add = |row: usize, log: f32| {
            add(row, log);
            0.0
        };
        target_probabilities(pass.workers, source, &states.hidden, &targets, add, None);
        Ok(sums.into_iter().map(|sum| sum as f32).collect())
    }

    /// Makes a step along the gradients since the last one, which are then gone.
    ///
    /// # Errors
    /// When there are none, a setting is none that it may be, or a gradient is not finite: then
    /// the weights are as they were, and in the last case the gradients are gone.
    pub fn optim_step(&mut self, hyper: &HyperParameters) -> Result<StepOutcome, TrainError> {
        if self.pending == 0 {
            return Err(TrainError::NoGradient);
        }
        let (parameters, gradients) = (&mut self.parameters, &mut self.gradients);
        let made = self
            .optimizer
            .step_by(Some(&self.team), hyper, parameters, gradients);
        if matches!(made, Ok(_) | Err(TrainError::Diverged { .. })) {
            self.drop_gradients();
        }
        made
    }

    /// The gradients since the last step, in the order of [`Trainer::tensors`].
    pub fn gradients(&self) -> &[f32] {
        &self.gradients
    }

    /// All parameters, in the order of [`Trainer::tensors`].
    pub fn weights(&self) -> &[f32] {
        &self.parameters
    }

    /// Replaces all parameters: what nodes agreed on, or weights of an earlier step.
    ///
    /// # Errors
    /// When they are not as many, or one is not finite.
    pub fn set_weights(&mut self, weights: &[f32]) -> Result<(), TrainError> {
        if weights.len() != self.layout.len {
            let (got, want) = (weights.len(), self.layout.len);
            return Err(TrainError::shape("trainer", "the weights", got, want));
        }
        if weights.iter().any(|x| !x.is_finite()) {
            return Err(TrainError::Diverged { what: "a weight" });
        }
        self.parameters.copy_from_slice(weights);
        Ok(())
    }

    /// Computes with this from the next pass on. Parameters stay as they are.
    pub fn compute_in(&mut self, precision: Precision) {
        self.precision = precision;
    }

    pub(crate) fn drop_gradients(&mut self) {
        share_rows(&self.team, &mut self.gradients, 1, |_, part| part.fill(0.0));
        self.pending = 0;
    }

    /// Gives back what nobody uses and moves the optimizer's state away: whether that may help.
    fn make_room(&mut self) -> bool {
        self.pool.trim();
        let was_there = self.optimizer.is_on_device();
        was_there && self.optimizer.page_out().is_ok()
    }

    /// Meters a forward pass this many times over, with the adapter or without.
    fn charge_work(&self, packed: &Packed, times: u64, adapted: bool) -> Result<(), QuotaError> {
        let shape = &self.base.shape;
        let (weights, _) = self.base.linear_weights();
        let tokens = packed.tokens.len() as u64;
        let linear = 2 * tokens * (weights + self.layout.len as u64);
        let pairs: u64 = packed
            .sequences
            .iter()
            .map(|s| (s.len() as u64).pow(2))
            .sum();
        let attention = 2 * pairs * (shape.layers * shape.heads * shape.head_dim) as u64;
        let columns = self.classes.unwrap_or(shape.vocabulary);
        let head = 2 * packed.rows.len() as u64 * (columns * shape.width) as u64;
        let once = linear.saturating_add(attention).saturating_add(head);
        let magnitudes = match adapted {
            true => self.work_of_magnitudes(tokens, times),
            false => 0,
        };
        self.account
            .charge_work_in_pieces(once.saturating_mul(times).saturating_add(magnitudes))
    }
}

fn is_memory(error: &TrainError) -> bool {
    matches!(error, TrainError::Quota(quota) if quota.quota == QuotaKind::DeviceMemory)
}
