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

use minicbor::Decoder;
use skep_registry::Digest;

use crate::activations::{BYTES, CHUNK, Commitment, Comparison, Peaks, Thresholds, compare_all};
use crate::result::ResultCommitment;
use crate::statement::StatementError;
use crate::wire::{
    Out, Part, Written, expect_length, malformed, read_bytes, read_list, write_list, written,
};

/// By how much a token may fall short of the one that should have come and still pass for a tie, in
/// logits divided by the temperature: what another machine's last digits explain.
pub const TOLERANCE: f32 = 0.05;

/// How far a run may be from what whoever followed it saw.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Limits {
    /// For the states behind the prompt and each 32 tokens.
    states: Thresholds,
    /// Of so many tokens of a run one may fall short by more than [`TOLERANCE`], and one in any run.
    one_in: usize,
    /// The most by which such a one may.
    gap: f32,
}

/// Whoever is nearer agrees. For the states these are twice as far as any honest text of the model that comes
/// with skep was between instruction sets (`docs/benchmarks.md`), of which in 8,000 tokens one fell short by
/// more than the tolerance.
const NEAR: Limits = Limits {
    states: Thresholds {
        matches: 120,
        mantissa_mean: 2,
        mantissa_median: 2,
    },
    one_in: 20,
    gap: 0.5,
};
/// Whoever is further does not: no machines differ by so much more than others that one finds a run
/// near and the other far. For the states it is what the publication found to divide honest from dishonest.
const FAR: Limits = Limits {
    states: Thresholds {
        matches: 90,
        mantissa_mean: 10,
        mantissa_median: 8,
    },
    one_in: 10,
    gap: 2.0,
};
/// The most bytes of a transcript, a script or an observation.
pub const MAX_BYTES: usize = 16 << 20;
/// The most requests of one run, and texts of one request.
pub const MAX_REQUESTS: usize = 1 << 16;
/// The most tokens of one text.
pub const MAX_TOKENS: usize = 1 << 20;
/// The most chunks of one run ([`chunks`]): with so many no observation is larger than [`MAX_BYTES`].
pub const MAX_CHUNKS: usize = 12_000;

/// How many chunks of states there are behind a text of so many tokens: the prompt's, and one for every
/// 32 tokens that were gone on from. The last one is not.
#[must_use]
pub fn chunks(tokens: usize) -> usize {
    1 + tokens.saturating_sub(1).div_ceil(CHUNK)
}

const FORMAT: u64 = 1;
/// Bytes of one shortfall.
const SHORTFALL: usize = 8;
/// What is around the peaks and the shortfalls of a chunk, at the most: a request's name, and lengths.
const AROUND: usize = 96;
const _: () = assert!(
    MAX_CHUNKS * (Peaks::MAX_BYTES + CHUNK * SHORTFALL + AROUND) <= MAX_BYTES,
    "no observation of so many chunks is too large"
);

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
                let is_near = |chunks: Vec<Comparison>| {
                    chunks.iter().all(|chunk| chunk.is_within(&limits.states))
                };
                if !compared.is_ok_and(is_near) {
                    return Err(Disagreement::States { request });
                }
                let last = seen.shortfalls.last().map_or(0, |last| last.place as usize);
                if seen.shortfalls.iter().any(|short| short.gap > limits.gap)
                    || last >= written.tokens.len()
                {
                    return Err(Disagreement::Fit { request });
                }
                tokens += written.tokens.len();
                let beyond = seen.shortfalls.iter();
                different += beyond.filter(|short| short.gap > TOLERANCE).count();
            }
        }
        match different <= (tokens / limits.one_in).max(1) {
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

macro_rules! shown {
    ($($type:ident: $what:literal),*) => {$(
        impl $type {
            /// Its one encoding.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                written(|out| {
                    out.array(2)?.u64(FORMAT)?;
                    self.write(out)
                })
            }

            /// The digest of its encoding, which is its name.
            #[must_use]
            pub fn digest(&self) -> Digest {
                Digest::of(&self.encode())
            }

            /// Reads one.
            ///
            /// # Errors
            ///
            /// When the bytes are none, or more than [`MAX_BYTES`].
            pub fn decode(encoding: &[u8]) -> Result<Self, StatementError> {
                if encoding.len() > MAX_BYTES {
                    return Err(StatementError::TooLarge {
                        what: $what,
                        size: encoding.len(),
                        limit: MAX_BYTES,
                    });
                }
                let mut input = Decoder::new(encoding);
                expect_length(input.array()?, 2, $what)?;
                let format = input.u64()?;
                if format != FORMAT {
                    return Err(StatementError::UnknownFormat {
                        what: $what,
                        found: format,
                    });
                }
                let read = Self::read(&mut input)?;
                match read.encode() == encoding {
                    true => Ok(read),
                    false => Err(StatementError::NotCanonical),
                }
            }
        }
    )*};
}
shown!(Transcript: "transcript", Script: "script", Observation: "observation");

/// The tokens of one text.
struct Tokens(Vec<u32>);

impl Part for Tokens {
    fn write(&self, out: &mut Out) -> Written {
        write_tokens(&self.0, out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        read_tokens(input).map(Self)
    }
}

fn write_tokens(tokens: &[u32], out: &mut Out) -> Written {
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|token| token.to_be_bytes())
        .collect();
    out.bytes(&bytes)?.ok()
}

fn read_tokens(input: &mut Decoder<'_>) -> Result<Vec<u32>, StatementError> {
    let bytes = read_bytes(input, 4 * MAX_TOKENS)?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(4) {
        return Err(malformed("a text has at least one token, of 4 bytes each"));
    }
    let tokens = bytes.chunks_exact(4);
    Ok(tokens
        .map(|token| u32::from_be_bytes([token[0], token[1], token[2], token[3]]))
        .collect())
}

impl Part for WrittenText {
    fn write(&self, out: &mut Out) -> Written {
        out.array(2)?;
        write_tokens(&self.tokens, out)?;
        let commitments = self.commitments.iter();
        let bytes: Vec<u8> = commitments.flat_map(Commitment::encode).collect();
        out.bytes(&bytes)?.ok()
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        expect_length(input.array()?, 2, "a written text")?;
        let tokens = read_tokens(input)?;
        let chunks = chunks(tokens.len());
        let bytes = read_bytes(input, chunks * BYTES)?;
        if bytes.len() != chunks * BYTES {
            return Err(malformed(
                "a text has one commitment for each of its chunks",
            ));
        }
        let commitments = bytes.chunks_exact(BYTES).map(Commitment::decode);
        let commitments = commitments.collect::<Result<_, _>>();
        Ok(Self {
            tokens,
            commitments: commitments.map_err(|error| malformed(error.to_string()))?,
        })
    }
}

impl Part for WrittenAnswer {
    fn write(&self, out: &mut Out) -> Written {
        out.array(2)?;
        self.request.write(out)?;
        write_list(&self.texts, out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        expect_length(input.array()?, 2, "an answer")?;
        Ok(Self {
            request: Part::read(input)?,
            texts: read_list(input, MAX_REQUESTS)?,
        })
    }
}

impl Part for Transcript {
    fn write(&self, out: &mut Out) -> Written {
        write_list(&self.0, out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        read_list(input, MAX_REQUESTS).map(Self)
    }
}

/// The tokens of one request's texts.
struct Lines(Vec<Tokens>);

impl Part for Lines {
    fn write(&self, out: &mut Out) -> Written {
        write_list(&self.0, out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        read_list(input, MAX_REQUESTS).map(Self)
    }
}

impl Part for Script {
    fn write(&self, out: &mut Out) -> Written {
        out.array(self.0.len() as u64)?;
        self.0.iter().try_for_each(|texts| {
            out.array(texts.len() as u64)?;
            texts
                .iter()
                .try_for_each(|tokens| write_tokens(tokens, out))
        })
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        let all: Vec<Lines> = read_list(input, MAX_REQUESTS)?;
        let texts = |lines: Lines| lines.0.into_iter().map(|tokens| tokens.0).collect();
        Ok(Self(all.into_iter().map(texts).collect()))
    }
}

impl Part for Peaks {
    fn write(&self, out: &mut Out) -> Written {
        out.bytes(&self.encode())?.ok()
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        let bytes = read_bytes(input, Self::MAX_BYTES)?;
        Self::decode(&bytes).map_err(|error| malformed(error.to_string()))
    }
}

impl Part for SeenText {
    fn write(&self, out: &mut Out) -> Written {
        out.array(2)?;
        write_list(&self.peaks, out)?;
        let shortfalls = self.shortfalls.iter();
        let bytes: Vec<u8> = shortfalls
            .flat_map(|short| {
                let gap = short.gap.to_bits().to_be_bytes();
                short.place.to_be_bytes().into_iter().chain(gap)
            })
            .collect();
        out.bytes(&bytes)?.ok()
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        expect_length(input.array()?, 2, "a seen text")?;
        let peaks: Vec<Peaks> = read_list(input, 1 + MAX_TOKENS / CHUNK)?;
        if peaks.is_empty() {
            return Err(malformed("a text has at least the peaks of its prompt"));
        }
        let bytes = read_bytes(input, SHORTFALL * MAX_TOKENS)?;
        if !bytes.len().is_multiple_of(SHORTFALL) {
            return Err(malformed("a shortfall has 8 bytes"));
        }
        let shortfalls = bytes.chunks_exact(SHORTFALL).map(|bytes| {
            let number = |from: usize| {
                u32::from_be_bytes([
                    bytes[from],
                    bytes[from + 1],
                    bytes[from + 2],
                    bytes[from + 3],
                ])
            };
            Shortfall {
                place: number(0),
                gap: f32::from_bits(number(4)),
            }
        });
        let shortfalls: Vec<Shortfall> = shortfalls.collect();
        // Not so of what is no number.
        let is_sound = |short: &Shortfall| short.gap >= 0.0 && !short.gap.is_sign_negative();
        if !shortfalls.is_sorted_by(|a, b| a.place < b.place) || !shortfalls.iter().all(is_sound) {
            return Err(malformed(
                "shortfalls are from 0 on, in the order of their tokens",
            ));
        }
        Ok(Self { peaks, shortfalls })
    }
}

impl Part for SeenAnswer {
    fn write(&self, out: &mut Out) -> Written {
        out.array(3)?;
        self.request.write(out)?;
        self.fits.write(out)?;
        write_list(&self.texts, out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        expect_length(input.array()?, 3, "a seen answer")?;
        Ok(Self {
            request: Part::read(input)?,
            fits: Part::read(input)?,
            texts: read_list(input, MAX_REQUESTS)?,
        })
    }
}

impl Part for Observation {
    fn write(&self, out: &mut Out) -> Written {
        write_list(&self.0, out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        read_list(input, MAX_REQUESTS).map(Self)
    }
}

#[cfg(test)]
pub(crate) mod tests;
