//! The row kernels of every instruction set, against plain arithmetic.

use super::*;

/// Runs `act` over `x` with each instruction set.
fn each(act: Activation, x: &[f32], check: impl Fn(f64, f64)) {
    for isa in Isa::available() {
        let mut y = x.to_vec();
        // SAFETY: `y` has the length given.
        unsafe { activate(isa, y.as_mut_ptr(), y.len(), act) };
        for (x, y) in x.iter().zip(&y) {
            check(f64::from(*x), f64::from(*y));
        }
    }
}

/// The error function by its power series, which double precision carries to |x| = 4; beyond, it
/// differs from 1 by less than 2e-8.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn grid() -> Vec<f32> {
    (-90_001..=90_001).map(|i| i as f32 * 1e-4).collect()
}

#[test]
fn gelu_is_exact_to_rounding() {
    each(Activation::Gelu, &grid(), |x, y| {
        let want = x * 0.5 * (1.0 + erf(x / 2_f64.sqrt()));
        let error = (y - want).abs() / x.abs().max(1.0);
        assert!(error < 3e-7, "gelu({x}) = {y}, not {want}");
    });
    each(Activation::Gelu, &[1e30, -1e30, 100.0], |x, y| {
        assert!((y - x.max(0.0)).abs() <= 1e-6 * x.abs());
    });
}

#[test]
fn gelu_by_tanh_is_exact_to_rounding() {
    each(Activation::GeluTanh, &grid(), |x, y| {
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        let want = 0.5 * x * (1.0 + u.tanh());
        assert!((y - want).abs() < 1e-6, "gelu({x}) = {y}, not {want}");
    });
}

#[test]
fn relu_keeps_the_positive() {
    each(Activation::Relu, &grid(), |x, y| assert_eq!(y, x.max(0.0)));
}

#[test]
fn nan_stays_visible() {
    for isa in Isa::available() {
        let mut x = [1.0_f32, f32::NAN, 2.0];
        let (mut q, mut scale) = ([0_i16; 4], 0.0_f32);
        // SAFETY: one row of three.
        unsafe {
            activate_and_quantize(
                isa,
                x.as_mut_ptr(),
                1,
                3,
                Activation::Identity,
                q.as_mut_ptr(),
                &mut scale,
            );
        }
        assert!(scale.is_nan(), "{}", isa.name());
    }
}

#[test]
fn quantization_uses_the_range_and_stays_inside() {
    let mut state = 88_172_645_463_325_252_u64;
    for k in [1_usize, 2, 3, 16, 31, 384, 1536, 4097] {
        let mut x: Vec<f32> = (0..k)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        for isa in Isa::available() {
            let even = k.next_multiple_of(2);
            let (mut q, mut scale) = (vec![1_i16; even], 0.0_f32);
            // SAFETY: one row of `k`.
            unsafe {
                activate_and_quantize(
                    isa,
                    x.as_mut_ptr(),
                    1,
                    k,
                    Activation::Identity,
                    q.as_mut_ptr(),
                    &mut scale,
                );
            }
            let square: i64 = q.iter().map(|&q| i64::from(q) * i64::from(q)).sum();
            assert!(square < 1 << 31, "{k}: the norm would overflow a sum");
            assert!(
                square > 1 << 30 || q.iter().any(|q| q.unsigned_abs() > 32_000),
                "{k}: the range is not used"
            );
            for (x, q) in x.iter().zip(&q) {
                assert!((x - f32::from(*q) * scale).abs() <= 0.51 * scale, "{k}");
            }
            if even > k {
                assert_eq!(q[k], 0);
            }
        }
    }
}
