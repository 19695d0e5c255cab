//! A training as a file, to go on from as if it had never stopped.
//!
//! It holds the parameters, the optimizer's state, gradients since the last step and how many
//! batches there were, in a file of safetensors whose metadata say what was trained how, and what
//! whoever trains wants to find again beside them: one file, so that the two are always of the
//! same moment. What the file was made with must be what it is resumed with.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::bf16::Precision;
use crate::error::TrainError;
use crate::files::{read_whole, write_whole};
use crate::lora::LoraConfig;
use crate::optimizer::OptimizerKind;
use crate::trainer::Trainer;

/// What a file may have beyond its tensors.
const LARGEST_HEADER: u64 = 16 << 20;
/// The most that may be kept beside the training, in bytes.
pub const LARGEST_NOTE: u64 = 4 << 20;
/// What that is called among the tensors.
const NOTE: &str = "note";
/// What the description is called in the file's metadata.
const DESCRIPTION: &str = "skep-training";

/// What was trained how.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Description {
    version: u32,
    lora: LoraConfig,
    classes: Option<usize>,
    parameters: usize,
    eight_bit: bool,
    /// Whether passes compute in 16 bits; files from before there were any do not say.
    #[serde(default)]
    bf16: bool,
    pending: u64,
    batches: u64,
}

/// Steps that the training in a checkpoint had made.
///
/// # Errors
/// When the file cannot be read, or is none.
pub fn steps_in(path: &Path) -> Result<u64, TrainError> {
    let reason = |reason: String| TrainError::Checkpoint {
        path: path.to_owned(),
        reason,
    };
    let bytes = std::fs::read(path).map_err(|source| TrainError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| reason(error.to_string()))?;
    let step = file.tensor("step").ok().map(|tensor| tensor.data());
    let step = step.and_then(|step| step.try_into().ok());
    let step = step.ok_or_else(|| reason("it says nothing of its steps".to_owned()))?;
    Ok(u64::from_le_bytes(step))
}

impl Trainer {
    fn description(&self) -> Description {
        Description {
            version: 1,
            lora: self.lora.clone(),
            classes: self.classes,
            parameters: self.layout.len,
            eight_bit: self.optimizer.kind() == OptimizerKind::AdamW8Bit,
            bf16: self.precision == Precision::Bf16,
            pending: self.pending,
            batches: self.batches,
        }
    }

    /// Bytes of a checkpoint with a note of so many, but for a few thousand.
    pub fn checkpoint_bytes(&self, note: usize) -> u64 {
        let copies = 1 + u64::from(self.pending > 0);
        4 * copies * self.layout.len as u64 + self.optimizer.bytes() + note as u64
    }

    /// Writes the training to a file, and a note of at most [`LARGEST_NOTE`] with it.
    ///
    /// # Errors
    /// When the note is too long or the file cannot be written; a checkpoint that was there before
    /// is whole.
    pub fn checkpoint(&self, path: &Path, note: &[u8]) -> Result<(), TrainError> {
        if note.len() as u64 > LARGEST_NOTE {
            return Err(TrainError::Setting {
                what: "the length of a checkpoint's note",
                got: note.len().to_string(),
                want: "at most 4 MiB",
            });
        }
        let bytes = self
            .in_bytes(&self.parameters, note)
            .map_err(|source| TrainError::File {
                action: "write",
                path: path.to_owned(),
                source,
            })?;
        write_whole(path, &bytes)
    }

    /// The training with these parameters, in the form of a checkpoint.
    pub(crate) fn in_bytes(&self, parameters: &[f32], note: &[u8]) -> std::io::Result<Vec<u8>> {
        let floats = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut tensors: Vec<(&str, Vec<u8>)> = self.optimizer.save();
        tensors.push(("parameters", floats(parameters)));
        tensors.push((NOTE, note.to_vec()));
        if self.pending > 0 {
            tensors.push(("gradients", floats(&self.gradients)));
        }
        let description = serde_json::to_string(&self.description())?;
        let metadata = HashMap::from([(DESCRIPTION.to_owned(), description)]);
        let views = tensors.iter().map(|(name, bytes)| {
            TensorView::new(Dtype::U8, vec![bytes.len()], bytes).map(|view| (*name, view))
        });
        let views: Result<Vec<_>, _> = views.collect();
        views
            .and_then(|views| safetensors::serialize(views, Some(metadata)))
            .map_err(std::io::Error::other)
    }

    /// Goes on from a checkpoint of a training that was opened with the same base and settings, and
    /// returns its note.
    ///
    /// # Errors
    /// When the file is unsound, or one of another training. Then nothing has changed.
    pub fn resume(&mut self, path: &Path) -> Result<Vec<u8>, TrainError> {
        let most = 20 * self.layout.len as u64 + LARGEST_HEADER + LARGEST_NOTE;
        let bytes = read_whole(path, most)?;
        self.take_bytes(&bytes)
            .map_err(|reason| TrainError::Checkpoint {
                path: path.to_owned(),
                reason,
            })
    }

    /// Goes on from what [`Trainer::in_bytes`] gave, and returns the note; or says what is wrong with
    /// it, and has changed nothing.
    pub(crate) fn take_bytes(&mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let said = header
            .metadata()
            .as_ref()
            .and_then(|all| all.get(DESCRIPTION));
        let said = said.ok_or_else(|| "it says nothing of a training".to_owned())?;
        let said: Description = serde_json::from_str(said).map_err(|error| error.to_string())?;
        let own = Description {
            pending: said.pending,
            batches: said.batches,
            ..self.description()
        };
        if said != own {
            return Err(format!("it was made with {said:?} and this is {own:?}"));
        }
        let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let read = |name: &str| file.tensor(name).ok().map(|tensor| tensor.data());
        let floats = |name: &str| -> Result<Vec<f32>, String> {
            let bytes = read(name).filter(|bytes| bytes.len() == 4 * self.layout.len);
            let bytes = bytes.ok_or_else(|| format!("its {name} are not whole"))?;
            let words = bytes.as_chunks::<4>().0.iter();
            let values: Vec<f32> = words.map(|word| f32::from_le_bytes(*word)).collect();
            match values.iter().all(|x| x.is_finite()) {
                true => Ok(values),
                false => Err(format!("its {name} are not finite")),
            }
        };
        let parameters = floats("parameters")?;
        let note = read(NOTE).ok_or_else(|| "it has no note".to_owned())?;
        let note = note.to_vec();
        let gradients = match said.pending {
            0 => None,
            _ => Some(floats("gradients")?),
        };
        // The last that can fail, and it changes nothing if it does.
        if !self.optimizer.restore(read) {
            return Err("its optimizer's state is not whole".to_owned());
        }
        self.parameters = parameters;
        match gradients {
            Some(gradients) => self.gradients = gradients,
            None => self.gradients.fill(0.0),
        }
        (self.pending, self.batches) = (said.pending, said.batches);
        Ok(note)
    }
}
