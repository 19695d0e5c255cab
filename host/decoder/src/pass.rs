//! The forward pass, over the operators of whatever device the weights lie on.
//!
//! It names operators in their order and sees no number, so that one pass serves processors and
//! graphics processors, and every architecture.

use skep_kernels::attention::{AttentionLayer, Sequence};
use skep_kernels::kv::PAGE_TOKENS;
use skep_kernels::operators::{Operators, PlannedBatch, Shared};
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
struct Pass<'p, 'a, O: Operators> {
    operators: &'a O,
    plan: &'p O::Plan<'a>,
    adapters: Option<Attached<'a>>,
}

impl<M: Sync, V: Sync> Model<'_, M, V> {
    /// Runs a batch: keeps the keys and values of its tokens in `pages` and leaves the logits of
    /// its outputs in `buffers`.
    pub fn forward<'b, O: Operators<Matrix = M, Vector = V>>(
        &self,
        operators: &'b O,
        (buffers, kept): (&mut BuffersOf<O>, &mut O::Kept),
        pages: &mut O::Pages,
        batch: &Batch<'b>,
    ) -> Result<(), Failure<O::Error>> {
        let config = self.config;
        let sequences = sequences(config, batch)?;
        let adapters = Attached::of(batch, BaseShape::of(config), operators.pool(pages))?;
        let shared = Shared {
            heads: config.heads,
            ropes: self.ropes,
        };
        let planned = PlannedBatch {
            tokens: batch.tokens,
            sequences,
            outputs: batch.outputs,
        };
        let plan = operators.plan(kept, pages, &shared, planned);
        let plan = plan.map_err(Failure::Operator)?;
        // What adapters do depends on where their pages are.
        let repeats = adapters.is_none();
        let pass = Pass {
            operators,
            plan: &plan,
            adapters,
        };
        operators
            .run(kept, &plan, repeats, || self.layers(&pass, buffers, pages))
            .map_err(Failure::Operator)
    }

    fn layers<O: Operators<Matrix = M, Vector = V>>(
        &self,
        pass: &Pass<'_, '_, O>,
        buffers: &mut BuffersOf<O>,
        pages: &mut O::Pages,
    ) -> Result<(), O::Error> {
        let scale = self.config.embedding_scale;
        let stream = &mut buffers.stream;
        pass.operators
            .embed(pass.plan, self.embedding, scale, stream)?;
        for number in 0..self.layers.len() {
            self.attend(pass, buffers, pages, number)?;
            self.feed_forward(pass, buffers, pages, number)?;
        }
        if !self.layers.is_empty() {
            pass.operators.add(&mut buffers.stream, &buffers.added)?;
        }
        self.logits(pass, buffers)
    }

    /// The first half of a layer. What the layer before has last added to the stream is added here
    /// first.
    fn attend<O: Operators<Matrix = M, Vector = V>>(
        &self,
        pass: &Pass<'_, '_, O>,
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
        let next = [&layer.query, &layer.key, &layer.value];
        let weight = &layer.attention_norm;
        match number {
            0 => o.rms_norm(stream, weight, epsilon, normed, &next)?,
            _ => o.add_rms_norm(stream, added, weight, epsilon, normed, &next)?,
        }
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
        }
        let turn = (self.rope_of[number], dim);
        o.rope_and_store(pass.plan, turn, (pages, number), queries, keys, values)?;
        let what = AttentionLayer {
            layer: number,
            heads: config.heads,
            scale: config.attention_scale,
            window: config.layers[number].window,
        };
        let next = [&layer.output];
        o.attention(pass.plan, &what, pages, queries, attended, &next)?;
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
        match &layer.post_attention_norm {
            Some(weight) => o.rms_norm_in_place(added, weight, epsilon),
            None => Ok(()),
        }
    }

    /// The second half, which leaves what it adds to the stream in `added`.
    fn feed_forward<O: Operators<Matrix = M, Vector = V>>(
        &self,
        pass: &Pass<'_, '_, O>,
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
        let next = [&layer.gate, &layer.up];
        let weight = &layer.feed_forward_norm;
        o.add_rms_norm(stream, added, weight, config.epsilon, normed, &next)?;
        let mut products = [
            (AdapterTarget::Gate, &mut *gate),
            (AdapterTarget::Up, &mut *up),
        ];
        let next = [&layer.down];
        self.project(pass, scratch, pages, (number, &next), normed, &mut products)?;
        o.gated(config.gate, gate, up, &[&layer.down])?;
        let mut products = [(AdapterTarget::Down, &mut *added)];
        let next = match self.layers.get(number + 1) {
            Some(next) => vec![&next.query, &next.key, &next.value],
            None => vec![self.head],
        };
        self.project(pass, scratch, pages, (number, &next), gate, &mut products)?;
        match &layer.post_feed_forward_norm {
            Some(weight) => o.rms_norm_in_place(added, weight, config.epsilon),
            None => Ok(()),
        }
    }

    /// Makes products of the layer of that number and one input, with what adapters add to them.
    /// `next` is what the model goes on with.
    fn project<O: Operators<Matrix = M, Vector = V>>(
        &self,
        pass: &Pass<'_, '_, O>,
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
        pass: &Pass<'_, '_, O>,
        buffers: &mut BuffersOf<O>,
    ) -> Result<(), O::Error> {
        let o = pass.operators;
        let Buffers {
            scratch,
            stream,
            normed,
            added,
            logits,
            ..
        } = buffers;
        o.outputs(pass.plan, stream, self.config.width, added)?;
        let (weight, epsilon) = (self.final_norm, self.config.epsilon);
        o.rms_norm(added, weight, epsilon, normed, &[self.head])?;
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
