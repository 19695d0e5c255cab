//! Rounding activations with AVX-512: the same results as in plain Rust, to the bit.

use std::arch::x86_64::*;

use super::{Part, SUM};

impl Part<'_> {
    /// As `Part::quantize`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn quantize_avx512(&mut self, block: usize) {
        let blocks = self
            .values
            .chunks_exact(block)
            .zip(self.quants.chunks_exact_mut(block))
            .zip(self.sums.chunks_exact_mut(block / SUM))
            .zip(&mut *self.scales);
        for (((values, quants), sums), scale) in blocks {
            let (values, quants) = (values.as_chunks::<SUM>().0, quants.as_chunks_mut::<SUM>().0);
            let largest = largest(values);
            *scale = largest / 127.0;
            let inverse = if *scale >= f32::MIN_POSITIVE {
                127.0 / largest
            } else {
                *scale = 0.0;
                0.0
            };
            let inverse = _mm512_set1_ps(inverse);
            for ((values, quants), sum) in values.iter().zip(quants).zip(sums) {
                // SAFETY: the arrays have sixteen floats and sixteen bytes.
                unsafe {
                    let x = _mm512_mul_ps(_mm512_loadu_ps(values.as_ptr()), inverse);
                    let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(x, x);
                    let x = _mm512_min_ps(x, _mm512_set1_ps(127.0));
                    let x = _mm512_max_ps(x, _mm512_set1_ps(-127.0));
                    // To the nearest, and of two to the even one.
                    let rounded = _mm512_maskz_cvtps_epi32(number, x);
                    let bytes = _mm512_cvtepi32_epi8(rounded);
                    _mm_storeu_si128(quants.as_mut_ptr().cast(), bytes);
                    *sum = sum_of(bytes);
                }
            }
        }
    }
}

/// The largest finite magnitude, or 0.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn largest(values: &[[f32; SUM]]) -> f32 {
    let mut largest = _mm512_setzero_ps();
    for values in values {
        // SAFETY: the array has sixteen floats.
        let size = _mm512_abs_ps(unsafe { _mm512_loadu_ps(values.as_ptr()) });
        let finite = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(size, _mm512_set1_ps(f32::MAX));
        largest = _mm512_mask_max_ps(largest, finite, largest, size);
    }
    let eight = _mm256_max_ps(
        _mm512_castps512_ps256(largest),
        _mm512_extractf32x8_ps::<1>(largest),
    );
    let four = _mm_max_ps(
        _mm256_castps256_ps128(eight),
        _mm256_extractf128_ps::<1>(eight),
    );
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

/// The sum of sixteen bytes from -127 to 127.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn sum_of(bytes: __m128i) -> i16 {
    // Unsigned bytes can be summed eight at a time, 128 more than they are.
    let shifted = _mm_xor_si128(bytes, _mm_set1_epi8(-128));
    let sums = _mm_sad_epu8(shifted, _mm_setzero_si128());
    let sum = _mm_add_epi64(sums, _mm_unpackhi_epi64(sums, sums));
    (_mm_cvtsi128_si32(sum) - 128 * SUM as i32) as i16
}
