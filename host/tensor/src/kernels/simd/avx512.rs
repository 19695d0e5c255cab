//! Sixteen lanes: AVX-512 (F, BW, DQ, VL), with and without VNNI's 16-bit dot product.

use super::Simd;
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

#[derive(Clone, Copy)]
pub(crate) struct Avx512Vnni;

macro_rules! sixteen_lanes {
    ($name:ident, |$acc:ident, $a:ident, $b:ident| $dot:expr) => {
        // SAFETY (whole block): the trait's contract gives the features and valid pointers; all
        // loads and stores are the unaligned forms.
        #[expect(
            clippy::undocumented_unsafe_blocks,
            reason = "one comment above covers these one-line wrappers"
        )]
        impl Simd for $name {
            type F = __m512;
            type I = __m512i;
            const LANES: usize = 16;
            const ROWS: usize = 12;

            #[inline(always)]
            unsafe fn splat(x: f32) -> __m512 {
                unsafe { _mm512_set1_ps(x) }
            }
            #[inline(always)]
            unsafe fn load(p: *const f32) -> __m512 {
                unsafe { p.cast::<__m512>().read_unaligned() }
            }
            #[inline(always)]
            unsafe fn store(p: *mut f32, x: __m512) {
                unsafe { p.cast::<__m512>().write_unaligned(x) }
            }
            #[inline(always)]
            unsafe fn add(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_add_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn sub(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_sub_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn mul(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_mul_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn div(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_div_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }
            #[inline(always)]
            unsafe fn max(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_max_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn min(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_min_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn abs(a: __m512) -> __m512 {
                unsafe { _mm512_abs_ps(a) }
            }
            #[inline(always)]
            unsafe fn round(a: __m512) -> __m512 {
                unsafe {
                    _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
                }
            }
            #[inline(always)]
            unsafe fn exp2_int(a: __m512) -> __m512 {
                unsafe {
                    let biased = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
                }
            }
            #[inline(always)]
            unsafe fn hsum(a: __m512) -> f32 {
                unsafe { _mm512_reduce_add_ps(a) }
            }
            #[inline(always)]
            unsafe fn hmax(a: __m512) -> f32 {
                unsafe { _mm512_reduce_max_ps(a) }
            }
            #[inline(always)]
            unsafe fn store_i16(p: *mut i16, x: __m512) {
                unsafe {
                    let narrow = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x));
                    p.cast::<__m256i>().write_unaligned(narrow);
                }
            }
            #[inline(always)]
            unsafe fn zero_i() -> __m512i {
                unsafe { _mm512_setzero_si512() }
            }
            #[inline(always)]
            unsafe fn load_i16(p: *const i16) -> __m512i {
                unsafe { p.cast::<__m512i>().read_unaligned() }
            }
            #[inline(always)]
            unsafe fn dot_row<const S: usize>(
                acc: [__m512i; 2],
                a: *const i16,
                b: [__m512i; 2],
            ) -> [__m512i; 2] {
                unsafe {
                    let pair = a.wrapping_add(2 * S).cast::<i32>().read_unaligned();
                    let $a = _mm512_set1_epi32(pair);
                    let mut sums = acc;
                    for i in 0..2 {
                        let ($acc, $b) = (sums[i], b[i]);
                        sums[i] = $dot;
                    }
                    sums
                }
            }
            #[inline(always)]
            unsafe fn to_f32(a: __m512i) -> __m512 {
                unsafe { _mm512_cvtepi32_ps(a) }
            }
        }
    };
}

sixteen_lanes!(Avx512, |acc, a, b| _mm512_add_epi32(
    acc,
    _mm512_madd_epi16(a, b)
));
sixteen_lanes!(Avx512Vnni, |acc, a, b| _mm512_dpwssd_epi32(acc, a, b));
