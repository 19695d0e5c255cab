//! The base that an adapter is trained for: a model's weights, which never change.
//!
//! Either as they are stored, or with the linear layers of every layer rounded to NF4: then the
//! file is not needed any more, and what was mapped of it goes.

use std::sync::Arc;

use skep_accounts::{Account, MemoryCharge};
use skep_decoder::{AdapterTarget, Config, Decoder, Layer, Linear, LinearWeights};
use skep_model::Encoder;
use skep_weights::{PackedFormat, PackedTensor};

use crate::dynamic8;
use crate::encoder::EncoderBase;
use crate::error::TrainError;
use crate::gemm::RowSource;
use crate::nf4::{NF4_BLOCK, Nf4Matrix};
use crate::operators::frozen::{Frozen, Matrix, Place};

/// A frozen model.
#[derive(Debug)]
pub struct Base {
    pub(crate) shape: Shape,
    pub(crate) network: Network,
    /// Of what is in memory of its own rather than in the mapped file.
    _charges: Vec<MemoryCharge>,
}

/// What every base has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub vocabulary: usize,
    /// Tokens that a text may have.
    pub context: usize,
    pub layers: usize,
    pub width: usize,
    /// Between both products of the feed-forward layer.
    pub hidden: usize,
    pub heads: usize,
    pub head_dim: usize,
}

/// What it is.
#[derive(Debug)]
pub(crate) enum Network {
    Decoder(DecoderBase),
    Encoder(EncoderBase),
}

/// A frozen decoder.
#[derive(Debug)]
pub(crate) struct DecoderBase {
    pub config: Config,
    pub layers: Vec<BaseLayer>,
    pub embedding: Matrix,
    /// The output layer, where it is not the embedding.
    head: Option<Matrix>,
    pub final_norm: Vec<f32>,
}

impl DecoderBase {
    pub fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
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
        let network = DecoderBase {
            config: decoder.config().clone(),
            layers: layers.collect(),
            embedding: matrix(Place::Embedding),
            head: decoder.head().map(|_| matrix(Place::Head)),
            final_norm: decoder.final_norm().to_vec(),
        };
        Self::of_decoder(network, Vec::new())
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
                Ok(Frozen {
                    matrix: rounded(&linear.weights, account)?,
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
        let network = DecoderBase {
            config: decoder.config().clone(),
            layers,
            embedding: own(decoder.embedding())?,
            head: decoder.head().map(&mut own).transpose()?,
            final_norm: decoder.final_norm().to_vec(),
        };
        Ok(Self::of_decoder(network, charges))
    }

    /// A decoder of random weights, its layers in NF4 and the rest in bfloat16, charged to `account`:
    /// it says nothing, and takes the room and the time of one of its shape.
    ///
    /// # Errors
    /// When the account has no room for it, or a side is an odd number.
    pub fn random_nf4(config: Config, seed: u64, account: &Account) -> Result<Self, TrainError> {
        let mut noise = Noise(seed);
        let (width, kv_width) = (config.width, config.kv_heads * config.head_dim);
        let queries = config.heads * config.head_dim;
        let mut layers = Vec::with_capacity(config.layers.len());
        for _ in &config.layers {
            let linears = AdapterTarget::ALL.map(|target| {
                let (outputs, inputs) = match target {
                    AdapterTarget::Query => (queries, width),
                    AdapterTarget::Key | AdapterTarget::Value => (kv_width, width),
                    AdapterTarget::Output => (width, queries),
                    AdapterTarget::Gate | AdapterTarget::Up => (config.hidden, width),
                    AdapterTarget::Down => (width, config.hidden),
                };
                Ok(Frozen {
                    matrix: Matrix::Nf4(noise.matrix(outputs, inputs, account)?),
                    bias: None,
                })
            });
            let linears = linears.into_iter().collect::<Result<_, TrainError>>()?;
            layers.push(BaseLayer {
                attention_norm: vec![1.0; width],
                query_norm: None,
                key_norm: None,
                post_attention_norm: None,
                feed_forward_norm: vec![1.0; width],
                post_feed_forward_norm: None,
                linears,
            });
        }
        let mut charges = Vec::new();
        let mut floats = || -> Result<Matrix, TrainError> {
            let bytes = 2 * config.vocabulary * width;
            charges.push(account.charge_memory(bytes as u64)?);
            // From 1/64 to 1/32 in size.
            let word = |bits: u16| (bits & 0x807f | 0x3c80).to_le_bytes();
            let words = noise.bytes(bytes);
            let words = words.as_chunks::<2>().0.iter();
            let values = words.flat_map(|pair| word(u16::from_le_bytes(*pair)));
            let shape = [config.vocabulary as u64, width as u64];
            let tensor = PackedTensor::from_bytes(PackedFormat::BF16, &shape, values.collect());
            let tensor = tensor.map_err(|error| TrainError::Setting {
                what: "the embedding",
                got: error.to_string(),
                want: "of some words",
            })?;
            Ok(Matrix::Own(LinearWeights::Packed(tensor)))
        };
        let network = DecoderBase {
            embedding: floats()?,
            head: (!config.tied).then(&mut floats).transpose()?,
            final_norm: vec![1.0; width],
            config,
            layers,
        };
        Ok(Self::of_decoder(network, charges))
    }

    /// The encoder's weights as they are stored.
    ///
    /// # Errors
    /// When the file has changed since the encoder was loaded, or the encoder is of a kind that
    /// cannot be trained.
    pub fn encoder(encoder: &Encoder) -> Result<Self, TrainError> {
        let as_stored = |weights| Ok(Matrix::Own(LinearWeights::Packed(weights)));
        Ok(Self::of_encoder(EncoderBase::open(
            encoder.network(),
            as_stored,
        )?))
    }

    /// The encoder's layers rounded to NF4, charged to `account`.
    ///
    /// # Errors
    /// As [`Base::encoder`], and as [`Base::nf4`].
    pub fn encoder_nf4(encoder: &Encoder, account: &Account) -> Result<Self, TrainError> {
        let in_nf4 = |weights| rounded(&LinearWeights::Packed(weights), account);
        Ok(Self::of_encoder(EncoderBase::open(
            encoder.network(),
            in_nf4,
        )?))
    }

    fn of_decoder(network: DecoderBase, charges: Vec<MemoryCharge>) -> Self {
        let config = &network.config;
        Self {
            shape: Shape {
                vocabulary: config.vocabulary,
                context: config.context,
                layers: config.layers.len(),
                width: config.width,
                hidden: config.hidden,
                heads: config.heads,
                head_dim: config.head_dim,
            },
            network: Network::Decoder(network),
            _charges: charges,
        }
    }

    fn of_encoder(network: EncoderBase) -> Self {
        Self {
            shape: network.shape(),
            network: Network::Encoder(network),
            _charges: Vec::new(),
        }
    }

    /// Whether it is a sentence encoder, which learns classes and nothing else.
    pub fn is_encoder(&self) -> bool {
        matches!(self.network, Network::Encoder(_))
    }

    /// Its layers.
    pub fn layers(&self) -> usize {
        self.shape.layers
    }

    /// Tokens that there are.
    pub fn vocabulary(&self) -> usize {
        self.shape.vocabulary
    }

    /// Bytes of all its weights as they are kept.
    pub fn bytes(&self) -> u64 {
        let others = match &self.network {
            Network::Decoder(decoder) => {
                decoder.embedding.bytes() + decoder.head.as_ref().map_or(0, Matrix::bytes)
            }
            Network::Encoder(encoder) => encoder.embedding_bytes(),
        };
        self.linear_weights().1 + others
    }

    /// Weights of its linear layers, the embedding and the output layer left out, and the bytes
    /// that they are kept in.
    pub fn linear_weights(&self) -> (u64, u64) {
        let all = (0..self.shape.layers).flat_map(|layer| self.linears(layer));
        all.fold((0, 0), |(weights, bytes), (_, linear)| {
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
        let mut found = match layer < self.shape.layers {
            true => self.linears(layer),
            false => Vec::new(),
        };
        found.retain(|(other, _)| *other == target);
        let Some((_, linear)) = found.pop() else {
            let (got, want) = (self.shape.layers, layer + 1);
            return Err(TrainError::shape("base", "the layers", got, want));
        };
        let source = linear.matrix.source();
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

    /// The linear layers of one of its layers, in the order of [`AdapterTarget::ALL`].
    pub(crate) fn linears(&self, layer: usize) -> Vec<(AdapterTarget, &Frozen)> {
        match &self.network {
            Network::Decoder(decoder) => {
                let layer = &decoder.layers[layer];
                let all = AdapterTarget::ALL.into_iter();
                all.map(|target| (target, layer.linear(target))).collect()
            }
            Network::Encoder(encoder) => encoder.layers[layer].linears().to_vec(),
        }
    }

    /// What Hugging Face's models call a linear layer.
    pub(crate) fn module(&self, layer: usize, target: AdapterTarget) -> String {
        match &self.network {
            Network::Decoder(_) => format!("model.layers.{layer}.{}", target.name()),
            Network::Encoder(_) => crate::encoder::module(layer, target),
        }
    }

    /// Two of those names.
    pub(crate) fn names_like(&self) -> String {
        let names = [AdapterTarget::Query, AdapterTarget::Up].map(|target| self.module(0, target));
        format!("{:?} and {:?}", names[0], names[1])
    }
}

/// Random numbers, eight bytes at a time (SplitMix64).
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut all = Vec::with_capacity(count.next_multiple_of(8));
        while all.len() < count {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            all.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
        }
        all.truncate(count);
        all
    }

    /// A matrix whose products are about as large as what they take: codes spread evenly, scales
    /// about their mean.
    fn matrix(
        &mut self,
        rows: usize,
        columns: usize,
        account: &Account,
    ) -> Result<Nf4Matrix, TrainError> {
        let count = rows * columns;
        let blocks = count.div_ceil(NF4_BLOCK);
        let (codes, scales) = (self.bytes(count.div_ceil(2)), self.bytes(blocks));
        let mean = 1.8 / (columns as f32).sqrt();
        let outer = vec![0.2 * mean; blocks.div_ceil(dynamic8::BLOCK)];
        Nf4Matrix::from_parts((rows, columns), codes, scales, outer, mean, account)
    }
}

/// A matrix rounded to NF4.
fn rounded(weights: &LinearWeights, account: &Account) -> Result<Matrix, TrainError> {
    let (rows, columns) = (weights.rows(), weights.columns());
    let read = |row: usize, out: &mut [f32]| weights.read(row, 0..columns, out);
    Ok(Matrix::Nf4(Nf4Matrix::quantize(
        rows, columns, account, read,
    )?))
}
