//! One pass over a batch: through the layers, to the loss, and back.

use crate::batch::{Divisor, Example, Loss, Outcome, Packed};
use crate::error::TrainError;
use crate::gemm::Workers;
use crate::loss::own_divisor;
use crate::model::{Keep, Kept, Pass};
use crate::operators::head::rows_at_a_time;
use crate::operators::rows::{Turns, rms_norm, rms_norm_backward};
use crate::pool::Buffer;
use crate::random::hash;
use crate::trainer::{Checkpointing, Trainer};

/// A batch on its way, with the states that the output layer takes.
pub(super) struct Forward {
    kept: Vec<Kept>,
    /// The rows of the residual stream that count, before and after the final norm.
    pub rows: Buffer,
    pub hidden: Buffer,
}

impl Trainer {
    pub(super) fn pass<'a>(
        &'a self,
        packed: &'a Packed,
        learning: bool,
        adapted: bool,
    ) -> Pass<'a> {
        let config = &self.base.config;
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
        Pass {
            workers: Workers {
                simd: self.simd,
                team: &self.team,
            },
            pool: &self.pool,
            base: &self.base,
            lora: &self.lora,
            layout: &self.layout,
            parameters: &self.parameters,
            sequences: &packed.sequences,
            turns: turns.collect(),
            turns_of,
            dropped: (learning && self.lora.dropout > 0.0)
                .then(|| hash(self.lora.seed, self.batches.wrapping_add(1 << 32))),
            adapted,
        }
    }

    /// Runs the layers, and the final norm on the rows that count.
    pub(super) fn forward(
        &self,
        pass: &Pass<'_>,
        packed: &Packed,
        keep: Keep,
    ) -> Result<Forward, TrainError> {
        let config = &self.base.config;
        let width = config.width;
        let mut stream = self.pool.take(packed.tokens.len() * width)?;
        for (row, token) in stream.chunks_exact_mut(width).zip(&packed.tokens) {
            self.base
                .embedding
                .row(*token as usize, config.embedding_scale, row);
        }
        let mut kept = Vec::new();
        for number in 0..config.layers.len() {
            self.account.check()?;
            let keep = if number < self.layout.first_layer() {
                Keep::Nothing
            } else {
                keep
            };
            kept.extend(pass.layer(number, &mut stream, keep)?);
        }
        let mut rows = self.pool.take(packed.rows.len() * width)?;
        for (to, row) in rows.chunks_exact_mut(width).zip(&packed.rows) {
            to.copy_from_slice(&stream[row * width..(row + 1) * width]);
        }
        let mut hidden = self.pool.take(rows.len())?;
        rms_norm(
            pass.workers,
            &rows,
            &self.base.final_norm,
            config.epsilon,
            &mut hidden,
        );
        Ok(Forward { kept, rows, hidden })
    }

    /// The loss of a batch; where there are gradients, its own are added to them.
    pub(super) fn compute(
        &self,
        examples: &[Example],
        loss: Loss,
        divisor: Divisor,
        packed: &Packed,
        mut gradients: Option<&mut [f32]>,
    ) -> Result<Outcome, TrainError> {
        let learning = gradients.is_some();
        let pass = self.pass(packed, learning, true);
        // What is not in buffers of the pool: positions, logits, panels and scores of the team.
        let _scratch = self
            .account
            .charge_memory(self.scratch_bytes(packed, learning))?;
        let keep = match (learning, self.checkpointing) {
            (false, _) => Keep::Nothing,
            (true, Checkpointing::None) => Keep::All,
            (true, Checkpointing::Layers) => Keep::Inputs,
        };
        let forward = self.forward(&pass, packed, keep)?;
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
        let mut dhidden = match learning {
            true => Some(self.pool.take(forward.hidden.len())?),
            false => None,
        };
        let outcome = match loss {
            Loss::Classification => {
                let to = gradients.as_deref_mut().zip(dhidden.as_deref_mut());
                self.classes_loss(&pass, examples, packed, &forward.hidden, divisor, to)
            }
            _ => {
                let to = dhidden.as_deref_mut();
                self.tokens_loss(&pass, examples, loss, packed, &forward.hidden, divisor, to)
            }
        };
        if let (Some(gradients), Some(dhidden)) = (gradients, dhidden)
            && outcome.loss.is_finite()
        {
            self.backward(&pass, packed, forward, &dhidden, gradients)?;
        }
        Ok(outcome)
    }

    fn backward(
        &self,
        pass: &Pass<'_>,
        packed: &Packed,
        forward: Forward,
        dhidden: &[f32],
        gradients: &mut [f32],
    ) -> Result<(), TrainError> {
        let config = &self.base.config;
        let (width, norm) = (config.width, &self.base.final_norm);
        let Forward { kept, rows, hidden } = forward;
        drop(hidden);
        let mut drows = self.pool.take(rows.len())?;
        rms_norm_backward(
            pass.workers,
            &rows,
            norm,
            config.epsilon,
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

    /// Bytes that a pass needs beside the pool's buffers.
    pub(super) fn scratch_bytes(&self, packed: &Packed, learning: bool) -> u64 {
        let config = &self.base.config;
        let tokens = packed.tokens.len();
        let pairs = config
            .layers
            .first()
            .map_or(0, |layer| layer.frequencies.len());
        let columns = self.classes.unwrap_or(config.vocabulary);
        let logits = rows_at_a_time(columns, packed.rows.len()) * columns;
        let longest = packed
            .sequences
            .iter()
            .map(std::ops::Range::len)
            .max()
            .unwrap_or(0);
        // A head's keys and values in panels, the scores of some queries, a block of weights.
        let member = longest * (8 * config.head_dim.next_multiple_of(32) + 2 * 64) + (1 << 18);
        let dropped = match learning && self.lora.dropout > 0.0 {
            true => tokens * config.hidden.max(config.width),
            false => 0,
        };
        let floats = logits + self.team.threads() * member + dropped + tokens * self.lora.rank;
        2 * Turns::bytes(tokens, pairs) + 4 * floats as u64
    }
}
