//! A decoder's layer with its adapter, there and back.

use burn::tensor::Tensor;
use skep_accounts::Account;
use skep_decoder::{AdapterTarget, Config};
use skep_train::TrainError;
use skep_train::device::LayerView;

use crate::frozen::FrozenMatrix;
use crate::operators::{
    Attended, Attention, Turns, gated, gated_backward, rms_norm, rms_norm_backward,
};
use crate::place::{On, widened};

/// The linear layers of a layer.
pub(crate) const TARGETS: usize = AdapterTarget::ALL.len();

/// A frozen layer on a device.
pub(crate) struct Layer {
    attention_norm: Tensor<1>,
    query_norm: Option<Tensor<1>>,
    key_norm: Option<Tensor<1>>,
    post_attention_norm: Option<Tensor<1>>,
    feed_forward_norm: Tensor<1>,
    post_feed_forward_norm: Option<Tensor<1>>,
    linears: Vec<Linear>,
}

struct Linear {
    matrix: FrozenMatrix,
    /// `[outputs]`.
    bias: Option<Tensor<1>>,
}

/// Both matrices of an adapter, in what products take.
#[derive(Clone)]
pub(crate) struct LowRank {
    /// `[rank, inputs]`.
    pub a: Tensor<2>,
    /// `[outputs, rank]`.
    pub b: Tensor<2>,
    pub scale: f32,
}

/// The adapter of a layer, by target.
pub(crate) type Adapter = [Option<LowRank>; TARGETS];

/// The gradients of both matrices of each target's adapter.
pub(crate) type Gradients = [Option<(Tensor<2>, Tensor<2>)>; TARGETS];

/// What a pass knows of a layer.
pub(crate) struct LayerPass<'a> {
    pub on: &'a On,
    pub config: &'a Config,
    pub layer: &'a Layer,
    pub adapter: &'a Adapter,
    pub turns: &'a Turns,
    /// For each group of texts, which lie one after the other, how they attend.
    pub attention: &'a [Attention],
}

/// What a backward pass needs of a layer that was made again. Where it says so, in 32 bits.
struct Made {
    /// After the first norm.
    normed: Tensor<2>,
    /// Before the norms of heads, where there are any.
    raw_queries: Option<Tensor<2>>,
    raw_keys: Option<Tensor<2>>,
    attended: Vec<Attended>,
    joined: Tensor<2>,
    raw_attention: Option<Tensor<2>>,
    /// The residual stream between both halves, in 32 bits.
    middle: Tensor<2>,
    /// After the second norm.
    inner_normed: Tensor<2>,
    gate: Tensor<2>,
    up: Tensor<2>,
    inner: Tensor<2>,
    raw_feed_forward: Option<Tensor<2>>,
    /// What lies between both matrices of each adapter.
    between: [Option<Tensor<2>>; TARGETS],
}

impl Layer {
    /// Copies a layer to the device, charged to `account`.
    pub fn upload(on: &On, view: &LayerView<'_>, account: &Account) -> Result<Self, TrainError> {
        let vector = |values: &[f32]| on.floats(values.to_vec(), [values.len()]);
        let linears = view.linears.iter().map(|(weights, bias)| {
            Ok(Linear {
                matrix: FrozenMatrix::upload(on, *weights, account)?,
                bias: bias.map(vector),
            })
        });
        Ok(Self {
            attention_norm: vector(view.attention_norm),
            query_norm: view.query_norm.map(vector),
            key_norm: view.key_norm.map(vector),
            post_attention_norm: view.post_attention_norm.map(vector),
            feed_forward_norm: vector(view.feed_forward_norm),
            post_feed_forward_norm: view.post_feed_forward_norm.map(vector),
            linears: linears.collect::<Result<_, TrainError>>()?,
        })
    }

    /// Its matrices.
    pub fn matrices(&self) -> impl Iterator<Item = &FrozenMatrix> {
        self.linears.iter().map(|linear| &linear.matrix)
    }
}

impl LayerPass<'_> {
    /// The residual stream after the layer, given that before it: `[tokens, width]`, in 32 bits.
    pub fn forward(&self, stream: Tensor<2>) -> Result<Tensor<2>, TrainError> {
        let (stream, _) = self.run(stream, false)?;
        Ok(stream)
    }

    fn norm(&self, x: Tensor<2>, weight: &Tensor<1>) -> Tensor<2> {
        self.on.round(rms_norm(x, weight, self.config.epsilon))
    }

    /// Where there is a norm: what comes out of it.
    fn norm_if(&self, weight: Option<&Tensor<1>>, x: &Tensor<2>) -> Tensor<2> {
        match weight {
            Some(weight) => self.norm(widened(x.clone()), weight),
            None => x.clone(),
        }
    }

    fn norm_if_backward(
        &self,
        weight: Option<&Tensor<1>>,
        raw: Option<Tensor<2>>,
        dy: Tensor<2>,
    ) -> Tensor<2> {
        match (weight, raw) {
            (Some(weight), Some(raw)) => {
                rms_norm_backward(widened(raw), weight, self.config.epsilon, dy)
            }
            _ => dy,
        }
    }

    /// The same of every head.
    fn head_norm(&self, weight: Option<&Tensor<1>>, x: &Tensor<2>) -> Tensor<2> {
        let [tokens, width] = x.dims();
        let dim = self.config.head_dim;
        match weight {
            Some(_) => {
                let heads = x.clone().reshape([tokens * width / dim, dim]);
                self.norm_if(weight, &heads).reshape([tokens, width])
            }
            None => x.clone(),
        }
    }

    fn head_norm_backward(
        &self,
        weight: Option<&Tensor<1>>,
        raw: Option<Tensor<2>>,
        dy: Tensor<2>,
    ) -> Tensor<2> {
        let [tokens, width] = dy.dims();
        let dim = self.config.head_dim;
        match raw {
            Some(raw) => {
                let heads = [tokens * width / dim, dim];
                let raw = Some(raw.reshape(heads));
                self.norm_if_backward(weight, raw, dy.reshape(heads))
                    .reshape([tokens, width])
            }
            None => dy,
        }
    }

    /// A linear layer and its adapter.
    fn linear(
        &self,
        target: AdapterTarget,
        x: &Tensor<2>,
        between: &mut [Option<Tensor<2>>; TARGETS],
    ) -> Result<Tensor<2>, TrainError> {
        let linear = &self.layer.linears[target as usize];
        let weights = linear.matrix.expand(self.on)?;
        let mut y = x.clone().matmul(weights.transpose());
        if let Some(bias) = &linear.bias {
            y = self.on.round(widened(y) + bias.clone().unsqueeze());
        }
        if let Some(low) = &self.adapter[target as usize] {
            let own = x.clone().matmul(low.a.clone().transpose()) * low.scale;
            y = y + own.clone().matmul(low.b.clone().transpose());
            between[target as usize] = Some(own);
        }
        Ok(y)
    }

    /// The gradient of a linear layer's input `x`, where it is wanted, given that of its output;
    /// those of its adapter go to `gradients`.
    fn linear_backward(
        &self,
        target: AdapterTarget,
        x: &Tensor<2>,
        dy: Tensor<2>,
        made: &mut [Option<Tensor<2>>; TARGETS],
        gradients: &mut Gradients,
        wanted: bool,
    ) -> Result<Option<Tensor<2>>, TrainError> {
        let mut dx = None;
        if wanted {
            let weights = self.layer.linears[target as usize].matrix.expand(self.on)?;
            dx = Some(dy.clone().matmul(weights));
        }
        let (low, between) = (&self.adapter[target as usize], &mut made[target as usize]);
        if let (Some(low), Some(between)) = (low, between.take()) {
            let of_b = dy.clone().transpose().matmul(between);
            let dbetween = dy.matmul(low.b.clone()) * low.scale;
            let of_a = dbetween.clone().transpose().matmul(x.clone());
            dx = dx.map(|dx| dx + dbetween.matmul(low.a.clone()));
            gradients[target as usize] = Some((of_a, of_b));
        }
        Ok(dx)
    }

    fn run(&self, stream: Tensor<2>, keep: bool) -> Result<(Tensor<2>, Option<Made>), TrainError> {
        let (on, layer, config) = (self.on, self.layer, self.config);
        let mut between = [const { None }; TARGETS];
        let normed = self.norm(stream.clone(), &layer.attention_norm);
        let raw_queries = self.linear(AdapterTarget::Query, &normed, &mut between)?;
        let raw_keys = self.linear(AdapterTarget::Key, &normed, &mut between)?;
        let values = self.linear(AdapterTarget::Value, &normed, &mut between)?;
        let turned = |raw: &Tensor<2>, weight: Option<&Tensor<1>>| {
            let rows = widened(self.head_norm(weight, raw));
            on.round(self.turns.apply(rows, config.head_dim, false))
        };
        let queries = turned(&raw_queries, layer.query_norm.as_ref());
        let keys = turned(&raw_keys, layer.key_norm.as_ref());
        let (mut parts, mut attended, mut start) = (Vec::new(), Vec::new(), 0);
        for attention in self.attention {
            let end = start + attention.texts * attention.length;
            let of = |rows: &Tensor<2>| rows.clone().slice_dim(0, start..end);
            let (out, kept) = attention.forward(on, of(&queries), of(&keys), of(&values));
            parts.push(out);
            attended.extend(keep.then_some(kept));
            start = end;
        }
        drop((queries, keys, values));
        let joined = Tensor::cat(parts, 0);
        let raw_attention = self.linear(AdapterTarget::Output, &joined, &mut between)?;
        let norm = layer.post_attention_norm.as_ref();
        let middle = stream + widened(self.norm_if(norm, &raw_attention));
        let inner_normed = self.norm(middle.clone(), &layer.feed_forward_norm);
        let gate = self.linear(AdapterTarget::Gate, &inner_normed, &mut between)?;
        let up = self.linear(AdapterTarget::Up, &inner_normed, &mut between)?;
        let inner = gated(config.gate, widened(gate.clone()), widened(up.clone()));
        let inner = on.round(inner);
        let norm = layer.post_feed_forward_norm.as_ref();
        let mut raw_feed_forward = None;
        let mut after = middle.clone();
        if keep && norm.is_none() {
            // Nobody needs what comes out of the last product, but what lies in its adapter.
            if let Some(low) = &self.adapter[AdapterTarget::Down as usize] {
                let own = inner.clone().matmul(low.a.clone().transpose()) * low.scale;
                between[AdapterTarget::Down as usize] = Some(own);
            }
        } else {
            let raw = self.linear(AdapterTarget::Down, &inner, &mut between)?;
            after = after + widened(self.norm_if(norm, &raw));
            raw_feed_forward = norm.map(|_| raw);
        }
        let made = keep.then(|| Made {
            normed,
            raw_queries: layer.query_norm.as_ref().map(|_| raw_queries),
            raw_keys: layer.key_norm.as_ref().map(|_| raw_keys),
            attended,
            joined,
            raw_attention: layer.post_attention_norm.as_ref().map(|_| raw_attention),
            middle,
            inner_normed,
            gate,
            up,
            inner,
            raw_feed_forward,
            between,
        });
        Ok((after, made))
    }

    /// Takes the gradient of the residual stream after the layer to that before it, `input`, unless
    /// it is not `wanted`; and has the gradients of the layer's adapter.
    pub fn backward(
        &self,
        input: Tensor<2>,
        dstream: Tensor<2>,
        wanted: bool,
    ) -> Result<(Option<Tensor<2>>, Gradients), TrainError> {
        let (on, layer, config) = (self.on, self.layer, self.config);
        let mut gradients = [const { None }; TARGETS];
        let (_, Some(made)) = self.run(input.clone(), true)? else {
            return Ok((Some(dstream), gradients));
        };
        let Made {
            normed,
            raw_queries,
            raw_keys,
            attended,
            joined,
            raw_attention,
            middle,
            inner_normed,
            gate,
            up,
            inner,
            raw_feed_forward,
            mut between,
        } = made;
        let mut back = |target, x: &Tensor<2>, dy, wanted| {
            self.linear_backward(target, x, dy, &mut between, &mut gradients, wanted)
        };
        // The feed-forward half.
        let norm = layer.post_feed_forward_norm.as_ref();
        let dadded = self.norm_if_backward(norm, raw_feed_forward, dstream.clone());
        let dinner = back(AdapterTarget::Down, &inner, on.round(dadded), true)?;
        drop(inner);
        let dinner = widened(sum_of([dinner, None])?);
        let (dgate, dup) = gated_backward(config.gate, widened(gate), widened(up), dinner);
        let of_gate = back(AdapterTarget::Gate, &inner_normed, on.round(dgate), true)?;
        let of_up = back(AdapterTarget::Up, &inner_normed, on.round(dup), true)?;
        let dnormed = sum_of([of_gate, of_up])?;
        let through = rms_norm_backward(middle, &layer.feed_forward_norm, config.epsilon, dnormed);
        let dstream = dstream + through;
        // Attention.
        let norm = layer.post_attention_norm.as_ref();
        let dadded = self.norm_if_backward(norm, raw_attention, dstream.clone());
        let dattended = back(AdapterTarget::Output, &joined, on.round(dadded), true)?;
        drop(joined);
        let dattended = on.round(sum_of([dattended, None])?);
        let (mut queries, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        for (attention, attended) in self.attention.iter().zip(attended) {
            let end = start + attention.texts * attention.length;
            let dy = dattended.clone().slice_dim(0, start..end);
            let (dqueries, dkeys, dvalues) = attention.backward(on, attended, dy);
            queries.push(dqueries);
            keys.push(dkeys);
            values.push(dvalues);
            start = end;
        }
        drop(dattended);
        let turned_back = |parts, weight: Option<&Tensor<1>>, raw| {
            let rows = widened(Tensor::cat(parts, 0));
            let rows = self.turns.apply(rows, config.head_dim, true);
            on.round(self.head_norm_backward(weight, raw, rows))
        };
        let dqueries = turned_back(queries, layer.query_norm.as_ref(), raw_queries);
        let dkeys = turned_back(keys, layer.key_norm.as_ref(), raw_keys);
        let dvalues = Tensor::cat(values, 0);
        let of_queries = back(AdapterTarget::Query, &normed, dqueries, wanted)?;
        let of_keys = back(AdapterTarget::Key, &normed, dkeys, wanted)?;
        let of_values = back(AdapterTarget::Value, &normed, dvalues, wanted)?;
        if !wanted {
            return Ok((None, gradients));
        }
        let dnormed = sum_of([of_queries, of_keys, of_values])?;
        let through = rms_norm_backward(input, &layer.attention_norm, config.epsilon, dnormed);
        Ok((Some(dstream + through), gradients))
    }
}

/// The sum of those that are there, in 32 bits.
fn sum_of<const N: usize>(parts: [Option<Tensor<2>>; N]) -> Result<Tensor<2>, TrainError> {
    let wide = parts.into_iter().flatten().map(widened);
    wide.reduce(|sum, part| sum + part)
        .ok_or_else(|| TrainError::Device {
            reason: "a gradient is missing".to_owned(),
        })
}
