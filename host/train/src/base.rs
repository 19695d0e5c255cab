//! The base that an adapter is trained for: a decoder's weights, which never change.
//!
//! Either as they are stored, or with the linear layers of every layer rounded to NF4: then the
//! file is not needed any more, and what was mapped of it goes.

use std::sync::Arc;

use skep_accounts::{Account, MemoryCharge};
use skep_decoder::{AdapterTarget, Config, Decoder, Layer, Linear, LinearWeights};
use skep_weights::PackedTensor;

use crate::error::TrainError;
use crate::gemm::RowSource;
use crate::nf4::Nf4Matrix;
use crate::operators::frozen::{Frozen, Matrix, Place};

/// A frozen decoder.
#[derive(Debug)]
pub struct Base {
    pub(crate) config: Config,
    pub(crate) layers: Vec<BaseLayer>,
    pub(crate) embedding: Matrix,
    /// The output layer, where it is not the embedding.
    pub(crate) head: Option<Matrix>,
    pub(crate) final_norm: Vec<f32>,
    /// Of what is in memory of its own rather than in the mapped file.
    _charges: Vec<MemoryCharge>,
}

/// The weights of one layer.
#[derive(Debug)]
pub(crate) struct BaseLayer {
    pub attention_norm: Vec<f32>,
    pub query_norm: Option<Vec<f32>>,
    pub key_norm: Option<Vec<f32>>,
    pub post_attention_norm: Option<Vec<f32>>,
    pub feed_forward_norm: Vec<f32>,
    pub post_feed_forward_norm: Option<Vec<f32>>,
    /// One for each target, in the order of [`AdapterTarget::ALL`].
    linears: Vec<Frozen>,
}

impl BaseLayer {
    fn new(layer: &Layer, linears: Vec<Frozen>) -> Self {
        Self {
            attention_norm: layer.attention_norm.clone(),
            query_norm: layer.query_norm.clone(),
            key_norm: layer.key_norm.clone(),
            post_attention_norm: layer.post_attention_norm.clone(),
            feed_forward_norm: layer.feed_forward_norm.clone(),
            post_feed_forward_norm: layer.post_feed_forward_norm.clone(),
            linears,
        }
    }

    pub fn linear(&self, target: AdapterTarget) -> &Frozen {
        &self.linears[target as usize]
    }
}

impl Base {
    /// The decoder's weights as they are stored, whatever their format.
    pub fn stored(decoder: Arc<Decoder>) -> Self {
        let matrix = |place| Matrix::Stored(Arc::clone(&decoder), place);
        let layers = decoder.layers().iter().enumerate();
        let layers = layers.map(|(number, layer)| {
            let linears = AdapterTarget::ALL.iter().map(|target| Frozen {
                matrix: matrix(Place::Layer(number, *target)),
                bias: layer.linear(*target).bias.clone(),
            });
            BaseLayer::new(layer, linears.collect())
        });
        Self {
            config: decoder.config().clone(),
            layers: layers.collect(),
            embedding: matrix(Place::Embedding),
            head: decoder.head().map(|_| matrix(Place::Head)),
            final_norm: decoder.final_norm().to_vec(),
            _charges: Vec::new(),
        }
    }

    /// The decoder's layers rounded to NF4, charged to `account`. The embedding and the output
    /// layer are copied as they are.
    ///
    /// # Errors
    /// When the account has no room for them, or a matrix has an odd number of columns.
    pub fn nf4(decoder: &Decoder, account: &Account) -> Result<Self, TrainError> {
        let mut charges = Vec::new();
        let mut layers = Vec::with_capacity(decoder.layers().len());
        for layer in decoder.layers() {
            let linears = AdapterTarget::ALL.iter().map(|target| {
                let linear = layer.linear(*target);
                let weights: &dyn RowSource = &linear.weights;
                let (rows, columns) = (weights.rows(), weights.columns());
                let read = |row: usize, out: &mut [f32]| weights.read(row, 0..columns, out);
                Ok(Frozen {
                    matrix: Matrix::Nf4(Nf4Matrix::quantize(rows, columns, account, read)?),
                    bias: linear.bias.clone(),
                })
            });
            let linears = linears.collect::<Result<_, TrainError>>()?;
            layers.push(BaseLayer::new(layer, linears));
        }
        let mut own = |linear: &Linear| -> Result<Matrix, TrainError> {
            let LinearWeights::Packed(weights) = &linear.weights else {
                return Err(TrainError::Setting {
                    what: "the format of the embedding",
                    got: "4-bit groups".to_owned(),
                    want: "blocks or floats",
                });
            };
            charges.push(account.charge_memory(weights.bytes().len() as u64)?);
            let bytes = weights.bytes().to_vec();
            let copy = PackedTensor::from_bytes(weights.format(), weights.shape(), bytes);
            let copy = copy.map_err(|error| TrainError::Setting {
                what: "the embedding",
                got: error.to_string(),
                want: "whole blocks",
            })?;
            Ok(Matrix::Own(LinearWeights::Packed(copy)))
        };
        Ok(Self {
            config: decoder.config().clone(),
            layers,
            embedding: own(decoder.embedding())?,
            head: decoder.head().map(&mut own).transpose()?,
            final_norm: decoder.final_norm().to_vec(),
            _charges: charges,
        })
    }

    /// What it is made of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes of all its weights as they are kept.
    pub fn bytes(&self) -> u64 {
        let layers = self.layers.iter().flat_map(|layer| &layer.linears);
        let layers: u64 = layers.map(|linear| linear.matrix.bytes()).sum();
        layers + self.embedding.bytes() + self.head.as_ref().map_or(0, Matrix::bytes)
    }

    /// Weights of its linear layers, the embedding and the output layer left out, and the bytes
    /// that they are kept in.
    pub fn linear_weights(&self) -> (u64, u64) {
        let all = self.layers.iter().flat_map(|layer| &layer.linears);
        all.fold((0, 0), |(weights, bytes), linear| {
            let own = linear.outputs() as u64 * linear.inputs() as u64;
            (weights + own, bytes + linear.matrix.bytes())
        })
    }

    /// Writes a row of a linear layer's weights to `out`, as they are computed with.
    ///
    /// # Errors
    /// When there is no such layer or row, or `out` has another length than the row.
    pub fn read_row(
        &self,
        layer: usize,
        target: AdapterTarget,
        row: usize,
        out: &mut [f32],
    ) -> Result<(), TrainError> {
        let Some(found) = self.layers.get(layer) else {
            let (got, want) = (self.layers.len(), layer + 1);
            return Err(TrainError::shape("base", "the layers", got, want));
        };
        let source = found.linear(target).matrix.source();
        if row >= source.rows() {
            return Err(TrainError::shape(
                "base",
                "the rows",
                source.rows(),
                row + 1,
            ));
        }
        if out.len() != source.columns() {
            let (got, want) = (out.len(), source.columns());
            return Err(TrainError::shape("base", "the output", got, want));
        }
        source.read(row, 0..source.columns(), out);
        Ok(())
    }

    pub(crate) fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}
