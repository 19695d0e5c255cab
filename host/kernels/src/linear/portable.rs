//! Products in plain Rust: what runs where there is no kernel for the processor, and what the
//! kernels are held against. A block is taken apart by the definition of its format.

use skep_weights::PackedFormat;
use skep_weights::format::dequantize;
use skep_weights::grouped::GroupRow;

use crate::activations::Activations;

/// The product of one row with one token.
pub fn dot(format: PackedFormat, row: &[u8], input: &Activations, token: usize) -> f32 {
    let block = format.block_len();
    let start = token * input.columns;
    if block == 1 {
        return dot_floats(format, row, &input.values[start..start + input.columns]);
    }
    let mut weights = [0.0_f32; 256];
    let weights = &mut weights[..block];
    let mut total = 0.0;
    for (n, bytes) in row.chunks_exact(format.block_bytes()).enumerate() {
        if dequantize(format, bytes, weights).is_err() {
            // A whole block has whatever length its format says.
            return f32::NAN;
        }
        let from = start + n * block;
        let quants = &input.quants[from..from + block];
        let sum: f32 = weights
            .iter()
            .zip(quants)
            .map(|(weight, quant)| weight * f32::from(*quant))
            .sum();
        total += sum * input.scales[from / block];
    }
    total
}

/// The product of one row of groups of `group` columns with one token.
pub fn dot_groups(row: &GroupRow<'_>, group: usize, input: &Activations, token: usize) -> f32 {
    let start = token * input.columns;
    let mut total = 0.0;
    for (n, bytes) in row.quants.as_chunks::<16>().0.iter().enumerate() {
        let from = start + 32 * n;
        let quants = &input.quants[from..from + 32];
        let zero = i32::from(row.zeros[32 * n / group]);
        let mut sum = 0;
        for (i, byte) in bytes.iter().enumerate() {
            let (low, high) = (i32::from(byte & 15), i32::from(byte >> 4));
            sum += (low - zero) * i32::from(quants[i]) + (high - zero) * i32::from(quants[16 + i]);
        }
        let scale = row.scales[32 * n / group].to_f32() * input.scales[from / 32];
        total += sum as f32 * scale;
    }
    total
}

/// In sixteen sums side by side, so that the compiler may use wide registers.
fn dot_floats(format: PackedFormat, row: &[u8], values: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    let mut weights = [0.0_f32; 16];
    let width = format.block_bytes();
    for (bytes, values) in row.chunks(16 * width).zip(values.chunks(16)) {
        let weights = &mut weights[..values.len()];
        if dequantize(format, bytes, weights).is_err() {
            return f32::NAN;
        }
        for ((sum, weight), value) in sums.iter_mut().zip(weights).zip(values) {
            *sum += *weight * value;
        }
    }
    sums.iter().sum()
}
