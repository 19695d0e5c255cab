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
        for (rows, columns) in [(1, 1), (3, 31), (16, 32), (20, 512), (37, 513), (21, 2060)] {
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

/// Filled for one kind of products and then for the other, it is as if it had been fresh.
#[test]
fn nothing_is_left_of_another_rounding() {
    let isa = Isa::best();
    if !isa.rounds_floats() {
        return;
    }
    let team = Team::new(1).unwrap();
    let (rows, columns, tokens) = (18, 300, 40);
    let bytes = packed(PackedFormat::F32, &numbers(rows * columns, 3));
    let matrix = PackedMatrix::new(PackedFormat::F32, rows, columns, &bytes).unwrap();
    let values = numbers(tokens * columns, 5);
    let product = |input: &mut Activations, is_rounded: bool| {
        match is_rounded {
            true => input.fill_rounded(isa, &team, &values, columns),
            false => input.fill(isa, &team, crate::Precision::F32, &values, columns),
        }
        .unwrap();
        let mut out = vec![f32::NAN; tokens * rows];
        linear(isa, &team, matrix, input, &mut out).unwrap();
        bits(&out)
    };
    let fresh = [false, true].map(|kind| product(&mut Activations::default(), kind));
    assert_ne!(fresh[0], fresh[1]);
    let mut used = Activations::default();
    for kind in [true, false, true, true, false] {
        assert_eq!(product(&mut used, kind), fresh[usize::from(kind)]);
    }
}
