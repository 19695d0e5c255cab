//! Eight lanes: AVX2 with FMA.

use super::Simd;
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

// SAFETY (whole block): the trait's contract gives the features and valid pointers; all loads
// and stores are the unaligned forms.
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one comment above covers these one-line wrappers"
)]
impl Simd for Avx2 {
    type F = __m256;
    type I = __m256i;
    const LANES: usize = 8;
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        unsafe { p.cast::<__m256>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: __m256) {
        unsafe { p.cast::<__m256>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m256) -> __m256 {
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    unsafe fn round(a: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn exp2_int(a: __m256) -> __m256 {
        unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    unsafe fn hsum(a: __m256) -> f32 {
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    unsafe fn hmax(a: __m256) -> f32 {
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    unsafe fn store_i16(p: *mut i16, x: __m256) {
        unsafe {
            let wide = _mm256_cvtps_epi32(x);
            let narrow = _mm_packs_epi32(
                _mm256_castsi256_si128(wide),
                _mm256_extracti128_si256::<1>(wide),
            );
            p.cast::<__m128i>().write_unaligned(narrow);
        }
    }
    #[inline(always)]
    unsafe fn zero_i() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn load_i16(p: *const i16) -> __m256i {
        unsafe { p.cast::<__m256i>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn dot_row<const S: usize>(
        acc: [__m256i; 2],
        a: *const i16,
        b: [__m256i; 2],
    ) -> [__m256i; 2] {
        unsafe { multiply_add_pairs::<S>(acc, a, b) }
    }
    #[inline(always)]
    unsafe fn to_f32(a: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(a) }
    }
}

/// [`Simd::dot_row`] in assembly, because the compiler, free to reorder integer sums, builds trees
/// of them that need more registers than there are, and spills the accumulators of a tile. Two
/// temporaries, twelve accumulators and two vectors of weights are all sixteen registers.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn multiply_add_pairs<const S: usize>(
    acc: [__m256i; 2],
    a: *const i16,
    b: [__m256i; 2],
) -> [__m256i; 2] {
    let [mut acc0, mut acc1] = acc;
    // SAFETY: reads the two `i16` at `a + 2 * S`, which the caller vouches for; the rest works
    // on registers.
    unsafe {
        std::arch::asm!(
            "vpbroadcastd {x}, [{a} + {offset}]",
            "vpmaddwd {t}, {x}, {b0}",
            "vpmaddwd {x}, {x}, {b1}",
            "vpaddd {acc0}, {acc0}, {t}",
            "vpaddd {acc1}, {acc1}, {x}",
            x = out(ymm_reg) _,
            t = out(ymm_reg) _,
            a = in(reg) a,
            offset = const S * 4,
            b0 = in(ymm_reg) b[0],
            b1 = in(ymm_reg) b[1],
            acc0 = inout(ymm_reg) acc0,
            acc1 = inout(ymm_reg) acc1,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    [acc0, acc1]
}
