//! Products of rounded numbers against the same in double precision, and against each other: a
//! token's have the same bits however many others there are.

use half::bf16;
use skep_weights::format::dequantize;

use super::super::tests::{bits, numbers, packed, spoil};
use super::super::{FloatGroups, GROUPS};
use crate::linear::PackedMatrix;
use crate::{Activations, Isa, Team, linear};
use skep_weights::PackedFormat;

const FORMATS: [PackedFormat; 3] = [PackedFormat::F32, PackedFormat::F16, PackedFormat::BF16];

fn rounded(value: f32) -> f64 {
    f64::from(bf16::from_f32(value).to_f32())
}

/// In double precision, from both sides as they are rounded; and how large what is added up is.
fn expected(matrix: &PackedMatrix<'_>, values: &[f32]) -> Vec<(f64, f64)> {
    let mut weights = vec![0.0; matrix.columns()];
    let mut all = Vec::new();
    for values in values.chunks_exact(matrix.columns()) {
        for row in 0..matrix.rows() {
            dequantize(matrix.format(), matrix.row(row), &mut weights).unwrap();
            let products = weights.iter().zip(values);
            let products: Vec<f64> = products.map(|(w, x)| rounded(*w) * rounded(*x)).collect();
            all.push((
                products.iter().sum(),
                products.iter().map(|x| x.abs()).sum(),
            ));
        }
    }
    all
}

#[test]
fn products_are_those_of_what_is_rounded() {
    let isa = Isa::best();
    if !isa.rounds_floats() {
        return;
    }
    let team = Team::new(2).unwrap();
    let mut input = Activations::default();
    for format in FORMATS {
        for (rows, columns) in [
            (1, 1),
            (3, 31),
            (16, 32),
            (20, 1024),
            (37, 1025),
            (21, 2060),
        ] {
            let bytes = packed(format, &numbers(rows * columns, 7));
            let matrix = PackedMatrix::new(format, rows, columns, &bytes).unwrap();
            for tokens in [1, 2, 3, 6, 7, 8, 40, GROUPS * FloatGroups::TOKENS + 5] {
                let values = numbers(tokens * columns, 11);
                input.fill_rounded(isa, &team, &values, columns).unwrap();
                let mut got = vec![f32::NAN; tokens * rows];
                linear(isa, &team, matrix, &input, &mut got).unwrap();
                for (got, (want, size)) in got.iter().zip(expected(&matrix, &values)) {
                    let error = (f64::from(*got) - want).abs();
                    assert!(
                        error <= 1e-5 * size,
                        "{format:?} {rows} × {columns}, {tokens} tokens: {got} {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_tokens_products_do_not_depend_on_how_many_there_are() {
    let isa = Isa::best();
    if !isa.rounds_floats() {
        return;
    }
    let team = Team::new(2).unwrap();
    let (rows, columns, most) = (21, 1031, 2 * GROUPS * FloatGroups::TOKENS + 7);
    let mut input = Activations::default();
    for format in FORMATS {
        let mut weights = numbers(rows * columns, 3);
        spoil(&mut weights, columns, 5);
        let bytes = packed(format, &weights);
        let matrix = PackedMatrix::new(format, rows, columns, &bytes).unwrap();
        let mut values = numbers(most * columns, 5);
        spoil(&mut values, columns, 13);
        let mut want = vec![0.0; most * rows];
        for (values, want) in values.chunks(columns).zip(want.chunks_mut(rows)) {
            input.fill_rounded(isa, &team, values, columns).unwrap();
            linear(isa, &team, matrix, &input, want).unwrap();
        }
        assert!(want.iter().any(|sum| sum.is_finite()));
        for tokens in (2..14).chain([61, most]) {
            let values = &values[..tokens * columns];
            input.fill_rounded(isa, &team, values, columns).unwrap();
            let mut got = vec![0.0; tokens * rows];
            linear(isa, &team, matrix, &input, &mut got).unwrap();
            assert!(
                bits(&got) == bits(&want[..tokens * rows]),
                "{format:?}, {tokens} tokens"
            );
        }
    }
}

/// Filled for one kind of products and then for the other, it is as if it had been fresh: with tokens
/// that are many and lie side by side in both, and with few, that do so only where they are rounded.
#[test]
fn nothing_is_left_of_another_rounding() {
    let isa = Isa::best();
    if !isa.rounds_floats() {
        return;
    }
    let team = Team::new(1).unwrap();
    let (rows, columns, most) = (18, 300, 40);
    let bytes = packed(PackedFormat::F32, &numbers(rows * columns, 3));
    let matrix = PackedMatrix::new(PackedFormat::F32, rows, columns, &bytes).unwrap();
    let values = numbers(most * columns, 5);
    let product = |input: &mut Activations, (is_rounded, tokens): (bool, usize)| {
        let values = &values[..tokens * columns];
        match is_rounded {
            true => input.fill_rounded(isa, &team, values, columns),
            false => input.fill(isa, &team, crate::Precision::F32, values, columns),
        }
        .unwrap();
        let mut out = vec![f32::NAN; tokens * rows];
        linear(isa, &team, matrix, input, &mut out).unwrap();
        bits(&out)
    };
    let kinds = [(false, 5), (true, 5), (false, most), (true, most)];
    let fresh = kinds.map(|kind| product(&mut Activations::default(), kind));
    assert_ne!(fresh[0], fresh[1]);
    assert_ne!(fresh[2], fresh[3]);
    let mut used = Activations::default();
    // Each after each.
    for first in 0..kinds.len() {
        for second in 0..kinds.len() {
            for kind in [first, second] {
                assert_eq!(
                    product(&mut used, kinds[kind]),
                    fresh[kind],
                    "{first} {second}"
                );
            }
        }
    }
}

/// Who rounded is refused by instructions that take floats as they are, of which there are none left,
/// and by weights that take integers.
#[test]
fn what_is_rounded_is_for_no_other_products() {
    let isa = Isa::best();
    if !isa.rounds_floats() {
        return;
    }
    let team = Team::new(1).unwrap();
    let (rows, columns, tokens) = (18, 64, 5);
    let bytes = packed(PackedFormat::F32, &numbers(rows * columns, 3));
    let matrix = PackedMatrix::new(PackedFormat::F32, rows, columns, &bytes).unwrap();
    let quants = vec![0; rows * columns / 32 * PackedFormat::Q8_0.block_bytes()];
    let integers = PackedMatrix::new(PackedFormat::Q8_0, rows, columns, &quants).unwrap();
    let values = numbers(tokens * columns, 5);
    let mut input = Activations::default();
    input.fill_rounded(isa, &team, &values, columns).unwrap();
    let mut out = vec![0.0; tokens * rows];
    assert!(linear(isa, &team, matrix, &input, &mut out).is_ok());
    for other in [Isa::Portable, Isa::Avx2] {
        assert!(linear(other, &team, matrix, &input, &mut out).is_err());
    }
    assert!(linear(isa, &team, integers, &input, &mut out).is_err());
}
