//! The vector operations that the kernels are written in.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod portable;

/// A vector of `f32` and one of `i32` with equally many lanes, and what the kernels need of them.
///
/// # Safety
/// Every function may only be called where the instruction set of the implementor is available
/// (inlined into a function with the target features enabled), and pointers must be valid for
/// the lanes read or written. No alignment is assumed.
pub(crate) trait Simd: Copy {
    /// `LANES` numbers of type `f32`.
    type F: Copy;
    /// `LANES` numbers of type `i32`, or `2 * LANES` of type `i16`.
    type I: Copy;
    /// Lanes of a vector.
    const LANES: usize;
    /// Rows of a matrix-product tile (its width is always two vectors);
    /// chosen so that `2 * ROWS + 4` vectors fit the registers.
    const ROWS: usize;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, x: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The greater of each pair; where `a` is NaN, `b`.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The lesser of each pair; where `a` is NaN, `b`.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    /// The nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `2^a` for integers `a` in -126..=127.
    unsafe fn exp2_int(a: Self::F) -> Self::F;
    /// Sum over the lanes, in a fixed order.
    unsafe fn hsum(a: Self::F) -> f32;
    /// Greatest lane.
    unsafe fn hmax(a: Self::F) -> f32;
    /// Rounds to nearest even and stores as `LANES` `i16`, saturating.
    unsafe fn store_i16(p: *mut i16, x: Self::F);

    unsafe fn zero_i() -> Self::I;
    /// Loads `2 * LANES` `i16`.
    unsafe fn load_i16(p: *const i16) -> Self::I;
    /// With `x` the two `i16` at `a + 2 * S`, adds to each lane of both vectors
    /// `x[0] * b[2i] + x[1] * b[2i + 1]`.
    unsafe fn dot_row<const S: usize>(
        acc: [Self::I; 2],
        a: *const i16,
        b: [Self::I; 2],
    ) -> [Self::I; 2];
    unsafe fn to_f32(a: Self::I) -> Self::F;
}
