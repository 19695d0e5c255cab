//! One text on its way through the model.

use skep_kernels::kv::PAGE_TOKENS;

use crate::checking::Checking;
use crate::writing::Writing;

/// A text's place in the order of arrival: its request, then which of the request's texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub group: u64,
    pub text: usize,
}

/// What a text is computed for.
#[derive(Debug)]
pub enum Goal {
    /// To write more of it.
    Write(Box<Writing>),
    /// To know how likely its tokens from `first` on are. `logprob` is of those seen so far.
    Score {
        first: usize,
        logprob: f64,
        /// Whether its beginning is computed whatever is remembered of it.
        whole: bool,
    },
    /// For the mean of its hidden states. `sum` is of those seen so far, `[width]`.
    Embed { sum: Vec<f32> },
    /// To compare it with what the model says.
    Check(Box<Checking>),
}

/// A text, its pages, and how much of it has been computed.
#[derive(Debug)]
pub struct Sequence {
    /// The prompt, and what was written to it.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// How many tokens have their keys and values in `pages`.
    pub computed: usize,
    /// Positions that were charged for, of a text that is charged exactly.
    pub charged: usize,
    /// How many of those have keys and values of the draft model too.
    pub led: usize,
    /// How many whole pages the prefix cache has been told of.
    pub remembered: usize,
    /// Whether it is told of none that are computed from now on.
    pub forgets: bool,
    pub pages: Vec<u32>,
    /// It begins when the first text of its request has computed the prompt that they share.
    pub waits: bool,
    pub goal: Goal,
}

impl Sequence {
    pub fn new(tokens: Vec<u32>, prompt: usize, goal: Goal) -> Self {
        Self {
            tokens,
            prompt,
            computed: 0,
            charged: 0,
            led: 0,
            remembered: 0,
            forgets: false,
            pages: Vec::new(),
            waits: false,
            goal,
        }
    }

    /// How many of its tokens have to be computed: all, but nothing follows the last one where
    /// only the likelihood of known tokens is wanted.
    pub fn wanted(&self) -> usize {
        match &self.goal {
            Goal::Score { .. } | Goal::Check(_) => self.tokens.len() - 1,
            Goal::Write(_) | Goal::Embed { .. } => self.tokens.len(),
        }
    }

    /// How many of its tokens it takes to compute it, once it is complete: all that were gone on from.
    pub fn wanted_in_all(&self) -> usize {
        match self.goal {
            Goal::Write(_) => self.tokens.len() - 1,
            _ => self.wanted(),
        }
    }

    /// Tokens that are still to be computed.
    pub fn left(&self) -> usize {
        self.wanted().saturating_sub(self.computed)
    }

    /// Of which of the tokens from `computed` on, when `count` of them are computed with so many
    /// drafted ones after them, the logits are wanted: places from `computed` on.
    pub fn outputs(&self, count: usize, drafts: usize) -> std::ops::Range<usize> {
        let end = self.computed + count;
        match &self.goal {
            Goal::Write(_) if end == self.tokens.len() => count - 1..count + drafts,
            Goal::Write(_) | Goal::Embed { .. } => 0..0,
            Goal::Score { first, .. } => self.outputs_from(*first, count),
            Goal::Check(_) => self.outputs_from(self.prompt, count),
        }
    }

    /// Of which of the tokens from `computed` on, when `count` of them are computed with so many
    /// drafted ones after them, the last hidden states are wanted: places from `computed` on. Of
    /// drafted tokens it is not known yet whether they are kept.
    pub fn states(&self, count: usize, drafts: usize) -> std::ops::Range<usize> {
        let (seen, end) = match &self.goal {
            Goal::Embed { .. } => (self.computed, count),
            Goal::Check(checking) => (checking.seen(), count),
            Goal::Write(writing) => match &writing.committing {
                Some(committing) => (committing.seen(), count + drafts),
                None => return 0..0,
            },
            Goal::Score { .. } => return 0..0,
        };
        seen.saturating_sub(self.computed).min(end)..end
    }

    /// Those of the next `count` tokens after which a token from `first` on comes.
    fn outputs_from(&self, first: usize, count: usize) -> std::ops::Range<usize> {
        let begin = (first - 1).max(self.computed).min(self.computed + count);
        begin - self.computed..count
    }

    /// Whether it is computed and charged for as if nothing else were there: no beginning of it is
    /// taken from where it is remembered, each of its positions is charged for once, and guesses
    /// are not.
    pub fn is_exact(&self) -> bool {
        match &self.goal {
            Goal::Write(writing) => writing.commits,
            Goal::Embed { .. } | Goal::Check(_) => true,
            Goal::Score { whole, .. } => *whole,
        }
    }

    /// Whether it is only compared with what the model says here.
    pub fn is_compared(&self) -> bool {
        matches!(self.goal, Goal::Check(_))
    }

    /// Whether it can go on from a prompt that another text of its request has computed: one that
    /// commits has to see the states itself.
    pub fn can_share(&self) -> bool {
        match &self.goal {
            Goal::Write(writing) => !writing.commits,
            _ => true,
        }
    }

    /// Pages that it takes to hold so many tokens.
    pub fn pages_for(tokens: usize) -> usize {
        tokens.div_ceil(PAGE_TOKENS)
    }

    /// Begins anew: its keys and values are gone. What was written stays written.
    pub fn restart(&mut self) -> Vec<u32> {
        self.computed = 0;
        self.led = 0;
        self.remembered = 0;
        match &mut self.goal {
            // They know what they have seen, and it comes again the same.
            Goal::Write(_) | Goal::Check(_) => {}
            Goal::Score { logprob, .. } => *logprob = 0.0,
            Goal::Embed { sum } => sum.fill(0.0),
        }
        std::mem::take(&mut self.pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_are_wanted_where_known_tokens_are_judged() {
        let goal = Goal::Score {
            first: 3,
            logprob: 0.0,
            whole: false,
        };
        let mut sequence = Sequence::new(vec![0; 6], 3, goal);
        assert_eq!((sequence.wanted(), sequence.left()), (5, 5));
        assert_eq!(sequence.outputs(2, 0), 2..2);
        assert_eq!(sequence.outputs(5, 0), 2..5);
        sequence.computed = 2;
        assert_eq!(sequence.outputs(3, 0), 0..3);
        sequence.computed = 4;
        assert_eq!(sequence.outputs(1, 0), 0..1);
    }

    #[test]
    fn pages_hold_sixteen_tokens() {
        assert_eq!([0, 1, 16, 17].map(Sequence::pages_for), [0, 1, 1, 2]);
    }
}
