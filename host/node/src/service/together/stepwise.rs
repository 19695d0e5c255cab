//! Steps that all nodes make together: what both sides of a training have in common.
//!
//! Every node has the same weights and, with all-reduce, the same optimizer, so it makes the same
//! step from the same contributions, with what the leader's recipe makes it with
//! (`docs/decisions/0036`).

use std::collections::BTreeMap;

use skep_together::audit::{Commitment, Deed, Digest, Event, Window, digest_of};
use skep_together::message::{Shown, StepWith};
use skep_together::{Contribution, Method, Position, Stepwise, TogetherError};
use skep_train::{HyperParameters, Made, TrainError, Trainer};

/// Why a step was not made. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum NotMade {
    #[error(transparent)]
    Together(#[from] TogetherError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error("what a step is made of cannot be written down: {0}")]
    Unwritten(#[from] postcard::Error),
    #[error("these nodes make steps of their own")]
    Alone,
    #[error("a training has at most 4294967295 steps that are made together")]
    TooMany,
}

/// This node's part in a training whose steps are made together.
pub fn part(method: &Method, trainer: &Trainer) -> Result<Stepwise, NotMade> {
    let mut tensors = trainer.tensors();
    tensors.sort_by_key(|(_, _, place)| place.start);
    let matrices: Vec<(usize, usize)> = tensors
        .iter()
        .map(|(_, shape, place)| {
            // A vector is a matrix of one row.
            let columns = shape.last().copied().unwrap_or(1).max(1);
            (place.len() / columns, columns)
        })
        .collect();
    Stepwise::new(method, &matrices)?.ok_or(NotMade::Alone)
}

/// What a recipe makes a step with, as it is told to others.
pub fn with(hyper: &HyperParameters) -> StepWith {
    StepWith {
        rate: hyper.learning_rate,
        betas: hyper.betas,
        epsilon: hyper.epsilon,
        weight_decay: hyper.weight_decay,
    }
}

/// Makes the step, and says how many there are now and where all are then.
pub fn make(
    part: &Stepwise,
    accepted: &BTreeMap<u16, Contribution>,
    with: &StepWith,
    trainer: &mut Trainer,
) -> Result<(u64, Digest), NotMade> {
    let steps = match part {
        Stepwise::Demo(demo) => {
            let mut weights = trainer.weights().to_vec();
            demo.step(accepted, with.rate, with.weight_decay, &mut weights)?;
            trainer.step_to(&weights)?
        }
        Stepwise::AllReduce(all) => {
            let hyper = HyperParameters {
                learning_rate: with.rate,
                betas: with.betas,
                epsilon: with.epsilon,
                weight_decay: with.weight_decay,
                clip: None,
            };
            trainer.step_along(&hyper, all.mean(accepted)?)?
        }
    };
    Ok((steps, digest_of(trainer.weights())))
}

/// What a node has said at a step, so that it can show how it came to that.
pub struct SaidStep {
    pub bytes: Vec<u8>,
    /// The digest of the weights that its gradients are of.
    pub at: Digest,
    window: Window,
    before: Vec<u8>,
    made: Vec<u8>,
    after: Vec<u8>,
}

impl SaidStep {
    /// Says what gradients come to that were computed of what a step is made of.
    pub fn new(
        part: &mut Stepwise,
        step: u32,
        (gradients, made): (&[f32], &Made),
        trainer: &Trainer,
    ) -> Result<Self, NotMade> {
        let position = |part: &Stepwise, batches| Position {
            batches,
            unsaid: part.unsaid().to_vec(),
        };
        let batches = trainer.batches();
        let earlier = batches.saturating_sub(made.batches.len() as u64);
        let before = position(part, earlier).to_bytes();
        let bytes = part.contribute(step, gradients, made.hyper.learning_rate)?;
        let after = position(part, batches).to_bytes();
        let made = postcard::to_allocvec(made)?;
        let hash = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
        let event = Event {
            deed: Deed::Step { of: hash(&made) },
            after: hash(&after),
        };
        Ok(Self {
            bytes,
            at: digest_of(trainer.weights()),
            window: Window {
                before: hash(&before),
                events: vec![event],
            },
            before,
            made,
            after,
        })
    }

    /// What is committed to with it.
    pub fn commitment(&self) -> Commitment {
        Commitment {
            window: self.window.digest(),
            state: self.window.after(),
            unsaid: digest_of(&[]),
        }
    }

    /// What was done for it: one step.
    pub fn window(&self) -> Window {
        self.window.clone()
    }

    /// How.
    pub fn shown(&self) -> Shown {
        Shown {
            before: self.before.clone(),
            made: self.made.clone(),
            after: self.after.clone(),
            at_contribution: Vec::new(),
            unsaid: Vec::new(),
        }
    }
}
