//! Products with AVX-512.
//!
//! Sixteen rows go through their blocks side by side. Each row multiplies its block's integers
//! with a token's, and the partial sums of all sixteen are then added across, so that one
//! register holds the exact integer of each row; from there on everything is one instruction for
//! sixteen rows. A row's result is therefore a chain of blocks, in f32, one after the other,
//! which the tiles of AMX can make too: see [`super::amx`].
//!
//! Closures that use wide registers are avoided where speed matters: the compiler does not inline
//! them into the functions that call them, which have no such registers.
//!
//! Weights keep an unsigned form for the product of bytes. What their offset adds is taken away
//! through the sums of the activations.

pub mod floats;
pub mod k_quants;
pub mod many;
pub mod thirty_twos;

use std::arch::x86_64::*;
use std::ops::Range;

use skep_weights::PackedFormat;

use crate::activations::Activations;
use crate::linear::{PackedMatrix, Weights};

/// Rows that go side by side.
pub const ROWS: usize = 16;

/// Tokens that a block of weights is taken apart for at a time.
pub const TOKENS: usize = 4;

/// The products of at most [`ROWS`] rows with the tokens from `token` on, as many as `sums` has,
/// at most [`TOKENS`]. Meanwhile as many bytes of memory are asked for from `ahead` on, which may
/// be any address, as the rows have: what is to be multiplied next. A row and a token give the same bits beside whatever others.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn products(
    weights: &Weights<'_>,
    rows: Range<usize>,
    ahead: *const u8,
    input: &Activations,
    token: usize,
    sums: &mut [[f32; ROWS]],
) {
    match sums {
        [a, b, c, d] => [*a, *b, *c, *d] = some::<4>(weights, rows, ahead, input, token),
        [a, b, c] => [*a, *b, *c] = some::<3>(weights, rows, ahead, input, token),
        [a, b] => [*a, *b] = some::<2>(weights, rows, ahead, input, token),
        _ => {
            for (n, sums) in sums.iter_mut().enumerate() {
                [*sums] = some::<1>(weights, rows.clone(), ahead, input, token + n);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn some<const T: usize>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    ahead: *const u8,
    input: &Activations,
    token: usize,
) -> [[f32; ROWS]; T] {
    let matrix = match weights {
        Weights::Packed(matrix) => matrix,
        Weights::Grouped(matrix) => return thirty_twos::grouped::<T>(matrix, rows, input, token),
    };
    let panel = Panel::new(matrix, rows.clone(), ahead);
    match matrix.format() {
        PackedFormat::Q8_0 => thirty_twos::packed::<T, 34>(&panel, input, token),
        PackedFormat::Q4_0 => thirty_twos::packed::<T, 18>(&panel, input, token),
        PackedFormat::Q5_0 => thirty_twos::packed::<T, 22>(&panel, input, token),
        PackedFormat::Q4_1 => thirty_twos::packed::<T, 20>(&panel, input, token),
        PackedFormat::Q5_1 => thirty_twos::packed::<T, 24>(&panel, input, token),
        PackedFormat::Q4_K => k_quants::with_minima::<T, 144>(&panel, input, token),
        PackedFormat::Q5_K => k_quants::with_minima::<T, 176>(&panel, input, token),
        PackedFormat::Q6_K => k_quants::q6_k::<T>(&panel, input, token),
        PackedFormat::F32 => floats::products::<T, 4, false>(matrix, rows, input, token),
        PackedFormat::F16 => floats::products::<T, 2, false>(matrix, rows, input, token),
        PackedFormat::BF16 => floats::products::<T, 2, true>(matrix, rows, input, token),
        // The weights' crate may learn a format before this one does.
        other => std::array::from_fn(|t| {
            std::array::from_fn(|n| {
                let row = rows.start + n.min(rows.len() - 1);
                super::portable::dot(other, matrix.row(row), input, token + t)
            })
        }),
    }
}

/// Sixteen rows of blocks. Where there are fewer, the last one stands in for those that are not
/// there.
pub struct Panel<'a> {
    bytes: &'a [u8],
    /// Where each row begins.
    rows: [usize; ROWS],
    row_bytes: usize,
    /// What is to be multiplied next.
    ahead: *const u8,
}

impl<'a> Panel<'a> {
    /// These rows, one at least, of a matrix.
    pub fn new(matrix: &PackedMatrix<'a>, rows: Range<usize>, ahead: *const u8) -> Self {
        let row_bytes = matrix.row_bytes();
        Self {
            bytes: &matrix.bytes[rows.start * row_bytes..rows.end * row_bytes],
            rows: std::array::from_fn(|n| n.min(rows.len() - 1) * row_bytes),
            row_bytes,
            ahead,
        }
    }

    /// Blocks of a row, of so many bytes.
    pub fn blocks(&self, bytes: usize) -> usize {
        self.row_bytes / bytes
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// A place in a row.
    ///
    /// # Safety
    /// `offset` is at most the length of a row.
    #[inline(always)]
    pub unsafe fn at(&self, row: usize, offset: usize) -> *const u8 {
        // SAFETY: the rows lie within `bytes`, and so does what begins in them.
        unsafe { self.bytes.as_ptr().add(self.rows[row] + offset) }
    }

    /// Asks for a part of what is next: who goes through this panel block by block, and asks with
    /// the same block of each row, has asked for as many bytes as the panel has. So memory is read
    /// from beginning to end, whatever the order in which blocks are multiplied.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn ask_ahead(&self, block: usize, row: usize, bytes: usize) {
        let at = self.ahead.wrapping_add((ROWS * block + row) * bytes);
        for line in 0..bytes.div_ceil(64) {
            // It reads nothing: any address will do.
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(64 * line).cast());
        }
    }
}

/// Four registers of sixteen partial sums become one: in each quarter, the sums of four parts of
/// the first, second, third and fourth.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn quads([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// Of four registers whose quarters hold four rows' parts each: the sums of the first two
/// quarters, and those of the last two, of the sixteen rows in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn halves([a, b, c, d]: [__m512i; 4]) -> [__m512i; 2] {
    let ab = _mm512_add_epi32(
        _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b),
    );
    let cd = _mm512_add_epi32(
        _mm512_shuffle_i32x4::<0b10_00_10_00>(c, d),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(c, d),
    );
    [
        _mm512_shuffle_i32x4::<0b10_00_10_00>(ab, cd),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(ab, cd),
    ]
}

/// The sixteen 16-bit floats in the lower halves of these lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn floats_of(lanes: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(lanes))
}

/// Results of sixteen rows, for each token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn stored<const T: usize>(sums: [__m512; T]) -> [[f32; ROWS]; T] {
    let mut out = [[0.0; ROWS]; T];
    for (out, sums) in out.iter_mut().zip(sums) {
        // SAFETY: the array has sixteen floats.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sums) };
    }
    out
}

/// Rows become columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn transposed(rows: [__m512; 16]) -> [__m512; 16] {
    let mut a = [_mm512_setzero_ps(); 16];
    // Pairs of rows, then pairs of pairs within each quarter: register `4 q + n` then has, in
    // quarter `i`, element `4 i + n` of rows `4 q` to `4 q + 3`.
    for q in 0..4 {
        let [w, x, y, z] = [
            rows[4 * q],
            rows[4 * q + 1],
            rows[4 * q + 2],
            rows[4 * q + 3],
        ];
        let pairs = [
            _mm512_unpacklo_ps(w, x),
            _mm512_unpackhi_ps(w, x),
            _mm512_unpacklo_ps(y, z),
            _mm512_unpackhi_ps(y, z),
        ];
        let mut doubles = [_mm512_setzero_pd(); 4];
        for (double, pair) in doubles.iter_mut().zip(pairs) {
            *double = _mm512_castps_pd(pair);
        }
        let pairs = doubles;
        a[4 * q] = _mm512_castpd_ps(_mm512_unpacklo_pd(pairs[0], pairs[2]));
        a[4 * q + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[0], pairs[2]));
        a[4 * q + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pairs[1], pairs[3]));
        a[4 * q + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[1], pairs[3]));
    }
    // Then quarters change places.
    let mut out = [_mm512_setzero_ps(); 16];
    for n in 0..4 {
        let [w, x, y, z] = [a[n], a[4 + n], a[8 + n], a[12 + n]];
        let even_low = _mm512_shuffle_f32x4::<0b10_00_10_00>(w, x);
        let odd_low = _mm512_shuffle_f32x4::<0b11_01_11_01>(w, x);
        let even_high = _mm512_shuffle_f32x4::<0b10_00_10_00>(y, z);
        let odd_high = _mm512_shuffle_f32x4::<0b11_01_11_01>(y, z);
        out[n] = _mm512_shuffle_f32x4::<0b10_00_10_00>(even_low, even_high);
        out[4 + n] = _mm512_shuffle_f32x4::<0b10_00_10_00>(odd_low, odd_high);
        out[8 + n] = _mm512_shuffle_f32x4::<0b11_01_11_01>(even_low, even_high);
        out[12 + n] = _mm512_shuffle_f32x4::<0b11_01_11_01>(odd_low, odd_high);
    }
    out
}

/// The sum of sixteen floats, always in this order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn across(sum: __m512) -> f32 {
    let eight = _mm256_add_ps(
        _mm512_castps512_ps256(sum),
        _mm512_extractf32x8_ps::<1>(sum),
    );
    let four = _mm_add_ps(
        _mm256_castps256_ps128(eight),
        _mm256_extractf128_ps::<1>(eight),
    );
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// [`across`] of each of sixteen registers, with the same bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn across_each(rows: [__m512; 16]) -> __m512 {
    // In quarter `q` of register `n`: the four sums of row `4 q + n`.
    let mut fours = [_mm512_setzero_ps(); 4];
    for (n, four) in fours.iter_mut().enumerate() {
        let mut eights = [_mm512_setzero_ps(); 2];
        for (half, eight) in eights.iter_mut().enumerate() {
            let (a, b) = (rows[8 * half + n], rows[8 * half + 4 + n]);
            *eight = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
            );
        }
        let [a, b] = eights;
        *four = _mm512_add_ps(
            _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
        );
    }
    // The same within each quarter.
    let [a, b, c, d] = fours;
    let ab = _mm512_add_ps(
        _mm512_shuffle_ps::<0b01_00_01_00>(a, b),
        _mm512_shuffle_ps::<0b11_10_11_10>(a, b),
    );
    let cd = _mm512_add_ps(
        _mm512_shuffle_ps::<0b01_00_01_00>(c, d),
        _mm512_shuffle_ps::<0b11_10_11_10>(c, d),
    );
    _mm512_add_ps(
        _mm512_shuffle_ps::<0b10_00_10_00>(ab, cd),
        _mm512_shuffle_ps::<0b11_01_11_01>(ab, cd),
    )
}
