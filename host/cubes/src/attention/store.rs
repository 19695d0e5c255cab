//! Keeping the keys and values of a batch's tokens in pages.

use cubecl::prelude::*;
use skep_kernels::kv::{KvFormat, PAGE_TOKENS};
use skep_kernels::rows::RopeLayout;
use skep_kernels::{expect_below, expect_len};

use super::Pages;
use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;
use crate::numbers::{float_to_half, round_to_byte};
use crate::rows::{Turns, rope};

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
        let table = gpu.upload_words(&Self::table(pages, slots)?)?;
        Ok(Self::placed(slots.len(), table))
    }

    /// Those of so many tokens whose table lies there.
    pub(crate) fn placed(tokens: usize, table: Buffer) -> Self {
        Self { tokens, table }
    }

    /// The words of their table, which were checked.
    pub(crate) fn table(pages: &Pages, slots: &[(u32, u32)]) -> Result<Vec<u32>, GpuError> {
        let mut taken = std::collections::HashSet::with_capacity(slots.len());
        for (page, slot) in slots {
            expect_below("store", "the pages", *page as usize, pages.pages())?;
            expect_below("store", "the slots", *slot as usize, PAGE_TOKENS)?;
            let others = usize::from(!taken.insert((page, slot)));
            expect_len("store", "the tokens of a slot", 1 + others, Some(1))?;
        }
        Ok(slots
            .iter()
            .flat_map(|(page, slot)| [*page, *slot])
            .collect())
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

/// Turns queries and keys to their tokens' positions, in place, and keeps keys and values as
/// [`store`] does.
///
/// # Errors
/// As [`store`] and [`rope`].
pub(crate) fn rope_and_store(
    gpu: &Gpu,
    turns: &Turns,
    layer: usize,
    pages: &mut Pages,
    slots: &Slots,
    queries: &mut Buffer,
    keys: &mut Buffer,
    values: &Buffer,
) -> Result<(), GpuError> {
    let shape = *pages.shape();
    let (dim, kv_heads) = (shape.head_dim, shape.kv_heads);
    let whole = 2 * turns.pairs == dim && dim.is_multiple_of(4) && slots.tokens == turns.tokens;
    if shape.format == KvFormat::Int8 || !whole || slots.tokens == 0 {
        rope(gpu, turns, queries, dim)?;
        rope(gpu, turns, keys, dim)?;
        return store(gpu, layer, pages, slots, keys, values);
    }
    expect_below("store", "the layers", layer, shape.layers)?;
    let rows = slots.tokens * kv_heads;
    expect_len("store", "the rows", keys.len(), rows.checked_mul(dim))?;
    expect_len("store", "the rows", values.len(), rows.checked_mul(dim))?;
    let heads = queries.len() / (slots.tokens * dim);
    let want = slots.tokens.checked_mul(heads * dim);
    expect_len("rope", "the input", queries.len(), want)?;
    let count = slots.tokens * (heads + 2 * kv_heads) * (dim / 4);
    guard("store", || {
        // SAFETY: as for `store` and `rope`, and a unit has four elements of one head.
        unsafe {
            turn_and_store::launch_unchecked(
                gpu.client(),
                cubes(count.div_ceil(128)),
                CubeDim::new_1d(128),
                queries.arg(),
                keys.arg(),
                values.arg(),
                turns.table.arg(),
                slots.table.arg(),
                pages.words().arg(),
                count,
                heads,
                kv_heads,
                pages.layer_at(layer),
                pages.page_words(),
                pages.head_words(),
                dim,
                shape.format == KvFormat::F16,
                turns.layout == RopeLayout::Pairs,
            );
        }
    })
}

/// A unit has two pairs of a head of queries or keys, or four elements of a head of values.
#[cube(launch_unchecked)]
fn turn_and_store(
    queries: &mut [f32],
    keys: &mut [f32],
    values: &[f32],
    turns: &[f32],
    table: &[u32],
    pages: &mut [u32],
    count: usize,
    heads: usize,
    kv_heads: usize,
    layer_at: usize,
    page_words: usize,
    head_words: usize,
    #[comptime] dim: usize,
    #[comptime] half: bool,
    #[comptime] neighbours: bool,
) {
    let unit = ABSOLUTE_POS;
    if unit < count {
        let quarter = unit % comptime!(dim / 4);
        let all = heads + 2usize * kv_heads;
        let head = unit / comptime!(dim / 4) % all;
        let token = unit / comptime!(dim / 4) / all;
        let is_query = head < heads;
        let is_value = head >= heads + kv_heads;
        // Of both pairs the first elements, and the second ones; of values four neighbours.
        let mut first = 4usize * quarter;
        let mut second = 4usize * quarter + 2usize;
        if comptime!(!neighbours) && !is_value {
            first = 2usize * quarter;
            second = 2usize * quarter + comptime!(dim / 2);
        }
        let from = if is_query {
            (token * heads + head) * dim
        } else if is_value {
            (token * kv_heads + head - heads - kv_heads) * dim
        } else {
            (token * kv_heads + head - heads) * dim
        };
        let mut four = Array::<f32>::new(4usize);
        #[unroll]
        for n in 0..2usize {
            if is_query {
                four[n] = queries[from + first + n];
                four[2usize + n] = queries[from + second + n];
            } else if is_value {
                four[n] = values[from + first + n];
                four[2usize + n] = values[from + second + n];
            } else {
                four[n] = keys[from + first + n];
                four[2usize + n] = keys[from + second + n];
            }
        }
        if !is_value {
            let at = 2usize * (token * comptime!(dim / 2) + 2usize * quarter);
            #[unroll]
            for n in 0..2usize {
                let sin = turns[at + 2usize * n];
                let cos = turns[at + 2usize * n + 1usize];
                // Neighbours lie side by side, halves apart.
                let one = comptime!(if neighbours { 2 * n } else { n });
                let other = comptime!(if neighbours { 2 * n + 1 } else { n + 2 });
                let x = four[one];
                let y = four[other];
                four[one] = x * cos - y * sin;
                four[other] = x * sin + y * cos;
            }
            #[unroll]
            for n in 0..2usize {
                if is_query {
                    queries[from + first + n] = four[n];
                    queries[from + second + n] = four[2usize + n];
                } else {
                    keys[from + first + n] = four[n];
                    keys[from + second + n] = four[2usize + n];
                }
            }
        }
        if !is_query {
            let kv_head = select(is_value, head - heads - kv_heads, head - heads);
            let page = table[2usize * token] as usize;
            let slot = table[2usize * token + 1usize] as usize;
            let part = select(is_value, 1usize, 0usize);
            let to = page * page_words + layer_at + (2usize * kv_head + part) * head_words;
            if comptime!(half) {
                let at = to + slot * comptime!(dim / 2);
                pages[at + first / 2usize] =
                    float_to_half(four[0usize]) | (float_to_half(four[1usize]) << 16u32);
                pages[at + second / 2usize] =
                    float_to_half(four[2usize]) | (float_to_half(four[3usize]) << 16u32);
            } else {
                let at = to + slot * dim;
                #[unroll]
                for n in 0..2usize {
                    pages[at + first + n] = u32::reinterpret(four[n]);
                    pages[at + second + n] = u32::reinterpret(four[2usize + n]);
                }
            }
        }
    }
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
