//! Reads a PEFT folder for an encoder.
//!
//! The folder may come from anybody. What the configuration says must be what the weights are: every
//! module that it names has both of its matrices, no other has any, and all have the shapes of the
//! encoder's layers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skep_tensor::operators::{Isa, Linear, Precision};
use skep_weights::{PackedTensor, PeftConfig, RawTensor, SafetensorsFolder};

use super::{AdapterError, BaseShape, EncoderAdapter, LowRank, Part};
use crate::encoder::Encoder;

/// What the names of tensors begin with.
const PREFIX: &str = "base_model.model.";
/// What comes then where the encoder is a part of a model for some task.
const WITHIN: &str = "bert.";
/// The layer over what is pooled.
const HEAD: &str = "score";
/// The largest rank of an adapter's matrices.
const LARGEST_RANK: usize = 1024;
/// The most classes of a layer for classes.
const MOST_CLASSES: usize = 1 << 16;

pub(super) struct Reader<'a> {
    folder: &'a Path,
    file: PathBuf,
    shape: BaseShape,
    isa: Isa,
}

/// The matrices of one module, as far as they have been found.
#[derive(Default)]
struct Found {
    module: String,
    a: Option<PackedTensor>,
    b: Option<PackedTensor>,
}

/// All that a file has.
#[derive(Default)]
struct Contents {
    /// By layer and part.
    pairs: BTreeMap<(usize, usize), Found>,
    head: Option<PackedTensor>,
    head_bias: Option<PackedTensor>,
}

impl<'a> Reader<'a> {
    pub fn new(folder: &'a Path, encoder: &Encoder) -> Self {
        Self {
            folder,
            file: folder.join("adapter_model.safetensors"),
            shape: encoder.shape(),
            isa: encoder.isa(),
        }
    }

    pub fn read(&self) -> Result<EncoderAdapter, AdapterError> {
        let peft = PeftConfig::read(self.folder)?;
        if let Some(other) = peft.saved.iter().find(|name| *name != HEAD) {
            return Err(self.unsupported(format!("the module {:?}, saved whole,", short(other))));
        }
        let tensors = SafetensorsFolder::open_file(&self.file)?;
        let mut found = Contents::default();
        for (name, tensor) in tensors.tensors() {
            self.take(&mut found, &peft, name, tensor)?;
        }
        if found.head.is_some() == peft.saved.is_empty() {
            let reason = match peft.saved.is_empty() {
                true => format!("{HEAD:?} is in it, which its configuration does not name"),
                false => format!("its configuration names {HEAD:?}, which is not in it"),
            };
            return Err(self.malformed(reason));
        }
        if found.head.is_none() && (found.pairs.is_empty() || found.head_bias.is_some()) {
            return Err(self.malformed("it has no matrices".to_owned()));
        }
        self.check_complete(&found, &peft)?;
        let mut layers = Vec::new();
        layers.resize_with(self.shape.layers, || [const { None }; Part::ALL.len()]);
        let mut rank = 0;
        for ((layer, part), found) in found.pairs {
            let pair = self.pair(Part::ALL[part], found, &peft)?;
            rank = rank.max(pair.inside.outputs());
            layers[layer][part] = Some(pair);
        }
        let head = found
            .head
            .map(|head| self.head(&head, found.head_bias.as_ref(), &peft));
        Ok(EncoderAdapter {
            isa: self.isa,
            shape: self.shape,
            layers,
            head: head.transpose()?,
            rank,
            named_base: peft.named_base,
        })
    }

    fn take(
        &self,
        found: &mut Contents,
        peft: &PeftConfig,
        name: &str,
        tensor: &RawTensor,
    ) -> Result<(), AdapterError> {
        let short = short(name);
        let unknown = || self.unsupported(format!("the tensor {short:?}"));
        let full = name.strip_prefix(PREFIX).ok_or_else(unknown)?;
        let packed = || {
            let packed = tensor.packed();
            packed.ok_or_else(|| self.malformed(format!("{short:?} is not of floats")))
        };
        match full {
            "score.weight" => found.head = Some(packed()?),
            "score.bias" => found.head_bias = Some(packed()?),
            "classifier.weight" | "classifier.bias" => {
                return Err(self.unsupported(
                    "a layer \"classifier\", which stands over BERT's pooler and not over what is \
                     pooled here,"
                        .to_owned(),
                ));
            }
            _ => {
                let (module, is_a) = match full.strip_suffix(".lora_A.weight") {
                    Some(module) => (module, true),
                    None => {
                        let module = full.strip_suffix(".lora_B.weight");
                        (module.ok_or_else(unknown)?, false)
                    }
                };
                let (layer, part) = parse(module).ok_or_else(unknown)?;
                if layer >= self.shape.layers {
                    let layers = self.shape.layers;
                    let reason =
                        format!("{module:?} is changed, but the encoder has {layers} layers");
                    return Err(self.wrong_base(peft, reason));
                }
                if !peft.targets(module, layer) {
                    let reason =
                        format!("it has {short:?}, which its configuration does not target");
                    return Err(self.malformed(reason));
                }
                let pair = found.pairs.entry((layer, part as usize)).or_default();
                if !pair.module.is_empty() && pair.module != module {
                    let reason = format!("{:?} and {module:?} are the same module", pair.module);
                    return Err(self.malformed(reason));
                }
                module.clone_into(&mut pair.module);
                *(if is_a { &mut pair.a } else { &mut pair.b }) = Some(packed()?);
            }
        }
        Ok(())
    }

    /// Every module that the configuration names has to be there.
    fn check_complete(&self, found: &Contents, peft: &PeftConfig) -> Result<(), AdapterError> {
        let first = found.pairs.values().next();
        let within = match first.is_some_and(|first| first.module.starts_with(WITHIN)) {
            true => WITHIN,
            false => "",
        };
        for layer in 0..self.shape.layers {
            for part in Part::ALL {
                let module = format!("{within}encoder.layer.{layer}.{}", part.name());
                let here = found.pairs.contains_key(&(layer, part as usize));
                if peft.targets(&module, layer) && !here {
                    let reason =
                        format!("its configuration targets {module:?}, which has no tensors in it");
                    return Err(self.malformed(reason));
                }
            }
        }
        Ok(())
    }

    fn pair(&self, part: Part, found: Found, peft: &PeftConfig) -> Result<LowRank, AdapterError> {
        let module = found.module;
        let (a, b) = match (found.a, found.b) {
            (Some(a), Some(b)) => (a, b),
            (a, _) => {
                let missing = if a.is_none() { "lora_A" } else { "lora_B" };
                return Err(self.malformed(format!("{module:?} has no {missing}")));
            }
        };
        let [outputs, inputs] = self.shape.matrix(part);
        let rank = peft.rank(&module);
        if rank == 0 || rank > LARGEST_RANK {
            return Err(self.unsupported(format!("rank {rank} of {module:?}")));
        }
        for (name, tensor, want, own) in [
            ("lora_A", &a, [rank, inputs], 0),
            ("lora_B", &b, [outputs, rank], 1),
        ] {
            let (got, want) = (tensor.shape(), want.map(|side| side as u64));
            if got == want {
                continue;
            }
            let reason = format!("{name} of {module:?} is {got:?}, not {want:?}");
            // Which side is wrong tells whose fault it is.
            if got.len() == 2 && got[1 - own] == want[1 - own] {
                let reason = format!("{reason}, which its configuration says the rank is");
                return Err(self.malformed(reason));
            }
            return Err(self.wrong_base(peft, reason));
        }
        let scale = peft.scale(&module, rank);
        let full = |factor: &str| format!("{PREFIX}{module}.{factor}.weight");
        Ok(LowRank {
            inside: self.packed(&a, &full("lora_A"), 1.0, &vec![0.0; rank])?,
            outside: self.packed(&b, &full("lora_B"), scale, &vec![0.0; outputs])?,
        })
    }

    fn head(
        &self,
        weight: &PackedTensor,
        bias: Option<&PackedTensor>,
        peft: &PeftConfig,
    ) -> Result<Linear, AdapterError> {
        let name = format!("{PREFIX}{HEAD}.weight");
        let &[classes, width] = weight.shape() else {
            return Err(self.malformed(format!("{name:?} is no matrix")));
        };
        if width != self.shape.width as u64 {
            let reason = format!(
                "{name:?} is [{classes}, {width}], and the encoder's texts have {}",
                self.shape.width
            );
            return Err(self.wrong_base(peft, reason));
        }
        let classes = usize::try_from(classes).unwrap_or(usize::MAX);
        if !(1..=MOST_CLASSES).contains(&classes) {
            return Err(self.unsupported(format!("a layer of {classes} classes")));
        }
        let mut added = vec![0.0; classes];
        if let Some(bias) = bias {
            let name = format!("{PREFIX}{HEAD}.bias");
            if bias.shape() != [classes as u64] {
                let got = bias.shape();
                return Err(self.malformed(format!("{name:?} is {got:?}, not [{classes}]")));
            }
            added = self.values(bias, &name, 1.0)?;
        }
        self.packed(weight, &name, 1.0, &added)
    }

    /// A matrix times the scale, with a bias, ready to be multiplied with.
    fn packed(
        &self,
        tensor: &PackedTensor,
        name: &str,
        scale: f64,
        bias: &[f32],
    ) -> Result<Linear, AdapterError> {
        let values = self.values(tensor, name, scale)?;
        let (rows, columns) = (bias.len(), tensor.columns());
        let row = |j: usize, to: &mut [f32]| {
            to.copy_from_slice(&values[j * columns..(j + 1) * columns]);
        };
        Ok(Linear::pack(
            self.isa,
            Precision::F32,
            columns,
            rows,
            bias,
            row,
        )?)
    }

    fn values(
        &self,
        tensor: &PackedTensor,
        name: &str,
        scale: f64,
    ) -> Result<Vec<f32>, AdapterError> {
        let mut values = vec![0.0; tensor.rows() * tensor.columns()];
        let read = tensor.dequantize(&mut values);
        for value in &mut values {
            *value = (f64::from(*value) * scale) as f32;
        }
        if read.is_err() || values.iter().any(|x| !x.is_finite()) {
            return Err(AdapterError::NotFinite {
                path: self.file.clone(),
                tensor: name.to_owned(),
            });
        }
        Ok(values)
    }

    fn malformed(&self, reason: String) -> AdapterError {
        AdapterError::Malformed {
            path: self.file.clone(),
            reason,
        }
    }

    fn unsupported(&self, what: String) -> AdapterError {
        AdapterError::Unsupported {
            path: self.file.clone(),
            what,
        }
    }

    fn wrong_base(&self, peft: &PeftConfig, reason: String) -> AdapterError {
        let named = peft.named_base.as_deref();
        AdapterError::WrongBase {
            path: self.folder.to_owned(),
            named: short(named.unwrap_or("a base without a name")),
            reason,
        }
    }
}

/// As much of what a file says as an error should repeat.
fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

/// The layer and the part of it that a module is.
fn parse(module: &str) -> Option<(usize, Part)> {
    let module = module.strip_prefix(WITHIN).unwrap_or(module);
    let (layer, name) = module.strip_prefix("encoder.layer.")?.split_once('.')?;
    if layer.len() > 9 || !layer.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = Part::ALL.into_iter().find(|part| part.name() == name)?;
    Some((layer.parse().ok()?, part))
}
