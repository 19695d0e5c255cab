//! Attention of single tokens, as when texts are continued: four pages at a time, with all
//! queries of a head's group over each key and value that is read.
//!
//! As the kernel for several tokens it has a running softmax (FlashAttention, arXiv 2205.14135,
//! algorithm 1), and takes the same pieces of work.

use cubecl::prelude::*;
use skep_kernels::kv::{KvFormat, KvShape};

use crate::numbers::floats_of;
use crate::packed::Words;

/// Units of a cube.
pub(super) const UNITS: usize = 256;

/// Slots of the pages that a cube has at once.
const SLOTS: usize = 64;

/// Whether pages of this shape go this way, on a device with so much memory for a cube.
pub(super) fn takes(shape: &KvShape, group: usize, shared_bytes: usize) -> bool {
    let dim = shape.head_dim;
    shape.format == KvFormat::F16
        && dim.is_power_of_two()
        && (32..=256).contains(&dim)
        && (1..=8).contains(&group)
        && shared_words(dim, group) * 4 <= shared_bytes
}

/// Words of a cube's memory: queries, scores by four units a key, maxima, weights, and what is added
/// up last.
fn shared_words(dim: usize, group: usize) -> usize {
    group * (dim + 4 * SLOTS + 16 + SLOTS + 2 * UNITS)
}

#[cube(launch_unchecked)]
pub(super) fn attend_one(
    pages: &[Words],
    words: &[u32],
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
    #[comptime] split: bool,
    #[comptime] halves: bool,
) {
    // Words of a key or value, runs of slots whose values are added up side by side, and the slots
    // of a run.
    let wide = comptime!(dim / 2);
    let parts = comptime!(512 / dim);
    let each = comptime!(dim / 8);
    let mut query = Shared::<[Vector<f32, Const<4>>]>::new_slice(comptime!(group * dim / 4));
    let mut scores = Shared::<[f32]>::new_slice(comptime!(group * 256));
    let mut maxima = Shared::<[f32]>::new_slice(comptime!(group * 16));
    let mut weights = Shared::<[f32]>::new_slice(comptime!(group * 64));
    let mut found = Shared::<[f32]>::new_slice(comptime!(group * 512));

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

    let first_query = (token * kv_heads + head) * group;
    let mut own = unit;
    while own < comptime!(group * dim / 4) {
        let mut four = Vector::<f32, Const<4>>::empty();
        #[unroll]
        for n in 0..4usize {
            four.insert(n, queries[first_query * dim + 4usize * own + n] * scale);
        }
        query[own] = four;
        own += 256usize;
    }
    let mut result = Array::<f32>::new(comptime!(2 * group));
    let mut most = Array::<f32>::new(group);
    let mut sum = Array::<f32>::new(group);
    #[unroll]
    for g in 0..group {
        result[2usize * g] = 0.0f32;
        result[2usize * g + 1usize] = 0.0f32;
        most[g] = -1.0e30f32;
        sum[g] = 0.0f32;
    }
    sync_cube();

    // Of a key each of four units has a quarter.
    let slot = unit % 64usize;
    let quarter = unit / 64usize;
    let word = unit % wide;
    let run = unit / wide;
    // Pages before the first token that is seen are left out.
    let unseen = select(
        position + 1usize > window,
        position + 1usize - window,
        0usize,
    ) / 16usize;
    let mut number = max(first_page, unseen);
    while number < end_page {
        let own_page = number + slot / 16usize;
        let key = own_page * 16usize + slot % 16usize;
        let there = own_page < end_page;
        let page = tables[table + min(own_page, end_page - 1usize)] as usize;
        let at = page * page_words + layer_at + 2usize * head * head_words;
        let from = (at + slot % 16usize * wide + quarter * comptime!(dim / 8)) / 4usize;
        let mut keys = Array::<Words>::new(comptime!(dim / 32));
        #[unroll]
        for four in 0..comptime!(dim / 32) {
            keys[four] = pages[from + four];
        }
        // Values are asked for long before they are needed.
        let mut values = Array::<u32>::new(each);
        #[unroll]
        for n in 0..each {
            let slot = run * each + n;
            let own_page = number + slot / 16usize;
            let page = tables[table + min(own_page, end_page - 1usize)] as usize;
            let at = page * page_words + layer_at + (2usize * head + 1usize) * head_words;
            values[n] = words[at + slot % 16usize * wide + word];
        }
        let mut score = Array::<f32>::new(group);
        #[unroll]
        for g in 0..group {
            score[g] = 0.0f32;
        }
        #[unroll]
        for four in 0..comptime!(dim / 32) {
            let key_words = keys[four];
            #[unroll]
            for n in 0..2usize {
                let (a, b) = floats_of(key_words.extract(comptime!(2 * n)), halves);
                let (c, d) = floats_of(key_words.extract(comptime!(2 * n + 1)), halves);
                let place = quarter * comptime!(dim / 16) + 2usize * four + n;
                #[unroll]
                for g in 0..group {
                    let four_of = query[g * comptime!(dim / 4) + place];
                    score[g] += a * four_of.extract(0usize)
                        + b * four_of.extract(1usize)
                        + c * four_of.extract(2usize)
                        + d * four_of.extract(3usize);
                }
            }
        }
        let sees = there && key <= position && key + window > position;
        #[unroll]
        for g in 0..group {
            scores[(quarter * group + g) * 64usize + slot] = select(sees, score[g], -1.0e30f32);
        }
        sync_cube();
        let mut own = unit;
        while own < comptime!(group * 16) {
            let first = own / 16usize * 64usize + own % 16usize * 4usize;
            let mut largest = (-1.0e30f32).runtime();
            #[unroll]
            for n in 0..4usize {
                let mut whole = 0.0f32;
                #[unroll]
                for q in 0..4usize {
                    whole += scores[comptime!(q * group * 64) + first + n];
                }
                scores[first + n] = whole;
                largest = max(largest, whole);
            }
            maxima[own] = largest;
            own += 256usize;
        }
        sync_cube();
        #[unroll]
        for g in 0..group {
            let before = most[g];
            let mut largest = before;
            #[unroll]
            for n in 0..16usize {
                largest = max(largest, maxima[g * 16usize + n]);
            }
            let factor = (before - largest).exp();
            most[g] = largest;
            sum[g] *= factor;
            result[2usize * g] *= factor;
            result[2usize * g + 1usize] *= factor;
            if quarter == comptime!(g % 4) {
                let whole = scores[g * 64usize + slot];
                weights[g * 64usize + slot] =
                    select(whole > -1.0e29f32, (whole - largest).exp(), 0.0f32);
            }
        }
        sync_cube();
        #[unroll]
        for n in 0..each {
            let (low, high) = floats_of(values[n], halves);
            #[unroll]
            for g in 0..group {
                let weight = weights[g * 64usize + run * each + n];
                // Slots beyond the last token hold whatever was there.
                let counts = weight > 0.0f32;
                sum[g] += weight;
                result[2usize * g] += weight * select(counts, low, 0.0f32);
                result[2usize * g + 1usize] += weight * select(counts, high, 0.0f32);
            }
        }
        sync_cube();
        number += 4usize;
    }

    // Runs of slots were added up by different units.
    #[unroll]
    for g in 0..group {
        let at = (run * group + g) * dim + 2usize * word;
        found[at] = result[2usize * g];
        found[at + 1usize] = result[2usize * g + 1usize];
        if word == 0usize {
            weights[run * group + g] = sum[g];
        }
    }
    sync_cube();
    if CUBE_POS < count {
        let mut own = unit;
        while own < comptime!(group * dim) {
            let g = own / dim;
            let mut value = 0.0f32;
            let mut total = 0.0f32;
            #[unroll]
            for n in 0..parts {
                value += found[n * comptime!(group * dim) + own];
                total += weights[n * group + g];
            }
            if comptime!(split) {
                let at = (part * kv_heads + head) * group + g;
                out[at * dim + own % dim] = value;
            } else if tokens > 0usize {
                out[first_query * dim + own] = value / total;
            }
            own += 256usize;
        }
        if comptime!(split) {
            #[unroll]
            for g in 0..group {
                if unit == g {
                    let at = (part * kv_heads + head) * group + g;
                    let mut total = 0.0f32;
                    #[unroll]
                    for n in 0..parts {
                        total += weights[n * group + g];
                    }
                    sums[2usize * at] = most[g];
                    sums[2usize * at + 1usize] = total;
                }
            }
        }
    }
}
