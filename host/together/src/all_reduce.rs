//! All-reduce: nodes take every step together, along the mean of all their gradients. Each sends
//! every gradient at every step, in 16 bits (bfloat16): what the others are compared with.
//!
//! A node takes part with its gradients as it has sent them, rounded, so that every node comes to
//! the same mean. Nothing of what rounding loses is kept: bfloat16 loses less than batches differ.

use std::collections::BTreeMap;

use half::bf16;

use crate::contribution::{Contribution, Header, Kind, Unsound, mean};
use crate::error::{TogetherError, check_length};
use crate::quantize::BLOCK;

/// What all nodes' gradients are to: so many parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllReduce {
    parameters: u32,
}

impl AllReduce {
    /// Begins, with so many parameters.
    ///
    /// # Errors
    /// When there are none, or too many to be counted in 32 bits.
    pub fn new(parameters: usize) -> Result<Self, TogetherError> {
        match u32::try_from(parameters) {
            Ok(parameters @ 1..) => Ok(Self { parameters }),
            _ => Err(TogetherError::Setting {
                what: "the number of weights",
                got: parameters.to_string(),
                want: "from 1 to 2^32 - 1",
            }),
        }
    }

    fn parameters(&self) -> usize {
        self.parameters as usize
    }

    /// What each contribution to a step says of itself.
    #[must_use]
    pub fn header(&self, step: u32) -> Header {
        Header {
            kind: Kind::Gradients,
            fragment: 0,
            round: step,
            numbers: self.parameters,
        }
    }

    /// Bytes of each contribution.
    #[must_use]
    pub fn bytes(&self) -> usize {
        Header::BYTES + 2 * self.parameters()
    }

    /// Writes a step's gradients.
    ///
    /// # Errors
    /// When there are not as many, or one is not finite in 16 bits.
    pub fn contribute(&self, step: u32, gradients: &[f32]) -> Result<Vec<u8>, TogetherError> {
        check_length("the gradients", gradients.len(), self.parameters())?;
        let mut out = Vec::with_capacity(self.bytes());
        self.header(step).write(&mut out);
        for gradient in gradients {
            let gradient = bf16::from_f32(*gradient);
            if !gradient.is_finite() {
                let what = "the gradients";
                return Err(TogetherError::NotFinite { what });
            }
            out.extend_from_slice(&gradient.to_bits().to_le_bytes());
        }
        Ok(out)
    }

    /// Reads a node's gradients. Nothing of them is believed before that.
    ///
    /// # Errors
    /// When they are not what was asked for, or one is not finite.
    pub fn read(&self, step: u32, bytes: &[u8]) -> Result<Contribution, Unsound> {
        let body = self.header(step).body(bytes, 2 * self.parameters())?;
        let mut out = Vec::with_capacity(self.parameters());
        for (at, bits) in body.as_chunks::<2>().0.iter().enumerate() {
            let gradient = bf16::from_bits(u16::from_le_bytes(*bits));
            if !gradient.is_finite() {
                return Err(Unsound::NotFinite { block: at / BLOCK });
            }
            out.push(gradient.to_f32());
        }
        Ok(Contribution::Dense(out))
    }

    /// The mean of all that were accepted, the same on every node; zeros of nobody.
    ///
    /// # Errors
    /// When a contribution is one to something else.
    pub fn mean<K: Ord>(
        &self,
        accepted: &BTreeMap<K, Contribution>,
    ) -> Result<Vec<f32>, TogetherError> {
        let mean = mean(accepted, self.parameters())?;
        Ok(mean.unwrap_or_else(|| vec![0.0; self.parameters()]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_no_honest_node_sends_is_refused() {
        let all = AllReduce::new(300).unwrap();
        let gradients: Vec<f32> = (0..300).map(|n| n as f32 / 7.0 - 20.0).collect();
        let bytes = all.contribute(4, &gradients).unwrap();
        assert_eq!(bytes.len(), all.bytes());
        assert!(all.read(4, &bytes).is_ok());
        assert!(matches!(all.read(5, &bytes), Err(Unsound::Header { .. })));
        let cut = all.read(4, &bytes[..bytes.len() - 1]);
        assert!(matches!(cut, Err(Unsound::Length { .. })), "{cut:?}");
        // Infinity and NaN, in the second block.
        for wrong in [[0x80, 0x7f], [0xc1, 0xff]] {
            let mut bytes = bytes.clone();
            bytes[Header::BYTES + 2 * 280..][..2].copy_from_slice(&wrong);
            assert_eq!(all.read(4, &bytes), Err(Unsound::NotFinite { block: 1 }));
        }
        assert!(AllReduce::new(0).is_err());
        assert!(all.contribute(4, &gradients[1..]).is_err());
        for wrong in [f32::NAN, f32::INFINITY, f32::MAX] {
            let mut gradients = gradients.clone();
            gradients[299] = wrong;
            // The largest float of all is finite, and rounds to what is not.
            assert!(all.contribute(4, &gradients).is_err(), "{wrong}");
        }
        let frequencies = BTreeMap::from([(0, Contribution::Frequencies(vec![(0, 1.0)]))]);
        assert!(all.mean(&frequencies).is_err());
        let shorter = BTreeMap::from([(0, Contribution::Dense(vec![1.0; 299]))]);
        assert!(all.mean(&shorter).is_err());
    }

    proptest! {
        #[test]
        fn every_node_comes_to_the_mean_to_the_same_bits(
            order in Just((0_usize..4).collect::<Vec<_>>()).prop_shuffle(),
            gradients in prop::collection::vec(prop::collection::vec(-1.0_f32..1.0, 50), 4),
        ) {
            let all = AllReduce::new(50).unwrap();
            let sent: Vec<Vec<u8>> = gradients
                .iter()
                .map(|own| all.contribute(9, own).unwrap())
                .collect();
            let mean = |order: &[usize]| {
                let heard = order.iter().map(|who| (*who, all.read(9, &sent[*who]).unwrap()));
                all.mean(&heard.collect()).unwrap()
            };
            let first = mean(&[0, 1, 2, 3]);
            for (at, got) in first.iter().enumerate() {
                let want = gradients.iter().map(|own| own[at]).sum::<f32>() / 4.0;
                // Half of the last of 8 bits, of the largest that there may be.
                prop_assert!((got - want).abs() <= 1.0 / 512.0, "{got} for {want}");
            }
            prop_assert_eq!(first, mean(&order));
        }

        #[test]
        fn strangers_bytes_are_refused_or_finite(
            mut bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let all = AllReduce::new(9).unwrap();
            let mut whole = Vec::new();
            all.header(3).write(&mut whole);
            whole.append(&mut bytes);
            if let Ok(Contribution::Dense(read)) = all.read(3, &whole) {
                prop_assert!(read.len() == 9 && read.iter().all(|x| x.is_finite()));
            }
        }
    }
}
