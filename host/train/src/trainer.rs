//! A training: gradients of batches, steps, evaluation, samples of what was learned.

mod sample;

use std::fmt;
use std::sync::Arc;

use skep_accounts::{Account, MemoryCharge, QuotaError, QuotaKind};
use skep_kernels::Team;

use crate::base::Base;
use crate::batch::{Divisor, Example, Loss, Outcome, Packed};
use crate::error::TrainError;
use crate::gemm::{Lhs, Product, Rhs, Simd, Workers, product};
use crate::lora::{Layout, LoraConfig};
use crate::loss::{of_pairs, of_token, own_divisor};
use crate::model::{Keep, Kept, Pass};
use crate::operators::head::{rows_at_a_time, target_probabilities};
use crate::operators::rows::{Turns, rms_norm, rms_norm_backward};
use crate::optimizer::{HyperParameters, Optimizer, OptimizerKind, StepOutcome};
use crate::pool::{Buffer, Pool};
use crate::random::hash;

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
    checkpointing: Checkpointing,
    account: Account,
    team: Team,
    simd: Simd,
    pool: Arc<Pool>,
    _charge: MemoryCharge,
}

/// A batch on its way, with the states that the output layer takes.
struct Forward {
    kept: Vec<Kept>,
    /// The rows of the residual stream that count, before and after the final norm.
    rows: Buffer,
    hidden: Buffer,
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
    /// room for the parameters, their gradients and the optimizer's state.
    pub fn open(
        base: Arc<Base>,
        lora: LoraConfig,
        options: &TrainerOptions,
    ) -> Result<Self, TrainError> {
        let layout = Layout::new(&lora, &base.config, options.classes)?;
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
        Ok(Self {
            base,
            lora,
            classes: options.classes,
            gradients: vec![0.0; layout.len],
            layout,
            parameters,
            optimizer,
            pending: 0,
            batches: 0,
            checkpointing: options.checkpointing,
            account: account.clone(),
            team,
            simd: Simd::best(),
            pool: Pool::new(account),
            _charge: charge,
        })
    }

    /// What the adapter is like.
    pub fn lora(&self) -> &LoraConfig {
        &self.lora
    }

    /// Parameters that are trained.
    pub fn parameters(&self) -> usize {
        self.layout.len
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
        let packed = Packed::new(examples, loss, self.classes, &self.base.config)?;
        // There and back: back is as much again, or twice with the layers computed again.
        let times = match self.checkpointing {
            Checkpointing::None => 2,
            Checkpointing::Layers => 3,
        };
        self.charge_work(&packed, times)?;
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
        let packed = Packed::new(examples, loss, self.classes, &self.base.config)?;
        self.charge_work(&packed, 1)?;
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
        let packed = Packed::new(examples, Loss::CrossEntropy, None, &self.base.config)?;
        self.charge_work(&packed, 1)?;
        let pass = self.pass(&packed, false, false);
        let _scratch = self
            .account
            .charge_memory(self.scratch_bytes(&packed, false))?;
        let forward = self.forward(&pass, &packed, Keep::Nothing)?;
        let mut sums = vec![0.0_f64; examples.len()];
        let targets: Vec<u32> = packed.targets.iter().map(|target| target.token).collect();
        let source = self.base.head().source();
        let add = |row: usize, log: f32| {
            let target = &packed.targets[row];
            sums[target.example] += f64::from(log) * f64::from(target.weight);
            0.0
        };
        target_probabilities(pass.workers, source, &forward.hidden, &targets, add, None);
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
        let made = self
            .optimizer
            .step(hyper, &mut self.parameters, &mut self.gradients);
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

    pub(crate) fn drop_gradients(&mut self) {
        self.gradients.fill(0.0);
        self.pending = 0;
    }

    /// Gives back what nobody uses and moves the optimizer's state away: whether that may help.
    fn make_room(&mut self) -> bool {
        self.pool.trim();
        let was_there = self.optimizer.is_on_device();
        was_there && self.optimizer.page_out().is_ok()
    }

    /// Meters a forward pass this many times over.
    fn charge_work(&self, packed: &Packed, times: u64) -> Result<(), QuotaError> {
        let config = &self.base.config;
        let (weights, _) = self.base.linear_weights();
        let tokens = packed.tokens.len() as u64;
        let linear = 2 * tokens * (weights + self.layout.len as u64);
        let pairs: u64 = packed
            .sequences
            .iter()
            .map(|s| (s.len() as u64).pow(2))
            .sum();
        let attention = 2 * pairs * (config.layers.len() * config.heads * config.head_dim) as u64;
        let columns = self.classes.unwrap_or(config.vocabulary);
        let head = 2 * packed.rows.len() as u64 * (columns * config.width) as u64;
        let once = linear.saturating_add(attention).saturating_add(head);
        self.account
            .charge_work_in_pieces(once.saturating_mul(times))
    }

    fn pass<'a>(&'a self, packed: &'a Packed, learning: bool, adapted: bool) -> Pass<'a> {
        let config = &self.base.config;
        let mut known: Vec<&[f64]> = Vec::new();
        let turns_of = config.layers.iter().map(|layer| {
            let own = layer.frequencies.as_slice();
            known
                .iter()
                .position(|known| *known == own)
                .unwrap_or_else(|| {
                    known.push(own);
                    known.len() - 1
                })
        });
        let turns_of = turns_of.collect();
        let turns = known
            .iter()
            .map(|frequencies| Turns::new(config.rope_layout, frequencies, &packed.positions));
        Pass {
            workers: Workers {
                simd: self.simd,
                team: &self.team,
            },
            pool: &self.pool,
            base: &self.base,
            lora: &self.lora,
            layout: &self.layout,
            parameters: &self.parameters,
            sequences: &packed.sequences,
            turns: turns.collect(),
            turns_of,
            dropped: (learning && self.lora.dropout > 0.0)
                .then(|| hash(self.lora.seed, self.batches.wrapping_add(1 << 32))),
            adapted,
        }
    }

    /// Runs the layers, and the final norm on the rows that count.
    fn forward(&self, pass: &Pass<'_>, packed: &Packed, keep: Keep) -> Result<Forward, TrainError> {
        let config = &self.base.config;
        let width = config.width;
        let mut stream = self.pool.take(packed.tokens.len() * width)?;
        for (row, token) in stream.chunks_exact_mut(width).zip(&packed.tokens) {
            self.base
                .embedding
                .row(*token as usize, config.embedding_scale, row);
        }
        let mut kept = Vec::new();
        for number in 0..config.layers.len() {
            self.account.check()?;
            let keep = if number < self.layout.first_layer() {
                Keep::Nothing
            } else {
                keep
            };
            kept.extend(pass.layer(number, &mut stream, keep)?);
        }
        let mut rows = self.pool.take(packed.rows.len() * width)?;
        for (to, row) in rows.chunks_exact_mut(width).zip(&packed.rows) {
            to.copy_from_slice(&stream[row * width..(row + 1) * width]);
        }
        let mut hidden = self.pool.take(rows.len())?;
        rms_norm(
            pass.workers,
            &rows,
            &self.base.final_norm,
            config.epsilon,
            &mut hidden,
        );
        Ok(Forward { kept, rows, hidden })
    }

    /// The loss of a batch; where there are gradients, its own are added to them.
    fn compute(
        &self,
        examples: &[Example],
        loss: Loss,
        divisor: Divisor,
        packed: &Packed,
        mut gradients: Option<&mut [f32]>,
    ) -> Result<Outcome, TrainError> {
        let learning = gradients.is_some();
        let pass = self.pass(packed, learning, true);
        // What is not in buffers of the pool: positions, logits, panels and scores of the team.
        let _scratch = self
            .account
            .charge_memory(self.scratch_bytes(packed, learning))?;
        let keep = match (learning, self.checkpointing) {
            (false, _) => Keep::Nothing,
            (true, Checkpointing::None) => Keep::All,
            (true, Checkpointing::Layers) => Keep::Inputs,
        };
        let forward = self.forward(&pass, packed, keep)?;
        let divisor = match divisor {
            Divisor::Own => own_divisor(loss, packed),
            Divisor::Given(by) => f64::from(by),
        };
        if !(divisor.is_finite() && divisor > 0.0) {
            return Err(TrainError::Setting {
                what: "the divisor of the loss",
                got: divisor.to_string(),
                want: "a number above 0",
            });
        }
        let mut dhidden = match learning {
            true => Some(self.pool.take(forward.hidden.len())?),
            false => None,
        };
        let outcome = match loss {
            Loss::Classification => {
                let to = gradients.as_deref_mut().zip(dhidden.as_deref_mut());
                self.classes_loss(&pass, examples, packed, &forward.hidden, divisor, to)
            }
            _ => {
                let to = dhidden.as_deref_mut();
                self.tokens_loss(&pass, examples, loss, packed, &forward.hidden, divisor, to)
            }
        };
        if let (Some(gradients), Some(dhidden)) = (gradients, dhidden) {
            if outcome.loss.is_finite() {
                self.backward(&pass, packed, forward, &dhidden, gradients)?;
            }
        }
        Ok(outcome)
    }

    fn backward(
        &self,
        pass: &Pass<'_>,
        packed: &Packed,
        forward: Forward,
        dhidden: &[f32],
        gradients: &mut [f32],
    ) -> Result<(), TrainError> {
        let config = &self.base.config;
        let (width, norm) = (config.width, &self.base.final_norm);
        let Forward { kept, rows, hidden } = forward;
        drop(hidden);
        let mut drows = self.pool.take(rows.len())?;
        rms_norm_backward(
            pass.workers,
            &rows,
            norm,
            config.epsilon,
            dhidden,
            &mut drows,
            false,
        );
        drop(rows);
        let mut dstream = self.pool.take(packed.tokens.len() * width)?;
        dstream.fill(0.0);
        for (from, row) in drows.chunks_exact(width).zip(&packed.rows) {
            let to = &mut dstream[row * width..(row + 1) * width];
            for (to, from) in to.iter_mut().zip(from) {
                *to += from;
            }
        }
        drop(drows);
        let first = self.layout.first_layer();
        for (number, kept) in kept.into_iter().enumerate().rev() {
            self.account.check()?;
            pass.layer_backward(first + number, kept, &mut dstream, gradients)?;
        }
        Ok(())
    }

    /// A loss over tokens. Where there is a `dhidden`, it becomes the gradient.
    #[expect(clippy::too_many_arguments, reason = "one step of a longer function")]
    fn tokens_loss(
        &self,
        pass: &Pass<'_>,
        examples: &[Example],
        loss: Loss,
        packed: &Packed,
        hidden: &[f32],
        divisor: f64,
        dhidden: Option<&mut [f32]>,
    ) -> Outcome {
        let source = self.base.head().source();
        let targets: Vec<u32> = packed.targets.iter().map(|target| target.token).collect();
        let mut all: Vec<Vec<f32>> = examples
            .iter()
            .map(|example| vec![0.0; example.tokens.len()])
            .collect();
        let mut total = 0.0;
        let mut counted = targets.len();
        let mut pairs = None;
        if let Loss::Preference { beta } = loss {
            // What a token's slope is depends on both texts of its pair: first their sums.
            let mut sums = vec![0.0; examples.len()];
            let add = |row: usize, log: f32| {
                let target = &packed.targets[row];
                sums[target.example] += f64::from(log) * f64::from(target.weight);
                all[target.example][target.at] = log;
                0.0
            };
            target_probabilities(pass.workers, source, hidden, &targets, add, None);
            let (sum, slopes) = of_pairs(beta, examples, &sums);
            (total, counted) = (sum, examples.len() / 2);
            pairs = Some(slopes);
        }
        if pairs.is_none() || dhidden.is_some() {
            let slope = |row: usize, log: f32| {
                let target = &packed.targets[row];
                let slope = match &pairs {
                    Some(slopes) => slopes[target.example] * target.weight,
                    None => {
                        let example = &examples[target.example];
                        let (own, slope) = of_token(loss, example, target, log);
                        total += own;
                        all[target.example][target.at] = log;
                        slope
                    }
                };
                (f64::from(slope) / divisor) as f32
            };
            target_probabilities(pass.workers, source, hidden, &targets, slope, dhidden);
        }
        Outcome {
            loss: total / divisor,
            divisor,
            tokens: packed.tokens.len() as u64,
            counted: counted as u64,
            log_probabilities: all,
        }
    }

    /// The loss over classes.
    fn classes_loss(
        &self,
        pass: &Pass<'_>,
        examples: &[Example],
        packed: &Packed,
        hidden: &[f32],
        divisor: f64,
        to: Option<(&mut [f32], &mut [f32])>,
    ) -> Outcome {
        let width = self.base.config.width;
        let place = self.layout.classifier.clone().unwrap_or(0..0);
        let weights = &self.parameters[place.clone()];
        let (texts, classes) = (examples.len(), weights.len() / width);
        let mut logits = vec![0.0; texts * classes];
        let asked = Product {
            m: texts,
            n: classes,
            k: width,
            a: Lhs::rows(hidden, width),
            b: Rhs::Columns(weights),
            add: false,
        };
        product(pass.workers, &asked, &mut logits);
        let mut total = 0.0;
        let mut all = Vec::with_capacity(texts);
        for (row, example) in logits.chunks_exact_mut(classes.max(1)).zip(examples) {
            let most = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
            let sum = f64::from(most) + sum.ln();
            let logs: Vec<f32> = row.iter().map(|x| (f64::from(*x) - sum) as f32).collect();
            let label = example.label.unwrap_or(0) as usize;
            total -= f64::from(logs[label]);
            for (n, (x, log)) in row.iter_mut().zip(&logs).enumerate() {
                let gradient = f64::from(*log).exp() - f64::from(u8::from(n == label));
                *x = (gradient / divisor) as f32;
            }
            all.push(logs);
        }
        if let Some((gradients, dhidden)) = to {
            let of_weights = Product {
                m: classes,
                n: width,
                k: texts,
                a: Lhs::transposed(&logits, classes),
                b: Rhs::Rows(hidden),
                add: true,
            };
            product(pass.workers, &of_weights, &mut gradients[place]);
            let of_hidden = Product {
                m: texts,
                n: width,
                k: classes,
                a: Lhs::rows(&logits, classes),
                b: Rhs::Rows(weights),
                add: false,
            };
            product(pass.workers, &of_hidden, dhidden);
        }
        Outcome {
            loss: total / divisor,
            divisor,
            tokens: packed.tokens.len() as u64,
            counted: texts as u64,
            log_probabilities: all,
        }
    }

    /// Bytes that a pass needs beside the pool's buffers.
    fn scratch_bytes(&self, packed: &Packed, learning: bool) -> u64 {
        let config = &self.base.config;
        let tokens = packed.tokens.len();
        let pairs = config
            .layers
            .first()
            .map_or(0, |layer| layer.frequencies.len());
        let columns = self.classes.unwrap_or(config.vocabulary);
        let logits = rows_at_a_time(columns, packed.rows.len()) * columns;
        let longest = packed
            .sequences
            .iter()
            .map(std::ops::Range::len)
            .max()
            .unwrap_or(0);
        // A head's keys and values in panels, the scores of some queries, a block of weights.
        let member = longest * (8 * config.head_dim.next_multiple_of(32) + 2 * 64) + (1 << 18);
        let dropped = match learning && self.lora.dropout > 0.0 {
            true => tokens * config.hidden.max(config.width),
            false => 0,
        };
        let floats = logits + self.team.threads() * member + dropped + tokens * self.lora.rank;
        2 * Turns::bytes(tokens, pairs) + 4 * floats as u64
    }
}

fn is_memory(error: &TrainError) -> bool {
    matches!(error, TrainError::Quota(quota) if quota.quota == QuotaKind::DeviceMemory)
}
