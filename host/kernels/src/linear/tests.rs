//! Every format and instruction set against products of the dequantized weights.

use super::*;
use proptest::prelude::*;
use skep_weights::format::dequantize;
use skep_weights::grouped::{GroupedConfig, GroupedMethod};
use skep_weights::{GroupInt4, SafetensorsFolder};

/// Blocks of random bits with scales of a size that models have.
fn weights(format: PackedFormat, rows: usize, columns: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let blocks = rows * columns / format.block_len();
    let mut bytes: Vec<u8> = (0..blocks * format.block_bytes())
        .map(|_| next() as u8)
        .collect();
    let scale = |next: &mut dyn FnMut() -> u64| {
        half::f16::from_f32((next() % 1000) as f32 * 1e-5 + 1e-4).to_le_bytes()
    };
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        let places: &[usize] = match format {
            PackedFormat::F32 => {
                let value = (next() % 2001) as f32 * 1e-3 - 1.0;
                block.copy_from_slice(&value.to_le_bytes());
                &[]
            }
            PackedFormat::F16 => {
                let value = half::f16::from_f32((next() % 2001) as f32 * 1e-3 - 1.0);
                block.copy_from_slice(&value.to_le_bytes());
                &[]
            }
            PackedFormat::BF16 => {
                let value = half::bf16::from_f32((next() % 2001) as f32 * 1e-3 - 1.0);
                block.copy_from_slice(&value.to_le_bytes());
                &[]
            }
            PackedFormat::Q4_1 | PackedFormat::Q5_1 | PackedFormat::Q4_K | PackedFormat::Q5_K => {
                &[0, 2]
            }
            PackedFormat::Q6_K => &[208],
            _ => &[0],
        };
        for place in places {
            block[*place..place + 2].copy_from_slice(&scale(&mut next));
        }
        // Models have minima below zero here; half of them are, so that a sign cannot get lost.
        if matches!(format, PackedFormat::Q4_1 | PackedFormat::Q5_1) && next() % 2 == 1 {
            block[3] |= 0x80;
        }
    }
    bytes
}

fn activations(tokens: usize, columns: usize) -> Vec<f32> {
    (0..tokens * columns)
        .map(|n| ((n * 7919 + n / columns * 31) % 1013) as f32 / 250.0 - 2.0)
        .collect()
}

/// In double precision, from dequantized weights and the rounded input.
fn expected(matrix: &PackedMatrix<'_>, input: &Activations) -> Vec<(f64, f64)> {
    let mut all = Vec::new();
    for token in 0..input.tokens {
        for row in 0..matrix.rows {
            let mut weights = vec![0.0; matrix.columns];
            dequantize(matrix.format, matrix.row(row), &mut weights).unwrap();
            let (mut sum, mut size) = (0.0, 0.0);
            for (column, weight) in weights.iter().enumerate() {
                let at = token * matrix.columns + column;
                let value = match input.precision.unwrap() {
                    Precision::F32 => f64::from(input.values[at]),
                    rounded => {
                        f64::from(input.quants[at])
                            * f64::from(input.scales[at / rounded.block_len()])
                    }
                };
                sum += f64::from(*weight) * value;
                size += (f64::from(*weight) * value).abs();
            }
            all.push((sum, size));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_are_those_of_the_dequantized_weights(
        format in prop::sample::select(PackedFormat::ALL.to_vec()),
        rows in 1_usize..40,
        blocks in 1_usize..6,
        odd in 0_usize..20,
        tokens in 1_usize..20,
        threads in 1_usize..3,
        seed in any::<u64>(),
    ) {
        let columns = match format.block_len() {
            1 => blocks * 32 + odd,
            block => blocks * block,
        };
        let bytes = weights(format, rows, columns, seed);
        let matrix = PackedMatrix::new(format, rows, columns, &bytes).unwrap();
        let values = activations(tokens, columns);
        let team = Team::new(threads).unwrap();
        for isa in Isa::available() {
            let mut input = Activations::default();
            input.fill(isa, &team, matrix.precision(), &values, columns).unwrap();
            let mut out = vec![f32::NAN; tokens * rows];
            linear(isa, &team, matrix, &input, &mut out).unwrap();
            for (got, (want, size)) in out.iter().zip(expected(&matrix, &input)) {
                let error = (f64::from(*got) - want).abs();
                prop_assert!(error <= 1e-5 * size + 1e-6, "{} {format:?}: {got} {want}", isa.name());
            }
            // A token's result is the same bits alone.
            let last = &values[(tokens - 1) * columns..];
            input.fill(isa, &team, matrix.precision(), last, columns).unwrap();
            let mut alone = vec![f32::NAN; rows];
            linear(isa, &team, matrix, &input, &mut alone).unwrap();
            prop_assert_eq!(&alone, &out[(tokens - 1) * rows..]);
        }
    }
}

/// Rows that are longer than what tiles take apart at a time, more tokens than they take at a
/// time, and each number of tokens of the last few: the same bits as one token after the other,
/// with and without tiles.
#[test]
#[cfg(target_arch = "x86_64")]
fn tiles_give_the_same_bits() {
    if !Isa::Avx512.is_available() {
        return;
    }
    let team = Team::new(2).unwrap();
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../weights/tests/reference/grouped.safetensors"
    );
    let folder = SafetensorsFolder::open_file(path.as_ref()).unwrap();
    let config = GroupedConfig {
        method: GroupedMethod::Gptq,
        group: Some(64),
        zeros_minus_one: true,
    };
    let grouped = GroupInt4::load(&folder, &config, "gptq.64").unwrap();
    let same = |weights: Weights<'_>, many: usize| {
        let (rows, columns) = (weights.rows(), weights.columns());
        let precision = weights.precision();
        let values = activations(many, columns);
        let mut input = Activations::default();
        let mut want = vec![f32::NAN; many * rows];
        for (values, want) in values.chunks(columns).zip(want.chunks_mut(rows)) {
            input
                .fill(Isa::Avx512, &team, precision, values, columns)
                .unwrap();
            linear(Isa::Avx512, &team, weights, &input, want).unwrap();
        }
        for isa in Isa::available()
            .into_iter()
            .filter(|isa| *isa >= Isa::Avx512)
        {
            for tokens in [1, 2, 3, 5, 8, 15, 16, 17, 33, many] {
                let tokens = tokens.min(many);
                let values = &values[..tokens * columns];
                input.fill(isa, &team, precision, values, columns).unwrap();
                let mut got = vec![f32::NAN; tokens * rows];
                linear(isa, &team, weights, &input, &mut got).unwrap();
                assert_eq!(got, want[..tokens * rows], "{} {tokens}", isa.name());
            }
        }
    };
    for format in PackedFormat::ALL {
        let block = format.block_len();
        let columns = if block == 1 { 77 } else { 2304 + block };
        let bytes = weights(format, 37, columns, 5);
        let matrix = PackedMatrix::new(format, 37, columns, &bytes).unwrap();
        same(matrix.into(), 550);
    }
    same((&grouped).into(), 40);
}

/// In every format of blocks, products of many tokens take those that lie side by side: what
/// kernels for few tokens would take is gone, and it makes no difference.
#[test]
#[cfg(target_arch = "x86_64")]
fn many_tokens_are_taken_side_by_side() {
    let team = Team::new(1).unwrap();
    let (rows, columns, tokens) = (5, 512, 16);
    let values = activations(tokens, columns);
    let formats = PackedFormat::ALL
        .into_iter()
        .filter(|format| format.block_len() > 1);
    for format in formats {
        let bytes = weights(format, rows, columns, 3);
        let matrix = PackedMatrix::new(format, rows, columns, &bytes).unwrap();
        for isa in Isa::available()
            .into_iter()
            .filter(|isa| *isa >= Isa::Avx512)
        {
            let mut input = Activations::default();
            input
                .fill(isa, &team, matrix.precision(), &values, columns)
                .unwrap();
            let mut want = vec![f32::NAN; tokens * rows];
            linear(isa, &team, matrix, &input, &mut want).unwrap();
            assert!(want.iter().any(|value| *value != 0.0));
            input.quants.fill(0);
            input.scales.fill(0.0);
            input.sums.fill(0);
            let mut got = vec![f32::NAN; tokens * rows];
            linear(isa, &team, matrix, &input, &mut got).unwrap();
            assert_eq!(got, want, "{} {format}", isa.name());
        }
    }
}

/// Layers as AWQ and GPTQ store them, from the weights' own tests: with and without groups out of
/// order.
#[test]
fn products_with_groups_are_those_of_the_dequantized_weights() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../weights/tests/reference/grouped.safetensors"
    );
    let folder = SafetensorsFolder::open_file(path.as_ref()).unwrap();
    for (layer, method, group) in [
        ("awq.128", GroupedMethod::Awq, Some(128)),
        ("awq.32", GroupedMethod::Awq, Some(32)),
        ("gptq.64", GroupedMethod::Gptq, Some(64)),
        ("gptq.order", GroupedMethod::Gptq, Some(64)),
        ("gptq_v2.32", GroupedMethod::Gptq, Some(32)),
        ("gptq_v2.all", GroupedMethod::Gptq, None),
    ] {
        let config = GroupedConfig {
            method,
            group,
            zeros_minus_one: layer.starts_with("gptq."),
        };
        let matrix = GroupInt4::load(&folder, &config, layer).unwrap();
        let (rows, columns) = (matrix.rows(), matrix.columns());
        let values = activations(7, columns);
        let in_place: Vec<u32> = (0..columns as u32).collect();
        let order = matrix.permutation().unwrap_or(&in_place);
        let mut input = Activations::default();
        for isa in Isa::available() {
            for (tokens, threads) in [(7, 2), (6, 1), (1, 1)] {
                let values = &values[..tokens * columns];
                let precision = Weights::from(&matrix).precision();
                let team = Team::new(threads).unwrap();
                input
                    .fill_in_order(isa, &team, precision, values, order)
                    .unwrap();
                let mut out = vec![f32::NAN; tokens * rows];
                linear(isa, &team, &matrix, &input, &mut out).unwrap();
                for (n, got) in out.iter().enumerate() {
                    let (token, row) = (n / rows, n % rows);
                    let mut weights = vec![0.0; columns];
                    matrix.dequantize_row(row, &mut weights);
                    let (mut want, mut size) = (0.0, 0.0);
                    for (column, place) in order.iter().enumerate() {
                        let at = token * columns + column;
                        let x = f64::from(input.quants[at]) * f64::from(input.scales[at / 32]);
                        let product = f64::from(weights[*place as usize]) * x;
                        want += product;
                        size += product.abs();
                    }
                    let error = (f64::from(*got) - want).abs();
                    let name = isa.name();
                    assert!(error <= 1e-5 * size + 1e-6, "{name} {layer}: {got} {want}");
                }
            }
        }
    }
}

#[test]
fn products_side_by_side_are_the_same() {
    let (columns, tokens) = (512, 5);
    let formats = [PackedFormat::Q4_K, PackedFormat::Q6_K, PackedFormat::Q5_K];
    let bytes: Vec<_> = formats
        .iter()
        .zip(1..)
        .map(|(format, n)| weights(*format, 7 * n, columns, n as u64))
        .collect();
    let matrices: Vec<_> = formats
        .iter()
        .zip(&bytes)
        .zip(1..)
        .map(|((format, bytes), n)| PackedMatrix::new(*format, 7 * n, columns, bytes).unwrap())
        .collect();
    let isa = Isa::best();
    let team = Team::new(2).unwrap();
    let mut input = Activations::default();
    let values = activations(tokens, columns);
    input
        .fill(isa, &team, Precision::Int8By256, &values, columns)
        .unwrap();
    let mut together: Vec<_> = matrices
        .iter()
        .map(|m| vec![0.0; tokens * m.rows()])
        .collect();
    let mut products: Vec<_> = matrices
        .iter()
        .zip(&mut together)
        .map(|(weights, out)| Product {
            weights: (*weights).into(),
            out,
        })
        .collect();
    let next = [matrices[1].into(), matrices[0].into()];
    linear_many(isa, &team, &mut products, &input, &next).unwrap();
    for (matrix, got) in matrices.iter().zip(&together) {
        let mut alone = vec![0.0; tokens * matrix.rows()];
        linear(isa, &team, *matrix, &input, &mut alone).unwrap();
        assert_eq!(&alone, got);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let team = Team::new(1).unwrap();
    let isa = Isa::best();
    let bytes = weights(PackedFormat::Q8_0, 2, 64, 1);
    assert!(PackedMatrix::new(PackedFormat::Q8_0, 2, 64, &bytes[1..]).is_err());
    assert!(PackedMatrix::new(PackedFormat::Q8_0, 2, 65, &bytes).is_err());
    assert!(PackedMatrix::new(PackedFormat::Q8_0, usize::MAX, 64, &bytes).is_err());
    let matrix = PackedMatrix::new(PackedFormat::Q8_0, 2, 64, &bytes).unwrap();
    let mut input = Activations::default();
    let mut out = [0.0; 2];
    assert!(linear(isa, &team, matrix, &input, &mut out).is_err());
    input
        .fill(isa, &team, Precision::Int8By256, &[0.0; 256], 256)
        .unwrap();
    assert!(linear(isa, &team, matrix, &input, &mut out).is_err());
    input
        .fill(isa, &team, Precision::Int8By32, &[0.0; 64], 64)
        .unwrap();
    assert!(linear(isa, &team, matrix, &input, &mut out[..1]).is_err());
    assert!(linear(isa, &team, matrix, &input, &mut out).is_ok());
}
