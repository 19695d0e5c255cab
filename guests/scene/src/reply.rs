//! A reply: a line and at most one action, and how it is written.
//!
//! Written as `line | action`, the action being `nothing` where there is none. What is written
//! comes from a model, so reading it trusts nothing.

use std::fmt;

/// Bytes of a line at most.
pub const LINE_BYTES: usize = 400;

/// Sentences in a line at most.
pub const SENTENCES: usize = 3;

/// What a character says and does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What is said: one to three sentences.
    pub line: String,
    /// What is done.
    pub action: Action,
}

/// What a character may do after a line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Action {
    /// Nothing.
    #[default]
    Nothing,
    /// Hands the visitor an item.
    Give(String),
    /// Sells the visitor an item at its price.
    Sell(String),
    /// Asks the visitor to bring an item, for a reward.
    Offer(String),
    /// Walks to a place.
    Go(String),
}

/// Why a text is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The mark between line and action is not there.
    #[error("the text has no ` | ` between a line and an action")]
    NoMark,
    /// No action is written so.
    #[error("there is no such action: {0}")]
    Action(String),
    /// The line is empty, too long or not of one to three sentences.
    #[error("a line is one to {SENTENCES} sentences of at most {LINE_BYTES} bytes together")]
    Line,
}

impl Reply {
    /// Reads what a model wrote.
    ///
    /// # Errors
    /// When it is no line and action.
    pub fn parse(text: &str) -> Result<Self, ReplyError> {
        let text = text.trim();
        let (line, action) = text.rsplit_once(" | ").ok_or(ReplyError::NoMark)?;
        let line = line.trim();
        if line.is_empty() || line.len() > LINE_BYTES {
            return Err(ReplyError::Line);
        }
        let count = sentences(line).count();
        let whole = line.ends_with(['.', '!', '?']);
        if count == 0 || count > SENTENCES || !whole {
            return Err(ReplyError::Line);
        }
        Ok(Self {
            line: line.to_owned(),
            action: Action::parse(action)?,
        })
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} | {}", self.line, self.action)
    }
}

impl Action {
    /// Reads an action. Whether what it names exists is for the village to say.
    ///
    /// # Errors
    /// When no action is written so.
    pub fn parse(text: &str) -> Result<Self, ReplyError> {
        if text == "nothing" {
            return Ok(Self::Nothing);
        }
        let wrong = || ReplyError::Action(text.chars().take(80).collect());
        let (verb, name) = text.split_once(' ').ok_or_else(wrong)?;
        if name.is_empty() || name.len() > 40 || !name.chars().all(char::is_alphabetic) {
            return Err(wrong());
        }
        let name = name.to_owned();
        match verb {
            "give" => Ok(Self::Give(name)),
            "sell" => Ok(Self::Sell(name)),
            "offer" => Ok(Self::Offer(name)),
            "go" => Ok(Self::Go(name)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(formatter, "nothing"),
            Self::Give(item) => write!(formatter, "give {item}"),
            Self::Sell(item) => write!(formatter, "sell {item}"),
            Self::Offer(item) => write!(formatter, "offer {item}"),
            Self::Go(place) => write!(formatter, "go {place}"),
        }
    }
}

/// The sentences of a line, each with its full stop. What comes after the last full stop is a
/// sentence without one.
pub fn sentences(line: &str) -> impl Iterator<Item = &str> {
    let pieces = line.split_inclusive(['.', '!', '?']);
    pieces
        .map(str::trim)
        .filter(|sentence| !sentence.is_empty())
}
