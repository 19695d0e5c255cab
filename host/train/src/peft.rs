//! Adapters as the folders that PEFT writes: `adapter_config.json` and
//! `adapter_model.safetensors`.
//!
//! What is saved here loads in PEFT and in the engine; what PEFT saved for plain LoRA of the same
//! shape can be trained on from here.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::json;
use skep_decoder::{AdapterError, AdapterTarget};
use skep_weights::PackedFormat;
use skep_weights::format::dequantize;

use crate::error::TrainError;
use crate::files::{read_whole, write_whole};
use crate::lora::{Targets, module};
use crate::trainer::Trainer;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// The largest `adapter_config.json` that is read.
const LARGEST_CONFIG: u64 = 1 << 20;
/// What a file of weights may have beyond its weights: the names and shapes.
const LARGEST_HEADER: u64 = 16 << 20;

/// What of a configuration has to be as in this training.
#[derive(Deserialize)]
struct Shape {
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    base_model_name_or_path: Option<String>,
}

impl Trainer {
    /// Writes the adapter as it is to a folder, which is made if it is not there. `base_name` is
    /// what it says that it was made for.
    ///
    /// # Errors
    /// When a file cannot be written; one that was there before is whole.
    pub fn save(&self, folder: &Path, base_name: &str) -> Result<(), TrainError> {
        std::fs::create_dir_all(folder).map_err(|source| TrainError::File {
            action: "make",
            path: folder.to_owned(),
            source,
        })?;
        let weights = folder.join(WEIGHTS);
        let tensors = self.tensors();
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
            .into_iter()
            .map(|(name, shape, place)| {
                let values = self.parameters[place].iter();
                (name, shape, values.flat_map(|x| x.to_le_bytes()).collect())
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name, view))
        });
        let views: Result<Vec<_>, _> = views.collect();
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let file = views.and_then(|views| safetensors::serialize(views, Some(metadata)));
        let file = file.map_err(|error| TrainError::File {
            action: "write",
            path: weights.clone(),
            source: std::io::Error::other(error),
        })?;
        write_whole(&weights, &file)?;
        let config = format!("{:#}\n", self.config_json(base_name));
        write_whole(&folder.join(CONFIG), config.as_bytes())
    }

    fn config_json(&self, base_name: &str) -> serde_json::Value {
        let targets = match &self.lora.targets {
            Targets::AllLinear => {
                let names = AdapterTarget::ALL.map(|target| {
                    let name = target.name();
                    name.rsplit('.').next().unwrap_or(name)
                });
                json!(names)
            }
            Targets::Named(names) => json!(names),
            Targets::Pattern(pattern) => json!(pattern),
        };
        let classes = self.classes.is_some();
        json!({
            "peft_type": "LORA",
            "task_type": if classes { "SEQ_CLS" } else { "CAUSAL_LM" },
            "base_model_name_or_path": base_name,
            "r": self.lora.rank,
            "lora_alpha": self.lora.alpha,
            "lora_dropout": self.lora.dropout,
            "use_rslora": self.lora.rank_stabilized,
            "target_modules": targets,
            "modules_to_save": classes.then_some(["score"]),
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
        })
    }

    /// The names, shapes and places of all parameters, as PEFT calls them.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, Range<usize>)> {
        let rank = self.lora.rank;
        let mut all = Vec::new();
        for (layer, target, pair) in self.layout.pairs() {
            let name = format!("base_model.model.{}", module(layer, target));
            let a = (
                format!("{name}.lora_A.weight"),
                vec![rank, pair.inputs],
                pair.a.clone(),
            );
            let b = (
                format!("{name}.lora_B.weight"),
                vec![pair.outputs, rank],
                pair.b.clone(),
            );
            all.extend([a, b]);
        }
        if let (Some(place), Some(classes)) = (&self.layout.classifier, self.classes) {
            let width = place.len() / classes;
            let name = "base_model.model.score.weight".to_owned();
            all.push((name, vec![classes, width], place.clone()));
        }
        all
    }

    /// Takes the weights of an adapter that was made before, so that the training goes on from
    /// there. The optimizer begins anew.
    ///
    /// # Errors
    /// When a file is unsound, or the adapter is none for these matrices of this base with this
    /// rank and scale. Then nothing has changed.
    pub fn load_adapter(&mut self, folder: &Path) -> Result<(), TrainError> {
        let path = folder.join(CONFIG);
        let text = read_whole(&path, LARGEST_CONFIG)?;
        let shape: Shape = serde_json::from_slice(&text).map_err(|error| {
            TrainError::Adapter(AdapterError::Malformed {
                path: path.clone(),
                reason: error.to_string(),
            })
        })?;
        let named = shape.base_model_name_or_path.clone().unwrap_or_default();
        let wrong = |reason: String| {
            TrainError::Adapter(AdapterError::WrongBase {
                path: folder.to_owned(),
                base: "of this training".to_owned(),
                named: named.clone(),
                reason,
            })
        };
        if shape.use_dora {
            let what = "DoRA".to_owned();
            return Err(AdapterError::Unsupported { path, what }.into());
        }
        let own = (self.lora.rank, self.lora.alpha, self.lora.rank_stabilized);
        let got = (shape.r, shape.lora_alpha, shape.use_rslora);
        if own != got {
            return Err(wrong(format!(
                "rank, alpha and rank stabilization are {got:?} there and {own:?} here"
            )));
        }
        let path = folder.join(WEIGHTS);
        let bytes = read_whole(&path, 4 * self.layout.len as u64 + LARGEST_HEADER)?;
        let malformed = |reason: String| {
            TrainError::Adapter(AdapterError::Malformed {
                path: path.clone(),
                reason,
            })
        };
        let file = SafeTensors::deserialize(&bytes).map_err(|e| malformed(e.to_string()))?;
        let tensors = self.tensors();
        if let Some(name) = file
            .names()
            .iter()
            .find(|n| !tensors.iter().any(|t| t.0 == **n))
        {
            return Err(wrong(format!("it has {name:?}, which is no target here")));
        }
        let mut parameters = self.parameters.clone();
        for (name, shape, place) in tensors {
            let Ok(tensor) = file.tensor(&name) else {
                return Err(wrong(format!("it has no {name:?}")));
            };
            if tensor.shape() != shape {
                let got = tensor.shape();
                return Err(wrong(format!("{name:?} has shape {got:?}, not {shape:?}")));
            }
            let format = match tensor.dtype() {
                Dtype::F32 => PackedFormat::F32,
                Dtype::F16 => PackedFormat::F16,
                Dtype::BF16 => PackedFormat::BF16,
                other => return Err(malformed(format!("{name:?} is of {other:?}"))),
            };
            let to = &mut parameters[place];
            dequantize(format, tensor.data(), to).map_err(|e| malformed(e.to_string()))?;
            if to.iter().any(|x| !x.is_finite()) {
                let path = path.clone();
                return Err(AdapterError::NotFinite { path, tensor: name }.into());
            }
        }
        self.parameters = parameters;
        self.drop_gradients();
        Ok(())
    }
}
