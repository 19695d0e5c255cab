//! Meeting those who train the same adapter on other nodes: between steps, or in each of them.
//!
//! What must never happen here is that a guest learns of them: it asks for a step, and one is made.

use std::sync::Arc;

use skep_train::Made;
use wasmtime::component::Resource;

use super::super::types::HostError;
use crate::bindings::fine_tune::skep::train::training::Step;
use crate::state::State;
use crate::training::{Meeting, OpenTrainer, Others, StepTogether, lock};

impl State {
    /// Meets those who train the same adapter on other nodes, if it is time, and goes on with what
    /// all have agreed on.
    pub(super) async fn meet(
        &mut self,
        this: &Resource<OpenTrainer>,
        when: Meeting,
    ) -> Result<(), HostError> {
        let Some(others) = self.others().filter(|others| others.meets(when)) else {
            return Ok(());
        };
        let trainer = Arc::clone(&self.table.get(this)?.trainer);
        let weights = lock(&trainer)?.weights().to_vec();
        let agreed = others.meet(when, weights, Arc::clone(&trainer)).await;
        let agreed = agreed.map_err(HostError::failed)?;
        Ok(lock(&trainer)?.set_weights(&agreed)?)
    }

    /// Makes a step with those who train the same adapter on other nodes.
    pub(super) async fn step_with(
        &mut self,
        this: &Resource<OpenTrainer>,
        others: Arc<dyn Others>,
        made: Made,
    ) -> Result<Step, HostError> {
        let hyper = made.hyper;
        let taken = self.with_trainer(this, move |trainer, _| {
            let steps = trainer.steps();
            match trainer.take_clipped(&hyper) {
                Ok((gradients, norm)) => Ok((steps, Some((gradients, norm)))),
                Err(skep_train::TrainError::Diverged { .. }) => Ok((steps, None)),
                Err(error) => Err(error.into()),
            }
        })?;
        let (steps, taken) = taken.await?;
        // What is not finite is nothing to tell anybody of.
        let Some((gradients, gradient_norm)) = taken else {
            return Ok(Step {
                number: steps,
                gradient_norm: f32::NAN,
            });
        };
        let open = self.table.get(this)?;
        let number = open.together.unwrap_or(0);
        let step = StepTogether {
            number,
            gradients,
            made,
        };
        let stepped = others.step(step, Arc::clone(&open.trainer)).await;
        let steps = stepped.map_err(HostError::failed)?;
        self.table.get_mut(this)?.together = Some(number + 1);
        Ok(Step {
            number: steps,
            gradient_norm,
        })
    }

    /// Who trains the same adapter on other nodes.
    pub(super) fn others(&self) -> Option<Arc<dyn Others>> {
        self.spec.training.as_ref().and_then(|room| room.others())
    }
}
