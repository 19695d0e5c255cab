//! A model whose weights lie on a device of their own.

use skep_kernels::operators::Device;
use skep_kernels::rows::Rope;

use crate::adapter::{AdapterTarget, BaseShape};
use crate::config::Config;
use crate::error::ForwardError;
use crate::layer::Layer;
use crate::model::{Batch, Decoder, ropes};
use crate::pass::{Buffers, BuffersOf, Failure, Model};
use crate::project::Linear;

/// A model that was copied to a device, packed as it is. It computes what [`Decoder`] does, by
/// the same pass over the device's operators.
pub struct PlacedDecoder<O: Device> {
    config: Config,
    ropes: Vec<Rope>,
    rope_of: Vec<usize>,
    embedding: O::Matrix,
    layers: Vec<Layer<O::Matrix, O::Vector>>,
    final_norm: O::Vector,
    head: Option<O::Matrix>,
}

/// Rows that a forward pass writes on a device and the next one uses again.
pub struct PlacedWorkspace<O: Device>(BuffersOf<O>);

impl<O: Device> Default for PlacedWorkspace<O> {
    fn default() -> Self {
        Self(Buffers::default())
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
        model
            .forward(device, &mut workspace.0, pages, batch)
            .map_err(|failure| match failure {
                Failure::Batch(error) => PlacedError::Batch(error),
                Failure::Operator(error) => PlacedError::Device(error),
            })?;
        Ok(&workspace.0.logits)
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
        let Buffers {
            stream,
            added,
            normed,
            ..
        } = &mut workspace.0;
        device.pick(stream, self.config.width, places, added)?;
        device.rms_norm(added, &self.final_norm, self.config.epsilon, normed)?;
        Ok(normed)
    }
}
