//! The operators as the trait that forward passes are written over.

use skep_kernels::ShapeError;
use skep_kernels::attention::{AttentionLayer, Sequence};
use skep_kernels::kv::{KvShape, PAGE_TOKENS};
use skep_kernels::linear::Weights;
use skep_kernels::lora::{LowRank, Segments};
use skep_kernels::operators::{Device, Operators};
use skep_kernels::rows::{Gate, Rope};

use crate::attention::{self, Pages, Slots};
use crate::device::{Buffer, Gpu};
use crate::error::GpuError;
use crate::linear::{self, Matrix};
use crate::lora::{self, Target};
use crate::rows::{self, Turns};

/// Rows of numbers on the device; none before the first operator wrote to them.
#[derive(Debug, Default)]
pub struct Rows(Option<Buffer>);

impl Rows {
    /// The buffer, if something was written.
    pub fn buffer(&self) -> Option<&Buffer> {
        self.0.as_ref()
    }

    fn written(&self) -> Result<&Buffer, GpuError> {
        self.0.as_ref().ok_or(NOTHING)
    }

    fn written_mut(&mut self) -> Result<&mut Buffer, GpuError> {
        self.0.as_mut().ok_or(NOTHING)
    }
}

/// An operator was given rows that nobody wrote.
const NOTHING: GpuError = GpuError::Shape(ShapeError {
    operator: "an operator",
    what: "the input, which nothing was written to,",
    got: 0,
    want: 1,
});

/// A matrix with its bias.
#[derive(Debug)]
pub struct Layer {
    matrix: Matrix,
    bias: Option<Buffer>,
}

impl Layer {
    /// The matrix.
    pub fn matrix(&self) -> &Matrix {
        &self.matrix
    }
}

/// What all layers need of a batch.
#[derive(Debug)]
pub struct BatchPlan {
    attention: attention::Plan,
    slots: Slots,
    /// Of each of the model's rotary positions.
    turns: Vec<Turns>,
}

impl Operators for Gpu {
    type Rows = Rows;
    type Matrix = Layer;
    type Vector = Buffer;
    type Pages = Pages;
    type Plan<'a> = BatchPlan;
    type Scratch = ();
    type Error = GpuError;

    fn pool(&self, pages: &Pages) -> (usize, usize) {
        (pages.page_bytes(), pages.pages())
    }

    fn plan<'a>(
        &self,
        pages: &Pages,
        heads: usize,
        ropes: &[Rope],
        sequences: Vec<Sequence<'a>>,
    ) -> Result<BatchPlan, GpuError> {
        let tokens = sequences.last().map_or(0, |last| last.tokens.end);
        // Checks that every position has a page.
        let attention = attention::Plan::new(self, pages, heads, &sequences, tokens)?;
        let mut positions = Vec::with_capacity(tokens);
        let mut slots = Vec::with_capacity(tokens);
        for sequence in &sequences {
            for position in sequence.start..sequence.start + sequence.tokens.len() {
                let page = sequence.pages[position / PAGE_TOKENS];
                slots.push((page, (position % PAGE_TOKENS) as u32));
                positions.push(position as u32);
            }
        }
        let turns = ropes
            .iter()
            .map(|rope| Turns::upload(self, rope, &positions));
        Ok(BatchPlan {
            attention,
            slots: Slots::upload(self, pages, &slots)?,
            turns: turns.collect::<Result<_, _>>()?,
        })
    }

    fn gather(
        &self,
        matrix: &Layer,
        numbers: &[u32],
        scale: f32,
        out: &mut Rows,
    ) -> Result<(), GpuError> {
        out.0 = Some(linear::gather(self, &matrix.matrix, numbers, scale)?);
        Ok(())
    }

    fn pick(
        &self,
        rows: &Rows,
        width: usize,
        places: &[usize],
        out: &mut Rows,
    ) -> Result<(), GpuError> {
        out.0 = Some(rows::pick(self, rows.written()?, width, places)?);
        Ok(())
    }

    fn linear(
        &self,
        (): &mut (),
        input: &Rows,
        products: &mut [(&Layer, &mut Rows)],
        _: &[&Layer],
    ) -> Result<(), GpuError> {
        let input = input.written()?;
        let columns = products
            .first()
            .map_or(0, |(layer, _)| layer.matrix.columns());
        let tokens = input.len().checked_div(columns).unwrap_or(0);
        let matrices: Vec<_> = products.iter().map(|(layer, _)| &layer.matrix).collect();
        let outputs = linear::linear(self, &matrices, input, tokens)?;
        for ((layer, to), mut out) in products.iter_mut().zip(outputs) {
            if let Some(bias) = &layer.bias
                && tokens > 0
            {
                rows::add(self, &mut out, bias)?;
            }
            to.0 = Some(out);
        }
        Ok(())
    }

    fn add_low_rank(
        &self,
        (): &mut (),
        pages: &Pages,
        segments: &Segments,
        input: &Rows,
        targets: &mut [(&mut Rows, Vec<Option<LowRank<'_>>>)],
    ) -> Result<(), GpuError> {
        for (out, changes) in targets {
            let mut targets = [Target {
                out: out.written_mut()?,
                changes,
            }];
            lora::add_low_rank(self, pages, segments, input.written()?, &mut targets)?;
        }
        Ok(())
    }

    fn rms_norm(
        &self,
        rows: &Rows,
        weight: &Buffer,
        epsilon: f32,
        out: &mut Rows,
    ) -> Result<(), GpuError> {
        out.0 = Some(rows::rms_norm(self, rows.written()?, weight, epsilon)?);
        Ok(())
    }

    fn rms_norm_in_place(
        &self,
        rows: &mut Rows,
        weight: &Buffer,
        epsilon: f32,
    ) -> Result<(), GpuError> {
        rows::rms_norm_in_place(self, rows.written_mut()?, weight, epsilon)
    }

    fn rope(
        &self,
        plan: &BatchPlan,
        number: usize,
        rows: &mut Rows,
        dim: usize,
    ) -> Result<(), GpuError> {
        let turns = plan.turns.get(number).ok_or(NOTHING)?;
        rows::rope(self, turns, rows.written_mut()?, dim)
    }

    fn store(
        &self,
        plan: &BatchPlan,
        pages: &mut Pages,
        layer: usize,
        keys: &Rows,
        values: &Rows,
    ) -> Result<(), GpuError> {
        let (keys, values) = (keys.written()?, values.written()?);
        attention::store(self, layer, pages, &plan.slots, keys, values)
    }

    fn attention(
        &self,
        plan: &BatchPlan,
        layer: &AttentionLayer,
        pages: &Pages,
        queries: &Rows,
        out: &mut Rows,
    ) -> Result<(), GpuError> {
        let queries = queries.written()?;
        out.0 = Some(attention::attention(
            self,
            layer,
            pages,
            &plan.attention,
            queries,
        )?);
        Ok(())
    }

    fn gated(&self, function: Gate, gate: &mut Rows, up: &Rows) -> Result<(), GpuError> {
        rows::gated(self, function, gate.written_mut()?, up.written()?)
    }

    fn add(&self, to: &mut Rows, from: &Rows) -> Result<(), GpuError> {
        rows::add(self, to.written_mut()?, from.written()?)
    }
}

impl Device for Gpu {
    fn name(&self) -> &str {
        Gpu::name(self)
    }

    fn bytes(&self) -> u64 {
        self.account().usage().device_bytes
    }

    fn matrix(&self, weights: &Weights<'_>, bias: Option<&[f32]>) -> Result<Layer, GpuError> {
        Ok(Layer {
            matrix: Matrix::upload(self, weights)?,
            bias: bias.map(|bias| self.upload(bias)).transpose()?,
        })
    }

    fn vector(&self, values: &[f32]) -> Result<Buffer, GpuError> {
        self.upload(values)
    }

    fn read(&self, rows: &Rows) -> Result<Vec<f32>, GpuError> {
        Gpu::read(self, rows.written()?)
    }

    fn wait(&self) -> Result<(), GpuError> {
        Gpu::wait(self)
    }

    fn new_pages(&self, shape: KvShape, count: usize) -> Result<Pages, GpuError> {
        Pages::new(self, shape, count)
    }

    fn write_page(&self, pages: &mut Pages, page: usize, bytes: &[u8]) -> Result<(), GpuError> {
        pages.write(self, page, bytes)
    }

    fn read_page(&self, pages: &Pages, page: usize) -> Result<Vec<u8>, GpuError> {
        pages.read(self, page)
    }

    fn copy_page(
        &self,
        pages: &mut Pages,
        from: usize,
        to: usize,
        slots: usize,
    ) -> Result<(), GpuError> {
        pages.copy(self, from, to, slots)
    }
}
