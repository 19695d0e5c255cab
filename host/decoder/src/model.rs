//! A loaded model and its forward pass.

use std::path::Path;

use skep_kernels::kv::{KvFormat, KvPages, KvShape};
use skep_kernels::rows::Rope;
use skep_kernels::{Isa, ShapeError, Team};
use skep_weights::WeightsFile;

use crate::adapter::{AdapterTarget, PagedAdapter};
use crate::config::Config;
use crate::error::{ForwardError, LoadError};
use crate::host::{Host, Scratch, norm_of};
use crate::layer::{Layer, Loader};
use crate::names::Names;
use crate::pass::{Buffers, Failure, Model};
use crate::project::Linear;

/// A language model, ready to run. Its weights stay in the file that they came in.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
    embedding: Linear,
    layers: Vec<Layer>,
    /// The rotary positions that some layer has, each once.
    ropes: Vec<Rope>,
    /// Which of them each layer has.
    rope_of: Vec<usize>,
    final_norm: Vec<f32>,
    /// The output layer, where it is not the embedding.
    head: Option<Linear>,
    isa: Isa,
}

/// Tokens that go through the model together.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// All tokens, sequence by sequence.
    pub tokens: &'a [u32],
    /// Which of them belong to which sequence: one after the other, without gaps.
    pub parts: &'a [Part<'a>],
    /// The tokens whose logits are wanted, as places in `tokens`.
    pub outputs: &'a [usize],
}

/// The tokens of one sequence in a batch.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// How many.
    pub tokens: usize,
    /// The position of the first: tokens before it were in earlier batches.
    pub start: usize,
    /// The sequence's pages, from its first token on, with room for these tokens. A page may be
    /// shared by sequences where all of its tokens are, but not one that these tokens go into.
    pub pages: &'a [u32],
    /// What changes the model for these tokens. It lies in the pool that `pages` are of. Parts
    /// with the same adapter, which is one in the same place, are computed together.
    pub adapter: Option<&'a PagedAdapter>,
}

/// Buffers that a forward pass uses and the next one uses again.
#[derive(Debug, Default)]
pub struct Workspace(Buffers<Vec<f32>, Scratch>);

impl Workspace {
    /// Hands over the logits that the last pass left, for other memory that the next one writes
    /// its own to.
    pub fn swap_logits(&mut self, other: &mut Vec<f32>) {
        std::mem::swap(&mut self.0.logits, other);
    }
}

impl Decoder {
    /// Loads a model from a Hugging Face folder or a GGUF file. Weights are mapped, not read,
    /// but for a check of every scale.
    ///
    /// # Errors
    /// When the file cannot be read, is unsound, or holds what is not supported.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        Self::from_weights(&WeightsFile::open(path)?)
    }

    /// The model in these weights.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn from_weights(weights: &WeightsFile) -> Result<Self, LoadError> {
        let config = Config::read(weights)?;
        let names = match weights {
            WeightsFile::Gguf { .. } => Names::Gguf,
            // Multimodal models have their text part one level down.
            _ if weights.tensor("language_model.model.norm.weight").is_some() => {
                Names::HuggingFace("language_model.model.")
            }
            _ => Names::HuggingFace("model."),
        };
        let loader = Loader {
            weights,
            config: &config,
            names,
        };
        let (vocabulary, width) = (config.vocabulary, config.width);
        let layers = (0..config.layers.len()).map(|number| loader.layer(number));
        let layers = layers.collect::<Result<_, _>>()?;
        let (ropes, rope_of) = ropes(&config);
        Ok(Self {
            embedding: loader.linear(&names.embedding(), vocabulary, width)?,
            layers,
            ropes,
            rope_of,
            final_norm: loader.norm(&names.final_norm(), width)?,
            head: match config.tied {
                true => None,
                false => Some(loader.linear(&names.head(), vocabulary, width)?),
            },
            isa: Isa::best(),
            config,
        })
    }

    /// Computes with these instructions, of which the machine must have no fewer, instead of the
    /// best that it has: what a machine with other instructions gets can so be had here. Only
    /// those in [`Isa::available`] are taken.
    #[must_use]
    pub fn with_isa(mut self, isa: Isa) -> Self {
        if Isa::available().contains(&isa) {
            self.isa = isa;
        }
        self
    }

    /// What it is made of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The weights of its layers, in order: what a training computes gradients through.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// `[vocabulary, width]`: what tokens become.
    pub fn embedding(&self) -> &Linear {
        &self.embedding
    }

    /// The output layer, `[vocabulary, width]`, where it is not the embedding.
    pub fn head(&self) -> Option<&Linear> {
        self.head.as_ref()
    }

    /// `[width]`, of what the output layer takes.
    pub fn final_norm(&self) -> &[f32] {
        &self.final_norm
    }

    /// The instructions that it computes with.
    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// What its pages of keys and values look like.
    pub fn kv_shape(&self, format: KvFormat) -> KvShape {
        KvShape {
            layers: self.layers.len(),
            kv_heads: self.config.kv_heads,
            head_dim: self.config.head_dim,
            format,
        }
    }

    /// Runs a batch: keeps the keys and values of its tokens in `pages` and returns the logits
    /// `[outputs, vocabulary]` of what may follow the tokens in question. A token's logits are
    /// the same bits whatever else is in the batch.
    ///
    /// # Errors
    /// When a token or a position is none of the model's, or lengths do not fit together. Pages
    /// of the batch's own tokens may have been written to.
    pub fn forward<'w>(
        &self,
        team: &Team,
        workspace: &'w mut Workspace,
        pages: &mut KvPages,
        batch: &Batch<'_>,
    ) -> Result<&'w [f32], ForwardError> {
        self.pass(team, workspace, pages, batch, false)
    }

    /// As [`Decoder::forward`], for who compares what somebody else computed with it: products with
    /// weights that are not quantized have both sides rounded to bfloat16 where the processor makes
    /// twice as many of these. Its keys and values are for such passes alone, where
    /// [`Decoder::rounds`].
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn forward_rounded<'w>(
        &self,
        team: &Team,
        workspace: &'w mut Workspace,
        pages: &mut KvPages,
        batch: &Batch<'_>,
    ) -> Result<&'w [f32], ForwardError> {
        self.pass(team, workspace, pages, batch, true)
    }

    /// Whether [`Decoder::forward_rounded`] is worth having beside [`Decoder::forward`]: where some of the
    /// layers have weights that are not quantized. Where only the output layer has, they hardly differ.
    pub fn rounds(&self) -> bool {
        let is_of_floats = |layer: &Layer| {
            let mut all = AdapterTarget::ALL.into_iter();
            all.any(|target| layer.linear(target).is_of_floats())
        };
        self.isa.rounds_floats() && self.layers.iter().any(is_of_floats)
    }

    fn pass<'w>(
        &self,
        team: &Team,
        workspace: &'w mut Workspace,
        pages: &mut KvPages,
        batch: &Batch<'_>,
        rounds: bool,
    ) -> Result<&'w [f32], ForwardError> {
        let host = Host {
            isa: self.isa,
            team,
            rounds,
        };
        self.model()
            .forward(&host, (&mut workspace.0, &mut ()), pages, batch)
            .map_err(|failure| match failure {
                Failure::Batch(error) => error,
                Failure::Operator(error) => error.into(),
            })?;
        Ok(&workspace.0.logits)
    }

    /// The last hidden state of a token of the batch that [`Decoder::forward`] ran last with this
    /// workspace, after the final norm: `[width]`.
    ///
    /// # Errors
    /// When the batch had no such token, or the length is not the model's.
    pub fn hidden(
        &self,
        workspace: &Workspace,
        token: usize,
        out: &mut [f32],
    ) -> Result<(), ForwardError> {
        let width = self.config.width;
        let stream = &workspace.0.stream;
        let rows = stream.len() / width.max(1);
        let Some(row) = stream.chunks_exact(width.max(1)).nth(token) else {
            return Err(shape("the batch", rows, token.saturating_add(1)));
        };
        let (weight, epsilon) = (&self.final_norm, self.config.epsilon);
        Ok(norm_of(self.isa, row, weight, epsilon, out)?)
    }

    /// The model as a pass sees it.
    pub(crate) fn model(&self) -> Model<'_, Linear, Vec<f32>> {
        Model {
            config: &self.config,
            embedding: &self.embedding,
            layers: &self.layers,
            ropes: &self.ropes,
            rope_of: &self.rope_of,
            final_norm: &self.final_norm,
            head: self.head.as_ref().unwrap_or(&self.embedding),
        }
    }
}

/// The rotary positions that some layer has, each once, and which of them each layer has.
pub(crate) fn ropes(config: &Config) -> (Vec<Rope>, Vec<usize>) {
    let mut frequencies: Vec<&Vec<f64>> = Vec::new();
    let mut rope_of = Vec::with_capacity(config.layers.len());
    for layer in &config.layers {
        let known = frequencies.iter().position(|f| **f == layer.frequencies);
        rope_of.push(known.unwrap_or(frequencies.len()));
        if known.is_none() {
            frequencies.push(&layer.frequencies);
        }
    }
    let ropes = frequencies.into_iter();
    let ropes = ropes.map(|frequencies| Rope::new(config.rope_layout, frequencies.clone()));
    (ropes.collect(), rope_of)
}

pub(crate) fn shape(what: &'static str, got: usize, want: usize) -> ForwardError {
    ForwardError::Shape(ShapeError {
        operator: "forward",
        what,
        got,
        want,
    })
}
