//! Attention of several tokens of a text at a time, as of a prompt: page by page, with the queries
//! of a head's group in the cube's own memory and four numbers to a load.
//!
//! As the kernel for pages of any shape it has a running softmax (FlashAttention,
//! arXiv 2205.14135, algorithm 1), and takes the same pieces of work.

use cubecl::prelude::*;
use skep_kernels::kv::{KvFormat, KvShape};

use super::UNITS;
use crate::numbers::{byte_of, floats_of};

/// Four numbers of a head, which a unit reads at once.
pub(super) type Floats = Vector<f32, Const<4>>;

/// Whether pieces of so many queries go this way, on a device with so much memory for a cube.
pub(super) fn takes(shape: &KvShape, queries: usize, shared_bytes: usize) -> bool {
    let dim = shape.head_dim;
    dim.is_power_of_two()
        && (32..=256).contains(&dim)
        && (1..=64).contains(&queries)
        && shared_words(dim, tile_of(queries, dim)) * 4 <= shared_bytes
}

/// Queries that the units have between them: as many each, `512 / dim` units side by side.
const fn tile_of(queries: usize, dim: usize) -> usize {
    queries.next_multiple_of(512 / dim)
}

/// Words of a cube's memory: queries, keys and values, scores, weights, and three of each query.
fn shared_words(dim: usize, tile: usize) -> usize {
    tile * dim + 2 * 16 * (dim + 4) + tile * (17 + 16 + 3)
}

#[cube(launch_unchecked)]
pub(super) fn attend_several(
    pages: &[u32],
    tables: &[u32],
    pieces: &[u32],
    queries: &[Floats],
    out: &mut [Floats],
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
    #[comptime] halves: bool,
) {
    // Fours of a head, units that have the same four, and queries that each of those has.
    let wide = comptime!(dim / 4);
    let runs = comptime!(512 / dim);
    let tile = comptime!(tile_of(together * group, dim));
    let each = comptime!(tile_of(together * group, dim) * dim / 512);
    // A row longer than a head by one, so that neighbouring rows lie in other banks; and so scores.
    let stride = comptime!(dim / 4 + 1);
    let mut query = Shared::<[Floats]>::new_slice(comptime!(tile * wide));
    let mut keys = Shared::<[Floats]>::new_slice(comptime!(16 * stride));
    let mut values = Shared::<[Floats]>::new_slice(comptime!(16 * stride));
    let mut scores = Shared::<[f32]>::new_slice(comptime!(tile * 17));
    let mut weights = Shared::<[Floats]>::new_slice(comptime!(tile * 4));
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
    let end = pieces[piece + 7usize] as usize;

    // Which four of a head this unit adds up, and for which run of queries.
    let column = unit % wide;
    let run = unit / wide * each;
    let mut result = Array::<f32>::new(comptime!(4 * each));
    #[unroll]
    for n in 0..comptime!(4 * each) {
        result[n] = 0.0f32;
    }
    #[unroll]
    for n in 0..each {
        let own = unit / wide + n * runs;
        let within = own / group;
        let from = ((token + min(within, tokens - 1usize)) * kv_heads + head) * group + own % group;
        let four = queries[from * wide + column];
        let mut scaled = Floats::empty();
        #[unroll]
        for e in 0..4usize {
            scaled.insert(e, four.extract(e) * scale);
        }
        query[own * wide + column] = scaled;
    }
    if unit < tile {
        most[unit] = -1.0e30f32;
        sum[unit] = 0.0f32;
    }

    // Pages before the first token that anybody sees are left out.
    let unseen = select(
        position + 1usize > window,
        position + 1usize - window,
        0usize,
    ) / 16usize;
    let slot = unit % 16usize;
    let mut number = max(first_page, unseen);
    while number < end_page {
        let at =
            tables[table + number] as usize * page_words + layer_at + 2usize * head * head_words;
        // Slots beyond the last token hold whatever was there.
        let slots = min(16usize, end - number * 16usize);
        load(pages, at, slots, &mut keys, dim, format, halves);
        load(
            pages,
            at + head_words,
            slots,
            &mut values,
            dim,
            format,
            halves,
        );
        sync_cube();

        // A unit makes the scores of a slot and of each eighth query.
        let mut made = Array::<f32>::new(comptime!(tile.div_ceil(8)));
        #[unroll]
        for n in 0..comptime!(tile.div_ceil(8)) {
            made[n] = 0.0f32;
        }
        for d in 0..wide {
            let key = keys[slot * stride + d];
            #[unroll]
            for n in 0..comptime!(tile.div_ceil(8)) {
                let own = min(unit / 16usize + 8usize * n, comptime!(tile - 1));
                let four = query[own * wide + d];
                #[unroll]
                for e in 0..4usize {
                    made[n] += key.extract(e) * four.extract(e);
                }
            }
        }
        let place = number * 16usize + slot;
        #[unroll]
        for n in 0..comptime!(tile.div_ceil(8)) {
            let own = unit / 16usize + 8usize * n;
            let within = own / group;
            let sees =
                within < tokens && place <= position + within && place + window > position + within;
            if own < tile {
                scores[own * 17usize + slot] = select(sees, made[n], -1.0e30f32);
            }
        }
        sync_cube();

        if unit < tile {
            let before = most[unit];
            let mut largest = before;
            #[unroll]
            for n in 0..16usize {
                largest = max(largest, scores[unit * 17usize + n]);
            }
            let mut total = 0.0f32;
            #[unroll]
            for n in 0..4usize {
                let mut four = Floats::empty();
                #[unroll]
                for e in 0..4usize {
                    let score = scores[unit * 17usize + comptime!(4 * n + e)];
                    let weight = select(score > -1.0e29f32, (score - largest).exp(), 0.0f32);
                    four.insert(e, weight);
                    total += weight;
                }
                weights[unit * 4usize + n] = four;
            }
            let factor = (before - largest).exp();
            most[unit] = largest;
            sum[unit] = sum[unit] * factor + total;
            rescale[unit] = factor;
        }
        sync_cube();

        #[unroll]
        for n in 0..each {
            let factor = rescale[run + n];
            #[unroll]
            for e in 0..4usize {
                result[comptime!(4 * n + e)] *= factor;
            }
        }
        for four in 0..4usize {
            let mut rows = Array::<Floats>::new(4usize);
            #[unroll]
            for k in 0..4usize {
                rows[k] = values[(four * 4usize + k) * stride + column];
            }
            #[unroll]
            for n in 0..each {
                let weight = weights[(run + n) * 4usize + four];
                #[unroll]
                for k in 0..4usize {
                    let row = rows[k];
                    #[unroll]
                    for e in 0..4usize {
                        result[comptime!(4 * n + e)] += weight.extract(k) * row.extract(e);
                    }
                }
            }
        }
        sync_cube();
        number += 1usize;
    }

    if CUBE_POS < count {
        #[unroll]
        for n in 0..each {
            let own = run + n;
            let within = own / group;
            if within < tokens {
                let to = ((token + within) * kv_heads + head) * group + own % group;
                let mut four = Floats::empty();
                #[unroll]
                for e in 0..4usize {
                    four.insert(e, result[comptime!(4 * n + e)] / sum[own]);
                }
                out[to * wide + column] = four;
            }
        }
    }
}

/// A head's keys, or its values, of the first slots of a page as floats in shared memory; zeros of
/// the others.
#[cube]
fn load(
    pages: &[u32],
    at: usize,
    slots: usize,
    rows: &mut [Floats],
    #[comptime] dim: usize,
    #[comptime] format: KvFormat,
    #[comptime] halves: bool,
) {
    let wide = comptime!(dim / 4);
    #[unroll]
    for n in 0..comptime!(16 * dim / 4 / UNITS) {
        let own = UNIT_POS as usize + comptime!(n * UNITS);
        let slot = own / wide;
        let mut all = Array::<f32>::new(4usize);
        match format {
            KvFormat::F32 =>
            {
                #[unroll]
                for e in 0..4usize {
                    all[e] = f32::reinterpret(pages[at + own * 4usize + e]);
                }
            }
            KvFormat::F16 =>
            {
                #[unroll]
                for e in 0..2usize {
                    let (low, high) = floats_of(pages[at + own * 2usize + e], halves);
                    all[2usize * e] = low;
                    all[2usize * e + 1usize] = high;
                }
            }
            KvFormat::Int8 => {
                let four = pages[at + own];
                let scale = f32::reinterpret(pages[at + comptime!(4 * dim) + slot]);
                #[unroll]
                for e in 0..4usize {
                    all[e] = f32::cast_from(byte_of(four, comptime!(e as u32))) * scale;
                }
            }
        }
        let mut four = Floats::empty();
        #[unroll]
        for e in 0..4usize {
            four.insert(e, select(slot < slots, all[e], 0.0f32));
        }
        rows[slot * comptime!(dim / 4 + 1) + own % wide] = four;
    }
}
