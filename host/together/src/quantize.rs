//! Numbers in 8 or 4 bits, in blocks of 256 with a scale of 16 bits each.
//!
//! A block is divided by its largest magnitude over the largest code, and rounded to the nearest
//! code. What that loses of a number is at most half a scale, and [`Feedback`] keeps it, so that
//! it is sent with the next numbers: in the long run nothing is lost (error feedback, arXiv
//! 1901.09847).

use half::bf16;
use serde::{Deserialize, Serialize};

use crate::error::{TogetherError, check_length};

/// Numbers with one scale.
pub const BLOCK: usize = 256;

/// How many bits a number has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Precision {
    /// Codes from -127 to 127: 8.0625 bits a number with the scale.
    Int8,
    /// Codes from -7 to 7: 4.0625 bits.
    Int4,
}

impl Precision {
    /// The largest code.
    #[must_use]
    pub fn largest(self) -> i8 {
        match self {
            Self::Int8 => 127,
            Self::Int4 => 7,
        }
    }

    /// Bytes of so many numbers: for each block its scale and then its codes.
    #[must_use]
    pub fn bytes(self, numbers: usize) -> usize {
        let whole = numbers / BLOCK * (2 + self.code_bytes(BLOCK));
        match numbers % BLOCK {
            0 => whole,
            rest => whole + 2 + self.code_bytes(rest),
        }
    }

    /// Bytes of the codes of so many numbers in one block.
    pub(crate) fn code_bytes(self, numbers: usize) -> usize {
        match self {
            Self::Int8 => numbers,
            Self::Int4 => numbers.div_ceil(2),
        }
    }
}

/// The scale at which the largest of these numbers has the largest code, or none if they are not
/// finite, or too large for a scale.
///
/// It is rounded up to 16 bits, so that no number is beyond the largest code.
pub(crate) fn scale_of(numbers: &[f32], largest: i8) -> Option<bf16> {
    let most = numbers.iter().fold(0.0_f32, |most, x| match x.is_nan() {
        true => f32::NAN,
        // `max` forgets a NaN, so it is carried by hand.
        false if most.is_nan() => most,
        false => most.max(x.abs()),
    });
    if !most.is_finite() {
        return None;
    }
    let exact = most / f32::from(largest);
    let mut scale = bf16::from_f32(exact);
    if scale.to_f32() < exact {
        scale = bf16::from_bits(scale.to_bits() + 1);
    }
    let reach = scale.to_f32() * f32::from(largest);
    reach.is_finite().then_some(scale)
}

/// The code of a number.
pub(crate) fn code(number: f32, scale: f32, largest: i8) -> i8 {
    if scale == 0.0 {
        return 0;
    }
    let most = f32::from(largest);
    // Within the bounds by the choice of the scale; a scale so small that it is no normal number
    // may still lead beyond them.
    (number / scale).round_ties_even().clamp(-most, most) as i8
}

/// Writes numbers as codes to `out`, and takes from them what those stand for.
pub(crate) fn write(
    precision: Precision,
    numbers: &mut [f32],
    out: &mut Vec<u8>,
) -> Result<(), TogetherError> {
    let largest = precision.largest();
    // Nothing is changed before all are known to fit.
    let scales: Option<Vec<bf16>> = numbers
        .chunks(BLOCK)
        .map(|block| scale_of(block, largest))
        .collect();
    let scales = scales.ok_or(TogetherError::NotFinite {
        what: "the differences",
    })?;
    for (block, scale) in numbers.chunks_mut(BLOCK).zip(scales) {
        out.extend_from_slice(&scale.to_bits().to_le_bytes());
        let scale = scale.to_f32();
        let take = |number: &mut f32| {
            let code = code(*number, scale, largest);
            *number -= f32::from(code) * scale;
            code
        };
        match precision {
            Precision::Int8 => out.extend(block.iter_mut().map(|number| take(number) as u8)),
            Precision::Int4 => {
                for pair in block.chunks_mut(2) {
                    let mut codes = pair.iter_mut().map(|number| take(number) as u8 & 0xf);
                    let low = codes.next().unwrap_or(0);
                    out.push(low | codes.next().unwrap_or(0) << 4);
                }
            }
        }
    }
    Ok(())
}

/// What was lost of all numbers that were sent so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Feedback {
    lost: Vec<f32>,
}

impl Feedback {
    /// Nothing is lost yet, of so many numbers.
    #[must_use]
    pub fn new(numbers: usize) -> Self {
        Self {
            lost: vec![0.0; numbers],
        }
    }

    /// What is lost, of each number.
    #[must_use]
    pub fn lost(&self) -> &[f32] {
        &self.lost
    }

    /// Writes these numbers, which begin at the one with this place, and what was lost of them
    /// before, to `out`, and keeps what is lost now.
    ///
    /// # Errors
    /// When there are not as many, or one is not finite: then nothing was lost or written.
    pub fn write(
        &mut self,
        precision: Precision,
        start: usize,
        numbers: &[f32],
        out: &mut Vec<u8>,
    ) -> Result<(), TogetherError> {
        let have = self.lost.len().saturating_sub(start);
        check_length("the differences", numbers.len().max(have), have)?;
        let lost = &mut self.lost[start..start + numbers.len()];
        let mut all: Vec<f32> = numbers.iter().zip(&*lost).map(|(x, y)| x + y).collect();
        write(precision, &mut all, out)?;
        lost.copy_from_slice(&all);
        Ok(())
    }

    /// Takes this as what was lost of a range of numbers, which is as long.
    pub(crate) fn set(&mut self, range: std::ops::Range<usize>, lost: &[f32]) {
        self.lost[range].copy_from_slice(lost);
    }

    /// Forgets what was lost of a range of numbers: it belonged to weights that are no more.
    pub(crate) fn forget(&mut self, range: std::ops::Range<usize>) {
        self.lost[range].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contribution::read_dense;

    fn precisions() -> impl Strategy<Value = Precision> {
        prop_oneof![Just(Precision::Int8), Just(Precision::Int4)]
    }

    /// Numbers of very different sizes, some of them 0.
    fn numbers(most: usize) -> impl Strategy<Value = Vec<f32>> {
        let number = (-1.0_f32..1.0, -30_i32..30).prop_map(|(x, power)| {
            if power < -25 {
                0.0
            } else {
                x * 2.0_f32.powi(power)
            }
        });
        prop::collection::vec(number, 1..most)
    }

    proptest! {
        #[test]
        fn a_number_loses_at_most_half_a_scale(precision in precisions(), truth in numbers(700)) {
            let mut lost = truth.clone();
            let mut bytes = Vec::new();
            write(precision, &mut lost, &mut bytes).unwrap();
            prop_assert_eq!(bytes.len(), precision.bytes(truth.len()));
            let sent = read_dense(precision, truth.len(), &bytes).unwrap();
            for (at, block) in truth.chunks(BLOCK).enumerate() {
                let scale = scale_of(block, precision.largest()).unwrap().to_f32();
                let most = block.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                prop_assert!(scale <= most / f32::from(precision.largest()) * 1.01 + 1e-38);
                for (n, want) in block.iter().enumerate() {
                    let n = at * BLOCK + n;
                    prop_assert!((sent[n] - want).abs() <= scale * 0.5001, "{} for {want}", sent[n]);
                    let error = sent[n] + lost[n] - want;
                    prop_assert!(error.abs() <= want.abs() * 1e-6 + 1e-38);
                }
            }
        }

        #[test]
        fn what_was_sent_and_what_is_lost_are_the_truth(
            precision in precisions(),
            rounds in prop::collection::vec(prop::collection::vec(-1.0_f32..1.0, 300), 1..12),
        ) {
            let mut feedback = Feedback::new(300);
            let (mut sent, mut truth) = (vec![0.0_f64; 300], vec![0.0_f64; 300]);
            for round in &rounds {
                let mut bytes = Vec::new();
                feedback.write(precision, 0, round, &mut bytes).unwrap();
                let read = read_dense(precision, 300, &bytes).unwrap();
                for n in 0..300 {
                    sent[n] += f64::from(read[n]);
                    truth[n] += f64::from(round[n]);
                }
            }
            for n in 0..300 {
                let all = sent[n] + f64::from(feedback.lost()[n]);
                prop_assert!((all - truth[n]).abs() < 1e-5, "{all} instead of {}", truth[n]);
                // Each number and what was lost before it are at most 1 and half a scale.
                prop_assert!(feedback.lost()[n].abs() < 0.6 / f32::from(precision.largest()));
            }
        }
    }

    #[test]
    fn numbers_that_are_not_finite_change_nothing() {
        let mut feedback = Feedback::new(600);
        let mut out = Vec::new();
        feedback
            .write(Precision::Int4, 0, &[0.3; 600], &mut out)
            .unwrap();
        let before = feedback.clone();
        for wrong in [f32::NAN, f32::INFINITY, f32::MAX] {
            let mut numbers = [0.1; 600];
            numbers[599] = wrong;
            let mut out = Vec::new();
            let refused = feedback.write(Precision::Int4, 0, &numbers, &mut out);
            // The largest float of all is finite, and its scale in 16 bits leads beyond it.
            assert!(refused.is_err(), "{wrong}");
            assert!(out.is_empty());
            assert_eq!(feedback, before);
        }
        assert!(
            feedback
                .write(Precision::Int8, 1, &[0.0; 600], &mut out)
                .is_err()
        );
    }

    #[test]
    fn bytes_are_as_the_documentation_says() {
        assert_eq!(Precision::Int4.bytes(256), 130);
        assert_eq!(Precision::Int4.bytes(257), 133);
        assert_eq!(Precision::Int8.bytes(255), 257);
        assert_eq!(Precision::Int8.bytes(0), 0);
    }
}
