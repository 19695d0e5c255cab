//! Kernels that go over one row at a time: activation, quantization to 16 bits, residual with
//! layer normalisation, and the elementary functions they are made of.

use super::Isa;
use super::isa::dispatch;
use super::simd::Simd;

/// What is applied to each element of a linear layer's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `x Φ(x)`, the exact Gaussian error linear unit.
    Gelu,
    /// The approximation of GELU by a hyperbolic tangent.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// `e^x`, relative error below 2e-7 for x in -87..=88; smaller arguments give about 1e-38, larger
/// ones about 1e38. NaN gives a finite number: keep NaN out with a sum of the inputs.
#[inline(always)]
pub(crate) unsafe fn exp<V: Simd>(x: V::F) -> V::F {
    // e^x = 2^n e^r with n = round(x / ln 2); ln 2 in two parts; e^r by its Taylor polynomial of
    // degree 7, whose remainder for |r| <= ln(2)/2 is below 6e-9.
    // SAFETY: arithmetic only, under the caller's promise of the instruction set.
    unsafe {
        let x = V::min(V::max(x, V::splat(-87.0)), V::splat(88.0));
        let n = V::round(V::mul(x, V::splat(std::f32::consts::LOG2_E)));
        let r = V::fma(n, V::splat(-0.693_359_4), x);
        let r = V::fma(n, V::splat(2.121_944_4e-4), r);
        let mut p = V::splat(1.0 / 5040.0);
        p = V::fma(p, r, V::splat(1.0 / 720.0));
        p = V::fma(p, r, V::splat(1.0 / 120.0));
        p = V::fma(p, r, V::splat(1.0 / 24.0));
        p = V::fma(p, r, V::splat(1.0 / 6.0));
        p = V::fma(p, r, V::splat(0.5));
        p = V::fma(p, r, V::splat(1.0));
        p = V::fma(p, r, V::splat(1.0));
        V::mul(p, V::exp2_int(n))
    }
}

/// `x Φ(x)`: exact GELU. The error is below 2e-7 · max(1, |x|).
///
/// `Φ(x) - 1/2` is `x P(x²) / Q(x²)` for |x| <= 5.4 and constant beyond, where it has reached
/// 1/2 to the last bit; P and Q were fitted by iteratively reweighted least squares to the error
/// function in double precision (greatest error of the fit 5.5e-9).
#[inline(always)]
pub(crate) unsafe fn gelu<V: Simd>(x: V::F) -> V::F {
    const P: [f32; 6] = [
        0.398_942_23,
        0.033_372_205,
        0.004_650_849,
        0.000_164_321_38,
        6.360_012_3e-6,
        2.338_672_4e-8,
    ];
    const Q: [f32; 6] = [
        1.0,
        0.250_317_78,
        0.028_378_67,
        0.001_858_979_6,
        7.240_006e-5,
        1.216_59e-6,
    ];
    // SAFETY: arithmetic only, under the caller's promise of the instruction set.
    unsafe {
        let c = V::min(V::max(x, V::splat(-5.4)), V::splat(5.4));
        let t = V::mul(c, c);
        let mut p = V::splat(P[5]);
        let mut q = V::splat(Q[5]);
        for i in (0..5).rev() {
            p = V::fma(p, t, V::splat(P[i]));
            q = V::fma(q, t, V::splat(Q[i]));
        }
        let half = V::div(V::mul(c, p), q);
        V::mul(x, V::add(half, V::splat(0.5)))
    }
}

/// `x / (1 + e^(-2u))` with `u = sqrt(2/π) (x + 0.044715 x³)`: GELU by tanh.
#[inline(always)]
unsafe fn gelu_tanh<V: Simd>(x: V::F) -> V::F {
    // SAFETY: arithmetic only, under the caller's promise of the instruction set.
    unsafe {
        let cube = V::mul(V::mul(x, x), x);
        let u = V::fma(cube, V::splat(0.044_715), x);
        let e = exp::<V>(V::mul(u, V::splat(-2.0 * 0.797_884_6)));
        V::div(x, V::add(e, V::splat(1.0)))
    }
}

/// A function of one vector. A trait and not a closure, so that it is always inlined.
trait Map {
    unsafe fn of<V: Simd>(x: V::F) -> V::F;
}

macro_rules! map {
    ($name:ident, $x:ident => $of:expr) => {
        struct $name;
        impl Map for $name {
            #[inline(always)]
            unsafe fn of<V: Simd>($x: V::F) -> V::F {
                // SAFETY: arithmetic only, under the caller's promise of the instruction set.
                unsafe { $of }
            }
        }
    };
}

map!(Gelu, x => gelu::<V>(x));
map!(GeluTanh, x => gelu_tanh::<V>(x));
// The second operand wins where one is NaN.
map!(Relu, x => V::max(V::splat(0.0), x));

/// Applies `act` to `n` elements in place.
#[inline(always)]
unsafe fn activate_row<V: Simd>(x: *mut f32, n: usize, act: Activation) {
    // SAFETY: `map` keeps to `n` elements.
    unsafe {
        match act {
            Activation::Identity => {}
            Activation::Gelu => map::<V, Gelu>(x, n),
            Activation::GeluTanh => map::<V, GeluTanh>(x, n),
            Activation::Relu => map::<V, Relu>(x, n),
        }
    }
}

/// `x[i] = M(x[i])`; the tail goes through a buffer, with the same arithmetic.
#[inline(always)]
unsafe fn map<V: Simd, M: Map>(x: *mut f32, n: usize) {
    let mut i = 0;
    // SAFETY: every access is to an element below `n`.
    unsafe {
        while i < n {
            store_part::<V>(x, i, n, M::of::<V>(load_part::<V>(x, i, n)));
            i += V::LANES;
        }
    }
}

/// Loads the vector at `i`, with zeros past the end of `n` elements.
#[inline(always)]
unsafe fn load_part<V: Simd>(x: *const f32, i: usize, n: usize) -> V::F {
    // SAFETY: reads only elements below `n`.
    unsafe {
        if i + V::LANES <= n {
            V::load(x.wrapping_add(i))
        } else {
            let mut rest = [0.0_f32; 16];
            std::ptr::copy_nonoverlapping(x.wrapping_add(i), rest.as_mut_ptr(), n - i);
            V::load(rest.as_ptr())
        }
    }
}

/// Stores the vector at `i`, but nothing past the end of `n` elements.
#[inline(always)]
unsafe fn store_part<V: Simd>(x: *mut f32, i: usize, n: usize, value: V::F) {
    // SAFETY: writes only elements below `n`.
    unsafe {
        if i + V::LANES <= n {
            V::store(x.wrapping_add(i), value);
        } else {
            let mut rest = [0.0_f32; 16];
            V::store(rest.as_mut_ptr(), value);
            std::ptr::copy_nonoverlapping(rest.as_ptr(), x.wrapping_add(i), n - i);
        }
    }
}

/// The greatest magnitude of `i16` that rounding may reach.
const TOP: f32 = 32_766.0;
/// `sqrt(2^31)`, less one for the rounding of the norm itself.
const NORM: f32 = 46_339.0;

/// Turns one row of `k` floats into `k.next_multiple_of(2)` 16-bit integers and returns the
/// factor that turns them back.
///
/// The row is scaled until either its greatest element is at the end of the 16-bit range or its
/// Euclidean norm is at `sqrt(2^31) - sqrt(k)/2`. Rounding moves the norm by at most `sqrt(k)/2`,
/// so by Cauchy and Schwarz the product of two such rows, and of any part of them, is below 2^31.
/// A row with a NaN or an infinity gets the factor NaN, so that it stays visible.
#[inline(always)]
unsafe fn quantize_row<V: Simd>(x: *const f32, k: usize, to: *mut i16) -> f32 {
    // SAFETY: reads `k` floats, writes `k` rounded up to even.
    unsafe {
        let mut square = [V::splat(0.0); 2];
        let mut top = [V::splat(0.0); 2];
        let mut i = 0;
        while i + 2 * V::LANES <= k {
            for u in 0..2 {
                let v = V::load(x.wrapping_add(i + u * V::LANES));
                square[u] = V::fma(v, v, square[u]);
                top[u] = V::max(top[u], V::abs(v));
            }
            i += 2 * V::LANES;
        }
        while i < k {
            let v = load_part::<V>(x, i, k);
            square[0] = V::fma(v, v, square[0]);
            top[0] = V::max(top[0], V::abs(v));
            i += V::LANES;
        }
        let square = V::hsum(V::add(square[0], square[1]));
        let top = V::hmax(V::max(top[0], top[1]));
        if square.is_nan() || top == f32::INFINITY {
            zero(to, k);
            return f32::NAN;
        }
        // Squares may overflow or vanish although the elements do not; the greatest element
        // bounds the norm well enough then.
        let norm = if square.is_finite() && square > 1e-30 {
            square.sqrt()
        } else {
            top * (k as f32).sqrt()
        };
        let limit = NORM - 0.5 * (k as f32).sqrt();
        let scale = (limit / norm).min(TOP / top);
        if !scale.is_normal() {
            // Infinite: nothing there, or nothing that a float holds to any precision. Zero: the
            // norm is beyond the range of a float.
            zero(to, k);
            return if scale == f32::INFINITY {
                0.0
            } else {
                f32::NAN
            };
        }
        let by = V::splat(scale);
        let mut i = 0;
        while i + V::LANES <= k {
            V::store_i16(to.wrapping_add(i), V::mul(V::load(x.wrapping_add(i)), by));
            i += V::LANES;
        }
        if i < k {
            let mut rest = [0_i16; 16];
            V::store_i16(rest.as_mut_ptr(), V::mul(load_part::<V>(x, i, k), by));
            std::ptr::copy_nonoverlapping(
                rest.as_ptr(),
                to.wrapping_add(i),
                k.next_multiple_of(2) - i,
            );
        }
        1.0 / scale
    }
}

#[inline(always)]
unsafe fn zero(to: *mut i16, k: usize) {
    // SAFETY: the row holds `k` rounded up to even elements.
    unsafe { std::ptr::write_bytes(to, 0, k.next_multiple_of(2)) };
}

/// Activates and quantizes `m` rows of `k` floats. `x` is changed in place by the activation.
///
/// # Safety
/// `x` holds `m * k`, `to` `m * k.next_multiple_of(2)` and `scales` `m` elements.
pub(crate) unsafe fn activate_and_quantize(
    isa: Isa,
    x: *mut f32,
    m: usize,
    k: usize,
    act: Activation,
    to: *mut i16,
    scales: *mut f32,
) {
    #[inline(always)]
    unsafe fn run<V: Simd>(
        x: *mut f32,
        m: usize,
        k: usize,
        act: Activation,
        to: *mut i16,
        scales: *mut f32,
    ) {
        for r in 0..m {
            // SAFETY: row `r` of each.
            unsafe {
                let row = x.wrapping_add(r * k);
                activate_row::<V>(row, k, act);
                *scales.wrapping_add(r) =
                    quantize_row::<V>(row, k, to.wrapping_add(r * k.next_multiple_of(2)));
            }
        }
    }
    dispatch!(isa, run(x: *mut f32, m: usize, k: usize, act: Activation, to: *mut i16, scales: *mut f32));
}

/// Applies `act` to `n` elements in place.
///
/// # Safety
/// `x` holds `n` elements.
pub(crate) unsafe fn activate(isa: Isa, x: *mut f32, n: usize, act: Activation) {
    #[inline(always)]
    unsafe fn run<V: Simd>(x: *mut f32, n: usize, act: Activation) {
        // SAFETY: as promised by the caller.
        unsafe { activate_row::<V>(x, n, act) }
    }
    dispatch!(isa, run(x: *mut f32, n: usize, act: Activation));
}

/// Arguments of [`add_and_normalize`].
pub(crate) struct Normalize {
    /// `[m, n]`; receives the result.
    pub x: *mut f32,
    /// `[m, n]` to add first, or null.
    pub add: *const f32,
    pub m: usize,
    pub n: usize,
    /// `[n]` each.
    pub gamma: *const f32,
    pub beta: *const f32,
    pub eps: f32,
}

/// `x = layer_norm(x + add) * gamma + beta` row by row: mean first, then the mean square of the
/// differences.
///
/// # Safety
/// The pointers of `p` hold what is documented there, `n > 0`.
pub(crate) unsafe fn add_and_normalize(isa: Isa, p: &Normalize) {
    #[inline(always)]
    unsafe fn run<V: Simd>(p: &Normalize) {
        for r in 0..p.m {
            // SAFETY: row `r`.
            unsafe { normalize_row::<V>(p, p.x.wrapping_add(r * p.n), r * p.n) }
        }
    }
    dispatch!(isa, run(p: &Normalize));
}

#[inline(always)]
unsafe fn normalize_row<V: Simd>(p: &Normalize, x: *mut f32, offset: usize) {
    let n = p.n;
    // SAFETY: every access is to an element below `n` of the row.
    unsafe {
        let mut sum = V::splat(0.0);
        let mut i = 0;
        while i < n {
            let mut v = load_part::<V>(x, i, n);
            if !p.add.is_null() {
                v = V::add(v, load_part::<V>(p.add.wrapping_add(offset), i, n));
                store_part::<V>(x, i, n, v);
            }
            sum = V::add(sum, v);
            i += V::LANES;
        }
        let mean = V::hsum(sum) / n as f32;
        let by = V::splat(mean);
        let mut square = V::splat(0.0);
        let mut i = 0;
        while i + V::LANES <= n {
            let d = V::sub(V::load(x.wrapping_add(i)), by);
            square = V::fma(d, d, square);
            i += V::LANES;
        }
        let mut square = V::hsum(square);
        while i < n {
            let d = x.wrapping_add(i).read_unaligned() - mean;
            square += d * d;
            i += 1;
        }
        let by = V::splat(1.0 / (square / n as f32 + p.eps).sqrt());
        let mean = V::splat(mean);
        let mut i = 0;
        while i < n {
            let d = V::mul(V::sub(load_part::<V>(x, i, n), mean), by);
            let y = V::fma(
                d,
                load_part::<V>(p.gamma, i, n),
                load_part::<V>(p.beta, i, n),
            );
            store_part::<V>(x, i, n, y);
            i += V::LANES;
        }
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
