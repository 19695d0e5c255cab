//! The blocks of each format and their elements.
//!
//! Layouts after ggml's `ggml-common.h` and the functions `dequantize_row_*` of `ggml-quants.c`;
//! the order of operations is theirs, so that every result rounds as theirs does. Products and
//! differences stay apart: a fused multiply-add would round once where the format rounds twice.

/// The exponent bits of a 16-bit float.
pub const F16_EXPONENT: u16 = 0x7c00;
/// The exponent bits of a bfloat16.
pub const BF16_EXPONENT: u16 = 0x7f80;

/// Unpacks `bytes` block by block. The caller has checked that both lengths fit.
pub fn each<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    unpack: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<LEN>().0) {
        unpack(block, out);
    }
}

/// The first of the blocks of `BYTES` bytes in which one of the 16-bit floats at `scales` has
/// all bits of `exponent` set.
pub fn first_unfinite<const BYTES: usize, const SCALES: usize>(
    bytes: &[u8],
    scales: [usize; SCALES],
    exponent: u16,
) -> Option<usize> {
    bytes.as_chunks::<BYTES>().0.iter().position(|block| {
        scales
            .iter()
            .any(|&at| u16::from_le_bytes([block[at], block[at + 1]]) & exponent == exponent)
    })
}

/// The first of the 32-bit floats that is NaN or infinite.
pub fn first_unfinite_f32(bytes: &[u8]) -> Option<usize> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .position(|value| !f32::from_le_bytes(*value).is_finite())
}

pub fn f32(block: &[u8; 4], out: &mut [f32; 1]) {
    out[0] = f32::from_le_bytes(*block);
}

pub fn f16(block: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = half_at(block, 0);
}

pub fn bf16(block: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = f32::from_bits(u32::from(u16::from_le_bytes(*block)) << 16);
}

/// `d: f16, q: [u8; 16]`: byte `i` holds element `i` in its low and element `16 + i` in its high
/// four bits, each 8 too large. Element = d · q.
pub fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (i, &byte) in block[2..].iter().enumerate() {
        out[i] = d * f32::from((byte & 15) as i8 - 8);
        out[16 + i] = d * f32::from((byte >> 4) as i8 - 8);
    }
}

/// `d: f16, min: f16, q: [u8; 16]`: elements as in [`q4_0`], but none too large.
/// Element = d · q + min.
pub fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, min) = (half_at(block, 0), half_at(block, 2));
    for (i, &byte) in block[4..].iter().enumerate() {
        out[i] = d * f32::from(byte & 15) + min;
        out[16 + i] = d * f32::from(byte >> 4) + min;
    }
}

/// `d: f16, high: [u8; 4], q: [u8; 16]`: as [`q4_0`], with the fifth bit of element `i` in bit
/// `i` of `high`, and elements 16 too large.
pub fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (i, five) in five_bits(&block[2..]).into_iter().enumerate() {
        out[i] = d * f32::from(five as i8 - 16);
    }
}

/// `d: f16, min: f16, high: [u8; 4], q: [u8; 16]`: elements as in [`q5_0`], but none too large.
/// Element = d · q + min.
pub fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, min) = (half_at(block, 0), half_at(block, 2));
    for (i, five) in five_bits(&block[4..]).into_iter().enumerate() {
        out[i] = d * f32::from(five) + min;
    }
}

/// `d: f16, q: [i8; 32]`. Element = d · q.
pub fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (out, &byte) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(byte as i8) * d;
    }
}

/// `d: f16, min: f16, scales: [u8; 12], q: [u8; 128]`: eight sub-blocks of 32 elements, two to
/// each run of 32 bytes of `q`, the first in the low four bits and the second in the high ones.
/// Element = (d · scale) · q − (min · minimum), with `scale` and `minimum` as
/// [`scale_and_minimum`] finds them.
pub fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, min) = (half_at(block, 0), half_at(block, 2));
    for (pair, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let quants = &block[16 + 32 * pair..][..32];
        let (scale_low, min_low) = scale_and_minimum(block, 2 * pair);
        let (scale_high, min_high) = scale_and_minimum(block, 2 * pair + 1);
        let (d_low, m_low) = (d * f32::from(scale_low), min * f32::from(min_low));
        let (d_high, m_high) = (d * f32::from(scale_high), min * f32::from(min_high));
        for (i, &byte) in quants.iter().enumerate() {
            out[i] = d_low * f32::from(byte & 15) - m_low;
            out[32 + i] = d_high * f32::from(byte >> 4) - m_high;
        }
    }
}

/// `d: f16, min: f16, scales: [u8; 12], high: [u8; 32], q: [u8; 128]`: as [`q4_k`], with the
/// fifth bit of element `i` of sub-block `s` in bit `s` of byte `i` of `high`.
pub fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, min) = (half_at(block, 0), half_at(block, 2));
    for (pair, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let high = &block[16..48];
        let quants = &block[48 + 32 * pair..][..32];
        let (scale_low, min_low) = scale_and_minimum(block, 2 * pair);
        let (scale_high, min_high) = scale_and_minimum(block, 2 * pair + 1);
        let (d_low, m_low) = (d * f32::from(scale_low), min * f32::from(min_low));
        let (d_high, m_high) = (d * f32::from(scale_high), min * f32::from(min_high));
        for (i, (&byte, &high)) in quants.iter().zip(high).enumerate() {
            let low_five = (byte & 15) | (high >> (2 * pair) & 1) << 4;
            let high_five = (byte >> 4) | (high >> (2 * pair + 1) & 1) << 4;
            out[i] = d_low * f32::from(low_five) - m_low;
            out[32 + i] = d_high * f32::from(high_five) - m_high;
        }
    }
}

/// `low: [u8; 128], high: [u8; 64], scales: [i8; 16], d: f16`: two halves of 128 elements. In
/// each, byte `i` of 32 bytes of `high` holds the upper two bits of the elements `i`, `32 + i`,
/// `64 + i` and `96 + i`, lowest bits first; of 64 bytes of `low`, the first 32 hold the lower
/// four bits of elements `i` and `64 + i`, the others those of `32 + i` and `96 + i`. All are 32
/// too large. Each 16 elements have one scale. Element = (d · scale) · q.
pub fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(block, 208);
    for (half, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let low = &block[64 * half..][..64];
        let high = &block[128 + 32 * half..][..32];
        let scales = &block[192 + 8 * half..][..8];
        let scale = |at: usize| d * f32::from(scales[at] as i8);
        for i in 0..32 {
            let part = i / 16;
            let six = |low: u8, quarter: usize| {
                f32::from((low | (high[i] >> (2 * quarter) & 3) << 4) as i8 - 32)
            };
            out[i] = scale(part) * six(low[i] & 15, 0);
            out[32 + i] = scale(2 + part) * six(low[32 + i] & 15, 1);
            out[64 + i] = scale(4 + part) * six(low[i] >> 4, 2);
            out[96 + i] = scale(6 + part) * six(low[32 + i] >> 4, 3);
        }
    }
}

/// The 6-bit scale and minimum of sub-block `at` of a Q4_K or Q5_K block, whose twelve bytes at
/// 4 hold eight of both: the first four scales in the low six bits of bytes 0 to 3, the first
/// four minima in those of bytes 4 to 7; of the last four, the low four bits in bytes 8 to 11
/// (scale below, minimum above) and the upper two where the first eight bytes left room.
fn scale_and_minimum(block: &[u8], at: usize) -> (u8, u8) {
    let packed = &block[4..16];
    if at < 4 {
        return (packed[at] & 63, packed[at + 4] & 63);
    }
    let low = packed[at + 4];
    (
        (low & 15) | packed[at - 4] >> 6 << 4,
        (low >> 4) | packed[at] >> 6 << 4,
    )
}

/// The integers of a block of Q5_0 or Q5_1, which begin at their fifth bits.
fn five_bits(bytes: &[u8]) -> [u8; 32] {
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    std::array::from_fn(|i| {
        let byte = bytes[4 + i % 16];
        let four = if i < 16 { byte & 15 } else { byte >> 4 };
        four | ((high >> i & 1) as u8) << 4
    })
}

fn half_at(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
