//! The voices: for every kind of claim the sentences in which each of them makes it, and small
//! talk that claims nothing.
//!
//! A voice is text and nothing else. What it may say in a scene is decided by the claims that the
//! scene admits; what its small talk may hold is checked by the tests of [`crate::talk`].

mod brisk;
mod devout;
mod dreamy;
mod grand;
mod gruff;
mod shy;
mod warm;
mod wry;

use crate::claim::Relation;

/// All voices, in the order of their numbers.
pub const VOICES: &[&Voice] = &[
    &warm::WARM,
    &gruff::GRUFF,
    &grand::GRAND,
    &shy::SHY,
    &wry::WRY,
    &devout::DEVOUT,
    &brisk::BRISK,
    &dreamy::DREAMY,
];

/// A way of speaking.
#[derive(Debug)]
pub struct Voice {
    /// Its name, which is also the end of its adapter's name.
    pub name: &'static str,
    /// For every relation the sentences that claim it, with slots such as `{item}`.
    pub frames: &'static [(Relation, &'static [&'static str])],
    /// Sentences that claim nothing.
    pub talk: &'static [(Occasion, &'static [&'static str])],
}

/// When a sentence of small talk fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Occasion {
    /// A friend comes.
    Friend,
    /// Somebody else comes.
    Stranger,
    /// Somebody goes.
    Farewell,
    /// Somebody gave thanks.
    Thanked,
    /// Somebody was rude.
    Insulted,
    /// It is not clear what was meant.
    Puzzled,
    /// In good spirits.
    Glad,
    /// In bad spirits.
    Sour,
    /// Before a claim.
    Lead,
    /// After a claim.
    Tail,
}

impl Voice {
    /// The voice of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        VOICES.iter().copied().find(|voice| voice.name == name)
    }

    /// The sentences with which this voice makes a claim of this relation.
    pub fn frames(&self, relation: Relation) -> &'static [&'static str] {
        let found = self.frames.iter().find(|(of, _)| *of == relation);
        found.map_or(&[], |(_, frames)| frames)
    }

    /// The small talk of this voice for an occasion.
    pub fn talk(&self, occasion: Occasion) -> &'static [&'static str] {
        let found = self.talk.iter().find(|(of, _)| *of == occasion);
        found.map_or(&[], |(_, talk)| talk)
    }
}
