//! What shows that a text came out of a model, and the check of it by whoever has the model too.
//!
//! Who writes commits to the states that led to its tokens ([`Committing`]). Who checks goes over these
//! tokens in one pass ([`Checking`]): it finds where the states are largest here, and by how much each
//! token falls short of the one that should have come. Whoever has the commitments compares
//! them with that, here ([`Checked`]) or elsewhere. Both see the states of the prompt, then those of each
//! token that was gone on from: all but the last one.
//!
//! What this module must never do: take a state twice, however often a text begins anew.

use skep_evidence::activations::{
    ActivationError, Commitment, Committer, Comparison, Observer, Peaks, States, Thresholds,
    compare_all,
};
use skep_evidence::following::Shortfall;
use skep_evidence::sampling::Agreement;

use crate::error::EngineError;
use crate::request::{Chunk, Completion, Finish, Request};
use crate::sampling::Scratch;
use crate::writing::Writing;

/// A text that somebody says a model wrote to a request.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckRequest {
    /// What was asked, with shared noise or a temperature of zero: otherwise nobody can say which
    /// tokens should have come.
    pub request: Request,
    /// Which of the request's answers it is.
    pub sample: usize,
    /// The tokens that were written, at least one.
    pub tokens: Vec<u32>,
    /// What was committed to, as [`crate::Completion::commitments`] had it.
    pub commitments: Vec<Commitment>,
    /// How far a token may fall short of the one that should have come and still pass for a tie,
    /// in logits divided by the temperature.
    pub tolerance: f64,
}

/// A text that somebody says a model wrote to a request, to be gone over and taken for its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct FollowRequest {
    /// What was asked, as in a [`CheckRequest`].
    pub request: Request,
    /// Which of the request's answers it is.
    pub sample: usize,
    /// The tokens that were written, at least one.
    pub tokens: Vec<u32>,
}

/// A text that was gone over: what it is as an answer, and what the model says of it here.
#[derive(Debug, Clone, PartialEq)]
pub struct Followed {
    /// The answer. What comes after its end is left out.
    pub completion: Completion,
    /// Where the states are largest: of the prompt, then of every 32 tokens, the last of them perhaps
    /// fewer.
    pub peaks: Vec<Peaks>,
    /// The tokens that are others than those that should have come; infinite are the gaps of
    /// forbidden ones, and of those after the text's end.
    pub shortfalls: Vec<Shortfall>,
    /// Whether the text ends where it has to: not before its end, its stop or its length.
    pub is_whole: bool,
}

/// How a text compares with what the model says here.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The prompt, then every 32 tokens, the last of them perhaps fewer.
    pub chunks: Vec<Comparison>,
    /// Tokens that are the ones that should have come.
    pub same: usize,
    /// Tokens that are others, by so little that another machine's last digits explain it.
    pub ties: usize,
    /// Tokens that nothing explains: others, forbidden ones, and those after the text's end.
    pub different: usize,
    /// The most by which a token falls short; infinite for a forbidden one.
    pub widest: f64,
    /// Whether the text ends where it has to: not before its end, its stop or its length.
    pub is_whole: bool,
}

impl Checked {
    /// Compares what was committed to with what was found here.
    ///
    /// # Errors
    /// When there are more commitments than chunks, or fewer.
    pub(crate) fn of(
        followed: &Followed,
        commitments: &[Commitment],
        tolerance: f64,
        tokens: usize,
    ) -> Result<Self, EngineError> {
        let gaps = || followed.shortfalls.iter().map(|short| f64::from(short.gap));
        let ties = gaps().filter(|gap| *gap <= tolerance).count();
        Ok(Self {
            chunks: compare_all(commitments, &followed.peaks).map_err(failed)?,
            same: tokens - followed.shortfalls.len(),
            ties,
            different: followed.shortfalls.len() - ties,
            widest: gaps().fold(0.0, f64::max),
            is_whole: followed.is_whole,
        })
    }

    /// Whether nothing speaks against the text: it is whole, all chunks are within the thresholds,
    /// and no more than one token in `one_in` cannot be explained.
    pub fn is_honest(&self, thresholds: &Thresholds, one_in: usize) -> bool {
        let written = self.same + self.ties + self.different;
        self.is_whole
            && self.different.saturating_mul(one_in) <= written
            && self.chunks.iter().all(|chunk| chunk.is_within(thresholds))
    }
}

/// What takes the states of a text: those of its prompt first, then one token's after the other.
trait Sink {
    fn push_prompt(&mut self, states: States<'_>) -> Result<(), ActivationError>;
    fn end_prompt(&mut self) -> Result<(), ActivationError>;
    fn push_token(&mut self, state: States<'_>) -> Result<(), ActivationError>;
}

macro_rules! sink {
    ($name:ident) => {
        impl Sink for $name {
            fn push_prompt(&mut self, states: States<'_>) -> Result<(), ActivationError> {
                $name::push_prompt(self, states)
            }

            fn end_prompt(&mut self) -> Result<(), ActivationError> {
                $name::end_prompt(self)
            }

            fn push_token(&mut self, state: States<'_>) -> Result<(), ActivationError> {
                $name::push_token(self, state)
            }
        }
    };
}

sink!(Committer);
sink!(Observer);

/// Gives a sink the state of each position once, in order.
#[derive(Debug, Clone)]
struct InOrder<S> {
    prompt: usize,
    /// Positions whose states it has.
    seen: usize,
    sink: S,
}

impl<S: Sink> InOrder<S> {
    fn new(prompt: usize, sink: S) -> Self {
        Self {
            prompt,
            seen: 0,
            sink,
        }
    }

    fn push(&mut self, state: &[f32]) -> Result<(), EngineError> {
        let states = States::F32(state);
        if self.seen < self.prompt {
            self.sink.push_prompt(states).map_err(failed)?;
        } else {
            self.sink.push_token(states).map_err(failed)?;
        }
        self.seen += 1;
        if self.seen == self.prompt {
            self.sink.end_prompt().map_err(failed)?;
        }
        Ok(())
    }
}

/// The commitments of a text that is being written.
#[derive(Debug, Clone)]
pub struct Committing(InOrder<Committer>);

impl Committing {
    /// For a text after a prompt of so many tokens, of a model of this width.
    pub fn new(prompt: usize, width: usize) -> Self {
        Self(InOrder::new(prompt, Committer::new(width)))
    }

    /// Positions whose states it has: it wants the one of the next.
    pub fn seen(&self) -> usize {
        self.0.seen
    }

    /// Takes the state of the next position.
    ///
    /// # Errors
    /// When it is not finite.
    pub fn push(&mut self, state: &[f32]) -> Result<(), EngineError> {
        self.0.push(state)
    }

    /// The commitments, of a text that is complete.
    ///
    /// # Errors
    /// When no modulus exists for the last of them.
    pub fn finish(self) -> Result<Vec<Commitment>, EngineError> {
        self.0.sink.finish().map_err(failed)
    }
}

/// A text that is being gone over.
#[derive(Debug)]
pub struct Checking {
    states: InOrder<Observer>,
    /// Tokens of the prompt.
    prompt: usize,
    /// Positions after which it has looked at the next token.
    judged: usize,
    writing: Writing,
    shortfalls: Vec<Shortfall>,
}

impl Checking {
    /// `writing` is at the beginning of the text, after a prompt of so many tokens.
    pub fn new(writing: Writing, prompt: usize, width: usize) -> Self {
        Self {
            states: InOrder::new(prompt, Observer::new(width)),
            prompt,
            judged: prompt - 1,
            writing,
            shortfalls: Vec::new(),
        }
    }

    /// Positions whose states it has: it wants the one of the next.
    pub fn seen(&self) -> usize {
        self.states.seen
    }

    /// Takes the state of the next position.
    ///
    /// # Errors
    /// When it is not finite.
    pub fn push(&mut self, state: &[f32]) -> Result<(), EngineError> {
        self.states.push(state)
    }

    /// Looks at the token that came after `position`, whose logits these are.
    ///
    /// # Errors
    /// When there was nothing to choose from.
    pub fn judge(
        &mut self,
        position: usize,
        logits: &[f32],
        claimed: u32,
        scratch: &mut Scratch,
    ) -> Result<(), EngineError> {
        if position != self.judged {
            return Ok(());
        }
        self.judged += 1;
        // What passes for a tie is for whoever compares to say.
        let agreement = self.writing.follow(logits, claimed, 0.0, scratch)?;
        let (Agreement::Tie { gap } | Agreement::Different { gap, .. }) = agreement else {
            return Ok(());
        };
        self.shortfalls.push(Shortfall {
            place: u32::try_from(position + 1 - self.prompt).unwrap_or(u32::MAX),
            // Of two equal sums the first is taken, and the other falls short by nothing.
            gap: (gap as f32).max(0.0),
        });
        Ok(())
    }

    /// What was found, once every position has been looked at.
    ///
    /// # Errors
    /// When a chunk has no states.
    pub fn finish(&mut self) -> Result<Followed, EngineError> {
        let Chunk {
            text,
            tokens,
            finish,
            ..
        } = self.writing.take_chunk();
        Ok(Followed {
            completion: Completion {
                text,
                tokens,
                logprobs: Vec::new(),
                finish: finish.unwrap_or(Finish::Length),
                commitments: Vec::new(),
                prompt_tokens: self.prompt,
                cached_tokens: 0,
            },
            peaks: self.states.sink.clone().finish().map_err(failed)?,
            shortfalls: std::mem::take(&mut self.shortfalls),
            is_whole: self.writing.finished(),
        })
    }
}

fn failed(error: ActivationError) -> EngineError {
    match error {
        ActivationError::Count { .. } => EngineError::Invalid(error.to_string()),
        error => EngineError::Failed(error.to_string()),
    }
}
