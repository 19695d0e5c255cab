//! How many metered operations a second every operator does, on tensors large and small: the
//! deadline is held against `Account::ASSUMED_FLOPS_PER_SECOND`, so that none of those of more
//! than a few thousand elements may be far below it.

use std::time::Instant;

use skep_tensor::{Account, DType, Device, Span, Tensor, TensorError};

/// An operator with its arguments, under a name.
type Named<'a> = (&'a str, Box<dyn Fn() -> Result<(), TensorError> + 'a>);

/// Runs `operator` for a while; returns metered operations and nanoseconds of one call.
fn rate(
    account: &Account,
    operator: &dyn Fn() -> Result<(), TensorError>,
) -> Result<(u64, u64), TensorError> {
    operator()?;
    let before = account.usage().flops;
    let begun = Instant::now();
    let mut calls = 0;
    while begun.elapsed().as_millis() < 60 {
        operator()?;
        calls += 1;
    }
    let nanoseconds = begun.elapsed().as_nanos() as u64 / calls;
    Ok(((account.usage().flops - before) / calls, nanoseconds))
}

fn main() -> Result<(), TensorError> {
    // `cargo bench` says so; as a test there is nothing to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let account = Account::unlimited();
    let device = Device::cpu();
    let random = |shape: &[u32], dtype| {
        Tensor::random_normal(&device, &account, shape, 1.0, 0.2, 1)?
            .abs()?
            .cast(dtype)
    };
    println!(
        "{:34} {:>12} {:>12} {:>10}",
        "operator", "metered", "ns", "per ns"
    );
    for dtype in DType::ALL {
        let floating = dtype.is_float();
        for (rows, columns) in [(64, 64), (1_024, 1_024), (1 << 18, 4), (4, 1 << 18)] {
            let a = random(&[rows, columns], dtype)?.add_scalar(1.0)?;
            let row = random(&[columns], dtype)?.add_scalar(1.0)?;
            let column = random(&[rows, 1], dtype)?.add_scalar(1.0)?;
            let mask = a.greater(&row)?;
            let names = Tensor::random_uniform(&device, &account, &[rows], 0.0, rows as f32, 3)?
                .cast(DType::I32)?;
            let places = Tensor::zeros(&device, &account, &[rows, columns], DType::I32)?;
            let half = [
                Span {
                    start: 0,
                    end: rows,
                },
                Span {
                    start: 0,
                    end: columns / 2,
                },
            ];
            let tall = a.reshape(&[rows * columns / 4, 1, 4])?;
            let thin = a.reshape(&[rows * columns / 4, 4, 1])?;
            let mut operators: Vec<Named<'_>> = vec![
                ("add", Box::new(|| a.add(&a).map(drop))),
                ("add row", Box::new(|| a.add(&row).map(drop))),
                ("add column", Box::new(|| a.add(&column).map(drop))),
                ("div", Box::new(|| a.div(&a).map(drop))),
                ("maximum", Box::new(|| a.maximum(&column).map(drop))),
                ("mul-scalar", Box::new(|| a.mul_scalar(0.5).map(drop))),
                ("greater", Box::new(|| a.greater(&row).map(drop))),
                ("select", Box::new(|| mask.select(&a, &row).map(drop))),
                ("sum 0", Box::new(|| a.sum(0, false).map(drop))),
                ("sum 1", Box::new(|| a.sum(1, false).map(drop))),
                ("max 0", Box::new(|| a.max(0, false).map(drop))),
                ("max 1", Box::new(|| a.max(1, false).map(drop))),
                ("argmax 0", Box::new(|| a.argmax(0, false).map(drop))),
                ("argmax 1", Box::new(|| a.argmax(1, false).map(drop))),
                ("top-k 0", Box::new(|| a.top_k(rows.min(10), 0).map(drop))),
                ("top-k 1", Box::new(|| a.top_k(columns, 1).map(drop))),
                ("gather", Box::new(|| a.gather(0, &places).map(drop))),
                ("embedding", Box::new(|| a.embedding(&names).map(drop))),
                ("slice", Box::new(|| a.slice(&half).map(drop))),
                (
                    "concat 1",
                    Box::new(|| Tensor::concat(&[&a, &a], 1).map(drop)),
                ),
                ("transpose", Box::new(|| a.transpose(0, 1).map(drop))),
                ("cast f32", Box::new(|| a.cast(DType::F32).map(drop))),
                ("cast bf16", Box::new(|| a.cast(DType::Bf16).map(drop))),
                ("cast i32", Box::new(|| a.cast(DType::I32).map(drop))),
                ("to-bytes", Box::new(|| a.to_bytes().map(drop))),
            ];
            if floating {
                operators.extend::<Vec<Named<'_>>>(vec![
                    ("pow", Box::new(|| a.pow(&a).map(drop))),
                    ("exp", Box::new(|| a.exp().map(drop))),
                    ("log", Box::new(|| a.log().map(drop))),
                    ("sqrt", Box::new(|| a.sqrt().map(drop))),
                    ("tanh", Box::new(|| a.tanh().map(drop))),
                    ("sigmoid", Box::new(|| a.sigmoid().map(drop))),
                    ("gelu", Box::new(|| a.gelu().map(drop))),
                    ("silu", Box::new(|| a.silu().map(drop))),
                    ("mean 0", Box::new(|| a.mean(0, false).map(drop))),
                    ("softmax 0", Box::new(|| a.softmax(0).map(drop))),
                    ("softmax 1", Box::new(|| a.softmax(1).map(drop))),
                    ("log-softmax 0", Box::new(|| a.log_softmax(0).map(drop))),
                    ("log-softmax 1", Box::new(|| a.log_softmax(1).map(drop))),
                    (
                        "layer-norm",
                        Box::new(|| a.layer_norm(&row, &row, 1e-5).map(drop)),
                    ),
                    ("rms-norm", Box::new(|| a.rms_norm(&row, 1e-5).map(drop))),
                    ("matmul 4", Box::new(|| tall.matmul(&thin).map(drop))),
                ]);
                if rows == columns {
                    operators.push(("matmul", Box::new(|| a.matmul(&a).map(drop))));
                }
            }
            if dtype == DType::F32 {
                operators.push((
                    "random-uniform",
                    Box::new(|| {
                        Tensor::random_uniform(&device, &account, &[rows, columns], 0.0, 1.0, 1)
                            .map(drop)
                    }),
                ));
                operators.push((
                    "random-normal",
                    Box::new(|| {
                        Tensor::random_normal(&device, &account, &[rows, columns], 0.0, 1.0, 1)
                            .map(drop)
                    }),
                ));
            }
            for (name, operator) in operators {
                let (metered, nanoseconds) = rate(&account, &*operator)?;
                let per = metered as f64 / nanoseconds as f64;
                let title = format!("{name} {dtype} [{rows}, {columns}]");
                let mark = if per < 1.0 { "  slow" } else { "" };
                println!("{title:34} {metered:12} {nanoseconds:12} {per:10.2}{mark}");
            }
        }
    }
    Ok(())
}
