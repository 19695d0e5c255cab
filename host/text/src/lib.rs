//! What stands between texts and the tokens of a language model.
//!
//! | module | what it is |
//! |---|---|
//! | [`tokenizer`] | texts to tokens, and back |
//!
//! What this crate must never do: trust a file or a request (whatever they hold ends in a result
//! or in an error, not in a panic or in work without bound); know anything of weights, guests or
//! networks.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod tokenizer;

pub use tokenizer::{MarksInText, TextTokenizer, TokenizerError};
