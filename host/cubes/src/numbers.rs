//! Numbers as they lie in words of 32 bits, on the device.
//!
//! Kernels read nothing but words, so that they run on devices that know no 8-bit or 16-bit types.
//! Conversions are made of integer operations, because a device may flush small floats to zero:
//! the scales of 4-bit weights are often that small.

#![allow(
    missing_docs,
    reason = "of every function a macro makes a module without documentation"
)]

use cubecl::prelude::*;

/// The 16-bit float in the low half of `bits`, exactly.
#[cube]
pub fn half_to_float(bits: u32) -> f32 {
    let sign = (bits & 0x8000u32) << 16u32;
    let exponent = (bits >> 10u32) & 31u32;
    let mantissa = bits & 0x3ffu32;
    let normal = ((bits & 0x7fffu32) << 13u32) + 0x3800_0000u32;
    // Infinities and NaN: the exponent is all ones in both formats.
    let special = normal + 0x3800_0000u32;
    let small = u32::reinterpret(f32::cast_from(mantissa) * 5.960_464_5e-8f32);
    let size = select(
        exponent == 0u32,
        small,
        select(exponent == 31u32, special, normal),
    );
    f32::reinterpret(size | sign)
}

/// Both 16-bit floats of a word, the low one first, exactly: for devices that have the type and
/// keep small ones.
#[cube]
pub fn halves_to_floats(both: u32) -> (f32, f32) {
    let two = Vector::<half::f16, Const<2>>::reinterpret(both);
    (
        f32::cast_from(two.extract(0usize)),
        f32::cast_from(two.extract(1usize)),
    )
}

/// Both 16-bit floats of a word, the low one first; `halves` says whether the device has the type.
#[cube]
pub fn floats_of(both: u32, #[comptime] halves: bool) -> (f32, f32) {
    if comptime!(halves) {
        halves_to_floats(both)
    } else {
        (
            half_to_float(both & 0xffffu32),
            half_to_float(both >> 16u32),
        )
    }
}

/// The nearest 16-bit float, ties to even, in the low half.
#[cube]
pub fn float_to_half(value: f32) -> u32 {
    let bits = u32::reinterpret(value);
    let sign = (bits >> 16u32) & 0x8000u32;
    let size = bits & 0x7fff_ffffu32;
    let normal = (size + 0xfffu32 + ((size >> 13u32) & 1u32) - 0x3800_0000u32) >> 13u32;
    // Beside 0.5 the last place of a sum is that of the smallest 16-bit float.
    let small = u32::reinterpret(f32::reinterpret(size) + 0.5f32) - 0x3f00_0000u32;
    let large = select(size > 0x7f80_0000u32, 0x7e00u32, 0x7c00u32);
    let rounded = select(
        size < 0x3880_0000u32,
        small,
        select(size >= 0x477f_f000u32, large, normal),
    );
    rounded | sign
}

/// The signed byte `at`, from 0, of a word.
#[cube]
pub fn byte_of(word: u32, at: u32) -> i32 {
    i32::reinterpret(word << (24u32 - 8u32 * at)) >> 24i32
}

/// The nearest integer, ties to even, of a number from -127 to 127; 0 of NaN.
#[cube]
pub fn round_to_byte(value: f32) -> i32 {
    let number = select(value == value, value, 0.0f32);
    // Beside this the last place of a sum is 1, so that the sum's low bits are the integer.
    let sum = max(min(number, 127.0f32), -127.0f32) + 12_582_912.0f32;
    i32::reinterpret(sum) - 0x4b40_0000i32
}
