//! The curve between both products of an encoder's feed-forward layer, and its slope.

use skep_kernels::rows::exp;

use crate::gemm::Workers;
use crate::operators::rows::{gelu, wide};
use crate::operators::share_rows;

/// What each element goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    /// `x Φ(x)` (arXiv 1606.08415).
    Gelu,
    /// Its approximation by a hyperbolic tangent.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// `out = curve(x)`.
pub(crate) fn activate(workers: Workers<'_>, curve: Curve, x: &[f32], out: &mut [f32]) {
    share_rows(workers.team, out, 1, |first, out| {
        activate_rows(workers.simd, curve, &x[first..][..out.len()], out);
    });
}

/// Puts the gradient of the input in the place of that of the output.
pub(crate) fn activate_backward(
    workers: Workers<'_>,
    curve: Curve,
    x: &[f32],
    gradient: &mut [f32],
) {
    share_rows(workers.team, gradient, 1, |first, gradient| {
        let x = &x[first..][..gradient.len()];
        activate_rows_backward(workers.simd, curve, x, gradient);
    });
}

wide! {
    fn activate_rows(curve: Curve, x: &[f32], out: &mut [f32]) {
        let pairs = out.iter_mut().zip(x);
        match curve {
            Curve::Gelu => pairs.for_each(|(out, x)| *out = exact_gelu(*x).0),
            Curve::GeluTanh => pairs.for_each(|(out, x)| *out = gelu(*x).0),
            Curve::Relu => pairs.for_each(|(out, x)| *out = x.max(0.0)),
        }
    }
}

wide! {
    fn activate_rows_backward(curve: Curve, x: &[f32], gradient: &mut [f32]) {
        let pairs = gradient.iter_mut().zip(x);
        match curve {
            Curve::Gelu => pairs.for_each(|(dy, x)| *dy *= exact_gelu(*x).1),
            Curve::GeluTanh => pairs.for_each(|(dy, x)| *dy *= gelu(*x).1),
            Curve::Relu => pairs.for_each(|(dy, x)| *dy = if *x > 0.0 { *dy } else { 0.0 }),
        }
    }
}

/// `x Φ(x)` and its slope `Φ(x) + x φ(x)`. The error function by Abramowitz and Stegun, 7.1.26,
/// within 1.5e-7; it needs the exponential that the density is.
#[inline(always)]
fn exact_gelu(x: f32) -> (f32, f32) {
    const ROOT_OF_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;
    // 1 / sqrt(2 pi).
    const DENSITY: f32 = 0.398_942_3;
    let z = x.abs() * ROOT_OF_HALF;
    let bell = exp(-z * z);
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let tail = ((((1.061_405_4 * t - 1.453_152) * t + 1.421_413_7) * t - 0.284_496_74) * t
        + 0.254_829_6)
        * t
        * bell;
    // Half of what lies beyond |x| on both sides.
    let beyond = 0.5 * tail;
    let share = if x < 0.0 { beyond } else { 1.0 - beyond };
    (x * share, share + x * DENSITY * bell)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::Simd;
    use crate::random::test_values;
    use crate::testing::check_gradients;
    use skep_kernels::Team;

    #[test]
    fn the_exact_curve_has_known_values() {
        for (x, want) in [
            (0.0, 0.0),
            (1.0, 0.841_344_8),
            (-1.0, -0.158_655_25),
            (0.5, 0.345_731_23),
            (-3.0, -0.004_049_694),
            (6.0, 6.0),
            (-40.0, 0.0),
        ] {
            let (got, _) = exact_gelu(x);
            assert!((got - want).abs() < 1e-6, "{x}: {got} {want}");
        }
    }

    #[test]
    fn curves_have_the_gradients_of_differences() {
        let team = Team::new(2).unwrap();
        for simd in Simd::available() {
            let workers = Workers { simd, team: &team };
            for curve in [Curve::Gelu, Curve::GeluTanh, Curve::Relu] {
                // Nothing near the corner of the last one.
                let away = |x: f32| 3.0 * x + if x < 0.0 { -0.1 } else { 0.1 };
                check_gradients(
                    vec![test_values(37, 1).into_iter().map(away).collect()],
                    |values| {
                        let mut out = vec![0.0; 37];
                        activate(workers, curve, &values[0], &mut out);
                        out
                    },
                    |values, dy| {
                        let mut gradient = dy.to_vec();
                        activate_backward(workers, curve, &values[0], &mut gradient);
                        vec![gradient]
                    },
                );
            }
        }
    }
}
