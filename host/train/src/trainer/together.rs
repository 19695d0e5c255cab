//! Steps that several nodes make together: what one of them has computed, and the step that all make
//! of it. How gradients get from one to the other is not this crate's.

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::again::Made;
use crate::error::TrainError;
use crate::optimizer::HyperParameters;
use crate::trainer::Trainer;

impl Trainer {
    /// Batches since the beginning: which elements are dropped depends on it.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Takes the gradients since the last step, in the same order: what a node tells others that
    /// make steps with it.
    ///
    /// # Errors
    /// When there are none.
    pub fn take_gradients(&mut self) -> Result<Vec<f32>, TrainError> {
        if self.pending == 0 {
            return Err(TrainError::NoGradient);
        }
        let taken = self.gradients.clone();
        self.drop_gradients();
        Ok(taken)
    }

    /// Adds gradients that were computed elsewhere to those since the last step.
    ///
    /// # Errors
    /// When they are not as many, or one is not finite: then nothing was added.
    pub fn add_gradients(&mut self, gradients: &[f32]) -> Result<(), TrainError> {
        if gradients.len() != self.layout.len {
            let (got, want) = (gradients.len(), self.layout.len);
            return Err(TrainError::shape("trainer", "the gradients", got, want));
        }
        if gradients.iter().any(|x| !x.is_finite()) {
            return Err(TrainError::Diverged { what: "a gradient" });
        }
        for (sum, gradient) in self.gradients.iter_mut().zip(gradients) {
            *sum += gradient;
        }
        self.pending += 1;
        Ok(())
    }

    /// Takes the gradients since the last step, scaled down as a step would have them, and their
    /// norm before that.
    ///
    /// # Errors
    /// As [`Trainer::optim_step`].
    pub fn take_clipped(&mut self, hyper: &HyperParameters) -> Result<(Vec<f32>, f32), TrainError> {
        if self.pending == 0 {
            return Err(TrainError::NoGradient);
        }
        let norm = self
            .optimizer
            .clip(Some(&self.team), hyper, &mut self.gradients);
        let taken = norm.map(|norm| (self.gradients.clone(), norm));
        if matches!(taken, Ok(_) | Err(TrainError::Diverged { .. })) {
            self.drop_gradients();
        }
        taken
    }

    /// The gradients, scaled down, that somebody says a step was made of after so many batches, with
    /// the weights as they are here. Gradients since the last step are gone; nothing else changes.
    ///
    /// # Errors
    /// As [`Trainer::forward_backward`] and [`Trainer::optim_step`].
    pub fn gradients_of(&mut self, made: &Made, batches: u64) -> Result<Vec<f32>, TrainError> {
        self.drop_gradients();
        let own = std::mem::replace(&mut self.batches, batches);
        let taken = self
            .learn(made)
            .and_then(|()| self.take_clipped(&made.hyper));
        self.drop_gradients();
        self.batches = own;
        taken.map(|(gradients, _)| gradients)
    }

    fn learn(&mut self, made: &Made) -> Result<(), TrainError> {
        for (examples, loss, divisor) in &made.batches {
            self.forward_backward(examples, *loss, *divisor)?;
        }
        Ok(())
    }

    /// Makes a step of the optimizer along gradients that are everybody's, which are not scaled, and
    /// says how many steps there are.
    ///
    /// # Errors
    /// As [`Trainer::optim_step`], and when there are not as many.
    pub fn step_along(
        &mut self,
        hyper: &HyperParameters,
        mut gradients: Vec<f32>,
    ) -> Result<u64, TrainError> {
        let hyper = HyperParameters {
            clip: None,
            ..*hyper
        };
        let team = Some(&self.team);
        let made = self
            .optimizer
            .step_by(team, &hyper, &mut self.parameters, &mut gradients)?;
        Ok(made.step)
    }

    /// Takes these weights as those after a step that something else than the optimizer has made,
    /// and says how many steps there are.
    ///
    /// # Errors
    /// As [`Trainer::set_weights`].
    pub fn step_to(&mut self, weights: &[f32]) -> Result<u64, TrainError> {
        self.set_weights(weights)?;
        Ok(self.optimizer.count_step())
    }

    /// The optimizer's state and its steps, in bytes.
    ///
    /// # Errors
    /// When it cannot be put into bytes.
    pub fn optimizer_state(&self) -> Result<Vec<u8>, TrainError> {
        let tensors = self.optimizer.save();
        let views = tensors.iter().map(|(name, bytes)| {
            TensorView::new(Dtype::U8, vec![bytes.len()], bytes).map(|view| (*name, view))
        });
        let views: Result<Vec<_>, _> = views.collect();
        let bytes = views.and_then(|views| safetensors::serialize(views, None));
        bytes.map_err(|error| TrainError::State {
            reason: error.to_string(),
        })
    }

    /// Goes on with the state that an optimizer of the same kind and size has elsewhere.
    ///
    /// # Errors
    /// When it is none. Then nothing has changed.
    pub fn take_optimizer_state(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        let wrong = |reason: String| TrainError::State { reason };
        let file = SafeTensors::deserialize(bytes).map_err(|error| wrong(error.to_string()))?;
        let read = |name: &str| file.tensor(name).ok().map(|tensor| tensor.data());
        match self.optimizer.restore(read) {
            true => Ok(()),
            false => Err(wrong("the optimizer's state is not whole".to_owned())),
        }
    }
}
