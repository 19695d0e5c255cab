//! What each token of a vocabulary writes, in the form in which grammars look tokens up.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{
    ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie,
};

use super::{GrammarError, TokenMask};
use crate::tokenizer::TextTokenizer;

/// Tokens of more bytes are never admitted. Those of models have up to some 130.
const LONGEST: usize = 255;
/// The most tokens of a vocabulary; the library has 24 bits for them.
const TOKENS: usize = 1 << 22;

/// The bounds of a grammar, in the library's units. By its own figures a step then takes at most
/// some 20 ms, and the states of one text some 60 MB.
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2_000,
    initial_lexer_fuel: 1_000_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_lexer_states: 30_000,
    max_grammar_size: 200_000,
    precompute_large_lexemes: false,
    verbose_errors: false,
};

/// The tokens of a model, by what they write. Made once for a tokenizer; cheap to clone.
#[derive(Clone)]
pub struct GrammarVocabulary {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    factory: ParserFactory,
    /// Whether each token writes anything.
    writes: Vec<bool>,
    /// In order.
    ends: Vec<u32>,
}

impl GrammarVocabulary {
    /// The vocabulary of a tokenizer, with its end tokens.
    ///
    /// # Errors
    /// When there are no tokens, or more than four million.
    pub fn new(tokenizer: &TextTokenizer) -> Result<Self, GrammarError> {
        let ids = 0..tokenizer.vocabulary() as u32;
        let tokens = ids.map(|id| tokenizer.bytes(id).unwrap_or_default().to_vec());
        Self::from_tokens(tokens.collect(), tokenizer.end_tokens())
    }

    /// The vocabulary in which token `i` writes `tokens[i]`; one that writes nothing is never
    /// admitted, unless it is among `ends`.
    ///
    /// # Errors
    /// As for [`GrammarVocabulary::new`].
    pub fn from_tokens(mut tokens: Vec<Vec<u8>>, ends: &[u32]) -> Result<Self, GrammarError> {
        if tokens.is_empty() || tokens.len() > TOKENS {
            return Err(GrammarError::TooLarge {
                what: "tokens in its vocabulary",
                is: tokens.len(),
                limit: TOKENS,
            });
        }
        let mut ends: Vec<u32> = ends.to_vec();
        ends.retain(|&end| (end as usize) < tokens.len());
        ends.sort_unstable();
        ends.dedup();
        for &end in &ends {
            tokens[end as usize].clear();
        }
        for token in &mut tokens {
            // What begins with this byte is no text, and the library's sign for control tokens.
            if token.len() > LONGEST || token.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
                token.clear();
            }
        }
        let writes: Vec<bool> = tokens.iter().map(|token| !token.is_empty()).collect();
        let info = TokRxInfo::new(
            tokens.len() as u32,
            ends.first().copied().unwrap_or(INVALID_TOKEN),
        );
        let mut trie = TokTrie::from(&info, &tokens);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(&ends);
        }
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
                .map_err(|error| GrammarError::Invalid(error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = LIMITS;
        Ok(Self {
            inner: Arc::new(Inner {
                factory,
                writes,
                ends,
            }),
        })
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl Inner {
    pub fn factory(&self) -> &ParserFactory {
        &self.factory
    }

    pub fn tokens(&self) -> usize {
        self.writes.len()
    }

    pub fn writes(&self, token: u32) -> bool {
        self.writes.get(token as usize).copied().unwrap_or(false)
    }

    pub fn is_end(&self, token: u32) -> bool {
        self.ends.binary_search(&token).is_ok()
    }

    pub fn only_ends(&self) -> TokenMask {
        TokenMask::from_tokens(&self.ends, self.tokens())
    }
}
