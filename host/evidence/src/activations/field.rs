//! Polynomials over the field of 65,497 elements.
//!
//! The largest finite bfloat16 pattern is 65,407, so that every one of them is an element.

use std::sync::OnceLock;

use super::LARGEST;

/// A prime. Squares of what is below it fit in 32 bits.
pub(super) const PRIME: u32 = 65_497;

/// Puts the coefficients of the polynomial of least degree through the points into `out`, from
/// the lowest power on: Newton's divided differences, then expansion. There are at most 128
/// points, no two with the same first half, and all halves are below the prime.
pub(super) fn interpolate(points: &[(u16, u16)], out: &mut [u16; LARGEST]) {
    let points = &points[..points.len().min(LARGEST)];
    let inverses = inverses();
    let mut x = [0_u32; LARGEST];
    let mut differences = [0_u32; LARGEST];
    for (place, point) in points.iter().enumerate() {
        x[place] = u32::from(point.0);
        differences[place] = u32::from(point.1);
    }
    let count = points.len();
    for order in 1..count {
        for i in (order..count).rev() {
            let rise = subtract(differences[i], differences[i - 1]);
            let run = subtract(x[i], x[i - order]);
            differences[i] = rise * u32::from(inverses[run as usize]) % PRIME;
        }
    }
    let mut expanded = [0_u32; LARGEST];
    for (degree, i) in (0..count).rev().enumerate() {
        // expanded := expanded · (X − x[i]) + differences[i]
        for power in (1..=degree).rev() {
            let shifted = expanded[power - 1];
            let scaled = expanded[power] * x[i] % PRIME;
            expanded[power] = subtract(shifted, scaled);
        }
        let scaled = expanded[0] * x[i] % PRIME;
        expanded[0] = add(subtract(0, scaled), differences[i]);
    }
    for (coefficient, value) in out.iter_mut().zip(expanded) {
        *coefficient = narrow(value);
    }
}

/// The polynomial's value at `x`, by Horner's rule.
pub(super) fn evaluate(coefficients: &[u16; LARGEST], x: u16) -> u16 {
    let x = u32::from(x) % PRIME;
    let value = coefficients.iter().rev().fold(0, |value, coefficient| {
        add(value * x % PRIME, u32::from(*coefficient) % PRIME)
    });
    narrow(value)
}

fn add(a: u32, b: u32) -> u32 {
    let sum = a + b;
    if sum >= PRIME { sum - PRIME } else { sum }
}

fn subtract(a: u32, b: u32) -> u32 {
    if a >= b { a - b } else { a + PRIME - b }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "elements are below the prime, which has 16 bits"
)]
fn narrow(element: u32) -> u16 {
    element as u16
}

/// The inverse of every element but 0, whose place holds 0: 128 KiB, made once.
fn inverses() -> &'static [u16] {
    static INVERSES: OnceLock<Vec<u16>> = OnceLock::new();
    INVERSES.get_or_init(|| {
        let mut inverses = vec![0, 1];
        for element in 2..PRIME {
            // prime = q·element + r, hence element⁻¹ = −q · r⁻¹.
            let (quotient, rest) = (PRIME / element, PRIME % element);
            let inverse = (PRIME - quotient) * u32::from(inverses[rest as usize]) % PRIME;
            inverses.push(narrow(inverse));
        }
        inverses
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_element_has_its_inverse() {
        for element in 1..PRIME {
            assert_eq!(element * u32::from(inverses()[element as usize]) % PRIME, 1);
        }
        assert!(
            (2..256).all(|divisor| !PRIME.is_multiple_of(divisor)),
            "it is a prime"
        );
    }

    proptest! {
        #[test]
        fn a_polynomial_goes_through_its_points(
            points in proptest::collection::btree_map(0..PRIME as u16, 0..PRIME as u16, 1..=LARGEST)
        ) {
            let points: Vec<(u16, u16)> = points.into_iter().collect();
            let mut coefficients = [0; LARGEST];
            interpolate(&points, &mut coefficients);
            for (x, y) in &points {
                prop_assert_eq!(evaluate(&coefficients, *x), *y);
            }
            prop_assert!(coefficients[points.len()..].iter().all(|c| *c == 0));
            // The order of the points makes no difference.
            let reversed: Vec<_> = points.into_iter().rev().collect();
            let mut again = [0; LARGEST];
            interpolate(&reversed, &mut again);
            prop_assert_eq!(again, coefficients);
        }
    }
}
