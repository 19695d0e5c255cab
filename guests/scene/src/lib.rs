//! What the village and the renderer of its people share.
//!
//! The village ([`Scene`]) says who speaks, what they may claim and what they may do. A renderer
//! answers with a [`Reply`]: a line and at most one action. [`prompt`] and [`grammar`] turn a
//! scene into what a language model is given; [`frames`] and [`talk`] read a line back into the
//! claims that it makes, so that the village can hold them against its state.
//!
//! Everything here is a pure function of its arguments: no clock, no randomness of its own, no
//! floating-point numbers.

#[cfg(feature = "bindings")]
pub mod bindings;
mod claim;
pub mod dice;
pub mod frames;
pub mod grammar;
mod prompt;
pub mod reply;
mod scene;
pub mod script;
pub mod talk;
pub mod voices;

pub use claim::{Claim, Relation, Slot};
pub use frames::Names;
pub use prompt::{HEARD_BYTES, prompt, quoted};
pub use reply::{Action, Reply, ReplyError};
pub use scene::{Heard, Intent, Mood, Regard, Scene, Speaker};
