//! Which tokens of a draft are kept.

use crate::request::TokenLogprob;
use crate::sampling::{Chosen, Sampler, SamplingError, Scratch, TokenMask};

/// Who goes along with a text as it is written: its constraint, its stops, its length.
pub trait Follow {
    /// What may be written next; `None` is anything.
    fn mask(&mut self) -> Option<TokenMask<'_>>;

    /// Takes the next token, and says whether the text goes on after it.
    fn take(&mut self, token: u32, logprob: Option<TokenLogprob>) -> bool;
}

/// Writes tokens for as long as the draft names the ones that are drawn, and one more: at least
/// one, and at most `draft.len() + 1`. `logits` is `[draft.len() + 1, vocabulary]`: after the text
/// so far, and after each token of the draft. Returns how many tokens of the draft were kept:
/// what was computed after those is void. Without a draft this is plain sampling.
///
/// # Errors
/// When no token is left, or there are not as many logits as tokens; tokens that were taken before
/// are kept.
pub fn verify(
    sampler: &mut Sampler,
    draft: &[u32],
    logits: &[f32],
    logprobs: Option<usize>,
    follow: &mut impl Follow,
    scratch: &mut Scratch,
) -> Result<usize, SamplingError> {
    let vocabulary = sampler.vocabulary();
    let rows = draft.len().saturating_add(1);
    if vocabulary.checked_mul(rows) != Some(logits.len()) {
        return Err(SamplingError::Logits {
            got: logits.len() / rows,
            vocabulary,
        });
    }
    for (kept, logits) in logits.chunks_exact(vocabulary.max(1)).enumerate() {
        let Chosen { token, logprob } = sampler.choose(logits, follow.mask(), logprobs, scratch)?;
        sampler.accept(token);
        let right = draft.get(kept) == Some(&token);
        if !follow.take(token, logprob) {
            return Ok(kept + usize::from(right));
        }
        if !right {
            return Ok(kept);
        }
    }
    Ok(draft.len())
}

#[cfg(test)]
mod tests;
