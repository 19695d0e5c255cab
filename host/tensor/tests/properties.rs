//! Random programs of operators, with arguments right and wrong: nothing panics, what is charged
//! is never less than what is held, refusals change nothing, and in the end nothing is charged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use proptest::prelude::*;
use skep_tensor::{Account, DType, Device, Limits, QuotaKind, Span, Tensor, TensorError};

const CPU: Device = Device::cpu();

/// One call. Numbers choose operands among the tensors that are held, and arguments.
#[derive(Clone, Debug)]
struct Call {
    operator: u8,
    first: usize,
    second: usize,
    third: usize,
    axis: i32,
    count: u32,
    keep: bool,
    value: f32,
    shape: Vec<u32>,
    dtype: usize,
    drop_first: bool,
}

fn extent() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => 0_u32..5,
        1 => Just(1_u32),
        1 => prop_oneof![Just(64_u32), Just(1 << 16), Just(1 << 31), Just(u32::MAX)],
    ]
}

fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -3.0_f32..3.0,
        1 => prop_oneof![
            Just(0.0),
            Just(f32::NAN),
            Just(f32::INFINITY),
            Just(f32::NEG_INFINITY),
            Just(f32::MAX),
            Just(1e-40),
        ],
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let numbers = (any::<u8>(), any::<usize>(), any::<usize>(), any::<usize>());
    let axis = prop_oneof![8 => -4_i32..4, 1 => any::<i32>()];
    let count = prop_oneof![8 => 0_u32..5, 1 => any::<u32>()];
    let shape = prop::collection::vec(extent(), 0..8);
    (
        numbers,
        axis,
        count,
        any::<bool>(),
        value(),
        shape,
        0_usize..5,
        prop::bool::weighted(0.2),
    )
        .prop_map(
            |(
                (operator, first, second, third),
                axis,
                count,
                keep,
                value,
                shape,
                dtype,
                drop_first,
            )| Call {
                operator,
                first,
                second,
                third,
                axis,
                count,
                keep,
                value,
                shape,
                dtype,
                drop_first,
            },
        )
}

/// The number of operators that [`run`] knows.
const OPERATORS: u8 = 45;

/// The operators which find a mistake only in the values, after their work is metered.
fn looks_at_values(operator: u8) -> bool {
    matches!(operator % OPERATORS, 4 | 35 | 36)
}

fn run(call: &Call, held: &[Tensor], account: &Account) -> Result<Vec<Tensor>, TensorError> {
    let a = &held[call.first % held.len()];
    // Mostly of one dtype, so that many calls are right.
    let pick = |n: usize| {
        let alike = held.iter().filter(|x| x.dtype() == a.dtype()).count();
        let mut others = held.iter();
        if n.is_multiple_of(8) {
            others.nth(n / 8 % held.len())
        } else {
            others.filter(|x| x.dtype() == a.dtype()).nth(n / 8 % alike)
        }
        .unwrap()
    };
    let (b, c) = (pick(call.second), pick(call.third));
    let dtype = DType::ALL[call.dtype];
    let one = match call.operator % OPERATORS {
        0 => Tensor::zeros(&CPU, account, &call.shape, dtype),
        1 => a.add(b),
        2 => a.sub(b),
        3 => a.mul(b),
        4 => a.div(b),
        5 => a.pow(b),
        6 => a.maximum(b),
        7 => a.minimum(b),
        8 => a.add_scalar(call.value),
        9 => a.mul_scalar(call.value),
        10 => a.neg(),
        11 => a.abs(),
        12 => a.exp(),
        13 => a.log(),
        14 => a.sqrt(),
        15 => a.tanh(),
        16 => a.sigmoid(),
        17 => a.relu(),
        18 => a.gelu(),
        19 => a.silu(),
        20 => a.equal(b),
        21 => a.greater(b),
        22 => a.less(b),
        23 => a.select(b, c),
        24 => a.matmul(b),
        25 => a.sum(call.axis, call.keep),
        26 => a.mean(call.axis, call.keep),
        27 => a.max(call.axis, call.keep),
        28 => a.min(call.axis, call.keep),
        29 => a.argmax(call.axis, call.keep),
        30 => {
            let (values, indices) = a.top_k(call.count, call.axis)?;
            return Ok(vec![values, indices]);
        }
        31 => a.softmax(call.axis),
        32 => a.log_softmax(call.axis),
        33 => a.layer_norm(b, c, call.value),
        34 => a.rms_norm(b, call.value),
        35 => a.gather(call.axis, b),
        36 => a.embedding(b),
        37 => {
            let spans: Vec<Span> = a
                .shape()
                .iter()
                .enumerate()
                .map(|(axis, extent)| match call.shape.get(axis) {
                    Some(end) if call.keep => Span {
                        start: 0,
                        end: *end,
                    },
                    _ => Span {
                        start: extent / 2,
                        end: *extent,
                    },
                })
                .collect();
            a.slice(&spans)
        }
        38 => Tensor::concat(&[a, b, c], call.axis),
        39 => a.reshape(&call.shape),
        40 => a.transpose(call.axis, call.count as i32),
        41 => a.cast(dtype),
        42 => Tensor::random_uniform(&CPU, account, &call.shape, call.value, 3.0, 1),
        43 => Tensor::random_normal(&CPU, account, &call.shape, 0.0, call.value, 1),
        _ => Tensor::full(&CPU, account, &call.shape, call.value, dtype),
    };
    Ok(vec![one?])
}

/// Checks the tensor's word about itself, and returns the bytes it holds on its own: none if it
/// shares the memory of another.
fn consistent(tensor: &Tensor) {
    let elements: u64 = if tensor.shape().contains(&0) {
        0
    } else {
        tensor.shape().iter().map(|e| u64::from(*e)).product()
    };
    assert_eq!(tensor.elements(), elements);
    assert_eq!(tensor.bytes(), elements * tensor.dtype().size() as u64);
    assert_eq!(tensor.to_bytes().unwrap().len() as u64, tensor.bytes());
}

/// The tensors that a program starts with.
fn seed(account: &Account) -> Vec<Tensor> {
    let mut held = Vec::new();
    for shape in [&[2, 3][..], &[3], &[], &[3, 2], &[0, 3], &[2, 1, 3]] {
        let x = Tensor::random_normal(&CPU, account, shape, 0.0, 2.0, 5).unwrap();
        for dtype in DType::ALL {
            held.push(x.cast(dtype).unwrap());
        }
    }
    held.push(Tensor::from_i32(&CPU, account, &[0, 1, 1, 0], &[2, 2]).unwrap());
    held
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn programs_never_panic_and_give_everything_back(
        calls in prop::collection::vec(call(), 1..40),
        limit in prop_oneof![Just(1_u64 << 20), Just(2_000_u64), Just(600_u64)],
    ) {
        let account = Account::new(Limits {
            device_memory: limit,
            device_work: u64::MAX,
            deadline: Some(Instant::now() + Duration::from_secs(600)),
        });
        let mut held = seed(&account);
        for call in &calls {
            if held.is_empty() {
                break;
            }
            let before = account.usage();
            match run(call, &held, &account) {
                Ok(results) => held.extend(results),
                Err(TensorError::Failed(reason)) => {
                    return Err(TestCaseError::fail(format!("{call:?}: {reason}")));
                }
                Err(error) => {
                    let after = account.usage();
                    prop_assert_eq!(after.device_bytes, before.device_bytes, "{:?}: {}", call, error);
                    if let TensorError::Quota(quota) = error {
                        prop_assert!(quota.asked > quota.limit, "{}", quota);
                        prop_assert_eq!(quota.quota, QuotaKind::DeviceMemory);
                    }
                    if !looks_at_values(call.operator) {
                        prop_assert_eq!(after.flops, before.flops, "{:?}", call);
                        prop_assert_eq!(after.device_bytes_peak, before.device_bytes_peak, "{:?}", call);
                    }
                }
            }
            if let Some(last) = held.last() {
                consistent(last);
            }
            if call.drop_first {
                held.swap_remove(call.first % held.len());
            }
            let usage = account.usage();
            prop_assert!(usage.device_bytes <= limit);
            prop_assert!(usage.device_bytes_peak >= usage.device_bytes);
        }
        drop(held);
        prop_assert_eq!(account.usage().device_bytes, 0);
    }

    /// Whatever is asked of a tensor of a hostile shape is refused or done within its limits.
    #[test]
    fn hostile_shapes_are_refused(
        shape in prop::collection::vec(prop_oneof![extent(), any::<u32>()], 0..9),
        dtype in 0_usize..5,
        data in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let account = Account::new(Limits {
            device_memory: 1 << 16,
            device_work: u64::MAX,
            deadline: None,
        });
        let dtype = DType::ALL[dtype];
        for result in [
            Tensor::zeros(&CPU, &account, &shape, dtype),
            Tensor::from_bytes(&CPU, &account, &data, &shape, dtype),
            Tensor::random_normal(&CPU, &account, &shape, 0.0, 1.0, 9),
        ] {
            match result {
                Ok(tensor) => {
                    prop_assert!(tensor.bytes() <= 1 << 16);
                    consistent(&tensor);
                }
                Err(TensorError::Failed(reason)) => return Err(TestCaseError::fail(reason)),
                Err(_) => {}
            }
        }
        prop_assert_eq!(account.usage().device_bytes, 0);
    }
}
