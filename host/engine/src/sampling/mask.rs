//! Which tokens a constraint allows.

/// A set of tokens, a bit each: token `t` is bit `t % 32` of word `t / 32`. Tokens beyond the
/// words are not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenMask<'a> {
    words: &'a [u32],
}

impl<'a> TokenMask<'a> {
    /// The set in these words.
    pub fn new(words: &'a [u32]) -> Self {
        Self { words }
    }

    /// Whether a token is allowed.
    pub fn allows(&self, token: u32) -> bool {
        let word = self.words.get(token as usize / 32).copied().unwrap_or(0);
        word >> (token % 32) & 1 == 1
    }

    /// The single token that is allowed, if it is the only one below `vocabulary`: no model has
    /// to be asked for it.
    pub fn only(&self, vocabulary: usize) -> Option<u32> {
        let mut found = None;
        for (n, word) in self.words.iter().enumerate() {
            let first = 32 * n;
            let word = match vocabulary.saturating_sub(first) {
                0 => break,
                left if left < 32 => *word & ((1 << left) - 1),
                _ => *word,
            };
            match (word.count_ones(), found) {
                (0, _) => {}
                (1, None) => found = Some(first as u32 + word.trailing_zeros()),
                _ => return None,
            }
        }
        found
    }

    /// Makes the logits of what is not allowed minus infinity.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        let mut words = self.words.iter();
        for logits in logits.chunks_mut(32) {
            match words.next().copied().unwrap_or(0) {
                u32::MAX => {}
                0 => logits.fill(f32::NEG_INFINITY),
                word => {
                    for (n, logit) in logits.iter_mut().enumerate() {
                        if word >> n & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_applied_is_what_is_allowed(
            words in prop::collection::vec(
                prop_oneof![Just(0_u32), Just(u32::MAX), any::<u32>()], 0..5),
            vocabulary in 0_usize..150,
        ) {
            let mask = TokenMask::new(&words);
            let mut logits = vec![1.0; vocabulary];
            mask.apply(&mut logits);
            let mut allowed = Vec::new();
            for (token, logit) in (0..).zip(logits) {
                prop_assert_eq!(mask.allows(token), logit == 1.0);
                allowed.extend(mask.allows(token).then_some(token));
            }
            let only = (allowed.len() == 1).then(|| allowed[0]);
            prop_assert_eq!(mask.only(vocabulary), only);
        }
    }
}
