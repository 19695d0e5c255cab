//! The network: BERT's encoder over a ragged batch of tokens, from ids to pooled vectors.

use std::ops::Range;
use std::path::Path;

use skep_tensor::operators::{
    Activation, AttentionScratch, Isa, LayerNorm, Linear, LinearScratch, Pooling, Precision,
    ShapeError, pool, self_attention,
};

use crate::adapter::{BaseShape, BranchArena, EncoderAdapter, Part};
use crate::cost::Cost;
use crate::error::LoadError;
use crate::folder::Settings;
use crate::weights::{Matrix, Weights};

/// A network ready to run on the CPU. Shared by all threads; what changes is in [`Arena`].
pub(crate) struct Bert {
    isa: Isa,
    precision: Precision,
    hidden: usize,
    heads: usize,
    intermediate: usize,
    activation: Activation,
    pooling: Pooling,
    /// `[vocabulary, hidden]`, left in the file.
    words: Matrix,
    /// `[positions, hidden]`: position embeddings with that of token type 0 added.
    positions: Vec<f32>,
    embeddings: LayerNorm,
    layers: Vec<Layer>,
    /// The file that the layers were packed from.
    weights: Weights,
    parameters: u64,
}

struct Layer {
    /// Queries, keys and values in one.
    qkv: Linear,
    attended: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
}

/// The buffers of one thread, reused from batch to batch.
#[derive(Default)]
pub(crate) struct Arena {
    x: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    projected: Vec<f32>,
    inner: Vec<f32>,
    linear: LinearScratch,
    attention: AttentionScratch,
    branch: BranchArena,
}

/// Tokens of a batch that an adapter is for.
pub(crate) struct Adapted<'a> {
    pub tokens: Range<usize>,
    pub adapter: &'a EncoderAdapter,
}

impl Adapted<'_> {
    /// Adds what the adapter changes of a linear layer from `x` to `out`, both of all tokens; rows of
    /// `out` have `stride` elements, of which this layer's begin at `column`.
    fn add(
        &self,
        layer: (usize, Part),
        (x, width): (&mut [f32], usize),
        branch: &mut BranchArena,
        out: &mut [f32],
        (stride, column): (usize, usize),
    ) -> Result<(), ShapeError> {
        let Range { start, end } = self.tokens;
        let x = x.get_mut(start * width..end * width).unwrap_or_default();
        let out = out.get_mut(start * stride..end * stride);
        let out = out.unwrap_or_default();
        let place = (stride, column);
        self.adapter.add(layer, x, end - start, branch, out, place)
    }
}

impl Bert {
    /// Packs the weights in `path` for a network with these settings.
    pub fn load(
        path: &Path,
        settings: &Settings,
        isa: Isa,
        precision: Precision,
    ) -> Result<Self, LoadError> {
        let weights = Weights::open(path)?;
        let (h, i) = (settings.hidden, settings.intermediate);
        let words = weights.matrix("embeddings.word_embeddings.weight", settings.vocabulary, h)?;
        let positions = position_table(&weights, settings)?;
        let norm = |name: &str| -> Result<LayerNorm, LoadError> {
            Ok(LayerNorm {
                gamma: weights.vector(&format!("{name}.weight"), h)?,
                beta: weights.vector(&format!("{name}.bias"), h)?,
                eps: settings.epsilon,
            })
        };
        let embeddings = norm("embeddings.LayerNorm")?;
        let linear = |names: &[String], inputs: usize, outputs: usize| {
            linear(&weights, path, names, inputs, outputs, isa, precision)
        };
        let mut layers = Vec::new();
        for l in 0..settings.layers {
            let name = |part: &str| format!("encoder.layer.{l}.{part}");
            let of_attention =
                ["query", "key", "value"].map(|p| name(&format!("attention.self.{p}")));
            layers.push(Layer {
                qkv: linear(&of_attention, h, h)?,
                attended: linear(&[name("attention.output.dense")], h, h)?,
                attention_norm: norm(&name("attention.output.LayerNorm"))?,
                up: linear(&[name("intermediate.dense")], h, i)?,
                down: linear(&[name("output.dense")], i, h)?,
                norm: norm(&name("output.LayerNorm"))?,
            });
        }
        let embedded = settings.vocabulary + settings.positions + settings.token_types + 2;
        let per_layer = 4 * (h * h + h) + 2 * h * i + i + h + 4 * h;
        Ok(Self {
            isa,
            precision,
            hidden: h,
            heads: settings.heads,
            intermediate: i,
            activation: settings.activation,
            pooling: settings.pooling,
            words,
            positions,
            embeddings,
            parameters: (embedded * h + settings.layers * per_layer) as u64,
            layers,
            weights,
        })
    }

    /// The weights `[outputs, inputs]` and the bias `[outputs]` of a linear layer, as they are in the
    /// file and not as they were packed.
    pub fn stored(&self, (layer, part): (usize, Part)) -> Result<(Matrix, Vec<f32>), LoadError> {
        let [outputs, inputs] = self.shape().matrix(part);
        let name = format!("encoder.layer.{layer}.{}", part.name());
        let weights = &self.weights;
        Ok((
            weights.matrix(&format!("{name}.weight"), outputs, inputs)?,
            weights.vector(&format!("{name}.bias"), outputs)?,
        ))
    }

    /// Numbers that were trained.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Bytes of weights held in memory beside the mapped file.
    pub fn resident_bytes(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| {
            let linear = [&layer.qkv, &layer.attended, &layer.up, &layer.down];
            linear.iter().map(|l| l.bytes()).sum::<usize>() + 16 * self.hidden
        });
        (layers.sum::<usize>() + 4 * self.positions.len() + 8 * self.hidden) as u64
    }

    /// What batches cost.
    pub fn cost(&self) -> Cost {
        Cost {
            layers: self.layers.len() as u64,
            hidden: self.hidden as u64,
            intermediate: self.intermediate as u64,
            heads: self.heads as u64,
            precision: self.precision,
        }
    }

    /// What an adapter has to fit.
    pub fn shape(&self) -> BaseShape {
        BaseShape {
            layers: self.layers.len(),
            width: self.hidden,
            hidden: self.intermediate,
        }
    }

    /// The instruction set that it runs with.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Embeds a batch: sequence `s` is tokens `ids[offsets[s]..offsets[s + 1]]`, and those of `adapted`
    /// go through adapters as well. Writes one pooled vector per sequence to `out[sequences, hidden]`,
    /// not normalised. Each depends on its own sequence and adapter only.
    pub fn forward(
        &self,
        ids: &[u32],
        offsets: &[usize],
        adapted: &[Adapted<'_>],
        arena: &mut Arena,
        out: &mut [f32],
    ) -> Result<(), ShapeError> {
        let (tokens, h, i) = (ids.len(), self.hidden, self.intermediate);
        let Arena {
            x,
            qkv,
            attended,
            projected,
            inner,
            linear,
            attention,
            branch,
        } = arena;
        let x = room(x, tokens * h);
        let qkv = room(qkv, tokens * 3 * h);
        let attended = room(attended, tokens * h);
        let projected = room(projected, tokens * h);
        let inner = room(inner, tokens * i);

        self.embed(ids, offsets, x);
        self.embeddings.run(self.isa, x, None)?;
        for (l, layer) in self.layers.iter().enumerate() {
            layer
                .qkv
                .run(x, Activation::Identity, tokens, linear, qkv)?;
            for own in adapted {
                for (n, part) in [Part::Query, Part::Key, Part::Value]
                    .into_iter()
                    .enumerate()
                {
                    own.add((l, part), (&mut *x, h), branch, qkv, (3 * h, n * h))?;
                }
            }
            self_attention(self.isa, qkv, offsets, self.heads, attention, attended)?;
            layer
                .attended
                .run(attended, Activation::Identity, tokens, linear, projected)?;
            for own in adapted {
                let from = (&mut *attended, h);
                own.add((l, Part::Attended), from, branch, projected, (h, 0))?;
            }
            layer.attention_norm.run(self.isa, x, Some(projected))?;
            layer
                .up
                .run(x, Activation::Identity, tokens, linear, inner)?;
            for own in adapted {
                own.add((l, Part::Up), (&mut *x, h), branch, inner, (i, 0))?;
            }
            layer
                .down
                .run(inner, self.activation, tokens, linear, projected)?;
            for own in adapted {
                // The curve was applied in place.
                let from = (&mut *inner, i);
                own.add((l, Part::Down), from, branch, projected, (h, 0))?;
            }
            layer.norm.run(self.isa, x, Some(projected))?;
        }
        pool(self.pooling, x, offsets, h, out)
    }

    /// Sum of word, position and type embeddings. A token or position that has none becomes NaN.
    fn embed(&self, ids: &[u32], offsets: &[usize], x: &mut [f32]) {
        let mut rows = x.chunks_exact_mut(self.hidden);
        for bounds in offsets.windows(2) {
            let sequence = ids.get(bounds[0]..bounds[1]).unwrap_or_default();
            let mut positions = self.positions.chunks_exact(self.hidden);
            for &id in sequence {
                let Some(row) = rows.next() else { return };
                self.words.row(id as usize, row);
                match positions.next() {
                    Some(position) => {
                        for (x, p) in row.iter_mut().zip(position) {
                            *x += p;
                        }
                    }
                    None => row.fill(f32::NAN),
                }
            }
        }
    }
}

/// The first `len` elements of a buffer that grows to hold them.
pub(crate) fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

fn position_table(weights: &Weights, settings: &Settings) -> Result<Vec<f32>, LoadError> {
    let h = settings.hidden;
    let name = "embeddings.position_embeddings.weight";
    let table = weights.matrix(name, settings.positions, h)?;
    let types_name = "embeddings.token_type_embeddings.weight";
    let types = weights.matrix(types_name, settings.token_types, h)?;
    let mut kind = vec![0.0; h];
    types.row(0, &mut kind);
    weights.finite(types_name, &kind)?;
    let mut positions = vec![0.0; settings.max_tokens * h];
    for (p, row) in positions.chunks_exact_mut(h).enumerate() {
        table.row(p, row);
        for (x, k) in row.iter_mut().zip(&kind) {
            *x += k;
        }
    }
    weights.finite(name, &positions)?;
    Ok(positions)
}

/// One linear layer out of one or more of equal shape, stacked.
fn linear(
    weights: &Weights,
    path: &Path,
    names: &[String],
    inputs: usize,
    outputs: usize,
    isa: Isa,
    precision: Precision,
) -> Result<Linear, LoadError> {
    let mut parts = Vec::new();
    let mut bias = Vec::new();
    for name in names {
        parts.push(weights.matrix(&format!("{name}.weight"), outputs, inputs)?);
        bias.extend(weights.vector(&format!("{name}.bias"), outputs)?);
    }
    let mut broken = None;
    let layer = Linear::pack(
        isa,
        precision,
        inputs,
        outputs * names.len(),
        &bias,
        |j, row| {
            let part = j / outputs;
            parts[part].row(j % outputs, row);
            if row.iter().any(|x| !x.is_finite()) {
                broken = Some(part);
            }
        },
    );
    if let Some(part) = broken {
        weights.finite(&format!("{}.weight", names[part]), &[f32::NAN])?;
    }
    layer.map_err(|error| LoadError::Internal {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
