//! What texts were written in.

use super::plan::Planned;
use crate::writing::Guesser;

/// How many passes of the model it took to write what was written, and how right guesses were.
/// What a text that was given up or begun anew had computed is counted as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Passes of the model.
    pub passes: u64,
    /// Texts' parts of passes in which they were written.
    pub turns: u64,
    /// Tokens that were written in those.
    pub written: u64,
    /// Tokens that were guessed from what a text said before.
    pub ngram_guessed: u64,
    /// How many of those were right.
    pub ngram_right: u64,
    /// Passes of the draft model.
    pub draft_passes: u64,
    /// Tokens that the draft model guessed.
    pub model_guessed: u64,
    /// How many of those were right.
    pub model_right: u64,
}

impl Tally {
    /// A text was written on in a pass: `written` tokens, of which `right` had been guessed.
    pub(super) fn turn(&mut self, planned: &Planned, written: usize, right: usize) {
        self.turns += 1;
        self.written += written as u64;
        let (guessed, right) = (planned.drafts.len() as u64, right as u64);
        match planned.guesser {
            Guesser::Text => {
                self.ngram_guessed += guessed;
                self.ngram_right += right;
            }
            Guesser::Model => {
                self.model_guessed += guessed;
                self.model_right += right;
            }
        }
    }
}
