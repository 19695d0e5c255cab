//! The forward pass, over the operators of whatever device the weights lie on.
//!
//! It names operators in their order and sees no number, so that one pass serves processors and
//! graphics processors, and every architecture.

use skep_kernels::attention::{AttentionLayer, Sequence};
use skep_kernels::kv::PAGE_TOKENS;
use skep_kernels::operators::Operators;
use skep_kernels::rows::Rope;

use crate::adapter::{AdapterTarget, Attached, BaseShape};
use crate::config::Config;
use crate::error::ForwardError;
use crate::layer::Layer;
use crate::model::{Batch, shape};

/// A model as a pass sees it.
pub(crate) struct Model<'a, M, V> {
    pub config: &'a Config,
    pub embedding: &'a M,
    pub layers: &'a [Layer<M, V>],
    /// The rotary positions that some layer has, each once.
    pub ropes: &'a [Rope],
    /// Which of them each layer has.
    pub rope_of: &'a [usize],
    pub final_norm: &'a V,
    /// The output layer, which may be the embedding.
    pub head: &'a M,
}

/// What a pass writes between operators, and the next one uses again.
#[derive(Debug, Default)]
pub(crate) struct Buffers<R, S> {
    pub scratch: S,
    /// The residual stream, `[tokens, width]`.
    pub stream: R,
    pub normed: R,
    pub queries: R,
    pub keys: R,
    pub values: R,
    pub attended: R,
    pub added: R,
    pub gate: R,
    pub up: R,
    /// `[outputs, vocabulary]`.
    pub logits: R,
}

/// Those of an implementation of the operators.
pub(crate) type BuffersOf<O> = Buffers<<O as Operators>::Rows, <O as Operators>::Scratch>;

/// Why a pass was not run to its end.
#[derive(Debug)]
pub(crate) enum Failure<E> {
    /// The batch is none for this model.
    Batch(ForwardError),
    /// An operator failed.
    Operator(E),
}

impl<E> From<ForwardError> for Failure<E> {
    fn from(error: ForwardError) -> Self {
        Failure::Batch(error)
    }
}

/// What all layers need to know of a batch.
struct Pass<'a, O: Operators> {
    operators: &'a O,
    plan: O::Plan<'a>,
    adapters: Option<Attached<'a>>,
}

impl<M, V> Model<'_, M, V> {
    /// Runs a batch: keeps the keys and values of its tokens in `pages` and leaves the logits of
    /// its outputs in `buffers`.
    pub fn forward<'b, O: Operators<Matrix = M, Vector = V>>(
        &self,
        operators: &'b O,
        buffers: &mut BuffersOf<O>,
        pages: &mut O::Pages,
        batch: &Batch<'b>,
    ) -> Result<(), Failure<O::Error>> {
        let config = self.config;
        let sequences = sequences(config, batch)?;
        let adapters = Attached::of(batch, BaseShape::of(config), operators.pool(pages))?;
        let plan = operators.plan(pages, config.heads, self.ropes, sequences);
        let pass = Pass {
            operators,
            plan: plan.map_err(Failure::Operator)?,
            adapters,
        };
        let scale = config.embedding_scale;
        operators
            .gather(self.embedding, batch.tokens, scale, &mut buffers.stream)
            .map_err(Failure::Operator)?;
        for number in 0..self.layers.len() {
            self.attend(&pass, buffers, pages, number)
                .and_then(|()| self.feed_forward(&pass, buffers, pages, number))
                .map_err(Failure::Operator)?;
        }
        self.logits(operators, buffers, batch.outputs)
            .map_err(Failure::Operator)
    }

    fn attend<O: Operators<Matrix = M, Vector = V>>(
        &self,
        pass: &Pass<'_, O>,
        buffers: &mut BuffersOf<O>,
        pages: &mut O::Pages,
        number: usize,
    ) -> Result<(), O::Error> {
        let (o, config, layer) = (pass.operators, self.config, &self.layers[number]);
        let (epsilon, dim) = (config.epsilon, config.head_dim);
        let Buffers {
            scratch,
            stream,
            normed,
            queries,
            keys,
            values,
            attended,
            added,
            ..
        } = buffers;
        o.rms_norm(stream, &layer.attention_norm, epsilon, normed)?;
        let mut products = [
            (AdapterTarget::Query, &mut *queries),
            (AdapterTarget::Key, &mut *keys),
            (AdapterTarget::Value, &mut *values),
        ];
        let next = [&layer.output];
        self.project(pass, scratch, pages, (number, &next), normed, &mut products)?;
        for (weight, rows) in [
            (&layer.query_norm, &mut *queries),
            (&layer.key_norm, &mut *keys),
        ] {
            if let Some(weight) = weight {
                o.rms_norm_in_place(rows, weight, epsilon)?;
            }
            o.rope(&pass.plan, self.rope_of[number], rows, dim)?;
        }
        o.store(&pass.plan, pages, number, keys, values)?;
        let what = AttentionLayer {
            layer: number,
            heads: config.heads,
            scale: config.attention_scale,
            window: config.layers[number].window,
        };
        o.attention(&pass.plan, &what, pages, queries, attended)?;
        let mut products = [(AdapterTarget::Output, &mut *added)];
        let next = [&layer.gate, &layer.up];
        self.project(
            pass,
            scratch,
            pages,
            (number, &next),
            attended,
            &mut products,
        )?;
        if let Some(weight) = &layer.post_attention_norm {
            o.rms_norm_in_place(added, weight, epsilon)?;
        }
        o.add(stream, added)
    }

    fn feed_forward<O: Operators<Matrix = M, Vector = V>>(
        &self,
        pass: &Pass<'_, O>,
        buffers: &mut BuffersOf<O>,
        pages: &O::Pages,
        number: usize,
    ) -> Result<(), O::Error> {
        let (o, config, layer) = (pass.operators, self.config, &self.layers[number]);
        let Buffers {
            scratch,
            stream,
            normed,
            added,
            gate,
            up,
            ..
        } = buffers;
        o.rms_norm(stream, &layer.feed_forward_norm, config.epsilon, normed)?;
        let mut products = [
            (AdapterTarget::Gate, &mut *gate),
            (AdapterTarget::Up, &mut *up),
        ];
        let next = [&layer.down];
        self.project(pass, scratch, pages, (number, &next), normed, &mut products)?;
        o.gated(config.gate, gate, up)?;
        let mut products = [(AdapterTarget::Down, &mut *added)];
        let next = match self.layers.get(number + 1) {
            Some(next) => vec![&next.query, &next.key, &next.value],
            None => vec![self.head],
        };
        self.project(pass, scratch, pages, (number, &next), gate, &mut products)?;
        if let Some(weight) = &layer.post_feed_forward_norm {
            o.rms_norm_in_place(added, weight, config.epsilon)?;
        }
        o.add(stream, added)
    }

    /// Makes products of the layer of that number and one input, with what adapters add to them.
    /// `next` is what the model goes on with.
    fn project<O: Operators<Matrix = M, Vector = V>>(
        &self,
        pass: &Pass<'_, O>,
        scratch: &mut O::Scratch,
        pages: &O::Pages,
        (number, next): (usize, &[&M]),
        input: &O::Rows,
        products: &mut [(AdapterTarget, &mut O::Rows)],
    ) -> Result<(), O::Error> {
        let layer = &self.layers[number];
        let mut base: Vec<_> = products
            .iter_mut()
            .map(|(target, out)| (layer.linear(*target), &mut **out))
            .collect();
        pass.operators.linear(scratch, input, &mut base, next)?;
        let Some(adapters) = &pass.adapters else {
            return Ok(());
        };
        let mut targets: Vec<_> = products
            .iter_mut()
            .map(|(target, out)| (&mut **out, adapters.changes(number, *target)))
            .collect();
        let segments = adapters.segments();
        pass.operators
            .add_low_rank(scratch, pages, segments, input, &mut targets)
    }

    fn logits<O: Operators<Matrix = M, Vector = V>>(
        &self,
        o: &O,
        buffers: &mut BuffersOf<O>,
        outputs: &[usize],
    ) -> Result<(), O::Error> {
        let Buffers {
            scratch,
            stream,
            normed,
            added,
            logits,
            ..
        } = buffers;
        o.pick(stream, self.config.width, outputs, added)?;
        o.rms_norm(added, self.final_norm, self.config.epsilon, normed)?;
        o.linear(scratch, normed, &mut [(self.head, logits)], &[])
    }
}

/// Checks the batch, and says which tokens belong to which sequence.
fn sequences<'a>(config: &Config, batch: &Batch<'a>) -> Result<Vec<Sequence<'a>>, ForwardError> {
    let (vocabulary, context) = (config.vocabulary, config.context);
    if let Some(token) = batch.tokens.iter().find(|t| **t as usize >= vocabulary) {
        return Err(ForwardError::Token {
            token: *token,
            vocabulary,
        });
    }
    let mut next = 0_usize;
    let mut sequences = Vec::with_capacity(batch.parts.len());
    for part in batch.parts {
        let end = part.start.saturating_add(part.tokens);
        if end > context {
            return Err(ForwardError::Context {
                position: end - 1,
                context,
            });
        }
        if end > part.pages.len() * PAGE_TOKENS {
            return Err(shape(
                "the pages of a sequence",
                part.pages.len(),
                end.div_ceil(PAGE_TOKENS),
            ));
        }
        let tokens = next..next.saturating_add(part.tokens);
        next = tokens.end;
        sequences.push(Sequence {
            tokens,
            start: part.start,
            pages: part.pages,
        });
    }
    if next != batch.tokens.len() {
        return Err(shape("the batch", batch.tokens.len(), next));
    }
    if let Some(output) = batch.outputs.iter().find(|o| **o >= batch.tokens.len()) {
        return Err(shape(
            "the batch",
            batch.tokens.len(),
            output.saturating_add(1),
        ));
    }
    Ok(sequences)
}
