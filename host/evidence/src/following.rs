//! Following: how a run whose texts a language model wrote is repeated on a machine of another kind.
//!
//! There the same model writes other texts now and then, so that the run cannot be compared byte by
//! byte. What can be compared is each text by itself. Who wrote keeps a [`Transcript`]: for
//! each request, in the order in which the component asked, what was asked for (by its digest), the
//! tokens that were written, and commitments to the states that led to them. Whoever follows is given a
//! [`Script`], which is the tokens and nothing else, runs the component anew, has the model go over
//! these tokens wherever the component asks for a text, and hands the component the other's text. What
//! it saw is an [`Observation`]: what was asked for, where its own states were largest, and by how much
//! each token falls short of the one that shared noise would have drawn from its own logits. The
//! output and the meter of the two runs are the same bytes and numbers, and for the texts there is
//! [`Transcript::compare`].
//!
//! Commitments and the digests of requests are kept from whoever follows, so that only who runs the
//! component and its model can say what they are.
//!
//! ```text
//! transcript  = [1, [[request: bytes .size 32, [[tokens: bytes, commitments: bytes]…]]…]]
//! script      = [1, [[tokens: bytes…]…]]
//! observation = [1, [[request: bytes .size 32, fits: bool, [[[peaks: bytes…], shortfalls: bytes]…]]…]]
//! ```
//!
//! Tokens have 4 bytes each; commitments and peaks are those of [`crate::activations`]; a shortfall is
//! the token's place in 4 bytes and its size as an IEEE 754 number in 4. All of them with the high byte
//! first, and all in one spelling.
//!
//! # What it must never do
//!
//! - Find that two agree where one of the two says nothing of a text.
//! - Allocate by what a stranger's bytes say of their length.

mod encoding;
mod limits;

pub use limits::{FAR, Limits, NEAR};
use skep_registry::Digest;

use crate::activations::{BYTES, CHUNK, Commitment, Comparison, Peaks, compare_all};
use crate::result::ResultCommitment;

/// By how much a token may fall short of the one that should have come and still pass for a tie, in
/// logits divided by the temperature: what another machine's last digits explain.
pub const TOLERANCE: f32 = 0.05;

/// The most chunks that one run shows ([`chunks`]); a request without a text counts as one. With so many
/// no run shows more bytes than it may, and whatever a panel saw of a run fits an accusation.
pub const MAX_CHUNKS: usize = 2_048;
/// The most tokens of one text: no more go into the chunks of a run.
const MAX_TOKENS: usize = MAX_CHUNKS * CHUNK;

/// How many chunks of states there are behind a text of so many tokens: the prompt's, and one for every
/// 32 tokens that were gone on from. The last one is not.
#[must_use]
pub fn chunks(tokens: usize) -> usize {
    1 + tokens.saturating_sub(1).div_ceil(CHUNK)
}

/// How many states there are in a chunk, counted from 0 on, of a text of so many tokens; nothing of the prompt's,
/// which is the first: a text does not say how long its prompt is.
#[must_use]
pub fn states_in(tokens: usize, chunk: usize) -> Option<usize> {
    let before = chunk.checked_sub(1)?.saturating_mul(CHUNK);
    let states = tokens.saturating_sub(1);
    Some(states.saturating_sub(before).min(CHUNK))
}

/// How many chunks a request counts for whose texts come to so many: one at least, since its name is
/// shown if nothing else is.
#[must_use]
pub fn counted(chunks: usize) -> usize {
    chunks.max(1)
}

const FORMAT: u64 = 1;
/// Bytes of a token.
const TOKEN: usize = 4;
/// Bytes of one shortfall.
const SHORTFALL: usize = 8;
/// What is around what is shown of a chunk, at the most: a request's name, and lengths.
const AROUND: usize = 96;

/// A text that a model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenText {
    /// Its tokens, at least one.
    pub tokens: Vec<u32>,
    /// Commitments to the states of the prompt, and of every 32 tokens that were gone on from.
    pub commitments: Vec<Commitment>,
}

/// What was written to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenAnswer {
    /// What was asked for.
    pub request: Digest,
    /// The texts; none if the model refused the request.
    pub texts: Vec<WrittenText>,
}

/// All texts of a run, as who wrote them shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript(pub Vec<WrittenAnswer>);

/// The tokens of a run's texts, request by request: what whoever follows is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script(pub Vec<Vec<Vec<u32>>>);

/// A token that is not the one that should have come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shortfall {
    /// Which of the text's tokens.
    pub place: u32,
    /// By how much it falls short, in logits divided by the temperature; infinite if it is forbidden.
    pub gap: f32,
}

/// A text as who followed it saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenText {
    /// Where its own states are largest: of the prompt, and of every 32 tokens.
    pub peaks: Vec<Peaks>,
    /// The tokens that are others than those that should have come, in their order.
    pub shortfalls: Vec<Shortfall>,
}

/// What who followed saw of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenAnswer {
    /// What was asked for.
    pub request: Digest,
    /// Whether the script has as many texts as were asked for, each of them to its end; or none, and the
    /// model refuses the request.
    pub fits: bool,
    /// Its texts.
    pub texts: Vec<SeenText>,
}

/// All texts of a run, as who followed them saw them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation(pub Vec<SeenAnswer>);

/// Why a transcript and an observation are not of the same honest run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// The outputs are others, or the meters.
    #[error("the output or the meter is another")]
    Claim,
    /// Not as many requests.
    #[error("the run asks for {seen} texts, and {written} were shown")]
    Requests {
        /// As whoever followed says.
        seen: usize,
        /// As who wrote says.
        written: usize,
    },
    /// Something else was asked for: another prompt, other settings, another adapter.
    #[error("request {request} is another than the one that was answered")]
    Request {
        /// Which.
        request: usize,
    },
    /// The texts end elsewhere than they should, are not as many as were asked for, or hold a token that the
    /// model is far from drawing.
    #[error("what was shown for request {request} does not fit it")]
    Fit {
        /// Which.
        request: usize,
    },
    /// The states are not those of this model.
    #[error("the states behind request {request} are not those of the model")]
    States {
        /// Which.
        request: usize,
    },
    /// The tokens are not those that the model draws.
    #[error("{different} of {tokens} tokens are not those that the model draws")]
    Tokens {
        /// Tokens that nothing explains.
        different: usize,
        /// All tokens.
        tokens: usize,
    },
}

impl Transcript {
    /// The most bytes of one.
    pub const MAX_BYTES: usize = MAX_CHUNKS * (BYTES + CHUNK * TOKEN + AROUND);

    fn chunks(&self) -> usize {
        let texts = |answer: &WrittenAnswer| {
            let texts = answer.texts.iter();
            counted(texts.map(|text| chunks(text.tokens.len())).sum())
        };
        self.0.iter().map(texts).sum()
    }

    /// The tokens alone.
    #[must_use]
    pub fn script(&self) -> Script {
        let texts = |answer: &WrittenAnswer| {
            let texts = answer.texts.iter();
            texts.map(|text| text.tokens.clone()).collect()
        };
        Script(self.0.iter().map(texts).collect())
    }

    /// Whether what was seen by who followed is what an honest run shows, within what machines
    /// of different kinds differ by.
    ///
    /// # Errors
    ///
    /// The first thing that is not.
    pub fn compare(&self, seen: &Observation) -> Result<(), Disagreement> {
        self.is_within(&NEAR, seen)
    }

    fn is_within(&self, limits: &Limits, seen: &Observation) -> Result<(), Disagreement> {
        if self.0.len() != seen.0.len() {
            return Err(Disagreement::Requests {
                seen: seen.0.len(),
                written: self.0.len(),
            });
        }
        let (mut tokens, mut different) = (0, 0);
        for (request, (written, seen)) in self.0.iter().zip(&seen.0).enumerate() {
            if written.request != seen.request {
                return Err(Disagreement::Request { request });
            }
            if !seen.fits || written.texts.len() != seen.texts.len() {
                return Err(Disagreement::Fit { request });
            }
            for (written, seen) in written.texts.iter().zip(&seen.texts) {
                let compared = compare_all(&written.commitments, &seen.peaks);
                let states = |chunk| states_in(written.tokens.len(), chunk);
                let is_near = |chunks: Vec<Comparison>| {
                    let mut chunks = chunks.iter().enumerate();
                    chunks.all(|(chunk, compared)| limits.bear_states(compared, states(chunk)))
                };
                if !compared.is_ok_and(is_near) {
                    return Err(Disagreement::States { request });
                }
                let last = seen.shortfalls.last().map_or(0, |last| last.place as usize);
                if !seen
                    .shortfalls
                    .iter()
                    .all(|short| limits.bear_gap(short.gap))
                    || last >= written.tokens.len()
                {
                    return Err(Disagreement::Fit { request });
                }
                tokens += written.tokens.len();
                let beyond = seen.shortfalls.iter();
                different += beyond.filter(|short| short.gap > TOLERANCE).count();
            }
        }
        match limits.forgive(different, tokens) {
            true => Ok(()),
            false => Err(Disagreement::Tokens { different, tokens }),
        }
    }

    /// Whether a follower's result, with what it saw, agrees with the result that it followed.
    ///
    /// # Errors
    ///
    /// The first thing in which it does not.
    pub fn agrees(
        &self,
        result: &ResultCommitment,
        follower: &ResultCommitment,
        seen: &Observation,
    ) -> Result<(), Disagreement> {
        if result.claim() != follower.claim() {
            return Err(Disagreement::Claim);
        }
        self.compare(seen)
    }

    /// What a follower's result comes to as a vote: the claim of the result that it followed if it agrees
    /// with it, [`doubt`] if it is too far to agree and too near not to, and otherwise the one name that all
    /// have who do not.
    #[must_use]
    pub fn vote(
        &self,
        result: &ResultCommitment,
        follower: &ResultCommitment,
        seen: &Observation,
    ) -> Digest {
        if self.agrees(result, follower, seen).is_ok() {
            return result.claim();
        }
        let is_same = result.claim() == follower.claim();
        match is_same && self.is_within(&FAR, seen).is_ok() {
            true => doubt(),
            false => Digest::of(b"skep: who followed does not agree, v1"),
        }
    }
}

/// The vote of who followed and cannot tell. It convicts nobody, and nobody is convicted of it: whoever
/// writes may choose how far from the one and the other kind of machine its commitments are, and must not
/// have honest auditors contradict each other by that.
#[must_use]
pub fn doubt() -> Digest {
    Digest::of(b"skep: who followed cannot tell, v1")
}

impl Script {
    /// The most bytes of one.
    pub const MAX_BYTES: usize = MAX_CHUNKS * (CHUNK * TOKEN + AROUND);

    fn chunks(&self) -> usize {
        let texts = |texts: &Vec<Vec<u32>>| {
            let texts = texts.iter();
            counted(texts.map(|tokens| chunks(tokens.len())).sum())
        };
        self.0.iter().map(texts).sum()
    }
}

impl Observation {
    /// The most bytes of one.
    pub const MAX_BYTES: usize = MAX_CHUNKS * (Peaks::MAX_BYTES + CHUNK * SHORTFALL + AROUND);

    fn chunks(&self) -> usize {
        let texts = |answer: &SeenAnswer| {
            let texts = answer.texts.iter();
            counted(texts.map(|text| text.peaks.len()).sum())
        };
        self.0.iter().map(texts).sum()
    }
}

#[cfg(test)]
pub(crate) mod tests;
