//! Steps that can be made once more: what one was made of, and where a training is as bytes.
//!
//! A step is a function of where the training is and of what the step is made of, to the bit on
//! the same kind of machine. So whoever has both can tell whether somebody else has made it.

use serde::{Deserialize, Serialize};

use crate::batch::{Divisor, Example, Loss};
use crate::error::TrainError;
use crate::optimizer::{HyperParameters, StepOutcome};
use crate::trainer::Trainer;

/// What a step was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// The batches whose gradients were added, in their order.
    pub batches: Vec<(Vec<Example>, Loss, Divisor)>,
    /// What the step was made with.
    pub hyper: HyperParameters,
}

impl Trainer {
    /// Where the training is: parameters, the optimizer's state, gradients since the last step and
    /// how many batches there were. The same bytes if and only if all of that is the same.
    ///
    /// # Errors
    /// When it cannot be put into bytes.
    pub fn state(&self) -> Result<Vec<u8>, TrainError> {
        self.state_with(&self.parameters)
    }

    /// Where it would be with these parameters.
    ///
    /// # Errors
    /// When they are not as many.
    pub fn state_with(&self, weights: &[f32]) -> Result<Vec<u8>, TrainError> {
        if weights.len() != self.layout.len {
            let (got, want) = (weights.len(), self.layout.len);
            return Err(TrainError::shape("trainer", "the weights", got, want));
        }
        let state = self.in_bytes(weights, &[]);
        state.map_err(|error| TrainError::State {
            reason: error.to_string(),
        })
    }

    /// Goes on from where a training was that was opened with the same base and settings.
    ///
    /// # Errors
    /// When the bytes are unsound, or of another training. Then nothing has changed.
    pub fn restore(&mut self, state: &[u8]) -> Result<(), TrainError> {
        let restored = self.take_bytes(state);
        restored
            .map(drop)
            .map_err(|reason| TrainError::State { reason })
    }

    /// Forgets all steps, and all batches; the parameters stay.
    pub fn begin_again(&mut self) {
        self.drop_gradients();
        self.optimizer.begin_again();
        self.batches = 0;
    }

    /// Makes a step of what somebody says that it was made of.
    ///
    /// # Errors
    /// As [`Trainer::forward_backward`] and [`Trainer::optim_step`].
    pub fn make(&mut self, made: &Made) -> Result<StepOutcome, TrainError> {
        self.drop_gradients();
        for (examples, loss, divisor) in &made.batches {
            self.forward_backward(examples, *loss, *divisor)?;
        }
        self.optim_step(&made.hyper)
    }
}
