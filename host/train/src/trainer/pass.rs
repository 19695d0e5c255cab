//! One pass over a batch: through the layers, to the loss, and back.

use crate::base::{DecoderBase, Network};
use crate::batch::{Divisor, Example, Loss, Outcome, Packed};
use crate::bf16::Precision;
use crate::decoder::DecoderPass;
use crate::encoder::EncoderPass;
use crate::error::TrainError;
use crate::gemm::Workers;
use crate::loss::own_divisor;
use crate::operators::head::rows_at_a_time;
use crate::operators::rows::{Turns, rms_norm, rms_norm_backward};
use crate::pass::{Keep, Pass, Weights};
use crate::pool::Buffer;
use crate::random::hash;
use crate::trainer::{Checkpointing, Trainer};

/// A batch that has gone through a decoder, with the states that the output layer takes.
pub(super) struct Decoded {
    kept: Vec<crate::decoder::Kept>,
    /// The rows of the residual stream that count, before and after the final norm.
    rows: Buffer,
    pub hidden: Buffer,
}

/// A batch that has gone through an encoder.
struct Encoded {
    kept: Vec<crate::encoder::Kept>,
    /// The states of the last layer, and what is pooled of them.
    states: Buffer,
    pooled: Buffer,
}

impl Trainer {
    pub(super) fn pass<'a>(
        &'a self,
        packed: &'a Packed,
        learning: bool,
        adapted: bool,
    ) -> Result<Pass<'a>, TrainError> {
        let workers = Workers {
            simd: self.simd,
            team: &self.team,
        };
        let parameters = match self.precision {
            Precision::F32 => Weights::Own(&self.parameters),
            Precision::Bf16 => {
                let mut rounded = self.pool.take(self.parameters.len())?;
                rounded.copy_from_slice(&self.parameters);
                self.precision.apply(workers, &mut rounded);
                Weights::Rounded(rounded)
            }
        };
        let pass = Pass {
            workers,
            pool: &self.pool,
            base: &self.base,
            lora: &self.lora,
            layout: &self.layout,
            parameters,
            scales: Vec::new(),
            precision: self.precision,
            sequences: &packed.sequences,
            dropped: (learning && self.lora.dropout > 0.0)
                .then(|| hash(self.lora.seed, self.batches.wrapping_add(1 << 32))),
            adapted,
        };
        match adapted && self.lora.dora {
            // Magnitudes are never rounded: they would move by more than they learn in a step.
            true => pass.scaled(&self.parameters, &self.account),
            false => Ok(pass),
        }
    }

    /// The same through a decoder, with the positions of its tokens.
    pub(super) fn decoder_pass<'a>(
        &self,
        common: Pass<'a>,
        decoder: &'a DecoderBase,
        packed: &Packed,
    ) -> DecoderPass<'a> {
        let config = &decoder.config;
        let mut known: Vec<&[f64]> = Vec::new();
        let turns_of = config.layers.iter().map(|layer| {
            let own = layer.frequencies.as_slice();
            known
                .iter()
                .position(|known| *known == own)
                .unwrap_or_else(|| {
                    known.push(own);
                    known.len() - 1
                })
        });
        let turns_of = turns_of.collect();
        let turns = known
            .iter()
            .map(|frequencies| Turns::new(config.rope_layout, frequencies, &packed.positions));
        DecoderPass {
            common,
            decoder,
            turns: turns.collect(),
            turns_of,
        }
    }

    /// What of a layer is kept: nothing below the first with an adapter.
    fn keep(&self, layer: usize, keep: Keep) -> Keep {
        match layer < self.layout.first_layer() {
            true => Keep::Nothing,
            false => keep,
        }
    }

    /// What a decoder's first layer takes.
    pub(super) fn embedded(
        &self,
        decoder: &DecoderBase,
        packed: &Packed,
    ) -> Result<Buffer, TrainError> {
        let width = decoder.config.width;
        let mut stream = self.pool.take(packed.tokens.len() * width)?;
        for (row, token) in stream.chunks_exact_mut(width).zip(&packed.tokens) {
            let scale = decoder.config.embedding_scale;
            decoder.embedding.row(*token as usize, scale, row);
        }
        Ok(stream)
    }

    /// Runs a decoder's layers, and the final norm on the rows that count.
    pub(super) fn decode(
        &self,
        pass: &DecoderPass<'_>,
        packed: &Packed,
        keep: Keep,
    ) -> Result<Decoded, TrainError> {
        let (decoder, config) = (pass.decoder, &pass.decoder.config);
        let width = config.width;
        let mut stream = self.embedded(decoder, packed)?;
        let mut kept = Vec::new();
        for number in 0..config.layers.len() {
            self.account.check()?;
            kept.extend(pass.layer(number, &mut stream, self.keep(number, keep))?);
        }
        let mut rows = self.pool.take(packed.rows.len() * width)?;
        for (to, row) in rows.chunks_exact_mut(width).zip(&packed.rows) {
            to.copy_from_slice(&stream[row * width..(row + 1) * width]);
        }
        let mut hidden = self.pool.take(rows.len())?;
        let (norm, epsilon) = (&decoder.final_norm, config.epsilon);
        rms_norm(pass.workers, &rows, norm, epsilon, &mut hidden);
        let hidden = pass.rounded(hidden);
        Ok(Decoded { kept, rows, hidden })
    }

    /// Runs an encoder's layers, and pools.
    fn encode(
        &self,
        pass: &EncoderPass<'_>,
        packed: &Packed,
        keep: Keep,
    ) -> Result<Encoded, TrainError> {
        let mut states = pass.embed(&packed.tokens, &packed.positions)?;
        let mut kept = Vec::new();
        for number in 0..self.base.shape.layers {
            self.account.check()?;
            kept.extend(pass.layer(number, &mut states, self.keep(number, keep))?);
        }
        let pooled = pass.pool(&states)?;
        Ok(Encoded {
            kept,
            states,
            pooled,
        })
    }

    /// The loss of a batch; where there are gradients, its own are added to them.
    pub(super) fn compute(
        &self,
        examples: &[Example],
        loss: Loss,
        divisor: Divisor,
        packed: &Packed,
        gradients: Option<&mut [f32]>,
    ) -> Result<Outcome, TrainError> {
        let learning = gradients.is_some();
        let divisor = match divisor {
            Divisor::Own => own_divisor(loss, packed),
            Divisor::Given(by) => f64::from(by),
        };
        if !(divisor.is_finite() && divisor > 0.0) {
            return Err(TrainError::Setting {
                what: "the divisor of the loss",
                got: divisor.to_string(),
                want: "a number above 0",
            });
        }
        if let Some(on) = self.device() {
            return self.through_device(on, examples, loss, divisor, packed, gradients);
        }
        let pass = self.pass(packed, learning, true)?;
        // What is not in buffers of the pool: positions, logits, panels and scores of the team.
        let _scratch = self
            .account
            .charge_memory(self.scratch_bytes(packed, learning))?;
        match &self.base.network {
            Network::Decoder(decoder) => {
                let pass = self.decoder_pass(pass, decoder, packed);
                self.through_decoder(&pass, examples, loss, divisor, packed, gradients)
            }
            Network::Encoder(encoder) => {
                let pass = EncoderPass {
                    common: pass,
                    encoder,
                };
                self.through_encoder(&pass, examples, divisor, packed, gradients)
            }
        }
    }

    fn kept_of(&self, learning: bool) -> Keep {
        match (learning, self.checkpointing) {
            (false, _) => Keep::Nothing,
            (true, Checkpointing::None) => Keep::All,
            (true, Checkpointing::Layers) => Keep::Inputs,
        }
    }

    /// Room for the gradient of what a loss is of, where anything is learned.
    fn gradient_of(&self, hidden: &Buffer, learning: bool) -> Result<Option<Buffer>, TrainError> {
        let taken = learning.then(|| self.pool.take(hidden.len()));
        Ok(taken.transpose()?)
    }

    /// The gradients of the layer over the model, which come last.
    fn of_classifier<'a>(&self, gradients: Option<&'a mut [f32]>) -> Option<&'a mut [f32]> {
        let start = self.layout.classifier.as_ref().map_or(0, |own| own.start);
        gradients.map(|all| &mut all[start..])
    }

    fn through_decoder(
        &self,
        pass: &DecoderPass<'_>,
        examples: &[Example],
        loss: Loss,
        divisor: f64,
        packed: &Packed,
        mut gradients: Option<&mut [f32]>,
    ) -> Result<Outcome, TrainError> {
        let learning = gradients.is_some();
        let done = self.decode(pass, packed, self.kept_of(learning))?;
        let mut dhidden = self.gradient_of(&done.hidden, learning)?;
        let (workers, hidden) = (pass.workers, &*done.hidden);
        let outcome = match loss {
            Loss::Classification => {
                let to = self.of_classifier(gradients.as_deref_mut());
                let to = to.zip(dhidden.as_deref_mut());
                self.classes_loss(workers, examples, packed, hidden, divisor, to)
            }
            _ => {
                let (to, head) = (dhidden.as_deref_mut(), pass.decoder.head().source());
                self.tokens_loss(workers, head, examples, loss, packed, hidden, divisor, to)
            }
        };
        if let (Some(gradients), Some(dhidden)) = (gradients, dhidden)
            && outcome.loss.is_finite()
        {
            self.back_through_decoder(pass, packed, done, &dhidden, gradients)?;
        }
        Ok(outcome)
    }

    fn back_through_decoder(
        &self,
        pass: &DecoderPass<'_>,
        packed: &Packed,
        done: Decoded,
        dhidden: &[f32],
        gradients: &mut [f32],
    ) -> Result<(), TrainError> {
        let (width, epsilon) = (self.base.shape.width, pass.decoder.config.epsilon);
        let Decoded { kept, rows, hidden } = done;
        drop(hidden);
        let mut drows = self.pool.take(rows.len())?;
        rms_norm_backward(
            pass.workers,
            &rows,
            &pass.decoder.final_norm,
            epsilon,
            dhidden,
            &mut drows,
            false,
        );
        drop(rows);
        let mut dstream = self.pool.take(packed.tokens.len() * width)?;
        dstream.fill(0.0);
        for (from, row) in drows.chunks_exact(width).zip(&packed.rows) {
            let to = &mut dstream[row * width..(row + 1) * width];
            for (to, from) in to.iter_mut().zip(from) {
                *to += from;
            }
        }
        drop(drows);
        let first = self.layout.first_layer();
        for (number, kept) in kept.into_iter().enumerate().rev() {
            self.account.check()?;
            pass.layer_backward(first + number, kept, &mut dstream, gradients)?;
        }
        Ok(())
    }

    fn through_encoder(
        &self,
        pass: &EncoderPass<'_>,
        examples: &[Example],
        divisor: f64,
        packed: &Packed,
        mut gradients: Option<&mut [f32]>,
    ) -> Result<Outcome, TrainError> {
        let learning = gradients.is_some();
        let done = self.encode(pass, packed, self.kept_of(learning))?;
        let mut dpooled = self.gradient_of(&done.pooled, learning)?;
        let to = self.of_classifier(gradients.as_deref_mut());
        let to = to.zip(dpooled.as_deref_mut());
        let pooled = &done.pooled;
        let outcome = self.classes_loss(pass.workers, examples, packed, pooled, divisor, to);
        let (Some(gradients), Some(dpooled)) = (gradients, dpooled) else {
            return Ok(outcome);
        };
        // Without an adapter there is nothing below the layer over what is pooled.
        if outcome.loss.is_finite() && !done.kept.is_empty() {
            let mut dstates = pass.pool_backward(&done.states, &dpooled)?;
            let first = self.layout.first_layer();
            for (number, kept) in done.kept.into_iter().enumerate().rev() {
                self.account.check()?;
                pass.layer_backward(first + number, kept, &mut dstates, gradients)?;
            }
        }
        Ok(outcome)
    }

    /// Bytes that a pass needs beside the pool's buffers.
    pub(super) fn scratch_bytes(&self, packed: &Packed, learning: bool) -> u64 {
        let shape = &self.base.shape;
        let tokens = packed.tokens.len();
        let pairs = match &self.base.network {
            Network::Decoder(decoder) => {
                let first = decoder.config.layers.first();
                first.map_or(0, |layer| layer.frequencies.len())
            }
            Network::Encoder(_) => 0,
        };
        let columns = self.classes.unwrap_or(shape.vocabulary);
        let logits = rows_at_a_time(columns, packed.rows.len()) * columns;
        let longest = packed
            .sequences
            .iter()
            .map(std::ops::Range::len)
            .max()
            .unwrap_or(0);
        // A head's keys and values in panels, the scores of some queries, a block of weights.
        let member = longest * (8 * shape.head_dim.next_multiple_of(32) + 2 * 64) + (1 << 18);
        // What stays of an input; with magnitudes also the gradient of what stays.
        let times = if self.lora.dora { 2 } else { 1 };
        let dropped = match learning && self.lora.dropout > 0.0 {
            true => times * tokens * shape.hidden.max(shape.width),
            false => 0,
        };
        let floats = logits + self.team.threads() * member + dropped + tokens * self.lora.rank;
        2 * Turns::bytes(tokens, pairs) + 4 * floats as u64
    }
}
