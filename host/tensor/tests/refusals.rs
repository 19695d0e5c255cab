//! What every operator says when its arguments do not fit together, and that it then charges
//! nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use skep_tensor::{Account, DType, Device, Limits, QuotaKind, Span, Tensor, TensorError, Usage};

const CPU: Device = Device::cpu();

struct Desk {
    account: Account,
}

impl Desk {
    fn zeros(&self, shape: &[u32], dtype: DType) -> Tensor {
        Tensor::zeros(&CPU, &self.account, shape, dtype).unwrap()
    }

    fn f32(&self, shape: &[u32]) -> Tensor {
        self.zeros(shape, DType::F32)
    }

    fn i32(&self, values: &[i32], shape: &[u32]) -> Tensor {
        Tensor::from_i32(&CPU, &self.account, values, shape).unwrap()
    }
}

fn message<T: std::fmt::Debug>(result: Result<T, TensorError>) -> String {
    match result {
        Err(TensorError::Invalid(message)) => message,
        other => panic!("expected a refusal, not {other:?}"),
    }
}

#[test]
fn mistakes_are_named_with_operator_and_shapes() {
    let desk = Desk {
        account: Account::unlimited(),
    };
    let a = desk.f32(&[2, 3]);
    let b = desk.f32(&[4, 5]);
    let row = desk.f32(&[3]);
    let i = desk.i32(&[0, 1], &[2]);
    let u = desk.zeros(&[2, 3], DType::U8);
    let h = desk.zeros(&[2, 3], DType::F16);
    let deep = desk.i32(&[0], &[1, 1, 1, 1, 1, 1]);
    let hollow = desk.f32(&[2, 0]);
    let account = &desk.account;
    let before = account.usage();
    let span = |start, end| Span { start, end };
    let cases = [
        (
            message(a.matmul(&b)),
            "matmul: inner extents differ: [2, 3] × [4, 5]",
        ),
        (
            message(a.matmul(&row)),
            "matmul: both need two axes or more: [2, 3] × [3]",
        ),
        (
            message(desk.f32(&[2, 1, 1]).matmul(&desk.f32(&[3, 1, 1]))),
            "matmul: the axes before the last two do not broadcast: [2, 1, 1] × [3, 1, 1]",
        ),
        (
            message(u.matmul(&u)),
            "matmul: needs a floating-point tensor, not u8 of shape [2, 3]",
        ),
        (
            message(a.add(&b)),
            "add: shapes do not broadcast: [2, 3] and [4, 5]",
        ),
        (
            message(a.mul(&h)),
            "mul: dtypes differ: f32 [2, 3] and f16 [2, 3]; cast one of them first",
        ),
        (
            message(i.div(&desk.i32(&[1, 0], &[2]))),
            "div: an element of the divisor is 0, in i32 of shape [2]",
        ),
        (
            message(i.pow(&i)),
            "pow: needs a floating-point tensor, not i32 of shape [2]",
        ),
        (
            message(u.neg()),
            "neg: needs a floating-point or i32 tensor, not u8 of shape [2, 3]",
        ),
        (
            message(i.exp()),
            "exp: needs a floating-point tensor, not i32 of shape [2]",
        ),
        (
            message(a.select(&b, &b)),
            "select: the condition must be u8, not f32 of shape [2, 3]",
        ),
        (
            message(u.select(&a, &b)),
            "select: shapes do not broadcast: [2, 3] and [4, 5]",
        ),
        (
            message(a.sum(2, false)),
            "sum: axis 2 is out of range for the shape [2, 3]",
        ),
        (
            message(a.softmax(-3)),
            "softmax: axis -3 is out of range for the shape [2, 3]",
        ),
        (
            message(hollow.max(1, true)),
            "max: axis 1 of the shape [2, 0] has extent 0",
        ),
        (
            message(hollow.mean(-1, true)),
            "mean: axis 1 of the shape [2, 0] has extent 0",
        ),
        (
            message(i.mean(0, true)),
            "mean: needs a floating-point tensor, not i32 of shape [2]",
        ),
        (
            message(a.top_k(4, 1)),
            "top-k: 4 are asked for, but axis 1 of the shape [2, 3] has fewer",
        ),
        (
            message(a.layer_norm(&row, &b, 1e-5)),
            "layer-norm: the bias must have one axis, as long as the last of x: x is [2, 3] and the bias [4, 5]",
        ),
        (
            message(a.rms_norm(&desk.f32(&[2]), 1e-5)),
            "rms-norm: the weight must have one axis, as long as the last of x: x is [2, 3] and the weight [2]",
        ),
        (
            message(a.gather(0, &a)),
            "gather: indices must be i32, not f32 of shape [2, 3]",
        ),
        (
            message(a.gather(0, &i)),
            "gather: indices of shape [2] do not fit along axis 0 of the shape [2, 3]",
        ),
        (
            message(a.gather(1, &desk.i32(&[-1], &[1, 1]))),
            "gather: the index -1 is out of range for an extent of 3",
        ),
        (
            message(a.embedding(&desk.i32(&[2], &[1]))),
            "embedding: the index 2 is out of range for an extent of 2",
        ),
        (
            message(row.embedding(&i)),
            "embedding: rows are looked up in a matrix, not in the shape [3]",
        ),
        (
            message(a.embedding(&deep)),
            "embedding: indices of shape [1, 1, 1, 1, 1, 1] leave no axis for the rows",
        ),
        (
            message(a.slice(&[span(0, 1)])),
            "slice: 1 spans given for the shape [2, 3]",
        ),
        (
            message(a.slice(&[span(0, 2), span(2, 1)])),
            "slice: 2..1 does not lie within axis 1 of the shape [2, 3]",
        ),
        (
            message(a.slice(&[span(0, 3), span(0, 3)])),
            "slice: 0..3 does not lie within axis 0 of the shape [2, 3]",
        ),
        (message(Tensor::concat(&[], 0)), "concat: no tensor given"),
        (
            message(Tensor::concat(&[&a, &b], 0)),
            "concat: shapes do not fit along axis 0: [2, 3] and [4, 5]",
        ),
        (
            message(a.reshape(&[7])),
            "reshape: [2, 3] has 6 elements, but [7] has 7",
        ),
        (
            message(a.transpose(0, 5)),
            "transpose: axis 5 is out of range for the shape [2, 3]",
        ),
        (message(a.to_i32()), "to-i32: the tensor is f32, not i32"),
        (
            message(Tensor::from_f32(&CPU, account, &[1.0], &[2])),
            "from-f32: 1 elements given, but the shape [2] has 2",
        ),
        (
            message(Tensor::from_bytes(&CPU, account, &[0; 5], &[2], DType::F16)),
            "from-bytes: 5 bytes given, but a f16 tensor of shape [2] has 4",
        ),
        (
            message(Tensor::zeros(&CPU, account, &[1; 7], DType::U8)),
            "zeros: a shape has at most 6 axes, not 7",
        ),
        (
            message(Tensor::zeros(&CPU, account, &[u32::MAX; 6], DType::U8)),
            "zeros: the shape [4294967295, 4294967295, 4294967295, 4294967295, 4294967295, 4294967295] has more elements than any device holds",
        ),
        (
            message(Tensor::random_uniform(&CPU, account, &[1], 1.0, 1.0, 0)),
            "random-uniform: [1, 1) is not an interval of numbers",
        ),
        (
            message(Tensor::random_normal(&CPU, account, &[1], f32::NAN, 1.0, 0)),
            "random-normal: there is no distribution of mean NaN and deviation 1",
        ),
    ];
    for (got, expected) in cases {
        assert_eq!(got, expected);
    }
    assert_eq!(account.usage().device_bytes, before.device_bytes);
}

/// Extents of 0 hide extents whose product overflows everything.
#[test]
fn tensors_without_elements_may_have_any_other_extents() {
    let desk = Desk {
        account: Account::unlimited(),
    };
    let max = u32::MAX;
    let a = desk.f32(&[max, max, 0, max, max, max]);
    assert_eq!(a.bytes(), 0);
    assert!(a.to_f32().unwrap().is_empty());
    for result in [
        a.add(&a),
        a.exp(),
        a.matmul(&desk.f32(&[max, 0])),
        a.softmax(0),
        a.transpose(0, 2),
        a.reshape(&[0]),
        a.slice(&[Span { start: 0, end: 0 }; 6]),
        a.cast(DType::I32),
        a.greater(&a),
        a.sum(0, false),
        Tensor::concat(&[&a, &a], 2),
    ] {
        assert_eq!(result.unwrap().elements(), 0);
    }
    // A sum over nothing has elements, here more than there can be.
    assert!(message(a.sum(2, true)).contains("more elements than any device holds"));
    assert!(message(Tensor::concat(&[&a, &a], 0)).contains("do not fit"));
    assert!(message(a.max(2, true)).contains("extent 0"));
}

fn limited(device_memory: u64, device_work: u64, time: Option<Duration>) -> Account {
    Account::new(Limits {
        device_memory,
        device_work,
        deadline: time.map(|time| Instant::now() + time),
    })
}

fn quota<T: std::fmt::Debug>(result: Result<T, TensorError>) -> (QuotaKind, u64, u64) {
    match result {
        Err(TensorError::Quota(e)) => (e.quota, e.limit, e.asked),
        other => panic!("expected a quota error, not {other:?}"),
    }
}

#[test]
fn memory_is_charged_before_it_is_allocated() {
    let account = limited(1_000, u64::MAX, None);
    // 128 TiB: had they been tried, this test would not end well.
    let huge = Tensor::zeros(&CPU, &account, &[1 << 24, 1 << 23], DType::U8);
    assert_eq!(quota(huge), (QuotaKind::DeviceMemory, 1_000, 1 << 47));
    let a = Tensor::zeros(&CPU, &account, &[100], DType::F32).unwrap();
    let b = a.add_scalar(1.0).unwrap();
    let before = account.usage();
    assert_eq!(quota(a.add(&b)), (QuotaKind::DeviceMemory, 1_000, 1_200));
    let tall = a.reshape(&[100, 1]).unwrap();
    assert_eq!(
        quota(tall.add(&b)),
        (QuotaKind::DeviceMemory, 1_000, 800 + 40_000)
    );
    drop(tall);
    assert_eq!(
        Usage {
            flops: before.flops,
            operators: before.operators,
            ..account.usage()
        },
        before
    );
    drop(b);
    assert!(a.add(&a).is_ok());
}

/// The scratch of an operator counts while it runs, and only then.
#[test]
fn scratch_is_charged_while_an_operator_runs() {
    let account = Account::unlimited();
    let a = Tensor::zeros(&CPU, &account, &[64, 64], DType::F16).unwrap();
    let b = a.matmul(&a).unwrap();
    let usage = account.usage();
    assert_eq!(usage.device_bytes, a.bytes() + b.bytes());
    // Three copies in f32 beside the operand and the result.
    assert_eq!(usage.device_bytes_peak, 2 * 8_192 + 3 * 16_384);
    let tight = limited(40_000, u64::MAX, None);
    let a = Tensor::zeros(&CPU, &tight, &[64, 64], DType::F16).unwrap();
    assert_eq!(quota(a.matmul(&a)).0, QuotaKind::DeviceMemory);
    assert_eq!(tight.usage().device_bytes, a.bytes());
}

#[test]
fn work_is_metered_before_it_starts() {
    let account = limited(u64::MAX, 3_000_000, None);
    let a = Tensor::zeros(&CPU, &account, &[100, 100], DType::F32).unwrap();
    let used = account.usage();
    a.matmul(&a).unwrap();
    assert_eq!(account.usage().flops, used.flops + 2_000_000);
    let before = account.usage();
    let refused = quota(a.matmul(&a));
    assert_eq!(
        refused,
        (QuotaKind::DeviceWork, 3_000_000, before.flops + 2_000_000)
    );
    assert_eq!(account.usage().flops, before.flops);
    assert_eq!(account.usage().operators, before.operators);
    assert_eq!(account.usage().device_bytes, a.bytes());
}

#[test]
fn what_cannot_end_in_time_is_not_begun() {
    let account = limited(u64::MAX, u64::MAX, Some(Duration::from_secs(5)));
    let a = Tensor::zeros(&CPU, &account, &[2_000, 2_000], DType::F32).unwrap();
    let begun = Instant::now();
    assert_eq!(quota(a.matmul(&a)).0, QuotaKind::Time);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(a.add_scalar(1.0).is_ok());
}

#[test]
fn a_cancelled_run_gets_nothing_more() {
    let account = Account::unlimited();
    let a = Tensor::zeros(&CPU, &account, &[2, 2], DType::F32).unwrap();
    account.cancel();
    for result in [
        a.add(&a),
        a.matmul(&a),
        a.exp(),
        a.reshape(&[4]),
        a.max(0, false),
        a.cast(DType::U8),
        Tensor::zeros(&CPU, &account, &[1], DType::F32),
        Tensor::zeros(&CPU, &account, &[0], DType::F32),
    ] {
        assert_eq!(quota(result).0, QuotaKind::Time);
    }
    assert_eq!(quota(a.to_bytes()).0, QuotaKind::Time);
    drop(a);
    assert_eq!(account.usage().device_bytes, 0);
}

#[test]
fn what_shares_memory_is_charged_once_and_until_the_last_is_gone() {
    let account = Account::unlimited();
    let a = Tensor::zeros(&CPU, &account, &[2, 3], DType::F32).unwrap();
    let b = a.reshape(&[6]).unwrap().reshape(&[3, 2]).unwrap();
    let c = a.clone();
    assert_eq!(account.usage().device_bytes, 24);
    drop(a);
    drop(c);
    assert_eq!(account.usage().device_bytes, 24);
    assert_eq!(b.to_f32().unwrap(), [0.0; 6]);
    drop(b);
    assert_eq!(account.usage().device_bytes, 0);
}

/// A result is charged to the account of the tensor whose method made it.
#[test]
fn two_accounts_never_mix() {
    let (mine, yours) = (Account::unlimited(), Account::unlimited());
    let a = Tensor::zeros(&CPU, &mine, &[4], DType::F32).unwrap();
    let b = Tensor::zeros(&CPU, &yours, &[4], DType::F32).unwrap();
    let before = yours.usage();
    let c = a.add(&b).unwrap();
    assert_eq!(yours.usage(), before);
    assert_eq!(mine.usage().device_bytes, 32);
    assert!(c.account().is_same(&mine));
}
