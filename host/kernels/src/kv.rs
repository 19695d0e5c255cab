//! The memory of keys and values, in pages.
//!
//! A page holds the keys and values of a fixed number of consecutive tokens of one sequence, in
//! every layer. Which page belongs to whom is for others to say; here is only where its elements
//! lie: head by head, so that attention streams a head's part of a page.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::{ShapeError, expect_below, expect_len};

/// Tokens of a page.
pub const PAGE_TOKENS: usize = 16;

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// 32-bit floats, for comparisons.
    F32,
    /// 16-bit floats.
    F16,
    /// 8-bit integers with one scale for each head of each token.
    Int8,
}

/// What all pages of a pool have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvShape {
    /// Layers of the model.
    pub layers: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// How they are kept.
    pub format: KvFormat,
}

impl KvShape {
    /// Bytes of a page over all layers, keys and values; `u64::MAX` if that overflows.
    pub fn page_bytes(&self) -> u64 {
        let head = match self.format {
            KvFormat::F32 => 4 * self.head_dim as u64,
            KvFormat::F16 => 2 * self.head_dim as u64,
            KvFormat::Int8 => self.head_dim as u64 + 4,
        };
        (2 * PAGE_TOKENS as u64)
            .saturating_mul(self.layers as u64)
            .saturating_mul(self.kv_heads as u64)
            .saturating_mul(head)
    }

    /// Elements of one page in one layer, keys alone.
    fn page_elements(&self) -> usize {
        PAGE_TOKENS * self.kv_heads * self.head_dim
    }
}

/// The keys, or the values, of one layer.
#[derive(Debug)]
enum Plane {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Int8 { integers: Vec<i8>, scales: Vec<f32> },
}

/// The pages of a pool.
#[derive(Debug)]
pub struct KvPages {
    shape: KvShape,
    pages: usize,
    /// Keys, then values, of each layer.
    planes: Vec<Plane>,
}

impl KvPages {
    /// So many pages, all zeros. Who calls has charged [`KvShape::page_bytes`] for each.
    pub fn new(shape: KvShape, pages: usize) -> Self {
        let elements = pages * shape.page_elements();
        let planes = (0..2 * shape.layers)
            .map(|_| match shape.format {
                KvFormat::F32 => Plane::F32(vec![0.0; elements]),
                KvFormat::F16 => Plane::F16(vec![f16::ZERO; elements]),
                KvFormat::Int8 => Plane::Int8 {
                    integers: vec![0; elements],
                    scales: vec![0.0; elements / shape.head_dim.max(1)],
                },
            })
            .collect();
        Self {
            shape,
            pages,
            planes,
        }
    }

    /// What the pages look like.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Pages.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Where a head of a token of a page lies, in heads.
    fn place(&self, page: usize, slot: usize, head: usize) -> usize {
        (page * self.shape.kv_heads + head) * PAGE_TOKENS + slot
    }

    /// Keeps the keys and values of one token in one layer, `[kv_heads * head_dim]` each, in slot
    /// `slot` of a page.
    ///
    /// # Errors
    /// When there is no such layer, page or slot, or the rows do not have this many elements.
    pub fn store(
        &mut self,
        layer: usize,
        page: usize,
        slot: usize,
        keys: &[f32],
        values: &[f32],
    ) -> Result<(), ShapeError> {
        let KvShape {
            layers,
            kv_heads,
            head_dim,
            ..
        } = self.shape;
        for (what, got, limit) in [
            ("the layers", layer, layers),
            ("the pages", page, self.pages),
            ("the slots", slot, PAGE_TOKENS),
        ] {
            expect_below("store", what, got, limit)?;
        }
        for (plane, rows) in [(2 * layer, keys), (2 * layer + 1, values)] {
            expect_len("store", "a row", rows.len(), kv_heads.checked_mul(head_dim))?;
            for head in 0..kv_heads {
                let place = self.place(page, slot, head);
                let from = &rows[head * head_dim..(head + 1) * head_dim];
                let to = place * head_dim..(place + 1) * head_dim;
                match &mut self.planes[plane] {
                    Plane::F32(floats) => floats[to].copy_from_slice(from),
                    Plane::F16(floats) => {
                        floats[to].convert_from_f32_slice(from);
                    }
                    Plane::Int8 { integers, scales } => {
                        let largest = from.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                        let scale = largest / 127.0;
                        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                        scales[place] = scale;
                        for (to, from) in integers[to].iter_mut().zip(from) {
                            *to = (from * inverse).round_ties_even() as i8;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Copies the first `slots` tokens of a page to another, in every layer.
    ///
    /// # Errors
    /// When there is no such page or there are not so many slots.
    pub fn copy(&mut self, from: usize, to: usize, slots: usize) -> Result<(), ShapeError> {
        for (what, got, limit) in [
            ("the pages", from, self.pages),
            ("the pages", to, self.pages),
            ("the slots", slots, PAGE_TOKENS + 1),
        ] {
            expect_below("copy", what, got, limit)?;
        }
        let dim = self.shape.head_dim;
        for head in 0..self.shape.kv_heads {
            let source = self.place(from, 0, head);
            let target = self.place(to, 0, head);
            for plane in &mut self.planes {
                match plane {
                    Plane::F32(floats) => {
                        floats.copy_within(source * dim..(source + slots) * dim, target * dim);
                    }
                    Plane::F16(floats) => {
                        floats.copy_within(source * dim..(source + slots) * dim, target * dim);
                    }
                    Plane::Int8 { integers, scales } => {
                        integers.copy_within(source * dim..(source + slots) * dim, target * dim);
                        scales.copy_within(source..source + slots, target);
                    }
                }
            }
        }
        Ok(())
    }

    /// The head's part of a page as floats, `[PAGE_TOKENS, head_dim]`: its keys, or its values.
    #[inline(always)]
    pub(crate) fn read(
        &self,
        layer: usize,
        values: bool,
        page: usize,
        head: usize,
        out: &mut [f32],
        widen: impl Fn(&[f16], &mut [f32]),
    ) {
        let place = self.place(page, 0, head);
        let dim = self.shape.head_dim;
        let range = place * dim..(place + PAGE_TOKENS) * dim;
        match &self.planes[2 * layer + usize::from(values)] {
            Plane::F32(floats) => out.copy_from_slice(&floats[range]),
            Plane::F16(floats) => widen(&floats[range], out),
            Plane::Int8 { integers, scales } => {
                let rows = integers[range].chunks_exact(dim);
                let rows = rows.zip(&scales[place..place + PAGE_TOKENS]);
                for ((integers, scale), out) in rows.zip(out.chunks_exact_mut(dim)) {
                    for (out, integer) in out.iter_mut().zip(integers) {
                        *out = f32::from(*integer) * scale;
                    }
                }
            }
        }
    }
}
