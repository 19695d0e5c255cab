//! Attention with AVX-512, for heads of whole registers.
//!
//! The keys of a page are turned over, so that a register holds one element of each of its
//! sixteen keys, and the scores of a query are one register too. Queries that see the same page
//! go four at a time; each has its own sums, in the same order as alone.

use std::arch::x86_64::*;

use half::f16;

use super::{Output, PAGE_TOKENS, Piece, Query};
use crate::linear::avx512::{across, transposed};

/// Queries that share what is loaded of keys and values.
const TOGETHER: usize = 4;

/// Whether there is a kernel for heads of so many elements.
pub fn takes(dim: usize) -> bool {
    dim.is_multiple_of(16) && dim > 0
}

/// As `Piece::attend`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn attend(piece: &Piece<'_>, queries: &[f32], out: &Output) {
    let dim = piece.pages.shape().head_dim;
    let (mut tile, seen) = piece.tile();
    let mut keys = vec![0.0; PAGE_TOKENS * dim];
    let mut turned = vec![[0.0; PAGE_TOKENS]; dim];
    let mut values = vec![0.0; PAGE_TOKENS * dim];
    let mut results = vec![0.0; tile.len() * dim];
    let of = |query: &Query| {
        let at = (query.token * piece.layer.heads + query.head) * dim;
        &queries[at..at + dim]
    };
    for number in seen.start / PAGE_TOKENS..seen.end.div_ceil(PAGE_TOKENS) {
        let widen = |from: &[f16], to: &mut [f32]| widen(from, to);
        piece.read(number, seen.end, &mut keys, &mut values, widen);
        turn_over(&keys, &mut turned);
        let page = Page {
            begins: number * PAGE_TOKENS,
            scale: piece.layer.scale,
            keys: &turned,
            values: &values,
        };
        let fours = tile.chunks_mut(TOGETHER);
        for (tile, results) in fours.zip(results.chunks_mut(TOGETHER * dim)) {
            match tile {
                [a, b, c, d] if page.is_seen(a) && page.is_seen(d) => {
                    let rows = [of(a), of(b), of(c), of(d)];
                    page.take([a, b, c, d], rows, results);
                }
                _ => {
                    for (query, result) in tile.iter_mut().zip(results.chunks_mut(dim)) {
                        if page.is_seen(query) {
                            let row = of(query);
                            page.take([query], [row], result);
                        }
                    }
                }
            }
        }
    }
    piece.write(&tile, &results, out);
}

/// `to[i] = from[i]`, sixteen at a time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn widen(from: &[f16], to: &mut [f32]) {
    let (froms, last) = from.as_chunks::<16>();
    let (tos, last_to) = to.as_chunks_mut::<16>();
    for (from, to) in froms.iter().zip(tos) {
        // SAFETY: 32 bytes may be read and 64 written.
        unsafe {
            let halves = _mm256_loadu_si256(from.as_ptr().cast());
            _mm512_storeu_ps(to.as_mut_ptr(), _mm512_cvtph_ps(halves));
        }
    }
    for (to, from) in last_to.iter_mut().zip(last) {
        *to = from.to_f32();
    }
}

/// Makes `[dim, tokens]` of `[tokens, dim]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn turn_over(keys: &[f32], turned: &mut [[f32; PAGE_TOKENS]]) {
    let dim = turned.len();
    for (n, turned) in turned.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let mut rows = [_mm512_setzero_ps(); PAGE_TOKENS];
        for (row, key) in rows.iter_mut().zip(keys.chunks_exact(dim)) {
            let part = &key[16 * n..16 * n + 16];
            // SAFETY: the slice has sixteen floats.
            *row = unsafe { _mm512_loadu_ps(part.as_ptr()) };
        }
        for (to, row) in turned.iter_mut().zip(transposed(rows)) {
            // SAFETY: the array has sixteen floats.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), row) };
        }
    }
}

/// The keys and values of one head in one page.
struct Page<'a> {
    /// The position of its first token.
    begins: usize,
    scale: f32,
    /// `[dim, tokens]`.
    keys: &'a [[f32; PAGE_TOKENS]],
    /// `[tokens, dim]`.
    values: &'a [f32],
}

impl Page<'_> {
    /// Whether a query sees one of its tokens. Queries of a tile are in the order of their
    /// positions, so that two see it if one before and one after them do.
    fn is_seen(&self, query: &Query) -> bool {
        query.sees.start < self.begins + PAGE_TOKENS && query.sees.end > self.begins
    }

    /// Each query takes the page in, as `Query::take`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn take<const Q: usize>(&self, tile: [&mut Query; Q], rows: [&[f32]; Q], results: &mut [f32]) {
        let dim = self.keys.len();
        let scores = self.scores(rows);
        let mut weights = [[0.0_f32; PAGE_TOKENS]; Q];
        for (n, query) in tile.into_iter().enumerate() {
            let from = query.sees.start.saturating_sub(self.begins);
            let to = (query.sees.end - self.begins).min(PAGE_TOKENS);
            let mask = (u16::MAX << from) & (u16::MAX >> (PAGE_TOKENS - to));
            let least = _mm512_set1_ps(f32::NEG_INFINITY);
            let scores = _mm512_mask_mov_ps(least, mask, scores[n]);
            let most = query.most.max(largest(scores));
            let weight = exp(_mm512_sub_ps(scores, _mm512_set1_ps(most)));
            let weight = _mm512_maskz_mov_ps(mask, weight);
            // SAFETY: the array has sixteen floats.
            unsafe { _mm512_storeu_ps(weights[n].as_mut_ptr(), weight) };
            let rescale = if query.most == f32::NEG_INFINITY {
                0.0
            } else if query.most == most {
                1.0
            } else {
                crate::rows::exp(query.most - most)
            };
            query.most = most;
            query.sum = query.sum * rescale + across(weight);
            if rescale != 1.0 {
                let rescale = _mm512_set1_ps(rescale);
                for part in results[n * dim..(n + 1) * dim].as_chunks_mut::<16>().0 {
                    // SAFETY: the array has sixteen floats.
                    unsafe {
                        let x = _mm512_loadu_ps(part.as_ptr());
                        _mm512_storeu_ps(part.as_mut_ptr(), _mm512_mul_ps(x, rescale));
                    }
                }
            }
        }
        let wide = dim / 64 * 64;
        for column in (0..wide).step_by(64) {
            self.add::<Q, 4>(&weights, results, column);
        }
        for column in (wide..dim).step_by(16) {
            self.add::<Q, 1>(&weights, results, column);
        }
    }

    /// The products of each query with each key: four sums, of each fourth element.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn scores<const Q: usize>(&self, rows: [&[f32]; Q]) -> [__m512; Q] {
        let mut sums = [[_mm512_setzero_ps(); 4]; Q];
        let fours = self.keys.as_chunks::<4>().0;
        let mut parts = [&[][..]; Q];
        for (part, row) in parts.iter_mut().zip(rows) {
            *part = &row.as_chunks::<4>().0[..fours.len()];
        }
        for (n, keys) in fours.iter().enumerate() {
            for (i, key) in keys.iter().enumerate() {
                // SAFETY: the array has sixteen floats.
                let key = unsafe { _mm512_loadu_ps(key.as_ptr()) };
                for (sums, part) in sums.iter_mut().zip(parts) {
                    let four: &[f32; 4] = &part[n];
                    sums[i] = _mm512_fmadd_ps(_mm512_set1_ps(four[i]), key, sums[i]);
                }
            }
        }
        let mut scores = [_mm512_setzero_ps(); Q];
        for (score, [a, b, c, d]) in scores.iter_mut().zip(sums) {
            let sum = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
            *score = _mm512_mul_ps(sum, _mm512_set1_ps(self.scale));
        }
        scores
    }

    /// Adds the weighted values to the results, in `16 * C` columns.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn add<const Q: usize, const C: usize>(
        &self,
        weights: &[[f32; PAGE_TOKENS]; Q],
        results: &mut [f32],
        column: usize,
    ) {
        let dim = self.keys.len();
        let mut sums = [[_mm512_setzero_ps(); C]; Q];
        for (n, sums) in sums.iter_mut().enumerate() {
            let part = &results[n * dim + column..][..16 * C];
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the slice has as many registers.
                *sum = unsafe { _mm512_loadu_ps(part.as_ptr().add(16 * i)) };
            }
        }
        for slot in 0..PAGE_TOKENS {
            let part = &self.values[slot * dim + column..][..16 * C];
            let mut values = [_mm512_setzero_ps(); C];
            for (i, value) in values.iter_mut().enumerate() {
                // SAFETY: the slice has as many registers.
                *value = unsafe { _mm512_loadu_ps(part.as_ptr().add(16 * i)) };
            }
            for (sums, weights) in sums.iter_mut().zip(weights) {
                let weight = _mm512_set1_ps(weights[slot]);
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = _mm512_fmadd_ps(weight, value, *sum);
                }
            }
        }
        for (n, sums) in sums.iter().enumerate() {
            let part = &mut results[n * dim + column..][..16 * C];
            for (i, sum) in sums.iter().enumerate() {
                // SAFETY: the slice has as many registers.
                unsafe { _mm512_storeu_ps(part.as_mut_ptr().add(16 * i), *sum) };
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn largest(x: __m512) -> f32 {
    let eight = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
    let four = _mm_max_ps(
        _mm256_castps256_ps128(eight),
        _mm256_extractf128_ps::<1>(eight),
    );
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

/// As [`crate::rows::exp`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn exp(x: __m512) -> __m512 {
    let constant = |x: f32| _mm512_set1_ps(x);
    let x = _mm512_min_ps(_mm512_max_ps(x, constant(-87.3)), constant(88.3));
    let n = _mm512_roundscale_ps::<0>(_mm512_mul_ps(x, constant(std::f32::consts::LOG2_E)));
    let r = _mm512_fnmadd_ps(n, constant(0.693_359_4), x);
    let r = _mm512_fnmadd_ps(n, constant(-2.121_944_4e-4), r);
    let mut p = constant(1.0 / 5040.0);
    p = _mm512_fmadd_ps(p, r, constant(1.0 / 720.0));
    p = _mm512_fmadd_ps(p, r, constant(1.0 / 120.0));
    p = _mm512_fmadd_ps(p, r, constant(1.0 / 24.0));
    p = _mm512_fmadd_ps(p, r, constant(1.0 / 6.0));
    p = _mm512_fmadd_ps(p, r, constant(0.5));
    p = _mm512_fmadd_ps(p, r, constant(1.0));
    p = _mm512_fmadd_ps(p, r, constant(1.0));
    _mm512_scalef_ps(p, n)
}
