//! A loaded model and its forward pass.

use std::ops::Range;
use std::path::Path;

use skep_kernels::attention::{AttentionLayer, Sequence, attention};
use skep_kernels::kv::{KvFormat, KvPages, KvShape, PAGE_TOKENS};
use skep_kernels::rows::{Rope, Turns, add, gated, rms_norm, rms_norm_in_place};
use skep_kernels::{Activations, Isa, PageMemory, ShapeError, Team};
use skep_weights::WeightsFile;

use crate::adapter::{AdapterTarget, Attached, BaseShape, PagedAdapter};
use crate::config::Config;
use crate::error::{ForwardError, LoadError};
use crate::layer::{Layer, Loader};
use crate::names::Names;
use crate::project::{Linear, project};

/// A language model, ready to run. Its weights stay in the file that they came in.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
    embedding: Linear,
    layers: Vec<Layer>,
    /// The rotary positions that some layer has, each once.
    ropes: Vec<Rope>,
    /// Which of them each layer has.
    rope_of: Vec<usize>,
    final_norm: Vec<f32>,
    /// The output layer, where it is not the embedding.
    head: Option<Linear>,
    isa: Isa,
}

/// Tokens that go through the model together.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// All tokens, sequence by sequence.
    pub tokens: &'a [u32],
    /// Which of them belong to which sequence: one after the other, without gaps.
    pub parts: &'a [Part<'a>],
    /// The tokens whose logits are wanted, as places in `tokens`.
    pub outputs: &'a [usize],
}

/// The tokens of one sequence in a batch.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// How many.
    pub tokens: usize,
    /// The position of the first: tokens before it were in earlier batches.
    pub start: usize,
    /// The sequence's pages, from its first token on, with room for these tokens. A page may be
    /// shared by sequences where all of its tokens are, but not one that these tokens go into.
    pub pages: &'a [u32],
    /// What changes the model for these tokens. It lies in the pool that `pages` are of. Parts
    /// with the same adapter, which is one in the same place, are computed together.
    pub adapter: Option<&'a PagedAdapter>,
}

/// What all layers need to know of a batch.
struct Pass<'a> {
    team: &'a Team,
    sequences: Vec<Sequence<'a>>,
    adapters: Option<Attached<'a>>,
}

/// Buffers that a forward pass uses and the next one uses again.
#[derive(Debug, Default)]
pub struct Workspace {
    activations: Activations,
    /// The residual stream, `[tokens, width]`.
    stream: Vec<f32>,
    normed: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    attended: Vec<f32>,
    added: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    positions: Vec<u32>,
    /// How far the batch's tokens turn, for each of the model's rotary positions.
    turns: Vec<Turns>,
    logits: Vec<f32>,
    /// Between the two products of adapters.
    between: Vec<f32>,
}

impl Decoder {
    /// Loads a model from a Hugging Face folder or a GGUF file. Weights are mapped, not read,
    /// but for a check of every scale.
    ///
    /// # Errors
    /// When the file cannot be read, is unsound, or holds what is not supported.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        Self::from_weights(&WeightsFile::open(path)?)
    }

    /// The model in these weights.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn from_weights(weights: &WeightsFile) -> Result<Self, LoadError> {
        let config = Config::read(weights)?;
        let names = match weights {
            WeightsFile::Gguf { .. } => Names::Gguf,
            // Multimodal models have their text part one level down.
            _ if weights.tensor("language_model.model.norm.weight").is_some() => {
                Names::HuggingFace("language_model.model.")
            }
            _ => Names::HuggingFace("model."),
        };
        let loader = Loader {
            weights,
            config: &config,
            names,
        };
        let (vocabulary, width) = (config.vocabulary, config.width);
        let layers = (0..config.layers.len()).map(|number| loader.layer(number));
        let layers = layers.collect::<Result<_, _>>()?;
        let mut frequencies: Vec<&Vec<f64>> = Vec::new();
        let mut rope_of = Vec::with_capacity(config.layers.len());
        for layer in &config.layers {
            let known = frequencies.iter().position(|f| **f == layer.frequencies);
            rope_of.push(known.unwrap_or(frequencies.len()));
            if known.is_none() {
                frequencies.push(&layer.frequencies);
            }
        }
        let ropes = frequencies
            .into_iter()
            .map(|frequencies| Rope::new(config.rope_layout, frequencies.clone()))
            .collect();
        Ok(Self {
            embedding: loader.linear(&names.embedding(), vocabulary, width)?,
            layers,
            ropes,
            rope_of,
            final_norm: loader.norm(&names.final_norm(), width)?,
            head: match config.tied {
                true => None,
                false => Some(loader.linear(&names.head(), vocabulary, width)?),
            },
            isa: Isa::best(),
            config,
        })
    }

    /// What it is made of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The weights of its layers, in order: what a training computes gradients through.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// `[vocabulary, width]`: what tokens become.
    pub fn embedding(&self) -> &Linear {
        &self.embedding
    }

    /// The output layer, `[vocabulary, width]`, where it is not the embedding.
    pub fn head(&self) -> Option<&Linear> {
        self.head.as_ref()
    }

    /// `[width]`, of what the output layer takes.
    pub fn final_norm(&self) -> &[f32] {
        &self.final_norm
    }

    /// What its pages of keys and values look like.
    pub fn kv_shape(&self, format: KvFormat) -> KvShape {
        KvShape {
            layers: self.layers.len(),
            kv_heads: self.config.kv_heads,
            head_dim: self.config.head_dim,
            format,
        }
    }

    /// Runs a batch: keeps the keys and values of its tokens in `pages` and returns the logits
    /// `[outputs, vocabulary]` of what may follow the tokens in question. A token's logits are
    /// the same bits whatever else is in the batch.
    ///
    /// # Errors
    /// When a token or a position is none of the model's, or lengths do not fit together. Pages
    /// of the batch's own tokens may have been written to.
    pub fn forward<'w>(
        &self,
        team: &Team,
        workspace: &'w mut Workspace,
        pages: &mut KvPages,
        batch: &Batch<'_>,
    ) -> Result<&'w [f32], ForwardError> {
        let pass = Pass {
            team,
            sequences: self.sequences(batch)?,
            adapters: Attached::of(batch, BaseShape::of(&self.config), pages.memory())?,
        };
        self.embed(batch, workspace)?;
        workspace.positions.clear();
        for part in batch.parts {
            // Positions are below the context, which is far below `u32::MAX`.
            let positions = part.start..part.start + part.tokens;
            workspace.positions.extend(positions.map(|p| p as u32));
        }
        workspace
            .turns
            .resize_with(self.ropes.len(), Turns::default);
        for (rope, turns) in self.ropes.iter().zip(&mut workspace.turns) {
            rope.turns(&workspace.positions, turns);
        }
        for number in 0..self.layers.len() {
            self.attend(&pass, workspace, pages, number)?;
            self.feed_forward(&pass, workspace, pages.memory(), number)?;
        }
        self.logits(team, workspace, batch)
    }

    /// The last hidden state of a token of the batch that [`Decoder::forward`] ran last with this
    /// workspace, after the final norm: `[width]`.
    ///
    /// # Errors
    /// When the batch had no such token, or the length is not the model's.
    pub fn hidden(
        &self,
        workspace: &Workspace,
        token: usize,
        out: &mut [f32],
    ) -> Result<(), ForwardError> {
        let width = self.config.width;
        let rows = workspace.stream.len() / width.max(1);
        let Some(row) = workspace.stream.chunks_exact(width.max(1)).nth(token) else {
            return Err(shape("the batch", rows, token.saturating_add(1)));
        };
        Ok(rms_norm(
            self.isa,
            None,
            row,
            &self.final_norm,
            self.config.epsilon,
            out,
        )?)
    }

    /// Checks the batch, and says which tokens belong to which sequence.
    fn sequences<'a>(&self, batch: &Batch<'a>) -> Result<Vec<Sequence<'a>>, ForwardError> {
        let (vocabulary, context) = (self.config.vocabulary, self.config.context);
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
            let tokens: Range<usize> = next..next.saturating_add(part.tokens);
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

    fn embed(&self, batch: &Batch<'_>, workspace: &mut Workspace) -> Result<(), ForwardError> {
        let width = self.config.width;
        workspace.stream.resize(batch.tokens.len() * width, 0.0);
        let rows = workspace.stream.chunks_exact_mut(width);
        for (row, token) in rows.zip(batch.tokens) {
            if !self.embedding.row(*token as usize, row) {
                return Err(shape("a row of the embedding", 0, width));
            }
            for x in row {
                *x *= self.config.embedding_scale;
            }
        }
        Ok(())
    }

    /// Makes products of the layer of that number and one input, with what adapters add to them.
    /// `next` is what the model goes on with.
    fn project(
        &self,
        pass: &Pass<'_>,
        pool: &PageMemory,
        (number, next): (usize, &[&Linear]),
        input: &[f32],
        (activations, between): (&mut Activations, &mut Vec<f32>),
        products: &mut [(AdapterTarget, &mut Vec<f32>)],
    ) -> Result<(), ShapeError> {
        let layer = &self.layers[number];
        let mut base: Vec<_> = products
            .iter_mut()
            .map(|(target, out)| (layer.linear(*target), &mut **out))
            .collect();
        project(self.isa, pass.team, input, activations, &mut base, next)?;
        let Some(adapters) = &pass.adapters else {
            return Ok(());
        };
        adapters.add(
            (self.isa, pass.team),
            pool,
            number,
            input,
            products,
            between,
        )
    }

    fn attend(
        &self,
        pass: &Pass<'_>,
        workspace: &mut Workspace,
        pages: &mut KvPages,
        number: usize,
    ) -> Result<(), ForwardError> {
        let (isa, config, layer) = (self.isa, &self.config, &self.layers[number]);
        let Workspace {
            activations,
            stream,
            normed,
            queries,
            keys,
            values,
            attended,
            added,
            turns,
            between,
            ..
        } = workspace;
        let team = Some(pass.team);
        normed.resize(stream.len(), 0.0);
        let epsilon = config.epsilon;
        rms_norm(isa, team, stream, &layer.attention_norm, epsilon, normed)?;
        let buffers = (&mut *activations, &mut *between);
        let mut products = [
            (AdapterTarget::Query, &mut *queries),
            (AdapterTarget::Key, &mut *keys),
            (AdapterTarget::Value, &mut *values),
        ];
        let pool = pages.memory();
        let next = [&layer.output];
        self.project(pass, pool, (number, &next), normed, buffers, &mut products)?;
        if let Some(weight) = &layer.query_norm {
            rms_norm_in_place(isa, team, queries, weight, epsilon)?;
        }
        if let Some(weight) = &layer.key_norm {
            rms_norm_in_place(isa, team, keys, weight, epsilon)?;
        }
        let turns = &turns[self.rope_of[number]];
        turns.apply(isa, team, queries, config.head_dim)?;
        turns.apply(isa, team, keys, config.head_dim)?;
        let kv_width = config.kv_heads * config.head_dim;
        for sequence in &pass.sequences {
            for token in sequence.tokens.clone() {
                let position = sequence.start + token - sequence.tokens.start;
                let page = sequence.pages[position / PAGE_TOKENS] as usize;
                let row = token * kv_width..(token + 1) * kv_width;
                let slot = position % PAGE_TOKENS;
                pages.store(number, page, slot, &keys[row.clone()], &values[row])?;
            }
        }
        attended.resize(queries.len(), 0.0);
        let what = AttentionLayer {
            layer: number,
            heads: config.heads,
            scale: config.attention_scale,
            window: config.layers[number].window,
        };
        attention(
            isa,
            pass.team,
            &what,
            pages,
            &pass.sequences,
            queries,
            attended,
        )?;
        let buffers = (activations, between);
        let mut products = [(AdapterTarget::Output, &mut *added)];
        let pool = pages.memory();
        let next = [&layer.gate, &layer.up];
        self.project(
            pass,
            pool,
            (number, &next),
            attended,
            buffers,
            &mut products,
        )?;
        if let Some(weight) = &layer.post_attention_norm {
            rms_norm_in_place(isa, team, added, weight, epsilon)?;
        }
        Ok(add(team, stream, added)?)
    }

    fn feed_forward(
        &self,
        pass: &Pass<'_>,
        workspace: &mut Workspace,
        pool: &PageMemory,
        number: usize,
    ) -> Result<(), ForwardError> {
        let (isa, config, layer) = (self.isa, &self.config, &self.layers[number]);
        let Workspace {
            activations,
            stream,
            normed,
            added,
            gate,
            up,
            between,
            ..
        } = workspace;
        let (team, epsilon) = (Some(pass.team), config.epsilon);
        rms_norm(isa, team, stream, &layer.feed_forward_norm, epsilon, normed)?;
        let buffers = (&mut *activations, &mut *between);
        let mut products = [
            (AdapterTarget::Gate, &mut *gate),
            (AdapterTarget::Up, &mut *up),
        ];
        let next = [&layer.down];
        self.project(pass, pool, (number, &next), normed, buffers, &mut products)?;
        gated(isa, team, config.gate, gate, up)?;
        let buffers = (activations, between);
        let mut products = [(AdapterTarget::Down, &mut *added)];
        let next = match self.layers.get(number + 1) {
            Some(next) => vec![&next.query, &next.key, &next.value],
            None => vec![self.head.as_ref().unwrap_or(&self.embedding)],
        };
        self.project(pass, pool, (number, &next), gate, buffers, &mut products)?;
        if let Some(weight) = &layer.post_feed_forward_norm {
            rms_norm_in_place(isa, team, added, weight, epsilon)?;
        }
        Ok(add(team, stream, added)?)
    }

    fn logits<'w>(
        &self,
        team: &Team,
        workspace: &'w mut Workspace,
        batch: &Batch<'_>,
    ) -> Result<&'w [f32], ForwardError> {
        let (isa, config) = (self.isa, &self.config);
        let Workspace {
            activations,
            stream,
            normed,
            added,
            logits,
            ..
        } = workspace;
        added.clear();
        for output in batch.outputs {
            added.extend_from_slice(&stream[output * config.width..(output + 1) * config.width]);
        }
        normed.resize(added.len(), 0.0);
        rms_norm(
            isa,
            Some(team),
            added,
            &self.final_norm,
            config.epsilon,
            normed,
        )?;
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let mut products = [(head, &mut *logits)];
        project(isa, team, normed, activations, &mut products, &[])?;
        Ok(logits)
    }
}

fn shape(what: &'static str, got: usize, want: usize) -> ForwardError {
    ForwardError::Shape(ShapeError {
        operator: "forward",
        what,
        got,
        want,
    })
}
