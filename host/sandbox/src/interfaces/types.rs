//! `skep:types`: how every call says no.

use skep_engine::EngineError;
use skep_tensor::{QuotaError, QuotaKind, TensorError};
use wasmtime::component::ResourceTableError;

use crate::bindings::task::skep::types::types::{self, Error};
use crate::blobs::BlobError;
use crate::devices::Lost;
use crate::error::{Quota, QuotaExcess};
use crate::models::ModelError;
use crate::state::State;

/// Why a call did not do what it was asked, on its way to the guest.
#[derive(Debug)]
pub(crate) enum HostError {
    /// A limit would have been passed.
    Quota(QuotaExcess),
    /// The guest has as many handles as it may have.
    Handles,
    /// Another case of the contract's `error`.
    Typed(Error),
    /// The run ends.
    Trap(wasmtime::Error),
}

impl HostError {
    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        HostError::Typed(Error::Invalid(reason.into()))
    }

    pub(crate) fn denied(grant: impl Into<String>) -> Self {
        HostError::Typed(Error::Denied(grant.into()))
    }

    pub(crate) fn failed(reason: impl Into<String>) -> Self {
        HostError::Typed(Error::Failed(reason.into()))
    }
}

impl HostError {
    /// Whether another machine might have done what this one did not.
    pub(crate) fn is_fault(&self) -> bool {
        !matches!(
            self,
            HostError::Typed(Error::Invalid(_) | Error::Denied(_) | Error::NotFound(_))
        )
    }

    /// The contract's error, where there is no guest's state to note it in.
    pub(crate) fn plain(self) -> Error {
        match self {
            HostError::Typed(error) => error,
            HostError::Quota(excess) => over_quota(excess),
            HostError::Handles => Error::Failed("there are no more handles".to_owned()),
            HostError::Trap(error) => Error::Failed(format!("{error:#}")),
        }
    }
}

impl types::Host for State {
    fn convert_error(&mut self, error: HostError) -> wasmtime::Result<Error> {
        Ok(match error {
            HostError::Typed(error) => {
                self.was_busy |= matches!(error, Error::Busy);
                self.had_fault |= matches!(error, Error::Failed(_));
                error
            }
            HostError::Trap(error) => return Err(error),
            HostError::Quota(excess) => {
                self.refused = Some(excess);
                over_quota(excess)
            }
            HostError::Handles => {
                let limit = u64::from(self.limits.handles);
                over_quota(self.refuse(Quota::Handles, limit, limit + 1))
            }
        })
    }
}

fn over_quota(excess: QuotaExcess) -> Error {
    let quota = match excess.quota {
        Quota::DeviceMemory => types::Quota::DeviceMemory,
        Quota::DeviceWork => types::Quota::DeviceWork,
        Quota::Handles => types::Quota::Handles,
        Quota::CallBytes => types::Quota::CallBytes,
        Quota::Output => types::Quota::Output,
        Quota::Storage => types::Quota::Storage,
        Quota::Time => types::Quota::Time,
    };
    Error::OverQuota(types::QuotaExcess {
        quota,
        limit: excess.limit,
        asked: excess.asked,
    })
}

/// The same excess as a guest reports it.
pub(crate) fn reported(excess: types::QuotaExcess) -> QuotaExcess {
    QuotaExcess {
        quota: match excess.quota {
            types::Quota::DeviceMemory => Quota::DeviceMemory,
            types::Quota::DeviceWork => Quota::DeviceWork,
            types::Quota::Handles => Quota::Handles,
            types::Quota::CallBytes => Quota::CallBytes,
            types::Quota::Output => Quota::Output,
            types::Quota::Storage => Quota::Storage,
            types::Quota::Time => Quota::Time,
        },
        limit: excess.limit,
        asked: excess.asked,
    }
}

impl From<QuotaError> for HostError {
    fn from(error: QuotaError) -> Self {
        HostError::Quota(QuotaExcess {
            quota: match error.quota {
                QuotaKind::DeviceMemory => Quota::DeviceMemory,
                QuotaKind::DeviceWork => Quota::DeviceWork,
                QuotaKind::Time => Quota::Time,
            },
            limit: error.limit,
            asked: error.asked,
        })
    }
}

impl From<TensorError> for HostError {
    fn from(error: TensorError) -> Self {
        match error {
            TensorError::Quota(error) => error.into(),
            TensorError::Invalid(reason) => HostError::invalid(reason),
            TensorError::Failed(reason) => HostError::failed(reason),
        }
    }
}

impl From<ModelError> for HostError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::NotFound(name) => HostError::Typed(Error::NotFound(name)),
            ModelError::Quota(error) => error.into(),
            ModelError::Invalid(reason) => HostError::invalid(reason),
            ModelError::Failed(reason) => HostError::failed(reason),
        }
    }
}

impl From<EngineError> for HostError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Busy { .. } => HostError::Typed(Error::Busy),
            EngineError::Quota(error) => error.into(),
            EngineError::Invalid(reason) => HostError::invalid(reason),
            EngineError::NoAdapter(name) => HostError::Typed(Error::NotFound(name)),
            EngineError::Tokenizer(error) => HostError::invalid(error.to_string()),
            EngineError::Chat(error) => HostError::invalid(error.to_string()),
            EngineError::Grammar(error) => HostError::invalid(error.to_string()),
            other => HostError::failed(other.to_string()),
        }
    }
}

impl From<BlobError> for HostError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NotFound(digest) => HostError::Typed(Error::NotFound(digest.to_string())),
            error @ BlobError::TooLarge { .. } => HostError::failed(error.to_string()),
            BlobError::Failed(reason) => HostError::failed(reason),
        }
    }
}

impl From<ResourceTableError> for HostError {
    fn from(error: ResourceTableError) -> Self {
        match error {
            ResourceTableError::Full => HostError::Handles,
            other => HostError::Trap(other.into()),
        }
    }
}

impl From<Lost> for HostError {
    fn from(_: Lost) -> Self {
        HostError::failed("the device's thread failed; see the node's log")
    }
}
