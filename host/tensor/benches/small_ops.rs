//! What the checks and the accounting cost: an add of four floats by burn, and by a `Tensor`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use burn::tensor::Tensor as BurnTensor;
use criterion::{Criterion, criterion_group, criterion_main};
use skep_tensor::{Account, Device, Limits, Tensor, TensorError};

fn small_ops(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("add-of-4-floats");
    let burn = burn::tensor::Device::flex();
    let a = BurnTensor::<1>::from_floats([1.0, 2.0, 3.0, 4.0], &burn);
    let b = BurnTensor::<1>::from_floats([5.0, 6.0, 7.0, 8.0], &burn);
    group.bench_function("burn", |bench| {
        bench.iter(|| black_box(black_box(&a).clone() + black_box(&b).clone()));
    });

    let device = Device::cpu();
    let unlimited = Account::unlimited();
    let limited = Account::new(Limits {
        device_memory: 1 << 30,
        device_work: u64::MAX,
        deadline: Some(Instant::now() + Duration::from_secs(3600)),
    });
    for (name, account) in [("tensor", &unlimited), ("tensor-with-limits", &limited)] {
        let make = |values: [f32; 4]| Tensor::from_f32(&device, account, &values, &[4]);
        let pair = || -> Result<_, TensorError> {
            Ok((make([1.0, 2.0, 3.0, 4.0])?, make([5.0, 6.0, 7.0, 8.0])?))
        };
        let Ok((a, b)) = pair() else {
            return;
        };
        group.bench_function(name, |bench| {
            bench.iter(|| black_box(black_box(&a).add(black_box(&b))));
        });
    }
    group.finish();
}

criterion_group!(benches, small_ops);
criterion_main!(benches);
