//! The memory of a pool of pages on the device: the same layout as on the host.
//!
//! A page holds keys and values, or a part of an adapter, as `skep_kernels::PageMemory` has it,
//! so that a page may go from one to the other as it is.

use std::sync::atomic::{AtomicU64, Ordering};

use cubecl::prelude::*;
use skep_kernels::kv::{KvFormat, KvShape, PAGE_TOKENS};
use skep_kernels::{expect_below, expect_len};

use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;

/// Pools so far.
static POOLS: AtomicU64 = AtomicU64::new(0);

/// Pages on the device.
#[derive(Debug)]
pub struct Pages {
    shape: KvShape,
    words: Buffer,
    page_words: usize,
    pages: usize,
    /// Of all pools of this process, which one.
    number: u64,
}

impl Pages {
    /// So many pages. What is in them before somebody writes to them is nobody's business: no
    /// operator reads it.
    ///
    /// # Errors
    /// When the account has no room, or heads are of a length that the format has no whole words
    /// for.
    pub fn new(gpu: &Gpu, shape: KvShape, pages: usize) -> Result<Self, GpuError> {
        let whole = match shape.format {
            KvFormat::F32 => 1,
            KvFormat::F16 => 2,
            KvFormat::Int8 => 4,
        };
        if !shape.head_dim.is_multiple_of(whole) {
            let dim = shape.head_dim;
            return Err(GpuError::Unsupported(format!(
                "a head of {dim} elements in keys and values of {:?}",
                shape.format
            )));
        }
        let page_words = usize::try_from(shape.page_bytes() / 4).unwrap_or(usize::MAX);
        Ok(Self {
            words: gpu.empty(page_words.saturating_mul(pages))?,
            shape,
            page_words,
            pages,
            number: POOLS.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// What the pages look like.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Pages.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        4 * self.page_words
    }

    /// Writes a page whole, for instance one of an adapter's from host memory.
    ///
    /// # Errors
    /// When there is no such page, it has another length, or the device fails.
    pub fn write(&mut self, gpu: &Gpu, page: usize, bytes: &[u8]) -> Result<(), GpuError> {
        expect_below("pages", "the pages", page, self.pages)?;
        expect_len("pages", "a page", bytes.len(), Some(self.page_bytes()))?;
        let from = gpu.upload_bytes(bytes)?;
        self.move_words(gpu, &from, &self.words, 0, page * self.page_words)
    }

    /// Reads a page whole.
    ///
    /// # Errors
    /// When there is no such page or the device fails.
    pub fn read(&self, gpu: &Gpu, page: usize) -> Result<Vec<u8>, GpuError> {
        expect_below("pages", "the pages", page, self.pages)?;
        let to = gpu.empty(self.page_words)?;
        self.move_words(gpu, &self.words, &to, page * self.page_words, 0)?;
        let words = gpu.read_words(&to)?;
        Ok(words.into_iter().flat_map(u32::to_le_bytes).collect())
    }

    /// Copies the first `slots` tokens of a page to another, in every layer.
    ///
    /// # Errors
    /// When there is no such page, there are not so many slots, or the device fails.
    pub fn copy(
        &mut self,
        gpu: &Gpu,
        from: usize,
        to: usize,
        slots: usize,
    ) -> Result<(), GpuError> {
        for (what, got, limit) in [
            ("the pages", from, self.pages),
            ("the pages", to, self.pages),
            ("the slots", slots, PAGE_TOKENS + 1),
        ] {
            expect_below("copy", what, got, limit)?;
        }
        if from == to || slots == 0 {
            return Ok(());
        }
        let dim = self.shape.head_dim;
        // Where each head's runs of words begin, and how many words there are for each slot.
        let runs: &[(usize, usize)] = match self.shape.format {
            KvFormat::F32 => &[(0, dim)],
            KvFormat::F16 => &[(0, dim / 2)],
            KvFormat::Int8 => &[(0, dim / 4), (PAGE_TOKENS * dim / 4, 1)],
        };
        let heads = 2 * self.shape.layers * self.shape.kv_heads;
        for (start, each) in runs {
            let count = heads * slots * each;
            guard("copy", || {
                // SAFETY: both pages are in the pool, and every run lies within its head.
                unsafe {
                    copy_runs::launch_unchecked(
                        gpu.client(),
                        cubes(count.div_ceil(256)),
                        CubeDim::new_1d(256),
                        self.words.arg(),
                        count,
                        from * self.page_words + start,
                        to * self.page_words + start,
                        slots * each,
                        self.head_words(),
                    );
                }
            })?;
        }
        Ok(())
    }

    /// Which pool this is: no other of the process has the same number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn words(&self) -> &Buffer {
        &self.words
    }

    pub(crate) fn page_words(&self) -> usize {
        self.page_words
    }

    /// Words of the keys, or of the values, of one head in a page.
    pub(crate) fn head_words(&self) -> usize {
        self.shape.head_bytes() / 4
    }

    /// Words before a layer's part of a page.
    pub(crate) fn layer_at(&self, layer: usize) -> usize {
        2 * layer * self.shape.kv_heads * self.head_words()
    }

    fn move_words(
        &self,
        gpu: &Gpu,
        from: &Buffer,
        to: &Buffer,
        from_at: usize,
        to_at: usize,
    ) -> Result<(), GpuError> {
        guard("pages", || {
            // SAFETY: a page's words are there in both buffers.
            unsafe {
                move_run::launch_unchecked(
                    gpu.client(),
                    cubes(self.page_words.div_ceil(256)),
                    CubeDim::new_1d(256),
                    from.arg(),
                    to.arg(),
                    self.page_words,
                    from_at,
                    to_at,
                );
            }
        })
    }
}

#[cube(launch_unchecked)]
fn move_run(from: &[u32], to: &mut [u32], count: usize, from_at: usize, to_at: usize) {
    let unit = ABSOLUTE_POS;
    if unit < count {
        to[to_at + unit] = from[from_at + unit];
    }
}

#[cube(launch_unchecked)]
fn copy_runs(
    words: &mut [u32],
    count: usize,
    from: usize,
    to: usize,
    each: usize,
    head_words: usize,
) {
    let unit = ABSOLUTE_POS;
    if unit < count {
        let at = unit / each * head_words + unit % each;
        words[to + at] = words[from + at];
    }
}
