//! A village played through the command line by somebody who wants it to break, and judged by
//! somebody who believes nothing that it says.
//!
//! [`Table`] is the player's side of `skep play`; [`Adversary`] decides what is tried; [`Facts`]
//! reads a village's canonical state; [`judge`] holds what was answered against it. None of them
//! shares a line of code with the village but the voices' sentences, which are its language.

mod adversary;
mod campaign;
mod facts;
pub mod judge;
mod table;

pub use adversary::{Adversary, Meant, Try};
pub use campaign::{Campaign, Figures};
pub use facts::{Facts, ITEMS, PEOPLE, PLACES, ROLES, Whereabouts};
pub use table::Table;
