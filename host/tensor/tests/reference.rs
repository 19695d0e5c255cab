//! Every operator against NumPy: replays `reference/cases.json`, which `reference/make.py` made.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use half::{bf16, f16};
use serde_json::Value;
use skep_tensor::{Account, DType, Device, Span, Tensor, TensorError};

fn dtype(value: &Value) -> DType {
    let name = value.as_str().unwrap();
    *DType::ALL.iter().find(|d| d.name() == name).unwrap()
}

fn extents(value: &Value) -> Vec<u32> {
    let list = value.as_array().unwrap();
    list.iter().map(|e| e.as_u64().unwrap() as u32).collect()
}

fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    data_encoding::BASE64.decode(text.as_bytes()).unwrap()
}

/// The elements as f64, which holds all of them exactly.
fn wide(bytes: &[u8], dtype: DType) -> Vec<f64> {
    bytes
        .chunks_exact(dtype.size())
        .map(|e| match dtype {
            DType::F32 => f64::from(f32::from_le_bytes(e.try_into().unwrap())),
            DType::F16 => f16::from_le_bytes(e.try_into().unwrap()).to_f64(),
            DType::Bf16 => bf16::from_le_bytes(e.try_into().unwrap()).to_f64(),
            DType::I32 => f64::from(i32::from_le_bytes(e.try_into().unwrap())),
            DType::U8 => f64::from(e[0]),
        })
        .collect()
}

fn agrees(got: f64, expected: f64, tolerance: f64) -> bool {
    got == expected
        || (got.is_nan() && expected.is_nan())
        || (got - expected).abs() <= tolerance * expected.abs().max(1.0)
}

fn apply(op: &str, p: &Value, x: &[Tensor]) -> Result<Vec<Tensor>, TensorError> {
    let integer = |name: &str| p[name].as_i64().unwrap() as i32;
    let number = |name: &str| p[name].as_f64().unwrap() as f32;
    let keep = || p["keep"].as_bool().unwrap();
    let one = match op {
        "add" => x[0].add(&x[1]),
        "sub" => x[0].sub(&x[1]),
        "mul" => x[0].mul(&x[1]),
        "div" => x[0].div(&x[1]),
        "pow" => x[0].pow(&x[1]),
        "maximum" => x[0].maximum(&x[1]),
        "minimum" => x[0].minimum(&x[1]),
        "add-scalar" => x[0].add_scalar(number("value")),
        "mul-scalar" => x[0].mul_scalar(number("value")),
        "neg" => x[0].neg(),
        "abs" => x[0].abs(),
        "exp" => x[0].exp(),
        "log" => x[0].log(),
        "sqrt" => x[0].sqrt(),
        "tanh" => x[0].tanh(),
        "sigmoid" => x[0].sigmoid(),
        "relu" => x[0].relu(),
        "gelu" => x[0].gelu(),
        "silu" => x[0].silu(),
        "equal" => x[0].equal(&x[1]),
        "greater" => x[0].greater(&x[1]),
        "less" => x[0].less(&x[1]),
        "select" => x[0].select(&x[1], &x[2]),
        "matmul" => x[0].matmul(&x[1]),
        "sum" => x[0].sum(integer("axis"), keep()),
        "mean" => x[0].mean(integer("axis"), keep()),
        "max" => x[0].max(integer("axis"), keep()),
        "min" => x[0].min(integer("axis"), keep()),
        "argmax" => x[0].argmax(integer("axis"), keep()),
        "top-k" => {
            let (values, indices) = x[0].top_k(integer("count") as u32, integer("axis"))?;
            return Ok(vec![values, indices]);
        }
        "softmax" => x[0].softmax(integer("axis")),
        "log-softmax" => x[0].log_softmax(integer("axis")),
        "layer-norm" => x[0].layer_norm(&x[1], &x[2], number("epsilon")),
        "rms-norm" => x[0].rms_norm(&x[1], number("epsilon")),
        "gather" => x[0].gather(integer("axis"), &x[1]),
        "embedding" => x[0].embedding(&x[1]),
        "slice" => {
            let spans = p["spans"].as_array().unwrap();
            let spans: Vec<Span> = spans
                .iter()
                .map(|span| Span {
                    start: extents(span)[0],
                    end: extents(span)[1],
                })
                .collect();
            x[0].slice(&spans)
        }
        "concat" => Tensor::concat(&x.iter().collect::<Vec<_>>(), integer("axis")),
        "reshape" => x[0].reshape(&extents(&p["shape"])),
        "transpose" => x[0].transpose(integer("a"), integer("b")),
        "cast" => x[0].cast(dtype(&p["dtype"])),
        other => panic!("no operator {other}"),
    };
    Ok(vec![one?])
}

#[test]
fn every_operator_agrees_with_numpy() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("reference/cases.json")).unwrap();
    let account = Account::unlimited();
    let device = Device::cpu();
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for case in &cases {
        let op = case["op"].as_str().unwrap();
        seen.insert(op);
        let inputs: Vec<Tensor> = case["inputs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| {
                let data = bytes(&t["data"]);
                let (shape, dtype) = (extents(&t["shape"]), dtype(&t["dtype"]));
                Tensor::from_bytes(&device, &account, &data, &shape, dtype).unwrap()
            })
            .collect();
        let held: u64 = inputs.iter().map(Tensor::bytes).sum();
        assert_eq!(account.usage().device_bytes, held);
        let name = format!("{op} {} of {inputs:?}", case["parameters"]);
        let outputs = match apply(op, &case["parameters"], &inputs) {
            Ok(outputs) => outputs,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let expected = case["outputs"].as_array().unwrap();
        assert_eq!(outputs.len(), expected.len(), "{name}");
        let tolerance = case["tolerance"].as_f64().unwrap();
        for (output, expected) in outputs.iter().zip(expected) {
            let shape = extents(&expected["shape"]);
            if output.shape() != shape || output.dtype() != dtype(&expected["dtype"]) {
                wrong.push(format!("{name}: {output:?}, but expected {shape:?}"));
                continue;
            }
            let got = output.to_bytes().unwrap();
            assert_eq!(got.len() as u64, output.bytes(), "{name}");
            let got = wide(&got, output.dtype());
            let expected = wide(&bytes(&expected["data"]), output.dtype());
            if !got
                .iter()
                .zip(&expected)
                .all(|(g, e)| agrees(*g, *e, tolerance))
            {
                wrong.push(format!("{name}: {got:?}, but expected {expected:?}"));
            }
        }
        // What is held is charged: the results by their bytes, unless they share an input's.
        drop(inputs);
        let results: u64 = outputs.iter().map(Tensor::bytes).sum();
        assert_eq!(account.usage().device_bytes, results, "{name}");
        drop(outputs);
        assert_eq!(account.usage().device_bytes, 0, "{name}");
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // Those that NumPy has no part in are tested where they are.
    assert_eq!(seen.len(), 41, "{seen:?}");
}
