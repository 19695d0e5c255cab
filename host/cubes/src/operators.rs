//! The operators as the trait that forward passes are written over.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use skep_kernels::attention::AttentionLayer;
use skep_kernels::kv::KvShape;
use skep_kernels::linear::Weights;
use skep_kernels::lora::{LowRank, Segments};
use skep_kernels::operators::{Device, Operators, PlannedBatch, Shared};
use skep_kernels::rows::Gate;
use skep_kernels::{ShapeError, expect_below, expect_len};

use crate::attention::{self, Pages};
use crate::batch::{BatchPlan, Kept};
use crate::device::{Buffer, Gpu};
use crate::error::GpuError;
use crate::linear::{self, Matrix};
use crate::lora::{self, Target};
use crate::round::{self, NormOfRows, Rounded};
use crate::rows;

/// Rows of numbers on the device; none before the first operator wrote to them. What is there is
/// written over by the next one, if it has the same length.
#[derive(Debug, Default)]
pub struct Rows {
    buffer: Option<Buffer>,
    /// The same rounded, for products that take it so.
    rounded: Option<Rounded>,
    /// Whether it is what the rows are now.
    is_rounded: bool,
}

impl Rows {
    /// The buffer, if something was written.
    pub fn buffer(&self) -> Option<&Buffer> {
        self.buffer.as_ref()
    }

    fn written(&self) -> Result<&Buffer, GpuError> {
        self.buffer.as_ref().ok_or(NOTHING)
    }

    fn written_mut(&mut self) -> Result<&mut Buffer, GpuError> {
        self.is_rounded = false;
        self.buffer.as_mut().ok_or(NOTHING)
    }

    /// Room for so many numbers, which are about to be written.
    fn room(&mut self, gpu: &Gpu, length: usize) -> Result<&Buffer, GpuError> {
        self.is_rounded = false;
        gpu.room(&mut self.buffer, length)
    }

    /// The same, and room for what they are rounded, if all of `next` take it in one precision.
    fn rounded_room(
        &mut self,
        gpu: &Gpu,
        (tokens, columns): (usize, usize),
        next: &[&Layer],
    ) -> Result<Option<(&Buffer, &Rounded)>, GpuError> {
        let length = tokens * columns;
        let precision = match next.first().and_then(|layer| layer.matrix.rounds_to()) {
            Some(precision)
                if length > 0
                    && columns.is_multiple_of(precision.block_len())
                    && next
                        .iter()
                        .all(|layer| layer.matrix.rounds_to() == Some(precision)) =>
            {
                precision
            }
            _ => return Ok(None),
        };
        let fits = |there: &Rounded| there.is_room_for(precision, length);
        if !self.rounded.as_ref().is_some_and(fits) {
            self.rounded = None;
            self.rounded = Some(Rounded::room(gpu, precision, tokens, columns)?);
        }
        let buffer = gpu.room(&mut self.buffer, length)?;
        self.is_rounded = true;
        Ok(self.rounded.as_ref().map(|rounded| (buffer, rounded)))
    }

    /// What the rows are rounded to, if they are.
    fn ready(&self) -> Option<&Rounded> {
        self.rounded.as_ref().filter(|_| self.is_rounded)
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

impl Operators for Gpu {
    type Rows = Rows;
    type Matrix = Layer;
    type Vector = Buffer;
    type Pages = Pages;
    type Plan<'a> = Arc<BatchPlan>;
    type Kept = Kept;
    type Scratch = ();
    type Error = GpuError;

    fn pool(&self, pages: &Pages) -> (usize, usize) {
        (pages.page_bytes(), pages.pages())
    }

    fn plan<'a>(
        &self,
        kept: &mut Kept,
        pages: &Pages,
        model: &Shared<'_>,
        batch: PlannedBatch<'a>,
    ) -> Result<Arc<BatchPlan>, GpuError> {
        kept.plan(self, pages, model, &batch)
    }

    fn run(
        &self,
        kept: &mut Kept,
        plan: &Arc<BatchPlan>,
        repeats: bool,
        pass: impl FnMut() -> Result<(), GpuError> + Send,
    ) -> Result<(), GpuError> {
        kept.run(self, plan, repeats, pass)
    }

    fn embed(
        &self,
        plan: &Arc<BatchPlan>,
        matrix: &Layer,
        scale: f32,
        out: &mut Rows,
    ) -> Result<(), GpuError> {
        let matrix = &matrix.matrix;
        let (table, count) = &plan.tokens;
        if *count > 0 {
            expect_below("embed", "the rows", plan.largest_token, matrix.rows())?;
        }
        plan.embedded.store(matrix.rows(), Ordering::Relaxed);
        let out = out.room(self, count * matrix.columns())?;
        linear::gather_placed(self, matrix, table, *count, scale, out)
    }

    fn outputs(
        &self,
        plan: &Arc<BatchPlan>,
        rows: &Rows,
        width: usize,
        out: &mut Rows,
    ) -> Result<(), GpuError> {
        let rows = rows.written()?;
        let want = plan.tokens.1.checked_mul(width);
        expect_len("outputs", "the rows", rows.len(), want)?;
        let (table, count) = &plan.outputs;
        let out = out.room(self, count * width)?;
        rows::pick_placed(self, rows, width, (table, *count), out)
    }

    fn pick(
        &self,
        rows: &Rows,
        width: usize,
        places: &[usize],
        out: &mut Rows,
    ) -> Result<(), GpuError> {
        let picked = rows::pick(self, rows.written()?, width, places)?;
        *out = Rows {
            buffer: Some(picked),
            ..Rows::default()
        };
        Ok(())
    }

    fn linear(
        &self,
        (): &mut (),
        input: &Rows,
        products: &mut [(&Layer, &mut Rows)],
        _: &[&Layer],
    ) -> Result<(), GpuError> {
        let ready = input.ready();
        let input = input.written()?;
        let columns = products
            .first()
            .map_or(0, |(layer, _)| layer.matrix.columns());
        let tokens = input.len().checked_div(columns).unwrap_or(0);
        let mut all = Vec::with_capacity(products.len());
        for (layer, out) in &mut *products {
            let length = tokens.saturating_mul(layer.matrix.rows());
            all.push((&layer.matrix, out.room(self, length)?));
        }
        linear::linear_into(self, &all, input, ready, tokens)?;
        for (layer, out) in products {
            if let Some(bias) = &layer.bias
                && tokens > 0
            {
                rows::add(self, out.written_mut()?, bias)?;
            }
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
        next: &[&Layer],
    ) -> Result<(), GpuError> {
        let rows = rows.written()?;
        let shape = rows_of("rms_norm", rows, weight)?;
        if let Some((out, rounded)) = norm_room(self, shape, out, next)? {
            let what = NormOfRows {
                rows,
                added: None,
                weight,
                epsilon,
                out,
                rounded,
            };
            return round::norm(self, &what, shape);
        }
        let out = out.room(self, rows.len())?;
        rows::norm(self, rows, weight, epsilon, out)
    }

    fn add_rms_norm(
        &self,
        rows: &mut Rows,
        added: &Rows,
        weight: &Buffer,
        epsilon: f32,
        out: &mut Rows,
        next: &[&Layer],
    ) -> Result<(), GpuError> {
        let to = rows.written_mut()?;
        let from = added.written()?;
        let shape = rows_of("rms_norm", to, weight)?;
        if from.len() == to.len()
            && let Some((out, rounded)) = norm_room(self, shape, out, next)?
        {
            let what = NormOfRows {
                rows: to,
                added: Some(from),
                weight,
                epsilon,
                out,
                rounded,
            };
            return round::norm(self, &what, shape);
        }
        rows::add(self, to, from)?;
        self.rms_norm(rows, weight, epsilon, out, &[])
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
        plan: &Arc<BatchPlan>,
        number: usize,
        rows: &mut Rows,
        dim: usize,
    ) -> Result<(), GpuError> {
        let turns = plan.turns.get(number).ok_or(NOTHING)?;
        rows::rope(self, turns, rows.written_mut()?, dim)
    }

    fn store(
        &self,
        plan: &Arc<BatchPlan>,
        pages: &mut Pages,
        layer: usize,
        keys: &Rows,
        values: &Rows,
    ) -> Result<(), GpuError> {
        let (keys, values) = (keys.written()?, values.written()?);
        attention::store(self, layer, pages, &plan.slots, keys, values)
    }

    fn rope_and_store(
        &self,
        plan: &Arc<BatchPlan>,
        (number, dim): (usize, usize),
        (pages, layer): (&mut Pages, usize),
        queries: &mut Rows,
        keys: &mut Rows,
        values: &Rows,
    ) -> Result<(), GpuError> {
        let turns = plan.turns.get(number).ok_or(NOTHING)?;
        expect_len("rope", "a head", dim, Some(pages.shape().head_dim))?;
        let (queries, keys) = (queries.written_mut()?, keys.written_mut()?);
        let (slots, values) = (&plan.slots, values.written()?);
        attention::rope_and_store(self, turns, layer, pages, slots, queries, keys, values)
    }

    fn attention(
        &self,
        plan: &Arc<BatchPlan>,
        layer: &AttentionLayer,
        pages: &Pages,
        queries: &Rows,
        out: &mut Rows,
        next: &[&Layer],
    ) -> Result<(), GpuError> {
        let queries = queries.written()?;
        let tokens = plan.tokens.1;
        let columns = queries.len().checked_div(tokens).unwrap_or(0);
        let plan = &plan.attention;
        if tokens * columns == queries.len()
            && columns.is_multiple_of(4)
            && let Some((out, rounded)) = out.rounded_room(self, (tokens, columns), next)?
        {
            return attention::attention_into(
                self,
                layer,
                pages,
                plan,
                queries,
                out,
                Some(rounded),
            );
        }
        let out = out.room(self, queries.len())?;
        attention::attention_into(self, layer, pages, plan, queries, out, None)
    }

    fn gated(
        &self,
        function: Gate,
        gate: &mut Rows,
        up: &Rows,
        next: &[&Layer],
    ) -> Result<(), GpuError> {
        let length = gate.written()?.len();
        let columns = next.first().map_or(0, |layer| layer.matrix.columns());
        let tokens = length.checked_div(columns).unwrap_or(0);
        let up_rows = up.written()?;
        if tokens * columns == length
            && up_rows.len() == length
            && let Some((gate, rounded)) = gate.rounded_room(self, (tokens, columns), next)?
        {
            let shape = (tokens, columns);
            return round::gated(self, function, (gate, up_rows), shape, rounded);
        }
        rows::gated(self, function, gate.written_mut()?, up.written()?)
    }

    fn add(&self, to: &mut Rows, from: &Rows) -> Result<(), GpuError> {
        rows::add(self, to.written_mut()?, from.written()?)
    }
}

/// How many rows of how many elements there are, as many as the weight has.
fn rows_of(
    operator: &'static str,
    rows: &Buffer,
    weight: &Buffer,
) -> Result<(usize, usize), GpuError> {
    let columns = weight.len();
    let tokens = rows.len().checked_div(columns).unwrap_or(0);
    expect_len(operator, "the input", rows.len(), Some(tokens * columns))?;
    Ok((tokens, columns))
}

/// Room for normed rows and what they are rounded to, where both are made at once.
fn norm_room<'a>(
    gpu: &Gpu,
    shape: (usize, usize),
    out: &'a mut Rows,
    next: &[&Layer],
) -> Result<Option<(&'a Buffer, &'a Rounded)>, GpuError> {
    if !round::can_norm(gpu, shape.1) {
        return Ok(None);
    }
    out.rounded_room(gpu, shape, next)
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
