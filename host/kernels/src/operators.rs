//! The operators of a forward pass as a trait, so that one pass runs on processors and on
//! graphics processors.
//!
//! What a pass works on is the implementation's own: rows of numbers, matrices, pages. The pass
//! says which operator comes next and with what; it sees no number. Shapes are those of this
//! crate's functions of the same names, which are the operators on the processor.
//!
//! What an implementation must never do: read or write outside what it is given, whatever the
//! lengths; let a row's result depend on values of other rows.

use crate::ShapeError;
use crate::attention::{AttentionLayer, Sequence};
use crate::kv::KvShape;
use crate::linear::Weights;
use crate::lora::{LowRank, Segments};
use crate::rows::{Gate, Rope};

/// What of a model a batch's plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct Shared<'a> {
    /// Heads of queries of each layer.
    pub heads: usize,
    /// The different rotary positions of its layers.
    pub ropes: &'a [Rope],
}

/// A batch, before anything was done for it.
#[derive(Debug, Clone)]
pub struct PlannedBatch<'a> {
    /// The tokens of all sequences.
    pub tokens: &'a [u32],
    /// Where each sequence's tokens are and belong.
    pub sequences: Vec<Sequence<'a>>,
    /// The places of tokens whose logits are wanted.
    pub outputs: &'a [usize],
}

/// What a forward pass is made of. Errors are those of lengths that do not fit together, and of
/// the device. What an operator writes is resized to what it has to be.
pub trait Operators: Sync {
    /// Rows of numbers, one row a token.
    type Rows: Default + Send;
    /// `[outputs, inputs]`, packed, with a bias or without.
    type Matrix: Sync;
    /// The weight of a norm.
    type Vector: Sync;
    /// Pages of keys, values and adapters.
    type Pages: Send + Sync;
    /// What all layers need to know of a batch.
    type Plan<'a>: Sync;
    /// What is kept of a pass for the next one of the same shape.
    type Kept: Default;
    /// Buffers that operators use from one call to the next.
    type Scratch: Default + Send;
    /// Why an operator was not run.
    type Error: From<ShapeError> + Send;

    /// The bytes of a page, and the pages that there are.
    fn pool(&self, pages: &Self::Pages) -> (usize, usize);

    /// Prepares a batch: its tokens and their sequences, one after the other without gaps, for
    /// layers of so many heads of queries, each with one of these rotary positions; `outputs` are
    /// the places of the tokens whose logits are wanted.
    ///
    /// # Errors
    /// When pages are missing, or there is no token at such a place.
    fn plan<'a>(
        &self,
        kept: &mut Self::Kept,
        pages: &Self::Pages,
        model: &Shared<'_>,
        batch: PlannedBatch<'a>,
    ) -> Result<Self::Plan<'a>, Self::Error>;

    /// Runs a pass over a batch that was planned with this. Whoever can keeps what the pass does,
    /// and does it again without running it, if `repeats` says that it does the same whenever
    /// another batch has the same shape.
    ///
    /// # Errors
    /// Those of the pass.
    fn run(
        &self,
        _kept: &mut Self::Kept,
        _plan: &Self::Plan<'_>,
        _repeats: bool,
        mut pass: impl FnMut() -> Result<(), Self::Error> + Send,
    ) -> Result<(), Self::Error> {
        pass()
    }

    /// The matrix's rows of the plan's tokens, multiplied with `scale`.
    ///
    /// # Errors
    /// When there is no such row.
    fn embed(
        &self,
        plan: &Self::Plan<'_>,
        matrix: &Self::Matrix,
        scale: f32,
        out: &mut Self::Rows,
    ) -> Result<(), Self::Error>;

    /// The rows of `width` elements of the plan's outputs.
    ///
    /// # Errors
    /// When there are no such rows.
    fn outputs(
        &self,
        plan: &Self::Plan<'_>,
        rows: &Self::Rows,
        width: usize,
        out: &mut Self::Rows,
    ) -> Result<(), Self::Error>;

    /// The rows of `width` elements at these places.
    ///
    /// # Errors
    /// When there is no such row.
    fn pick(
        &self,
        rows: &Self::Rows,
        width: usize,
        places: &[usize],
        out: &mut Self::Rows,
    ) -> Result<(), Self::Error>;

    /// Products of one input with several matrices, biases added. `next` are the matrices that
    /// the pass goes on with, for whoever can fetch them meanwhile.
    ///
    /// # Errors
    /// When a row of the input has not as many elements as a matrix has inputs.
    fn linear(
        &self,
        scratch: &mut Self::Scratch,
        input: &Self::Rows,
        products: &mut [(&Self::Matrix, &mut Self::Rows)],
        next: &[&Self::Matrix],
    ) -> Result<(), Self::Error>;

    /// Adds to products of one input what adapters make of it: for each product what each segment
    /// adds.
    ///
    /// # Errors
    /// When lengths do not fit together or an adapter's pages are not there.
    fn add_low_rank(
        &self,
        scratch: &mut Self::Scratch,
        pages: &Self::Pages,
        segments: &Segments,
        input: &Self::Rows,
        targets: &mut [(&mut Self::Rows, Vec<Option<LowRank<'_>>>)],
    ) -> Result<(), Self::Error>;

    /// The norm of each row. `next` are the matrices that take it, for whoever can make ready what
    /// their products need.
    ///
    /// # Errors
    /// When a row has another length than the weight.
    fn rms_norm(
        &self,
        rows: &Self::Rows,
        weight: &Self::Vector,
        epsilon: f32,
        out: &mut Self::Rows,
        next: &[&Self::Matrix],
    ) -> Result<(), Self::Error>;

    /// `rows += added`, and the norm of each row of the sum.
    ///
    /// # Errors
    /// As [`Operators::add`] and [`Operators::rms_norm`].
    fn add_rms_norm(
        &self,
        rows: &mut Self::Rows,
        added: &Self::Rows,
        weight: &Self::Vector,
        epsilon: f32,
        out: &mut Self::Rows,
        next: &[&Self::Matrix],
    ) -> Result<(), Self::Error> {
        self.add(rows, added)?;
        self.rms_norm(rows, weight, epsilon, out, next)
    }

    /// The norm of each run of as many elements as the weight has, in place.
    ///
    /// # Errors
    /// When a row is no whole number of them.
    fn rms_norm_in_place(
        &self,
        rows: &mut Self::Rows,
        weight: &Self::Vector,
        epsilon: f32,
    ) -> Result<(), Self::Error>;

    /// Turns heads of `dim` elements to their tokens' positions: by the rotary positions number
    /// `number` of those that the plan was made with.
    ///
    /// # Errors
    /// When a row is no whole number of heads.
    fn rope(
        &self,
        plan: &Self::Plan<'_>,
        number: usize,
        rows: &mut Self::Rows,
        dim: usize,
    ) -> Result<(), Self::Error>;

    /// Keeps the keys and values of the batch's tokens in a layer's part of their pages.
    ///
    /// # Errors
    /// When there is no such layer or rows have another length.
    fn store(
        &self,
        plan: &Self::Plan<'_>,
        pages: &mut Self::Pages,
        layer: usize,
        keys: &Self::Rows,
        values: &Self::Rows,
    ) -> Result<(), Self::Error>;

    /// Turns queries and keys as [`Operators::rope`] does, and keeps the keys and values as
    /// [`Operators::store`] does.
    ///
    /// # Errors
    /// As both.
    fn rope_and_store(
        &self,
        plan: &Self::Plan<'_>,
        (number, dim): (usize, usize),
        (pages, layer): (&mut Self::Pages, usize),
        queries: &mut Self::Rows,
        keys: &mut Self::Rows,
        values: &Self::Rows,
    ) -> Result<(), Self::Error> {
        self.rope(plan, number, queries, dim)?;
        self.rope(plan, number, keys, dim)?;
        self.store(plan, pages, layer, keys, values)
    }

    /// What each query finds in the pages of its sequence. `next` is as in [`Operators::rms_norm`].
    ///
    /// # Errors
    /// When there is no such layer or rows have another length.
    fn attention(
        &self,
        plan: &Self::Plan<'_>,
        layer: &AttentionLayer,
        pages: &Self::Pages,
        queries: &Self::Rows,
        out: &mut Self::Rows,
        next: &[&Self::Matrix],
    ) -> Result<(), Self::Error>;

    /// `gate = function(gate) * up`. `next` is as in [`Operators::rms_norm`].
    ///
    /// # Errors
    /// When the lengths differ.
    fn gated(
        &self,
        function: Gate,
        gate: &mut Self::Rows,
        up: &Self::Rows,
        next: &[&Self::Matrix],
    ) -> Result<(), Self::Error>;

    /// `to += from`.
    ///
    /// # Errors
    /// When the lengths differ.
    fn add(&self, to: &mut Self::Rows, from: &Self::Rows) -> Result<(), Self::Error>;
}

/// Operators with a memory of their own, to which a model's weights are copied. What lies there may
/// be handed from thread to thread.
pub trait Device:
    Operators<Matrix: Send, Vector: Send, Kept: Send, Error: std::error::Error> + Send
{
    /// What people call it.
    fn name(&self) -> &str;

    /// Bytes of its memory that are taken through this handle and its clones.
    fn bytes(&self) -> u64;

    /// Copies a matrix as it is packed.
    ///
    /// # Errors
    /// When there is no room for it, or there is no operator for its form.
    fn matrix(
        &self,
        weights: &Weights<'_>,
        bias: Option<&[f32]>,
    ) -> Result<Self::Matrix, Self::Error>;

    /// Copies the weight of a norm.
    ///
    /// # Errors
    /// When there is no room for it.
    fn vector(&self, values: &[f32]) -> Result<Self::Vector, Self::Error>;

    /// Reads rows back. Waits for the operators that make them.
    ///
    /// # Errors
    /// When the device has failed.
    fn read(&self, rows: &Self::Rows) -> Result<Vec<f32>, Self::Error>;

    /// Waits for everything that was asked of it, whose failure shows here at the latest.
    ///
    /// # Errors
    /// When the device has failed.
    fn wait(&self) -> Result<(), Self::Error>;

    /// So many pages of this shape, holding whatever was there.
    ///
    /// # Errors
    /// When there is no room for them, or no operator for their form.
    fn new_pages(&self, shape: KvShape, count: usize) -> Result<Self::Pages, Self::Error>;

    /// Writes a page whole.
    ///
    /// # Errors
    /// When there is no such page, or it has another length.
    fn write_page(
        &self,
        pages: &mut Self::Pages,
        page: usize,
        bytes: &[u8],
    ) -> Result<(), Self::Error>;

    /// Reads a page whole. Waits for the operators that write to it.
    ///
    /// # Errors
    /// When there is no such page, or the device has failed.
    fn read_page(&self, pages: &Self::Pages, page: usize) -> Result<Vec<u8>, Self::Error>;

    /// Copies the keys and values of the first `slots` tokens of a page to another.
    ///
    /// # Errors
    /// When there is no such page or there are not so many slots.
    fn copy_page(
        &self,
        pages: &mut Self::Pages,
        from: usize,
        to: usize,
        slots: usize,
    ) -> Result<(), Self::Error>;
}
