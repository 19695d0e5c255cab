//! Where the outcomes of a classification go.

use std::io::{self, Write};

use skep_records::Outcome;

/// Where outcomes go, in the order of the input.
pub trait OutcomeSink {
    /// Takes one outcome, and the same as a line of JSON with its newline.
    ///
    /// # Errors
    /// If it cannot be written; the run ends.
    fn put(&mut self, outcome: &Outcome<'_>, line: &[u8]) -> io::Result<()>;
}

/// Whatever bytes can be written to takes the lines.
impl<W: Write> OutcomeSink for W {
    fn put(&mut self, _: &Outcome<'_>, line: &[u8]) -> io::Result<()> {
        self.write_all(line)
    }
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Outcomes written.
    pub done: u64,
    /// Those of them that are errors.
    pub errors: u64,
}
