//! Why a component was not loaded, and why a run ended before its work was done.
//!
//! Every limit has a case of its own that names the limit, its figure and the key of
//! `skep.toml` that raises it. The texts are for the person who started the run.

use std::time::Duration;

use thiserror::Error;

use crate::grants::Refusal;
use crate::limits::Bytes;

/// Why a component was not loaded. Nothing of it was run.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file is larger than the node takes; it was not even parsed.
    #[error(
        "the component is {} and this node takes at most {}: leave debug information out \
         (`wasm-tools strip`), or ask the node's owner to raise `component_bytes`",
        Bytes(*size), Bytes(*limit)
    )]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The node's limit in bytes.
        limit: u64,
    },
    /// It is not a valid component.
    #[error("this is not a valid WebAssembly component: {reason}")]
    Malformed {
        /// What the validator says, with the offset.
        reason: String,
    },
    /// It is a component, but one whose compilation could take too much of the machine.
    #[error(
        "the component has {what} of {found}, and this node compiles at most {limit}, because \
         compiling cannot be interrupted"
    )]
    TooComplex {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much is taken.
        limit: u64,
    },
    /// Compilation did not end in time. It was stopped, or goes on in its own thread and will
    /// be in the cache when it ends.
    #[error("the component was not compiled within {} s", limit.as_secs_f32())]
    CompileTime {
        /// The time it had.
        limit: Duration,
    },
    /// All compilers are at work, and have been for the whole time limit.
    #[error("the node is compiling other components; try again later")]
    Busy,
    /// The compiler would not have it.
    #[error("the component could not be compiled: {reason}")]
    Compile {
        /// What the compiler says.
        reason: String,
    },
    /// The host itself failed: its engine or its compiler does not start.
    #[error("a fault of the host, not of the component: {reason}")]
    Host {
        /// What failed.
        reason: String,
    },
    /// It imports what this host does not have or what it was not granted.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What a quota counts; the same list as `quota` of `skep:types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// Bytes on the device at one moment.
    DeviceMemory,
    /// Floating-point operations in total.
    DeviceWork,
    /// Handles held at one moment.
    Handles,
    /// Bytes carried by one call.
    CallBytes,
    /// Bytes of result in total.
    Output,
    /// Bytes put into the blob store in total.
    Storage,
    /// Milliseconds of wall time.
    Time,
}

impl Quota {
    /// The key of `skep.toml`, under `[limits]`, that asks for more.
    pub const fn key(self) -> &'static str {
        match self {
            Quota::DeviceMemory => "device-memory",
            Quota::DeviceWork => "device-work",
            Quota::Handles => "handles",
            Quota::CallBytes => "call-bytes",
            Quota::Output => "output",
            Quota::Storage => "storage",
            Quota::Time => "time",
        }
    }

    /// A figure with its unit.
    pub fn figure(self, value: u64) -> String {
        match self {
            Quota::DeviceMemory | Quota::CallBytes | Quota::Output | Quota::Storage => {
                Bytes(value).to_string()
            }
            Quota::DeviceWork => format!("{value} floating-point operations"),
            Quota::Handles => format!("{value} handles"),
            Quota::Time => format!("{value} ms"),
        }
    }
}

/// What raises the limit of this key, as the messages of this module say it, which know a package's manifest only.
/// Whoever knows who set the limit can say that in its place.
#[must_use]
pub fn raised_by(key: &str) -> String {
    format!("`limits.{key}` in skep.toml; the owner's policy caps it")
}

/// A call that was refused because it would have passed a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "over its limit on {}: {} are allowed and this would come to {} (ask for more with {})",
    quota.key(), quota.figure(*limit), quota.figure(*asked), raised_by(quota.key())
)]
pub struct QuotaExcess {
    /// What would have been used up.
    pub quota: Quota,
    /// The limit.
    pub limit: u64,
    /// What the use would have come to.
    pub asked: u64,
}

/// Why a run did not do its work.
#[derive(Debug, Error)]
pub enum RunError {
    /// The guest needed more linear memory than it may have, and died of it.
    #[error(
        "the guest ran out of memory: it may have {} and asked for {} ({})",
        Bytes(*limit), Bytes(*asked), raised_by("memory")
    )]
    Memory {
        /// The limit in bytes.
        limit: u64,
        /// What the guest's memories would have come to.
        asked: u64,
    },
    /// The guest's tables grew beyond what a compiler would ever write.
    #[error("the guest's tables are limited to {limit} elements, and it asked for {asked}")]
    Tables {
        /// The limit in elements.
        limit: u64,
        /// What the guest's tables would have come to.
        asked: u64,
    },
    /// The component has more parts than a run may have.
    #[error("the component needs more than {limit} instances, memories or tables")]
    Instances {
        /// The limit.
        limit: u64,
    },
    /// The guest computed for longer than it may.
    #[error(
        "the guest used its {:.3} s of processor time ({})",
        limit.as_secs_f64(), raised_by("cpu-time")
    )]
    CpuTime {
        /// The limit.
        limit: Duration,
    },
    /// The guest computed for longer than one call of a session may.
    #[error(
        "the guest used the {:.3} s of processor time that one call may take",
        limit.as_secs_f64()
    )]
    CallCpuTime {
        /// The limit of one call.
        limit: Duration,
    },
    /// One call of a session took longer than it may, whatever it was waiting for.
    #[error("the call was not over after {:.3} s", limit.as_secs_f64())]
    CallTime {
        /// The limit of one call.
        limit: Duration,
    },
    /// Others are to get the same bytes, and the guest could see how much room this machine has, or that
    /// something of it failed.
    #[error(
        "the run was refused something for want of room, or by a failure of this machine, and another \
         might not have refused it; it was to give the same bytes everywhere, so that it has no \
         result (raise the limits, ask for smaller shards, or see the node's log)"
    )]
    Unrepeatable,
    /// Others are to follow its texts, and they are more than can be shown.
    #[error(
        "the texts of this run are more than can be shown to others, which is some 65,000 tokens or \
         2,048 texts; ask for smaller shards"
    )]
    Unshown,
    /// The run took longer than it may, whatever it was waiting for.
    #[error(
        "the run was not over after {:.3} s ({})",
        limit.as_secs_f64(), raised_by("time")
    )]
    WallTime {
        /// The limit.
        limit: Duration,
    },
    /// The run ended because a call was refused for passing a limit.
    #[error("the run ended because it was {0}")]
    Quota(#[from] QuotaExcess),
    /// Whoever started the run called it off.
    #[error("the run was cancelled")]
    Cancelled,
    /// The node runs as many guests as its owner allows.
    #[error("the node already runs {running} guests, as many as its owner allows; try again later")]
    Busy {
        /// The guests at work.
        running: usize,
    },
    /// The pool that guests' memories come from is used up.
    #[error(
        "the guests that run now have taken all of the node's pool of memories; try again later"
    )]
    PoolEmpty,
    /// The component imports what it was not granted, or exports no such world.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The component does not do this kind of work.
    #[error("the component is no {wanted}: {reason}")]
    WrongWorld {
        /// The world that was asked for.
        wanted: &'static str,
        /// What is missing.
        reason: String,
    },
    /// The guest itself reported that it could not do its work.
    #[error("the workload reports: {0}")]
    Guest(String),
    /// The guest's answer is not what the contract promises.
    #[error("the workload broke its contract: {0}")]
    Contract(String),
    /// The guest crashed.
    #[error("the workload crashed: {message}")]
    Trapped {
        /// What kind of crash.
        message: String,
        /// The functions it was in, innermost first, as far as the component names them.
        backtrace: Vec<String>,
    },
    /// The caller's input could not be read.
    #[error("the input could not be read: {0}")]
    Input(#[source] std::io::Error),
    /// The caller's output could not be written.
    #[error("the output could not be written: {0}")]
    Output(#[source] std::io::Error),
    /// The host itself failed. The node goes on; this run does not.
    #[error("a fault of the host, not of the workload; please report it: {0}")]
    HostBug(String),
}

impl RunError {
    /// The limit that ended the run, by the key that raises it; none if it was no limit.
    pub fn limit(&self) -> Option<&'static str> {
        Some(match self {
            RunError::Memory { .. } => "memory",
            RunError::Tables { .. } => "tables",
            RunError::Instances { .. } => "instances",
            RunError::CpuTime { .. } => "cpu-time",
            RunError::WallTime { .. } => "time",
            RunError::CallCpuTime { .. } => "call-cpu-time",
            RunError::CallTime { .. } => "call-time",
            RunError::Quota(excess) => excess.quota.key(),
            _ => return None,
        })
    }
}
