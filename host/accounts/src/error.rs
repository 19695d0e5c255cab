//! Which limit a charge would have passed.

use thiserror::Error;

/// The things of a run that accounts meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuotaKind {
    /// Bytes on the device at one moment.
    DeviceMemory,
    /// Floating-point operations in total.
    DeviceWork,
    /// Milliseconds of wall time since the account was opened.
    Time,
}

impl QuotaKind {
    /// What is limited, in words for a person.
    pub const fn name(self) -> &'static str {
        match self {
            QuotaKind::DeviceMemory => "device memory",
            QuotaKind::DeviceWork => "device work",
            QuotaKind::Time => "time",
        }
    }

    /// The unit in which limits of this kind are given.
    pub const fn unit(self) -> &'static str {
        match self {
            QuotaKind::DeviceMemory => "bytes",
            QuotaKind::DeviceWork => "floating-point operations",
            QuotaKind::Time => "ms",
        }
    }
}

/// A limit of the account would have been passed. Nothing was allocated or launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "over quota on {}: the limit is {limit} {} and this would come to {asked}",
    quota.name(),
    quota.unit()
)]
pub struct QuotaError {
    /// What would have been used up.
    pub quota: QuotaKind,
    /// The limit, in the unit of `quota`. For a run that was cancelled: the time it had had.
    pub limit: u64,
    /// What the use would have come to, in the same unit.
    pub asked: u64,
}
