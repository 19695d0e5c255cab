//! A set of tokens, one bit for each.

/// The tokens that may come next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask {
    words: Box<[u32]>,
    tokens: usize,
}

impl TokenMask {
    /// The set in which the bits of `words` say which of `tokens` tokens are there. Bits beyond
    /// are left out.
    pub(super) fn new(words: &[u32], tokens: usize) -> Self {
        let mut words: Box<[u32]> = words.iter().copied().take(tokens.div_ceil(32)).collect();
        if !tokens.is_multiple_of(32)
            && let Some(last) = words.get_mut(tokens / 32)
        {
            *last &= (1 << (tokens % 32)) - 1;
        }
        Self { words, tokens }
    }

    pub(super) fn from_tokens(ids: &[u32], tokens: usize) -> Self {
        let mut words = vec![0; tokens.div_ceil(32)];
        for &id in ids {
            if let Some(word) = words.get_mut(id as usize / 32) {
                *word |= 1 << (id % 32);
            }
        }
        Self::new(&words, tokens)
    }

    /// Whether a token is in the set. Tokens beyond the vocabulary are not.
    pub fn allows(&self, token: u32) -> bool {
        let word = self.words.get(token as usize / 32);
        word.is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// The tokens of the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        (0_u32..).zip(&*self.words).flat_map(|(at, &word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(32 * at + bit)
            })
        })
    }

    /// How many tokens are in the set.
    pub fn count(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// Whether no token is.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// One bit for each token, the lowest first: token `i` is bit `i % 32` of word `i / 32`.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Makes the logits of all other tokens minus infinity, those beyond the vocabulary too.
    pub fn apply(&self, logits: &mut [f32]) {
        let (known, beyond) = logits.split_at_mut(logits.len().min(self.tokens));
        beyond.fill(f32::NEG_INFINITY);
        for (chunk, &word) in known.chunks_mut(32).zip(&*self.words) {
            match word {
                u32::MAX => {}
                0 => chunk.fill(f32::NEG_INFINITY),
                _ => {
                    for (bit, logit) in chunk.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
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

    #[test]
    fn bits_are_tokens() {
        let mask = TokenMask::from_tokens(&[0, 31, 32, 39, 40, 99], 40);
        assert_eq!(mask.iter().collect::<Vec<_>>(), [0, 31, 32, 39]);
        assert_eq!((mask.count(), mask.is_empty()), (4, false));
        assert!(mask.allows(39) && !mask.allows(40) && !mask.allows(u32::MAX));
        let mut logits = vec![1.0; 50];
        mask.apply(&mut logits);
        let left: Vec<u32> = (0..50).filter(|&at| logits[at as usize] == 1.0).collect();
        assert_eq!(left, [0, 31, 32, 39]);
        let mut short = vec![1.0; 2];
        mask.apply(&mut short);
        assert_eq!(short, [1.0, f32::NEG_INFINITY]);
        assert!(TokenMask::new(&[0, 0, 1], 64).is_empty());
        assert_eq!(TokenMask::new(&[u32::MAX; 2], 33).count(), 33);
    }
}
