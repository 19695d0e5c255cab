//! A whole pass: layer by layer there, the output layer in pieces, layer by layer back.

use std::fmt;
use std::ops::Range;

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData, Transaction};
use skep_accounts::{Account, MemoryCharge};
use skep_decoder::Config;
use skep_train::device::{AdapterView, DeviceBatch, Head, PassDevice};
use skep_train::{Base, TrainError};

use crate::frozen::FrozenMatrix;
use crate::layer::{Adapter, Gradients, Layer, LayerPass, LowRank, TARGETS};
use crate::operators::{Attention, Group, Turns, mask, rms_norm, rms_norm_backward};
use crate::place::{Compute, On, Place, guard, widened};

/// Bytes of logits at a time.
const CHUNK: usize = 128 << 20;

/// A frozen decoder on a device.
pub struct DeviceDecoder {
    on: On,
    config: Config,
    layers: Vec<Layer>,
    final_norm: Tensor<1>,
    head: FrozenMatrix,
    account: Account,
    /// Of norms and biases.
    _charge: MemoryCharge,
}

impl fmt::Debug for DeviceDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceDecoder")
            .field("place", &self.on.place)
            .field("compute", &self.on.compute)
            .field("layers", &self.layers.len())
            .finish_non_exhaustive()
    }
}

/// The logarithms of probabilities, and what the way back needs of them.
struct Probabilities {
    logs: Vec<f32>,
    /// For each row the logarithm of the sum of the exponentials of its logits: `[rows, 1]`.
    totals: Vec<Tensor<2>>,
    /// The logits, where there is one piece.
    logits: Option<Tensor<2>>,
}

impl DeviceDecoder {
    /// Copies a decoder's layers and its output layer to a device, charged to `account` before they
    /// are; what passes need there is charged to it too. The embedding stays where it is.
    ///
    /// # Errors
    /// When the base is a sentence encoder, a matrix is of a format that no device expands, the
    /// account has no room, or there is no such device.
    pub fn upload(
        base: &Base,
        place: Place,
        compute: Compute,
        account: &Account,
    ) -> Result<Self, TrainError> {
        let view = base.decoder_view()?;
        let vectors = view.layers.iter().flat_map(|layer| {
            let norms = [
                Some(layer.attention_norm),
                layer.query_norm,
                layer.key_norm,
                layer.post_attention_norm,
                Some(layer.feed_forward_norm),
                layer.post_feed_forward_norm,
            ];
            let biases = layer.linears.iter().map(|(_, bias)| *bias);
            norms.into_iter().chain(biases).flatten()
        });
        let floats: usize = vectors.chain([view.final_norm]).map(<[f32]>::len).sum();
        let charge = account.charge_memory(4 * floats as u64)?;
        let on = guard(&format!("opening {place}"), || On::open(place, compute))?;
        guard("copying the base", || {
            let layers = view
                .layers
                .iter()
                .map(|layer| Layer::upload(&on, layer, account));
            Ok(Self {
                layers: layers.collect::<Result<_, TrainError>>()?,
                final_norm: on.floats(view.final_norm.to_vec(), [view.final_norm.len()]),
                head: FrozenMatrix::upload(&on, view.head, account)?,
                config: view.config.clone(),
                account: account.clone(),
                _charge: charge,
                on,
            })
        })
    }

    /// Weights of the linear layers, the output layer left out, and the bytes that they take on the
    /// device.
    pub fn linear_weights(&self) -> (u64, u64) {
        let all = self.layers.iter().flat_map(Layer::matrices);
        all.fold((0, 0), |(weights, bytes), matrix| {
            let own = matrix.rows as u64 * matrix.columns as u64;
            (weights + own, bytes + matrix.bytes())
        })
    }

    /// Bytes that a pass takes at most beside the frozen weights.
    fn scratch_bytes(&self, batch: &DeviceBatch<'_>, learning: bool) -> u64 {
        let (config, compute) = (&self.config, self.on.compute.bytes());
        let tokens = batch.positions.len() as u64;
        let rows = batch.rows.len() as u64;
        let [width, hidden] = [config.width, config.hidden].map(|side| side as u64);
        let queries = (config.heads * config.head_dim) as u64;
        let keys = (config.kv_heads * config.head_dim) as u64;
        let parameters = batch.adapter.map_or(0, |a| a.parameters.len() as u64);
        // The adapter in both widths, its gradients, and the input of each layer.
        let mut kept = (4 + compute) * parameters;
        if learning {
            kept += 4 * parameters + 4 * tokens * width * self.layers.len() as u64;
        }
        // What lives at once of a layer: at the gate or in attention, whichever is more.
        let stream = tokens * width * (4 * 4 + 2 * compute);
        let gate = tokens * hidden * (7 * 4 + 4 * compute);
        let pairs: u64 = batch
            .sequences
            .iter()
            .map(|s| (s.len() as u64).pow(2))
            .sum();
        let scores = config.heads as u64 * pairs * (3 * 4 + 2 * compute);
        let heads = tokens * (queries + 2 * keys) * (2 * 4 + 4 * compute);
        let layer = stream + gate.max(scores) + heads + 2 * tokens * hidden * compute;
        let matrices = self.layers.iter().flat_map(Layer::matrices);
        let sizes = matrices.map(|matrix| (matrix.rows * matrix.columns) as u64);
        let largest = sizes.max().unwrap_or(0) * compute;
        let vocabulary = self.head.rows as u64;
        let at_a_time = self.rows_at_a_time(batch.rows.len()) as u64;
        let logits = at_a_time * vocabulary * (3 * 4 + 2 * compute);
        let head = logits + vocabulary * width * compute + rows * width * (4 * 4 + compute);
        kept + head.max(layer + largest)
    }

    fn rows_at_a_time(&self, rows: usize) -> usize {
        (CHUNK / (4 * self.head.rows.max(1))).max(16).min(rows)
    }

    /// The adapter's matrices, layer by layer.
    fn adapters(&self, view: Option<&AdapterView<'_>>) -> Vec<Adapter> {
        let one = |layer: usize| {
            let mut adapter = [const { None }; TARGETS];
            let Some((view, place)) = view.zip(view.and_then(|view| place_of(view, layer))) else {
                return adapter;
            };
            let own = view.parameters[place.clone()].to_vec();
            let count = own.len();
            let own = self.on.round(self.on.floats(own, [count]));
            for (low, pair) in adapter.iter_mut().zip(&view.layers[layer]) {
                *low = pair.as_ref().map(|pair| {
                    let part = |range: &Range<usize>, shape: [usize; 2]| {
                        let range = range.start - place.start..range.end - place.start;
                        own.clone().slice_dim(0, range).reshape(shape)
                    };
                    LowRank {
                        a: part(&pair.a, [view.rank, pair.inputs]),
                        b: part(&pair.b, [pair.outputs, view.rank]),
                        scale: view.scale,
                    }
                });
            }
            adapter
        };
        (0..self.layers.len()).map(one).collect()
    }

    /// For each layer its rotary positions and how its texts attend; what is the same is made once.
    fn positions(&self, batch: &DeviceBatch<'_>) -> Vec<(Turns, Vec<Attention>)> {
        let config = &self.config;
        let groups = Group::of(batch.sequences);
        let mut turns: Vec<(&[f64], Turns)> = Vec::new();
        let mut masks: Vec<((usize, Option<usize>), Tensor<4>)> = Vec::new();
        let layers = config.layers.iter().map(|layer| {
            let own = layer.frequencies.as_slice();
            let known = turns.iter().position(|(other, _)| *other == own);
            let at = known.unwrap_or_else(|| {
                let made = Turns::new(&self.on, config.rope_layout, own, batch.positions);
                turns.push((own, made));
                turns.len() - 1
            });
            let attention = groups.iter().map(|group| {
                let key = (group.length, layer.window);
                let known = masks.iter().position(|(other, _)| *other == key);
                let at = known.unwrap_or_else(|| {
                    masks.push((key, mask(&self.on, group.length, layer.window)));
                    masks.len() - 1
                });
                Attention {
                    texts: group.texts,
                    length: group.length,
                    heads: config.heads,
                    kv_heads: config.kv_heads,
                    dim: config.head_dim,
                    scale: config.attention_scale,
                    mask: masks[at].1.clone(),
                }
            });
            let attention = attention.collect();
            (turns[at].1.clone(), attention)
        });
        layers.collect()
    }

    fn indices(&self, values: impl Iterator<Item = usize>) -> Tensor<1, Int> {
        // Tokens and words are counted in 32 bits everywhere.
        let values: Vec<i32> = values.map(|value| value as i32).collect();
        let shape = [values.len()];
        Tensor::from_data(
            TensorData::new(values, shape),
            (&self.on.device, DType::I32),
        )
    }

    /// The pieces that the rows of the output layer are taken in.
    fn pieces(&self, rows: usize) -> Vec<Range<usize>> {
        let step = self.rows_at_a_time(rows).max(1);
        let starts = (0..rows).step_by(step);
        starts.map(|start| start..rows.min(start + step)).collect()
    }

    fn probabilities(
        &self,
        head: &Tensor<2>,
        hidden: &Tensor<2>,
        targets: &[u32],
    ) -> Result<Probabilities, TrainError> {
        let pieces = self.pieces(targets.len());
        let (mut logs, mut totals, mut only) = (Vec::new(), Vec::new(), None);
        for piece in &pieces {
            let hidden = hidden.clone().slice_dim(0, piece.clone());
            let logits = widened(hidden.matmul(head.clone().transpose()));
            let most = logits.clone().max_dim(1);
            let sums = (logits.clone() - most.clone()).exp().sum_dim(1);
            let total = sums.log() + most;
            let at = self.indices(targets[piece.clone()].iter().map(|t| *t as usize));
            let own = logits.clone().gather(1, at.reshape([piece.len(), 1]));
            logs.push(own - total.clone());
            totals.push(total);
            only = (pieces.len() == 1).then_some(logits);
        }
        let [logs] = read([Tensor::cat(logs, 0)])?;
        Ok(Probabilities {
            logs,
            totals,
            logits: only,
        })
    }

    /// The gradient of the states, given the loss's slope by each logarithm.
    fn probabilities_backward(
        &self,
        head: &Tensor<2>,
        hidden: &Tensor<2>,
        targets: &[u32],
        done: Probabilities,
        slopes: &[f32],
    ) -> Tensor<2> {
        let mut only = done.logits;
        let pieces = self.pieces(targets.len()).into_iter().zip(done.totals);
        let parts = pieces.map(|(piece, total)| {
            let logits = only.take().unwrap_or_else(|| {
                let hidden = hidden.clone().slice_dim(0, piece.clone());
                widened(hidden.matmul(head.clone().transpose()))
            });
            let slopes = slopes[piece.clone()].to_vec();
            let slopes = self.on.floats(slopes, [piece.len(), 1]);
            let at = self.indices(targets[piece.clone()].iter().map(|t| *t as usize));
            let at = at.reshape([piece.len(), 1]);
            let dlogits = (logits - total).exp() * slopes.clone().neg();
            let dlogits = dlogits.scatter(1, at, slopes, IndexingUpdateOp::Add);
            widened(self.on.round(dlogits).matmul(head.clone()))
        });
        Tensor::cat(parts.collect(), 0)
    }

    /// What `head` makes of the states, and where it goes back, their gradient.
    fn head(&self, hidden: &Tensor<2>, head: Head<'_>) -> Result<Option<Tensor<2>>, TrainError> {
        match head {
            Head::Tokens { targets, slopes } => {
                let weights = self.head.expand(&self.on)?;
                let hidden = self.on.round(hidden.clone());
                let done = self.probabilities(&weights, &hidden, targets)?;
                let Some(slopes) = slopes(&done.logs) else {
                    return Ok(None);
                };
                let back = self.probabilities_backward(&weights, &hidden, targets, done, &slopes);
                Ok(Some(back))
            }
            Head::States(gradient) => {
                let [states] = read([hidden.clone()])?;
                let back = gradient(&states);
                Ok(back.map(|values| self.on.floats(values, hidden.dims())))
            }
        }
    }

    fn pass(
        &self,
        batch: &DeviceBatch<'_>,
        head: Head<'_>,
        gradients: Option<&mut [f32]>,
    ) -> Result<(), TrainError> {
        let (on, config) = (&self.on, &self.config);
        let shape = [batch.positions.len(), config.width];
        let learning = gradients.is_some();
        let adapters = self.adapters(batch.adapter.as_ref());
        let first = adapters
            .iter()
            .position(|adapter| adapter.iter().any(Option::is_some));
        let positions = self.positions(batch);
        let layer = |number: usize| LayerPass {
            on,
            config,
            layer: &self.layers[number],
            adapter: &adapters[number],
            turns: &positions[number].0,
            attention: &positions[number].1,
        };
        let mut stream = on.floats(batch.embedded.to_vec(), shape);
        let mut inputs = Vec::new();
        for number in 0..self.layers.len() {
            self.account.check()?;
            // Nothing goes further down than the first layer with an adapter.
            if learning && first.is_some_and(|first| number >= first) {
                inputs.push((number, stream.clone()));
            }
            stream = layer(number).forward(stream)?;
        }
        let at = self.indices(batch.rows.iter().copied());
        let rows = stream.select(0, at.clone());
        let hidden = rms_norm(rows.clone(), &self.final_norm, config.epsilon);
        let dhidden = self.head(&hidden, head)?;
        drop(hidden);
        let (Some(gradients), Some(dhidden)) = (gradients, dhidden) else {
            return Ok(());
        };
        let drows = rms_norm_backward(rows, &self.final_norm, config.epsilon, dhidden);
        let nothing = Tensor::<2>::zeros(shape, (&on.device, DType::F32));
        let mut dstream = nothing.select_assign(0, at, drows, IndexingUpdateOp::Add);
        let mut all = Vec::new();
        while let Some((number, input)) = inputs.pop() {
            self.account.check()?;
            let wanted = !inputs.is_empty();
            let (down, own) = layer(number).backward(input, dstream, wanted)?;
            all.extend(flat(own).map(|own| (number, own)));
            match down {
                Some(down) => dstream = down,
                None => break,
            }
        }
        let Some(view) = &batch.adapter else {
            return Ok(());
        };
        let (numbers, flats): (Vec<usize>, Vec<Tensor<1>>) = all.into_iter().unzip();
        let mut parts = Vec::new();
        let (mut rest, mut end) = (gradients, view.parameters.len());
        // From the last layer to the first, as they were computed.
        for (number, data) in numbers.into_iter().zip(fetch(flats)?) {
            let place = place_of(view, number).filter(|place| place.end <= end);
            let Some(place) = place.filter(|place| 4 * place.len() == data.bytes().len()) else {
                return Err(TrainError::Device {
                    reason: "it gave another number of gradients".to_owned(),
                });
            };
            end = place.start;
            let (below, own) = rest.split_at_mut(place.start);
            parts.push((&mut own[..place.len()], data));
            rest = below;
        }
        batch.team.share_mut(&mut parts, |(sums, data)| {
            let words = data.bytes().as_chunks::<4>().0;
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum += f32::from_le_bytes(*word);
            }
        });
        Ok(())
    }
}

impl PassDevice for DeviceDecoder {
    fn run(
        &self,
        batch: &DeviceBatch<'_>,
        head: Head<'_>,
        gradients: Option<&mut [f32]>,
    ) -> Result<(), TrainError> {
        let bytes = self.scratch_bytes(batch, gradients.is_some());
        let _scratch = self.account.charge_memory(bytes)?;
        guard("a pass", || self.pass(batch, head, gradients))
    }
}

/// Where the parameters of a layer lie, if it has any: those of its targets follow each other.
fn place_of(view: &AdapterView<'_>, layer: usize) -> Option<Range<usize>> {
    let mut pairs = view.layers[layer].iter().flatten();
    let first = pairs.next()?;
    let last = pairs.next_back().unwrap_or(first);
    Some(first.a.start..last.b.end)
}

/// The gradients of a layer as its parameters lie, in 32 bits.
fn flat(gradients: Gradients) -> Option<Tensor<1>> {
    let pairs = gradients.into_iter().flatten();
    let flat = |values: Tensor<2>| {
        let [rows, columns] = values.dims();
        values.reshape([rows * columns])
    };
    let parts: Vec<Tensor<1>> = pairs.flat_map(|(a, b)| [flat(a), flat(b)]).collect();
    (!parts.is_empty()).then(|| widened(Tensor::cat(parts, 0)))
}

/// Numbers from the device.
fn read<const N: usize>(tensors: [Tensor<2>; N]) -> Result<[Vec<f32>; N], TrainError> {
    let failed = |reason: String| TrainError::Device { reason };
    let all = fetch(tensors.into())?.into_iter().map(|data| {
        let values = data.try_into_vec::<f32>();
        values.map_err(|error| failed(format!("{error:?}")))
    });
    let all = all.collect::<Result<Vec<_>, _>>()?;
    all.try_into()
        .map_err(|_| failed("it gave back another number of tensors".to_owned()))
}

fn fetch<const D: usize>(tensors: Vec<Tensor<D>>) -> Result<Vec<TensorData>, TrainError> {
    let all = tensors
        .into_iter()
        .fold(Transaction::default(), Transaction::register);
    all.try_execute().map_err(|error| TrainError::Device {
        reason: error.to_string(),
    })
}
