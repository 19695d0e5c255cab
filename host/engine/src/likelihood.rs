//! How likely a token is.

/// The natural logarithm of a token's probability, given the logits of all: `logits[token] -
/// log Σ e^logits`, summed in 64 bits. Minus infinity for a token that is not there.
pub fn logprob_of(logits: &[f32], token: u32) -> f64 {
    let Some(own) = logits.get(token as usize) else {
        return f64::NEG_INFINITY;
    };
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !most.is_finite() {
        return f64::NEG_INFINITY;
    }
    let sum: f64 = logits.iter().map(|x| libm::exp(f64::from(x - most))).sum();
    f64::from(own - most) - libm::log(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_come_to_one() {
        let logits = [1.0_f32, -2.0, 700.0, 699.5, f32::NEG_INFINITY];
        let sum: f64 = (0..5).map(|token| logprob_of(&logits, token).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert_eq!(logprob_of(&logits, 5), f64::NEG_INFINITY);
        assert_eq!(logprob_of(&[f32::NAN], 0), f64::NEG_INFINITY);
        assert_eq!(logprob_of(&[f32::INFINITY], 0), f64::NEG_INFINITY);
    }
}
