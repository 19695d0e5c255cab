//! Random tensors, the same on every node and every device.
//!
//! The generator is Philox4x32-10 (Salmon et al., 2011), which makes the n-th block of four
//! words from n and the seed alone. Normal numbers come from pairs of uniform ones by Box and
//! Muller's method (1958), with logarithm, sine and cosine in software, because those of
//! processors and C libraries differ in the last bit.

use crate::cost;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::TensorError;
use crate::shape::Shape;
use crate::tensor::Tensor;
use skep_accounts::Account;

impl Tensor {
    /// An `f32` tensor with elements drawn uniformly from [low, high). The same seed gives the
    /// same elements on every node.
    ///
    /// # Errors
    /// [`TensorError::Invalid`] unless both are finite and `low` is less than `high`.
    pub fn random_uniform(
        device: &Device,
        account: &Account,
        shape: &[u32],
        low: f32,
        high: f32,
        seed: u64,
    ) -> Result<Tensor, TensorError> {
        let shape = Shape::new("random-uniform", shape)?;
        if !(low.is_finite() && high.is_finite() && low < high) {
            return Err(TensorError::Invalid(format!(
                "random-uniform: [{low}, {high}) is not an interval of numbers"
            )));
        }
        let (start, span) = (f64::from(low), f64::from(high) - f64::from(low));
        let work = cost::work(shape.elements() * cost::UNIFORM, shape.bytes(DType::F32));
        Tensor::build::<f32>(device, account, shape, work, |out| {
            for (block, four) in out.chunks_mut(4).enumerate() {
                for (slot, word) in four.iter_mut().zip(philox(block as u64, seed)) {
                    let unit = f64::from(word) / 4_294_967_296.0;
                    let value = (start + unit * span) as f32;
                    // Rounding to f32 may reach the end that is excluded.
                    *slot = if value < high {
                        value
                    } else {
                        high.next_down()
                    };
                }
            }
            Ok(())
        })
    }

    /// An `f32` tensor with elements drawn from the normal distribution of the given mean and
    /// standard deviation. The same seed gives the same elements on every node.
    ///
    /// # Errors
    /// [`TensorError::Invalid`] unless both are finite and the deviation is not negative.
    pub fn random_normal(
        device: &Device,
        account: &Account,
        shape: &[u32],
        mean: f32,
        deviation: f32,
        seed: u64,
    ) -> Result<Tensor, TensorError> {
        let shape = Shape::new("random-normal", shape)?;
        if !(mean.is_finite() && deviation.is_finite() && deviation >= 0.0) {
            return Err(TensorError::Invalid(format!(
                "random-normal: there is no distribution of mean {mean} and deviation {deviation}"
            )));
        }
        let (mean, deviation) = (f64::from(mean), f64::from(deviation));
        let work = cost::work(shape.elements() * cost::NORMAL, shape.bytes(DType::F32));
        Tensor::build::<f32>(device, account, shape, work, |out| {
            for (block, pair) in out.chunks_mut(2).enumerate() {
                for (slot, normal) in pair.iter_mut().zip(normals(philox(block as u64, seed))) {
                    *slot = (mean + deviation * normal) as f32;
                }
            }
            Ok(())
        })
    }
}

/// Two independent standard normal numbers from four random words.
fn normals([a, b, c, d]: [u32; 4]) -> [f64; 2] {
    // In (0, 1], so that the logarithm is finite, and in [0, 1).
    let radius = (f64::from(a) * 1_048_576.0 + f64::from(b >> 12) + 1.0) / 4_503_599_627_370_496.0;
    let turn = (f64::from(c) * 1_048_576.0 + f64::from(d >> 12)) / 4_503_599_627_370_496.0;
    let radius = libm::sqrt(-2.0 * libm::log(radius));
    let (sine, cosine) = libm::sincos(turn * std::f64::consts::TAU);
    [radius * cosine, radius * sine]
}

/// The block of that number: four random words.
fn philox(block: u64, seed: u64) -> [u32; 4] {
    philox_rounds(
        [block as u32, (block >> 32) as u32, 0, 0],
        [seed as u32, (seed >> 32) as u32],
    )
}

fn philox_rounds(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [a, b, c, d] = counter;
        let left = u64::from(a) * 0xd251_1f53;
        let right = u64::from(c) * 0xcd9e_8d57;
        counter = [
            (right >> 32) as u32 ^ b ^ key[0],
            right as u32,
            (left >> 32) as u32 ^ d ^ key[1],
            left as u32,
        ];
        key = [
            key[0].wrapping_add(0x9e37_79b9),
            key[1].wrapping_add(0xbb67_ae85),
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors of Philox publish with their code.
    #[test]
    fn philox_gives_the_known_answers() {
        assert_eq!(
            philox_rounds([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox_rounds([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox_rounds(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = values
            .iter()
            .map(|x| (f64::from(*x) - mean).powi(2))
            .sum::<f64>()
            / n;
        (mean, variance)
    }

    #[test]
    fn uniform_numbers_stay_within_and_spread() {
        let (device, account) = (Device::cpu(), Account::unlimited());
        let draw = |seed| {
            Tensor::random_uniform(&device, &account, &[100, 101], -2.0, 4.0, seed)
                .unwrap()
                .to_f32()
                .unwrap()
        };
        let values = draw(7);
        assert!(values.iter().all(|x| (-2.0..4.0).contains(x)));
        let (mean, variance) = moments(&values);
        assert!((mean - 1.0).abs() < 0.1, "{mean}");
        assert!((variance - 3.0).abs() < 0.1, "{variance}");
        assert_eq!(values, draw(7));
        assert_ne!(values, draw(8));
    }

    #[test]
    fn the_excluded_end_is_never_reached() {
        let (device, account) = (Device::cpu(), Account::unlimited());
        let high = 1.0_f32.next_up();
        let values = Tensor::random_uniform(&device, &account, &[999], 1.0, high, 3)
            .unwrap()
            .to_f32()
            .unwrap();
        assert!(values.iter().all(|x| *x == 1.0));
    }

    #[test]
    fn normal_numbers_have_their_moments_and_stay_put() {
        let (device, account) = (Device::cpu(), Account::unlimited());
        let values = Tensor::random_normal(&device, &account, &[20_001], 3.0, 2.0, 42)
            .unwrap()
            .to_f32()
            .unwrap();
        let (mean, variance) = moments(&values);
        assert!((mean - 3.0).abs() < 0.05, "{mean}");
        assert!((variance - 4.0).abs() < 0.15, "{variance}");
        let constant = Tensor::random_normal(&device, &account, &[3], 1.5, 0.0, 1).unwrap();
        assert_eq!(constant.to_f32().unwrap(), [1.5; 3]);
    }
}
