//! Maxima, exponentials and sums over a whole vocabulary.
//!
//! Loops are over short arrays, so that the compiler makes wide instructions of them on every
//! machine, and in one order, so that every machine has the same sums.

/// Tokens whose weights have one sum.
const BLOCK: usize = 256;

/// Lanes that a loop goes by.
const LANES: usize = 8;

/// The greatest of these logits; minus infinity if there is none. What is no number is passed by.
#[inline]
pub(super) fn greatest(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (parts, rest) = logits.as_chunks::<LANES>();
    for part in parts {
        for (most, x) in lanes.iter_mut().zip(part) {
            *most = if *x > *most { *x } else { *most };
        }
    }
    let rest = rest.iter().copied();
    (lanes.into_iter().chain(rest))
        .fold(f32::NEG_INFINITY, |most, x| if x > most { x } else { most })
}

/// The first of the tokens with the greatest logit.
pub(super) fn argmax(logits: &[f32]) -> Option<u32> {
    let mut most = f32::NEG_INFINITY;
    let mut found = 0;
    for (n, block) in logits.chunks(BLOCK).enumerate() {
        let here = greatest(block);
        if here > most {
            (most, found) = (here, n * BLOCK);
        }
    }
    let place = logits[found..].iter().position(|x| *x == most)?;
    (most > f32::NEG_INFINITY).then_some((found + place) as u32)
}

/// Plus infinity as the largest number.
#[inline(always)]
pub(super) fn finite(logit: f32) -> f32 {
    if logit > f32::MAX { f32::MAX } else { logit }
}

/// How likely a token is next to the likeliest: `e ^ ((logit - most) / temperature)`.
#[inline(always)]
pub(super) fn weight(logit: f32, most: f32, temperature: f32) -> f32 {
    exp((logit - most) / temperature)
}

/// The sum of all weights at temperature 1.
pub(super) fn total(logits: &[f32], most: f32) -> f64 {
    let mut total = 0.0;
    let mut weights = [0.0; BLOCK];
    for logits in logits.chunks(BLOCK) {
        let weights = &mut weights[..logits.len()];
        for (weight, logit) in weights.iter_mut().zip(logits) {
            *weight = exp(finite(*logit) - most);
        }
        total += sum(weights);
    }
    total
}

/// The weights of every token.
#[derive(Debug, Default)]
pub(super) struct Weights {
    all: Vec<f32>,
    /// The sum of each block.
    sums: Vec<f64>,
}

impl Weights {
    /// Takes the weights of these logits, of which `most` is the greatest, and returns their sum.
    pub fn fill(&mut self, logits: &[f32], most: f32, temperature: f32) -> f64 {
        self.all.resize(logits.len(), 0.0);
        self.sums.clear();
        for (weights, logits) in self.all.chunks_mut(BLOCK).zip(logits.chunks(BLOCK)) {
            for (weight, logit) in weights.iter_mut().zip(logits) {
                *weight = exp((*logit - most) / temperature);
            }
            self.sums.push(sum(weights));
        }
        self.sums.iter().sum()
    }

    /// The weight of each token.
    pub fn all(&self) -> &[f32] {
        &self.all
    }

    /// The token at this fraction of the sum of all weights.
    pub fn draw(&self, fraction: f64) -> Option<u32> {
        let mut left = fraction * self.sums.iter().sum::<f64>();
        let mut last = None;
        for (n, (weights, sum)) in self.all.chunks(BLOCK).zip(&self.sums).enumerate() {
            if left >= *sum {
                left -= sum;
                if *sum > 0.0 {
                    last = Some(n);
                }
                continue;
            }
            return Some((n * BLOCK) as u32 + within(weights, left)?);
        }
        // Rounding has left a rest: the last token that there is.
        let n = last?;
        let weights = self.all.chunks(BLOCK).nth(n)?;
        Some((n * BLOCK) as u32 + within(weights, f64::INFINITY)?)
    }
}

/// The place at which the sum of the weights is passed, or else the last with any weight.
fn within(weights: &[f32], mut left: f64) -> Option<u32> {
    let mut last = None;
    for (n, weight) in (0..).zip(weights) {
        if *weight > 0.0 {
            last = Some(n);
            left -= f64::from(*weight);
            if left < 0.0 {
                break;
            }
        }
    }
    last
}

#[inline(always)]
fn sum(weights: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (parts, rest) = weights.as_chunks::<LANES>();
    for part in parts {
        for (sum, weight) in lanes.iter_mut().zip(part) {
            *sum += f64::from(*weight);
        }
    }
    let rest: f64 = rest.iter().map(|weight| f64::from(*weight)).sum();
    lanes.iter().sum::<f64>() + rest
}

/// `e ^ x` for `x` up to 0, to within 2 units in the last place: `2 ^ n` times Taylor's polynomial
/// on what is left. 0 for what is below -87, where numbers lose their precision, and for what is
/// no number.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, of which the first has few bits, so that its multiples are exact.
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    // Added to a small number it leaves the nearest integer in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let inside = x >= -87.0;
    let x = if inside { x } else { 0.0 };
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * HIGH - n * LOW;
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    let power = (shifted.to_bits() << 23).wrapping_add(127 << 23);
    let result = p * f32::from_bits(power);
    if inside { result } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exponentials_agree(x in -87.0_f32..0.0) {
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            prop_assert!(error < 3e-7, "{x}: {error}");
        }
    }

    #[test]
    fn the_ends_of_the_exponential() {
        assert_eq!((exp(0.0), exp(-0.0)), (1.0, 1.0));
        assert_eq!(
            (exp(-88.0), exp(f32::NEG_INFINITY), exp(f32::NAN)),
            (0.0, 0.0, 0.0)
        );
    }

    #[test]
    fn draws_at_the_ends_are_tokens_with_weight() {
        let mut weights = Weights::default();
        let mut logits = vec![f32::NEG_INFINITY; 1000];
        (logits[300], logits[301]) = (1.0, 1.0);
        assert_eq!(weights.fill(&logits, 1.0, 0.5), 2.0);
        for (fraction, token) in [(0.0, 300), (0.49, 300), (0.5, 301), (1.0, 301)] {
            assert_eq!(weights.draw(fraction), Some(token));
        }
        weights.fill(&[f32::NEG_INFINITY; 10], 0.0, 1.0);
        assert_eq!(weights.draw(0.5), None);
    }
}
