//! Passes over a batch that a device computes in place of the processor, and what it has to know
//! of the base for that.
//!
//! The [`Trainer`](crate::Trainer) goes on owning what is learned: parameters, gradients, order,
//! steps, checkpoints. A device has the frozen weights and computes states, probabilities and
//! gradients, with nothing that lasts from one pass to the next.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use skep_accounts::Account;
use skep_decoder::{AdapterTarget, Config, LinearWeights};
use skep_kernels::Team;

use crate::base::{Base, BaseLayer, DecoderBase, Network};
use crate::error::TrainError;
use crate::lora::Pair;
use crate::nf4::Nf4Matrix;
use crate::operators::frozen::Matrix;

/// A device that trainings can be computed on, before there is a base.
pub trait TrainingDevice: Send + Sync + fmt::Debug {
    /// Copies a decoder to it. What that takes there is charged to `account` before it is taken, and
    /// so is what its passes will take.
    ///
    /// # Errors
    /// When there is no such device, the account or the device has no room, or the base is nothing
    /// that it computes.
    fn upload(&self, base: &Base, account: &Account) -> Result<Arc<dyn PassDevice>, TrainError>;
}

/// What computes passes.
pub trait PassDevice: Send + Sync + fmt::Debug {
    /// Takes a batch through the layers and the final norm, hands what comes out to `head`, and,
    /// where there are gradients and `head` has something to go back with, adds those of the
    /// adapter's parameters to them.
    ///
    /// # Errors
    /// When the device has no room for it, or has failed.
    fn run(
        &self,
        batch: &DeviceBatch<'_>,
        head: Head<'_>,
        gradients: Option<&mut [f32]>,
    ) -> Result<(), TrainError>;
}

/// A packed batch: texts one after the other, each knowing only itself.
#[derive(Clone, Copy)]
pub struct DeviceBatch<'a> {
    /// The threads of the host that may help.
    pub team: &'a Team,
    /// The embedding of each token, scaled: `[tokens, width]`.
    pub embedded: &'a [f32],
    /// The position of each token in its text.
    pub positions: &'a [u32],
    /// The tokens of each text.
    pub sequences: &'a [Range<usize>],
    /// The tokens whose states count, in ascending order, none twice.
    pub rows: &'a [usize],
    /// The adapter, unless the base is to be alone.
    pub adapter: Option<AdapterView<'a>>,
}

/// The parameters that are trained, and where they lie.
#[derive(Debug, Clone, Copy)]
pub struct AdapterView<'a> {
    /// All of them, in the order of [`Trainer::tensors`](crate::Trainer::tensors).
    pub parameters: &'a [f32],
    /// For each layer and target the places of both matrices, if it has them.
    pub layers: &'a [[Option<Pair>; AdapterTarget::ALL.len()]],
    /// The inner side of both matrices.
    pub rank: usize,
    /// What their product is multiplied with.
    pub scale: f32,
}

/// What becomes of the states of the rows that count.
pub enum Head<'a> {
    /// The output layer.
    Tokens {
        /// For each row the token whose probability is asked for.
        targets: &'a [u32],
        /// Takes the logarithms of those probabilities and returns the loss's derivative by each,
        /// or nothing where nothing follows.
        slopes: &'a mut dyn FnMut(&[f32]) -> Option<Vec<f32>>,
    },
    /// Something on the host: takes the states, `[rows, width]`, and returns the loss's derivative
    /// by them, or nothing.
    States(&'a mut dyn FnMut(&[f32]) -> Option<Vec<f32>>),
}

/// A frozen decoder, for a device to copy.
#[derive(Debug)]
pub struct DecoderView<'a> {
    /// Its shape.
    pub config: &'a Config,
    /// Its layers.
    pub layers: Vec<LayerView<'a>>,
    /// The weights of the final norm, `[width]`.
    pub final_norm: &'a [f32],
    /// The output layer, `[vocabulary, width]`.
    pub head: WeightsView<'a>,
}

/// A frozen layer. Norms that it has not are none.
#[derive(Debug)]
pub struct LayerView<'a> {
    /// Before attention, `[width]`.
    pub attention_norm: &'a [f32],
    /// Of each head's query, `[head_dim]`.
    pub query_norm: Option<&'a [f32]>,
    /// Of each head's key, `[head_dim]`.
    pub key_norm: Option<&'a [f32]>,
    /// After attention, `[width]`.
    pub post_attention_norm: Option<&'a [f32]>,
    /// Before the feed-forward layer, `[width]`.
    pub feed_forward_norm: &'a [f32],
    /// After it, `[width]`.
    pub post_feed_forward_norm: Option<&'a [f32]>,
    /// The linear layers in the order of [`AdapterTarget::ALL`], each with its bias, `[outputs]`.
    pub linears: Vec<(WeightsView<'a>, Option<&'a [f32]>)>,
}

/// A frozen matrix as it is kept.
#[derive(Debug, Clone, Copy)]
pub enum WeightsView<'a> {
    /// In NF4.
    Nf4(&'a Nf4Matrix),
    /// As a file has it.
    Stored(&'a LinearWeights),
}

impl Base {
    /// The decoder's frozen weights.
    ///
    /// # Errors
    /// When the base is a sentence encoder.
    pub fn decoder_view(&self) -> Result<DecoderView<'_>, TrainError> {
        match &self.network {
            Network::Decoder(decoder) => Ok(decoder.view()),
            Network::Encoder(_) => Err(TrainError::only_decoders()),
        }
    }
}

impl DecoderBase {
    fn view(&self) -> DecoderView<'_> {
        DecoderView {
            config: &self.config,
            layers: self.layers.iter().map(BaseLayer::view).collect(),
            final_norm: &self.final_norm,
            head: self.head().view(),
        }
    }
}

impl BaseLayer {
    fn view(&self) -> LayerView<'_> {
        let linears = AdapterTarget::ALL.map(|target| {
            let linear = self.linear(target);
            (linear.matrix.view(), linear.bias.as_deref())
        });
        LayerView {
            attention_norm: &self.attention_norm,
            query_norm: self.query_norm.as_deref(),
            key_norm: self.key_norm.as_deref(),
            post_attention_norm: self.post_attention_norm.as_deref(),
            feed_forward_norm: &self.feed_forward_norm,
            post_feed_forward_norm: self.post_feed_forward_norm.as_deref(),
            linears: linears.into(),
        }
    }
}

impl Matrix {
    fn view(&self) -> WeightsView<'_> {
        match self {
            Matrix::Stored(decoder, place) => {
                WeightsView::Stored(crate::operators::frozen::stored(decoder, *place))
            }
            Matrix::Own(weights) => WeightsView::Stored(weights),
            Matrix::Nf4(matrix) => WeightsView::Nf4(matrix),
        }
    }
}
