//! Attention with grouped heads over keys and values that lie in pages.
//!
//! A cube has one head of keys and values and the queries that use it: those of the head's group,
//! for one token or for several of a prompt. It goes from page to page with a running softmax
//! (FlashAttention, arXiv 2205.14135, algorithm 1). Where there are too few cubes for a device,
//! as for a few long texts of which each brings one token, a text's pages are split among several
//! cubes, and what they found is put together (Flash-Decoding's way).

mod one;
mod plan;
mod several;
mod store;

use cubecl::prelude::*;
use skep_kernels::attention::AttentionLayer;
use skep_kernels::expect_len;
use skep_kernels::kv::KvFormat;

pub use crate::pages::Pages;
pub use plan::Plan;
pub(crate) use store::rope_and_store;
pub use store::{Slots, store};

use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;
use crate::numbers::{byte_of, half_to_float};
use crate::round::{Rounded, round, round_four};

/// Units of a cube.
const UNITS: usize = 128;

/// A window that is none: more than there are positions.
const NO_WINDOW: usize = 0x7fff_ffff;

/// `[tokens, heads * head_dim]`: for each query the values of the tokens it sees, weighted by the
/// softmax of its products with their keys. What tokens of no sequence get is undefined.
///
/// # Errors
/// When lengths do not fit together, the layer is none of the pool's, the account has no room, or
/// the device fails.
pub fn attention(
    gpu: &Gpu,
    layer: &AttentionLayer,
    pages: &Pages,
    plan: &Plan,
    queries: &Buffer,
) -> Result<Buffer, GpuError> {
    let out = gpu.empty(queries.len())?;
    attention_into(gpu, layer, pages, plan, queries, &out, None)?;
    Ok(out)
}

/// As [`attention`], into memory that is there; and what it is rounded to, if that is wanted.
pub(crate) fn attention_into(
    gpu: &Gpu,
    layer: &AttentionLayer,
    pages: &Pages,
    plan: &Plan,
    queries: &Buffer,
    out: &Buffer,
    rounded: Option<&Rounded>,
) -> Result<(), GpuError> {
    let shape = pages.shape();
    let dim = shape.head_dim;
    // The sequences were checked with the plan.
    let group = layer.check(shape, pages.pages(), &[], plan.tokens)?;
    let length = plan.tokens.checked_mul(plan.heads * dim);
    expect_len("attention", "the queries", queries.len(), length)?;
    expect_len("attention", "the heads", layer.heads, Some(plan.heads))?;
    expect_len("attention", "the output", out.len(), Some(queries.len()))?;
    for pieces in [&plan.ones, &plan.several].into_iter().flatten() {
        let elements = pieces.together * group * dim;
        let cubes_of_all = pieces.count * shape.kv_heads;
        let parts = match pieces.splits {
            Some(_) => gpu.empty(cubes_of_all * elements)?,
            None => gpu.empty(1)?,
        };
        let sums = match pieces.splits {
            Some(_) => gpu.empty(2 * cubes_of_all * pieces.together * group)?,
            None => gpu.empty(1)?,
        };
        let to = if pieces.splits.is_some() { &parts } else { out };
        let window = layer.window.unwrap_or(NO_WINDOW).min(NO_WINDOW);
        guard("attention", || {
            // SAFETY: pages, tokens and parts of every piece were checked or made by the plan,
            // and results have a place for each.
            unsafe {
                if pieces.together == 1 && one::takes(shape, group, gpu.shared_bytes()) {
                    one::attend_one::launch_unchecked(
                        gpu.client(),
                        cubes(cubes_of_all),
                        CubeDim::new_1d(one::UNITS as u32),
                        pages.words().fours(),
                        pages.words().arg(),
                        plan.tables.arg(),
                        pieces.table.arg(),
                        queries.arg(),
                        to.arg(),
                        sums.arg(),
                        layer.scale,
                        window,
                        cubes_of_all,
                        shape.kv_heads,
                        pages.layer_at(layer.layer),
                        pages.page_words(),
                        pages.head_words(),
                        dim,
                        group,
                        pieces.splits.is_some(),
                        gpu.halves,
                    );
                    return;
                }
                if pieces.splits.is_none()
                    && several::takes(shape, pieces.together * group, gpu.shared_bytes())
                {
                    several::attend_several::launch_unchecked(
                        gpu.client(),
                        cubes(cubes_of_all),
                        CubeDim::new_1d(UNITS as u32),
                        pages.words().arg(),
                        plan.tables.arg(),
                        pieces.table.arg(),
                        queries.fours(),
                        out.fours(),
                        layer.scale,
                        window,
                        cubes_of_all,
                        shape.kv_heads,
                        pages.layer_at(layer.layer),
                        pages.page_words(),
                        pages.head_words(),
                        dim,
                        group,
                        pieces.together,
                        shape.format,
                        gpu.halves,
                    );
                    return;
                }
                attend::launch_unchecked(
                    gpu.client(),
                    cubes(cubes_of_all),
                    CubeDim::new_1d(UNITS as u32),
                    pages.words().arg(),
                    plan.tables.arg(),
                    pieces.table.arg(),
                    queries.arg(),
                    to.arg(),
                    sums.arg(),
                    layer.scale,
                    window,
                    cubes_of_all,
                    shape.kv_heads,
                    pages.layer_at(layer.layer),
                    pages.page_words(),
                    pages.head_words(),
                    dim,
                    group,
                    pieces.together,
                    shape.format,
                    pieces.splits.is_some(),
                );
            }
        })?;
        if let Some((splits, count)) = &pieces.splits {
            let units = count * plan.heads * dim;
            // Then there is nothing but these tokens.
            if let (Some(rounded), None) = (rounded, &plan.several)
                && dim.is_multiple_of(4)
            {
                guard("attention", || {
                    // SAFETY: as below, and the rounded rows are as long as the output's.
                    unsafe {
                        combine_and_round::launch_unchecked(
                            gpu.client(),
                            cubes(count * (plan.heads * dim).div_ceil(256)),
                            CubeDim::new_1d(64),
                            splits.arg(),
                            parts.arg(),
                            sums.arg(),
                            out.arg(),
                            rounded.quants.arg(),
                            rounded.scales.arg(),
                            rounded.sums.arg(),
                            *count,
                            plan.heads,
                            dim,
                            group,
                            rounded.precision.block_len(),
                        );
                    }
                })?;
                return Ok(());
            }
            guard("attention", || {
                // SAFETY: the table names tokens of the batch and parts that were just made.
                unsafe {
                    combine::launch_unchecked(
                        gpu.client(),
                        cubes(units.div_ceil(UNITS)),
                        CubeDim::new_1d(UNITS as u32),
                        splits.arg(),
                        parts.arg(),
                        sums.arg(),
                        out.arg(),
                        units,
                        plan.heads,
                        dim,
                        group,
                    );
                }
            })?;
        }
    }
    if let Some(rounded) = rounded {
        round(gpu, out, (plan.tokens, plan.heads * dim), rounded)?;
    }
    Ok(())
}

#[cube(launch_unchecked)]
fn attend(
    pages: &[u32],
    tables: &[u32],
    pieces: &[u32],
    queries: &[f32],
    out: &mut [f32],
    sums: &mut [f32],
    scale: f32,
    window: usize,
    count: usize,
    kv_heads: usize,
    layer_at: usize,
    page_words: usize,
    head_words: usize,
    #[comptime] dim: usize,
    #[comptime] group: usize,
    #[comptime] together: usize,
    #[comptime] format: KvFormat,
    #[comptime] split: bool,
) {
    let tile = comptime!(together * group);
    let elements = comptime!(together * group * dim);
    let each = comptime!((together * group * dim).div_ceil(128usize));
    // A row longer than a head by one, so that neighbouring rows lie in other banks.
    let stride = comptime!(dim + 1usize);
    let mut rows = Shared::<[f32]>::new_slice(comptime!(16usize * (dim + 1usize)));
    let mut scores = Shared::<[f32]>::new_slice(comptime!(16usize * together * group));
    let mut most = Shared::<[f32]>::new_slice(tile);
    let mut sum = Shared::<[f32]>::new_slice(tile);
    let mut rescale = Shared::<[f32]>::new_slice(tile);

    let unit = UNIT_POS as usize;
    let cube = min(CUBE_POS, count - 1usize);
    let head = cube % kv_heads;
    let piece = cube / kv_heads * 8usize;
    let token = pieces[piece] as usize;
    let tokens = pieces[piece + 1usize] as usize;
    let position = pieces[piece + 2usize] as usize;
    let table = pieces[piece + 3usize] as usize;
    let first_page = pieces[piece + 4usize] as usize;
    let end_page = pieces[piece + 5usize] as usize;
    let part = pieces[piece + 6usize] as usize;
    let end = pieces[piece + 7usize] as usize;

    let mut result = Array::<f32>::new(each);
    #[unroll]
    for n in 0..each {
        result[n] = 0.0f32;
    }
    let mut own = unit;
    while own < tile {
        most[own] = -1.0e30f32;
        sum[own] = 0.0f32;
        own += 128usize;
    }
    sync_cube();

    // Pages before the first token that anybody sees are left out.
    let unseen = select(
        position + 1usize > window,
        position + 1usize - window,
        0usize,
    ) / 16usize;
    let mut number = max(first_page, unseen);
    while number < end_page {
        let at =
            tables[table + number] as usize * page_words + layer_at + 2usize * head * head_words;
        load(pages, at, &mut rows, dim, format);
        sync_cube();
        let mut pair = unit;
        while pair < comptime!(16usize * together * group) {
            let query = pair / 16usize;
            let slot = pair % 16usize;
            let within = query / group;
            let from =
                ((token + min(within, tokens - 1usize)) * kv_heads + head) * group + query % group;
            let mut score = 0.0f32;
            for d in 0..dim {
                score += queries[from * dim + d] * rows[slot * stride + d];
            }
            let key = number * 16usize + slot;
            let sees =
                within < tokens && key <= position + within && key + window > position + within;
            scores[pair] = select(sees, score * scale, -1.0e30f32);
            pair += 128usize;
        }
        sync_cube();
        load(pages, at + head_words, &mut rows, dim, format);
        let mut own = unit;
        while own < tile {
            let before = most[own];
            let mut largest = before;
            for slot in 0..16usize {
                largest = max(largest, scores[own * 16usize + slot]);
            }
            let mut total = 0.0f32;
            for slot in 0..16usize {
                let score = scores[own * 16usize + slot];
                let weight = select(score > -1.0e29f32, (score - largest).exp(), 0.0f32);
                scores[own * 16usize + slot] = weight;
                total += weight;
            }
            let factor = (before - largest).exp();
            most[own] = largest;
            sum[own] = sum[own] * factor + total;
            rescale[own] = factor;
            own += 128usize;
        }
        sync_cube();
        // Slots beyond the last token hold whatever was there.
        let slots = min(16usize, end - number * 16usize);
        #[unroll]
        for n in 0..each {
            let element = unit + 128usize * n;
            if element < elements {
                let query = element / dim;
                let d = element % dim;
                let mut x = result[n] * rescale[query];
                for slot in 0..slots {
                    x += scores[query * 16usize + slot] * rows[slot * stride + d];
                }
                result[n] = x;
            }
        }
        sync_cube();
        number += 1usize;
    }

    if CUBE_POS < count {
        #[unroll]
        for n in 0..each {
            let element = unit + 128usize * n;
            if element < elements {
                let query = element / dim;
                let d = element % dim;
                if comptime!(split) {
                    let at = (part * kv_heads + head) * tile + query;
                    out[at * dim + d] = result[n];
                    if d == 0usize {
                        sums[2usize * at] = most[query];
                        sums[2usize * at + 1usize] = sum[query];
                    }
                } else {
                    let within = query / group;
                    if within < tokens {
                        let to = ((token + within) * kv_heads + head) * group + query % group;
                        out[to * dim + d] = result[n] / sum[query];
                    }
                }
            }
        }
    }
}

/// A head's keys, or its values, of one page as floats in shared memory.
#[cube]
fn load(
    pages: &[u32],
    at: usize,
    rows: &mut [f32],
    #[comptime] dim: usize,
    #[comptime] format: KvFormat,
) {
    let stride = comptime!(dim + 1usize);
    let mut word = UNIT_POS as usize;
    match format {
        KvFormat::F32 => {
            while word < comptime!(16usize * dim) {
                rows[word / dim * stride + word % dim] = f32::reinterpret(pages[at + word]);
                word += 128usize;
            }
        }
        KvFormat::F16 => {
            while word < comptime!(8usize * dim) {
                let both = pages[at + word];
                let element = 2usize * word;
                let to = element / dim * stride + element % dim;
                rows[to] = half_to_float(both & 0xffffu32);
                rows[to + 1usize] = half_to_float(both >> 16u32);
                word += 128usize;
            }
        }
        KvFormat::Int8 => {
            while word < comptime!(4usize * dim) {
                let four = pages[at + word];
                let element = 4usize * word;
                let slot = element / dim;
                let scale = f32::reinterpret(pages[at + comptime!(4usize * dim) + slot]);
                let to = slot * stride + element % dim;
                #[unroll]
                for n in 0..4usize {
                    let integer = byte_of(four, comptime!(n as u32));
                    rows[to + n] = f32::cast_from(integer) * scale;
                }
                word += 128usize;
            }
        }
    }
}

/// As [`combine`], four elements a unit, which are of one head, and rounds them.
#[cube(launch_unchecked)]
fn combine_and_round(
    splits: &[u32],
    parts: &[f32],
    sums: &[f32],
    out: &mut [f32],
    quants: &mut [u32],
    scales: &mut [f32],
    rounded_sums: &mut [f32],
    tokens: usize,
    heads: usize,
    dim: usize,
    group: usize,
    #[comptime] block: usize,
) {
    let mut largest = Shared::<[f32]>::new_slice(64usize);
    let mut totals = Shared::<[i32]>::new_slice(64usize);
    let columns = heads * dim;
    let each = (columns + 255usize) / 256usize;
    let number = CUBE_POS / each;
    let column = CUBE_POS % each * 256usize + UNIT_POS as usize * 4usize;
    let inside = number < tokens && column < columns;
    let entry = min(number, tokens - 1usize) * 3usize;
    let token = splits[entry] as usize;
    let at = token * columns + column;
    let mut four = Array::<f32>::new(4usize);
    #[unroll]
    for n in 0..4usize {
        four[n] = 0.0f32;
    }
    if inside {
        let first = splits[entry + 1usize] as usize;
        let end = first + splits[entry + 2usize] as usize;
        let kv_heads = heads / group;
        let head = column / dim;
        let d = column % dim;
        let mut most = (-1.0e30f32).runtime();
        for part in first..end {
            let from = (part * kv_heads + head / group) * group + head % group;
            most = max(most, sums[2usize * from]);
        }
        let mut total = 0.0f32;
        for part in first..end {
            let from = (part * kv_heads + head / group) * group + head % group;
            let factor = (sums[2usize * from] - most).exp();
            total += sums[2usize * from + 1usize] * factor;
            #[unroll]
            for n in 0..4usize {
                four[n] += parts[from * dim + d + n] * factor;
            }
        }
        #[unroll]
        for n in 0..4usize {
            four[n] /= total;
            out[at + n] = four[n];
        }
    }
    round_four(
        &four,
        at,
        inside,
        quants,
        scales,
        rounded_sums,
        &mut largest,
        &mut totals,
        block,
        0u32,
    );
}

/// Puts the parts of each token together.
#[cube(launch_unchecked)]
fn combine(
    splits: &[u32],
    parts: &[f32],
    sums: &[f32],
    out: &mut [f32],
    units: usize,
    heads: usize,
    dim: usize,
    group: usize,
) {
    let unit = ABSOLUTE_POS;
    if unit < units {
        let d = unit % dim;
        let head = unit / dim % heads;
        let entry = unit / dim / heads * 3usize;
        let token = splits[entry] as usize;
        let first = splits[entry + 1usize] as usize;
        let end = first + splits[entry + 2usize] as usize;
        let kv_heads = heads / group;
        let mut most = (-1.0e30f32).runtime();
        for part in first..end {
            let at = (part * kv_heads + head / group) * group + head % group;
            most = max(most, sums[2usize * at]);
        }
        let mut total = 0.0f32;
        let mut result = 0.0f32;
        for part in first..end {
            let at = (part * kv_heads + head / group) * group + head % group;
            let factor = (sums[2usize * at] - most).exp();
            total += sums[2usize * at + 1usize] * factor;
            result += parts[at * dim + d] * factor;
        }
        out[(token * heads + head) * dim + d] = result / total;
    }
}
