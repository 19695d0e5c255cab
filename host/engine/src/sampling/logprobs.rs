//! Log-probabilities under the model, before sampling changed anything.

use super::Scratch;
use super::select::{likelier, likeliest};
use super::weights::{finite, greatest, total};
use crate::request::TokenLogprob;

/// The log-probability of a token and those of the `count` likeliest. A token that the model
/// holds to be impossible, and that a bias has brought about, has minus infinity.
pub(super) fn of(logits: &[f32], token: u32, count: usize, scratch: &mut Scratch) -> TokenLogprob {
    let most = finite(greatest(logits));
    let log_total = f64::from(most) + libm::log(total(logits, most));
    let logprob = |logit: f32| (f64::from(finite(logit)) - log_total) as f32;
    let found = &mut scratch.found;
    likeliest(logits, count, found);
    found.sort_unstable_by(likelier);
    let logit = logits.get(token as usize).copied();
    TokenLogprob {
        token,
        logprob: logit.map_or(f32::NEG_INFINITY, logprob),
        likeliest: found
            .iter()
            .map(|(token, logit)| (*token, logprob(*logit)))
            .collect(),
    }
}
