//! Attention with grouped heads over keys and values that lie in pages.
//!
//! Each head of keys and values is streamed once for all the queries that use it: the heads of
//! its group, and several tokens of a prompt. Softmax is taken along the way (FlashAttention,
//! arXiv 2205.14135, algorithm 1), page by page from the first, so a query's result is the same
//! whatever is computed beside it.

#[cfg(target_arch = "x86_64")]
mod avx512;

use std::ops::Range;

use half::f16;

use crate::isa::Isa;
use crate::kv::{KvPages, KvShape, PAGE_TOKENS};
use crate::rows::exp;
use crate::team::Team;
use crate::{ShapeError, expect_below, expect_len};

/// Queries that a page is read for at a time.
const TILE: usize = 32;

/// One sequence's part of a batch.
#[derive(Debug, Clone)]
pub struct Sequence<'a> {
    /// The tokens of the batch that are its queries.
    pub tokens: Range<usize>,
    /// Its position in the sequence of the first of them: keys and values of it, of everything
    /// before and of the tokens after it in the batch lie in `pages`.
    pub start: usize,
    /// Its pages, from its first token on.
    pub pages: &'a [u32],
}

/// What all queries of a layer have in common.
#[derive(Debug, Clone, Copy)]
pub struct AttentionLayer {
    /// The layer, whose keys and values are used.
    pub layer: usize,
    /// Heads of queries, a multiple of the heads of keys and values.
    pub heads: usize,
    /// What products of queries and keys are multiplied with.
    pub scale: f32,
    /// A token sees itself and the tokens before it, up to this many together.
    pub window: Option<usize>,
}

impl AttentionLayer {
    /// Checks the sequences of a batch of so many tokens against a pool of `pool_pages` pages of
    /// this shape. Returns how many heads of queries share one of keys and values.
    ///
    /// # Errors
    /// When the pool has no such layer, heads cannot be shared out, a sequence's tokens overlap
    /// another's, or its pages are too few or not in the pool.
    pub fn check(
        &self,
        shape: &KvShape,
        pool_pages: usize,
        sequences: &[Sequence<'_>],
        tokens: usize,
    ) -> Result<usize, ShapeError> {
        expect_below("attention", "the layers", self.layer, shape.layers)?;
        let group = self.heads.checked_div(shape.kv_heads).unwrap_or(0);
        expect_len(
            "attention",
            "the heads",
            self.heads,
            group.checked_mul(shape.kv_heads),
        )?;
        let mut free = 0;
        for sequence in sequences {
            let Range { start, end } = sequence.tokens;
            // In order and apart, within the batch.
            expect_below(
                "attention",
                "the tokens before a sequence",
                free,
                start.saturating_add(1),
            )?;
            expect_below(
                "attention",
                "the tokens of a sequence",
                start,
                end.saturating_add(1),
            )?;
            expect_below("attention", "the batch", end, tokens.saturating_add(1))?;
            free = end;
            let length = sequence.start.saturating_add(end - start);
            let room = sequence.pages.len().saturating_mul(PAGE_TOKENS);
            expect_below("attention", "the pages", length, room.saturating_add(1))?;
            for page in sequence.pages {
                expect_below("attention", "the pool", *page as usize, pool_pages)?;
            }
        }
        Ok(group)
    }
}

/// `out[tokens, heads * head_dim]`: for each query the values of the tokens it sees, weighted by
/// the softmax of its products with their keys. Tokens of the batch that belong to no sequence
/// are left as they are.
///
/// # Errors
/// When lengths do not fit together, a sequence's tokens overlap another's, or its pages are too
/// few or not in the pool.
pub fn attention(
    isa: Isa,
    team: &Team,
    layer: &AttentionLayer,
    pages: &KvPages,
    sequences: &[Sequence<'_>],
    queries: &[f32],
    out: &mut [f32],
) -> Result<(), ShapeError> {
    let shape = pages.shape();
    let (dim, kv_heads) = (shape.head_dim, shape.kv_heads);
    let width = layer.heads * dim;
    let tokens = queries.len().checked_div(width).unwrap_or(0);
    expect_len(
        "attention",
        "the queries",
        queries.len(),
        tokens.checked_mul(width),
    )?;
    expect_len("attention", "the output", out.len(), Some(queries.len()))?;
    let group = layer.check(shape, pages.pages(), sequences, tokens)?;
    // Tokens that share a tile, so that with the heads of a group it is full.
    let together = (TILE / group.max(1)).max(1);
    let mut pieces = Vec::new();
    for sequence in sequences {
        for head in 0..kv_heads {
            let mut start = sequence.tokens.start;
            while start < sequence.tokens.end {
                let end = sequence.tokens.end.min(start + together);
                pieces.push((sequence, head, start..end));
                start = end;
            }
        }
    }
    // Later tokens see more: they come first, so that the last piece is a short one.
    pieces.sort_by_key(|(sequence, _, tokens)| {
        std::cmp::Reverse(sequence.start + tokens.end - sequence.tokens.start)
    });
    let isa = isa.or_portable();
    let out = Output(out.as_mut_ptr());
    let out = &out;
    let pieces = &pieces;
    team.share(pieces.len(), 1, |range| {
        for (sequence, head, tokens) in &pieces[range] {
            let piece = Piece {
                layer,
                pages,
                sequence,
                head: *head,
                tokens: tokens.clone(),
                group,
            };
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => {
                    // SAFETY: the machine has these instructions, which was checked above.
                    unsafe { piece.attend_avx2(queries, out) }
                }
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx => {
                    // SAFETY: as above.
                    unsafe { piece.attend_avx512(queries, out) }
                }
                _ => piece.attend(queries, out, |from, to| {
                    for (to, from) in to.iter_mut().zip(from) {
                        *to = from.to_f32();
                    }
                }),
            }
        }
    });
    Ok(())
}

/// Where results go. Pieces write different elements.
struct Output(*mut f32);

// SAFETY: every piece writes the heads of its own group for its own tokens, and sequences do not
// share tokens; nobody reads before all have finished.
unsafe impl Sync for Output {}

/// The queries of some tokens that use one head of keys and values.
struct Piece<'a> {
    layer: &'a AttentionLayer,
    pages: &'a KvPages,
    sequence: &'a Sequence<'a>,
    head: usize,
    tokens: Range<usize>,
    group: usize,
}

/// One query on its way through the pages.
struct Query {
    token: usize,
    head: usize,
    /// The positions that it sees.
    sees: Range<usize>,
    /// The largest score so far.
    most: f32,
    /// The sum of `e ^ (score - most)` so far.
    sum: f32,
}

impl Piece<'_> {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn attend_avx2(&self, queries: &[f32], out: &Output) {
        self.attend(queries, out, |from, to| widen_avx2(from, to));
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn attend_avx512(&self, queries: &[f32], out: &Output) {
        if avx512::takes(self.pages.shape().head_dim) {
            avx512::attend(self, queries, out);
        } else {
            self.attend(queries, out, |from, to| avx512::widen(from, to));
        }
    }

    /// Its queries, and the positions that one of them sees.
    fn tile(&self) -> (Vec<Query>, Range<usize>) {
        let mut tile = Vec::with_capacity(self.tokens.len() * self.group);
        for token in self.tokens.clone() {
            let position = self.sequence.start + token - self.sequence.tokens.start;
            let first = match self.layer.window {
                Some(window) => (position + 1).saturating_sub(window),
                None => 0,
            };
            for head in self.head * self.group..(self.head + 1) * self.group {
                tile.push(Query {
                    token,
                    head,
                    sees: first..position + 1,
                    most: f32::NEG_INFINITY,
                    sum: 0.0,
                });
            }
        }
        let from = tile.iter().map(|query| query.sees.start).min().unwrap_or(0);
        let to = tile.iter().map(|query| query.sees.end).max().unwrap_or(0);
        (tile, from..to)
    }

    /// Reads the head's part of the sequence's page `number`. Values of tokens from position `end`
    /// on, which may be anything, are zeros: their weight is zero, but that times anything is not.
    #[inline(always)]
    fn read(
        &self,
        number: usize,
        end: usize,
        keys: &mut [f32],
        values: &mut [f32],
        widen: impl Fn(&[f16], &mut [f32]),
    ) {
        let page = self.sequence.pages[number] as usize;
        let (layer, head) = (self.layer.layer, self.head);
        self.pages.read(layer, false, page, head, keys, &widen);
        self.pages.read(layer, true, page, head, values, &widen);
        let there = (end - number * PAGE_TOKENS).min(PAGE_TOKENS);
        values[there * self.pages.shape().head_dim..].fill(0.0);
    }

    /// Writes what the queries have found.
    #[inline(always)]
    fn write(&self, tile: &[Query], results: &[f32], out: &Output) {
        let dim = self.pages.shape().head_dim;
        for (query, result) in tile.iter().zip(results.chunks_exact(dim)) {
            let share = 1.0 / query.sum;
            let at = (query.token * self.layer.heads + query.head) * dim;
            for (n, x) in result.iter().enumerate() {
                // SAFETY: the token is one of the batch and the head one of the layer's, and the
                // output has been checked to have as many elements.
                unsafe { *out.0.add(at + n) = x * share };
            }
        }
    }

    #[inline(always)]
    fn attend(&self, queries: &[f32], out: &Output, widen: impl Fn(&[f16], &mut [f32])) {
        let dim = self.pages.shape().head_dim;
        let width = self.layer.heads * dim;
        let (mut tile, seen) = self.tile();
        let mut keys = vec![0.0; PAGE_TOKENS * dim];
        let mut values = vec![0.0; PAGE_TOKENS * dim];
        let mut results = vec![0.0; tile.len() * dim];
        for number in seen.start / PAGE_TOKENS..seen.end.div_ceil(PAGE_TOKENS) {
            self.read(number, seen.end, &mut keys, &mut values, &widen);
            let begins = number * PAGE_TOKENS;
            for (query, result) in tile.iter_mut().zip(results.chunks_exact_mut(dim)) {
                let start = query.sees.start.max(begins);
                let end = query.sees.end.min(begins + PAGE_TOKENS);
                if start >= end {
                    continue;
                }
                let slots = start - begins..end - begins;
                let at = query.token * width + query.head * dim;
                let scores = scores(&queries[at..at + dim], &keys, self.layer.scale);
                query.take(scores, slots, &values, result);
            }
        }
        self.write(&tile, &results, out);
    }
}

impl Query {
    /// Takes in a page: rescales what is there if a larger score has come.
    #[inline(always)]
    fn take(
        &mut self,
        mut scores: [f32; PAGE_TOKENS],
        slots: Range<usize>,
        values: &[f32],
        result: &mut [f32],
    ) {
        for (slot, score) in scores.iter_mut().enumerate() {
            if !slots.contains(&slot) {
                *score = f32::NEG_INFINITY;
            }
        }
        let most = scores
            .iter()
            .fold(self.most, |most, score| most.max(*score));
        let weights = scores.map(|score| {
            // Far below everything: `exp` gives no zero by itself.
            if score == f32::NEG_INFINITY {
                0.0
            } else {
                exp(score - most)
            }
        });
        let rescale = if self.most == f32::NEG_INFINITY {
            0.0
        } else {
            exp(self.most - most)
        };
        self.most = most;
        self.sum = self.sum * rescale + weights.iter().sum::<f32>();
        if rescale != 1.0 {
            for x in result.iter_mut() {
                *x *= rescale;
            }
        }
        let dim = result.len();
        let (fours, rest) = weights.as_chunks::<4>();
        debug_assert!(rest.is_empty());
        // Four tokens at a time, so that a result is loaded and stored a quarter as often.
        for (four, values) in fours.iter().zip(values.chunks_exact(4 * dim)) {
            let (a, values) = values.split_at(dim);
            let (b, values) = values.split_at(dim);
            let (c, d) = values.split_at(dim);
            for ((((x, a), b), c), d) in result.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *x += (four[0] * a + four[1] * b) + (four[2] * c + four[3] * d);
            }
        }
    }
}

/// The products of a query with each key of a page.
#[inline(always)]
fn scores(query: &[f32], keys: &[f32], scale: f32) -> [f32; PAGE_TOKENS] {
    let mut scores = [0.0; PAGE_TOKENS];
    for (score, key) in scores.iter_mut().zip(keys.chunks_exact(query.len())) {
        let mut sums = [0.0_f32; 16];
        let (queries, last_of_query) = query.as_chunks::<16>();
        let (keys, last_of_key) = key.as_chunks::<16>();
        for (query, key) in queries.iter().zip(keys) {
            for ((sum, query), key) in sums.iter_mut().zip(query).zip(key) {
                *sum += query * key;
            }
        }
        for ((sum, query), key) in sums.iter_mut().zip(last_of_query).zip(last_of_key) {
            *sum += query * key;
        }
        *score = sums.iter().sum::<f32>() * scale;
    }
    scores
}

/// `to[i] = from[i]`, eight at a time. Called through a closure of a function with the same
/// features: passed on by its name it would be compiled without them, and each of its instructions
/// become a call.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_avx2(from: &[f16], to: &mut [f32]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
    let (froms, last) = from.as_chunks::<8>();
    let (tos, last_to) = to.as_chunks_mut::<8>();
    for (from, to) in froms.iter().zip(tos) {
        // SAFETY: 16 bytes may be read and 32 written.
        unsafe {
            let halves = _mm_loadu_si128(from.as_ptr().cast());
            _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(halves));
        }
    }
    for (to, from) in last_to.iter_mut().zip(last) {
        *to = from.to_f32();
    }
}

#[cfg(test)]
mod tests;
