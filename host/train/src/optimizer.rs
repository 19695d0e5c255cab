//! What makes a step of gradients: AdamW, with its state in 32 or in 8 bits.
//!
//! The state is charged to the account of the device. Under pressure it moves to that of host memory
//! and comes back when there is room ("paged optimizers", arXiv 2305.14314, section 3). Steps are the
//! host's, so that its bytes lie in the host's memory all the while, even where a card computes the
//! passes: what moves is the charge, from the account that limits the device to that of the host, and
//! the step works on the bytes where they lie. Where the device is the processor there is one memory,
//! so that whoever limits it gives both accounts as one, and nothing moves.

mod adamw;
mod schedule;

use serde::{Deserialize, Serialize};
use skep_accounts::{Account, MemoryCharge, QuotaError};
use skep_kernels::Team;

pub use schedule::{Schedule, ScheduleKind};

use crate::error::TrainError;
use adamw::State;

/// How the optimizer keeps its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OptimizerKind {
    /// Both moments in 32 bits: 8 bytes a parameter.
    AdamW,
    /// Both moments in 8 bits, in blocks of 256 with a 32-bit scale each (arXiv 2110.02861): 2.03
    /// bytes a parameter.
    AdamW8Bit,
}

/// What a step is made with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HyperParameters {
    /// The size of a step.
    pub learning_rate: f32,
    /// How much of the first and of the second moment is kept from step to step.
    pub betas: (f32, f32),
    /// What is added to the root of the second moment.
    pub epsilon: f32,
    /// What share of a weight is taken away in a step of size 1 (arXiv 1711.05101).
    pub weight_decay: f32,
    /// Gradients whose norm, over all parameters together, is larger are scaled down to it.
    pub clip: Option<f32>,
}

impl Default for HyperParameters {
    /// PyTorch's own, with gradients clipped to a norm of 1.
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            betas: (0.9, 0.999),
            epsilon: 1e-8,
            weight_decay: 0.01,
            clip: Some(1.0),
        }
    }
}

impl HyperParameters {
    fn check(&self) -> Result<(), TrainError> {
        let share = |x: f32| (0.0..1.0).contains(&x);
        let size = |x: f32| x.is_finite() && x >= 0.0;
        let fields = [
            (
                "the learning rate",
                self.learning_rate,
                size(self.learning_rate),
                SIZE,
            ),
            ("beta 1", self.betas.0, share(self.betas.0), SHARE),
            ("beta 2", self.betas.1, share(self.betas.1), SHARE),
            ("epsilon", self.epsilon, size(self.epsilon), SIZE),
            (
                "the weight decay",
                self.weight_decay,
                size(self.weight_decay),
                SIZE,
            ),
            (
                "the norm that gradients are clipped to",
                self.clip.unwrap_or(1.0),
                self.clip.is_none_or(|x| x > 0.0 && x.is_finite()),
                "a number above 0",
            ),
        ];
        match fields.into_iter().find(|(_, _, sound, _)| !sound) {
            None => Ok(()),
            Some((what, got, _, want)) => Err(TrainError::Setting {
                what,
                got: got.to_string(),
                want,
            }),
        }
    }
}

const SIZE: &str = "a number of at least 0";
const SHARE: &str = "a number of at least 0 and below 1";

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOutcome {
    /// Steps made so far, this one included.
    pub step: u64,
    /// The norm of all gradients together, before they were clipped.
    pub gradient_norm: f32,
}

/// An optimizer of a number of parameters.
#[derive(Debug)]
pub struct Optimizer {
    state: State,
    step: u64,
    device: Account,
    host: Account,
    charge: MemoryCharge,
    on_device: bool,
}

impl Optimizer {
    /// One for so many parameters, its state charged to `device` or, where that has no room for
    /// it, to `host`.
    ///
    /// # Errors
    /// The device's refusal, when neither has room.
    pub fn new(
        kind: OptimizerKind,
        parameters: usize,
        device: &Account,
        host: &Account,
    ) -> Result<Self, QuotaError> {
        let bytes = State::bytes_of(kind, parameters);
        let (charge, on_device) = match device.charge_memory(bytes) {
            Ok(charge) => (charge, true),
            // What was asked for is room on the device, and its limit is the one to raise.
            Err(refusal) => (host.charge_memory(bytes).map_err(|_| refusal)?, false),
        };
        Ok(Self {
            state: State::new(kind, parameters),
            step: 0,
            device: device.clone(),
            host: host.clone(),
            charge,
            on_device,
        })
    }

    /// How it keeps its state.
    pub fn kind(&self) -> OptimizerKind {
        self.state.kind()
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Forgets all steps.
    pub(crate) fn begin_again(&mut self) {
        self.state = State::new(self.state.kind(), self.state.parameters());
        self.step = 0;
    }

    /// Bytes of its state.
    pub fn bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// Whether its state is charged to the device rather than to the host.
    pub fn is_on_device(&self) -> bool {
        self.on_device
    }

    /// Moves the state to host memory, which gives its bytes back to the device.
    ///
    /// # Errors
    /// When the host has no room for it either; then it stays.
    pub fn page_out(&mut self) -> Result<(), QuotaError> {
        if self.on_device {
            self.charge = self.host.charge_memory(self.charge.bytes())?;
            self.on_device = false;
        }
        Ok(())
    }

    /// Moves the state to the device, where it has room, and says whether it is there.
    pub fn page_in(&mut self) -> bool {
        if !self.on_device
            && let Ok(charge) = self.device.charge_memory(self.charge.bytes())
        {
            self.charge = charge;
            self.on_device = true;
        }
        self.on_device
    }

    /// Changes `parameters` by a step along `gradients`, which are scaled where they are clipped.
    ///
    /// # Errors
    /// When a setting is no number that it may be, lengths do not fit, or a gradient is not
    /// finite: then nothing was changed.
    pub fn step(
        &mut self,
        hyper: &HyperParameters,
        parameters: &mut [f32],
        gradients: &mut [f32],
    ) -> Result<StepOutcome, TrainError> {
        self.step_by(None, hyper, parameters, gradients)
    }

    /// The same by a team, to the bit.
    pub(crate) fn step_by(
        &mut self,
        team: Option<&Team>,
        hyper: &HyperParameters,
        parameters: &mut [f32],
        gradients: &mut [f32],
    ) -> Result<StepOutcome, TrainError> {
        self.check_lengths(parameters, gradients)?;
        let gradient_norm = self.clip(team, hyper, gradients)?;
        self.page_in();
        self.step += 1;
        self.state
            .step(team, hyper, self.step, parameters, gradients);
        Ok(StepOutcome {
            step: self.step,
            gradient_norm,
        })
    }

    /// Scales gradients down to the norm that they are clipped to, and says what theirs was.
    ///
    /// # Errors
    /// When a setting is no number that it may be, or a gradient is not finite: then nothing was
    /// changed.
    pub(crate) fn clip(
        &self,
        team: Option<&Team>,
        hyper: &HyperParameters,
        gradients: &mut [f32],
    ) -> Result<f32, TrainError> {
        hyper.check()?;
        let gradient_norm = norm(team, gradients);
        if !gradient_norm.is_finite() {
            return Err(TrainError::Diverged { what: "a gradient" });
        }
        if let Some(most) = hyper.clip {
            // As `torch.nn.utils.clip_grad_norm_`.
            let scale = most / (gradient_norm + 1e-6);
            if scale < 1.0 {
                let mut pieces: Vec<&mut [f32]> = gradients.chunks_mut(PIECE).collect();
                shared(team, &mut pieces, |piece| {
                    piece.iter_mut().for_each(|gradient| *gradient *= scale);
                });
            }
        }
        Ok(gradient_norm)
    }

    fn check_lengths(&self, parameters: &[f32], gradients: &[f32]) -> Result<(), TrainError> {
        let want = self.state.parameters();
        for (what, got) in [
            ("parameters", parameters.len()),
            ("gradients", gradients.len()),
        ] {
            if got != want {
                return Err(TrainError::shape("optimizer", what, got, want));
            }
        }
        Ok(())
    }

    /// Counts a step that something else has made.
    pub(crate) fn count_step(&mut self) -> u64 {
        self.step += 1;
        self.step
    }

    /// Its state and steps as named tensors of bytes, for a checkpoint.
    pub(crate) fn save(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut all = vec![("step", self.step.to_le_bytes().to_vec())];
        self.state.save(&mut all);
        all
    }

    /// Takes a state that [`Optimizer::save`] gave, of as many parameters: false if it is none.
    pub(crate) fn restore<'a>(&mut self, read: impl Fn(&str) -> Option<&'a [u8]>) -> bool {
        let Some(step) = read("step").and_then(|step| step.try_into().ok()) else {
            return false;
        };
        if self.state.restore(read) {
            self.step = u64::from_le_bytes(step);
            return true;
        }
        false
    }
}

/// Parameters that a member of a team takes at a time: whole blocks of 8-bit states.
const PIECE: usize = 1 << 16;

/// Does the same with each, by a team where there is one.
fn shared<T: Send>(team: Option<&Team>, items: &mut [T], work: impl Fn(&mut T) + Sync) {
    match team {
        Some(team) => team.share_mut(items, work),
        None => items.iter_mut().for_each(work),
    }
}

/// The norm of all gradients together. Pieces are summed in their order, whoever has computed them.
fn norm(team: Option<&Team>, gradients: &[f32]) -> f32 {
    let mut pieces: Vec<(&[f32], f64)> = gradients.chunks(PIECE).map(|own| (own, 0.0)).collect();
    shared(team, &mut pieces, |(own, sum)| {
        *sum = own.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    });
    pieces.iter().map(|(_, sum)| sum).sum::<f64>().sqrt() as f32
}

#[cfg(test)]
mod tests;
