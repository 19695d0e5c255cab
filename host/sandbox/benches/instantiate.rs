//! What starting, calling and ending a trivial guest costs, with every limit in place; and
//! what loading a component from the cache costs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use skep_registry::Limits;
use skep_sandbox::{Sandbox, SandboxConfig};

fn instantiate(criterion: &mut Criterion) {
    let sandbox = common::sandbox();
    let runtime = common::runtime();
    let spec = Arc::new(common::spec(Limits::default()));
    let mut group = criterion.benchmark_group("start, call and end");
    group.measurement_time(Duration::from_secs(3));
    for (engine, parts) in [("plain", &[][..]), ("concurrent", &["concurrent"])] {
        let bytes = common::assemble(parts, &common::module("honest/nothing"));
        let program = Arc::new(sandbox.load(bytes).unwrap());
        group.bench_function(format!("{engine} engine, on one thread"), |bencher| {
            bencher.iter(|| sandbox.run_here(&program, &spec, &runtime).unwrap());
        });
        group.bench_function(
            format!("{engine} engine, through a guest's thread"),
            |bencher| {
                bencher.iter(|| common::run(&sandbox, &program, &spec).unwrap());
            },
        );
        let mut times: Vec<Duration> = (0..20_000)
            .map(|_| {
                let began = Instant::now();
                sandbox.run_here(&program, &spec, &runtime).unwrap();
                began.elapsed()
            })
            .collect();
        let total: Duration = times.iter().sum();
        times.sort();
        println!(
            "{engine} engine: p50 {:?}, p99 {:?}, {:.0} runs/s on one core",
            times[times.len() / 2],
            times[times.len() * 99 / 100],
            times.len() as f64 / total.as_secs_f64()
        );
    }
    group.finish();
}

fn load(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let config = || SandboxConfig {
        cache_dir: Some(folder.path().to_owned()),
        ..SandboxConfig::default()
    };
    let bytes = bytes::Bytes::from(common::component("honest/copy"));
    Sandbox::new(config()).unwrap().load(bytes.clone()).unwrap();
    criterion.bench_function("load from the cache, in a new sandbox", |bencher| {
        bencher.iter_with_large_drop(|| {
            let sandbox = Sandbox::new(config()).unwrap();
            sandbox.load(bytes.clone()).unwrap();
            sandbox
        });
    });
}

criterion_group!(benches, instantiate, load);
criterion_main!(benches);
