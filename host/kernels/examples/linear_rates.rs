//! How fast packed weights are multiplied: `linear_rates [threads] [tokens] [columns]` prints, for
//! each format, the bytes of weights read in a second by one token, and the multiplications in a
//! second by that and by so many tokens, 64 if nothing is said; for floats those of rounded ones
//! too. A matrix has 4096 rows, and as many columns if nothing is said.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Instant;

use skep_kernels::{Activations, Isa, PackedMatrix, Precision, Team, linear};
use skep_weights::PackedFormat;

fn main() {
    let threads = std::env::args().nth(1).map_or(2, |n| n.parse().unwrap());
    let many = std::env::args().nth(2).map_or(64, |n| n.parse().unwrap());
    let columns = std::env::args().nth(3).map_or(4096, |n| n.parse().unwrap());
    let team = Team::new(threads).unwrap();
    let rows = 4096;
    println!(
        "{} on {threads} threads, {rows} × {columns}",
        Isa::best().name()
    );
    for format in PackedFormat::ALL {
        let length = rows * columns / format.block_len() * format.block_bytes();
        let bytes = numbers(format, length);
        let weights = PackedMatrix::new(format, rows, columns, &bytes).unwrap();
        let seconds = |tokens: usize, rounds: bool| {
            let mut input = Activations::default();
            let values: Vec<f32> = (0..tokens * columns).map(|n| (n % 17) as f32).collect();
            match rounds {
                true => input.fill_rounded(Isa::best(), &team, &values, columns),
                false => input.fill(Isa::best(), &team, weights.precision(), &values, columns),
            }
            .unwrap();
            let mut out = vec![0.0; tokens * rows];
            let mut best = f64::MAX;
            for _ in 0..if tokens == 1 { 40 } else { 5 } {
                let began = Instant::now();
                linear(Isa::best(), &team, weights, &input, &mut out).unwrap();
                best = best.min(began.elapsed().as_secs_f64());
            }
            best
        };
        let products = (rows * columns) as f64;
        let alone = seconds(1, false);
        print!(
            "{format:<6} {:6.1} GB/s ({:5.1} G/s) at one token, {:6.1} G/s at {many}",
            length as f64 / alone / 1e9,
            products / alone / 1e9,
            many as f64 * products / seconds(many, false) / 1e9,
        );
        if weights.precision() == Precision::F32 && Isa::best().rounds_floats() {
            let rate = many as f64 * products / seconds(many, true) / 1e9;
            print!(", {rate:6.1} G/s rounded");
        }
        println!();
    }
}

/// Bytes of which every 16-bit float, wherever a format has one, is of a usual size: what is not
/// normal costs many times as much to multiply.
fn numbers(format: PackedFormat, length: usize) -> Vec<u8> {
    // About 0.01 as a 16-bit float, 1 as a bfloat16 and in the upper half of a 32-bit float.
    let pattern = match format {
        PackedFormat::F32 | PackedFormat::BF16 => [0x80, 0x3f],
        _ => [0x21, 0x21],
    };
    (0..length).map(|n| pattern[n % 2]).collect()
}
