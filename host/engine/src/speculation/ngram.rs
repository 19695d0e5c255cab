//! Drafts from the text itself.
//!
//! Texts repeat themselves and their prompts: names, code, quotations. So what followed the last
//! time that the last few tokens came up is a good guess at what follows now, and costs nothing to
//! find. (The idea is known as prompt look-up decoding.) An index of all n-grams is kept as the
//! text grows; a token costs a look into a table for each length of n-gram, however long the text.

use std::collections::HashMap;

/// The longest n-grams that can be looked for.
pub const MOST: usize = 4;

/// Which n-grams are looked for, and how far they are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DraftOptions {
    /// Tokens of the shortest n-gram that is enough to guess by, at least 1.
    pub shortest: usize,
    /// Tokens of the longest n-gram that is looked for, at most [`MOST`]. Longer ones are followed
    /// first.
    pub longest: usize,
    /// Tokens of a draft at most.
    pub tokens: usize,
}

impl Default for DraftOptions {
    fn default() -> Self {
        Self {
            shortest: 2,
            longest: 4,
            tokens: 8,
        }
    }
}

/// The last tokens of a place in a text, right-aligned; what is beyond the n-gram is 0, which is
/// no confusion as there is a table for each length.
type Gram = [u32; MOST];

/// Proposes tokens for one text.
#[derive(Debug, Clone)]
pub struct NgramDraft {
    options: DraftOptions,
    /// The prompt and the text.
    tokens: Vec<u32>,
    /// For each length from the shortest on: the place after each n-gram's last occurrence.
    places: Vec<HashMap<Gram, u32>>,
    /// The place after the occurrence, before the last one, of the longest n-gram that has one.
    found: Option<usize>,
    /// Tokens to propose at most for now: as many as seem to be worth their computation.
    now: usize,
}

impl NgramDraft {
    /// For a text after `prompt`. Options beyond what is possible are brought within it.
    pub fn new(options: DraftOptions, prompt: &[u32]) -> Self {
        let longest = options.longest.clamp(1, MOST);
        let options = DraftOptions {
            shortest: options.shortest.clamp(1, longest),
            longest,
            tokens: options.tokens,
        };
        let mut draft = Self {
            options,
            tokens: Vec::with_capacity(prompt.len()),
            places: vec![HashMap::new(); longest - options.shortest + 1],
            found: None,
            now: options.tokens.div_ceil(2),
        };
        for token in prompt {
            draft.push(*token);
        }
        draft
    }

    /// The text's next token.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
        self.found = None;
        let length = self.tokens.len();
        // Places are 32 bits: no context is that long.
        let Ok(place) = u32::try_from(length) else {
            return;
        };
        for (table, n) in self.places.iter_mut().zip(self.options.shortest..) {
            let Some(last) = length
                .checked_sub(n)
                .and_then(|from| self.tokens.get(from..))
            else {
                break;
            };
            let mut gram = [0; MOST];
            gram[MOST - n..].copy_from_slice(last);
            if let Some(before) = table.insert(gram, place) {
                self.found = Some(before as usize);
            }
        }
    }

    /// Writes to `draft` what may come next, at most `most` tokens; nothing if the text's end is
    /// new. Where the occurrence that is followed reaches into the text's end, the draft goes on
    /// as that did: by repeating itself.
    pub fn draft(&self, most: usize, draft: &mut Vec<u32>) {
        draft.clear();
        let Some(from) = self.found else {
            return;
        };
        for n in 0..most.min(self.now) {
            let token = match self.tokens.get(from + n) {
                Some(token) => *token,
                // `from` is below the length of the text, so this has been written already.
                None => draft[from + n - self.tokens.len()],
            };
            draft.push(token);
        }
    }

    /// Learns how many tokens of a draft were kept: drafts that are kept whole grow by half, up to
    /// what the options say, and others come down to what was kept and one more.
    pub fn learn(&mut self, proposed: usize, kept: usize) {
        if proposed == 0 {
            return;
        }
        self.now = match kept >= proposed {
            true => (self.now + self.now.div_ceil(2)).min(self.options.tokens),
            false => (kept + 1).min(self.options.tokens),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// From the definition: looks through the whole text.
    fn slow(options: DraftOptions, tokens: &[u32], most: usize) -> Vec<u32> {
        for n in (options.shortest..=options.longest).rev() {
            if n >= tokens.len() {
                continue;
            }
            let end = &tokens[tokens.len() - n..];
            let found = (n..tokens.len())
                .rev()
                .find(|place| &tokens[place - n..*place] == end);
            if let Some(from) = found {
                let mut all = tokens.to_vec();
                for n in 0..most {
                    all.push(all[from + n]);
                }
                return all.split_off(tokens.len());
            }
        }
        Vec::new()
    }

    proptest! {
        #[test]
        fn drafts_follow_the_last_occurrence_of_the_longest_n_gram(
            tokens in prop::collection::vec(0_u32..4, 0..60),
            prompt in 0_usize..60,
            shortest in 1_usize..4,
            more in 0_usize..3,
            most in 0_usize..6,
        ) {
            let options = DraftOptions { shortest, longest: (shortest + more).min(MOST), tokens: 12 };
            let prompt = prompt.min(tokens.len());
            let mut ngrams = NgramDraft::new(options, &tokens[..prompt]);
            let mut draft = vec![7];
            for end in prompt..=tokens.len() {
                ngrams.draft(most, &mut draft);
                prop_assert_eq!(&draft, &slow(options, &tokens[..end], most));
                if let Some(token) = tokens.get(end) {
                    ngrams.push(*token);
                }
            }
        }
    }

    #[test]
    fn drafts_are_as_long_as_they_prove_right() {
        let mut ngrams = NgramDraft::new(DraftOptions::default(), &[1; 20]);
        let mut draft = Vec::new();
        let mut length = |ngrams: &NgramDraft| {
            ngrams.draft(100, &mut draft);
            draft.len()
        };
        assert_eq!(length(&ngrams), 4);
        for (kept, want) in [
            (4, 6),
            (6, 8),
            (8, 8),
            (2, 3),
            (0, 1),
            (0, 1),
            (1, 2),
            (2, 3),
        ] {
            ngrams.learn(length(&ngrams), kept);
            assert_eq!(length(&ngrams), want);
        }
        ngrams.learn(0, 0);
        assert_eq!(length(&ngrams), 3);
    }
}
