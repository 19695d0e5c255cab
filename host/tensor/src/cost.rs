//! What every operator costs, in one place.
//!
//! The unit is the floating-point operation. An operator is metered as
//!
//! > **work = max(arithmetic, traffic ÷ 4, 1)**
//!
//! where *arithmetic* is the number of its operations, weighted as below, and *traffic* the bytes
//! that it reads and writes: a roofline, in which four bytes moved take as long as one operation.
//! So an operator that only moves memory is not free, and a matrix product of useful size costs
//! the familiar 2·m·k·n.
//!
//! | operator | arithmetic |
//! |---|---|
//! | add, sub, mul, add-scalar, mul-scalar, neg, abs, relu | 1 an element |
//! | equal, greater, less | 4 an element |
//! | div, sqrt | 4 an element |
//! | maximum, minimum, select | 8 an element |
//! | exp, log, tanh, sigmoid, silu | 24 an element |
//! | gelu | 40 an element |
//! | pow | 64 an element |
//! | the above in f16 and bf16 | 8 an element more, for the conversions |
//! | matmul | 2·m·k·n a matrix, and at least 512; f16 and bf16: 8 an element of all three more |
//! | sum, mean | 4 an element; f16 and bf16: 8 more |
//! | max, min, argmax | 6 an element; f16 and bf16: 8 more |
//! | top-k | 20 an element, and 8·log₂(count) for each one returned |
//! | softmax, log-softmax | 24 an element; f16 and bf16: 16 more |
//! | layer-norm, rms-norm | 10 an element; f16 and bf16: 16 more |
//! | gather | 8 an element of the result |
//! | embedding, slice, concat, transpose, cast | 4 an element of the result; cast from or to f16 and bf16: 8 more |
//! | random-uniform, random-normal | 16, 96 an element |
//! | from-…, to-…, zeros, full | traffic alone |
//! | reshape | 1 |
//!
//! The weights make one unit take about a nanosecond or less on one core, for every operator of
//! more than a few thousand elements (`benches/rates.rs` measures it): that is the rate at which
//! [`Account::charge_work`](crate::Account::charge_work) holds an operator against the deadline.
//!
//! Memory: the result is charged until it is dropped, and the scratch that an operator needs
//! beside it while it runs (copies in f32, for instance) is charged for as long.

use crate::dtype::DType;

/// Bytes moved in the time of one operation.
const BYTES_PER_OPERATION: u64 = 4;

/// The work of an operator with that much arithmetic and that much traffic.
#[inline]
pub(crate) fn work(arithmetic: u64, bytes: u64) -> u64 {
    arithmetic.max(bytes / BYTES_PER_OPERATION).max(1)
}

/// The work of reading `bytes`.
pub(crate) fn read(bytes: u64) -> u64 {
    work(0, bytes.saturating_mul(2))
}

/// The work of writing `bytes`.
pub(crate) fn write(bytes: u64) -> u64 {
    work(0, bytes)
}

/// The weight of one element of an operator whose weight in f32 is `weight`.
#[inline]
pub(crate) fn weight(weight: u64, dtype: DType) -> u64 {
    match dtype {
        DType::F16 | DType::Bf16 => weight + HALF,
        DType::F32 | DType::I32 | DType::U8 => weight,
    }
}

/// What the conversions of one element in half precision add.
pub(crate) const HALF: u64 = 8;
/// One of the cheap operators.
pub(crate) const CHEAP: u64 = 1;
/// A comparison.
pub(crate) const COMPARISON: u64 = 4;
/// Choosing one of two by a comparison or a condition.
pub(crate) const CHOICE: u64 = 8;
/// Division and the square root.
pub(crate) const DIVISION: u64 = 4;
/// The exponential and what is made of it.
pub(crate) const EXPONENTIAL: u64 = 24;
/// The error function and what is made of it.
pub(crate) const ERROR_FUNCTION: u64 = 40;
/// The general power.
pub(crate) const POWER: u64 = 64;
/// An element of a sum or a mean.
pub(crate) const REDUCE: u64 = 4;
/// An element in a search for an extremum.
pub(crate) const SEARCH: u64 = 6;
/// An element in a selection of the largest.
pub(crate) const SELECTION: u64 = 20;
/// An element of a softmax.
pub(crate) const SOFTMAX: u64 = 24;
/// An element of a normalisation.
pub(crate) const NORMALISATION: u64 = 10;
/// An element that is moved.
pub(crate) const MOVE: u64 = 4;
/// An element that is fetched by an index of its own.
pub(crate) const GATHER: u64 = 8;
/// A uniform random number.
pub(crate) const UNIFORM: u64 = 16;
/// A normal random number.
pub(crate) const NORMAL: u64 = 96;

/// The arithmetic of `batch` products of [m, k] and [k, n].
pub(crate) fn product(batch: u64, m: u64, k: u64, n: u64) -> u64 {
    let one = m
        .saturating_mul(k)
        .saturating_mul(n)
        .saturating_mul(2)
        .max(512);
    batch.saturating_mul(one)
}

/// The arithmetic of choosing `count` out of each of `lanes` lanes of `extent` elements.
pub(crate) fn selection(lanes: u64, extent: u64, count: u64) -> u64 {
    let sort = count.saturating_mul(8 * u64::from(64 - count.leading_zeros()));
    lanes.saturating_mul(extent.saturating_mul(SELECTION).saturating_add(sort))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_memory_is_never_free() {
        assert_eq!(work(0, 0), 1);
        assert_eq!(work(0, 4_000), 1_000);
        assert_eq!(work(5_000, 4_000), 5_000);
    }

    #[test]
    fn a_product_of_useful_size_costs_its_flops() {
        assert_eq!(product(1, 100, 200, 300), 12_000_000);
        assert_eq!(product(7, 1, 1, 1), 7 * 512);
        assert_eq!(product(u64::MAX, 2, 2, 2), u64::MAX);
    }
}
