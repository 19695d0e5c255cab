//! Many tokens against each of them alone, which takes the way of few.

use half::{bf16, f16};

use super::*;
use crate::{Isa, Precision, Team, linear};

/// Of both signs and several sizes: in another order their sums have other bits.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    let one = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let size = [1.0, 8.0, 0.125, 1e-3][state as usize % 4];
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * size
    };
    (0..count).map(one).collect()
}

/// Puts what is not finite into every few rows, in other columns each time, the last one first.
pub fn spoil(rows: &mut [f32], columns: usize, every: usize) {
    let odd = [f32::INFINITY, f32::NAN, f32::NEG_INFINITY];
    let places = rows.iter_mut().skip(columns - 1);
    let places = places.step_by(every * columns + 3);
    for (place, odd) in places.zip(odd.iter().cycle()) {
        *place = *odd;
    }
}

pub fn packed(format: PackedFormat, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        match format {
            PackedFormat::F32 => bytes.extend(value.to_le_bytes()),
            PackedFormat::F16 => bytes.extend(f16::from_f32(*value).to_le_bytes()),
            _ => bytes.extend(bf16::from_f32(*value).to_le_bytes()),
        }
    }
    bytes
}

/// One NaN is as good as another: which of two a product keeps is not said.
pub fn bits(values: &[f32]) -> Vec<u32> {
    let one = |x: &f32| {
        let x = if x.is_nan() { f32::NAN } else { *x };
        x.to_bits()
    };
    values.iter().map(one).collect()
}

/// Fewer columns than a register and than a block has, as many, and more; fewer rows than a
/// four and than sixteen, as many, and more; groups of four, five and six tokens, and more of them
/// than pass by at a time.
#[test]
fn many_tokens_have_the_bits_of_each_alone() {
    if !Isa::Avx512.is_available() {
        return;
    }
    let team = Team::new(2).unwrap();
    let most = 2 * GROUPS * FloatGroups::TOKENS + 7;
    let counts: Vec<usize> = (FEWEST..FEWEST + 13)
        .chain([GROUPS * FloatGroups::TOKENS, most])
        .collect();
    let mut input = Activations::default();
    for format in [PackedFormat::F32, PackedFormat::F16, PackedFormat::BF16] {
        for (rows, columns) in [(1, 1), (3, 15), (16, 16), (20, 512), (37, 513), (21, 1031)] {
            let mut weights = numbers(rows * columns, 7);
            spoil(&mut weights, columns, 5);
            let bytes = packed(format, &weights);
            let matrix = PackedMatrix::new(format, rows, columns, &bytes).unwrap();
            let mut values = numbers(most * columns, 11);
            spoil(&mut values, columns, 13);
            let mut want = vec![0.0; most * rows];
            for (values, want) in values.chunks(columns).zip(want.chunks_mut(rows)) {
                input
                    .fill(Isa::Avx512, &team, Precision::F32, values, columns)
                    .unwrap();
                assert!(!input.groups.are_filled());
                linear(Isa::Avx512, &team, matrix, &input, want).unwrap();
            }
            let want = bits(&want);
            let isas = Isa::available();
            for isa in isas.into_iter().filter(|isa| *isa >= Isa::Avx512) {
                for tokens in &counts {
                    let values = &values[..tokens * columns];
                    input
                        .fill(isa, &team, Precision::F32, values, columns)
                        .unwrap();
                    assert!(input.groups.are_filled());
                    let mut got = vec![0.0; tokens * rows];
                    linear(isa, &team, matrix, &input, &mut got).unwrap();
                    let name = isa.name();
                    assert!(
                        bits(&got) == want[..tokens * rows],
                        "{name} {format:?} {rows} × {columns}, {tokens} tokens"
                    );
                }
            }
        }
    }
}

/// An input that was laid out in groups and is filled again, in another way and in the same, after
/// a product whose sums a thread still has.
#[test]
fn nothing_is_left_of_what_was_there_before() {
    if !Isa::Avx512.is_available() {
        return;
    }
    let team = Team::new(1).unwrap();
    let (rows, columns, tokens) = (18, 300, FEWEST + 1);
    let bytes = packed(PackedFormat::BF16, &numbers(rows * columns, 3));
    let matrix = PackedMatrix::new(PackedFormat::BF16, rows, columns, &bytes).unwrap();
    let values = numbers(tokens * columns, 5);
    let product = |input: &Activations| {
        let mut out = vec![f32::NAN; tokens * rows];
        linear(Isa::Avx512, &team, matrix, input, &mut out).unwrap();
        bits(&out)
    };
    let mut fresh = Activations::default();
    fresh
        .fill(Isa::Avx512, &team, Precision::F32, &values, columns)
        .unwrap();
    let want = product(&fresh);
    let mut used = Activations::default();
    let infinite = vec![f32::INFINITY; 3 * tokens * columns];
    used.fill(Isa::Avx512, &team, Precision::F32, &infinite, columns)
        .unwrap();
    let mut out = vec![0.0; 3 * tokens * rows];
    linear(Isa::Avx512, &team, matrix, &used, &mut out).unwrap();
    assert!(!out.iter().any(|sum| sum.is_finite()));
    // Not in groups: the results of those before may not come back.
    used.fill(Isa::Portable, &team, Precision::F32, &values, columns)
        .unwrap();
    assert!(!used.groups.are_filled());
    assert_eq!(product(&used), want);
    used.fill(Isa::Avx512, &team, Precision::F32, &infinite, columns)
        .unwrap();
    used.fill(Isa::Avx512, &team, Precision::F32, &values, columns)
        .unwrap();
    assert!(used.groups.are_filled());
    assert_eq!(product(&used), want);
}
