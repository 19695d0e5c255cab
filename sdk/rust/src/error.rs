//! Why the node did not do what it was asked, in words that say what to do about it.

use crate::bindings::imports::skep::types::types as wit;
use std::fmt;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The run holds no grant for this; the text names the grant.
    Denied(String),
    /// A limit would have been passed. Nothing was allocated, launched or written.
    OverQuota {
        /// What would have been used up.
        quota: Quota,
        /// The limit, in the unit of the quota.
        limit: u64,
        /// What the use would have come to, in the same unit.
        asked: u64,
    },
    /// There is no such thing; the text is the name or the digest that was looked for.
    NotFound(String),
    /// The arguments do not fit together; the text says how.
    Invalid(String),
    /// The node is at its limit for everyone. The same call may succeed later.
    Busy,
    /// It could not be done, through no fault of the caller's.
    Failed(String),
}

impl Error {
    /// The input or the arguments are wrong, and the text says how.
    pub fn invalid(reason: impl fmt::Display) -> Self {
        Error::Invalid(reason.to_string())
    }

    /// Something went wrong that is not the caller's fault.
    pub fn failed(reason: impl fmt::Display) -> Self {
        Error::Failed(reason.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Denied(grant) => {
                write!(
                    f,
                    "not granted: {grant}; ask for it under [grants] in skep.toml"
                )
            }
            Error::OverQuota {
                quota,
                limit,
                asked,
            } => write!(
                f,
                "over the limit on {quota}: {asked} of {limit} {}; work in smaller pieces, drop \
                 what is no longer needed, or ask for more under [limits] in skep.toml",
                quota.unit()
            ),
            Error::NotFound(what) => write!(f, "not found here or at any peer: {what}"),
            Error::Invalid(reason) => write!(f, "invalid: {reason}"),
            Error::Busy => write!(f, "the node is busy; try again later"),
            Error::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

/// The things that a run may use up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quota {
    /// Bytes on the device at one moment.
    DeviceMemory,
    /// Floating-point operations in total.
    DeviceWork,
    /// Tensors, encoders and blobs held at one moment.
    Handles,
    /// Bytes that one call may carry between component and node.
    CallBytes,
    /// Bytes of output in total.
    Output,
    /// Bytes stored in the node's blob store in total.
    Storage,
    /// Milliseconds until the run's deadline.
    Time,
}

impl Quota {
    /// What the quota is counted in.
    pub fn unit(self) -> &'static str {
        match self {
            Quota::DeviceWork => "floating-point operations",
            Quota::Handles => "handles",
            Quota::Time => "milliseconds",
            Quota::DeviceMemory | Quota::CallBytes | Quota::Output | Quota::Storage => "bytes",
        }
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Quota::DeviceMemory => "device memory",
            Quota::DeviceWork => "device work",
            Quota::Handles => "open handles",
            Quota::CallBytes => "bytes per call",
            Quota::Output => "output",
            Quota::Storage => "storage",
            Quota::Time => "time",
        })
    }
}

impl From<wit::Error> for Error {
    fn from(error: wit::Error) -> Self {
        match error {
            wit::Error::Denied(grant) => Error::Denied(grant),
            wit::Error::OverQuota(excess) => Error::OverQuota {
                quota: match excess.quota {
                    wit::Quota::DeviceMemory => Quota::DeviceMemory,
                    wit::Quota::DeviceWork => Quota::DeviceWork,
                    wit::Quota::Handles => Quota::Handles,
                    wit::Quota::CallBytes => Quota::CallBytes,
                    wit::Quota::Output => Quota::Output,
                    wit::Quota::Storage => Quota::Storage,
                    wit::Quota::Time => Quota::Time,
                },
                limit: excess.limit,
                asked: excess.asked,
            },
            wit::Error::NotFound(what) => Error::NotFound(what),
            wit::Error::Invalid(reason) => Error::Invalid(reason),
            wit::Error::Busy => Error::Busy,
            wit::Error::Failed(reason) => Error::Failed(reason),
        }
    }
}

impl From<Error> for wit::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Denied(grant) => wit::Error::Denied(grant),
            Error::OverQuota {
                quota,
                limit,
                asked,
            } => wit::Error::OverQuota(wit::QuotaExcess {
                quota: match quota {
                    Quota::DeviceMemory => wit::Quota::DeviceMemory,
                    Quota::DeviceWork => wit::Quota::DeviceWork,
                    Quota::Handles => wit::Quota::Handles,
                    Quota::CallBytes => wit::Quota::CallBytes,
                    Quota::Output => wit::Quota::Output,
                    Quota::Storage => wit::Quota::Storage,
                    Quota::Time => wit::Quota::Time,
                },
                limit,
                asked,
            }),
            Error::NotFound(what) => wit::Error::NotFound(what),
            Error::Invalid(reason) => wit::Error::Invalid(reason),
            Error::Busy => wit::Error::Busy,
            Error::Failed(reason) => wit::Error::Failed(reason),
        }
    }
}

/// An [`Error`] that travelled as a [`std::io::Error`] comes out as it went in.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Error::invalid(error),
            Err(error) => Error::failed(error),
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Denied(_) => std::io::ErrorKind::PermissionDenied,
            Error::OverQuota { .. } => std::io::ErrorKind::QuotaExceeded,
            Error::NotFound(_) => std::io::ErrorKind::NotFound,
            Error::Invalid(_) => std::io::ErrorKind::InvalidInput,
            Error::Busy => std::io::ErrorKind::ResourceBusy,
            Error::Failed(_) => std::io::ErrorKind::Other,
        };
        std::io::Error::new(kind, error)
    }
}

impl From<std::string::FromUtf8Error> for Error {
    fn from(error: std::string::FromUtf8Error) -> Self {
        Error::invalid(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<Error> {
        let mut errors = vec![
            Error::Denied("models: encoder-x".into()),
            Error::NotFound("ab12".into()),
            Error::invalid("two rows and three labels"),
            Error::Busy,
            Error::failed("the device is gone"),
        ];
        for quota in [
            Quota::DeviceMemory,
            Quota::DeviceWork,
            Quota::Handles,
            Quota::CallBytes,
            Quota::Output,
            Quota::Storage,
            Quota::Time,
        ] {
            errors.push(Error::OverQuota {
                quota,
                limit: 7,
                asked: 9,
            });
        }
        errors
    }

    #[test]
    fn survives_the_way_to_the_host_and_back() {
        for error in one_of_each() {
            assert_eq!(Error::from(wit::Error::from(error.clone())), error);
        }
    }

    #[test]
    fn survives_the_way_through_io() {
        for error in one_of_each() {
            assert_eq!(Error::from(std::io::Error::from(error.clone())), error);
        }
        let foreign = std::io::Error::new(std::io::ErrorKind::InvalidData, "not UTF-8");
        assert_eq!(Error::from(foreign), Error::Invalid("not UTF-8".into()));
    }

    #[test]
    fn says_which_limit_and_what_to_do() {
        let error = Error::OverQuota {
            quota: Quota::DeviceMemory,
            limit: 10,
            asked: 12,
        };
        let text = error.to_string();
        assert!(text.contains("device memory: 12 of 10 bytes"), "{text}");
        assert!(text.contains("skep.toml"), "{text}");
    }
}
