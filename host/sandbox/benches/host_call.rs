//! What a call from a guest to the host costs, on both engines, and what a tensor operator
//! costs from a guest beside the same operator called natively.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use skep_registry::Limits;
use skep_sandbox::EngineKind;
use skep_tensor::{Account, DType, Device, Tensor};

/// Calls that one run of each guest makes.
const CALLS: u32 = 100_000;

/// A host function that does nothing: what the boundary costs by itself.
fn empty(criterion: &mut Criterion) {
    let sandbox = common::sandbox();
    let runtime = common::runtime();
    let spec = Arc::new(common::spec(Limits::default()));
    for (engine, kind) in [
        ("plain", EngineKind::Plain),
        ("concurrent", EngineKind::Concurrent),
    ] {
        criterion.bench_function(
            &format!("a call that does nothing/{engine} engine"),
            |bencher| {
                bencher.iter_custom(|times| {
                    let count = u32::try_from(times).unwrap_or(u32::MAX).max(CALLS);
                    sandbox
                        .time_empty_calls(kind, count, &spec, &runtime)
                        .unwrap()
                        .mul_f64(times as f64 / f64::from(count))
                });
            },
        );
    }
}

fn guests(criterion: &mut Criterion) {
    let sandbox = common::sandbox();
    let runtime = common::runtime();
    let spec = Arc::new(common::spec(Limits::default()));
    let mut group = criterion.benchmark_group("from a guest");
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(3));
    for (what, name, part) in [
        ("call without arguments", "honest/numbers", "random"),
        ("call with a handle", "honest/calls", "tensors"),
        ("tensor add and drop", "honest/adds", "tensors"),
    ] {
        for (engine, parts) in [
            ("plain", &[part][..]),
            ("concurrent", &[part, "concurrent"]),
        ] {
            let bytes = common::assemble(parts, &common::module(name));
            let program = sandbox.load(bytes).unwrap();
            group.bench_function(format!("{what}, {engine} engine"), |bencher| {
                bencher.iter_custom(|times| {
                    // A time for `times` calls, from runs of many.
                    let runs = times.div_ceil(u64::from(CALLS)).max(1);
                    let began = std::time::Instant::now();
                    for _ in 0..runs {
                        sandbox.run_here(&program, &spec, &runtime).unwrap();
                    }
                    began
                        .elapsed()
                        .mul_f64(times as f64 / (runs * u64::from(CALLS)) as f64)
                });
            });
        }
    }
    group.finish();
}

/// The same addition without a guest, and without skep.
fn native(criterion: &mut Criterion) {
    let device = burn::tensor::Device::flex();
    let a = burn::tensor::Tensor::<1>::zeros([4], &device);
    let b = burn::tensor::Tensor::<1>::zeros([4], &device);
    criterion.bench_function("native/burn's add", |bencher| {
        bencher.iter(|| black_box(black_box(&a).clone() + black_box(&b).clone()));
    });
    let account = Account::unlimited();
    let a = Tensor::zeros(&Device::cpu(), &account, &[4], DType::F32).unwrap();
    criterion.bench_function("native/skep_tensor's add", |bencher| {
        bencher.iter(|| black_box(&a).add(black_box(&a)).unwrap());
    });
}

criterion_group!(benches, empty, guests, native);
criterion_main!(benches);
