//! The room of one training in the home folder: its checkpoints, its losses, its adapter.
//!
//! | file | what it is |
//! |---|---|
//! | `begun.json` | of which base, data and recipe it is |
//! | `*.checkpoint` | where it goes on, until it is done |
//! | `losses.jsonl` | what every step came to |
//! | `loss.png` | the same, drawn |
//! | `adapter/` | what is published: weights, card, lineage |
//! | `output` | what the recipe wrote besides |
//!
//! What this module must never do: mix what two trainings made.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use skep_evidence::lineage::{self, Lineage, Named};
use skep_registry::Digest;
use skep_sandbox::{Others, SavedAdapter, TrainingProgress, TrainingRoom};
use skep_train::TrainError;
use skep_train::device::TrainingDevice;

use super::super::ProgressSender;
use crate::failure::{Failure, FailureKind};
use crate::home::make_private;
use crate::requests::{Progress, TrainingStep, Unit};

const BEGUN: &str = "begun.json";
/// What the recipe that comes with skep calls the checkpoint that it goes on from.
const LAST: &str = "last.checkpoint";
const LOSSES: &str = "losses.jsonl";
/// The model card.
pub const CARD: &str = "README.md";

/// What a training is of: digests. Another one is another training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// The base.
    pub base: String,
    /// The file of examples.
    pub data: String,
    /// The component.
    pub recipe: String,
}

/// The room of a training that runs.
pub struct Room {
    folder: PathBuf,
    begun: Begun,
    /// What the author asks for, in millionths of a price.
    pub share: u32,
    /// Who trains the same adapter on other nodes.
    pub others: Option<Arc<dyn Others>>,
    /// What computes in place of the processor.
    pub device: Option<Arc<dyn TrainingDevice>>,
    stop: Arc<AtomicBool>,
    progress: ProgressSender,
    kept: Mutex<Kept>,
}

/// What has come out of a training so far.
#[derive(Default)]
struct Kept {
    steps: Vec<TrainingStep>,
    file: Option<File>,
    /// When this run began, and the tokens that there were then.
    since: Option<(Instant, u64)>,
    saved: Option<SavedAdapter>,
    /// The first thing that could not be written.
    failed: Option<io::Error>,
}

impl Room {
    /// Opens the room of a training, which is made if it is not there.
    ///
    /// # Errors
    /// When another training was begun in it and is not done, unless this one is to begin afresh.
    pub fn open(
        folder: PathBuf,
        begun: Begun,
        fresh: bool,
        stop: Arc<AtomicBool>,
        progress: ProgressSender,
    ) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            let text = format!("cannot use {}: {error}", folder.display());
            Failure::new(FailureKind::Failed, text)
        };
        make_private(&folder).map_err(failed)?;
        let before = fs::read(folder.join(BEGUN)).ok();
        let before: Option<Begun> = before.and_then(|text| serde_json::from_slice(&text).ok());
        let is_open = !checkpoints(&folder).map_err(failed)?.is_empty();
        let is_same = before.as_ref() == Some(&begun);
        if is_open && !is_same && !fresh {
            return Err(another(&folder, before.as_ref(), &begun));
        }
        if !is_open || !is_same || fresh {
            clear(&folder).map_err(failed)?;
            let text = serde_json::to_vec(&begun).map_err(io::Error::other);
            text.and_then(|text| fs::write(folder.join(BEGUN), text))
                .map_err(failed)?;
        }
        let steps = read_steps(&folder.join(LOSSES));
        Ok(Self {
            folder,
            begun,
            share: 0,
            others: None,
            device: None,
            stop,
            progress,
            kept: Mutex::new(Kept {
                steps,
                ..Kept::default()
            }),
        })
    }

    /// Steps that the recipe that comes with skep goes on after: those in its last checkpoint.
    ///
    /// # Errors
    /// When the checkpoint cannot be read.
    pub fn steps_kept(&self) -> Result<u64, TrainError> {
        let last = self.folder.join(LAST);
        match last.exists() {
            true => skep_train::steps_in(&last),
            false => Ok(0),
        }
    }

    /// What every step came to.
    pub fn steps(&self) -> Vec<TrainingStep> {
        self.lock().steps.clone()
    }

    /// The file with them.
    pub fn losses(&self) -> PathBuf {
        self.folder.join(LOSSES)
    }

    /// The adapter that was saved, if one was.
    pub fn saved(&self) -> Option<SavedAdapter> {
        self.lock().saved.clone()
    }

    /// Whether the steps were written down.
    ///
    /// # Errors
    /// When they could not be.
    pub fn check(&self) -> Result<(), Failure> {
        match self.lock().failed.take() {
            None => Ok(()),
            Some(error) => Err(Failure::new(
                FailureKind::Failed,
                format!("cannot write {}: {error}", self.losses().display()),
            )),
        }
    }

    /// Throws the checkpoints away, for the training is done.
    pub fn close(&self) -> io::Result<()> {
        checkpoints(&self.folder)?
            .iter()
            .try_for_each(fs::remove_file)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Consistent after every statement, so a poisoned lock is still good.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Writes a step down. The first of a run takes the place of all that came after it in a run
    /// that did not live to keep them.
    fn write(&mut self, path: &Path, step: TrainingStep) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                self.steps.retain(|earlier| earlier.step < step.step);
                let mut file = File::create(path)?;
                for earlier in &self.steps {
                    write_line(&mut file, earlier)?;
                }
                self.file.insert(file)
            }
        };
        write_line(file, &step)?;
        self.steps.push(step);
        Ok(())
    }
}

fn write_line(file: &mut File, step: &TrainingStep) -> io::Result<()> {
    let mut line = serde_json::to_vec(step)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// The steps in a file, up to the first line that is none.
fn read_steps(path: &Path) -> Vec<TrainingStep> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let steps = text.lines().map(serde_json::from_str);
    steps.map_while(Result::ok).collect()
}

fn checkpoints(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|ending| ending == "checkpoint")
        {
            found.push(path);
        }
    }
    Ok(found)
}

/// Takes away what an earlier training has left.
fn clear(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => fs::remove_dir_all(path)?,
            false => fs::remove_file(path)?,
        }
    }
    Ok(())
}

fn another(folder: &Path, before: Option<&Begun>, begun: &Begun) -> Failure {
    let what = match before {
        Some(before) if before.base != begun.base => "another base",
        Some(before) if before.data != begun.data => "other data",
        Some(before) if before.recipe != begun.recipe => "another recipe",
        _ => "something unknown",
    };
    Failure::new(
        FailureKind::Refused,
        format!(
            "a training of this name was begun with {what} and is not done; give it the same to go \
             on, choose another name with --out, or throw away what it has with --fresh ({})",
            folder.display()
        ),
    )
}

impl TrainingRoom for Room {
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn progress(&self, progress: &TrainingProgress) {
        let step = TrainingStep {
            step: progress.step,
            steps: progress.steps,
            loss: progress.loss,
            held_out_loss: progress.held_out_loss,
            learning_rate: progress.learning_rate,
            tokens: progress.tokens,
            tokens_per_s: None,
        };
        let mut kept = self.lock();
        if let Err(error) = kept.write(&self.losses(), step.clone()) {
            kept.failed.get_or_insert(error);
        }
        let (since, tokens) = *kept.since.get_or_insert((Instant::now(), progress.tokens));
        drop(kept);
        let seconds = since.elapsed().as_secs_f64();
        let rate = (progress.tokens.saturating_sub(tokens)) as f64 / seconds;
        // A full channel means that nobody can keep up with watching; the next step will do.
        let _ = self.progress.try_send(Progress {
            stage: "training".to_owned(),
            done: progress.step,
            total: Some(progress.steps),
            unit: Unit::Steps,
            training: Some(TrainingStep {
                tokens_per_s: (seconds > 0.0).then_some(rate),
                ..step
            }),
            shard: None,
        });
    }

    fn others(&self) -> Option<Arc<dyn Others>> {
        self.others.clone()
    }

    fn device(&self) -> Option<Arc<dyn TrainingDevice>> {
        self.device.clone()
    }

    fn is_to_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn saved(&self, saved: &SavedAdapter) -> io::Result<()> {
        let texts = saved.hyper_parameters.iter();
        let numbers = saved.metrics.iter();
        let digest = |text: &str| text.parse::<Digest>().map_err(io::Error::other);
        let lineage = Lineage {
            format: Lineage::format(),
            base: Named {
                name: saved.base_name.clone(),
                digest: digest(&saved.base)?,
            },
            parent: saved.parent.as_deref().map(digest).transpose()?,
            share: self.share,
            data: digest(&self.begun.data)?,
            recipe: digest(&self.begun.recipe)?,
            weights: digest(&saved.digest)?,
            classes: saved.classes.clone(),
            steps: saved.steps,
            hyper_parameters: texts
                .map(|(name, value)| (name.clone(), value.as_str().into()))
                .collect(),
            metrics: numbers
                .map(|(name, value)| (name.clone(), (*value).into()))
                .collect(),
        };
        let mut text = serde_json::to_vec_pretty(&lineage)?;
        text.push(b'\n');
        fs::write(saved.folder.join(lineage::FILE), text)?;
        fs::write(saved.folder.join(CARD), &saved.card)?;
        self.lock().saved = Some(saved.clone());
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn begun(data: &str) -> Begun {
        Begun {
            base: "b".to_owned(),
            data: data.to_owned(),
            recipe: "r".to_owned(),
        }
    }

    fn open(folder: &Path, data: &str, fresh: bool) -> Result<Room, Failure> {
        let (sender, _) = tokio::sync::mpsc::channel(1);
        Room::open(
            folder.to_owned(),
            begun(data),
            fresh,
            Arc::default(),
            sender,
        )
    }

    fn tell(room: &Room, steps: std::ops::Range<u64>) {
        for step in steps {
            room.progress(&TrainingProgress {
                step,
                steps: 9,
                loss: Some(1.0 / (step + 1) as f64),
                held_out_loss: None,
                learning_rate: 0.1,
                tokens: 7 * step,
            });
        }
    }

    #[test]
    fn a_training_goes_on_in_its_room_and_another_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("room");
        tell(&open(&path, "one", false).unwrap(), 0..5);
        let unbroken = fs::read(path.join(LOSSES)).unwrap();
        fs::write(path.join("last.checkpoint"), "x").unwrap();
        // It goes on from step 3, and what came after is told again.
        let again = open(&path, "one", false).unwrap();
        tell(&again, 3..5);
        assert_eq!(fs::read(path.join(LOSSES)).unwrap(), unbroken);
        assert_eq!(again.steps().len(), 5);
        let refused = open(&path, "two", false).err().unwrap();
        assert!(refused.message.contains("other data"), "{refused}");
        assert_eq!(refused.kind, FailureKind::Refused);
        again.close().unwrap();
        // One that is done makes room for the next.
        assert!(open(&path, "two", false).unwrap().steps().is_empty());
        fs::write(path.join("last.checkpoint"), "x").unwrap();
        assert!(open(&path, "one", true).unwrap().steps().is_empty());
        assert!(checkpoints(&path).unwrap().is_empty());
    }

    #[test]
    fn what_was_cut_off_in_the_middle_of_a_line_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        tell(&open(folder.path(), "one", false).unwrap(), 0..3);
        let file = folder.path().join(LOSSES);
        let mut text = fs::read_to_string(&file).unwrap();
        text.truncate(text.len() - 9);
        fs::write(&file, text).unwrap();
        assert_eq!(read_steps(&file).len(), 2);
    }
}
