//! The matrices of a PEFT adapter, module by module, held against its configuration and the shapes of a
//! model: what adapters of decoders and of encoders have in common.
//!
//! The file may come from anybody. What the configuration says must be what the tensors are: every
//! module that it names has both of its matrices, no other module has any, all of them have the shapes
//! of the model's layers, and all lie in one place of it.
//!
//! What this module must never do: allocate what a file says; leave out a tensor that it does not know.

use std::collections::BTreeMap;

use crate::peft::PeftConfig;
use crate::tensor::{PackedTensor, RawTensor};

/// What the names of an adapter's tensors begin with.
pub const PREFIX: &str = "base_model.model.";

/// As much of what a file says as an error should repeat.
const SHORT: usize = 200;

/// Which matrices of a model an adapter may change.
#[derive(Debug, Clone, Copy)]
pub struct Changeable<'a> {
    /// How many layers it has.
    pub layers: usize,
    /// What its modules' names begin with, up to the number of the layer: one of these.
    pub places: &'a [&'a str],
    /// For each matrix of a layer its name there, its outputs and its inputs.
    pub parts: &'a [(&'static str, [usize; 2])],
    /// The largest rank.
    pub largest_rank: usize,
}

/// Both matrices of a module.
#[derive(Debug)]
pub struct LowRankPair {
    /// Which layer.
    pub layer: usize,
    /// Which of [`Changeable::parts`].
    pub part: usize,
    /// Its whole name.
    pub module: String,
    /// The inner side of both matrices, from 1 to the largest that is allowed.
    pub rank: usize,
    /// What their product is multiplied with.
    pub scale: f64,
    /// `[rank, inputs]`.
    pub a: PackedTensor,
    /// `[outputs, rank]`.
    pub b: PackedTensor,
}

impl LowRankPair {
    /// The name of one of its tensors.
    pub fn tensor(&self, factor: &str) -> String {
        format!("{PREFIX}{}.{factor}.weight", self.module)
    }
}

/// Why tensors are not those of an adapter of a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LowRankError {
    /// They contradict each other or the configuration.
    #[error("{0}")]
    Malformed(String),
    /// There is no implementation of this.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// They fit a model of other shapes.
    #[error("{0}")]
    WrongBase(String),
}

/// The matrices of one module, as far as they have been found.
#[derive(Default)]
struct Found {
    module: String,
    a: Option<PackedTensor>,
    b: Option<PackedTensor>,
}

/// Collects an adapter's matrices, tensor by tensor.
pub struct LowRankPairs<'a> {
    peft: &'a PeftConfig,
    of: Changeable<'a>,
    /// Where all modules lie that were found.
    place: Option<&'a str>,
    found: BTreeMap<(usize, usize), Found>,
}

impl<'a> LowRankPairs<'a> {
    /// Nothing found yet.
    pub fn new(peft: &'a PeftConfig, of: Changeable<'a>) -> Self {
        Self {
            peft,
            of,
            place: None,
            found: BTreeMap::new(),
        }
    }

    /// Whether no matrix was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Takes a tensor of the adapter's file.
    ///
    /// # Errors
    /// When it is none of a matrix that may be changed, or of one that the configuration does not
    /// target, or not of floats.
    pub fn take(&mut self, name: &str, tensor: &RawTensor) -> Result<(), LowRankError> {
        let short = short(name);
        let unknown = || LowRankError::Unsupported(format!("the tensor {short:?}"));
        if name.contains("lora_magnitude_vector") {
            return Err(LowRankError::Unsupported(format!("DoRA ({short:?})")));
        }
        let module = name.strip_prefix(PREFIX).ok_or_else(unknown)?;
        let (module, is_a) = match module.strip_suffix(".lora_A.weight") {
            Some(module) => (module, true),
            None => {
                let module = module.strip_suffix(".lora_B.weight");
                (module.ok_or_else(unknown)?, false)
            }
        };
        let (place, layer, part) = self.parse(module).ok_or_else(unknown)?;
        if layer >= self.of.layers {
            return Err(LowRankError::WrongBase(format!(
                "{module:?} is changed, but it has {} layers",
                self.of.layers
            )));
        }
        if !self.peft.targets(module, layer) {
            return Err(LowRankError::Malformed(format!(
                "it has {short:?}, which its configuration does not target"
            )));
        }
        let first = *self.place.get_or_insert(place);
        if first != place {
            return Err(LowRankError::Malformed(format!(
                "it changes modules in two places of the model, {first:?} and {place:?}"
            )));
        }
        let packed = tensor.packed();
        let packed =
            packed.ok_or_else(|| LowRankError::Malformed(format!("{short:?} is not of floats")))?;
        let found = self.found.entry((layer, part)).or_default();
        module.clone_into(&mut found.module);
        *(if is_a { &mut found.a } else { &mut found.b }) = Some(packed);
        Ok(())
    }

    /// All pairs, by layer and part.
    ///
    /// # Errors
    /// When one of a module's matrices is missing, or a module that the configuration names, or a
    /// matrix has another shape.
    pub fn finish(self) -> Result<Vec<LowRankPair>, LowRankError> {
        self.check_complete()?;
        let (peft, of) = (self.peft, self.of);
        let found = self.found.into_iter();
        found
            .map(|((layer, part), found)| pair(peft, of, (layer, part), found))
            .collect()
    }

    /// Every module that the configuration names has to be there, in the place of the others: a
    /// configuration that targets other places than these has no tensors for them.
    fn check_complete(&self) -> Result<(), LowRankError> {
        let Some(place) = self.place else {
            return Ok(());
        };
        for layer in 0..self.of.layers {
            for (part, (name, _)) in self.of.parts.iter().enumerate() {
                let module = format!("{place}{layer}.{name}");
                let here = self.found.contains_key(&(layer, part));
                if self.peft.targets(&module, layer) && !here {
                    return Err(LowRankError::Malformed(format!(
                        "its configuration targets {module:?}, which has no tensors in it"
                    )));
                }
            }
        }
        Ok(())
    }

    /// The place, the layer and the part of it that a module is.
    fn parse(&self, module: &str) -> Option<(&'a str, usize, usize)> {
        let mut places = self.of.places.iter();
        let (place, within) =
            places.find_map(|place| Some((*place, module.strip_prefix(place)?)))?;
        let (layer, name) = within.split_once('.')?;
        if layer.len() > 9 || !layer.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let part = self.of.parts.iter().position(|(own, _)| *own == name)?;
        Some((place, layer.parse().ok()?, part))
    }
}

fn pair(
    peft: &PeftConfig,
    of: Changeable<'_>,
    (layer, part): (usize, usize),
    found: Found,
) -> Result<LowRankPair, LowRankError> {
    let module = found.module;
    let (a, b) = match (found.a, found.b) {
        (Some(a), Some(b)) => (a, b),
        (a, _) => {
            let missing = if a.is_none() { "lora_A" } else { "lora_B" };
            let reason = format!("{module:?} has no {missing}");
            return Err(LowRankError::Malformed(reason));
        }
    };
    let (_, [outputs, inputs]) = of.parts[part];
    let rank = peft.rank(&module);
    if rank == 0 || rank > of.largest_rank {
        return Err(LowRankError::Unsupported(format!(
            "rank {rank} of {module:?}"
        )));
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
        let is_rank = got.len() == 2 && got[1 - own] == want[1 - own];
        return Err(match is_rank {
            true => LowRankError::Malformed(format!(
                "{reason}, which its configuration says the rank is"
            )),
            false => LowRankError::WrongBase(reason),
        });
    }
    Ok(LowRankPair {
        layer,
        part,
        rank,
        scale: peft.scale(&module, rank),
        module,
        a,
        b,
    })
}

/// As much of what a file says as an error should repeat.
fn short(text: &str) -> String {
    text.chars().take(SHORT).collect()
}
