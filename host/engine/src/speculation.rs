//! Speculative decoding: several tokens from one pass of the model.
//!
//! Somebody cheap proposes the next tokens, the model computes the logits after each of them in
//! one batch, and a rule says how many are kept. What is written never depends on what was
//! proposed; only how soon it is written does.
//!
//! | module | what it is |
//! |---|---|
//! | [`ngram`] | drafts from the text itself: what followed the last time |
//! | [`rule`] | which tokens of a draft are kept |
//!
//! There are two rules, for two kinds of draft.
//!
//! * **A draft without probabilities** (n-grams, a grammar, anything that just names tokens):
//!   [`verify`]. At each place the token is drawn as it would be without a draft, with that
//!   place's own random number, and the draft is kept for as long as it names the same tokens. A
//!   token is kept with its probability under the model, which for a proposal that is certain of
//!   itself is exactly what the rule of Leviathan et al. gives, `min(1, p / 1)`: no more could be
//!   kept. And a seed gives the same text with speculation and without.
//! * **A draft drawn from a distribution** (a smaller model): [`judge`], algorithm 1 of Leviathan,
//!   Kalman and Matias, "Fast Inference from Transformers via Speculative Decoding" (arXiv
//!   2211.17192). It keeps `Σ min(p, q)` of the tokens, the most that any rule can, and leaves the
//!   distribution of the text as it is. Drawing anew and comparing would keep fewer, as two draws
//!   agree less often than two distributions. The text of a seed depends on the drafts, though
//!   not its probability. At temperature 0 both rules write the likeliest tokens.
//!
//! What this module must never do: let a draft change the distribution of a text; write a token
//! that the sampler's options or the mask exclude.

pub mod ngram;
pub mod rule;

pub use ngram::{DraftOptions, NgramDraft};
pub use rule::{Follow, Verdict, judge, verify};
