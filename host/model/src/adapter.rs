//! Low-rank adapters of encoders (LoRA, arXiv 2106.09685; with magnitudes: DoRA, arXiv 2402.09353), with
//! the layer that makes classes of what is pooled, read from PEFT's folders: `adapter_config.json` and
//! `adapter_model.safetensors`.
//!
//! The matrices of an adapter are multiplied in `f32`, whatever the encoder's own layers multiply in, and
//! beside them: one copy of an encoder serves any number of adapters, and one batch may have texts with
//! different ones.
//!
//! What this module must never do: let an adapter that was made for other shapes touch an encoder; leave
//! out a part of an adapter that it does not know; allocate what a file says before it was checked.

mod read;

use std::path::{Path, PathBuf};

use skep_tensor::QuotaError;
use skep_tensor::operators::{Activation, Isa, Linear, LinearScratch, ShapeError};
use skep_weights::{FolderError, PeftError};

use crate::encoder::Encoder;
use crate::error::LoadError;

/// Why an adapter of an encoder could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// Its configuration cannot be used.
    #[error(transparent)]
    Config(#[from] PeftError),
    /// The file of its weights is unsound.
    #[error(transparent)]
    Weights(#[from] FolderError),
    /// Its files contradict each other.
    #[error("{path} is not an adapter's: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It does something that there is no implementation of.
    #[error(
        "{path}: {what} is not supported; an adapter of an encoder is LoRA or DoRA on the linear layers \
         of attention and feed-forward, with or without a linear layer \"score\" over what is pooled"
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What.
        what: String,
    },
    /// It was made for an encoder of other shapes.
    #[error(
        "{path} does not fit the encoder: {reason}. It says that it was made for {named:?}; attach it \
         to that model"
    )]
    WrongBase {
        /// The adapter.
        path: PathBuf,
        /// The base that it names itself.
        named: String,
        /// What does not fit.
        reason: String,
    },
    /// An element, or one times the adapter's scale, is NaN or infinite.
    #[error("{path}: {tensor:?} has elements that are not finite, or too large to be used")]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Whoever it is read for may not have the work done, or does not wait for it any more.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The encoder's own weights could not be read again.
    #[error(transparent)]
    Base(#[from] LoadError),
    /// Lengths do not fit together: a bug of this crate.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// The linear layers of each layer that an adapter may change, in the order of their use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Query,
    Key,
    Value,
    Attended,
    Up,
    Down,
}

impl Part {
    pub const ALL: [Self; 6] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Attended,
        Self::Up,
        Self::Down,
    ];

    /// What Hugging Face's models call it within a layer.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "attention.self.query",
            Self::Key => "attention.self.key",
            Self::Value => "attention.self.value",
            Self::Attended => "attention.output.dense",
            Self::Up => "intermediate.dense",
            Self::Down => "output.dense",
        }
    }
}

/// The shapes of an encoder that an adapter has to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BaseShape {
    pub layers: usize,
    pub width: usize,
    pub hidden: usize,
}

impl BaseShape {
    /// The outputs and inputs of a linear layer.
    pub fn matrix(self, part: Part) -> [usize; 2] {
        match part {
            Part::Up => [self.hidden, self.width],
            Part::Down => [self.width, self.hidden],
            _ => [self.width, self.width],
        }
    }
}

/// Both matrices of one linear layer.
#[derive(Debug)]
struct LowRank {
    /// A, `[rank, inputs]`.
    inside: Linear,
    /// B times the scale, `[outputs, rank]`.
    outside: Linear,
    /// What the changed outputs go through, if the adapter has magnitudes.
    gains: Option<Gains>,
}

/// What brings each row of a changed matrix to the length that an adapter says (DoRA, section 4).
#[derive(Debug)]
struct Gains {
    /// `[outputs]`: what the layer's outputs are multiplied with, when both matrices' product has been
    /// added.
    factors: Vec<f32>,
    /// `[outputs]`: what is added then, so that the layer's bias, which is in its outputs, stays what
    /// it is.
    added: Vec<f32>,
}

/// An adapter of an encoder, ready to use from any thread.
#[derive(Debug)]
pub struct EncoderAdapter {
    isa: Isa,
    shape: BaseShape,
    layers: Vec<[Option<LowRank>; Part::ALL.len()]>,
    /// `[classes, width]`.
    head: Option<Linear>,
    rank: usize,
    named_base: Option<String>,
}

/// The buffers that adapters use, reused from batch to batch.
#[derive(Default)]
pub(crate) struct BranchArena {
    inside: Vec<f32>,
    outside: Vec<f32>,
    linear: LinearScratch,
}

impl EncoderAdapter {
    /// Reads a folder as PEFT writes it, for this encoder.
    ///
    /// # Errors
    /// [`AdapterError`] when a file is missing or unsound, the adapter is neither LoRA nor DoRA, or has
    /// not the shapes of the encoder.
    pub fn load(folder: &Path, encoder: &Encoder) -> Result<Self, AdapterError> {
        Self::load_while(folder, encoder, &|_| Ok(()))
    }

    /// As [`EncoderAdapter::load`], for somebody who pays for it and may not wait to the end. `goes_on` is asked
    /// before any row is measured with what [`EncoderAdapter::measuring_flops`] will be, if that is not 0, and with
    /// 0 between matrices and between the rows that are measured.
    ///
    /// # Errors
    /// As [`EncoderAdapter::load`], and [`AdapterError::Quota`] with what `goes_on` says.
    pub fn load_while(
        folder: &Path,
        encoder: &Encoder,
        goes_on: &dyn Fn(u64) -> Result<(), QuotaError>,
    ) -> Result<Self, AdapterError> {
        read::Reader::new(folder, encoder, goes_on).read()
    }

    /// The base that it says it was made for: `base_model_name_or_path`.
    pub fn named_base(&self) -> Option<&str> {
        self.named_base.as_deref()
    }

    /// The largest rank of its matrices; 0 if it has a layer for classes alone.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Floating-point operations of measuring the rows of the layers that it changes, a multiplication and an
    /// addition counting as two: `2 · Σ inputs · outputs · (rank + 1)` of those with magnitudes. Each reading takes
    /// them.
    pub fn measuring_flops(&self) -> u64 {
        let measured = self.pairs().filter(|pair| pair.gains.is_some());
        let products = measured.map(|pair| {
            let (inside, outside) = (&pair.inside, &pair.outside);
            inside.inputs() * outside.outputs() * (inside.outputs() + 1)
        });
        2 * products.sum::<usize>() as u64
    }

    /// How many classes its layer for classes tells apart, if it has one.
    pub fn classes(&self) -> Option<usize> {
        self.head.as_ref().map(Linear::outputs)
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> u64 {
        let pairs = self.pairs().map(|pair| {
            let gains = pair.gains.as_ref();
            let gains = gains.map_or(0, |gains| gains.factors.len() + gains.added.len());
            pair.inside.bytes() + pair.outside.bytes() + 4 * gains
        });
        (pairs.sum::<usize>() + self.head.as_ref().map_or(0, Linear::bytes)) as u64
    }

    fn pairs(&self) -> impl Iterator<Item = &LowRank> {
        self.layers.iter().flatten().flatten()
    }

    /// Whether it was read for an encoder of these shapes.
    pub(crate) fn fits(&self, shape: BaseShape) -> bool {
        self.shape == shape
    }

    /// Floating-point operations of `tokens`, a multiplication and an addition counting as two:
    /// `2 · tokens · Σ rank · (inputs + outputs)`, and with magnitudes each output once more.
    pub(crate) fn flops(&self, tokens: u64) -> u64 {
        let pairs = self.pairs().map(|pair| {
            let (inside, outside) = (&pair.inside, &pair.outside);
            let gains = pair.gains.as_ref().map_or(0, |gains| gains.factors.len());
            (inside.outputs() * (inside.inputs() + outside.outputs()) + gains) as u64
        });
        tokens.saturating_mul(2 * pairs.sum::<u64>())
    }

    /// Bytes that a batch of `tokens` takes beside what the encoder's own layers do: what is between
    /// both matrices, and what comes out.
    pub(crate) fn activation_bytes(&self, tokens: u64) -> u64 {
        let widest = self.shape.hidden.max(self.shape.width);
        tokens.saturating_mul(4 * (self.rank + widest) as u64)
    }

    /// Floating-point operations of making classes of `texts`.
    pub(crate) fn head_flops(&self, texts: u64) -> u64 {
        let classes = self.classes().unwrap_or(0) as u64;
        texts.saturating_mul(2 * classes * self.shape.width as u64)
    }

    /// Changes what one linear layer has made as the adapter does: `out`, rows of `stride` elements of
    /// which this layer's begin at `column`, its bias in them. `x` has `tokens` rows of the layer's
    /// inputs, and is left as it is.
    pub(crate) fn add(
        &self,
        (layer, part): (usize, Part),
        x: &mut [f32],
        tokens: usize,
        arena: &mut BranchArena,
        out: &mut [f32],
        (stride, column): (usize, usize),
    ) -> Result<(), ShapeError> {
        let pair = self.layers.get(layer);
        let Some(LowRank {
            inside,
            outside,
            gains,
        }) = pair.and_then(|parts| parts[part as usize].as_ref())
        else {
            return Ok(());
        };
        let BranchArena {
            inside: between,
            outside: changed,
            linear,
        } = arena;
        let (rank, outputs) = (outside.inputs(), outside.outputs());
        let between = crate::bert::room(between, tokens * rank);
        let changed = crate::bert::room(changed, tokens * outputs);
        inside.run(x, Activation::Identity, tokens, linear, between)?;
        outside.run(between, Activation::Identity, tokens, linear, changed)?;
        for (row, changed) in out
            .chunks_exact_mut(stride)
            .zip(changed.chunks_exact(outputs))
        {
            let row = row.get_mut(column..column + outputs).unwrap_or_default();
            for (to, change) in row.iter_mut().zip(changed) {
                *to += change;
            }
            if let Some(gains) = gains {
                let own = gains.factors.iter().zip(&gains.added);
                for (to, (factor, added)) in row.iter_mut().zip(own) {
                    *to = *to * factor + added;
                }
            }
        }
        Ok(())
    }

    /// For each text the natural logarithm of each class's probability, of what was pooled of it:
    /// `[texts, classes]`. Empty if there is no layer for classes.
    pub(crate) fn log_probabilities(
        &self,
        pooled: &mut [f32],
        texts: usize,
    ) -> Result<Vec<f32>, ShapeError> {
        let Some(head) = self.head.as_ref().filter(|_| texts > 0) else {
            return Ok(Vec::new());
        };
        let mut rows = vec![0.0; texts * head.outputs()];
        let mut scratch = LinearScratch::default();
        head.run(pooled, Activation::Identity, texts, &mut scratch, &mut rows)?;
        for row in rows.chunks_exact_mut(head.outputs()) {
            let most = row.iter().fold(f32::NEG_INFINITY, |most, x| most.max(*x));
            let sum: f64 = row.iter().map(|x| libm::exp(f64::from(x - most))).sum();
            let log = f64::from(most) + libm::log(sum);
            for x in row {
                *x = (f64::from(*x) - log) as f32;
            }
        }
        Ok(rows)
    }

    /// The instruction set that it was packed for.
    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }
}
