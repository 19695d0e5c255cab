//! Self-attention over sequences of different lengths that lie one after the other, unpadded.
//!
//! Each sequence and head on its own: the keys are transposed once, so that scores of one query
//! against a vector of keys need no sum across lanes; scores of a block of queries fill a small
//! buffer, softmax runs over it, and the values are accumulated with the head's elements across
//! the lanes. Nothing is larger than one sequence.

use super::Isa;
use super::isa::dispatch;
use super::rows::exp;
use super::simd::Simd;

/// Queries that are handled together.
const BLOCK: usize = 4;

/// The longest vector of any instruction set; buffers are padded to it.
const PAD: usize = 16;

/// Arguments of [`attend`].
pub(crate) struct Attention {
    /// `[tokens, 3 * heads * dim]`: queries, keys and values of each token.
    pub qkv: *const f32,
    /// `[tokens, heads * dim]`.
    pub out: *mut f32,
    /// `sequences + 1` offsets in tokens.
    pub offsets: *const usize,
    pub sequences: usize,
    pub heads: usize,
    pub dim: usize,
    /// What the scores are multiplied with, usually `1 / sqrt(dim)`.
    pub scale: f32,
    /// [`scratch_len`] elements.
    pub scratch: *mut f32,
}

/// Floats of scratch that sequences of at most `longest` tokens need.
pub(crate) fn scratch_len(longest: usize, dim: usize) -> usize {
    let keys = longest.next_multiple_of(2 * PAD);
    // Transposed keys and a block of scores.
    keys * dim + BLOCK * keys
}

/// Softmax attention of each sequence over itself.
///
/// # Safety
/// The pointers of `p` hold what is documented there; offsets ascend and end at `tokens`.
pub(crate) unsafe fn attend(isa: Isa, p: &Attention) {
    #[inline(always)]
    unsafe fn run<V: Simd>(p: &Attention) {
        for s in 0..p.sequences {
            // SAFETY: `s + 1 <= sequences`.
            let (start, end) = unsafe {
                (
                    p.offsets.wrapping_add(s).read_unaligned(),
                    p.offsets.wrapping_add(s + 1).read_unaligned(),
                )
            };
            for head in 0..p.heads {
                // SAFETY: tokens `start..end` exist.
                unsafe { attend_one::<V>(p, start, end - start, head) };
            }
        }
    }
    dispatch!(isa, run(p: &Attention));
}

#[inline(always)]
unsafe fn attend_one<V: Simd>(p: &Attention, start: usize, len: usize, head: usize) {
    let hidden = p.heads * p.dim;
    let row = 3 * hidden;
    let q = p.qkv.wrapping_add(start * row + head * p.dim);
    let k = q.wrapping_add(hidden);
    let v = q.wrapping_add(2 * hidden);
    let out = p.out.wrapping_add(start * hidden + head * p.dim);
    let keys = len.next_multiple_of(2 * V::LANES);
    let transposed = p.scratch;
    let scores = transposed.wrapping_add(keys * p.dim);
    // SAFETY: `scratch` has room for keys * dim + BLOCK * keys; the rest stays inside tokens
    // `start..start + len` of the inputs.
    unsafe {
        for j in 0..len {
            let from = k.wrapping_add(j * row);
            for d in 0..p.dim {
                *transposed.wrapping_add(d * keys + j) = from.wrapping_add(d).read_unaligned();
            }
        }
        for d in 0..p.dim {
            for j in len..keys {
                *transposed.wrapping_add(d * keys + j) = 0.0;
            }
        }
        let mut i = 0;
        while i < len {
            let n = (len - i).min(BLOCK);
            let q = q.wrapping_add(i * row);
            let out = out.wrapping_add(i * hidden);
            match n {
                4 => block::<V, 4>(p, q, transposed, keys, len, scores, v, out),
                3 => block::<V, 3>(p, q, transposed, keys, len, scores, v, out),
                2 => block::<V, 2>(p, q, transposed, keys, len, scores, v, out),
                _ => block::<V, 1>(p, q, transposed, keys, len, scores, v, out),
            }
            i += n;
        }
    }
}

/// `N` queries of one head against all keys and values of their sequence.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the inside of one kernel")]
unsafe fn block<V: Simd, const N: usize>(
    p: &Attention,
    q: *const f32,
    transposed: *const f32,
    keys: usize,
    len: usize,
    scores: *mut f32,
    v: *const f32,
    out: *mut f32,
) {
    let hidden = p.heads * p.dim;
    let row = 3 * hidden;
    // SAFETY: `q` and `out` have `N` rows, `v` `len`; `transposed` is [dim, keys] and `scores`
    // [BLOCK, keys] with `keys` a multiple of two vectors.
    unsafe {
        let mut j = 0;
        while j < keys {
            let mut acc = [[V::splat(0.0); 2]; N];
            for d in 0..p.dim {
                let k0 = V::load(transposed.wrapping_add(d * keys + j));
                let k1 = V::load(transposed.wrapping_add(d * keys + j + V::LANES));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = V::splat(q.wrapping_add(i * row + d).read_unaligned());
                    acc[0] = V::fma(x, k0, acc[0]);
                    acc[1] = V::fma(x, k1, acc[1]);
                }
            }
            let scale = V::splat(p.scale);
            for (i, acc) in acc.iter().enumerate() {
                let to = scores.wrapping_add(i * keys + j);
                V::store(to, V::mul(acc[0], scale));
                V::store(to.wrapping_add(V::LANES), V::mul(acc[1], scale));
            }
            j += 2 * V::LANES;
        }
        let mut inverse = [0.0_f32; N];
        for (i, inverse) in inverse.iter_mut().enumerate() {
            *inverse = 1.0 / softmax_unscaled::<V>(scores.wrapping_add(i * keys), keys, len);
        }
        let mut d = 0;
        while d + V::LANES <= p.dim {
            let wide = d + 2 * V::LANES <= p.dim;
            let mut acc = [[V::splat(0.0); 2]; N];
            for j in 0..len {
                let from = v.wrapping_add(j * row + d);
                let v0 = V::load(from);
                let v1 = if wide {
                    V::load(from.wrapping_add(V::LANES))
                } else {
                    v0
                };
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = V::splat(scores.wrapping_add(i * keys + j).read_unaligned());
                    acc[0] = V::fma(x, v0, acc[0]);
                    acc[1] = V::fma(x, v1, acc[1]);
                }
            }
            for (i, (acc, inverse)) in acc.iter().zip(inverse).enumerate() {
                let by = V::splat(inverse);
                let to = out.wrapping_add(i * hidden + d);
                V::store(to, V::mul(acc[0], by));
                if wide {
                    V::store(to.wrapping_add(V::LANES), V::mul(acc[1], by));
                }
            }
            d += if wide { 2 * V::LANES } else { V::LANES };
        }
        // Head sizes that are no multiple of the vector.
        while d < p.dim {
            for (i, inverse) in inverse.iter().enumerate() {
                let mut sum = 0.0_f32;
                for j in 0..len {
                    sum += scores.wrapping_add(i * keys + j).read_unaligned()
                        * v.wrapping_add(j * row + d).read_unaligned();
                }
                *out.wrapping_add(i * hidden + d) = sum * inverse;
            }
            d += 1;
        }
    }
}

/// Replaces `len` scores by `e^(score - greatest)` and returns their sum. What follows them up to
/// `keys` is overwritten.
///
/// A NaN may vanish here; it does not vanish from the residual of the token it came from.
#[inline(always)]
unsafe fn softmax_unscaled<V: Simd>(scores: *mut f32, keys: usize, len: usize) -> f32 {
    // SAFETY: `scores` holds `keys` elements, a multiple of the vector, and `len <= keys`.
    unsafe {
        // The padding can neither win the maximum nor count in the sum, which is at least 1
        // where e^-inf comes out as 1e-38.
        for j in len..keys {
            *scores.wrapping_add(j) = f32::NEG_INFINITY;
        }
        let mut greatest = V::splat(f32::NEG_INFINITY);
        let mut j = 0;
        while j < keys {
            greatest = V::max(V::load(scores.wrapping_add(j)), greatest);
            j += V::LANES;
        }
        let by = V::splat(V::hmax(greatest));
        let mut sum = V::splat(0.0);
        let mut j = 0;
        while j < keys {
            let at = scores.wrapping_add(j);
            let e = exp::<V>(V::sub(V::load(at), by));
            V::store(at, e);
            sum = V::add(sum, e);
            j += V::LANES;
        }
        V::hsum(sum)
    }
}
