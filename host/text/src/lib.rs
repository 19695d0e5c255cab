//! What stands between texts and the tokens of a language model.
//!
//! | module | what it is |
//! |---|---|
//! | [`tokenizer`] | texts to tokens, and back |
//! | [`chat`] | conversations to texts, by the model's template |
//! | [`grammar`] | texts that must keep to a form |
//! | [`stream`] | tokens that come one by one to text, up to a stop |
//!
//! What this crate must never do: trust a file or a request (whatever they hold ends in a result
//! or in an error, not in a panic or in work without bound); know anything of weights, guests or
//! networks.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod chat;
pub mod grammar;
pub mod stream;
pub mod tokenizer;

pub use chat::{Chat, ChatError, ChatMessage, ChatTemplate};
pub use grammar::{Constraint, Grammar, GrammarError, GrammarState, GrammarVocabulary, TokenMask};
pub use stream::{TextStart, TextStream};
pub use tokenizer::{MarkedText, MarksInText, TextTokenizer, TokenizerError, TokenizerFiles};
