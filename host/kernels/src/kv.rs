//! The memory of keys and values, in pages.
//!
//! A page holds the keys and values of a fixed number of consecutive tokens of one sequence, in
//! every layer. Which page belongs to whom is for others to say; here is only where its elements
//! lie: layer by layer, in a layer head by head, a head's keys before its values, so that
//! attention streams a head's part of a page.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::pages::{PAGE_ALIGNMENT, PageMemory};
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
    /// Bytes of a page over all layers, keys and values, up to the next multiple of
    /// [`PAGE_ALIGNMENT`]; `u64::MAX` if that overflows.
    pub fn page_bytes(&self) -> u64 {
        let bytes = (self.head_bytes() as u64)
            .saturating_mul(2)
            .saturating_mul(self.layers as u64)
            .saturating_mul(self.kv_heads as u64);
        bytes
            .checked_next_multiple_of(PAGE_ALIGNMENT as u64)
            .unwrap_or(u64::MAX)
    }

    /// Bytes of the keys, or of the values, of one head in one page: all integers or floats, then
    /// the scales of integers.
    pub fn head_bytes(&self) -> usize {
        let token = match self.format {
            KvFormat::F32 => self.head_dim.saturating_mul(4),
            KvFormat::F16 => self.head_dim.saturating_mul(2),
            KvFormat::Int8 => self.head_dim.saturating_add(4),
        };
        token.saturating_mul(PAGE_TOKENS)
    }
}

/// Pages of which some hold keys and values. Others may hold what [`KvPages::memory_mut`] lets
/// in.
#[derive(Debug)]
pub struct KvPages {
    shape: KvShape,
    memory: PageMemory,
}

impl KvPages {
    /// So many pages, all zeros. Who calls has charged [`KvShape::page_bytes`] for each.
    pub fn new(shape: KvShape, pages: usize) -> Self {
        let bytes = usize::try_from(shape.page_bytes()).unwrap_or(usize::MAX);
        Self {
            shape,
            memory: PageMemory::new(bytes, pages),
        }
    }

    /// What the pages look like.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Pages.
    pub fn pages(&self) -> usize {
        self.memory.pages()
    }

    /// The pages as bytes, for what else lies in them.
    pub fn memory(&self) -> &PageMemory {
        &self.memory
    }

    /// The pages as bytes, for what else is to lie in them.
    pub fn memory_mut(&mut self) -> &mut PageMemory {
        &mut self.memory
    }

    /// The byte at which a head's keys, or its values, begin. All of it is there for every page,
    /// layer and head that is.
    fn place(&self, layer: usize, values: bool, page: usize, head: usize) -> usize {
        let head = 2 * (layer * self.shape.kv_heads + head) + usize::from(values);
        page * self.memory.page_bytes() + head * self.shape.head_bytes()
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
            head_dim: dim,
            format,
        } = self.shape;
        for (what, got, limit) in [
            ("the layers", layer, layers),
            ("the pages", page, self.pages()),
            ("the slots", slot, PAGE_TOKENS),
        ] {
            expect_below("store", what, got, limit)?;
        }
        for (is_values, rows) in [(false, keys), (true, values)] {
            expect_len("store", "a row", rows.len(), kv_heads.checked_mul(dim))?;
            for head in 0..kv_heads {
                let from = &rows[head * dim..(head + 1) * dim];
                let start = self.place(layer, is_values, page, head);
                let end = start + self.shape.head_bytes();
                let bytes = &mut self.memory.bytes_mut()[start..end];
                let row = slot * dim..(slot + 1) * dim;
                match format {
                    KvFormat::F32 => {
                        bytemuck::cast_slice_mut::<u8, f32>(bytes)[row].copy_from_slice(from);
                    }
                    KvFormat::F16 => {
                        bytemuck::cast_slice_mut::<u8, f16>(bytes)[row]
                            .convert_from_f32_slice(from);
                    }
                    KvFormat::Int8 => {
                        let (integers, scales) = bytes.split_at_mut(PAGE_TOKENS * dim);
                        let largest = from.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                        let scale = largest / 127.0;
                        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                        bytemuck::cast_slice_mut::<u8, f32>(scales)[slot] = scale;
                        for (to, from) in integers[row].iter_mut().zip(from) {
                            *to = (from * inverse).round_ties_even() as i8 as u8;
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
            ("the pages", from, self.pages()),
            ("the pages", to, self.pages()),
            ("the slots", slots, PAGE_TOKENS + 1),
        ] {
            expect_below("copy", what, got, limit)?;
        }
        let dim = self.shape.head_dim;
        let heads = 2 * self.shape.layers * self.shape.kv_heads;
        let bytes = self.shape.head_bytes();
        let (from, to) = (self.place(0, false, from, 0), self.place(0, false, to, 0));
        let memory = self.memory.bytes_mut();
        for head in 0..heads {
            let (from, to) = (from + head * bytes, to + head * bytes);
            let scales = PAGE_TOKENS * dim;
            match self.shape.format {
                KvFormat::F32 => memory.copy_within(from..from + 4 * slots * dim, to),
                KvFormat::F16 => memory.copy_within(from..from + 2 * slots * dim, to),
                KvFormat::Int8 => {
                    memory.copy_within(from..from + slots * dim, to);
                    let from = from + scales;
                    memory.copy_within(from..from + 4 * slots, to + scales);
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
        let dim = self.shape.head_dim;
        let start = self.place(layer, values, page, head);
        let bytes = &self.memory.bytes()[start..start + self.shape.head_bytes()];
        match self.shape.format {
            KvFormat::F32 => out.copy_from_slice(bytemuck::cast_slice(bytes)),
            KvFormat::F16 => widen(bytemuck::cast_slice(bytes), out),
            KvFormat::Int8 => {
                let (integers, scales) = bytes.split_at(PAGE_TOKENS * dim);
                let integers: &[i8] = bytemuck::cast_slice(integers);
                let scales: &[f32] = bytemuck::cast_slice(scales);
                let rows = integers.chunks_exact(dim).zip(scales);
                for ((integers, scale), out) in rows.zip(out.chunks_exact_mut(dim)) {
                    for (out, integer) in out.iter_mut().zip(integers) {
                        *out = f32::from(*integer) * scale;
                    }
                }
            }
        }
    }
}
