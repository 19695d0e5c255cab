//! Adapters as the folders that PEFT writes: `adapter_config.json` and
//! `adapter_model.safetensors`.
//!
//! What is saved here loads in PEFT and in the engine; what PEFT saved for LoRA or DoRA of the same
//! shape can be trained on from here.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::json;
use skep_decoder::{AdapterError, AdapterTarget};
use skep_kernels::rows::RopeLayout;
use skep_weights::format::dequantize;
use skep_weights::{PackedFormat, PeftConfig};

use crate::base::{Base, Network};
use crate::encoder::ALL_MODULES;
use crate::error::TrainError;
use crate::files::{read_whole, write_whole};
use crate::lora::{LoraConfig, Targets};
use crate::trainer::{Trainer, TrainerOptions};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// The layer that makes classes of states.
const HEAD: &str = "base_model.model.score.weight";
/// The largest `adapter_config.json` that is read.
const LARGEST_CONFIG: u64 = 1 << 20;
/// What a file of weights may have beyond its weights: the names and shapes.
const LARGEST_HEADER: u64 = 16 << 20;

/// What of a configuration has to be as in this training.
#[derive(Deserialize)]
struct Shape {
    r: usize,
    #[serde(default)]
    target_modules: Modules,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
}

/// The linear layers that an adapter is for: names, or a regular expression.
#[derive(Deserialize)]
#[serde(untagged)]
enum Modules {
    Named(Vec<String>),
    Pattern(String),
}

impl Default for Modules {
    fn default() -> Self {
        Self::Named(Vec::new())
    }
}

impl Shape {
    fn read(path: &Path) -> Result<Self, TrainError> {
        let text = read_whole(path, LARGEST_CONFIG)?;
        serde_json::from_slice(&text).map_err(|error| {
            TrainError::Adapter(AdapterError::Malformed {
                path: path.to_owned(),
                reason: error.to_string(),
            })
        })
    }
}

/// A tensor of an adapter's file.
struct Named {
    name: String,
    shape: Vec<usize>,
    place: Range<usize>,
    /// The elements of a head, where the base has rows in another order within each head.
    head: Option<usize>,
}

impl Named {
    /// Calls `each` with every run of elements here and where it lies in PEFT's order: its
    /// models turn element `i` of a head with `i + dim / 2`, the base `2 i` with `2 i + 1`.
    fn in_order(&self, mut each: impl FnMut(Range<usize>, Range<usize>)) {
        let Some(dim) = self.head else {
            return each(0..self.place.len(), 0..self.place.len());
        };
        // One number a row, of a vector.
        let rows = self.shape.first().copied().unwrap_or(1).max(1);
        let width = self.place.len() / rows;
        for row in 0..rows {
            let (head, place) = (row / dim, row % dim);
            let other = head * dim + place / 2 + place % 2 * (dim / 2);
            each(
                row * width..(row + 1) * width,
                other * width..(other + 1) * width,
            );
        }
    }
}

impl Trainer {
    /// Opens a training from an adapter that was saved, with what its files say of it: rank, scale,
    /// targets and classes. What `options` says of classes is not looked at.
    ///
    /// # Errors
    /// As [`Trainer::open`] and [`Trainer::load_adapter`].
    pub fn open_adapter(
        base: Arc<Base>,
        folder: &Path,
        options: &TrainerOptions,
    ) -> Result<Self, TrainError> {
        let shape = Shape::read(&folder.join(CONFIG))?;
        let lora = LoraConfig {
            rank: shape.r,
            alpha: shape.lora_alpha as f32,
            rank_stabilized: shape.use_rslora,
            dora: shape.use_dora,
            targets: match shape.target_modules {
                Modules::Named(names) => Targets::Named(names),
                Modules::Pattern(pattern) => Targets::Pattern(pattern),
            },
            ..LoraConfig::default()
        };
        let path = folder.join(WEIGHTS);
        let file = skep_weights::SafetensorsFolder::open_file(&path)?;
        let head = file
            .raw(HEAD)
            .and_then(|head| head.shape().first().copied());
        let options = TrainerOptions {
            classes: head.map(|classes| usize::try_from(classes).unwrap_or(usize::MAX)),
            ..options.clone()
        };
        let mut trainer = Self::open(base, lora, &options)?;
        trainer.load_adapter(folder)?;
        Ok(trainer)
    }

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
        let mut bytes: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for tensor in self.named() {
            let own = &self.parameters[tensor.place.clone()];
            let mut values = vec![0.0; own.len()];
            tensor.in_order(|here, there| values[there].copy_from_slice(&own[here]));
            let values = values.iter().flat_map(|x: &f32| x.to_le_bytes()).collect();
            bytes.push((tensor.name, tensor.shape, values));
        }
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
            Targets::AllLinear if self.base.is_encoder() => json!(format!(".*{ALL_MODULES}")),
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
        let task = match (self.base.is_encoder(), classes) {
            // No model of PEFT's tasks has a layer over what is pooled.
            (true, _) => json!(null),
            (false, true) => json!("SEQ_CLS"),
            (false, false) => json!("CAUSAL_LM"),
        };
        let mut config = json!({
            "peft_type": "LORA",
            "task_type": task,
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
        });
        if self.lora.dora {
            config["use_dora"] = json!(true);
        }
        config
    }

    /// The names, shapes and places of all parameters, as PEFT calls them. Where the base has the
    /// two parts of a rotary pair side by side, the rows of B and the magnitudes of queries and keys
    /// are in the base's order here, and in PEFT's in its files.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, Range<usize>)> {
        let named = self.named().into_iter();
        named.map(|one| (one.name, one.shape, one.place)).collect()
    }

    fn named(&self) -> Vec<Named> {
        let rank = self.lora.rank;
        let pairs_of = match &self.base.network {
            Network::Decoder(decoder) if decoder.config.rope_layout == RopeLayout::Pairs => {
                Some(decoder.config.head_dim)
            }
            _ => None,
        };
        let mut all = Vec::new();
        let mut push = |name: String, shape, place: &Range<usize>, head| {
            all.push(Named {
                name,
                shape,
                place: place.clone(),
                head,
            });
        };
        for (layer, target, pair) in self.layout.pairs() {
            let name = format!("base_model.model.{}", self.base.module(layer, target));
            let turns = matches!(target, AdapterTarget::Query | AdapterTarget::Key);
            let (a, b) = (vec![rank, pair.inputs], vec![pair.outputs, rank]);
            push(format!("{name}.lora_A.weight"), a, &pair.a, None);
            let head = pairs_of.filter(|_| turns);
            push(format!("{name}.lora_B.weight"), b, &pair.b, head);
            if let Some(magnitude) = &pair.magnitude {
                let (name, shape) = (format!("{name}.lora_magnitude_vector"), vec![pair.outputs]);
                push(name, shape, magnitude, head);
            }
        }
        if let (Some(place), Some(classes)) = (&self.layout.classifier, self.classes) {
            let shape = vec![classes, place.len() / classes];
            push(HEAD.to_owned(), shape, place, None);
            if let Some(bias) = &self.layout.classifier_bias {
                push(
                    "base_model.model.score.bias".to_owned(),
                    vec![classes],
                    bias,
                    None,
                );
            }
        }
        all
    }

    /// Takes the weights of an adapter that was made before, so that the training goes on from
    /// there. The optimizer begins anew.
    ///
    /// # Errors
    /// When a file is unsound, the adapter is neither LoRA nor DoRA or gives some matrices a rank or an
    /// alpha of their own, or it is none for these matrices of this base with this rank and scale, or
    /// has magnitudes where none are learned here, or has none where some are. Then nothing has
    /// changed.
    pub fn load_adapter(&mut self, folder: &Path) -> Result<(), TrainError> {
        let path = folder.join(CONFIG);
        let shape = Shape::read(&path)?;
        let peft = PeftConfig::read(folder).map_err(AdapterError::from)?;
        let named = peft.named_base.clone().unwrap_or_default();
        let wrong = |reason: String| {
            TrainError::Adapter(AdapterError::WrongBase {
                path: folder.to_owned(),
                base: "of this training".to_owned(),
                named: named.clone(),
                reason,
            })
        };
        let own = (self.lora.rank, self.lora.alpha, self.lora.rank_stabilized);
        let alpha = shape.lora_alpha as f32;
        let got = (shape.r, alpha, shape.use_rslora);
        if own != got {
            return Err(wrong(format!(
                "rank, alpha and rank stabilization are {got:?} there and {own:?} here"
            )));
        }
        if shape.use_dora != self.lora.dora {
            let reason = match shape.use_dora {
                true => "it has magnitudes (DoRA) and this training learns none: set dora",
                false => "it has no magnitudes and this training learns them: unset dora",
            };
            return Err(wrong(reason.to_owned()));
        }
        for (layer, target, _) in self.layout.pairs() {
            let module = self.base.module(layer, target);
            // All matrices have one rank and one scale here; what a pattern says otherwise of one
            // would be learned from at a wrong scale.
            if (peft.rank(&module), peft.alpha(&module)) != (shape.r, shape.lora_alpha) {
                let what = format!("a rank or an alpha of its own for {module:?}, in training,");
                return Err(AdapterError::Unsupported { path, what }.into());
            }
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
        let tensors = self.named();
        let known = |name: &str| tensors.iter().any(|tensor| tensor.name == name);
        if let Some(name) = file.names().into_iter().find(|name| !known(name)) {
            return Err(wrong(format!("it has {name:?}, which is no target here")));
        }
        let mut parameters = self.parameters.clone();
        for own in &tensors {
            let name = &own.name;
            let Ok(tensor) = file.tensor(name) else {
                return Err(wrong(format!("it has no {name:?}")));
            };
            if tensor.shape() != own.shape {
                let (got, want) = (tensor.shape(), &own.shape);
                return Err(wrong(format!("{name:?} has shape {got:?}, not {want:?}")));
            }
            let format = match tensor.dtype() {
                Dtype::F32 => PackedFormat::F32,
                Dtype::F16 => PackedFormat::F16,
                Dtype::BF16 => PackedFormat::BF16,
                other => return Err(malformed(format!("{name:?} is of {other:?}"))),
            };
            let mut values = vec![0.0; own.place.len()];
            dequantize(format, tensor.data(), &mut values)
                .map_err(|error| malformed(error.to_string()))?;
            if values.iter().any(|x| !x.is_finite()) {
                let (path, tensor) = (path.clone(), name.clone());
                return Err(AdapterError::NotFinite { path, tensor }.into());
            }
            let to = &mut parameters[own.place.clone()];
            own.in_order(|here, there| to[here].copy_from_slice(&values[there]));
        }
        self.parameters = parameters;
        self.drop_gradients();
        Ok(())
    }
}
