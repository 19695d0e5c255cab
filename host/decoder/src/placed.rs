//! A model whose weights lie on a device of their own.

use std::sync::atomic::{AtomicU64, Ordering};

use skep_kernels::operators::Device;
use skep_kernels::rows::Rope;

use crate::adapter::{AdapterTarget, BaseShape};
use crate::config::Config;
use crate::error::ForwardError;
use crate::layer::Layer;
use crate::model::{Batch, Decoder, ropes};
use crate::pass::{Buffers, BuffersOf, Failure, Model};
use crate::project::Linear;

/// Models placed so far.
static PLACED: AtomicU64 = AtomicU64::new(0);

/// A model that was copied to a device, packed as it is. It computes what [`Decoder`] does, by
/// the same pass over the device's operators.
pub struct PlacedDecoder<O: Device> {
    /// Of all models that were placed, which one.
    number: u64,
    config: Config,
    ropes: Vec<Rope>,
    rope_of: Vec<usize>,
    embedding: O::Matrix,
    layers: Vec<Layer<O::Matrix, O::Vector>>,
    final_norm: O::Vector,
    head: Option<O::Matrix>,
}

/// Batches of different shapes that a workspace has rows for at once.
const SHAPES: usize = 8;

/// Tokens of a batch that has rows for itself. Larger ones share theirs, because they are large.
const MOST_TOKENS: usize = 64;

/// Rows that a forward pass writes on a device and the next one of the same shape uses again.
pub struct PlacedWorkspace<O: Device> {
    /// Those used last come last.
    shapes: Vec<Used<O>>,
    /// What hidden states are read from.
    picked: O::Rows,
    normed: O::Rows,
}

/// The rows of one shape.
struct Used<O: Device> {
    /// Which model, how many tokens and how many outputs.
    of: Option<(u64, usize, usize)>,
    buffers: BuffersOf<O>,
    kept: O::Kept,
}

impl<O: Device> Default for PlacedWorkspace<O> {
    fn default() -> Self {
        Self {
            shapes: Vec::new(),
            picked: O::Rows::default(),
            normed: O::Rows::default(),
        }
    }
}

impl<O: Device> PlacedWorkspace<O> {
    /// What was kept of the last pass, if there was one.
    pub fn kept(&self) -> Option<&O::Kept> {
        self.shapes.last().map(|used| &used.kept)
    }

    /// Gives up the rows of all shapes but the one used last. False if there were no others.
    fn forget_others(&mut self) -> bool {
        let others = self.shapes.len().saturating_sub(1);
        self.shapes.drain(..others);
        others > 0
    }

    /// The rows for a batch.
    fn rows_for(&mut self, model: u64, batch: &Batch<'_>) -> &mut Used<O> {
        let tokens = batch.tokens.len();
        let of = (tokens <= MOST_TOKENS).then_some((model, tokens, batch.outputs.len()));
        let used = match self.shapes.iter().position(|used| used.of == of) {
            Some(at) => self.shapes.remove(at),
            None => {
                if self.shapes.len() == SHAPES {
                    self.shapes.remove(0);
                }
                Used {
                    of,
                    buffers: Buffers::default(),
                    kept: O::Kept::default(),
                }
            }
        };
        self.shapes.push(used);
        let last = self.shapes.len() - 1;
        &mut self.shapes[last]
    }
}

/// Why a forward pass on a device was not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum PlacedError<E: std::error::Error> {
    /// The batch is none for this model.
    #[error(transparent)]
    Batch(ForwardError),
    /// The device did not do what it was asked.
    #[error("the device: {0}")]
    Device(E),
}

impl Decoder {
    /// Copies the model's weights to a device.
    ///
    /// # Errors
    /// When there is no room for them, or the device has no operator for their form.
    pub fn place<O: Device>(&self, device: &O) -> Result<PlacedDecoder<O>, O::Error> {
        let matrix = |linear: &Linear| {
            let weights = linear.matrix()?;
            device.matrix(&weights, linear.bias.as_deref())
        };
        let vector = |weight: &Vec<f32>| device.vector(weight);
        let maybe = |weight: &Option<Vec<f32>>| weight.as_ref().map(vector).transpose();
        let layer = |layer: &Layer| -> Result<_, O::Error> {
            Ok(Layer {
                attention_norm: vector(&layer.attention_norm)?,
                query: matrix(&layer.query)?,
                key: matrix(&layer.key)?,
                value: matrix(&layer.value)?,
                query_norm: maybe(&layer.query_norm)?,
                key_norm: maybe(&layer.key_norm)?,
                output: matrix(&layer.output)?,
                post_attention_norm: maybe(&layer.post_attention_norm)?,
                feed_forward_norm: vector(&layer.feed_forward_norm)?,
                gate: matrix(&layer.gate)?,
                up: matrix(&layer.up)?,
                down: matrix(&layer.down)?,
                post_feed_forward_norm: maybe(&layer.post_feed_forward_norm)?,
            })
        };
        let model = self.model();
        Ok(PlacedDecoder {
            number: PLACED.fetch_add(1, Ordering::Relaxed),
            config: model.config.clone(),
            ropes: model.ropes.to_vec(),
            rope_of: model.rope_of.to_vec(),
            embedding: matrix(model.embedding)?,
            layers: model.layers.iter().map(layer).collect::<Result<_, _>>()?,
            final_norm: vector(model.final_norm)?,
            head: match model.config.tied {
                true => None,
                false => Some(matrix(model.head)?),
            },
        })
    }
}

/// Which matrix of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatrixName {
    /// `[vocabulary, width]`: what tokens become.
    Embedding,
    /// One of a layer, whose number this is.
    Layer(usize, AdapterTarget),
    /// `[vocabulary, width]`: the output layer, where it is not the embedding.
    Head,
}

impl<O: Device> PlacedDecoder<O> {
    /// A model with matrices of the caller's making and norms that change nothing: for measuring
    /// a shape without a file of it. `matrix` is asked for each with its outputs and inputs.
    ///
    /// # Errors
    /// Those of `matrix`, and when the device has no room for the norms.
    pub fn with_matrices(
        device: &O,
        config: Config,
        mut matrix: impl FnMut(MatrixName, usize, usize) -> Result<O::Matrix, O::Error>,
    ) -> Result<Self, O::Error> {
        let ones = |length: usize| device.vector(&vec![1.0; length]);
        let (vocabulary, width) = (config.vocabulary, config.width);
        let base = BaseShape::of(&config);
        let mut layers = Vec::with_capacity(config.layers.len());
        for number in 0..config.layers.len() {
            let mut of = |target| {
                let [outputs, inputs] = base.matrix(target);
                matrix(MatrixName::Layer(number, target), outputs, inputs)
            };
            layers.push(Layer {
                attention_norm: ones(width)?,
                query: of(AdapterTarget::Query)?,
                key: of(AdapterTarget::Key)?,
                value: of(AdapterTarget::Value)?,
                query_norm: None,
                key_norm: None,
                output: of(AdapterTarget::Output)?,
                post_attention_norm: None,
                feed_forward_norm: ones(width)?,
                gate: of(AdapterTarget::Gate)?,
                up: of(AdapterTarget::Up)?,
                down: of(AdapterTarget::Down)?,
                post_feed_forward_norm: None,
            });
        }
        let (ropes, rope_of) = ropes(&config);
        Ok(Self {
            number: PLACED.fetch_add(1, Ordering::Relaxed),
            embedding: matrix(MatrixName::Embedding, vocabulary, width)?,
            layers,
            ropes,
            rope_of,
            final_norm: ones(width)?,
            head: match config.tied {
                true => None,
                false => Some(matrix(MatrixName::Head, vocabulary, width)?),
            },
            config,
        })
    }

    /// What it is made of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// As [`Decoder::forward`], on the device: keeps the keys and values of the batch's tokens in
    /// `pages` and returns the logits `[outputs, vocabulary]` where they were made. What is in
    /// the batch beside a token may change the last bits of its logits.
    ///
    /// # Errors
    /// As [`Decoder::forward`], and when the device fails.
    pub fn forward<'w>(
        &self,
        device: &O,
        workspace: &'w mut PlacedWorkspace<O>,
        pages: &mut O::Pages,
        batch: &Batch<'_>,
    ) -> Result<&'w O::Rows, PlacedError<O::Error>> {
        let model = Model {
            config: &self.config,
            embedding: &self.embedding,
            layers: &self.layers,
            ropes: &self.ropes,
            rope_of: &self.rope_of,
            final_norm: &self.final_norm,
            head: self.head.as_ref().unwrap_or(&self.embedding),
        };
        let mut run = |workspace: &mut PlacedWorkspace<O>| {
            let Used { buffers, kept, .. } = workspace.rows_for(self.number, batch);
            model.forward(device, (buffers, kept), pages, batch)
        };
        let mut outcome = run(workspace);
        // A device may be full of rows that nothing has use for at present.
        if matches!(outcome, Err(Failure::Operator(_))) && workspace.forget_others() {
            outcome = run(workspace);
        }
        outcome.map_err(|failure| match failure {
            Failure::Batch(error) => PlacedError::Batch(error),
            Failure::Operator(error) => PlacedError::Device(error),
        })?;
        Ok(&workspace.rows_for(self.number, batch).buffers.logits)
    }
    /// The last hidden states of these tokens of the batch that [`PlacedDecoder::forward`] ran last
    /// with this workspace, after the final norm: `[places, width]`, where they were made.
    ///
    /// # Errors
    /// When the batch had no such token, or the device fails.
    pub fn states<'w>(
        &self,
        device: &O,
        workspace: &'w mut PlacedWorkspace<O>,
        places: &[usize],
    ) -> Result<&'w O::Rows, O::Error> {
        let PlacedWorkspace {
            shapes,
            picked,
            normed,
        } = workspace;
        if let Some(last) = shapes.last() {
            let (width, epsilon) = (self.config.width, self.config.epsilon);
            device.pick(&last.buffers.stream, width, places, picked)?;
            device.rms_norm(picked, &self.final_norm, epsilon, normed, &[])?;
        }
        Ok(normed)
    }
}
