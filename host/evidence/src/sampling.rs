//! Which token shared randomness makes a model choose.
//!
//! A token drawn from a model's probabilities could be any token, so that a provider could send
//! whatever it likes and call it chance. Here chance is shared: adding noise of the Gumbel
//! distribution to each logit and taking the largest sum draws from the very same probabilities,
//! and the noise is a function of the seed, the sample and the token's place. Who knows the seed
//! and the logits knows the token. Logits of another machine differ in their last digits, so a
//! token whose sum falls short of the largest by no more than a tolerance is a tie, not a fault.
//!
//! The noise has the same bits on every machine: logarithms are those of `libm`, which uses
//! nothing but exact operations and the four that IEEE 754 rounds exactly.
//!
//! It must never depend on what is not its argument, or on the order in which tokens are looked
//! at.

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by. At 0 the largest is taken, and noise plays no part.
    pub temperature: f32,
    /// What the request's randomness grows from.
    pub seed: u64,
    /// Which of several texts to the same request.
    pub sample: u32,
}

/// Why nothing can be drawn.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// A logit that is infinite upwards, or not a number.
    #[error("logit {token} is not a number that can be compared; check the model's weights")]
    NotFinite {
        /// Of which token.
        token: usize,
    },
    /// Every token is forbidden.
    #[error("every token is forbidden, so none can be drawn; loosen the grammar or the filter")]
    NothingAllowed,
    /// A temperature that is below zero or not a number.
    #[error("temperature {found} is not a number from 0 on")]
    Temperature {
        /// The temperature.
        found: f32,
    },
    /// A token that is not in the vocabulary.
    #[error("token {token} is not in the vocabulary, which has {size}")]
    UnknownToken {
        /// Which.
        token: u32,
        /// How many tokens there are.
        size: usize,
    },
}

/// How a claimed token compares with the predicted one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Agreement {
    /// It is the predicted one.
    Same,
    /// It is another, by so little that another machine's last digits can explain it.
    Tie {
        /// By how much its sum falls short, in logits divided by the temperature.
        gap: f64,
    },
    /// It is another, and nothing explains it.
    Different {
        /// The predicted token.
        predicted: u32,
        /// By how much the claimed one falls short; infinite if it is forbidden.
        gap: f64,
    },
}

impl Sampling {
    /// The token that is drawn at `position`, counted from the first token after the prompt. A
    /// logit of minus infinity forbids its token.
    ///
    /// # Errors
    ///
    /// When there is nothing to draw from.
    pub fn draw(&self, logits: &[f32], position: u64) -> Result<u32, SamplingError> {
        self.draw_among((0..).zip(logits.iter().copied()), position)
    }

    /// As [`Self::draw`], from some tokens with their logits alone.
    ///
    /// # Errors
    ///
    /// When there is nothing to draw from.
    pub fn draw_among(
        &self,
        logits: impl IntoIterator<Item = (u32, f32)>,
        position: u64,
    ) -> Result<u32, SamplingError> {
        self.best(logits, position).map(|(token, _)| token)
    }

    /// Compares a claimed token with the one that is drawn from these logits, which may be
    /// another machine's. `tolerance` is what the sums of both may differ by, in logits divided
    /// by the temperature.
    ///
    /// # Errors
    ///
    /// When there is nothing to draw from, or the claimed token is none.
    pub fn check(
        &self,
        logits: &[f32],
        position: u64,
        claimed: u32,
        tolerance: f64,
    ) -> Result<Agreement, SamplingError> {
        let logit = logits
            .get(claimed as usize)
            .ok_or(SamplingError::UnknownToken {
                token: claimed,
                size: logits.len(),
            })?;
        let all = (0..).zip(logits.iter().copied());
        self.check_among(all, position, (claimed, *logit), tolerance)
    }

    /// As [`Self::check`], where some tokens alone could be drawn. The claimed token comes with its
    /// logit, and need not be among them.
    ///
    /// # Errors
    ///
    /// When there is nothing to draw from.
    pub fn check_among(
        &self,
        logits: impl IntoIterator<Item = (u32, f32)>,
        position: u64,
        (claimed, logit): (u32, f32),
        tolerance: f64,
    ) -> Result<Agreement, SamplingError> {
        let (predicted, best) = self.best(logits, position)?;
        if predicted == claimed {
            return Ok(Agreement::Same);
        }
        let gap = best - self.sum(logit, claimed, &self.noise(position));
        Ok(match gap <= tolerance {
            true => Agreement::Tie { gap },
            false => Agreement::Different { predicted, gap },
        })
    }

    /// The largest sum and its token; of equal ones the first.
    fn best(
        &self,
        logits: impl IntoIterator<Item = (u32, f32)>,
        position: u64,
    ) -> Result<(u32, f64), SamplingError> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(SamplingError::Temperature {
                found: self.temperature,
            });
        }
        let noise = self.noise(position);
        let mut best: Option<(u32, f64)> = None;
        for (token, logit) in logits {
            if logit.is_nan() || logit == f32::INFINITY {
                return Err(SamplingError::NotFinite {
                    token: token as usize,
                });
            }
            if logit == f32::NEG_INFINITY {
                continue;
            }
            // Most tokens fall short whatever their noise is, and need no logarithm.
            if let Some((_, best)) = best
                && self.most(logit, token, &noise) < best
            {
                continue;
            }
            let sum = self.sum(logit, token, &noise);
            if best.is_none_or(|(_, best)| sum > best) {
                best = Some((token, sum));
            }
        }
        best.ok_or(SamplingError::NothingAllowed)
    }

    /// No less than [`Self::sum`], and cheap.
    fn most(&self, logit: f32, token: u32, noise: &Noise) -> f64 {
        match self.temperature == 0.0 {
            true => f64::from(logit),
            false => f64::from(logit) / f64::from(self.temperature) + noise.most(token),
        }
    }

    fn sum(&self, logit: f32, token: u32, noise: &Noise) -> f64 {
        match self.temperature == 0.0 {
            true => f64::from(logit),
            false => f64::from(logit) / f64::from(self.temperature) + noise.of(token),
        }
    }

    fn noise(&self, position: u64) -> Noise {
        let mut hash = blake3::Hasher::new_derive_key("skep shared noise of sampling v1");
        hash.update(&self.seed.to_le_bytes());
        hash.update(&self.sample.to_le_bytes());
        hash.update(&position.to_le_bytes());
        let mut bytes = [0; 8];
        hash.finalize_xof().fill(&mut bytes);
        Noise(u64::from_le_bytes(bytes))
    }
}

/// The noise of one place in one text.
struct Noise(u64);

impl Noise {
    /// A number of the standard Gumbel distribution: −ln(−ln u), with u uniform between 0 and 1.
    fn of(&self, token: u32) -> f64 {
        // In the middle of its interval, and so neither 0 nor 1.
        let uniform = (self.bits(token) as f64 + 0.5) / (1_u64 << 52) as f64;
        -libm::log(-libm::log(uniform))
    }

    /// No less than [`Self::of`]: −ln u is at least 1 − u, so the noise is at most −ln(1 − u), and
    /// how many ones the bits begin with says how small 1 − u is.
    fn most(&self, token: u32) -> f64 {
        let ones = (self.bits(token) << 12).leading_ones();
        // 1 − u is above 2^−(ones + 1), but for rounding.
        (f64::from(ones) + 1.001) * std::f64::consts::LN_2
    }

    /// 52 bits: the finalizer of SplitMix64 over a Weyl sequence, of which they pass for random.
    fn bits(&self, token: u32) -> u64 {
        let step = u64::from(token) + 1;
        let mut bits = self
            .0
            .wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        bits >> 12
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampling(temperature: f32) -> Sampling {
        Sampling {
            temperature,
            seed: 11,
            sample: 0,
        }
    }

    #[test]
    fn tokens_come_as_often_as_their_probabilities_say() {
        let logits = [0.0_f32, 1.0, -1.0, f32::NEG_INFINITY, 2.0];
        for temperature in [0.5_f32, 1.0, 2.0] {
            let weights = logits.map(|logit| f64::from(logit / temperature).exp());
            let total: f64 = weights.iter().sum();
            let mut counts = [0_u32; 5];
            for position in 0..20_000 {
                let token = sampling(temperature).draw(&logits, position).unwrap();
                counts[token as usize] += 1;
            }
            assert_eq!(counts[3], 0);
            for (count, weight) in counts.iter().zip(weights) {
                let expected = weight / total * 20_000.0;
                // Five deviations of a fixed experiment.
                let room = 5.0 * expected.sqrt() + 1.0;
                assert!((f64::from(*count) - expected).abs() < room, "{counts:?}");
            }
        }
    }

    #[test]
    fn what_is_passed_over_could_not_have_won() {
        for position in 0..200 {
            let noise = sampling(1.0).noise(position);
            for token in 0..1_000 {
                assert!(noise.most(token) >= noise.of(token));
            }
        }
    }

    #[test]
    fn some_tokens_alone_are_drawn_as_if_the_others_were_forbidden() {
        let logits: Vec<f32> = (0..50).map(|n| (n % 7) as f32 / 3.0).collect();
        let some = |token: &u32| token.is_multiple_of(3);
        let forbidden: Vec<f32> = (0..50)
            .map(|n| {
                if some(&n) {
                    logits[n as usize]
                } else {
                    f32::NEG_INFINITY
                }
            })
            .collect();
        for position in 0..100 {
            let among = (0..50).filter(some).map(|n| (n, logits[n as usize]));
            let sampling = sampling(0.9);
            assert_eq!(
                sampling.draw_among(among, position),
                sampling.draw(&forbidden, position)
            );
        }
    }

    #[test]
    fn at_zero_the_largest_is_taken() {
        assert_eq!(sampling(0.0).draw(&[1.0, 3.0, 3.0, 2.0], 5), Ok(1));
        assert_eq!(
            sampling(0.0).check(&[1.0, 3.0, 3.0, 2.0], 5, 2, 0.0),
            Ok(Agreement::Tie { gap: 0.0 })
        );
    }

    #[test]
    fn a_place_a_sample_and_a_seed_have_noise_of_their_own() {
        let logits = vec![0.0; 1_000];
        let text = |sampling: Sampling| -> Vec<u32> {
            (0..20)
                .map(|p| sampling.draw(&logits, p).unwrap())
                .collect()
        };
        let base = sampling(1.0);
        assert_eq!(text(base), text(base));
        assert_ne!(text(base), text(Sampling { seed: 12, ..base }));
        assert_ne!(text(base), text(Sampling { sample: 1, ..base }));
        let mut tokens = text(base);
        tokens.dedup();
        assert!(tokens.len() > 15);
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let draw = |logits: &[f32]| sampling(1.0).draw(logits, 0);
        assert_eq!(draw(&[]), Err(SamplingError::NothingAllowed));
        assert_eq!(
            draw(&[f32::NEG_INFINITY]),
            Err(SamplingError::NothingAllowed)
        );
        assert_eq!(
            draw(&[0.0, f32::NAN]),
            Err(SamplingError::NotFinite { token: 1 })
        );
        assert_eq!(
            draw(&[f32::INFINITY]),
            Err(SamplingError::NotFinite { token: 0 })
        );
        assert!(sampling(-1.0).draw(&[0.0], 0).is_err());
        assert!(sampling(f32::NAN).draw(&[0.0], 0).is_err());
        assert!(sampling(1.0).check(&[0.0], 0, 1, 0.1).is_err());
        let forbidden = sampling(1.0).check(&[0.0, f32::NEG_INFINITY], 0, 1, 0.1);
        assert!(matches!(
            forbidden,
            Ok(Agreement::Different { predicted: 0, gap }) if gap == f64::INFINITY
        ));
    }

    /// The noise is part of what was promised: it must be the same for ever.
    #[test]
    fn the_noise_does_not_change() {
        let noise = sampling(1.0).noise(3);
        let bits: Vec<String> = (0..3)
            .map(|t| format!("{:016x}", noise.of(t).to_bits()))
            .collect();
        insta::assert_snapshot!(bits.join(" "), @"3fea6cf6debc7e5d 3fdd3cc4af4cde9b 3ffdf33f756cd76e");
    }

    proptest! {
        /// What another machine's last digits can do, they are forgiven, and never more.
        #[test]
        fn small_differences_tie_and_no_honest_token_is_refused(
            logits in proptest::collection::vec(-8.0_f32..8.0, 2..300),
            position: u64,
            wiggle in 0.0_f32..0.01,
        ) {
            let there: Vec<f32> = logits
                .iter()
                .enumerate()
                .map(|(n, logit)| if n % 2 == 0 { logit + wiggle } else { logit - wiggle })
                .collect();
            let sampling = sampling(0.8);
            let token = sampling.draw(&there, position).unwrap();
            // Each of two sums moves by the wiggle over the temperature.
            let tolerance = 2.0 * f64::from(wiggle) / 0.8 + 1e-5;
            let agreement = sampling.check(&logits, position, token, tolerance).unwrap();
            prop_assert!(!matches!(agreement, Agreement::Different { .. }), "{:?}", agreement);
        }
    }
}
