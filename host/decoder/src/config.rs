//! What an architecture is made of.
//!
//! A [`Config`] says everything that the forward pass needs to know of a model beside its
//! weights, so that the pass itself knows no architecture by name. It is read from `config.json`
//! of a Hugging Face folder or from the metadata of a GGUF file, and checked: every figure is
//! within bounds that real models keep to with room to spare.

mod gguf;
mod hugging_face;
mod scaling;

use std::path::Path;

use skep_kernels::rows::{Gate, RopeLayout};
use skep_weights::WeightsFile;

use crate::error::LoadError;

/// The most radians that a pair may turn by a position: models have 1 at most.
const FASTEST: f64 = 1e6;

/// A family of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// Llama 2 and 3, SmolLM, and whatever else calls itself `llama`.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen 2 and 2.5: Llama with biases on queries, keys and values.
    Qwen2,
    /// Qwen 3: Llama with norms on the heads of queries and keys.
    Qwen3,
    /// Gemma 3, its text part: four norms a layer, most layers with a sliding window.
    Gemma3,
}

impl Architecture {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Llama, "llama"),
        (Self::Mistral, "mistral"),
        (Self::Qwen2, "qwen2"),
        (Self::Qwen3, "qwen3"),
        (Self::Gemma3, "gemma3"),
    ];

    /// The name as GGUF files spell it.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(architecture, _)| *architecture == self)
            .map_or("", |(_, name)| name)
    }

    fn from_name(name: &str) -> Option<Self> {
        let name = if name == "gemma3_text" {
            "gemma3"
        } else {
            name
        };
        Self::ALL
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(architecture, _)| *architecture)
    }

    /// All names, for error messages.
    pub(crate) fn names() -> String {
        Self::ALL.map(|(_, name)| name).join(", ")
    }
}

/// What a model is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Its family.
    pub architecture: Architecture,
    /// Tokens that it knows.
    pub vocabulary: usize,
    /// Positions that it was made for.
    pub context: usize,
    /// Elements of a token's row between layers.
    pub width: usize,
    /// Elements between the two products of a feed-forward layer.
    pub hidden: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// The epsilon of all norms.
    pub epsilon: f32,
    /// What norms' weights are given without: they are `1 + weight` in Gemma's own files.
    pub norm_offset: f32,
    /// What embeddings are multiplied with.
    pub embedding_scale: f32,
    /// What products of queries and keys are multiplied with.
    pub attention_scale: f32,
    /// The function of the feed-forward layers.
    pub gate: Gate,
    /// Whether the output layer is the embedding.
    pub tied: bool,
    /// How pairs lie in a head.
    pub rope_layout: RopeLayout,
    /// What each layer does differently from others; one a layer.
    pub layers: Vec<LayerConfig>,
}

/// What one layer does differently from others.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerConfig {
    /// A token sees itself and those before it, up to this many together.
    pub window: Option<usize>,
    /// Radians that each pair of a head turns by a position.
    pub frequencies: Vec<f64>,
}

impl Config {
    /// Reads the configuration that lies with these weights.
    ///
    /// # Errors
    /// When there is none, it is malformed, or its architecture is not supported.
    pub fn read(weights: &WeightsFile) -> Result<Self, LoadError> {
        let config = match weights {
            WeightsFile::Gguf { file, .. } => gguf::read(file)?,
            // A folder with one file is known by the file.
            _ => hugging_face::read(&match weights.path() {
                file if file.is_file() => file.with_file_name("config.json"),
                folder => folder.join("config.json"),
            })?,
        };
        config.check(weights.path())?;
        Ok(config)
    }

    /// Refuses what no model is: figures of zero, and figures so large that a product of two of
    /// them might overflow or take more memory than any machine has.
    fn check(&self, path: &Path) -> Result<(), LoadError> {
        let figures = [
            ("the vocabulary", self.vocabulary, 1 << 22),
            ("the context", self.context, 1 << 28),
            ("the width", self.width, 1 << 17),
            ("the feed-forward layer", self.hidden, 1 << 19),
            ("the number of heads", self.heads, 1 << 12),
            ("the number of key and value heads", self.kv_heads, 1 << 12),
            ("a head", self.head_dim, 1 << 12),
            ("the number of layers", self.layers.len(), 1 << 12),
        ];
        let malformed = |reason: String| {
            Err(LoadError::Malformed {
                path: path.to_owned(),
                reason,
            })
        };
        for (what, figure, most) in figures {
            if figure == 0 || figure > most {
                return malformed(format!("{what} is {figure}, not between 1 and {most}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return malformed(format!(
                "{} heads of queries cannot share {} of keys and values",
                self.heads, self.kv_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return malformed(format!("a head of {} elements has no pairs", self.head_dim));
        }
        // With larger ones, sound weights would give what is not finite.
        let numbers = [
            ("epsilon", self.epsilon, 1.0),
            ("the scale of embeddings", self.embedding_scale, 1024.0),
            ("the scale of attention", self.attention_scale, 16.0),
        ];
        for (what, number, most) in numbers {
            if !(number > 0.0 && number <= most) {
                return malformed(format!("{what} is {number}, not above 0 and up to {most}"));
            }
        }
        for layer in &self.layers {
            if layer.window == Some(0) {
                return malformed("a sliding window of no tokens".to_owned());
            }
            let pairs = layer.frequencies.len();
            let turns = |frequency: &f64| (0.0..=FASTEST).contains(frequency);
            if 2 * pairs > self.head_dim || !layer.frequencies.iter().all(turns) {
                return malformed("rotary positions that do not fit a head".to_owned());
            }
        }
        Ok(())
    }
}
