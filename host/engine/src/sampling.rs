//! Choosing the next token.
//!
//! A [`Sampler`] belongs to one text that is being written. It takes the model's logits in the
//! order that [`Sampling`] documents: bias and penalties, mask, temperature, `top_k`, `top_p`,
//! `min_p`, draw. Nothing is sorted whole: what cannot be kept is left out by comparisons alone,
//! and the rest is selected by counting.
//!
//! The draw of a text's n-th token is a function of its seed, its sample's number, n and the
//! logits, and of nothing else, so [`Sampler::choose`] changes nothing and [`Sampler::accept`]
//! alone goes on to the next token. Everything that decides on a token is made of additions,
//! multiplications, divisions and comparisons in one order, without functions of the platform's
//! mathematical library: the same logits give the same token on every machine and in every build.
//! Log-probabilities take one logarithm of the library, so their last bit may differ.
//!
//! Of equally likely tokens the one with the lower number counts as the likelier.
//!
//! | module | what it is |
//! |---|---|
//! | [`distribution`] | the probabilities that are left, and a draw from them |
//! | [`mask`] | which tokens a constraint allows |
//! | `logprobs` | log-probabilities under the model |
//! | `random` | random numbers by their place, without a state |
//! | `select` | the likeliest of many without sorting |
//! | `weights` | exponentials, maxima and sums over a vocabulary |
//!
//! What this module must never do: panic or hang, whatever the logits are; let a draw depend on
//! other texts; choose what the mask forbids.

pub mod distribution;
mod logprobs;
pub mod mask;
pub(crate) mod random;
mod select;
mod weights;

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_evidence::sampling::{Agreement, Sampling as Noise};

pub use distribution::Distribution;
pub use mask::TokenMask;

use crate::request::{Sampling, TokenLogprob};
use random::uniform;
use select::{Candidate, keep_by_mass, likeliest};
use weights::{Weights, argmax, greatest, weight};

/// Why no token could be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// An option has a value that it cannot have.
    #[error("{option} is {value}; it has to be {want}")]
    Option {
        /// The option, as [`Sampling`] names it.
        option: &'static str,
        /// Its value.
        value: f32,
        /// What it may be.
        want: &'static str,
    },
    /// A bias is for a token that the model does not have.
    #[error("there is a bias for token {token}, but the model has {vocabulary}, from 0 on")]
    BiasToken {
        /// The token.
        token: u32,
        /// Tokens that the model has.
        vocabulary: usize,
    },
    /// The logits are not as many as the model has tokens.
    #[error("{got} logits were given for a vocabulary of {vocabulary}")]
    Logits {
        /// Logits that were given.
        got: usize,
        /// Tokens that the model has.
        vocabulary: usize,
    },
    /// Every token is forbidden, or has a logit of minus infinity or none that is a number.
    #[error("no token is left to choose from: the constraint forbids all that the model allows")]
    NothingLeft,
}

/// The token that comes next.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The token.
    pub token: u32,
    /// How likely it was under the model, if that was asked for.
    pub logprob: Option<TokenLogprob>,
}

/// Buffers that choosing uses, of any sampler: one for each thread that chooses.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Logits with bias, penalties and mask.
    adjusted: Vec<f32>,
    weights: Weights,
    candidates: Vec<Candidate>,
    found: Vec<(u32, f32)>,
    spare: Vec<Candidate>,
}

/// Chooses the tokens of one text.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Arc<Sampling>,
    vocabulary: usize,
    sample: u64,
    /// Tokens of the text so far.
    written: u32,
    /// How often each token was written; 0 for those of the prompt. Empty without penalties.
    counts: BTreeMap<u32, u32>,
}

/// What the options have left, and where it lies in the scratch.
enum Left {
    /// Only this token.
    One(u32),
    /// Every token, with its weight.
    All,
    /// Candidates, in the order of their numbers.
    Some,
}

impl Sampler {
    /// A sampler for a text after `prompt`, as sample 0, for a model with so many tokens.
    ///
    /// # Errors
    /// When an option has a value that it cannot have.
    pub fn new(
        sampling: &Sampling,
        prompt: &[u32],
        vocabulary: usize,
    ) -> Result<Self, SamplingError> {
        check(sampling, vocabulary)?;
        if vocabulary == 0 {
            return Err(SamplingError::NothingLeft);
        }
        let mut counts = BTreeMap::new();
        if sampling.repetition_penalty != 1.0 {
            counts.extend(prompt.iter().map(|token| (*token, 0)));
        }
        Ok(Self {
            sampling: Arc::new(sampling.clone()),
            vocabulary,
            sample: 0,
            written: 0,
            counts,
        })
    }

    /// A sampler that goes on from here as another sample: with the same penalties and other
    /// random numbers.
    pub fn fork(&self, sample: u64) -> Self {
        Self {
            sample,
            ..self.clone()
        }
    }

    /// How tokens are chosen.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Tokens that the model has.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Tokens that were accepted.
    pub fn written(&self) -> usize {
        self.written as usize
    }

    /// The next token, given the model's logits `[vocabulary]`, what the constraint allows, and
    /// how many of the likeliest tokens are wanted with their log-probabilities, if any.
    ///
    /// A logit that is no number counts as minus infinity, and plus infinity as the largest
    /// number. The text does not go on by this: [`Sampler::accept`] does that.
    ///
    /// # Errors
    /// When no token is left, or there are not as many logits as tokens.
    pub fn choose(
        &self,
        logits: &[f32],
        mask: Option<TokenMask<'_>>,
        logprobs: Option<usize>,
        scratch: &mut Scratch,
    ) -> Result<Chosen, SamplingError> {
        let token = match self.left(logits, mask, scratch)? {
            Left::One(token) => Some(token),
            left if self.sampling.shared_noise => {
                let (noise, position) = self.noise();
                let drawn = match left {
                    Left::Some => noise.draw_among(candidates(scratch), position),
                    _ => {
                        let view = self.view(logits, mask, scratch);
                        noise.draw_among(finite(view), position)
                    }
                };
                drawn.ok()
            }
            Left::All => scratch.weights.draw(self.uniform()),
            Left::Some => select::draw(&scratch.candidates, self.uniform()),
        };
        let token = token.ok_or(SamplingError::NothingLeft)?;
        let logprob = logprobs.map(|count| logprobs::of(logits, token, count, scratch));
        Ok(Chosen { token, logprob })
    }

    /// How a claimed token compares with the one that [`Sampler::choose`] would choose, which has to
    /// draw with shared noise or at a temperature of zero. `tolerance` is how far it may fall short
    /// and pass for a tie, in logits divided by the temperature: of the noise's sum, and of what
    /// `top_k`, `top_p` and `min_p` leave.
    ///
    /// # Errors
    /// As [`Sampler::choose`].
    pub fn check(
        &self,
        logits: &[f32],
        mask: Option<TokenMask<'_>>,
        claimed: u32,
        tolerance: f64,
        scratch: &mut Scratch,
    ) -> Result<Agreement, SamplingError> {
        let left = self.left(logits, mask, scratch)?;
        let view = self.view(logits, mask, scratch);
        let logit = view.get(claimed as usize).copied();
        let logit = logit.map_or(f32::NEG_INFINITY, comparable);
        let (noise, position) = self.noise();
        // Nothing is a tie yet, so that all gaps are seen.
        let nothing = f64::NEG_INFINITY;
        let own = (claimed, logit);
        let mut edge = nothing;
        let agreement = match left {
            Left::One(token) if token == claimed => Ok(Agreement::Same),
            Left::One(token) => Ok(Agreement::Different {
                predicted: token,
                gap: f64::from(view[token as usize]) - f64::from(logit),
            }),
            Left::All => noise.check_among(finite(view), position, own, nothing),
            Left::Some => {
                let all = &scratch.candidates;
                if !all.iter().any(|candidate| candidate.token == claimed) {
                    let least = all.iter().map(|candidate| candidate.logit);
                    let least = least.fold(f32::INFINITY, f32::min);
                    let below = f64::from(least) - f64::from(logit);
                    edge = below / f64::from(self.sampling.temperature);
                }
                noise.check_among(candidates(scratch), position, own, nothing)
            }
        };
        Ok(match agreement.map_err(|_| SamplingError::NothingLeft)? {
            Agreement::Different { predicted, gap } => {
                let gap = gap.max(edge);
                match gap <= tolerance {
                    true => Agreement::Tie { gap },
                    false => Agreement::Different { predicted, gap },
                }
            }
            agreement => agreement,
        })
    }

    /// The probabilities that [`Sampler::choose`] draws by.
    ///
    /// # Errors
    /// As [`Sampler::choose`].
    pub fn distribution(
        &self,
        logits: &[f32],
        mask: Option<TokenMask<'_>>,
        scratch: &mut Scratch,
    ) -> Result<Distribution, SamplingError> {
        Ok(match self.left(logits, mask, scratch)? {
            Left::One(token) => Distribution::point(token),
            Left::All => Distribution::new((0..).zip(scratch.weights.all().iter().copied())),
            Left::Some => Distribution::new(scratch.candidates.iter().map(|c| (c.token, c.weight))),
        })
    }

    /// Makes `token` the text's next one.
    pub fn accept(&mut self, token: u32) {
        self.written = self.written.saturating_add(1);
        if self.has_penalties() {
            let count = self.counts.entry(token).or_insert(0);
            *count = count.saturating_add(1);
        }
    }

    /// The random number for the next token, in [0, 1).
    fn uniform(&self) -> f64 {
        uniform(self.sampling.seed, self.sample, self.written)
    }

    /// The noise that is shared, and the place of the next token in it.
    fn noise(&self) -> (Noise, u64) {
        let noise = Noise {
            temperature: self.sampling.temperature,
            seed: self.sampling.seed,
            sample: u32::try_from(self.sample).unwrap_or(u32::MAX),
        };
        (noise, u64::from(self.written))
    }

    /// The logits that [`Sampler::left`] has looked at.
    fn view<'a>(
        &self,
        logits: &'a [f32],
        mask: Option<TokenMask<'_>>,
        scratch: &'a Scratch,
    ) -> &'a [f32] {
        match self.adjusts(mask) {
            true => &scratch.adjusted,
            false => logits,
        }
    }

    fn adjusts(&self, mask: Option<TokenMask<'_>>) -> bool {
        mask.is_some() || !self.sampling.logit_bias.is_empty() || !self.counts.is_empty()
    }

    fn has_penalties(&self) -> bool {
        let s = &self.sampling;
        s.repetition_penalty != 1.0 || s.presence_penalty != 0.0 || s.frequency_penalty != 0.0
    }

    /// Bias, penalties and mask, into `adjusted`.
    fn adjust(&self, logits: &[f32], mask: Option<TokenMask<'_>>, adjusted: &mut Vec<f32>) {
        let s = &self.sampling;
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        for (token, bias) in &s.logit_bias {
            if let Some(logit) = adjusted.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        for (token, count) in &self.counts {
            if let Some(logit) = adjusted.get_mut(*token as usize) {
                *logit = if *logit > 0.0 {
                    *logit / s.repetition_penalty
                } else {
                    *logit * s.repetition_penalty
                };
                if *count > 0 {
                    *logit -= s.presence_penalty + s.frequency_penalty * *count as f32;
                }
            }
        }
        if let Some(mask) = mask {
            mask.apply(adjusted);
        }
    }

    fn left(
        &self,
        logits: &[f32],
        mask: Option<TokenMask<'_>>,
        scratch: &mut Scratch,
    ) -> Result<Left, SamplingError> {
        if logits.len() != self.vocabulary {
            return Err(SamplingError::Logits {
                got: logits.len(),
                vocabulary: self.vocabulary,
            });
        }
        let s = &*self.sampling;
        let Scratch {
            adjusted,
            weights,
            candidates,
            found,
            spare,
        } = scratch;
        let mut view = logits;
        if self.adjusts(mask) {
            self.adjust(logits, mask, adjusted);
            view = adjusted;
        }
        if s.temperature <= 0.0 {
            return argmax(view)
                .map(Left::One)
                .ok_or(SamplingError::NothingLeft);
        }
        let mut most = greatest(view);
        if most == f32::NEG_INFINITY {
            return Err(SamplingError::NothingLeft);
        }
        let finite: Vec<f32>;
        if most == f32::INFINITY {
            finite = view.iter().map(|x| weights::finite(*x)).collect();
            view = &finite;
            most = f32::MAX;
        }
        let (everything, total);
        if (1..self.vocabulary).contains(&s.top_k) {
            everything = false;
            likeliest(view, s.top_k, found);
            found.sort_unstable_by_key(|(token, _)| *token);
            candidates.clear();
            candidates.extend(found.iter().map(|(token, logit)| Candidate {
                token: *token,
                logit: *logit,
                weight: weight(*logit, most, s.temperature),
            }));
            total = candidates.iter().map(|c| f64::from(c.weight)).sum();
        } else {
            everything = true;
            total = weights.fill(view, most, s.temperature);
        }
        if everything {
            // Whatever is below this comes to less than `top_p` leaves out, all taken together;
            // a little less than that, as weights are rounded.
            let tail = (1.0 - f64::from(s.top_p)) * total / self.vocabulary as f64 * 0.999;
            let least = if s.top_p < 1.0 { tail as f32 } else { s.min_p };
            if least <= 0.0 {
                return Ok(Left::All);
            }
            select::gather(view, weights.all(), least, candidates);
        }
        if s.top_p < 1.0 {
            keep_by_mass(candidates, f64::from(s.top_p) * total, spare);
        }
        candidates.retain(|c| c.weight > 0.0 && c.weight >= s.min_p);
        Ok(Left::Some)
    }
}

/// A logit as it counts: no number is minus infinity.
fn comparable(logit: f32) -> f32 {
    match logit.is_nan() {
        true => f32::NEG_INFINITY,
        false => weights::finite(logit),
    }
}

/// Tokens that options have left, with their logits.
fn candidates(scratch: &Scratch) -> impl Iterator<Item = (u32, f32)> {
    scratch.candidates.iter().map(|c| (c.token, c.logit))
}

/// All tokens, with logits that can be compared.
fn finite(logits: &[f32]) -> impl Iterator<Item = (u32, f32)> {
    (0..).zip(logits.iter().map(|logit| comparable(*logit)))
}

fn check(sampling: &Sampling, vocabulary: usize) -> Result<(), SamplingError> {
    let s = sampling;
    let finite = "a number";
    let fraction = "from 0 to 1";
    let checks = [
        (
            "temperature",
            s.temperature,
            s.temperature.is_finite(),
            finite,
        ),
        ("top_p", s.top_p, (0.0..=1.0).contains(&s.top_p), fraction),
        ("min_p", s.min_p, (0.0..=1.0).contains(&s.min_p), fraction),
        (
            "repetition_penalty",
            s.repetition_penalty,
            s.repetition_penalty > 0.0 && s.repetition_penalty.is_finite(),
            "a number above 0",
        ),
        (
            "presence_penalty",
            s.presence_penalty,
            s.presence_penalty.is_finite(),
            finite,
        ),
        (
            "frequency_penalty",
            s.frequency_penalty,
            s.frequency_penalty.is_finite(),
            finite,
        ),
    ];
    for (option, value, sound, want) in checks {
        if !sound {
            return Err(SamplingError::Option {
                option,
                value,
                want,
            });
        }
    }
    for (token, bias) in &s.logit_bias {
        if *token as usize >= vocabulary {
            return Err(SamplingError::BiasToken {
                token: *token,
                vocabulary,
            });
        }
        if !bias.is_finite() {
            return Err(SamplingError::Option {
                option: "logit_bias",
                value: *bias,
                want: finite,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
