//! The products of adapters in plain Rust.

use half::f16;

use super::ROWS;

/// The product of each row with each input, in eight sums side by side.
pub fn products<const T: usize>(rows: [&[f16]; ROWS], inputs: [&[f32]; T]) -> [[f32; T]; ROWS] {
    rows.map(|row| {
        inputs.map(|input| {
            let mut sums = [0.0_f32; 8];
            for (row, input) in row.chunks(8).zip(input.chunks(8)) {
                for ((sum, weight), x) in sums.iter_mut().zip(row).zip(input) {
                    *sum += weight.to_f32() * x;
                }
            }
            sums.iter().sum()
        })
    })
}

/// `out += Σ factors[n] · rows[n]`.
pub fn add_rows(rows: &[&[f16]], factors: &[f32], out: &mut [f32]) {
    for (row, factor) in rows.iter().zip(factors) {
        for (out, weight) in out.iter_mut().zip(*row) {
            *out += weight.to_f32() * factor;
        }
    }
}
