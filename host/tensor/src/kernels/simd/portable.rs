//! Lanes in a plain array, for machines without a kernel of their own. The compiler turns the
//! loops into whatever vector instructions the target has.

use super::Simd;
use std::array::from_fn;

/// `N` lanes, a power of two, and `R` rows of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Arrays<const N: usize, const R: usize>;

/// What suits most machines: two vectors of four lanes for each of these.
pub(crate) type Portable = Arrays<8, 4>;

/// The shape of the AVX-512 kernels, so that tests on any machine go through it.
#[cfg(test)]
pub(crate) type Wide = Arrays<16, 12>;

// SAFETY (whole block): only the pointer accesses need care, and the trait's contract gives
// valid pointers; arrays of f32 and i16 are read and written unaligned.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one comment above covers these one-line wrappers"
)]
impl<const N: usize, const R: usize> Simd for Arrays<N, R> {
    type F = [f32; N];
    type I = [i32; N];
    const LANES: usize = N;
    const ROWS: usize = R;

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; N] {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; N] {
        unsafe { p.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: [f32; N]) {
        unsafe { p.cast::<[f32; N]>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; N], b: [f32; N]) -> [f32; N] {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; N], b: [f32; N]) -> [f32; N] {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; N], b: [f32; N]) -> [f32; N] {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: [f32; N], b: [f32; N]) -> [f32; N] {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        // `mul_add` is a library call where the target has no fused instruction.
        if cfg!(target_arch = "aarch64") {
            from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            from_fn(|i| a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    unsafe fn max(a: [f32; N], b: [f32; N]) -> [f32; N] {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; N], b: [f32; N]) -> [f32; N] {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn abs(a: [f32; N]) -> [f32; N] {
        from_fn(|i| a[i].abs())
    }
    #[inline(always)]
    unsafe fn round(a: [f32; N]) -> [f32; N] {
        // Adding and taking away 1.5 * 2^23 rounds to nearest even for |a| < 2^22, which is all
        // that the kernels ask for; it needs no library call.
        const MAGIC: f32 = 12_582_912.0;
        from_fn(|i| (a[i] + MAGIC) - MAGIC)
    }
    #[inline(always)]
    unsafe fn exp2_int(a: [f32; N]) -> [f32; N] {
        from_fn(|i| f32::from_bits(((a[i] as i32).wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn hsum(a: [f32; N]) -> f32 {
        let mut a = a;
        let mut half = N / 2;
        while half > 0 {
            for i in 0..half {
                a[i] += a[i + half];
            }
            half /= 2;
        }
        a[0]
    }
    #[inline(always)]
    unsafe fn hmax(a: [f32; N]) -> f32 {
        a.iter()
            .fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
    }
    #[inline(always)]
    unsafe fn store_i16(p: *mut i16, x: [f32; N]) {
        unsafe {
            let rounded = Self::round(x);
            let narrow: [i16; N] = from_fn(|i| rounded[i] as i16);
            p.cast::<[i16; N]>().write_unaligned(narrow);
        }
    }
    #[inline(always)]
    unsafe fn zero_i() -> [i32; N] {
        [0; N]
    }
    #[inline(always)]
    unsafe fn load_i16(p: *const i16) -> [i32; N] {
        unsafe { p.cast::<[i32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn dot_row<const S: usize>(
        acc: [[i32; N]; 2],
        a: *const i16,
        b: [[i32; N]; 2],
    ) -> [[i32; N]; 2] {
        // Each i32 holds two i16; which of them is first in memory does not matter to a sum.
        let pair = unsafe { a.wrapping_add(2 * S).cast::<i32>().read_unaligned() };
        let (first, second) = (pair as i16 as i32, pair >> 16);
        from_fn(|v| {
            from_fn(|i| {
                let x = first.wrapping_mul(b[v][i] as i16 as i32);
                let y = second.wrapping_mul(b[v][i] >> 16);
                acc[v][i].wrapping_add(x).wrapping_add(y)
            })
        })
    }
    #[inline(always)]
    unsafe fn to_f32(a: [i32; N]) -> [f32; N] {
        from_fn(|i| a[i] as f32)
    }
}
