//! What a run that trains has besides: a place for what it keeps, and somebody who watches.
//!
//! A [`TrainingRoom`] is one training's, of one base, on the same data, by the same recipe: what an
//! earlier run kept in it, a later one finds. What this module must never do: let a guest name a
//! file, or keep more than the run may.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_tensor::MemoryCharge;
use skep_train::device::TrainingDevice;
use skep_train::{Divisor, Example, HyperParameters, Loss, Made, Trainer};

use crate::interfaces::HostError;
use crate::models::BaseModel;

/// What the names of checkpoints' files end in.
const ENDING: &str = "checkpoint";
/// Checkpoints that a training may have.
const CHECKPOINTS: usize = 8;
/// The longest name of one.
const NAME: usize = 32;
/// Trainers that a run may have at one moment: each has threads of its own.
pub(crate) const TRAINERS: u32 = 4;

/// Where a training keeps its checkpoints and its adapter, and who watches it.
pub trait TrainingRoom: Send + Sync + 'static {
    /// A folder that is this training's alone.
    fn folder(&self) -> &Path;

    /// Hears how far the training has come. Must return soon.
    fn progress(&self, progress: &TrainingProgress);

    /// Whether the training is to keep a checkpoint and end.
    fn is_to_stop(&self) -> bool;

    /// Hears that an adapter was saved, in the place of one that was before, and may write to its
    /// folder what else belongs to it. Called on a thread for models.
    ///
    /// # Errors
    /// When it cannot be written.
    fn saved(&self, saved: &SavedAdapter) -> std::io::Result<()>;

    /// Who trains the same adapter on other nodes, if anybody does.
    fn others(&self) -> Option<Arc<dyn Others>> {
        None
    }

    /// The device that decoders are trained on in place of the processor. Sentence encoders are
    /// trained on the processor.
    fn device(&self) -> Option<Arc<dyn TrainingDevice>> {
        None
    }

    /// Who wants to know what steps the recipe would make, if nothing is to be learned.
    fn rehearsal(&self) -> Option<Arc<dyn Rehearsal>> {
        None
    }
}

/// A run of a recipe that learns nothing: passes are not made, losses are made up, each a little
/// lower than the one before, and nothing is kept. So whoever knows a recipe's data and settings
/// knows which examples each of its steps is made of, as long as that does not depend on what the
/// recipe measures.
pub trait Rehearsal: Send + Sync + 'static {
    /// Hears of the next step.
    fn step(&self, made: &Made);
}

/// A trainer that a run and those on other nodes share. A guest waits while it is used by them.
pub type SharedTrainer = Arc<Mutex<Trainer>>;

/// When a training meets with those on other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// Before its first batch.
    Begin,
    /// After so many steps since then.
    After(u64),
    /// Before its adapter is saved.
    End,
}

/// Those who train the same adapter on other nodes. A guest knows nothing of them: between two of
/// its steps the weights have become what all have agreed on.
pub trait Others: Send + Sync + 'static {
    /// Whether they are to be met then. Must return soon.
    fn meets(&self, when: Meeting) -> bool;

    /// Meets them, with all weights as they are here, and gives those to go on with. The run waits
    /// meanwhile, and no thread does. Whatever is done with the trainer, it is left as it was.
    fn meet(&self, when: Meeting, weights: Vec<f32>, trainer: SharedTrainer) -> Met;

    /// Hears of a step that was made since the first meeting, with the trainer as it is after it.
    /// Called on a thread for models.
    fn stepped(&self, made: &Made, trainer: &Trainer);

    /// Hears that the recipe went back to a checkpoint since the first meeting, with the trainer as it
    /// is then. Called on a thread for models.
    fn went_back(&self, trainer: &Trainer);

    /// Whether every step is made with them, in place of the trainer's own.
    fn makes_steps(&self) -> bool;

    /// Makes a step with them: tells them of the gradients here, and changes the trainer as all have
    /// agreed. The run waits meanwhile, and no thread does.
    fn step(&self, step: StepTogether, trainer: SharedTrainer) -> Stepped;
}

/// A step to make with those on other nodes.
pub struct StepTogether {
    /// Steps since the first meeting before it.
    pub number: u64,
    /// The gradients here, scaled down as the recipe wants them. The trainer has them no more.
    pub gradients: Vec<f32>,
    /// What they were computed of, and what the recipe would make the step with.
    pub made: Made,
}

/// How many steps the trainer has made now, or why the step was not made.
pub type Stepped = Pin<Box<dyn Future<Output = Result<u64, String>> + Send>>;

/// The weights to go on with, or why there are none.
pub type Met = Pin<Box<dyn Future<Output = Result<Vec<f32>, String>> + Send>>;

/// How far a training has come: `progress` of the contract.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingProgress {
    /// Steps that were made.
    pub step: u64,
    /// Steps that there will be at most.
    pub steps: u64,
    /// The loss of this step's batch.
    pub loss: Option<f64>,
    /// The loss on what is held out.
    pub held_out_loss: Option<f64>,
    /// The learning rate of this step.
    pub learning_rate: f32,
    /// Tokens that went through the model in training.
    pub tokens: u64,
}

/// An adapter that was saved, and what was said of it.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedAdapter {
    /// Its PEFT folder.
    pub folder: PathBuf,
    /// The digest of its weights.
    pub digest: String,
    /// The digest of the base.
    pub base: String,
    /// What the base is called.
    pub base_name: String,
    /// The digest of the adapter that it was begun from.
    pub parent: Option<String>,
    /// What its classes are called, where it has any and the guest named them.
    pub classes: Vec<String>,
    /// Steps that it was trained for.
    pub steps: u64,
    /// The guest's model card.
    pub card: String,
    /// What the guest says that it was trained with.
    pub hyper_parameters: Vec<(String, String)>,
    /// What the guest says that it came to.
    pub metrics: Vec<(String, f64)>,
}

/// A trainer that a guest has opened.
pub struct OpenTrainer {
    /// Used by one call at a time: a guest waits for each.
    pub(crate) trainer: SharedTrainer,
    pub(crate) model: BaseModel,
    pub(crate) parent: Option<String>,
    /// How many classes it learns, and what they are called, if that was said.
    pub(crate) classes: Option<u32>,
    pub(crate) class_names: Vec<String>,
    /// Steps since those on other nodes were met first.
    pub(crate) together: Option<u64>,
    /// The batches since the last step, where somebody wants to know.
    pub(crate) noted: Noted,
    /// What a rehearsal has made up.
    pub(crate) made_up: MadeUp,
}

/// Batches that are noted until the next step, with the memory that they take.
#[derive(Default)]
pub(crate) struct Noted {
    batches: Vec<(Vec<Example>, Loss, Divisor)>,
    charges: Vec<MemoryCharge>,
}

impl Noted {
    /// Notes one more, if its gradients are among the `pending` ones of the trainer.
    pub fn add(
        &mut self,
        batch: (Vec<Example>, Loss, Divisor),
        charge: MemoryCharge,
        pending: u64,
    ) {
        self.batches.push(batch);
        self.charges.push(charge);
        self.keep(pending);
    }

    /// Forgets those whose gradients were dropped.
    pub fn keep(&mut self, pending: u64) {
        let pending = usize::try_from(pending).unwrap_or(usize::MAX);
        self.batches.truncate(pending);
        self.charges.truncate(pending);
    }

    /// All of them, as what a step is made of.
    pub fn take(&mut self, hyper: HyperParameters) -> Made {
        self.charges.clear();
        Made {
            batches: std::mem::take(&mut self.batches),
            hyper,
        }
    }
}

/// Steps and losses that are made up.
#[derive(Default)]
pub(crate) struct MadeUp {
    pub steps: u64,
    losses: u64,
}

impl MadeUp {
    /// The next loss, lower than all before.
    pub fn loss(&mut self) -> f64 {
        self.losses += 1;
        1.0 / (self.losses + 1) as f64
    }
}

/// The trainer, for the length of a call. A call that panicked has left it in any state, so it is
/// used no more.
pub(crate) fn lock(trainer: &Mutex<Trainer>) -> Result<MutexGuard<'_, Trainer>, HostError> {
    trainer
        .lock()
        .map_err(|_: PoisonError<_>| HostError::failed("an earlier call to this trainer failed"))
}

/// What a run trains, and the bytes of what it keeps.
#[derive(Default)]
pub(crate) struct Trainings {
    pub open: u32,
    /// Known once something was asked for.
    kept: Option<BTreeMap<String, u64>>,
    pub adapter: u64,
}

impl Trainings {
    /// Bytes of everything that is kept.
    pub fn kept(&self) -> u64 {
        let checkpoints = self.kept.iter().flatten().map(|(_, bytes)| *bytes);
        checkpoints.fold(self.adapter, u64::saturating_add)
    }

    /// The checkpoint's file, and what all others come to beside it.
    pub fn checkpoint(&mut self, room: &Path, name: &str) -> Result<(PathBuf, u64), HostError> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > NAME || !name.bytes().all(letter) {
            return Err(HostError::invalid(format!(
                "a checkpoint's name is 1 to {NAME} lower-case letters, digits and hyphens"
            )));
        }
        let kept = self.kept.get_or_insert_with(|| found(room));
        if kept.len() >= CHECKPOINTS && !kept.contains_key(name) {
            return Err(HostError::invalid(format!(
                "there are {CHECKPOINTS} checkpoints, and no more are kept; use one of their names"
            )));
        }
        let own = kept.get(name).copied().unwrap_or(0);
        let others = self.kept().saturating_sub(own);
        Ok((room.join(format!("{name}.{ENDING}")), others))
    }

    /// Notes that a checkpoint was written.
    pub fn wrote(&mut self, name: String, bytes: u64) {
        self.kept.get_or_insert_default().insert(name, bytes);
    }
}

/// The checkpoints that are there already, with their sizes.
fn found(room: &Path) -> BTreeMap<String, u64> {
    let entries = std::fs::read_dir(room).into_iter().flatten().flatten();
    let checkpoints = entries.filter_map(|entry| {
        let path = entry.path();
        let is_one = path.extension().is_some_and(|ending| ending == ENDING);
        let name = path.file_stem()?.to_str()?.to_owned();
        is_one.then(|| Some((name, entry.metadata().ok()?.len())))?
    });
    checkpoints.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_named_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("old.checkpoint"), [0; 7]).unwrap();
        std::fs::write(folder.path().join("losses.jsonl"), [0; 9]).unwrap();
        let mut trainings = Trainings {
            adapter: 100,
            ..Trainings::default()
        };
        let (file, others) = trainings.checkpoint(folder.path(), "last").unwrap();
        assert_eq!(file, folder.path().join("last.checkpoint"));
        assert_eq!(others, 107);
        trainings.wrote("last".to_owned(), 1000);
        assert_eq!(trainings.kept(), 1107);
        assert_eq!(trainings.checkpoint(folder.path(), "last").unwrap().1, 107);
        for name in ["", "..", "a/b", "A", "a\0", &"a".repeat(33)] {
            assert!(trainings.checkpoint(folder.path(), name).is_err(), "{name}");
        }
        for number in 0..6 {
            trainings.wrote(number.to_string(), 0);
        }
        assert!(trainings.checkpoint(folder.path(), "old").is_ok());
        assert!(trainings.checkpoint(folder.path(), "one-more").is_err());
    }
}
