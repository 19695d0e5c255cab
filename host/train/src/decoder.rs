//! A decoder's layers with an adapter, there and back.
//!
//! What the backward pass of a layer needs is kept from its forward pass, or only its input is,
//! and the forward pass is made again (gradient checkpointing, arXiv 1604.06174). What is cheap
//! to make again from what is kept, norms and gates, is made again in either case.

use std::ops::Deref;

use skep_decoder::AdapterTarget;

use crate::base::{BaseLayer, DecoderBase};
use crate::bf16::Stored;
use crate::error::TrainError;
use crate::operators::attention::{Attention, AttentionGradients, Taken};
use crate::operators::rows::{Turns, add, gated, gated_backward, rms_norm, rms_norm_backward};
use crate::pass::{Between, Keep, Pass, between_in};
use crate::pool::Buffer;

/// A pass through a decoder.
pub(crate) struct DecoderPass<'a> {
    pub common: Pass<'a>,
    pub decoder: &'a DecoderBase,
    /// The different rotary positions of all layers, and which of them each layer has.
    pub turns: Vec<Turns>,
    pub turns_of: Vec<usize>,
}

impl<'a> Deref for DecoderPass<'a> {
    type Target = Pass<'a>;

    fn deref(&self) -> &Pass<'a> {
        &self.common
    }
}

/// What the backward pass of a layer needs.
pub(crate) struct Kept {
    /// The residual stream before the layer.
    pub input: Buffer,
    rest: Option<Rest<Stored>>,
}

struct Rest<B = Buffer> {
    /// After rotary positions.
    queries: B,
    keys: B,
    values: B,
    /// Before the norms of heads, where there are any.
    raw_queries: Option<B>,
    raw_keys: Option<B>,
    attended: B,
    /// What attention and the feed-forward layer add before their norms, where there are any.
    raw_attention: Option<B>,
    raw_feed_forward: Option<B>,
    /// The residual stream between both halves, which is never rounded.
    middle: Buffer,
    gate: B,
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
            raw_queries: self.raw_queries.map(&mut change).transpose()?,
            raw_keys: self.raw_keys.map(&mut change).transpose()?,
            attended: change(self.attended)?,
            raw_attention: self.raw_attention.map(&mut change).transpose()?,
            raw_feed_forward: self.raw_feed_forward.map(&mut change).transpose()?,
            middle: self.middle,
            gate: change(self.gate)?,
            up: change(self.up)?,
            between: between_in(self.between, change)?,
        })
    }
}

impl DecoderPass<'_> {
    fn forward_linear(
        &self,
        place: (usize, AdapterTarget),
        x: &[f32],
        between: &mut Between,
    ) -> Result<Buffer, TrainError> {
        let frozen = self.decoder.layers[place.0].linear(place.1);
        self.linear(frozen, place, x, between)
    }

    fn backward_linear(
        &self,
        place: (usize, AdapterTarget),
        x: &[f32],
        dy: &[f32],
        rest: &Rest,
        gradients: &mut [f32],
        dx: Option<(&mut [f32], bool)>,
    ) -> Result<(), TrainError> {
        let frozen = self.decoder.layers[place.0].linear(place.1);
        self.linear_backward(frozen, place, (x, dy), &rest.between, gradients, dx)
    }

    fn attention(&self, layer: usize) -> Attention<'_> {
        let config = &self.decoder.config;
        Attention {
            sequences: self.sequences,
            heads: config.heads,
            kv_heads: config.kv_heads,
            dim: config.head_dim,
            scale: config.attention_scale,
            causal: true,
            window: config.layers[layer].window,
        }
    }

    fn norm(&self, x: &[f32], weight: &[f32]) -> Result<Buffer, TrainError> {
        let mut out = self.pool.take(x.len())?;
        rms_norm(
            self.workers,
            x,
            weight,
            self.decoder.config.epsilon,
            &mut out,
        );
        Ok(self.rounded(out))
    }

    /// Where there is a norm, its result, and what it was made of if that is to be kept.
    fn norm_if(
        &self,
        weight: &Option<Vec<f32>>,
        x: Buffer,
        keep: bool,
    ) -> Result<(Buffer, Option<Buffer>), TrainError> {
        match weight {
            None => Ok((x, None)),
            Some(weight) => {
                let out = self.norm(&x, weight)?;
                Ok((out, keep.then_some(x)))
            }
        }
    }

    /// The gradient of [`Pass::norm_if`]'s input.
    fn norm_if_backward(
        &self,
        weight: &Option<Vec<f32>>,
        raw: &Option<Buffer>,
        dy: &[f32],
    ) -> Result<Option<Buffer>, TrainError> {
        let (Some(weight), Some(raw)) = (weight, raw) else {
            return Ok(None);
        };
        let mut dx = self.pool.take(dy.len())?;
        let epsilon = self.decoder.config.epsilon;
        rms_norm_backward(self.workers, raw, weight, epsilon, dy, &mut dx, false);
        Ok(Some(dx))
    }

    fn turn(&self, layer: usize, rows: &mut [f32], heads: usize, back: bool) {
        let dim = self.decoder.config.head_dim;
        let turns = &self.turns[self.turns_of[layer]];
        turns.apply(self.workers, rows, heads * dim, dim, back);
        if !back {
            self.precision.apply(self.workers, rows);
        }
    }

    /// Runs a layer on the residual stream.
    pub fn layer(
        &self,
        number: usize,
        stream: &mut Buffer,
        keep: Keep,
    ) -> Result<Option<Kept>, TrainError> {
        let input = match keep {
            Keep::Nothing => None,
            Keep::Inputs | Keep::All => Some(self.copy(stream)?),
        };
        let rest = self.run(number, stream, keep == Keep::All)?;
        let rest = rest.map(|rest| rest.change(|values| self.store(values)));
        let rest = rest.transpose()?;
        Ok(input.map(|input| Kept { input, rest }))
    }

    fn run(
        &self,
        number: usize,
        stream: &mut Buffer,
        keep: bool,
    ) -> Result<Option<Rest>, TrainError> {
        let (config, layer) = (&self.decoder.config, &self.decoder.layers[number]);
        let mut between = Between::default();
        let normed = self.norm(stream, &layer.attention_norm)?;
        let queries = self.forward_linear((number, AdapterTarget::Query), &normed, &mut between)?;
        let keys = self.forward_linear((number, AdapterTarget::Key), &normed, &mut between)?;
        let values = self.forward_linear((number, AdapterTarget::Value), &normed, &mut between)?;
        drop(normed);
        let (mut queries, raw_queries) = self.norm_if(&layer.query_norm, queries, keep)?;
        let (mut keys, raw_keys) = self.norm_if(&layer.key_norm, keys, keep)?;
        self.turn(number, &mut queries, config.heads, false);
        self.turn(number, &mut keys, config.kv_heads, false);
        let mut attended = self.take(config.heads * config.head_dim)?;
        let taken = Taken {
            queries: &queries,
            keys: &keys,
            values: &values,
        };
        self.attention(number)
            .forward(self.workers, taken, &mut attended);
        let attended = self.rounded(attended);
        let kept = keep.then_some((queries, keys, values));
        let added =
            self.forward_linear((number, AdapterTarget::Output), &attended, &mut between)?;
        let (added, raw_attention) = self.norm_if(&layer.post_attention_norm, added, keep)?;
        add(self.workers, stream, &added);
        drop(added);
        let middle = if keep { Some(self.copy(stream)?) } else { None };
        let normed = self.norm(stream, &layer.feed_forward_norm)?;
        let gate = self.forward_linear((number, AdapterTarget::Gate), &normed, &mut between)?;
        let up = self.forward_linear((number, AdapterTarget::Up), &normed, &mut between)?;
        drop(normed);
        let mut inner = self.take(config.hidden)?;
        gated(self.workers, config.gate, &gate, &up, &mut inner);
        let inner = self.rounded(inner);
        let added = self.forward_linear((number, AdapterTarget::Down), &inner, &mut between)?;
        drop(inner);
        let (added, raw_feed_forward) = self.norm_if(&layer.post_feed_forward_norm, added, keep)?;
        add(self.workers, stream, &added);
        let (Some((queries, keys, values)), Some(middle)) = (kept, middle) else {
            return Ok(None);
        };
        Ok(Some(Rest {
            queries,
            keys,
            values,
            raw_queries,
            raw_keys,
            attended,
            raw_attention,
            raw_feed_forward,
            middle,
            gate,
            up,
            between,
        }))
    }

    /// Takes the gradient of the residual stream after a layer to that before it, and adds those
    /// of the layer's adapters. The input of the first layer with an adapter has no gradient that
    /// anybody wants.
    pub fn layer_backward(
        &self,
        number: usize,
        kept: Kept,
        dstream: &mut Buffer,
        gradients: &mut [f32],
    ) -> Result<(), TrainError> {
        let Kept { input, rest } = kept;
        let rest = match rest {
            Some(rest) => rest.change(|values| self.open(values))?,
            None => {
                let mut stream = self.copy(&input)?;
                let Some(rest) = self.run(number, &mut stream, true)? else {
                    return Ok(());
                };
                rest
            }
        };
        let layer = &self.decoder.layers[number];
        let rest = self.feed_forward_backward(number, layer, rest, dstream, gradients)?;
        self.attention_backward(number, layer, &input, rest, dstream, gradients)
    }

    fn feed_forward_backward(
        &self,
        number: usize,
        layer: &BaseLayer,
        mut rest: Rest,
        dstream: &mut Buffer,
        gradients: &mut [f32],
    ) -> Result<Rest, TrainError> {
        let config = &self.decoder.config;
        let (norm, raw) = (&layer.post_feed_forward_norm, &rest.raw_feed_forward);
        let through = self.norm_if_backward(norm, raw, dstream)?;
        let dadded = through.as_deref().unwrap_or(dstream);
        let mut inner = self.take(config.hidden)?;
        gated(self.workers, config.gate, &rest.gate, &rest.up, &mut inner);
        let inner = self.rounded(inner);
        let mut dinner = self.take(config.hidden)?;
        let down = (number, AdapterTarget::Down);
        let to = Some((&mut *dinner, false));
        self.backward_linear(down, &inner, dadded, &rest, gradients, to)?;
        drop((inner, through));
        // Gradients take the place of what they are of.
        gated_backward(
            self.workers,
            config.gate,
            &dinner,
            &mut rest.gate,
            &mut rest.up,
        );
        drop(dinner);
        let normed = self.norm(&rest.middle, &layer.feed_forward_norm)?;
        let mut dnormed = self.take(config.width)?;
        let parts = [
            (AdapterTarget::Gate, &rest.gate),
            (AdapterTarget::Up, &rest.up),
        ];
        for (n, (target, dy)) in parts.into_iter().enumerate() {
            let to = Some((&mut *dnormed, n > 0));
            self.backward_linear((number, target), &normed, dy, &rest, gradients, to)?;
        }
        let (weight, epsilon) = (&layer.feed_forward_norm, config.epsilon);
        rms_norm_backward(
            self.workers,
            &rest.middle,
            weight,
            epsilon,
            &dnormed,
            dstream,
            true,
        );
        Ok(rest)
    }

    fn attention_backward(
        &self,
        number: usize,
        layer: &BaseLayer,
        input: &Buffer,
        rest: Rest,
        dstream: &mut Buffer,
        gradients: &mut [f32],
    ) -> Result<(), TrainError> {
        let config = &self.decoder.config;
        let kv_width = config.kv_heads * config.head_dim;
        let through =
            self.norm_if_backward(&layer.post_attention_norm, &rest.raw_attention, dstream)?;
        let dadded = through.as_deref().unwrap_or(dstream);
        let mut dattended = self.take(config.heads * config.head_dim)?;
        let output = (number, AdapterTarget::Output);
        let to = Some((&mut *dattended, false));
        self.backward_linear(output, &rest.attended, dadded, &rest, gradients, to)?;
        drop(through);
        let mut dqueries = self.take(config.heads * config.head_dim)?;
        let (mut dkeys, mut dvalues) = (self.take(kv_width)?, self.take(kv_width)?);
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
        self.attention(number)
            .backward(self.workers, taken, &dattended, to);
        drop(dattended);
        self.turn(number, &mut dqueries, config.heads, true);
        self.turn(number, &mut dkeys, config.kv_heads, true);
        let through = self.norm_if_backward(&layer.query_norm, &rest.raw_queries, &dqueries)?;
        let dqueries = through.unwrap_or(dqueries);
        let through = self.norm_if_backward(&layer.key_norm, &rest.raw_keys, &dkeys)?;
        let dkeys = through.unwrap_or(dkeys);
        let normed = self.norm(input, &layer.attention_norm)?;
        let parts = [
            (AdapterTarget::Query, &dqueries),
            (AdapterTarget::Key, &dkeys),
            (AdapterTarget::Value, &dvalues),
        ];
        if number == self.layout.first_layer() {
            for (target, dy) in parts {
                self.backward_linear((number, target), &normed, dy, &rest, gradients, None)?;
            }
            return Ok(());
        }
        let mut dnormed = self.take(config.width)?;
        for (n, (target, dy)) in parts.into_iter().enumerate() {
            let to = Some((&mut *dnormed, n > 0));
            self.backward_linear((number, target), &normed, dy, &rest, gradients, to)?;
        }
        let (weight, epsilon) = (&layer.attention_norm, config.epsilon);
        rms_norm_backward(
            self.workers,
            input,
            weight,
            epsilon,
            &dnormed,
            dstream,
            true,
        );
        Ok(())
    }
}
