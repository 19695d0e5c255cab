//! What can go wrong with an adapter.

use skep_decoder::AdapterError;

/// Why an adapter could not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It could not be read, or is not one for this base.
    #[error(transparent)]
    Load(#[from] AdapterError),
    /// The name is taken.
    #[error("there is an adapter {name:?} already; replace it, or choose another name")]
    Taken {
        /// The name.
        name: String,
    },
    /// There is no adapter of that name.
    #[error("there is no adapter {name:?} here; add it first")]
    Unknown {
        /// The name.
        name: String,
    },
    /// It was read before, but now it cannot be.
    #[error("the adapter {name:?} could not be read again: {reason}")]
    Lost {
        /// The name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The pool could not hold it if it were empty.
    #[error("the adapter {name:?} takes {pages} pages, and the pool has {pool}")]
    TooLarge {
        /// The name.
        name: String,
        /// Pages that it takes.
        pages: usize,
        /// Pages that there are.
        pool: usize,
    },
    /// The device that it is to lie on failed.
    #[error("{0}")]
    Device(String),
    /// The thread that reads adapters could not be started.
    #[error("no thread for reading adapters: {0}")]
    Thread(std::io::Error),
}
