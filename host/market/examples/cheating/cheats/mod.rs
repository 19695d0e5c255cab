//! Jobs in swarms of ten nodes, one or two of which cheat, and what that brings them.
//!
//! Scheduling, draws, panels, statements, their checks, accusations and the ledger are the real ones;
//! only the work is not done, and there is no network: each node answers at once.

pub mod cheat;
mod node;
#[expect(dead_code, reason = "the other simulation needs more kinds of chance")]
#[path = "../../swarm_simulation/random.rs"]
mod random;
pub mod summary;
pub mod swarm;
mod texts;

/// Whatever keeps a job from its end.
pub type Fault = Box<dyn std::error::Error>;
