//! A frozen sentence encoder of BERT's kind (arXiv 1810.04805): its weights in `f32` or as they are
//! rounded, straight from the file that the encoder was loaded from.
//!
//! What this module must never do: compute another function than the encoder's own, which texts are
//! embedded by.

mod pass;

use std::path::Path;

use skep_decoder::{AdapterTarget, LinearWeights};
use skep_model::{Activation, Network, Pooling};
use skep_weights::{PackedTensor, SafetensorsFolder};

use crate::base::Shape;
use crate::error::TrainError;
use crate::operators::activation::Curve;
use crate::operators::frozen::{Frozen, Matrix};
use crate::operators::layer_norm::LayerNorm;
use crate::operators::pooling::Pool;

pub(crate) use pass::{EncoderPass, Kept};

/// A frozen encoder.
#[derive(Debug)]
pub(crate) struct EncoderBase {
    /// `[vocabulary, width]`.
    words: Matrix,
    /// `[context, width]`: the embeddings of positions, with that of the first type of token.
    positions: Vec<f32>,
    embedding_norm: LayerNorm,
    pub layers: Vec<EncoderLayer>,
    heads: usize,
    curve: Curve,
    pooling: Pool,
}

/// The weights of one layer.
#[derive(Debug)]
pub(crate) struct EncoderLayer {
    query: Frozen,
    key: Frozen,
    value: Frozen,
    output: Frozen,
    attention_norm: LayerNorm,
    up: Frozen,
    down: Frozen,
    norm: LayerNorm,
}

impl EncoderLayer {
    /// Those that an adapter may change. There is no gate.
    pub fn linears(&self) -> [(AdapterTarget, &Frozen); 6] {
        [
            (AdapterTarget::Query, &self.query),
            (AdapterTarget::Key, &self.key),
            (AdapterTarget::Value, &self.value),
            (AdapterTarget::Output, &self.output),
            (AdapterTarget::Up, &self.up),
            (AdapterTarget::Down, &self.down),
        ]
    }
}

/// What Hugging Face's `BertModel` calls a linear layer.
pub(crate) fn module(layer: usize, target: AdapterTarget) -> String {
    let name = match target {
        AdapterTarget::Query => "attention.self.query",
        AdapterTarget::Key => "attention.self.key",
        AdapterTarget::Value => "attention.self.value",
        AdapterTarget::Output => "attention.output.dense",
        AdapterTarget::Gate | AdapterTarget::Up => "intermediate.dense",
        AdapterTarget::Down => "output.dense",
    };
    format!("encoder.layer.{layer}.{name}")
}

/// All of them as a regular expression, for PEFT: `dense` alone would be its pooler's too.
pub(crate) const ALL_MODULES: &str = r"encoder\.layer\.\d+\.(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense)";

/// An open file of weights.
struct File<'a> {
    tensors: SafetensorsFolder,
    path: &'a Path,
    prefix: &'static str,
}

impl File<'_> {
    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<PackedTensor, TrainError> {
        let tensor = self.tensors.tensor(&format!("{}{name}", self.prefix));
        let tensor = tensor.ok_or_else(|| self.wrong(format!("it has no floats {name}")))?;
        match tensor.shape().iter().product::<u64>() == (rows * columns) as u64 {
            true => Ok(tensor),
            false => Err(self.wrong(format!("{name} has shape {:?}", tensor.shape()))),
        }
    }

    fn values(&self, name: &str, rows: usize, columns: usize) -> Result<Vec<f32>, TrainError> {
        let tensor = self.matrix(name, rows, columns)?;
        let mut values = vec![0.0; rows * columns];
        let read = tensor.dequantize(&mut values);
        read.map_err(|error| self.wrong(error.to_string()))?;
        Ok(values)
    }

    fn norm(&self, name: &str, width: usize, epsilon: f32) -> Result<LayerNorm, TrainError> {
        Ok(LayerNorm {
            gain: self.values(&format!("{name}.weight"), 1, width)?,
            offset: self.values(&format!("{name}.bias"), 1, width)?,
            epsilon,
        })
    }

    fn wrong(&self, reason: String) -> TrainError {
        TrainError::Encoder {
            path: self.path.to_owned(),
            reason,
        }
    }
}

impl EncoderBase {
    /// Reads the weights of an encoder that was loaded, its matrices made by `keep`.
    pub fn open(
        network: &Network,
        mut keep: impl FnMut(PackedTensor) -> Result<Matrix, TrainError>,
    ) -> Result<Self, TrainError> {
        let tensors = SafetensorsFolder::open_file(&network.weights)?;
        let with_prefix = "bert.embeddings.word_embeddings.weight";
        let file = File {
            prefix: if tensors.raw(with_prefix).is_some() {
                "bert."
            } else {
                ""
            },
            path: &network.weights,
            tensors,
        };
        let (width, hidden, epsilon) = (network.width, network.hidden, network.epsilon);
        let words = "embeddings.word_embeddings.weight";
        let words = file.matrix(words, network.vocabulary, width)?;
        let positions = "embeddings.position_embeddings.weight";
        let mut positions = file.values(positions, network.positions, width)?;
        positions.truncate(network.context * width);
        let kinds = "embeddings.token_type_embeddings.weight";
        let kinds = file.values(kinds, network.token_types, width)?;
        for position in positions.chunks_exact_mut(width) {
            for (x, kind) in position.iter_mut().zip(&kinds) {
                *x += kind;
            }
        }
        let mut linear = |name: String, outputs, inputs| -> Result<Frozen, TrainError> {
            Ok(Frozen {
                matrix: keep(file.matrix(&format!("{name}.weight"), outputs, inputs)?)?,
                bias: Some(file.values(&format!("{name}.bias"), 1, outputs)?),
            })
        };
        let mut layers = Vec::with_capacity(network.layers);
        for layer in 0..network.layers {
            let name = |target| module(layer, target);
            let norm = |part: &str| {
                let name = format!("encoder.layer.{layer}.{part}.LayerNorm");
                file.norm(&name, width, epsilon)
            };
            layers.push(EncoderLayer {
                query: linear(name(AdapterTarget::Query), width, width)?,
                key: linear(name(AdapterTarget::Key), width, width)?,
                value: linear(name(AdapterTarget::Value), width, width)?,
                output: linear(name(AdapterTarget::Output), width, width)?,
                attention_norm: norm("attention.output")?,
                up: linear(name(AdapterTarget::Up), hidden, width)?,
                down: linear(name(AdapterTarget::Down), width, hidden)?,
                norm: norm("output")?,
            });
        }
        Ok(Self {
            words: Matrix::Own(LinearWeights::Packed(words)),
            positions,
            embedding_norm: file.norm("embeddings.LayerNorm", width, epsilon)?,
            layers,
            heads: network.heads,
            curve: match network.activation {
                Activation::Gelu => Curve::Gelu,
                Activation::GeluTanh => Curve::GeluTanh,
                Activation::Relu => Curve::Relu,
                other => return Err(file.wrong(format!("its activation is {other:?}"))),
            },
            pooling: match network.pooling {
                Pooling::Mean => Pool::Mean,
                Pooling::First => Pool::First,
                Pooling::Max => Pool::Most,
                other => return Err(file.wrong(format!("its pooling is {other:?}"))),
            },
        })
    }

    /// What it has in common with every base.
    pub fn shape(&self) -> Shape {
        let width = self.embedding_norm.gain.len();
        Shape {
            vocabulary: self.words.source().rows(),
            context: self.positions.len() / width,
            layers: self.layers.len(),
            width,
            hidden: self.layers.first().map_or(0, |layer| layer.up.outputs()),
            heads: self.heads,
            head_dim: width / self.heads,
        }
    }

    /// Bytes of its embeddings.
    pub fn embedding_bytes(&self) -> u64 {
        self.words.bytes() + 4 * self.positions.len() as u64
    }
}
