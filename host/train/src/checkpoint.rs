//! A training as a file, to go on from as if it had never stopped.
//!
//! It holds the parameters, the optimizer's state, gradients since the last step and how many
//! batches there were, in a file of safetensors whose metadata say what was trained how. What the
//! file was made with must be what it is resumed with.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::files::{read_whole, write_whole};
use crate::lora::LoraConfig;
use crate::optimizer::OptimizerKind;
use crate::trainer::Trainer;

/// What a file may have beyond its tensors.
const LARGEST_HEADER: u64 = 16 << 20;
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
    pending: u64,
    batches: u64,
}

impl Trainer {
    fn description(&self) -> Description {
        Description {
            version: 1,
            lora: self.lora.clone(),
            classes: self.classes,
            parameters: self.layout.len,
            eight_bit: self.optimizer.kind() == OptimizerKind::AdamW8Bit,
            pending: self.pending,
            batches: self.batches,
        }
    }

    /// Writes the training to a file.
    ///
    /// # Errors
    /// When it cannot be written; a checkpoint that was there before is whole.
    pub fn checkpoint(&self, path: &Path) -> Result<(), TrainError> {
        let floats = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut tensors: Vec<(&str, Vec<u8>)> = self.optimizer.save();
        tensors.push(("parameters", floats(&self.parameters)));
        if self.pending > 0 {
            tensors.push(("gradients", floats(&self.gradients)));
        }
        let write = || -> Result<Vec<u8>, std::io::Error> {
            let description = serde_json::to_string(&self.description())?;
            let metadata = HashMap::from([(DESCRIPTION.to_owned(), description)]);
            let views = tensors.iter().map(|(name, bytes)| {
                TensorView::new(Dtype::U8, vec![bytes.len()], bytes).map(|view| (*name, view))
            });
            let views: Result<Vec<_>, _> = views.collect();
            views
                .and_then(|views| safetensors::serialize(views, Some(metadata)))
                .map_err(std::io::Error::other)
        };
        let bytes = write().map_err(|source| TrainError::File {
            action: "write",
            path: path.to_owned(),
            source,
        })?;
        write_whole(path, &bytes)
    }

    /// Goes on from a checkpoint of a training that was opened with the same base and settings.
    ///
    /// # Errors
    /// When the file is unsound, or one of another training. Then nothing has changed.
    pub fn resume(&mut self, path: &Path) -> Result<(), TrainError> {
        let most = 20 * self.layout.len as u64 + LARGEST_HEADER;
        let bytes = read_whole(path, most)?;
        let wrong = |reason: String| TrainError::Checkpoint {
            path: path.to_owned(),
            reason,
        };
        let (_, header) =
            SafeTensors::read_metadata(&bytes).map_err(|error| wrong(error.to_string()))?;
        let said = header
            .metadata()
            .as_ref()
            .and_then(|all| all.get(DESCRIPTION));
        let said = said.ok_or_else(|| wrong("it says nothing of a training".to_owned()))?;
        let said: Description =
            serde_json::from_str(said).map_err(|error| wrong(error.to_string()))?;
        let own = Description {
            pending: said.pending,
            batches: said.batches,
            ..self.description()
        };
        if said != own {
            return Err(wrong(format!(
                "it was made with {said:?} and this is {own:?}"
            )));
        }
        let file = SafeTensors::deserialize(&bytes).map_err(|error| wrong(error.to_string()))?;
        let read = |name: &str| file.tensor(name).ok().map(|tensor| tensor.data());
        let floats = |name: &str| -> Result<Vec<f32>, TrainError> {
            let bytes = read(name).filter(|bytes| bytes.len() == 4 * self.layout.len);
            let bytes = bytes.ok_or_else(|| wrong(format!("its {name} are not whole")))?;
            let words = bytes.as_chunks::<4>().0.iter();
            let values: Vec<f32> = words.map(|word| f32::from_le_bytes(*word)).collect();
            match values.iter().all(|x| x.is_finite()) {
                true => Ok(values),
                false => Err(wrong(format!("its {name} are not finite"))),
            }
        };
        let parameters = floats("parameters")?;
        let gradients = match said.pending {
            0 => None,
            _ => Some(floats("gradients")?),
        };
        // The last that can fail, and it changes nothing if it does.
        if !self.optimizer.restore(read) {
            return Err(wrong("its optimizer's state is not whole".to_owned()));
        }
        self.parameters = parameters;
        match gradients {
            Some(gradients) => self.gradients = gradients,
            None => self.gradients.fill(0.0),
        }
        (self.pending, self.batches) = (said.pending, said.batches);
        Ok(())
    }
}
