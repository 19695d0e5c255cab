//! An encoder's layers with an adapter, there and back.
//!
//! Each half of a layer ends in a norm of its sum, so what is kept are both sums: the norms, and
//! what goes into the second product of the feed-forward layer, are made of them again.

use std::ops::Deref;

use skep_decoder::AdapterTarget;

use super::{EncoderBase, EncoderLayer};
use crate::bf16::Stored;
use crate::error::TrainError;
use crate::operators::activation::{activate, activate_backward};
use crate::operators::attention::{Attention, AttentionGradients, Taken};
use crate::operators::layer_norm::LayerNorm;
use crate::operators::pooling::{pool, pool_backward};
use crate::operators::rows::add;
use crate::pass::{Between, Keep, Pass, between_in};
use crate::pool::Buffer;

/// A pass through an encoder.
pub(crate) struct EncoderPass<'a> {
    pub common: Pass<'a>,
    pub encoder: &'a EncoderBase,
}

impl<'a> Deref for EncoderPass<'a> {
    type Target = Pass<'a>;

    fn deref(&self) -> &Pass<'a> {
        &self.common
    }
}

/// What the backward pass of a layer needs.
pub(crate) struct Kept {
    input: Stored,
    rest: Option<Rest<Stored>>,
}

struct Rest<B = Buffer> {
    queries: B,
    keys: B,
    values: B,
    attended: B,
    /// What the first norm is of, and the second; neither is rounded.
    first_sum: Buffer,
    second_sum: Buffer,
    /// Before the curve.
    up: B,
    between: Between<B>,
}

impl<B> Rest<B> {
    /// The same in another form.
    fn change<C>(
        self,
        mut change: impl FnMut(B) -> Result<C, TrainError>,
    ) -> Result<Rest<C>, TrainError> {
        Ok(Rest {
            queries: change(self.queries)?,
            keys: change(self.keys)?,
            values: change(self.values)?,
            attended: change(self.attended)?,
            first_sum: self.first_sum,
            second_sum: self.second_sum,
            up: change(self.up)?,
            between: between_in(self.between, change)?,
        })
    }
}

impl EncoderPass<'_> {
    /// The embeddings of tokens and of their positions.
    pub fn embed(&self, tokens: &[u32], positions: &[u32]) -> Result<Buffer, TrainError> {
        let width = self.base.shape.width;
        let mut sums = self.take(width)?;
        let rows = sums
            .chunks_exact_mut(width)
            .zip(tokens.iter().zip(positions));
        for (row, (token, position)) in rows {
            self.encoder.words.row(*token as usize, 1.0, row);
            let position = &self.encoder.positions[*position as usize * width..][..width];
            for (x, position) in row.iter_mut().zip(position) {
                *x += position;
            }
        }
        self.norm(&self.encoder.embedding_norm, &sums)
    }

    /// One vector for each text of the last layer's states.
    pub fn pool(&self, states: &[f32]) -> Result<Buffer, TrainError> {
        let width = self.base.shape.width;
        let mut pooled = self.pool.take(self.sequences.len() * width)?;
        pool(
            self.encoder.pooling,
            states,
            self.sequences,
            width,
            &mut pooled,
        );
        Ok(pooled)
    }

    /// The gradient of those states.
    pub fn pool_backward(&self, states: &[f32], dpooled: &[f32]) -> Result<Buffer, TrainError> {
        let width = self.base.shape.width;
        let mut gradient = self.take(width)?;
        let kind = self.encoder.pooling;
        pool_backward(kind, states, self.sequences, width, dpooled, &mut gradient);
        Ok(gradient)
    }

    fn norm(&self, norm: &LayerNorm, x: &[f32]) -> Result<Buffer, TrainError> {
        let mut out = self.pool.take(x.len())?;
        norm.forward(self.workers, x, &mut out);
        Ok(self.rounded(out))
    }

    fn attention(&self) -> Attention<'_> {
        let shape = &self.base.shape;
        Attention {
            sequences: self.sequences,
            heads: shape.heads,
            kv_heads: shape.heads,
            dim: shape.head_dim,
            scale: 1.0 / (shape.head_dim as f32).sqrt(),
            causal: false,
            window: None,
        }
    }

    /// Runs a layer on the states.
    pub fn layer(
        &self,
        number: usize,
        states: &mut Buffer,
        keep: Keep,
    ) -> Result<Option<Kept>, TrainError> {
        let (out, rest) = self.run(number, states, keep == Keep::All)?;
        let input = std::mem::replace(states, out);
        if keep == Keep::Nothing {
            return Ok(None);
        }
        let rest = rest.map(|rest| rest.change(|values| self.store(values)));
        Ok(Some(Kept {
            input: self.store(input)?,
            rest: rest.transpose()?,
        }))
    }

    fn run(
        &self,
        number: usize,
        input: &Buffer,
        keep: bool,
    ) -> Result<(Buffer, Option<Rest>), TrainError> {
        let layer = &self.encoder.layers[number];
        let mut between = Between::default();
        let mut linear =
            |target, frozen, x: &[f32]| self.linear(frozen, (number, target), x, &mut between);
        let queries = linear(AdapterTarget::Query, &layer.query, input)?;
        let keys = linear(AdapterTarget::Key, &layer.key, input)?;
        let values = linear(AdapterTarget::Value, &layer.value, input)?;
        let mut attended = self.take(self.base.shape.width)?;
        let taken = Taken {
            queries: &queries,
            keys: &keys,
            values: &values,
        };
        self.attention().forward(self.workers, taken, &mut attended);
        let attended = self.rounded(attended);
        let kept = keep.then_some((queries, keys, values));
        let mut first_sum = linear(AdapterTarget::Output, &layer.output, &attended)?;
        add(self.workers, &mut first_sum, input);
        let middle = self.norm(&layer.attention_norm, &first_sum)?;
        let up = linear(AdapterTarget::Up, &layer.up, &middle)?;
        let inner = self.inner(&up)?;
        let mut second_sum = linear(AdapterTarget::Down, &layer.down, &inner)?;
        drop(inner);
        add(self.workers, &mut second_sum, &middle);
        drop(middle);
        let out = self.norm(&layer.norm, &second_sum)?;
        let rest = kept.map(|(queries, keys, values)| Rest {
            queries,
            keys,
            values,
            attended,
            first_sum,
            second_sum,
            up,
            between,
        });
        Ok((out, rest))
    }

    fn inner(&self, up: &[f32]) -> Result<Buffer, TrainError> {
        let mut inner = self.pool.take(up.len())?;
        activate(self.workers, self.encoder.curve, up, &mut inner);
        Ok(self.rounded(inner))
    }

    /// Takes the gradient of the states after a layer to that of those before it, and adds those
    /// of the layer's adapters. The states before the first layer with an adapter have none that
    /// anybody wants.
    pub fn layer_backward(
        &self,
        number: usize,
        kept: Kept,
        gradient: &mut Buffer,
        gradients: &mut [f32],
    ) -> Result<(), TrainError> {
        let Kept { input, rest } = kept;
        let input = self.open(input)?;
        let rest = match rest {
            Some(rest) => rest.change(|values| self.open(values))?,
            None => match self.run(number, &input, true)? {
                (_, Some(rest)) => rest,
                (_, None) => return Ok(()),
            },
        };
        let layer = &self.encoder.layers[number];
        self.feed_forward_backward(number, layer, &rest, gradient, gradients)?;
        self.attention_backward(number, layer, (&input, &rest), gradient, gradients)
    }

    /// From the gradient of the layer's states to that of the first sum.
    fn feed_forward_backward(
        &self,
        number: usize,
        layer: &EncoderLayer,
        rest: &Rest,
        gradient: &mut Buffer,
        gradients: &mut [f32],
    ) -> Result<(), TrainError> {
        let Rest { between, up, .. } = rest;
        layer
            .norm
            .backward(self.workers, &rest.second_sum, gradient);
        let inner = self.inner(up)?;
        let mut dinner = self.take(layer.up.outputs())?;
        let down = (number, AdapterTarget::Down);
        let to = Some((&mut *dinner, false));
        let x = (&*inner, &**gradient);
        self.linear_backward(&layer.down, down, x, between, gradients, to)?;
        drop(inner);
        activate_backward(self.workers, self.encoder.curve, up, &mut dinner);
        let middle = self.norm(&layer.attention_norm, &rest.first_sum)?;
        let to = Some((&mut **gradient, true));
        let place = (number, AdapterTarget::Up);
        let x = (&*middle, &*dinner);
        self.linear_backward(&layer.up, place, x, between, gradients, to)?;
        let norm = &layer.attention_norm;
        norm.backward(self.workers, &rest.first_sum, gradient);
        Ok(())
    }

    /// From the gradient of the first sum to that of the layer's input.
    fn attention_backward(
        &self,
        number: usize,
        layer: &EncoderLayer,
        (input, rest): (&Buffer, &Rest),
        gradient: &mut Buffer,
        gradients: &mut [f32],
    ) -> Result<(), TrainError> {
        let between = &rest.between;
        let take = || self.take(self.base.shape.width);
        let mut dattended = take()?;
        let output = (number, AdapterTarget::Output);
        let (x, to) = (
            (&*rest.attended, &**gradient),
            Some((&mut *dattended, false)),
        );
        self.linear_backward(&layer.output, output, x, between, gradients, to)?;
        let (mut dqueries, mut dkeys, mut dvalues) = (take()?, take()?, take()?);
        let taken = Taken {
            queries: &rest.queries,
            keys: &rest.keys,
            values: &rest.values,
        };
        let to = AttentionGradients {
            queries: &mut dqueries,
            keys: &mut dkeys,
            values: &mut dvalues,
        };
        self.attention()
            .backward(self.workers, taken, &dattended, to);
        drop(dattended);
        let is_first = number == self.layout.first_layer();
        for (target, frozen, dy) in [
            (AdapterTarget::Query, &layer.query, dqueries),
            (AdapterTarget::Key, &layer.key, dkeys),
            (AdapterTarget::Value, &layer.value, dvalues),
        ] {
            let to = (!is_first).then_some((&mut **gradient, true));
            let x = (&**input, &*dy);
            self.linear_backward(frozen, (number, target), x, between, gradients, to)?;
        }
        Ok(())
    }
}
