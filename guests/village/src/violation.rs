//! Violations: replies that did not stand, as evidence against whoever produced them.
//!
//! The log up to a violation leads to the very moment of it, so anybody can judge the refused
//! text again and come to the same verdict.

use crate::judge::Fault;

/// Bytes of a producer's name at most.
pub const PRODUCER_BYTES: usize = 128;
/// Bytes of a refused text that are kept at most.
pub const TEXT_BYTES: usize = 600;

/// A reply that did not stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What was wrong.
    pub kind: FaultKind,
    /// Who produced it, as whoever runs the village calls them.
    pub producer: String,
    /// What they produced.
    pub text: String,
}

/// What was wrong with a reply; see [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// It is no line and action.
    Unreadable,
    /// It says what nobody can check.
    Unchecked,
    /// It contradicts the state.
    Contradiction,
    /// It tells what the speaker does not know.
    Leak,
    /// It does what may not be done.
    Illegal,
}

impl Violation {
    /// A fault of a producer's text.
    pub fn new(fault: &Fault, producer: &str, text: &str) -> Self {
        Self {
            kind: FaultKind::of(fault),
            producer: cut(producer, PRODUCER_BYTES).to_owned(),
            text: cut(text, TEXT_BYTES).to_owned(),
        }
    }
}

impl FaultKind {
    const ALL: [Self; 5] = [
        Self::Unreadable,
        Self::Unchecked,
        Self::Contradiction,
        Self::Leak,
        Self::Illegal,
    ];

    fn of(fault: &Fault) -> Self {
        match fault {
            Fault::Unreadable(_) => Self::Unreadable,
            Fault::Unchecked(_) => Self::Unchecked,
            Fault::Contradiction(_) => Self::Contradiction,
            Fault::Leak(_) => Self::Leak,
            Fault::Illegal(_) => Self::Illegal,
        }
    }

    pub(crate) fn number(self) -> u8 {
        let place = Self::ALL.iter().position(|each| *each == self);
        place
            .and_then(|place| u8::try_from(place).ok())
            .unwrap_or(0)
    }

    pub(crate) fn numbered(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// The beginning of a text: at most so many bytes, whole letters.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or("")
}
