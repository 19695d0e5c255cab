//! Who pays: the memory, the work and the time that one run may use on its device.
//!
//! Everything that allocates on a device charges an [`Account`] first, and everything that
//! launches work on one meters it first. A charge that would pass a limit changes nothing.
//!
//! What this crate must never do: allocate or launch anything itself; let a limit be passed, on
//! however many threads it is charged at once.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod account;
mod error;

pub use account::{Account, Limits, MemoryCharge, Usage};
pub use error::{QuotaError, QuotaKind};
