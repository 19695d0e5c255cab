//! A scene: all that a character knows and may do at the moment that somebody speaks to them.
//!
//! It is small on purpose: a model of few parameters and a short context has to understand it.
//! Every claim in it was true in the village's state when it was made, so no two of them can
//! contradict each other.

use crate::claim::Claim;
use crate::reply::Action;

/// What a character sees, knows and may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// Who is to speak.
    pub speaker: Speaker,
    /// Where they are.
    pub place: String,
    /// The part of the day.
    pub time: String,
    /// The weather.
    pub weather: String,
    /// Who else is there, but for the visitor.
    pub present: Vec<String>,
    /// What the speaker may claim.
    pub claims: Vec<Claim>,
    /// What the speaker may do. `nothing` is always among it.
    pub actions: Vec<Action>,
    /// What was said to them.
    pub heard: Heard,
}

/// A character of the village.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    /// Their name.
    pub name: String,
    /// What they do for a living.
    pub role: String,
    /// How they speak.
    pub voice: String,
    /// In what spirits they are.
    pub mood: Mood,
    /// What they think of the visitor.
    pub regard: Regard,
}

/// In what spirits somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mood {
    /// Bad ones.
    Sour,
    /// Neither good nor bad ones.
    Calm,
    /// Good ones.
    Glad,
}

/// What somebody thinks of the visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Regard {
    /// Ill.
    Foe,
    /// Neither ill nor well.
    Stranger,
    /// Well.
    Friend,
}

/// What the visitor said, and what the village made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Their words. Untrusted: `prompt` quotes and bounds them.
    pub words: String,
    /// What they were about.
    pub intent: Intent,
    /// The names of the village that came up in them.
    pub topics: Vec<String>,
}

/// What somebody means by what they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Intent {
    /// A greeting.
    Greet,
    /// A farewell.
    Part,
    /// Thanks.
    Thank,
    /// An insult or a threat.
    Insult,
    /// They want something given.
    Beg,
    /// They want to buy something.
    Buy,
    /// They ask about things, people or places.
    Ask,
    /// They ask for something to do.
    Work,
    /// They claim something.
    Claim,
    /// Anything else.
    Chat,
}

impl Mood {
    /// As a prompt has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sour => "sour",
            Self::Calm => "calm",
            Self::Glad => "glad",
        }
    }
}

impl Regard {
    /// As a prompt has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Foe => "foe",
            Self::Stranger => "stranger",
            Self::Friend => "friend",
        }
    }
}

impl Intent {
    /// As a prompt has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Greet => "greets",
            Self::Part => "leaves",
            Self::Thank => "thanks",
            Self::Insult => "insults",
            Self::Beg => "begs",
            Self::Buy => "buys",
            Self::Ask => "asks",
            Self::Work => "seeks work",
            Self::Claim => "claims",
            Self::Chat => "chats",
        }
    }
}
