//! Every operator against its counterpart on the processor, on every device of the build.
#![cfg(any(feature = "cuda", feature = "wgsl"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{Numbers, devices, weights};
use skep_accounts::{Account, Limits};
use skep_cubes::linear::{Matrix, gather, linear};
use skep_cubes::{Gpu, GpuError, choose, rows};
use skep_kernels::linear::Weights;
use skep_kernels::rows::{Gate, Rope, RopeLayout, Turns};
use skep_kernels::{Activations, Isa, PackedMatrix, Precision, Team};
use skep_weights::format::dequantize;
use skep_weights::grouped::{GroupedConfig, GroupedMethod};
use skep_weights::{GroupInt4, PackedFormat, SafetensorsFolder};

/// What the processor makes of a product, and for each result how far that of a device may be from it.
fn expected(
    gpu: &Gpu,
    matrix: &PackedMatrix<'_>,
    bytes: &[u8],
    values: &[f32],
    tokens: usize,
) -> Vec<(f32, f32)> {
    let (rows, columns) = (matrix.rows(), matrix.columns());
    let team = Team::new(1).unwrap();
    let mut input = Activations::default();
    let precision = matrix.precision();
    input
        .fill(Isa::Portable, &team, precision, values, columns)
        .unwrap();
    let mut out = vec![f32::NAN; tokens * rows];
    skep_kernels::linear(Isa::Portable, &team, *matrix, &input, &mut out).unwrap();
    let mut floats = vec![0.0; rows * columns];
    dequantize(matrix.format(), bytes, &mut floats).unwrap();
    let most = floats.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let bounds = (0..tokens * rows).map(|n| {
        let row = &floats[n % rows * columns..][..columns];
        let token = &values[n / rows * columns..][..columns];
        rounding(precision, row, token) + halving(gpu, precision, row, token, (tokens, most))
    });
    out.iter().copied().zip(bounds).collect()
}

/// How far the product of a row and a token's input may be from another's.
fn rounding(precision: Precision, row: &[f32], token: &[f32]) -> f32 {
    // Sums in another order, of numbers of this size.
    let size: f32 = row.iter().zip(token).map(|(w, x)| (w * x).abs()).sum();
    // And where activations are rounded, one of them may lie between two integers, and the
    // device's division round it to the other.
    let largest = |all: &[f32]| all.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let step = match precision {
        Precision::F32 => 0.0,
        _ => largest(row) * largest(token) / 127.0,
    };
    2e-5 * size + step + 1e-6
}

/// How much farther it may be where both were made 16-bit floats for tensor cores: each of the sum's
/// numbers is off by up to 2^-10 of itself, this way or that, and so the sum by some times their
/// root mean square. What is smaller than 2^-38 of the matrix's largest number becomes nothing.
fn halving(
    gpu: &Gpu,
    precision: Precision,
    row: &[f32],
    token: &[f32],
    (tokens, largest): (usize, f32),
) -> f32 {
    if !gpu.has_tensor_cores() || precision == Precision::F32 || tokens <= 8 {
        return 0.0;
    }
    let squares: f32 = row.iter().zip(token).map(|(w, x)| (w * x) * (w * x)).sum();
    let lost: f32 = token
        .iter()
        .map(|x| largest * 2.0_f32.powi(-38) * x.abs())
        .sum();
    5e-3 * squares.sqrt() + lost
}

#[test]
fn products_are_those_of_the_processor() {
    let shapes = [
        (1, 1, 1),
        (7, 2, 2),
        (130, 5, 3),
        (66, 1, 8),
        (65, 3, 9),
        (40, 5, 70),
    ];
    for gpu in devices() {
        for format in PackedFormat::ALL {
            for (number, (rows, blocks, tokens)) in shapes.into_iter().enumerate() {
                // Floats in rows of an odd length too.
                let columns = match format.block_len() {
                    1 => blocks * 33,
                    block => blocks * block,
                };
                let bytes = weights(format, rows, columns, number as u64 + 1);
                let host = PackedMatrix::new(format, rows, columns, &bytes).unwrap();
                let matrix = Matrix::upload(&gpu, &host.into()).unwrap();
                let values = Numbers::new(number as u64).floats(tokens * columns);
                let input = gpu.upload(&values).unwrap();
                let outputs = linear(&gpu, &[&matrix, &matrix], &input, tokens).unwrap();
                let got = gpu.read(&outputs[0]).unwrap();
                assert_eq!(got, gpu.read(&outputs[1]).unwrap());
                let wanted = expected(&gpu, &host, &bytes, &values, tokens);
                assert_eq!(got.len(), wanted.len());
                for (n, (got, (want, bound))) in got.iter().zip(wanted).enumerate() {
                    assert!(
                        (got - want).abs() <= bound,
                        "{gpu:?} {format} {rows}x{columns}, {tokens} tokens, {n}: {got} {want} {bound}"
                    );
                }
            }
        }
    }
}

/// Lengths at which tiles of rows and tokens begin and end, and rows as long as those of models.
#[test]
fn products_of_many_tokens_are_those_of_the_processor() {
    let shapes = [
        (64, 256, 16),
        (128, 512, 17),
        (129, 768, 64),
        (200, 4096, 65),
        (257, 1024, 100),
        (33, 14_336, 128),
        (320, 256, 512),
    ];
    for gpu in devices() {
        for format in [
            PackedFormat::Q4_K,
            PackedFormat::Q6_K,
            PackedFormat::Q8_0,
            PackedFormat::F16,
        ] {
            for (number, (rows, columns, tokens)) in shapes.into_iter().enumerate() {
                let bytes = weights(format, rows, columns, number as u64 + 31);
                let host = PackedMatrix::new(format, rows, columns, &bytes).unwrap();
                let matrix = Matrix::upload(&gpu, &host.into()).unwrap();
                let values = Numbers::new(number as u64 + 7).floats(tokens * columns);
                let input = gpu.upload(&values).unwrap();
                let outputs = linear(&gpu, &[&matrix], &input, tokens).unwrap();
                let got = gpu.read(&outputs[0]).unwrap();
                let wanted = expected(&gpu, &host, &bytes, &values, tokens);
                assert_eq!(got.len(), wanted.len());
                for (n, (got, (want, bound))) in got.iter().zip(wanted).enumerate() {
                    assert!(
                        (got - want).abs() <= bound,
                        "{gpu:?} {format} {rows}x{columns}, {tokens} tokens, {n}: {got} {want} {bound}"
                    );
                }
            }
        }
    }
}

/// What other tokens hold, however large or no number, is nothing to a token's product.
#[test]
fn products_of_a_token_do_not_depend_on_the_others() {
    // 2^66: numbers stay as exact as they are.
    const LARGE: f32 = 73_786_976_294_838_206_464.0;
    let (rows, columns) = (70, 512);
    for gpu in devices() {
        for (format, tokens) in [
            (PackedFormat::Q4_K, 9),
            (PackedFormat::Q6_K, 40),
            (PackedFormat::Q8_0, 100),
        ] {
            let bytes = weights(format, rows, columns, 21);
            let host = PackedMatrix::new(format, rows, columns, &bytes).unwrap();
            let matrix = Matrix::upload(&gpu, &host.into()).unwrap();
            let values = Numbers::new(5).floats(tokens * columns);
            let mut others = values.clone();
            for (n, x) in others.iter_mut().enumerate() {
                match n / columns {
                    3 => (),
                    token if token % 3 == 0 => *x *= LARGE,
                    token if token % 3 == 1 => *x /= LARGE,
                    _ => *x = f32::NAN,
                }
            }
            let product = |values: &[f32]| {
                let input = gpu.upload(values).unwrap();
                let outputs = linear(&gpu, &[&matrix], &input, tokens).unwrap();
                gpu.read(&outputs[0]).unwrap()
            };
            let (want, got) = (product(&values), product(&others));
            assert_eq!(got[3 * rows..4 * rows], want[3 * rows..4 * rows]);
            let without_numbers = &got[5 * rows..6 * rows];
            assert!(without_numbers.iter().all(|x| *x == 0.0));
            assert!(got.iter().all(|x| x.is_finite()));
            let large = got[6 * rows..7 * rows].iter().zip(&want[6 * rows..]);
            for (got, want) in large {
                assert!(
                    (got / LARGE - want).abs() <= 1e-3 * want.abs() + 1e-4,
                    "{gpu:?} {format}: {got} {want}"
                );
            }
        }
    }
}

/// Layers as AWQ and GPTQ store them, from the weights' own tests: with and without groups out of
/// order, for few and for many tokens, beside one whose columns are in the order of inputs.
#[test]
fn products_with_groups_are_those_of_the_processor() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../weights/tests/reference/grouped.safetensors"
    );
    let folder = SafetensorsFolder::open_file(path.as_ref()).unwrap();
    for gpu in devices() {
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
            let host = GroupInt4::load(&folder, &config, layer).unwrap();
            let (rows, columns) = (host.rows(), host.columns());
            let matrix = Matrix::upload(&gpu, &(&host).into()).unwrap();
            let groups = (4 * (columns / host.group())).next_multiple_of(16);
            assert!(matrix.bytes() <= rows * (columns / 2 + groups));
            let blocks = weights(PackedFormat::Q4_0, 5, columns, 3);
            let beside = PackedMatrix::new(PackedFormat::Q4_0, 5, columns, &blocks).unwrap();
            let beside = Matrix::upload(&gpu, &beside.into()).unwrap();
            let team = Team::new(1).unwrap();
            let mut floats = vec![0.0; columns];
            let mut most = 0.0_f32;
            for row in 0..rows {
                host.dequantize_row(row, &mut floats);
                most = floats.iter().fold(most, |most, x| most.max(x.abs()));
            }
            for tokens in [1, 3, 8, 70] {
                let values = Numbers::new(tokens as u64).floats(tokens * columns);
                let in_place: Vec<u32> = (0..columns as u32).collect();
                let order = host.permutation().unwrap_or(&in_place);
                let mut input = Activations::default();
                let precision = Weights::from(&host).precision();
                input
                    .fill_in_order(Isa::Portable, &team, precision, &values, order)
                    .unwrap();
                let mut want = vec![f32::NAN; tokens * rows];
                skep_kernels::linear(Isa::Portable, &team, &host, &input, &mut want).unwrap();
                let placed = gpu.upload(&values).unwrap();
                let got = linear(&gpu, &[&beside, &matrix, &beside], &placed, tokens).unwrap();
                let alone = linear(&gpu, &[&beside], &placed, tokens).unwrap();
                for other in [&got[0], &got[2]] {
                    assert_eq!(gpu.read(other).unwrap(), gpu.read(&alone[0]).unwrap());
                }
                for (n, (got, want)) in gpu.read(&got[1]).unwrap().iter().zip(want).enumerate() {
                    host.dequantize_row(n % rows, &mut floats);
                    let token = &values[n / rows * columns..][..columns];
                    let bound = rounding(Precision::Int8By32, &floats, token)
                        + halving(&gpu, Precision::Int8By32, &floats, token, (tokens, most));
                    assert!(
                        (got - want).abs() <= bound,
                        "{gpu:?} {layer}, {tokens} tokens, {n}: {got} {want} {bound}"
                    );
                }
            }
            let gathered = gather(&gpu, &matrix, &[1, 0], 0.5);
            if host.permutation().is_some() {
                assert!(matches!(gathered, Err(GpuError::Unsupported(_))));
                continue;
            }
            let mut want = vec![0.0; 2 * columns];
            host.dequantize_row(1, &mut want[..columns]);
            host.dequantize_row(0, &mut want[columns..]);
            let got = gpu.read(&gathered.unwrap()).unwrap();
            for (got, want) in got.iter().zip(want) {
                assert!(
                    (got - 0.5 * want).abs() <= 1e-5 * want.abs() + 1e-7,
                    "{layer}: {got} {want}"
                );
            }
        }
    }
}

#[test]
fn activations_that_are_not_finite_count_as_on_the_processor() {
    let (rows, columns) = (3, 256);
    for gpu in devices() {
        for format in [PackedFormat::Q8_0, PackedFormat::Q4_K] {
            let bytes = weights(format, rows, columns, 9);
            let host = PackedMatrix::new(format, rows, columns, &bytes).unwrap();
            let matrix = Matrix::upload(&gpu, &host.into()).unwrap();
            let mut values = Numbers::new(4).floats(columns);
            values[3] = f32::NAN;
            values[40] = f32::INFINITY;
            let team = Team::new(1).unwrap();
            let mut input = Activations::default();
            input
                .fill(
                    Isa::Portable,
                    &team,
                    Precision::of(format),
                    &values,
                    columns,
                )
                .unwrap();
            let mut want = vec![0.0; rows];
            skep_kernels::linear(Isa::Portable, &team, host, &input, &mut want).unwrap();
            for tokens in [1, 9, 70] {
                let values = gpu.upload(&values.repeat(tokens)).unwrap();
                let got = linear(&gpu, &[&matrix], &values, tokens).unwrap();
                let want = want.iter().cycle();
                for (got, want) in gpu.read(&got[0]).unwrap().iter().zip(want) {
                    assert!(
                        (got - want).abs() <= 1e-3 * want.abs() + 1e-3,
                        "{tokens} tokens: {got} {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_of_weights_are_the_dequantized_ones() {
    for gpu in devices() {
        for format in PackedFormat::ALL {
            let (rows, columns) = (9, if format.block_len() == 1 { 37 } else { 512 });
            let bytes = weights(format, rows, columns, 5);
            let host = PackedMatrix::new(format, rows, columns, &bytes).unwrap();
            let matrix = Matrix::upload(&gpu, &host.into()).unwrap();
            let mut all = vec![0.0; rows * columns];
            dequantize(format, &bytes, &mut all).unwrap();
            let numbers = [8, 0, 3, 3];
            let got = gpu
                .read(&gather(&gpu, &matrix, &numbers, 1.5).unwrap())
                .unwrap();
            let want = numbers
                .iter()
                .flat_map(|n| &all[*n as usize * columns..][..columns]);
            let size = all.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            assert_eq!(got.len(), 4 * columns);
            for (got, want) in got.iter().zip(want) {
                // A difference of products rounds twice, of up to 32 times a step's size.
                let error = (got - want * 1.5).abs();
                assert!(error <= 4e-7 * size, "{format}: {got} {want}");
            }
            assert!(gather(&gpu, &matrix, &[9], 1.0).is_err());
        }
    }
}

fn close(got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for (n, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (got - want).abs();
        assert!(
            error <= tolerance * want.abs().max(1.0),
            "{n}: {got} {want}"
        );
    }
}

#[test]
fn what_happens_between_products_is_that_of_the_processor() {
    let isa = Isa::Portable;
    for gpu in devices() {
        let mut numbers = Numbers::new(3);
        for (count, width) in [(1, 1), (3, 40), (5, 1000), (700, 8)] {
            let (rows, weight) = (numbers.floats(count * width), numbers.floats(width));
            let (on_gpu, of_gpu) = (gpu.upload(&rows).unwrap(), gpu.upload(&weight).unwrap());
            let mut want = vec![0.0; rows.len()];
            skep_kernels::rows::rms_norm(isa, None, &rows, &weight, 1e-5, &mut want).unwrap();
            let mut got = rows::rms_norm(&gpu, &on_gpu, &of_gpu, 1e-5).unwrap();
            close(&gpu.read(&got).unwrap(), &want, 1e-5);
            skep_kernels::rows::rms_norm_in_place(isa, None, &mut want, &weight, 1e-5).unwrap();
            rows::rms_norm_in_place(&gpu, &mut got, &of_gpu, 1e-5).unwrap();
            close(&gpu.read(&got).unwrap(), &want, 1e-5);

            for function in [Gate::Silu, Gate::GeluTanh] {
                // Far enough for an exponential to overflow.
                let mut gate: Vec<f32> = rows.iter().map(|x| x * x * x * 20.0).collect();
                let mut got = gpu.upload(&gate).unwrap();
                rows::gated(&gpu, function, &mut got, &on_gpu).unwrap();
                skep_kernels::rows::gated(isa, None, function, &mut gate, &rows).unwrap();
                close(&gpu.read(&got).unwrap(), &gate, 1e-5);
            }

            let mut got = gpu.upload(&rows).unwrap();
            rows::add(&gpu, &mut got, &on_gpu).unwrap();
            rows::add(&gpu, &mut got, &of_gpu).unwrap();
            let want: Vec<f32> = rows
                .iter()
                .enumerate()
                .map(|(n, x)| x + x + weight[n % width])
                .collect();
            close(&gpu.read(&got).unwrap(), &want, 1e-6);

            let places = [count - 1, 0];
            let got = rows::pick(&gpu, &on_gpu, width, &places).unwrap();
            let want: Vec<f32> = places
                .iter()
                .flat_map(|n| &rows[n * width..][..width])
                .copied()
                .collect();
            assert_eq!(gpu.read(&got).unwrap(), want);
        }
    }
}

#[test]
fn positions_turn_heads_as_on_the_processor() {
    let isa = Isa::Portable;
    for gpu in devices() {
        for layout in [RopeLayout::Halves, RopeLayout::Pairs] {
            for (dim, turning) in [(8, 8), (64, 48)] {
                let rope = Rope::new(layout, Rope::frequencies(1e4, turning));
                let positions = [0, 1, 77, 131_071];
                let mut want = Numbers::new(8).floats(positions.len() * 3 * dim);
                let mut got = gpu.upload(&want).unwrap();
                let turns = rows::Turns::upload(&gpu, &rope, &positions).unwrap();
                rows::rope(&gpu, &turns, &mut got, dim).unwrap();
                let mut on_host = Turns::default();
                rope.turns(&positions, &mut on_host);
                on_host.apply(isa, None, &mut want, dim).unwrap();
                close(&gpu.read(&got).unwrap(), &want, 1e-6);
                assert!(rows::rope(&gpu, &turns, &mut got, 4).is_err());
            }
        }
    }
}

#[test]
fn the_largest_logits_come_in_order() {
    for gpu in devices() {
        let (width, count) = (1777, 12);
        let mut logits = Numbers::new(6).floats(3 * width);
        // Equal ones, and what is no number.
        logits[5] = 3.0;
        logits[1500] = 3.0;
        logits[1501] = f32::NAN;
        logits[width + 9] = f32::INFINITY;
        for x in &mut logits[2 * width..] {
            *x = f32::NAN;
        }
        logits[2 * width + 4] = -1.0;
        let got = choose::largest(&gpu, &gpu.upload(&logits).unwrap(), width, count).unwrap();
        for (row, got) in logits.chunks(width).zip(&got).take(2) {
            let mut want: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
            want.retain(|(_, x)| !x.is_nan());
            want.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            assert_eq!(got[..], want[..count]);
        }
        assert_eq!(got[2][0], (4, -1.0));
        assert_eq!(got[2][1], (u32::MAX, f32::NEG_INFINITY));
        let some = gpu.upload(&[1.0, 2.0]).unwrap();
        assert!(choose::largest(&gpu, &some, 2, 3).is_err());
        assert!(choose::largest(&gpu, &some, 3, 1).is_err());
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for gpu in devices() {
        let bytes = weights(PackedFormat::Q4_K, 4, 256, 1);
        let host = PackedMatrix::new(PackedFormat::Q4_K, 4, 256, &bytes).unwrap();
        let matrix = Matrix::upload(&gpu, &host.into()).unwrap();
        let short = gpu.upload(&[0.0; 255]).unwrap();
        let refused = linear(&gpu, &[&matrix], &short, 1).unwrap_err();
        assert!(matches!(refused, GpuError::Shape(_)), "{refused}");
        let row = gpu.upload(&[0.0; 256]).unwrap();
        assert!(linear(&gpu, &[&matrix], &row, 2).is_err());
        assert!(linear(&gpu, &[&matrix], &row, usize::MAX).is_err());
        let nothing = gpu.upload(&[]).unwrap();
        assert_eq!(linear(&gpu, &[&matrix], &nothing, 0).unwrap().len(), 1);
        let weight = gpu.upload(&[1.0; 7]).unwrap();
        assert!(rows::rms_norm(&gpu, &row, &weight, 1e-5).is_err());
        let mut gate = gpu.upload(&[1.0; 7]).unwrap();
        assert!(rows::gated(&gpu, Gate::Silu, &mut gate, &row).is_err());
        assert!(rows::add(&gpu, &mut gate, &row).is_err());
        assert!(rows::pick(&gpu, &row, 256, &[1]).is_err());
    }
}

#[test]
fn memory_is_charged_before_it_is_taken_and_given_back() {
    for gpu in devices() {
        let account = Account::new(Limits {
            device_memory: 4096,
            ..Limits::UNLIMITED
        });
        let gpu: Gpu = gpu.charged_to(account.clone());
        let held = gpu.empty(1000).unwrap();
        assert_eq!(account.usage().device_bytes, 4000);
        let refused = gpu.upload(&[0.0; 25]).unwrap_err();
        assert!(matches!(refused, GpuError::Quota(_)), "{refused}");
        drop(held);
        assert_eq!(account.usage().device_bytes, 0);
        assert!(gpu.upload(&[0.0; 25]).is_ok());
        assert!(matches!(
            gpu.empty(usize::MAX),
            Err(GpuError::Unsupported(_))
        ));
    }
}
