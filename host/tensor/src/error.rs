//! Why an operator did not do what it was asked.

use thiserror::Error;

/// The things of a run that this crate meters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuotaKind {
    /// Bytes on the device at one moment.
    DeviceMemory,
    /// Floating-point operations in total, as `cost` counts them.
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

/// Why an operator did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TensorError {
    /// A limit of the account would have been passed. Drop tensors, work in smaller pieces, or
    /// ask for a larger limit.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The arguments do not fit together; the text names the operator, shapes and dtypes.
    #[error("{0}")]
    Invalid(String),
    /// The device could not do it, through no fault of the caller's.
    #[error("the device failed: {0}")]
    Failed(String),
}
