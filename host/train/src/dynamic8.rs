//! Blocks of 8-bit numbers with a dynamic exponent, one scale a block.
//!
//! The data type is that of "8-bit Optimizers via Block-wise Quantization" (arXiv 2110.02861,
//! section 1.3, after arXiv 1511.04561): leading zeros count a power of ten, a one ends them, the
//! rest is a linear fraction from 0.1 to 1; so small numbers are as exact as large ones. A block
//! is divided by its largest magnitude and each element becomes the nearest number of the type.

use std::sync::LazyLock;

/// Numbers of a block.
pub const BLOCK: usize = 256;

/// The 256 numbers of a data type in ascending order, and the middles between neighbours.
pub struct DynamicType {
    /// In ascending order.
    pub numbers: [f32; 256],
    middles: [f32; 255],
}

/// With a sign: for first moments and for the scales of NF4.
pub static SIGNED: LazyLock<DynamicType> = LazyLock::new(|| DynamicType::new(true));

/// Without one: for second moments.
pub static UNSIGNED: LazyLock<DynamicType> = LazyLock::new(|| DynamicType::new(false));

impl DynamicType {
    fn new(signed: bool) -> Self {
        let mut numbers = vec![0.0, 1.0];
        for power in 0..7 {
            // In 64 bits, so that each number is the nearest 32-bit one to what it is by
            // definition. (bitsandbytes computes them in 32 bits when it starts, and the last bit
            // of some depends on the processor.)
            let steps = 1_u32 << if signed { power } else { power + 1 };
            let boundary = |n: u32| 0.1 + 0.9 * f64::from(n) / f64::from(steps);
            let scale = 10_f64.powi(power - 6);
            for n in 0..steps {
                let number = (scale * ((boundary(n) + boundary(n + 1)) / 2.0)) as f32;
                numbers.push(number);
                if signed {
                    numbers.push(-number);
                }
            }
        }
        numbers.sort_by(f32::total_cmp);
        let mut all = [0.0; 256];
        all.copy_from_slice(&numbers);
        Self {
            numbers: all,
            middles: std::array::from_fn(|n| (all[n] + all[n + 1]) / 2.0),
        }
    }

    /// The nearest number to one of at most 1 in size, the smaller of two that are as near.
    pub fn nearest(&self, value: f32) -> u8 {
        self.middles.partition_point(|middle| *middle < value) as u8
    }

    /// Rounds a block, which becomes its scale and a byte an element.
    pub fn quantize(&self, values: &[f32], codes: &mut [u8]) -> f32 {
        let largest = values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let inverse = if largest > 0.0 { 1.0 / largest } else { 0.0 };
        for (code, value) in codes.iter_mut().zip(values) {
            *code = self.nearest((value * inverse).clamp(-1.0, 1.0));
        }
        largest
    }

    /// The numbers that a block stands for.
    pub fn dequantize(&self, codes: &[u8], scale: f32, out: &mut [f32]) {
        for (out, code) in out.iter_mut().zip(codes) {
            *out = self.numbers[*code as usize] * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::test_values;
    use proptest::prelude::*;

    #[test]
    fn the_numbers_are_in_order_and_reach_from_end_to_end() {
        for of in [&SIGNED, &UNSIGNED] {
            assert!(of.numbers.windows(2).all(|pair| pair[0] < pair[1]));
            assert_eq!(of.numbers[255], 1.0);
            assert!(of.numbers.contains(&0.0));
        }
    }

    #[test]
    fn a_block_that_is_zero_stays_zero() {
        let mut codes = [1; 4];
        let scale = SIGNED.quantize(&[0.0; 4], &mut codes);
        let mut out = [1.0; 4];
        SIGNED.dequantize(&codes, scale, &mut out);
        assert_eq!((scale, out), (0.0, [0.0; 4]));
    }

    proptest! {
        #[test]
        fn an_element_becomes_the_nearest_number(seed in 0_u64..1000) {
            let values = test_values(BLOCK, seed);
            let mut codes = [0; BLOCK];
            let scale = SIGNED.quantize(&values, &mut codes);
            let mut out = [0.0; BLOCK];
            SIGNED.dequantize(&codes, scale, &mut out);
            for (value, got) in values.iter().zip(&out) {
                let distance = |n: &f32| (n * scale - value).abs();
                let best = SIGNED.numbers.iter().map(distance).fold(f32::MAX, f32::min);
                prop_assert!((got - value).abs() <= best * 1.0001 + 1e-7);
            }
        }
    }
}
