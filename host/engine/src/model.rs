//! A language model with all that belongs to it.

use std::sync::Arc;

use skep_decoder::Decoder;
use skep_text::TextTokenizer;

/// A language model, and how texts become its tokens.
pub struct LanguageModel {
    /// The network.
    pub decoder: Decoder,
    /// The tokenizer. Without one there are only tokens: no texts, no stops, no constraints.
    pub tokenizer: Option<Arc<TextTokenizer>>,
    /// Bytes of its weights.
    pub weights_bytes: u64,
}
