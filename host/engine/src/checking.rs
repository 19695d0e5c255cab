//! What shows that a text came out of a model, and the check of it by whoever has the model too.
//!
//! Who writes commits to the states that led to its tokens ([`Committing`]); who checks computes
//! the same states in one pass over these tokens and compares ([`Checking`]). Both see the states
//! of the prompt, then those of each token that was gone on from: all but the last one.
//!
//! What this module must never do: take a state twice, however often a text begins anew.

use skep_evidence::activations::{
    ActivationError, Commitment, Committer, Comparer, Comparison, States, Thresholds,
};
use skep_evidence::sampling::Agreement;

use crate::error::EngineError;
use crate::request::Request;
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
sink!(Comparer);

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

/// A text that is being checked.
#[derive(Debug)]
pub struct Checking {
    states: InOrder<Comparer>,
    /// Positions after which it has looked at the next token.
    judged: usize,
    writing: Writing,
    tolerance: f64,
    tokens: [usize; 3],
    widest: f64,
}

impl Checking {
    /// `writing` is at the beginning of the text.
    pub fn new(writing: Writing, check: CheckRequest, width: usize) -> Self {
        let prompt = check.request.prompt.len();
        Self {
            states: InOrder::new(prompt, Comparer::new(width, check.commitments)),
            judged: prompt - 1,
            writing,
            tolerance: check.tolerance,
            tokens: [0; 3],
            widest: 0.0,
        }
    }

    /// Positions whose states it has: it wants the one of the next.
    pub fn seen(&self) -> usize {
        self.states.seen
    }

    /// Takes the state of the next position.
    ///
    /// # Errors
    /// When it is not finite, or a commitment is missing.
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
        let agreement = self
            .writing
            .follow(logits, claimed, self.tolerance, scratch)?;
        let (kind, gap) = match agreement {
            Agreement::Same => (0, 0.0),
            Agreement::Tie { gap } => (1, gap),
            Agreement::Different { gap, .. } => (2, gap),
        };
        self.tokens[kind] += 1;
        self.widest = self.widest.max(gap);
        Ok(())
    }

    /// How it compares, once every position has been looked at.
    ///
    /// # Errors
    /// When there are more commitments than chunks, or fewer.
    pub fn finish(&self) -> Result<Checked, EngineError> {
        let [same, ties, different] = self.tokens;
        Ok(Checked {
            chunks: self.states.sink.clone().finish().map_err(failed)?,
            same,
            ties,
            different,
            widest: self.widest,
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
