//! The matrices of a PEFT adapter, module by module, held against its configuration and the shapes of a
//! model: what adapters of decoders and of encoders have in common.
//!
//! The file may come from anybody. What the configuration says must be what the tensors are: every
//! module that it names has both of its matrices, and a vector of magnitudes where the configuration says
//! so (DoRA, arXiv 2402.09353, section 4), no other module has any, all of them have the shapes of the
//! model's layers, and all lie in one place of it.
//!
//! What this module must never do: allocate what a file says; leave out a tensor that it does not know.

use std::collections::BTreeMap;

use crate::peft::PeftConfig;
use crate::tensor::{PackedTensor, RawTensor};

/// What the names of an adapter's tensors begin with.
pub const PREFIX: &str = "base_model.model.";

/// What the name of a vector of magnitudes has after its module's.
const MAGNITUDE: &str = "lora_magnitude_vector";

/// What the names of a module's tensors end with.
const ENDS: [(&str, Piece); 3] = [
    (".lora_A.weight", Piece::A),
    (".lora_B.weight", Piece::B),
    (".lora_magnitude_vector", Piece::Magnitude),
];

/// As much of what a file says as an error should repeat.
const SHORT: usize = 200;

/// A tensor of a module.
#[derive(Clone, Copy)]
enum Piece {
    A,
    B,
    Magnitude,
}

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

/// Both matrices of a module, and what they come with.
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
    /// `[outputs]`: the length that each row of the changed matrix is brought to. All pairs have it
    /// or none, as [`PeftConfig::magnitudes`] says.
    pub magnitude: Option<PackedTensor>,
}

impl LowRankPair {
    /// The name of one of its matrices' tensors.
    pub fn tensor(&self, factor: &str) -> String {
        format!("{PREFIX}{}.{factor}.weight", self.module)
    }

    /// The name that the tensor of its magnitudes has.
    pub fn magnitude_tensor(&self) -> String {
        format!("{PREFIX}{}.{MAGNITUDE}", self.module)
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

/// The tensors of one module, as far as they have been found.
#[derive(Default)]
struct Found {
    module: String,
    a: Option<PackedTensor>,
    b: Option<PackedTensor>,
    magnitude: Option<PackedTensor>,
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
    /// target, or a magnitude that the configuration does not tell of, or not of floats.
    pub fn take(&mut self, name: &str, tensor: &RawTensor) -> Result<(), LowRankError> {
        let short = short(name);
        let unknown = || LowRankError::Unsupported(format!("the tensor {short:?}"));
        let module = name.strip_prefix(PREFIX).ok_or_else(unknown)?;
        let (module, piece) = ENDS
            .iter()
            .find_map(|(end, piece)| Some((module.strip_suffix(*end)?, *piece)))
            .ok_or_else(unknown)?;
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
        if matches!(piece, Piece::Magnitude) && !self.peft.magnitudes() {
            return Err(LowRankError::Malformed(format!(
                "it has {short:?}, and its configuration does not say \"use_dora\""
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
        let to = match piece {
            Piece::A => &mut found.a,
            Piece::B => &mut found.b,
            Piece::Magnitude => &mut found.magnitude,
        };
        *to = Some(packed);
        Ok(())
    }

    /// All pairs, by layer and part.
    ///
    /// # Errors
    /// When one of a module's matrices or its magnitude is missing, or a module that the configuration
    /// names, or a tensor has another shape.
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
    if peft.magnitudes() && found.magnitude.is_none() {
        let reason =
            format!("{module:?} has no {MAGNITUDE}, and its configuration says \"use_dora\"");
        return Err(LowRankError::Malformed(reason));
    }
    if let Some(magnitude) = &found.magnitude {
        let (got, want) = (magnitude.shape(), [outputs as u64]);
        if got != want {
            return Err(LowRankError::WrongBase(format!(
                "{MAGNITUDE} of {module:?} is {got:?}, not {want:?}"
            )));
        }
    }
    Ok(LowRankPair {
        layer,
        part,
        rank,
        scale: peft.scale(&module, rank),
        module,
        a,
        b,
        magnitude: found.magnitude,
    })
}

/// As much of what a file says as an error should repeat.
fn short(text: &str) -> String {
    text.chars().take(SHORT).collect()
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;
    use crate::source::Source;

    const QUERY: &str = "base_model.model.model.layers.0.q_proj";
    const VALUE: &str = "base_model.model.model.layers.0.v_proj";
    const OF: Changeable<'static> = Changeable {
        layers: 1,
        places: &["model.layers."],
        parts: &[("q_proj", [3, 2]), ("v_proj", [4, 2])],
        largest_rank: 8,
    };

    fn config(settings: &str) -> PeftConfig {
        let folder = tempfile::tempdir().unwrap();
        let text =
            format!(r#"{{"peft_type": "LORA", "target_modules": ["q_proj"], "r": 1 {settings}}}"#);
        std::fs::write(folder.path().join("adapter_config.json"), text).unwrap();
        PeftConfig::read(folder.path()).unwrap()
    }

    fn tensor(shape: &[u64]) -> RawTensor {
        let elements: u64 = shape.iter().product();
        let bytes: Vec<u8> = (0..elements)
            .flat_map(|i| (i as f32).to_le_bytes())
            .collect();
        let range = 0..bytes.len();
        let source = Source::owned("memory", bytes);
        RawTensor::new(Dtype::F32, shape.into(), source, range)
    }

    /// The pairs of matrices of the query, with a tensor of this name and shape beside them.
    fn pairs(
        peft: &PeftConfig,
        other: Option<(&str, &[u64])>,
    ) -> Result<Vec<LowRankPair>, LowRankError> {
        let mut pairs = LowRankPairs::new(peft, OF);
        pairs.take(&format!("{QUERY}.lora_A.weight"), &tensor(&[1, 2]))?;
        pairs.take(&format!("{QUERY}.lora_B.weight"), &tensor(&[3, 1]))?;
        if let Some((name, shape)) = other {
            pairs.take(name, &tensor(shape))?;
        }
        pairs.finish()
    }

    #[test]
    fn magnitudes_come_with_their_pairs() {
        let name = format!("{QUERY}.lora_magnitude_vector");
        let dora = config(r#", "use_dora": true"#);
        let found = pairs(&dora, Some((name.as_str(), &[3][..]))).unwrap();
        let [pair] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(pair.magnitude_tensor(), name);
        let mut values = [9.0; 3];
        let magnitude = pair.magnitude.as_ref().unwrap();
        magnitude.dequantize(&mut values).unwrap();
        assert_eq!(values, [0.0, 1.0, 2.0]);
        assert_eq!(pair.b.shape(), [3, 1]);
        let plain = pairs(&config(""), None).unwrap();
        assert!(plain.iter().all(|pair| pair.magnitude.is_none()));
    }

    #[test]
    fn magnitudes_are_what_the_configuration_says() {
        let (plain, dora) = (config(""), config(r#", "use_dora": true"#));
        let query = format!("{QUERY}.lora_magnitude_vector");
        let value = format!("{VALUE}.lora_magnitude_vector");
        for (peft, other, named) in [
            (&dora, None, "has no lora_magnitude_vector"),
            (&plain, Some((&query, [3])), "use_dora"),
            (&dora, Some((&value, [4])), "does not target"),
        ] {
            let other = other
                .as_ref()
                .map(|(name, shape)| (name.as_str(), &shape[..]));
            let error = pairs(peft, other).unwrap_err();
            assert!(matches!(error, LowRankError::Malformed(_)), "{error}");
            assert!(error.to_string().contains(named), "{error}");
        }
        for shape in [&[4_u64][..], &[3, 1], &[1, 3], &[]] {
            let error = pairs(&dora, Some((query.as_str(), shape))).unwrap_err();
            assert!(matches!(error, LowRankError::WrongBase(_)), "{error}");
            assert!(error.to_string().contains("not [3]"), "{error}");
        }
    }
}
