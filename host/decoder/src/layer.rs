//! The weights of one layer.

use skep_weights::{Matrix, WeightsFile};

use crate::adapter::AdapterTarget;
use crate::config::{Architecture, Config};
use crate::error::LoadError;
use crate::names::{LayerTensor, Names};
use crate::project::{Linear, LinearWeights};

/// One layer, whose matrices and norms lie on the host or on a device.
#[derive(Debug)]
#[non_exhaustive]
pub struct Layer<M = Linear, V = Vec<f32>> {
    /// `[width]`, of what attention takes.
    pub attention_norm: V,
    /// Makes queries.
    pub query: M,
    /// Makes keys.
    pub key: M,
    /// Makes values.
    pub value: M,
    /// `[head_dim]`, of each head of queries.
    pub query_norm: Option<V>,
    /// `[head_dim]`, of each head of keys.
    pub key_norm: Option<V>,
    /// What attention's results go through.
    pub output: M,
    /// Of what attention adds, before it is added.
    pub post_attention_norm: Option<V>,
    /// `[width]`, of what the feed-forward layer takes.
    pub feed_forward_norm: V,
    /// The part of the feed-forward layer that the activation is applied to.
    pub gate: M,
    /// The part that it is multiplied with.
    pub up: M,
    /// The second product of the feed-forward layer.
    pub down: M,
    /// Of what the feed-forward layer adds, before it is added.
    pub post_feed_forward_norm: Option<V>,
}

impl<M, V> Layer<M, V> {
    /// The matrix that an adapter may change.
    pub fn linear(&self, target: AdapterTarget) -> &M {
        match target {
            AdapterTarget::Query => &self.query,
            AdapterTarget::Key => &self.key,
            AdapterTarget::Value => &self.value,
            AdapterTarget::Output => &self.output,
            AdapterTarget::Gate => &self.gate,
            AdapterTarget::Up => &self.up,
            AdapterTarget::Down => &self.down,
        }
    }
}

/// Takes tensors from a file by what they are for.
pub struct Loader<'a> {
    pub weights: &'a WeightsFile,
    pub config: &'a Config,
    pub names: Names,
}

impl Loader<'_> {
    /// A vector of floats, which is small and is expanded: the weight of a norm, or a bias.
    pub fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        let tensor = self.weights.load(name, &[length as u64])?;
        let mut values = vec![0.0; length];
        tensor
            .dequantize(&mut values)
            .map_err(|source| skep_weights::WeightsError::Unsound {
                path: self.weights.path().to_owned(),
                name: name.to_owned(),
                source,
            })?;
        Ok(values)
    }

    /// The weight of a norm, as it is multiplied with.
    pub fn norm(&self, name: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        let mut weight = self.vector(&format!("{name}.weight"), length)?;
        for weight in &mut weight {
            *weight += self.config.norm_offset;
        }
        Ok(weight)
    }

    /// A linear layer without a bias.
    pub fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, LoadError> {
        let matrix = self
            .weights
            .load_matrix(name, outputs as u64, inputs as u64)?;
        let weights = match matrix {
            Matrix::Packed(weights) => LinearWeights::Packed(weights),
            Matrix::Grouped(weights) => LinearWeights::Grouped(weights),
            // The weights' crate may learn a form before this one does.
            other => {
                return Err(LoadError::Unsupported {
                    path: self.weights.path().to_owned(),
                    what: format!("the form of {name:?} ({other:?})"),
                });
            }
        };
        Ok(Linear {
            weights,
            bias: None,
        })
    }

    /// Layer `number`.
    pub fn layer(&self, number: usize) -> Result<Layer, LoadError> {
        let config = self.config;
        let name = |tensor| self.names.layer(config.architecture, number, tensor);
        let (width, hidden) = (config.width, config.hidden);
        let queries = config.heads * config.head_dim;
        let keys = config.kv_heads * config.head_dim;
        let with_bias = |tensor, outputs| -> Result<Linear, LoadError> {
            let mut linear = self.linear(&name(tensor), outputs, width)?;
            if config.architecture == Architecture::Qwen2 {
                linear.bias = Some(self.vector(&format!("{}.bias", name(tensor)), outputs)?);
            }
            Ok(linear)
        };
        let gemma = config.architecture == Architecture::Gemma3;
        let norms_heads = gemma || config.architecture == Architecture::Qwen3;
        let norm_if = |wanted: bool, tensor, length| -> Result<Option<Vec<f32>>, LoadError> {
            match wanted {
                true => self.norm(&name(tensor), length).map(Some),
                false => Ok(None),
            }
        };
        Ok(Layer {
            attention_norm: self.norm(&name(LayerTensor::AttentionNorm), width)?,
            query: with_bias(LayerTensor::Query, queries)?,
            key: with_bias(LayerTensor::Key, keys)?,
            value: with_bias(LayerTensor::Value, keys)?,
            query_norm: norm_if(norms_heads, LayerTensor::QueryNorm, config.head_dim)?,
            key_norm: norm_if(norms_heads, LayerTensor::KeyNorm, config.head_dim)?,
            output: self.linear(&name(LayerTensor::Output), width, queries)?,
            post_attention_norm: norm_if(gemma, LayerTensor::PostAttentionNorm, width)?,
            feed_forward_norm: self.norm(&name(LayerTensor::FeedForwardNorm), width)?,
            gate: self.linear(&name(LayerTensor::Gate), hidden, width)?,
            up: self.linear(&name(LayerTensor::Up), hidden, width)?,
            down: self.linear(&name(LayerTensor::Down), width, hidden)?,
            post_feed_forward_norm: norm_if(gemma, LayerTensor::PostFeedForwardNorm, width)?,
        })
    }
}
