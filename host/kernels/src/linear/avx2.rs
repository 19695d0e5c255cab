//! Products with AVX2.
//!
//! Integers are multiplied as `unsigned × signed` bytes: weights of up to 7 bits keep their
//! unsigned form and the part of the product that their offset or minimum makes is subtracted
//! through the sums of the activations; 8-bit weights lend their sign to the activations. Within
//! a block everything is exact in integers; blocks are added in f32, in order.

use std::arch::x86_64::*;

use skep_weights::PackedFormat;
use skep_weights::grouped::GroupRow;

use crate::activations::{Activations, SUM};

/// The products of one row with the tokens from `token` on, as many as `sums` has, at most 4.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn dot(format: PackedFormat, row: &[u8], input: &Activations, token: usize, sums: &mut [f32]) {
    match sums {
        [a, b, c, d] => [*a, *b, *c, *d] = dot_tile::<4>(format, row, input, token),
        [a, b, c] => [*a, *b, *c] = dot_tile::<3>(format, row, input, token),
        [a, b] => [*a, *b] = dot_tile::<2>(format, row, input, token),
        _ => {
            for (n, sum) in sums.iter_mut().enumerate() {
                [*sum] = dot_tile::<1>(format, row, input, token + n);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_tile<const T: usize>(
    format: PackedFormat,
    row: &[u8],
    input: &Activations,
    token: usize,
) -> [f32; T] {
    match format {
        PackedFormat::Q8_0 => by_32::<T, 34>(row, input, token),
        PackedFormat::Q4_0 => by_32::<T, 18>(row, input, token),
        PackedFormat::Q5_0 => by_32::<T, 22>(row, input, token),
        PackedFormat::Q4_1 => with_minimum::<T, 20>(row, input, token),
        PackedFormat::Q5_1 => with_minimum::<T, 24>(row, input, token),
        PackedFormat::Q4_K => q4_k::<T>(row, input, token),
        PackedFormat::Q5_K => q5_k::<T>(row, input, token),
        PackedFormat::Q6_K => q6_k::<T>(row, input, token),
        PackedFormat::F32 => floats::<T, 4, false>(row, input, token),
        PackedFormat::F16 => floats::<T, 2, false>(row, input, token),
        PackedFormat::BF16 => floats::<T, 2, true>(row, input, token),
        // The weights' crate may learn a format before this one does.
        other => std::array::from_fn(|n| super::portable::dot(other, row, input, token + n)),
    }
}

/// A scale, an IEEE half-precision number at the start of these bytes, in every lane. It is
/// broadcast before it is converted: put into one lane instead, it
/// would wait for whatever the register held before, which is the sum of the last block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves(bytes: &[u8]) -> __m256 {
    let bits = i16::from_le_bytes([bytes[0], bytes[1]]);
    _mm256_cvtph_ps(_mm_set1_epi16(bits))
}

/// The first 32 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(bytes: &[u8]) -> __m256i {
    let bytes = &bytes[..32];
    // SAFETY: the slice has 32 bytes.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The first 16 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_half(bytes: &[u8]) -> __m128i {
    let bytes = &bytes[..16];
    // SAFETY: the slice has 16 bytes.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// 32 quantized activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_quants(quants: &[i8; 32]) -> __m256i {
    // SAFETY: 32 bytes may be read.
    unsafe { _mm256_loadu_si256(quants.as_ptr().cast()) }
}

/// 16 sums of activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_sums(sums: &[i16; 16]) -> __m256i {
    // SAFETY: 32 bytes may be read.
    unsafe { _mm256_loadu_si256(sums.as_ptr().cast()) }
}

/// A token's rounded activations, block by block as the weights have them.
struct Token<'a, const BLOCK: usize> {
    quants: &'a [[i8; BLOCK]],
    scales: &'a [f32],
    /// Sums of 16, as many together as 256 activations have.
    sums: &'a [[i16; 16]],
}

impl<'a, const BLOCK: usize> Token<'a, BLOCK> {
    /// Of so many blocks; all of its slices have that length, but the sums of smaller blocks.
    #[inline]
    fn of(input: &'a Activations, token: usize, blocks: usize) -> Self {
        let start = token * input.columns;
        let row = start..start + blocks * BLOCK;
        let sums = &input.sums[row.start / SUM..row.end / SUM];
        Token {
            quants: &input.quants[row.clone()].as_chunks::<BLOCK>().0[..blocks],
            scales: &input.scales[row.start / BLOCK..row.end / BLOCK][..blocks],
            sums: sums.as_chunks::<16>().0,
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn total(sum: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// Formats of 32 elements with one scale, told apart by the bytes of a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn by_32<const T: usize, const BYTES: usize>(
    row: &[u8],
    input: &Activations,
    token: usize,
) -> [f32; T] {
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_ps(); T];
    let (blocks, _) = row.as_chunks::<BYTES>();
    let tokens: [Token<'_, 32>; T] =
        std::array::from_fn(|t| Token::of(input, token + t, blocks.len()));
    for (n, block) in blocks.iter().enumerate() {
        let scale = halves(block);
        let weights = signed_bytes(block);
        let sizes = _mm256_abs_epi8(weights);
        for (token, sum) in tokens.iter().zip(&mut sums) {
            let quants = _mm256_sign_epi8(load_quants(&token.quants[n]), weights);
            let products = _mm256_madd_epi16(_mm256_maddubs_epi16(sizes, quants), ones);
            let scale = _mm256_mul_ps(scale, _mm256_set1_ps(token.scales[n]));
            *sum = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(products), *sum);
        }
    }
    sums.map(|sum| total(sum))
}

/// Formats of 32 unsigned elements with one scale and one minimum: blocks of Q4_1 and Q5_1 have 20
/// and 24 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_minimum<const T: usize, const BYTES: usize>(
    row: &[u8],
    input: &Activations,
    token: usize,
) -> [f32; T] {
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_ps(); T];
    let mut minima = [0.0_f32; T];
    let (blocks, _) = row.as_chunks::<BYTES>();
    let tokens: [Token<'_, 32>; T] =
        std::array::from_fn(|t| Token::of(input, token + t, blocks.len()));
    let of_blocks: [&[[i16; 2]]; T] = std::array::from_fn(|t| {
        let start = (token + t) * input.columns / SUM;
        &input.sums[start..].as_chunks::<2>().0[..blocks.len()]
    });
    for (n, block) in blocks.iter().enumerate() {
        let (scale, minimum) = (halves(block), _mm256_cvtss_f32(halves(&block[2..])));
        let weights = match BYTES {
            20 => nibbles(&block[4..]),
            _ => {
                let high = bits([block[4], block[5], block[6], block[7]]);
                let fifth = _mm256_and_si256(high, _mm256_set1_epi8(16));
                _mm256_or_si256(nibbles(&block[8..]), fifth)
            }
        };
        for t in 0..T {
            let (quants, step) = (load_quants(&tokens[t].quants[n]), tokens[t].scales[n]);
            let products = _mm256_madd_epi16(_mm256_maddubs_epi16(weights, quants), ones);
            let scale = _mm256_mul_ps(scale, _mm256_set1_ps(step));
            sums[t] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(products), sums[t]);
            let [a, b] = of_blocks[t][n];
            minima[t] += minimum * step * f32::from(a + b);
        }
    }
    let mut totals = sums.map(|sum| total(sum));
    for (total, minimum) in totals.iter_mut().zip(minima) {
        *total += minimum;
    }
    totals
}

/// The products of one row of groups of `group` columns with the tokens from `token` on, as many
/// as `sums` has, at most 4.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn dot_groups(
    row: &GroupRow<'_>,
    group: usize,
    input: &Activations,
    token: usize,
    sums: &mut [f32],
) {
    match sums {
        [a, b, c, d] => [*a, *b, *c, *d] = by_groups::<4>(row, group, input, token),
        [a, b, c] => [*a, *b, *c] = by_groups::<3>(row, group, input, token),
        [a, b] => [*a, *b] = by_groups::<2>(row, group, input, token),
        _ => {
            for (n, sum) in sums.iter_mut().enumerate() {
                [*sum] = by_groups::<1>(row, group, input, token + n);
            }
        }
    }
}

/// Blocks of 32 elements, of which a whole number make a group with one scale and zero-point.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn by_groups<const T: usize>(
    row: &GroupRow<'_>,
    group: usize,
    input: &Activations,
    token: usize,
) -> [f32; T] {
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_ps(); T];
    let (blocks, _) = row.quants.as_chunks::<16>();
    let tokens: [Token<'_, 32>; T] =
        std::array::from_fn(|t| Token::of(input, token + t, blocks.len()));
    let groups = blocks.chunks(group / 32).zip(row.scales).zip(row.zeros);
    for (number, ((blocks, scale), zero)) in groups.enumerate() {
        let scale = halves(&scale.to_le_bytes());
        let zero = _mm256_set1_epi8(*zero as i8);
        for (n, block) in blocks.iter().enumerate() {
            let n = number * (group / 32) + n;
            let weights = _mm256_sub_epi8(nibbles(block), zero);
            let sizes = _mm256_abs_epi8(weights);
            for (token, sum) in tokens.iter().zip(&mut sums) {
                let quants = _mm256_sign_epi8(load_quants(&token.quants[n]), weights);
                let products = _mm256_madd_epi16(_mm256_maddubs_epi16(sizes, quants), ones);
                let scale = _mm256_mul_ps(scale, _mm256_set1_ps(token.scales[n]));
                *sum = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(products), *sum);
            }
        }
    }
    sums.map(|sum| total(sum))
}

/// The 32 weights of a block of Q8_0, Q4_0 or Q5_0, which have 34, 18 and 22 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signed_bytes<const BYTES: usize>(block: &[u8; BYTES]) -> __m256i {
    match BYTES {
        34 => load(&block[2..]),
        18 => _mm256_sub_epi8(nibbles(&block[2..]), _mm256_set1_epi8(8)),
        _ => {
            let high = bits([block[2], block[3], block[4], block[5]]);
            // A fifth bit that is not set stands for 16 less.
            let less = _mm256_andnot_si256(high, _mm256_set1_epi8(0xf0_u8 as i8));
            _mm256_or_si256(nibbles(&block[6..]), less)
        }
    }
}

/// The lower halves of 16 bytes, then the upper ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(bytes: &[u8]) -> __m256i {
    let bytes = load_half(bytes);
    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// A byte of ones for each bit that is set.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bits(bytes: [u8; 4]) -> __m256i {
    let spread = _mm256_setr_epi64x(
        0,
        0x0101_0101_0101_0101,
        0x0202_0202_0202_0202,
        0x0303_0303_0303_0303,
    );
    let word = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(bytes)), spread);
    let all_but = _mm256_set1_epi64x(0x7fbf_dfef_f7fb_fdfe);
    _mm256_cmpeq_epi8(_mm256_or_si256(word, all_but), _mm256_set1_epi64x(-1))
}

/// The eight 6-bit scales of a block of Q4_K or Q5_K, then its eight minima, each in a byte.
#[inline(always)]
fn scales_and_minima(packed: &[u8]) -> [u32; 4] {
    const SIX: u32 = 0x3f3f_3f3f;
    const FOUR: u32 = 0x0f0f_0f0f;
    const TWO: u32 = 0x0303_0303;
    let word =
        |n: usize| u32::from_le_bytes([packed[n], packed[n + 1], packed[n + 2], packed[n + 3]]);
    let (a, b, c) = (word(0), word(4), word(8));
    [
        a & SIX,
        (c & FOUR) | (((a >> 6) & TWO) << 4),
        b & SIX,
        ((c >> 4) & FOUR) | (((b >> 6) & TWO) << 4),
    ]
}

/// What the blocks of Q4_K and Q5_K have in common while a row is gone through.
struct Superblock {
    /// Eight scales as 16-bit integers, in both halves.
    scales: __m256i,
    /// Eight minima as 16-bit integers.
    minima: __m128i,
    scale: __m256,
    minimum: __m256,
}

impl Superblock {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn read(block: &[u8]) -> Self {
        let [a, b, c, d] = scales_and_minima(&block[4..16]);
        let packed = _mm_set_epi32(d as i32, c as i32, b as i32, a as i32);
        let wide = _mm256_cvtepu8_epi16(packed);
        let scales = _mm256_castsi256_si128(wide);
        Self {
            scales: _mm256_set_m128i(scales, scales),
            minima: _mm256_extracti128_si256::<1>(wide),
            scale: halves(block),
            minimum: halves(&block[2..]),
        }
    }

    /// The scale of one sub-block, in every lane.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn scale_of(&self, sub_block: usize) -> __m256i {
        let pair = 0x0100 + 0x0202 * sub_block as i16;
        _mm256_shuffle_epi8(self.scales, _mm256_set1_epi16(pair))
    }

    /// Adds a token's share: the integers with the scale, less the minima times the sums.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn add(&self, integers: __m256i, token: &Token<'_, 256>, n: usize, sum: &mut __m256) {
        let step = _mm256_set1_ps(token.scales[n]);
        let sums = load_sums(&token.sums[n]);
        let pairs = _mm_hadd_epi16(
            _mm256_castsi256_si128(sums),
            _mm256_extracti128_si256::<1>(sums),
        );
        let minima = _mm256_castsi128_si256(_mm_madd_epi16(self.minima, pairs));
        // The upper half of a cast is undefined: put zeros there.
        let minima = _mm256_inserti128_si256::<1>(minima, _mm_setzero_si128());
        let less = _mm256_mul_ps(self.minimum, step);
        *sum = _mm256_fnmadd_ps(less, _mm256_cvtepi32_ps(minima), *sum);
        let scale = _mm256_mul_ps(self.scale, step);
        *sum = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(integers), *sum);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q4_k<const T: usize>(row: &[u8], input: &Activations, token: usize) -> [f32; T] {
    let low = _mm256_set1_epi8(15);
    let mut sums = [_mm256_setzero_ps(); T];
    let (blocks, _) = row.as_chunks::<144>();
    let tokens: [Token<'_, 256>; T] =
        std::array::from_fn(|t| Token::of(input, token + t, blocks.len()));
    for (n, block) in blocks.iter().enumerate() {
        let shared = Superblock::read(block);
        let (quarters, _) = block[16..].as_chunks::<32>();
        let mut integers = [_mm256_setzero_si256(); T];
        for (j, packed) in quarters.iter().enumerate() {
            let packed = load(packed);
            let first = _mm256_and_si256(packed, low);
            let second = _mm256_and_si256(_mm256_srli_epi16::<4>(packed), low);
            let scale_of_first = shared.scale_of(2 * j);
            let scale_of_second = shared.scale_of(2 * j + 1);
            for (token, integers) in tokens.iter().zip(&mut integers) {
                let (quants, _) = token.quants[n].as_chunks::<32>();
                let a = _mm256_maddubs_epi16(first, load_quants(&quants[2 * j]));
                let b = _mm256_maddubs_epi16(second, load_quants(&quants[2 * j + 1]));
                let a = _mm256_madd_epi16(scale_of_first, a);
                let b = _mm256_madd_epi16(scale_of_second, b);
                *integers = _mm256_add_epi32(*integers, _mm256_add_epi32(a, b));
            }
        }
        for ((token, integers), sum) in tokens.iter().zip(integers).zip(&mut sums) {
            shared.add(integers, token, n, sum);
        }
    }
    sums.map(|sum| total(sum))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q5_k<const T: usize>(row: &[u8], input: &Activations, token: usize) -> [f32; T] {
    let low = _mm256_set1_epi8(15);
    let sixteen = _mm256_set1_epi8(16);
    let mut sums = [_mm256_setzero_ps(); T];
    let (blocks, _) = row.as_chunks::<176>();
    let tokens: [Token<'_, 256>; T] =
        std::array::from_fn(|t| Token::of(input, token + t, blocks.len()));
    for (n, block) in blocks.iter().enumerate() {
        let shared = Superblock::read(block);
        let mut fifth = load(&block[16..]);
        let (quarters, _) = block[48..].as_chunks::<32>();
        let mut integers = [_mm256_setzero_si256(); T];
        for (j, packed) in quarters.iter().enumerate() {
            let packed = load(packed);
            // The lowest two bits of each byte belong to this quarter.
            let a = _mm256_and_si256(_mm256_slli_epi16::<4>(fifth), sixteen);
            let b = _mm256_and_si256(_mm256_slli_epi16::<3>(fifth), sixteen);
            fifth = _mm256_srli_epi16::<2>(fifth);
            let first = _mm256_or_si256(_mm256_and_si256(packed, low), a);
            let second = _mm256_and_si256(_mm256_srli_epi16::<4>(packed), low);
            let second = _mm256_or_si256(second, b);
            let scale_of_first = shared.scale_of(2 * j);
            let scale_of_second = shared.scale_of(2 * j + 1);
            for (token, integers) in tokens.iter().zip(&mut integers) {
                let (quants, _) = token.quants[n].as_chunks::<32>();
                let a = _mm256_maddubs_epi16(first, load_quants(&quants[2 * j]));
                let b = _mm256_maddubs_epi16(second, load_quants(&quants[2 * j + 1]));
                let a = _mm256_madd_epi16(scale_of_first, a);
                let b = _mm256_madd_epi16(scale_of_second, b);
                *integers = _mm256_add_epi32(*integers, _mm256_add_epi32(a, b));
            }
        }
        for ((token, integers), sum) in tokens.iter().zip(integers).zip(&mut sums) {
            shared.add(integers, token, n, sum);
        }
    }
    sums.map(|sum| total(sum))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q6_k<const T: usize>(row: &[u8], input: &Activations, token: usize) -> [f32; T] {
    let low = _mm256_set1_epi8(15);
    let high = _mm256_set1_epi8(0x30);
    let mut sums = [_mm256_setzero_ps(); T];
    let (blocks, _) = row.as_chunks::<210>();
    let tokens: [Token<'_, 256>; T] =
        std::array::from_fn(|t| Token::of(input, token + t, blocks.len()));
    for (n, block) in blocks.iter().enumerate() {
        let scale = halves(&block[208..]);
        let scales = load_half(&block[192..]);
        let wide = _mm256_cvtepi8_epi16(scales);
        let mut integers = [_mm256_setzero_si256(); T];
        for half in 0..2 {
            let a = load(&block[64 * half..]);
            let b = load(&block[64 * half + 32..]);
            let upper = load(&block[128 + 32 * half..]);
            let weights = [
                _mm256_or_si256(
                    _mm256_and_si256(a, low),
                    _mm256_and_si256(_mm256_slli_epi16::<4>(upper), high),
                ),
                _mm256_or_si256(
                    _mm256_and_si256(b, low),
                    _mm256_and_si256(_mm256_slli_epi16::<2>(upper), high),
                ),
                _mm256_or_si256(
                    _mm256_and_si256(_mm256_srli_epi16::<4>(a), low),
                    _mm256_and_si256(upper, high),
                ),
                _mm256_or_si256(
                    _mm256_and_si256(_mm256_srli_epi16::<4>(b), low),
                    _mm256_and_si256(_mm256_srli_epi16::<2>(upper), high),
                ),
            ];
            for (j, weights) in weights.into_iter().enumerate() {
                // One scale for each half of the 32: bytes 2k and 2k + 1 of the scales.
                let k = (8 * half + 2 * j) as i64;
                let both = _mm256_set_epi64x(
                    (k + 1) * 0x0101_0101_0101_0101,
                    (k + 1) * 0x0101_0101_0101_0101,
                    k * 0x0101_0101_0101_0101,
                    k * 0x0101_0101_0101_0101,
                );
                let spread = _mm256_shuffle_epi8(_mm256_set_m128i(scales, scales), both);
                // From bytes twice over to 16-bit integers: the sign comes with the upper byte.
                let its_scale = _mm256_srai_epi16::<8>(spread);
                for (token, integers) in tokens.iter().zip(&mut integers) {
                    let (quants, _) = token.quants[n].as_chunks::<32>();
                    let quants = load_quants(&quants[4 * half + j]);
                    let products = _mm256_maddubs_epi16(weights, quants);
                    let products = _mm256_madd_epi16(its_scale, products);
                    *integers = _mm256_add_epi32(*integers, products);
                }
            }
        }
        for ((token, integers), sum) in tokens.iter().zip(integers).zip(&mut sums) {
            // Every weight is 32 less than its six bits say.
            let offset = _mm256_madd_epi16(wide, load_sums(&token.sums[n]));
            let integers = _mm256_sub_epi32(integers, _mm256_slli_epi32::<5>(offset));
            let scale = _mm256_mul_ps(scale, _mm256_set1_ps(token.scales[n]));
            *sum = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(integers), *sum);
        }
    }
    sums.map(|sum| total(sum))
}

/// Weights that are not quantized, of 4 or 2 bytes each, the latter of either kind.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn floats<const T: usize, const BYTES: usize, const BRAIN: bool>(
    row: &[u8],
    input: &Activations,
    token: usize,
) -> [f32; T] {
    let mut sums = [[_mm256_setzero_ps(); 2]; T];
    let whole = input.columns / 16 * 16;
    for column in (0..whole).step_by(16) {
        let bytes = &row[column * BYTES..(column + 16) * BYTES];
        let (a, b) = (
            eight::<BYTES, BRAIN>(bytes),
            eight::<BYTES, BRAIN>(&bytes[8 * BYTES..]),
        );
        for (t, [first, second]) in sums.iter_mut().enumerate() {
            let at = (token + t) * input.columns + column;
            let values = &input.values[at..at + 16];
            // SAFETY: the slice has 16 floats.
            let (x, y) = unsafe {
                (
                    _mm256_loadu_ps(values.as_ptr()),
                    _mm256_loadu_ps(values.as_ptr().add(8)),
                )
            };
            *first = _mm256_fmadd_ps(a, x, *first);
            *second = _mm256_fmadd_ps(b, y, *second);
        }
    }
    let mut rest = [0_u8; 64];
    let left = input.columns - whole;
    rest[..left * BYTES].copy_from_slice(&row[whole * BYTES..]);
    let rest_of_row = [
        eight::<BYTES, BRAIN>(&rest),
        eight::<BYTES, BRAIN>(&rest[8 * BYTES..]),
    ];
    std::array::from_fn(|t| {
        let [first, second] = sums[t];
        let mut sum = total(_mm256_add_ps(first, second));
        let at = (token + t) * input.columns + whole;
        let mut weights = [0.0_f32; 16];
        // SAFETY: the array has 16 floats.
        unsafe {
            _mm256_storeu_ps(weights.as_mut_ptr(), rest_of_row[0]);
            _mm256_storeu_ps(weights.as_mut_ptr().add(8), rest_of_row[1]);
        }
        for (weight, value) in weights.iter().zip(&input.values[at..at + left]) {
            sum += weight * value;
        }
        sum
    })
}

/// The first eight floats of these bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn eight<const BYTES: usize, const BRAIN: bool>(bytes: &[u8]) -> __m256 {
    match (BYTES, BRAIN) {
        (4, _) => _mm256_castsi256_ps(load(bytes)),
        (_, false) => _mm256_cvtph_ps(load_half(bytes)),
        (_, true) => {
            let wide = _mm256_cvtepu16_epi32(load_half(bytes));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
}
