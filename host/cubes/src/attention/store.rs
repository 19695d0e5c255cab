//! Keeping the keys and values of a batch's tokens in pages.

use cubecl::prelude::*;
use skep_kernels::kv::{KvFormat, PAGE_TOKENS};
use skep_kernels::{expect_below, expect_len};

use super::Pages;
use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;
use crate::numbers::{float_to_half, round_to_byte};

/// Where each token of a batch goes. Made once for all layers of a batch.
#[derive(Debug)]
pub struct Slots {
    tokens: usize,
    /// `[tokens, 2]`: page and slot.
    table: Buffer,
}

impl Slots {
    /// A page and a slot in it for each token, no two of them the same.
    ///
    /// # Errors
    /// When there is no such page or slot, two tokens go to one, or the device fails.
    pub fn upload(gpu: &Gpu, pages: &Pages, slots: &[(u32, u32)]) -> Result<Self, GpuError> {
        let mut taken = std::collections::HashSet::with_capacity(slots.len());
        for (page, slot) in slots {
            expect_below("store", "the pages", *page as usize, pages.pages())?;
            expect_below("store", "the slots", *slot as usize, PAGE_TOKENS)?;
            let others = usize::from(!taken.insert((page, slot)));
            expect_len("store", "the tokens of a slot", 1 + others, Some(1))?;
        }
        let table: Vec<u32> = slots
            .iter()
            .flat_map(|(page, slot)| [*page, *slot])
            .collect();
        Ok(Self {
            tokens: slots.len(),
            table: gpu.upload_words(&table)?,
        })
    }
}

/// Keeps the keys and values of a batch's tokens in one layer, `[tokens, kv_heads * head_dim]`
/// each, at these slots.
///
/// # Errors
/// When there is no such layer, lengths do not fit together, or the device fails.
pub fn store(
    gpu: &Gpu,
    layer: usize,
    pages: &mut Pages,
    slots: &Slots,
    keys: &Buffer,
    values: &Buffer,
) -> Result<(), GpuError> {
    let shape = *pages.shape();
    let (dim, kv_heads) = (shape.head_dim, shape.kv_heads);
    expect_below("store", "the layers", layer, shape.layers)?;
    let rows = slots.tokens * kv_heads;
    for (number, from) in [keys, values].into_iter().enumerate() {
        expect_len("store", "the rows", from.len(), rows.checked_mul(dim))?;
        if rows == 0 {
            continue;
        }
        let at = pages.layer_at(layer) + number * pages.head_words();
        guard("store", || {
            // SAFETY: pages and slots were checked, the layer and its heads lie within a page,
            // and no two tokens have a word in common.
            unsafe {
                if shape.format == KvFormat::Int8 {
                    store_bytes::launch_unchecked(
                        gpu.client(),
                        cubes(rows),
                        CubeDim::new_1d(32),
                        from.arg(),
                        slots.table.arg(),
                        pages.words().arg(),
                        rows,
                        kv_heads,
                        at,
                        pages.page_words(),
                        2 * pages.head_words(),
                        dim,
                    );
                } else {
                    let half = shape.format == KvFormat::F16;
                    let words = if half { dim / 2 } else { dim };
                    store_floats::launch_unchecked(
                        gpu.client(),
                        cubes((rows * words).div_ceil(256)),
                        CubeDim::new_1d(256),
                        from.arg(),
                        slots.table.arg(),
                        pages.words().arg(),
                        rows * words,
                        kv_heads,
                        at,
                        pages.page_words(),
                        2 * pages.head_words(),
                        words,
                        half,
                    );
                }
            }
        })?;
    }
    Ok(())
}

/// A unit writes a word.
#[cube(launch_unchecked)]
fn store_floats(
    from: &[f32],
    table: &[u32],
    pages: &mut [u32],
    count: usize,
    kv_heads: usize,
    layer_at: usize,
    page_words: usize,
    head_words: usize,
    words: usize,
    #[comptime] half: bool,
) {
    let unit = ABSOLUTE_POS;
    if unit < count {
        let row = unit / words;
        let head = row % kv_heads;
        let token = row / kv_heads;
        let page = table[2usize * token] as usize;
        let slot = table[2usize * token + 1usize] as usize;
        let to = page * page_words + layer_at + head * head_words + slot * words + unit % words;
        let word = if comptime!(half) {
            let low = float_to_half(from[2usize * unit]);
            low | (float_to_half(from[2usize * unit + 1usize]) << 16u32)
        } else {
            u32::reinterpret(from[unit])
        };
        pages[to] = word;
    }
}

/// A cube rounds a head of a token to bytes with one scale.
#[cube(launch_unchecked)]
fn store_bytes(
    from: &[f32],
    table: &[u32],
    pages: &mut [u32],
    rows: usize,
    kv_heads: usize,
    layer_at: usize,
    page_words: usize,
    head_words: usize,
    #[comptime] dim: usize,
) {
    let mut largest = Shared::<[f32]>::new_slice(32usize);
    let unit = UNIT_POS as usize;
    let row = min(CUBE_POS, rows - 1usize);
    let mut most = 0.0f32;
    let mut d = unit;
    while d < dim {
        most = max(most, from[row * dim + d].abs());
        d += 32usize;
    }
    largest[unit] = most;
    sync_cube();
    let mut most = 0.0f32;
    for n in 0..32usize {
        most = max(most, largest[n]);
    }
    let scale = most / 127.0f32;
    let mut inverse = 0.0f32;
    if scale > 0.0f32 {
        inverse = 1.0f32 / scale;
    }
    if CUBE_POS < rows {
        let head = row % kv_heads;
        let token = row / kv_heads;
        let page = table[2usize * token] as usize;
        let slot = table[2usize * token + 1usize] as usize;
        let at = page * page_words + layer_at + head * head_words;
        let mut word = unit;
        while word < comptime!(dim / 4usize) {
            let mut four = 0u32;
            #[unroll]
            for n in 0..4usize {
                let x = from[row * dim + 4usize * word + n] * inverse;
                let byte = u32::reinterpret(round_to_byte(x)) & 255u32;
                four |= byte << u32::cast_from(8usize * n);
            }
            pages[at + slot * comptime!(dim / 4usize) + word] = four;
            word += 32usize;
        }
        if unit == 0usize {
            pages[at + comptime!(4usize * dim) + slot] = u32::reinterpret(scale);
        }
    }
}
