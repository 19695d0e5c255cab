//! Which tokens of a draft are kept.

use crate::request::TokenLogprob;
use crate::sampling::random::Purpose;
use crate::sampling::{Chosen, Distribution, Sampler, SamplingError, Scratch, TokenMask};

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

/// What becomes of a token that was drawn from a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the text's next token.
    Kept,
    /// This one takes its place, and what was proposed after it is void.
    Instead(u32),
}

/// Keeps `token`, which was drawn from `proposal`, with probability `min(1, p / q)`, and otherwise
/// draws from what the proposal gives too little of (arXiv 2211.17192, algorithm 1). `accept` and
/// `draw` are random numbers in [0, 1) that have nothing to do with each other nor with how
/// `token` was drawn.
pub fn judge(
    target: &Distribution,
    proposal: &Distribution,
    token: u32,
    accept: f64,
    draw: f64,
) -> Verdict {
    if accept * proposal.probability(token) < target.probability(token) {
        return Verdict::Kept;
    }
    match target.residual(proposal).draw(draw) {
        Some(instead) => Verdict::Instead(instead),
        // A distribution has a token.
        None => Verdict::Kept,
    }
}

impl Sampler {
    /// [`judge`] for the text's next token, with the random numbers that belong to it. The
    /// proposal may be drawn with [`Sampler::choose`] under the same seed: that takes another
    /// number.
    pub fn judge(&self, target: &Distribution, proposal: &Distribution, token: u32) -> Verdict {
        let (accept, draw) = (
            self.uniform(Purpose::Accept),
            self.uniform(Purpose::Residual),
        );
        judge(target, proposal, token, accept, draw)
    }
}

#[cfg(test)]
mod tests;
