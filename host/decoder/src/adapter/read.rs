//! Reads a PEFT folder for a base.
//!
//! The folder may come from anybody. What the configuration says must be what the weights are:
//! every module that it names has both of its matrices, no other module has any, and all of them
//! have the shapes of the base's layers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_kernels::PageMemory;
use skep_kernels::lora::{Factor, LARGEST_RANK, LowRankLayout, LowRankShape};
use skep_kernels::rows::RopeLayout;
use skep_weights::{PackedTensor, PeftConfig, SafetensorsFolder};

use super::{Adapter, AdapterError, AdapterTarget, AdapterWeights, BaseShape};
use crate::config::Config;

/// What the names of tensors begin with.
const PREFIX: &str = "base_model.model.";
/// What comes before `layers.` in the name of a module: the last two in multimodal models.
const PLACES: [&str; 3] = ["model.", "model.language_model.", "language_model.model."];
/// The largest magnitude of a stored element lies below two to this power.
const TOP: i32 = 15;

pub(super) struct Reader<'a> {
    folder: &'a Path,
    file: PathBuf,
    config: &'a Config,
    base: BaseShape,
    base_name: &'a str,
    page_bytes: usize,
}

/// The matrices of one module, as far as they have been found.
#[derive(Default)]
struct Found {
    module: String,
    a: Option<PackedTensor>,
    b: Option<PackedTensor>,
}

/// A module's matrices, checked.
struct Pair {
    layer: usize,
    target: AdapterTarget,
    shape: LowRankShape,
    scale: f64,
    module: String,
    a: PackedTensor,
    b: PackedTensor,
}

impl<'a> Reader<'a> {
    pub fn new(
        folder: &'a Path,
        config: &'a Config,
        base_name: &'a str,
        page_bytes: usize,
    ) -> Self {
        Self {
            folder,
            file: folder.join("adapter_model.safetensors"),
            config,
            base: BaseShape::of(config),
            base_name,
            page_bytes,
        }
    }

    pub fn read(&self) -> Result<AdapterWeights, AdapterError> {
        let peft = PeftConfig::read(self.folder)?;
        if !peft.saved.is_empty() {
            let path = self.folder.join("adapter_config.json");
            let what = "\"modules_to_save\"".to_owned();
            return Err(AdapterError::Unsupported { path, what });
        }
        let tensors = SafetensorsFolder::open_file(&self.file)?;
        let found = self.find(&tensors, &peft)?;
        self.check_complete(&found, &peft)?;
        let mut pairs = Vec::with_capacity(found.len());
        for ((layer, target), found) in found {
            pairs.push(self.pair(layer, AdapterTarget::ALL[target], found, &peft)?);
        }
        let shapes: Vec<_> = pairs.iter().map(|pair| pair.shape).collect();
        let layout = LowRankLayout::new(self.page_bytes, &shapes)?;
        let mut memory = PageMemory::new(self.page_bytes, layout.pages());
        let mut places = vec![[None; AdapterTarget::ALL.len()]; self.base.layers];
        for (number, pair) in pairs.iter().enumerate() {
            let scale = self.write(&layout, &mut memory, number, pair)?;
            places[pair.layer][pair.target as usize] = Some((number, scale));
        }
        Ok(AdapterWeights {
            adapter: Arc::new(Adapter {
                base: self.base,
                named_base: peft.named_base,
                rank: shapes.iter().map(|shape| shape.rank).max().unwrap_or(0),
                layout,
                pairs: places,
            }),
            memory,
        })
    }

    /// The matrices by layer and target, in the order in which layers use them.
    fn find(
        &self,
        tensors: &SafetensorsFolder,
        peft: &PeftConfig,
    ) -> Result<BTreeMap<(usize, usize), Found>, AdapterError> {
        let mut all: BTreeMap<(usize, usize), Found> = BTreeMap::new();
        for (name, tensor) in tensors.tensors() {
            let short: String = name.chars().take(200).collect();
            let unknown = || self.unsupported(format!("the tensor {short:?}"));
            if name.contains("lora_magnitude_vector") {
                return Err(self.unsupported(format!("DoRA ({short:?})")));
            }
            let module = name.strip_prefix(PREFIX).ok_or_else(unknown)?;
            let (module, is_a) = match module.strip_suffix(".lora_A.weight") {
                Some(module) => (module, true),
                None => {
                    let module = module.strip_suffix(".lora_B.weight");
                    (module.ok_or_else(unknown)?, false)
                }
            };
            let (layer, target) = parse(module).ok_or_else(unknown)?;
            if layer >= self.base.layers {
                let layers = self.base.layers;
                let reason = format!("{module:?} is changed, but the base has {layers} layers");
                return Err(self.wrong_base(peft, reason));
            }
            if !peft.targets(module, layer) {
                let reason = format!("it has {short:?}, which its configuration does not target");
                return Err(self.malformed(reason));
            }
            let tensor = tensor
                .packed()
                .ok_or_else(|| self.malformed(format!("{short:?} is not of floats")))?;
            let found = all.entry((layer, target as usize)).or_default();
            if !found.module.is_empty() && found.module != module {
                let reason = format!("{:?} and {module:?} are the same module", found.module);
                return Err(self.malformed(reason));
            }
            module.clone_into(&mut found.module);
            *(if is_a { &mut found.a } else { &mut found.b }) = Some(tensor);
        }
        Ok(all)
    }

    /// Every module that the configuration names has to be there.
    fn check_complete(
        &self,
        found: &BTreeMap<(usize, usize), Found>,
        peft: &PeftConfig,
    ) -> Result<(), AdapterError> {
        let Some(first) = found.values().next() else {
            return Err(self.malformed("it has no tensors".to_owned()));
        };
        // All in the place of one: a configuration that targets other places is caught above.
        let place = first.module.split("layers.").next().unwrap_or_default();
        for layer in 0..self.base.layers {
            for target in AdapterTarget::ALL {
                let module = format!("{place}layers.{layer}.{}", target.name());
                if peft.targets(&module, layer) && !found.contains_key(&(layer, target as usize)) {
                    let reason =
                        format!("its configuration targets {module:?}, which has no tensors in it");
                    return Err(self.malformed(reason));
                }
            }
        }
        Ok(())
    }

    fn pair(
        &self,
        layer: usize,
        target: AdapterTarget,
        found: Found,
        peft: &PeftConfig,
    ) -> Result<Pair, AdapterError> {
        let module = found.module;
        let (a, b) = match (found.a, found.b) {
            (Some(a), Some(b)) => (a, b),
            (a, _) => {
                let missing = if a.is_none() { "lora_A" } else { "lora_B" };
                return Err(self.malformed(format!("{module:?} has no {missing}")));
            }
        };
        let [outputs, inputs] = self.base.matrix(target);
        let rank = peft.rank(&module);
        if rank == 0 || rank > LARGEST_RANK {
            return Err(self.unsupported(format!("rank {rank} of {module:?}")));
        }
        for (name, tensor, want) in [
            ("lora_A", &a, [rank, inputs]),
            ("lora_B", &b, [outputs, rank]),
        ] {
            let want = want.map(|side| side as u64);
            if tensor.shape() == want {
                continue;
            }
            let got = tensor.shape();
            let reason = format!("{name} of {module:?} is {got:?}, not {want:?}");
            // Which side is wrong tells whose fault it is.
            let (side, fixed) = match name {
                "lora_A" => (0, 1),
                _ => (1, 0),
            };
            if got.len() == 2 && got[fixed] == want[fixed] && got[side] != want[side] {
                let reason = format!("{reason}, which its configuration says the rank is");
                return Err(self.malformed(reason));
            }
            return Err(self.wrong_base(peft, reason));
        }
        Ok(Pair {
            layer,
            target,
            shape: LowRankShape {
                inputs,
                outputs,
                rank,
            },
            scale: peft.scale(&module, rank),
            module,
            a,
            b,
        })
    }

    /// Writes a pair to its place and returns what its product is multiplied with.
    fn write(
        &self,
        layout: &LowRankLayout,
        memory: &mut PageMemory,
        number: usize,
        pair: &Pair,
    ) -> Result<f32, AdapterError> {
        let LowRankShape { outputs, rank, .. } = pair.shape;
        let pages: Vec<u32> = (0..layout.pages() as u32).collect();
        let name = |factor: &str| format!("{PREFIX}{}.{factor}.weight", pair.module);
        let (a, grown_a) = self.values(&pair.a, name("lora_A"))?;
        let (b, grown_b) = self.values(&pair.b, name("lora_B"))?;
        for (row, values) in a.chunks_exact(pair.shape.inputs).enumerate() {
            layout.write(memory, &pages, number, Factor::A, row, values)?;
        }
        let mut column = vec![0.0; outputs];
        for row in 0..rank {
            for (output, to) in column.iter_mut().enumerate() {
                *to = b[self.output(pair.target, output) * rank + row];
            }
            layout.write(memory, &pages, number, Factor::B, row, &column)?;
        }
        let scale = (pair.scale * 2.0_f64.powi(-grown_a - grown_b)) as f32;
        if !scale.is_finite() {
            return Err(AdapterError::NotFinite {
                path: self.file.clone(),
                tensor: name("lora_B"),
            });
        }
        Ok(scale)
    }

    /// A matrix's elements, times two to the power that is returned with them.
    fn values(&self, tensor: &PackedTensor, name: String) -> Result<(Vec<f32>, i32), AdapterError> {
        let mut values = vec![0.0; tensor.rows() * tensor.columns()];
        if tensor.check_finite().is_err() || tensor.dequantize(&mut values).is_err() {
            return Err(AdapterError::NotFinite {
                path: self.file.clone(),
                tensor: name,
            });
        }
        let most = values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        if most == 0.0 {
            return Ok((values, 0));
        }
        // Both powers are ones that a 32-bit float has.
        let power = (TOP - 1 - most.log2().floor() as i32).clamp(-126, 126);
        let factor = 2.0_f32.powi(power);
        for value in &mut values {
            *value *= factor;
        }
        Ok((values, power))
    }

    /// Which of the adapter's outputs an output of the base's matrix is: where the base has the
    /// two parts of a rotary pair side by side, its queries and keys are in another order.
    fn output(&self, target: AdapterTarget, output: usize) -> usize {
        let turns = matches!(target, AdapterTarget::Query | AdapterTarget::Key);
        if !turns || self.config.rope_layout == RopeLayout::Halves {
            return output;
        }
        let dim = self.config.head_dim;
        let (head, place) = (output / dim, output % dim);
        head * dim + place / 2 + place % 2 * (dim / 2)
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
        let named = peft
            .named_base
            .as_deref()
            .unwrap_or("a base without a name");
        AdapterError::WrongBase {
            path: self.folder.to_owned(),
            base: self.base_name.to_owned(),
            named: named.chars().take(200).collect(),
            reason,
        }
    }
}

/// The layer and the matrix that a module is.
fn parse(module: &str) -> Option<(usize, AdapterTarget)> {
    let within = PLACES
        .iter()
        .find_map(|place| module.strip_prefix(place)?.strip_prefix("layers."))?;
    let (layer, name) = within.split_once('.')?;
    if layer.len() > 9 || !layer.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let target = AdapterTarget::ALL.into_iter().find(|t| t.name() == name)?;
    Some((layer.parse().ok()?, target))
}
