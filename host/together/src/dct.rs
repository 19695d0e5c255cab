//! The orthonormal discrete cosine transform (DCT-II, Ahmed, Natarajan and Rao 1974) of chunks of
//! rows and columns, and its inverse.
//!
//! Sides are at most 64, so a product with the matrix of the transform is as fast as anything.
//! Cosines come from `libm` and sums have one order: nodes on different systems get the same bits.

use std::f64::consts::PI;

/// The transform of one side.
#[derive(Debug, Clone)]
pub struct Dct {
    side: usize,
    /// `[frequencies, places]`.
    matrix: Vec<f32>,
}

impl Dct {
    /// That of a side of so many numbers.
    #[must_use]
    pub fn new(side: usize) -> Self {
        let n = side as f64;
        let entry = |at: usize| {
            let (frequency, place) = (at / side, at % side);
            let size = match frequency {
                0 => (1.0 / n).sqrt(),
                _ => (2.0 / n).sqrt(),
            };
            (size * libm::cos(PI * (place as f64 + 0.5) * frequency as f64 / n)) as f32
        };
        Self {
            side,
            matrix: (0..side * side).map(entry).collect(),
        }
    }

    /// How many numbers it transforms.
    #[must_use]
    pub fn side(&self) -> usize {
        self.side
    }

    fn at(&self, frequency: usize, place: usize) -> f32 {
        self.matrix[frequency * self.side + place]
    }
}

/// Transforms a chunk of `rows.side() * columns.side()` numbers, row by row, in both directions of
/// the plane. `scratch` is as long.
pub fn forward(rows: &Dct, columns: &Dct, chunk: &mut [f32], scratch: &mut [f32]) {
    product(rows, columns, chunk, scratch, |dct, to, from| {
        dct.at(to, from)
    });
}

/// Makes a chunk of its frequencies.
pub fn inverse(rows: &Dct, columns: &Dct, chunk: &mut [f32], scratch: &mut [f32]) {
    product(rows, columns, chunk, scratch, |dct, to, from| {
        dct.at(from, to)
    });
}

fn product(
    rows: &Dct,
    columns: &Dct,
    chunk: &mut [f32],
    scratch: &mut [f32],
    entry: impl Fn(&Dct, usize, usize) -> f32,
) {
    let (height, width) = (rows.side, columns.side);
    scratch.fill(0.0);
    for row in 0..height {
        let source = &chunk[row * width..][..width];
        let target = &mut scratch[row * width..][..width];
        for (from, x) in source.iter().enumerate() {
            for (to, out) in target.iter_mut().enumerate() {
                *out += entry(columns, to, from) * x;
            }
        }
    }
    chunk.fill(0.0);
    for from in 0..height {
        let source = &scratch[from * width..][..width];
        for to in 0..height {
            let weight = entry(rows, to, from);
            let target = &mut chunk[to * width..][..width];
            for (out, x) in target.iter_mut().zip(source) {
                *out += weight * x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, in 64 bits.
    fn naive(height: usize, width: usize, chunk: &[f32]) -> Vec<f64> {
        let size = |k: usize, n: usize| (if k == 0 { 1.0 } else { 2.0 } / n as f64).sqrt();
        let wave = |k: usize, at: usize, n: usize| {
            (PI / n as f64 * (at as f64 + 0.5) * k as f64).cos() * size(k, n)
        };
        let one = |k: usize, l: usize| {
            let all = (0..height).flat_map(|i| (0..width).map(move |j| (i, j)));
            all.map(|(i, j)| {
                f64::from(chunk[i * width + j]) * wave(k, i, height) * wave(l, j, width)
            })
            .sum()
        };
        (0..height * width)
            .map(|at| one(at / width, at % width))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn it_is_orthonormal_and_that_of_the_definition(
            height in 1_usize..20,
            width in 1_usize..20,
            numbers in prop::collection::vec(-1.0_f32..1.0, 400),
        ) {
            let (rows, columns) = (Dct::new(height), Dct::new(width));
            let truth = &numbers[..height * width];
            let mut chunk = truth.to_vec();
            let mut scratch = vec![0.0; chunk.len()];
            forward(&rows, &columns, &mut chunk, &mut scratch);
            for (got, want) in chunk.iter().zip(naive(height, width, truth)) {
                prop_assert!((f64::from(*got) - want).abs() < 1e-5);
            }
            let energy = |x: &[f32]| x.iter().map(|x| f64::from(x * x)).sum::<f64>();
            prop_assert!((energy(&chunk) - energy(truth)).abs() < 1e-4 * (1.0 + energy(truth)));
            inverse(&rows, &columns, &mut chunk, &mut scratch);
            for (got, want) in chunk.iter().zip(truth) {
                prop_assert!((got - want).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_side_of_64_comes_back() {
        let dct = Dct::new(64);
        let truth: Vec<f32> = (0..64 * 64)
            .map(|n| ((n * 37) % 101) as f32 / 50.0 - 1.0)
            .collect();
        let mut chunk = truth.clone();
        let mut scratch = vec![0.0; chunk.len()];
        forward(&dct, &dct, &mut chunk, &mut scratch);
        inverse(&dct, &dct, &mut chunk, &mut scratch);
        let furthest = chunk.iter().zip(&truth).map(|(x, y)| (x - y).abs());
        assert!(furthest.fold(0.0, f32::max) < 1e-5);
    }
}
