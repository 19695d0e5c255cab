//! Which matrices an adapter changes, and where its parameters lie.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use skep_decoder::AdapterTarget;
use skep_weights::ModulePattern;
use skep_weights::pattern::PATTERN_BYTES;

use crate::base::Base;
use crate::error::TrainError;
use crate::random::{hash, uniform};

/// The largest rank: that of the engine's adapters.
const LARGEST_RANK: usize = 1024;

/// A choice of a model's linear layers, by names like `model.layers.0.self_attn.q_proj` or
/// `encoder.layer.0.attention.self.query`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Targets {
    /// Every linear layer but the output layer.
    AllLinear,
    /// Those that have one of these names, or whose name ends with one after a dot. With no name,
    /// and classes to learn, the model stays as it is and the layer over it learns alone.
    Named(Vec<String>),
    /// Those whose whole name matches a regular expression, read as an adapter's file is.
    Pattern(String),
}

/// What an adapter is made like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// The inner side of both matrices.
    pub rank: usize,
    /// What the adapter is scaled by, times the rank or its root.
    pub alpha: f32,
    /// The share of an adapter's inputs that is dropped in training.
    pub dropout: f32,
    /// Whether the scale is `alpha / sqrt(rank)` rather than `alpha / rank` (arXiv 2312.03732).
    pub rank_stabilized: bool,
    /// Whether the length of each row of a changed matrix is learned apart from its direction, which
    /// the adapter changes (DoRA, arXiv 2402.09353). What was kept before there was any does not say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dora: bool,
    /// The linear layers that are changed.
    pub targets: Targets,
    /// What the first weights and dropped inputs are made from.
    pub seed: u64,
}

impl Default for LoraConfig {
    /// Rank 16 with twice that as alpha, on every linear layer, without dropout.
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            rank_stabilized: false,
            dora: false,
            targets: Targets::AllLinear,
            seed: 0,
        }
    }
}

impl LoraConfig {
    /// What an adapter's products are multiplied with.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f64;
        let by = if self.rank_stabilized {
            rank.sqrt()
        } else {
            rank
        };
        (f64::from(self.alpha) / by) as f32
    }

    fn check(&self) -> Result<(), TrainError> {
        let wrong = |what, got: String, want| Err(TrainError::Setting { what, got, want });
        if !(1..=LARGEST_RANK).contains(&self.rank) {
            return wrong("the rank", self.rank.to_string(), "from 1 to 1024");
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return wrong("alpha", self.alpha.to_string(), "a number above 0");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            let want = "a number of at least 0 and below 1";
            return wrong("the dropout", self.dropout.to_string(), want);
        }
        Ok(())
    }
}

/// The parameters of one changed matrix among all. Those of B follow those of A, and the magnitudes
/// those of B.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// `[rank, inputs]`.
    pub a: Range<usize>,
    /// `[outputs, rank]`.
    pub b: Range<usize>,
    /// `[outputs]`: the lengths that the rows of the changed matrix are brought to, where they are
    /// learned.
    pub magnitude: Option<Range<usize>>,
    /// Columns of the matrix that is changed.
    pub inputs: usize,
    /// Its rows.
    pub outputs: usize,
}

impl Pair {
    /// Of what lies as all parameters do, what is A's, B's and the magnitudes'; the last is empty where
    /// there are none.
    pub(crate) fn parts<'a>(
        &self,
        all: &'a mut [f32],
    ) -> (&'a mut [f32], &'a mut [f32], &'a mut [f32]) {
        let magnitude = self.magnitude.clone().unwrap_or(self.b.end..self.b.end);
        let (a, rest) = all[self.a.start..magnitude.end].split_at_mut(self.a.len());
        let (b, magnitude) = rest.split_at_mut(self.b.len());
        (a, b, magnitude)
    }
}

/// Where all parameters lie: those of each layer's pairs, in order, then those of a classifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    layers: Vec<[Option<Pair>; AdapterTarget::ALL.len()]>,
    /// `[classes, width]`.
    pub classifier: Option<Range<usize>>,
    /// `[classes]`, where the base is an encoder.
    pub classifier_bias: Option<Range<usize>>,
    pub len: usize,
}

impl Layout {
    pub fn new(lora: &LoraConfig, base: &Base, classes: Option<usize>) -> Result<Self, TrainError> {
        lora.check()?;
        let chosen = Chosen::new(&lora.targets)?;
        let mut len = 0;
        let mut take = |count: usize| {
            len += count;
            len - count..len
        };
        let mut layers = Vec::new();
        for layer in 0..base.shape.layers {
            let mut pairs = [const { None }; AdapterTarget::ALL.len()];
            for (target, frozen) in base.linears(layer) {
                let (outputs, inputs) = (frozen.outputs(), frozen.inputs());
                if chosen.has(&base.module(layer, target)) {
                    pairs[target as usize] = Some(Pair {
                        a: take(lora.rank * inputs),
                        b: take(outputs * lora.rank),
                        magnitude: lora.dora.then(|| take(outputs)),
                        inputs,
                        outputs,
                    });
                }
            }
            layers.push(pairs);
        }
        let nothing = layers.iter().flatten().all(Option::is_none);
        let only_head = classes.is_some() && chosen.names().is_empty();
        if nothing && !only_head {
            return Err(TrainError::NoTarget {
                like: base.names_like(),
                patterns: chosen.names(),
            });
        }
        let (classifier, classifier_bias) = match classes {
            None if base.is_encoder() => {
                return Err(TrainError::Setting {
                    what: "the number of classes",
                    got: "none".to_owned(),
                    want: "given for a sentence encoder, which learns nothing else",
                });
            }
            None => (None, None),
            Some(classes @ 2..=65_536) => (
                Some(take(classes * base.shape.width)),
                base.is_encoder().then(|| take(classes)),
            ),
            Some(other) => {
                return Err(TrainError::Setting {
                    what: "the number of classes",
                    got: other.to_string(),
                    want: "from 2 to 65,536",
                });
            }
        };
        Ok(Self {
            layers,
            classifier,
            classifier_bias,
            len,
        })
    }

    /// The pairs of each layer.
    pub fn layers(&self) -> &[[Option<Pair>; AdapterTarget::ALL.len()]] {
        &self.layers
    }

    pub fn pair(&self, layer: usize, target: AdapterTarget) -> Option<&Pair> {
        self.layers[layer][target as usize].as_ref()
    }

    /// The first layer with a pair, or how many layers there are: no gradient goes further down.
    pub fn first_layer(&self) -> usize {
        let first = self.pairs().next();
        first.map_or(self.layers.len(), |(layer, _, _)| layer)
    }

    /// All pairs with their layers and targets, in the order in which they lie.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, AdapterTarget, &Pair)> {
        self.layers.iter().enumerate().flat_map(|(layer, pairs)| {
            let pairs = AdapterTarget::ALL.into_iter().zip(pairs);
            pairs.filter_map(move |(target, pair)| Some((layer, target, pair.as_ref()?)))
        })
    }

    /// The first weights: A as PyTorch begins a linear layer, B zero, so that an adapter begins
    /// by changing nothing (arXiv 2106.09685, section 4.1). Magnitudes are left at zero: they begin
    /// as the lengths of the base's rows, which are not known here.
    pub fn begin(&self, seed: u64, parameters: &mut [f32]) {
        parameters.fill(0.0);
        let even = |range: &Range<usize>, bound: f32, parameters: &mut [f32]| {
            for at in range.clone() {
                parameters[at] = (2.0 * uniform(hash(seed, 1), at as u64) - 1.0) * bound;
            }
        };
        for (_, _, pair) in self.pairs() {
            even(&pair.a, 1.0 / (pair.inputs as f32).sqrt(), parameters);
        }
        if let Some(classifier) = &self.classifier {
            // A deviation of 0.02, which is what most models began with.
            even(classifier, 0.02 * 3.0_f32.sqrt(), parameters);
        }
    }
}

enum Chosen<'a> {
    All,
    Named(&'a [String]),
    Pattern(&'a str, ModulePattern),
}

impl<'a> Chosen<'a> {
    fn new(targets: &'a Targets) -> Result<Self, TrainError> {
        Ok(match targets {
            Targets::AllLinear => Chosen::All,
            Targets::Named(names) => Chosen::Named(names),
            Targets::Pattern(pattern) => {
                let whole = ModulePattern::whole(pattern, PATTERN_BYTES);
                let whole = whole.map_err(|error| TrainError::Setting {
                    what: "the pattern of target modules",
                    got: error.to_string(),
                    want: "a regular expression of moderate size",
                })?;
                Chosen::Pattern(pattern, whole)
            }
        })
    }

    fn has(&self, module: &str) -> bool {
        match self {
            Chosen::All => true,
            Chosen::Named(names) => names.iter().any(|name| {
                let before = module.strip_suffix(name.as_str());
                before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }),
            Chosen::Pattern(_, pattern) => pattern.matches(module),
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Chosen::All => vec!["all-linear".to_owned()],
            Chosen::Named(names) => names.to_vec(),
            Chosen::Pattern(pattern, _) => vec![(*pattern).to_owned()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_alpha_over_the_rank_or_over_its_root() {
        let scale = |rank, alpha, rank_stabilized| {
            let lora = LoraConfig {
                rank,
                alpha,
                rank_stabilized,
                ..LoraConfig::default()
            };
            lora.scale()
        };
        for (rank, alpha, plain, stable) in [
            (1, 3.0, 3.0, 3.0),
            (4, 6.0, 1.5, 3.0),
            (16, 32.0, 2.0, 8.0),
            (256, 8.0, 0.031_25, 0.5),
            (2, 1.0, 0.5, std::f32::consts::FRAC_1_SQRT_2),
        ] {
            assert_eq!(scale(rank, alpha, false), plain, "{alpha} over {rank}");
            assert_eq!(scale(rank, alpha, true), stable, "{alpha} over √{rank}");
        }
    }
    /// A training changes the modules that its adapter's file is then read to change.
    #[test]
    fn a_pattern_chooses_what_the_file_of_an_adapter_chooses_by_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = |pattern: &str| {
            let config = serde_json::json!({"peft_type": "LORA", "target_modules": pattern});
            let path = folder.path().join("adapter_config.json");
            std::fs::write(path, config.to_string()).unwrap();
            skep_weights::PeftConfig::read(folder.path())
        };
        let modules = [
            "model.layers.0.self_attn.q_proj",
            "model.layers.11.mlp.up_proj",
            "encoder.layer.2.attention.self.query",
            "encoder.layer.٣.проекция",
        ];
        for (pattern, expected) in [
            (r".*\.q_proj", [true, false, false, false]),
            (r"q_proj", [false; 4]),
            (r"[\w.]+", [true; 4]),
            (r"(?-u:[\w.]+)", [true, true, true, false]),
            (r".*\.layer\.\d\..*", [false, false, true, true]),
            (r".*\.layer\.[0-9]\..*", [false, false, true, false]),
            (r"(?i).*ПРОЕКЦИЯ", [false, false, false, true]),
            (r"(?i)MODEL.*", [true, true, false, false]),
            (r".*[а-я]{8}", [false, false, false, true]),
        ] {
            let targets = Targets::Pattern(pattern.to_owned());
            let chosen = Chosen::new(&targets).unwrap();
            let trained = modules.map(|module| chosen.has(module));
            let read = file(pattern).unwrap();
            let read = modules.map(|module| read.targets(module, 0));
            assert_eq!((trained, read), (expected, expected), "{pattern}");
        }
        for pattern in ["(", "a)|(?:b", "(?=q)q_proj", r"\w{999}"] {
            let targets = Targets::Pattern(pattern.to_owned());
            assert!(Chosen::new(&targets).is_err(), "{pattern}");
            assert!(file(pattern).is_err(), "{pattern}");
        }
    }
}
