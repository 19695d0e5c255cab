//! The operators of a forward pass on the processor, over weights as they lie in their file.

use skep_kernels::attention::{AttentionLayer, attention};
use skep_kernels::kv::{KvPages, PAGE_TOKENS};
use skep_kernels::lora::{LowRank, Segments, Target, add_low_rank};
use skep_kernels::operators::{Operators, PlannedBatch, Shared};
use skep_kernels::rows::{Gate, Turns, add, gated, rms_norm, rms_norm_in_place};
use skep_kernels::{Activations, Isa, ShapeError, Team};

use crate::project::{Linear, project};

/// The processor's operators, shared out among a team.
#[derive(Clone, Copy)]
pub(crate) struct Host<'t> {
    pub isa: Isa,
    pub team: &'t Team,
    /// Whether products of floats may round both sides to bfloat16.
    pub rounds: bool,
}

/// What all layers need of a batch.
pub(crate) struct HostPlan<'a> {
    batch: PlannedBatch<'a>,
    /// How far the batch's tokens turn, for each of the model's rotary positions.
    turns: Vec<Turns>,
}

/// What operators use from one call to the next.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    activations: Activations,
    /// Between the two products of adapters.
    between: Vec<f32>,
}

impl Operators for Host<'_> {
    type Rows = Vec<f32>;
    type Matrix = Linear;
    type Vector = Vec<f32>;
    type Pages = KvPages;
    type Plan<'a> = HostPlan<'a>;
    type Kept = ();
    type Scratch = Scratch;
    type Error = ShapeError;

    fn pool(&self, pages: &KvPages) -> (usize, usize) {
        (pages.memory().page_bytes(), pages.pages())
    }

    fn plan<'a>(
        &self,
        (): &mut (),
        _: &KvPages,
        model: &Shared<'_>,
        batch: PlannedBatch<'a>,
    ) -> Result<HostPlan<'a>, ShapeError> {
        let positions: Vec<u32> = batch
            .sequences
            .iter()
            .flat_map(|sequence| {
                // Positions are below the context, which is far below `u32::MAX`.
                let end = sequence.start + sequence.tokens.len();
                (sequence.start..end).map(|position| position as u32)
            })
            .collect();
        let turns = model.ropes.iter().map(|rope| {
            let mut turns = Turns::default();
            rope.turns(&positions, &mut turns);
            turns
        });
        Ok(HostPlan {
            turns: turns.collect(),
            batch,
        })
    }

    fn embed(
        &self,
        plan: &HostPlan<'_>,
        matrix: &Linear,
        scale: f32,
        out: &mut Vec<f32>,
    ) -> Result<(), ShapeError> {
        let numbers = plan.batch.tokens;
        let width = matrix.columns();
        out.resize(numbers.len() * width, 0.0);
        for (row, number) in out.chunks_exact_mut(width.max(1)).zip(numbers) {
            if !matrix.row(*number as usize, row) {
                return Err(ShapeError {
                    operator: "gather",
                    what: "the rows",
                    got: matrix.rows(),
                    want: *number as usize + 1,
                });
            }
            for x in row {
                *x *= scale;
            }
        }
        Ok(())
    }

    fn outputs(
        &self,
        plan: &HostPlan<'_>,
        rows: &Vec<f32>,
        width: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), ShapeError> {
        self.pick(rows, width, plan.batch.outputs, out)
    }

    fn pick(
        &self,
        rows: &Vec<f32>,
        width: usize,
        places: &[usize],
        out: &mut Vec<f32>,
    ) -> Result<(), ShapeError> {
        out.clear();
        for place in places {
            let row = rows.chunks_exact(width.max(1)).nth(*place);
            out.extend_from_slice(row.ok_or(ShapeError {
                operator: "pick",
                what: "the rows",
                got: rows.len() / width.max(1),
                want: place.saturating_add(1),
            })?);
        }
        Ok(())
    }

    fn linear(
        &self,
        scratch: &mut Scratch,
        input: &Vec<f32>,
        products: &mut [(&Linear, &mut Vec<f32>)],
        next: &[&Linear],
    ) -> Result<(), ShapeError> {
        project(self, input, &mut scratch.activations, products, next)
    }

    fn add_low_rank(
        &self,
        scratch: &mut Scratch,
        pages: &KvPages,
        segments: &Segments,
        input: &Vec<f32>,
        targets: &mut [(&mut Vec<f32>, Vec<Option<LowRank<'_>>>)],
    ) -> Result<(), ShapeError> {
        let mut targets: Vec<_> = targets
            .iter_mut()
            .map(|(out, changes)| Target { out, changes })
            .collect();
        let (isa, team, between) = (self.isa, self.team, &mut scratch.between);
        add_low_rank(
            isa,
            team,
            pages.memory(),
            segments,
            input,
            &mut targets,
            between,
        )
    }

    fn rms_norm(
        &self,
        rows: &Vec<f32>,
        weight: &Vec<f32>,
        epsilon: f32,
        out: &mut Vec<f32>,
        _: &[&Linear],
    ) -> Result<(), ShapeError> {
        out.resize(rows.len(), 0.0);
        rms_norm(self.isa, Some(self.team), rows, weight, epsilon, out)
    }

    fn rms_norm_in_place(
        &self,
        rows: &mut Vec<f32>,
        weight: &Vec<f32>,
        epsilon: f32,
    ) -> Result<(), ShapeError> {
        rms_norm_in_place(self.isa, Some(self.team), rows, weight, epsilon)
    }

    fn rope(
        &self,
        plan: &HostPlan<'_>,
        number: usize,
        rows: &mut Vec<f32>,
        dim: usize,
    ) -> Result<(), ShapeError> {
        plan.turns[number].apply(self.isa, Some(self.team), rows, dim)
    }

    fn store(
        &self,
        plan: &HostPlan<'_>,
        pages: &mut KvPages,
        layer: usize,
        keys: &Vec<f32>,
        values: &Vec<f32>,
    ) -> Result<(), ShapeError> {
        let width = pages.shape().kv_heads * pages.shape().head_dim;
        for sequence in &plan.batch.sequences {
            for token in sequence.tokens.clone() {
                let position = sequence.start + token - sequence.tokens.start;
                let page = sequence.pages[position / PAGE_TOKENS] as usize;
                let row = token * width..(token + 1) * width;
                let slot = position % PAGE_TOKENS;
                pages.store(layer, page, slot, &keys[row.clone()], &values[row])?;
            }
        }
        Ok(())
    }

    fn attention(
        &self,
        plan: &HostPlan<'_>,
        layer: &AttentionLayer,
        pages: &KvPages,
        queries: &Vec<f32>,
        out: &mut Vec<f32>,
        _: &[&Linear],
    ) -> Result<(), ShapeError> {
        out.resize(queries.len(), 0.0);
        let (isa, team, sequences) = (self.isa, self.team, &plan.batch.sequences);
        attention(isa, team, layer, pages, sequences, queries, out)
    }

    fn gated(
        &self,
        function: Gate,
        gate: &mut Vec<f32>,
        up: &Vec<f32>,
        _: &[&Linear],
    ) -> Result<(), ShapeError> {
        gated(self.isa, Some(self.team), function, gate, up)
    }

    fn add(&self, to: &mut Vec<f32>, from: &Vec<f32>) -> Result<(), ShapeError> {
        add(Some(self.team), to, from)
    }
}

/// The norm of one row, alone.
pub(crate) fn norm_of(
    isa: Isa,
    row: &[f32],
    weight: &[f32],
    epsilon: f32,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    rms_norm(isa, None, row, weight, epsilon, out)
}
