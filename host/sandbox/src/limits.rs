//! What one run may use: the figures, how they are combined, and how they are spelt for people.
//!
//! A run has all of these limits at once. What a package asks for and what the node's owner
//! allows are both a [`Limits`]; the run gets the smaller of the two, figure by figure.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use skep_registry::Limits;

/// The limits of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RunLimits {
    /// Bytes of linear memory, all of the guest's memories together.
    pub memory: u64,
    /// Time on a processor that the guest's own thread may use.
    pub cpu: Duration,
    /// Time from the start of the run to its end, host calls and waiting included.
    pub wall: Duration,
    /// Handles (tensors, encoders, blobs, streams, …) that the guest may hold at one moment.
    pub handles: u32,
    /// Bytes that one call may carry between guest and host.
    pub call_bytes: u64,
    /// Bytes of tensors and activations on the device at one moment.
    pub device_memory: u64,
    /// Floating-point operations on the device in total.
    pub device_work: u64,
    /// Bytes of result that the run may write in total.
    pub output: u64,
    /// Bytes that the run may put into the node's blob store in total, those that are fetched
    /// for it among them.
    pub storage: u64,
    /// Bytes of what the guest prints that are kept. What is beyond it is counted and dropped.
    pub log: u64,
}

impl RunLimits {
    /// Elements of all of the guest's tables together. Fixed: nothing that a compiler writes
    /// comes near it.
    pub const TABLE_ELEMENTS: u64 = 1 << 20;
    /// Elements of one table.
    pub const ONE_TABLE: u64 = 200_000;
    /// Core instances, memories and tables of one run. Fixed, as the one above.
    pub const INSTANCES: usize = 512;

    /// What a run gets: what the package asks for, or the most it can have where it asks for
    /// nothing, capped by what the owner allows; where the owner has said nothing, by
    /// [`RunLimits::default`].
    #[must_use]
    pub fn of(asked: &Limits, owner: &Limits) -> RunLimits {
        let most = RunLimits::default();
        let bytes = |asked: Option<u64>, owner: Option<u64>, most: u64| {
            let cap = owner.unwrap_or(most);
            asked.map_or(cap, |asked| asked.min(cap))
        };
        let time = |asked: Option<Duration>, owner: Option<Duration>, most: Duration| {
            let cap = owner.unwrap_or(most);
            asked.map_or(cap, |asked| asked.min(cap))
        };
        let handles = bytes(asked.handles, owner.handles, u64::from(most.handles));
        RunLimits {
            memory: bytes(asked.memory, owner.memory, most.memory),
            cpu: time(asked.cpu_time, owner.cpu_time, most.cpu),
            wall: time(asked.time, owner.time, most.wall),
            handles: u32::try_from(handles).unwrap_or(u32::MAX),
            call_bytes: bytes(asked.call_bytes, owner.call_bytes, most.call_bytes),
            device_memory: bytes(asked.device_memory, owner.device_memory, most.device_memory),
            device_work: bytes(asked.device_work, owner.device_work, most.device_work),
            output: bytes(asked.output, owner.output, most.output),
            storage: bytes(asked.storage, owner.storage, most.storage),
            log: bytes(asked.log, owner.log, most.log),
        }
    }
}

impl Default for RunLimits {
    /// What an owner allows who has said nothing: enough for a batch job of some hours on a
    /// laptop, and not enough to be missed.
    fn default() -> Self {
        RunLimits {
            memory: 512 << 20,
            cpu: Duration::from_secs(15 * 60),
            wall: Duration::from_secs(4 * 60 * 60),
            handles: 10_000,
            call_bytes: 32 << 20,
            device_memory: 1 << 30,
            device_work: 10_000_000_000_000_000,
            output: 4 << 30,
            storage: 1 << 30,
            log: 64 << 10,
        }
    }
}

/// A number of bytes as a person reads it: `64 MiB`, `1.5 GiB`, `900 bytes`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        for (name, size) in UNITS {
            if self.0 >= size {
                let tenths = u128::from(self.0) * 10 / u128::from(size);
                return if tenths % 10 == 0 {
                    write!(f, "{} {name}", tenths / 10)
                } else {
                    write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
                };
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_figure_wins_one_by_one_and_silence_is_the_default() {
        let asked = Limits {
            memory: Some(10),
            handles: Some(1 << 40),
            ..Limits::default()
        };
        let owner = Limits {
            memory: Some(20),
            handles: Some(5),
            time: Some(Duration::from_secs(1)),
            ..Limits::default()
        };
        let run = RunLimits::of(&asked, &owner);
        assert_eq!((run.memory, run.handles), (10, 5));
        assert_eq!(run.wall, Duration::from_secs(1));
        assert_eq!(run.output, RunLimits::default().output);
        let greedy = Limits {
            memory: Some(u64::MAX),
            ..Limits::default()
        };
        assert_eq!(
            RunLimits::of(&greedy, &Limits::default()),
            RunLimits::default()
        );
    }

    #[test]
    fn bytes_are_readable() {
        let text = |n| Bytes(n).to_string();
        assert_eq!(text(900), "900 bytes");
        assert_eq!(text(1536), "1.5 KiB");
        assert_eq!(text(64 << 20), "64 MiB");
        assert_eq!(text(u64::MAX), "17179869183.9 GiB");
    }
}
