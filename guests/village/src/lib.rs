//! A village that owns its facts.
//!
//! Places, people, things, time, what people think of one another and what they wish for: all of
//! it is drawn from a seed ([`genesis`]) and changed only by a visitor's [`deed`]s and by answers
//! that stood before the [`judge`]. Whoever renders the village's people (a language model, as a
//! rule) is shown a scene ([`stage`]) and proposes; it never decides what is so.
//!
//! *Invariant*: the same seed and the same log give the same state, byte for byte, on every
//! machine. So there is no clock, no randomness but seeded dice, no unordered map and no
//! floating-point number in here.

pub mod bytes;
pub mod clock;
#[cfg(target_family = "wasm")]
mod component;
pub mod deed;
pub mod game;
pub mod genesis;
pub mod hash;
pub mod judge;
pub mod log;
pub mod names;
pub mod stage;
pub mod state;
mod talk;
pub mod violation;
pub mod words;
