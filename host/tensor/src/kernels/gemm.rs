//! Matrix products with weights packed beforehand: `out[m, n] = a[m, k] · w[n, k]ᵀ + bias`.
//!
//! The weights lie in panels of `2 * LANES` columns, each panel a sequence of steps, so that the
//! innermost loop reads them in order. A tile of `ROWS × 2` vectors stays in registers for the
//! whole of `k`: one accumulator per element, steps in ascending order, so that a row's result
//! depends neither on its neighbours nor on its place in the tile.
//!
//! Two kinds of number: `f32`, and `i16` with one scale per row and per column whose products are
//! summed exactly in `i32` (see [`crate::operators::Precision`] for why that cannot overflow).

use super::Isa;
use super::isa::dispatch;
use super::simd::Simd;

/// Columns of a packed panel for an instruction set.
pub(crate) fn panel_width(isa: Isa) -> usize {
    unsafe fn width<V: Simd>(out: *mut usize) {
        // SAFETY: called below with a valid pointer.
        unsafe { *out = 2 * V::LANES }
    }
    let mut n = 0;
    let out: *mut usize = &mut n;
    dispatch!(isa, width(out: *mut usize));
    n
}

/// A product to compute. Pointers rather than slices, because the two kinds of number share it.
pub(crate) struct Product<E> {
    /// `[m, lda]` row-major; the first `steps * STEP` elements of each row take part.
    pub a: *const E,
    pub lda: usize,
    pub m: usize,
    /// Steps along `k`: `k` for `f32`, `k / 2` for `i16`.
    pub steps: usize,
    /// `n.div_ceil(panel)` panels of `steps * STEP * panel` elements.
    pub w: *const E,
    pub n: usize,
    /// One per column, padded to whole panels.
    pub bias: *const f32,
    /// `i16` only: one per row, and one per column padded to whole panels.
    pub row_scale: *const f32,
    pub col_scale: *const f32,
    /// `[m, n]` row-major.
    pub out: *mut f32,
}

/// Computes a product of `f32`.
///
/// # Safety
/// The pointers of `p` are valid for the extents documented there, and `out` overlaps nothing.
pub(crate) unsafe fn product_f32(isa: Isa, p: &Product<f32>) {
    #[inline(always)]
    unsafe fn run<V: Simd>(p: &Product<f32>) {
        // SAFETY: as promised by the caller.
        unsafe { product::<V, Float>(p) }
    }
    dispatch!(isa, run(p: &Product<f32>));
}

/// Computes a product of `i16`.
///
/// # Safety
/// As for [`product_f32`]; rows of `a` and panels of `w` hold an even number of elements per
/// column.
pub(crate) unsafe fn product_i16(isa: Isa, p: &Product<i16>) {
    #[inline(always)]
    unsafe fn run<V: Simd>(p: &Product<i16>) {
        // SAFETY: as promised by the caller.
        unsafe { product::<V, Fixed>(p) }
    }
    dispatch!(isa, run(p: &Product<i16>));
}

/// A kind of number that the tile multiplies.
trait Kind<V: Simd> {
    type E: Copy;
    type Acc: Copy;
    /// Elements of `k` per step.
    const STEP: usize;
    const SCALED: bool;
    unsafe fn zero() -> Self::Acc;
    unsafe fn load(p: *const Self::E) -> Self::Acc;
    /// Adds to two vectors the product of step `S` past `a` with two vectors of weights.
    unsafe fn step<const S: usize>(
        acc: [Self::Acc; 2],
        a: *const Self::E,
        b: [Self::Acc; 2],
    ) -> [Self::Acc; 2];
    unsafe fn to_f32(acc: Self::Acc) -> V::F;
}

struct Float;
struct Fixed;

// SAFETY (both blocks): plain forwarding under the trait's own contract.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one comment above covers these one-line wrappers"
)]
impl<V: Simd> Kind<V> for Float {
    type E = f32;
    type Acc = V::F;
    const STEP: usize = 1;
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn zero() -> V::F {
        unsafe { V::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> V::F {
        unsafe { V::load(p) }
    }
    #[inline(always)]
    unsafe fn step<const S: usize>(acc: [V::F; 2], a: *const f32, b: [V::F; 2]) -> [V::F; 2] {
        unsafe {
            let x = V::splat(a.wrapping_add(S).read_unaligned());
            [V::fma(x, b[0], acc[0]), V::fma(x, b[1], acc[1])]
        }
    }
    #[inline(always)]
    unsafe fn to_f32(acc: V::F) -> V::F {
        acc
    }
}

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the comment above covers these one-line wrappers"
)]
impl<V: Simd> Kind<V> for Fixed {
    type E = i16;
    type Acc = V::I;
    const STEP: usize = 2;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn zero() -> V::I {
        unsafe { V::zero_i() }
    }
    #[inline(always)]
    unsafe fn load(p: *const i16) -> V::I {
        unsafe { V::load_i16(p) }
    }
    #[inline(always)]
    unsafe fn step<const S: usize>(acc: [V::I; 2], a: *const i16, b: [V::I; 2]) -> [V::I; 2] {
        unsafe { V::dot_row::<S>(acc, a, b) }
    }
    #[inline(always)]
    unsafe fn to_f32(acc: V::I) -> V::F {
        unsafe { V::to_f32(acc) }
    }
}

/// Bytes of `a` that are gone through per pass over the weights: half of a small L2 cache.
const BLOCK_BYTES: usize = 256 << 10;

#[inline(always)]
unsafe fn product<V: Simd, K: Kind<V>>(p: &Product<K::E>) {
    let panel = 2 * V::LANES;
    let row_bytes = p.steps * K::STEP * size_of::<K::E>();
    let block = (BLOCK_BYTES / row_bytes.max(1)).max(V::ROWS) / V::ROWS * V::ROWS;
    let mut first = 0;
    while first < p.m {
        let last = (first + block).min(p.m);
        let mut column = 0;
        while column < p.n {
            let mut row = first;
            while row < last {
                let rows = (last - row).min(V::ROWS);
                // SAFETY: `row + rows <= m`, `column < n`; the extents are the caller's promise.
                unsafe { tile_of::<V, K>(p, row, rows, column) };
                row += rows;
            }
            column += panel;
        }
        first = last;
    }
}

/// One tile of `rows` rows (at most `V::ROWS`, at most 12) at `(row, column)`.
#[inline(always)]
unsafe fn tile_of<V: Simd, K: Kind<V>>(p: &Product<K::E>, row: usize, rows: usize, column: usize) {
    // SAFETY: as promised by the caller; a tile of the full height is the usual case.
    unsafe {
        if V::ROWS == 12 {
            match rows {
                12 => return tile::<V, K, 12>(p, row, column),
                11 => return tile::<V, K, 11>(p, row, column),
                10 => return tile::<V, K, 10>(p, row, column),
                9 => return tile::<V, K, 9>(p, row, column),
                8 => return tile::<V, K, 8>(p, row, column),
                7 => return tile::<V, K, 7>(p, row, column),
                _ => {}
            }
        }
        if V::ROWS >= 6 {
            match rows {
                6 => return tile::<V, K, 6>(p, row, column),
                5 => return tile::<V, K, 5>(p, row, column),
                _ => {}
            }
        }
        match rows {
            4 => tile::<V, K, 4>(p, row, column),
            3 => tile::<V, K, 3>(p, row, column),
            2 => tile::<V, K, 2>(p, row, column),
            _ => tile::<V, K, 1>(p, row, column),
        }
    }
}

#[inline(always)]
unsafe fn tile<V: Simd, K: Kind<V>, const MR: usize>(p: &Product<K::E>, row: usize, column: usize) {
    let width = V::LANES * K::STEP;
    // SAFETY: rows `row..row + MR` and the panel at `column` lie inside the caller's extents.
    // `wrapping_add` stands for `add` because the latter is checked in debug builds.
    unsafe {
        let mut acc = [[K::zero(); 2]; MR];
        let mut b = p.w.wrapping_add(column * p.steps * K::STEP);
        let mut a: [*const K::E; MR] = std::array::from_fn(|r| p.a.wrapping_add((row + r) * p.lda));
        for _ in 0..p.steps / 4 {
            step::<V, K, MR, 0>(&mut acc, &a, b);
            step::<V, K, MR, 1>(&mut acc, &a, b);
            step::<V, K, MR, 2>(&mut acc, &a, b);
            step::<V, K, MR, 3>(&mut acc, &a, b);
            for x in &mut a {
                *x = x.wrapping_add(4 * K::STEP);
            }
            b = b.wrapping_add(4 * 2 * width);
        }
        for _ in 0..p.steps % 4 {
            step::<V, K, MR, 0>(&mut acc, &a, b);
            for x in &mut a {
                *x = x.wrapping_add(K::STEP);
            }
            b = b.wrapping_add(2 * width);
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, &acc) in acc.iter().enumerate() {
                let c = column + v * V::LANES;
                if c < p.n {
                    finish::<V, K>(p, acc, row + r, c);
                }
            }
        }
    }
}

/// Step `S` past the given pointers.
#[inline(always)]
unsafe fn step<V: Simd, K: Kind<V>, const MR: usize, const S: usize>(
    acc: &mut [[K::Acc; 2]; MR],
    a: &[*const K::E; MR],
    b: *const K::E,
) {
    let width = const { V::LANES * K::STEP };
    let offset = const { S * 2 * V::LANES * K::STEP };
    // SAFETY: step `S` lies inside the rows and the panel, as the caller counted.
    unsafe {
        let b0 = K::load(b.wrapping_add(offset));
        let b1 = K::load(b.wrapping_add(offset.wrapping_add(width)));
        for r in 0..MR {
            acc[r] = K::step::<S>(acc[r], a[r], [b0, b1]);
        }
    }
}

/// Scale, bias and store of one vector.
#[inline(always)]
unsafe fn finish<V: Simd, K: Kind<V>>(p: &Product<K::E>, acc: K::Acc, row: usize, c: usize) {
    // SAFETY: bias and column scales are padded to whole panels; a vector that would pass the
    // end of the row goes through a buffer.
    unsafe {
        let bias = V::load(p.bias.wrapping_add(c));
        let acc = K::to_f32(acc);
        let x = if K::SCALED {
            let scale = V::mul(
                V::splat(p.row_scale.wrapping_add(row).read_unaligned()),
                V::load(p.col_scale.wrapping_add(c)),
            );
            V::fma(acc, scale, bias)
        } else {
            V::add(acc, bias)
        };
        let to = p.out.wrapping_add(row * p.n + c);
        if c + V::LANES <= p.n {
            V::store(to, x);
        } else {
            let mut whole = [0.0_f32; 16];
            V::store(whole.as_mut_ptr(), x);
            std::ptr::copy_nonoverlapping(whole.as_ptr(), to, p.n - c);
        }
    }
}
