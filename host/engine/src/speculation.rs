//! Speculative decoding: several tokens from one pass of the model.
//!
//! Somebody cheap proposes the next tokens, the model computes the logits after each of them in
//! one batch, and a rule says how many are kept. What is written never depends on what was
//! proposed; only how soon it is written does.
//!
//! | module | what it is |
//! |---|---|
//! | [`ngram`] | drafts from the text itself: what followed the last time |
//! | [`draft_model`] | a smaller model that drafts |
//! | [`pace`] | how many tokens a draft model guesses |
//! | [`rule`] | which tokens of a draft are kept |
//!
//! There is one rule for both: at each place the token is drawn as it would be without a draft,
//! with that place's own random number, and the draft is kept for as long as it names the same
//! tokens. So a seed gives the same text with drafts and without, whoever makes them, however long
//! they are and however busy the node is, and the distribution of texts is the model's.
//!
//! A draft model draws its guesses as the model will: with the same options, under the same
//! constraint, and *with the same random numbers*. Where the two models agree on the
//! probabilities, they draw the same token. (The rule of Leviathan et al., arXiv 2211.17192, keeps
//! more where they disagree, but then a text depends on what was drafted. The decision is written
//! down in `docs/decisions/`.)
//!
//! What this module must never do: let a draft change a text; write a token that the sampler's
//! options or the mask exclude.

pub mod draft_model;
pub mod ngram;
pub mod pace;
pub mod rule;

pub use draft_model::{DraftError, DraftModel};
pub use ngram::{DraftOptions, NgramDraft};
pub use pace::{GuessCost, Pace};
pub use rule::{Follow, verify};
