//! The blobs that guests may read and write, as the sandbox sees them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use skep_registry::Digest;
use thiserror::Error;

/// A future that goes on whichever thread it is awaited on.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, BlobError>> + Send>>;

/// Why a blob could not be had.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BlobError {
    /// Neither this node nor any that it asked has it.
    #[error("no node that was asked has the content {0}")]
    NotFound(Digest),
    /// It is larger than what the run may still store, so nothing of it was fetched.
    #[error("the content has {size} bytes, and the run may store {room} more")]
    TooLarge {
        /// Its size in bytes, which was proved.
        size: u64,
        /// What the run may still store, in bytes.
        room: u64,
    },
    /// The host could not do it.
    #[error("{0}")]
    Failed(String),
}

/// What one call may still add to the node's disk. Whoever stores something takes its bytes
/// first; they stay taken even if the call fails or is given up.
#[derive(Debug)]
pub struct Allowance {
    room: u64,
    taken: AtomicU64,
}

impl Allowance {
    /// Room for so many bytes.
    pub fn new(room: u64) -> Self {
        Allowance {
            room,
            taken: AtomicU64::new(0),
        }
    }

    /// Takes room for content of this size.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`] if there is not enough; then nothing was taken.
    pub fn take(&self, size: u64) -> Result<(), BlobError> {
        let fits = |taken: u64| taken.checked_add(size).filter(|&sum| sum <= self.room);
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map(drop)
            .map_err(|taken| BlobError::TooLarge {
                size,
                room: self.room - taken,
            })
    }

    /// The bytes that were taken.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// The node's blob store and the peers behind it.
pub trait Blobs: Send + Sync + 'static {
    /// Opens content. What the node lacks it fetches, checking every chunk, once it has taken
    /// room for all of it from the allowance. Dropping the future stops the transfer.
    fn open(&self, digest: Digest, allowance: Arc<Allowance>) -> Pending<Arc<dyn ReadBlob>>;

    /// Begins new content.
    fn create(&self) -> Pending<Box<dyn WriteBlob>>;
}

/// Content that is here and was checked.
pub trait ReadBlob: Send + Sync + 'static {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// At most `length` bytes from `offset`, which is within the content.
    fn read(&self, offset: u64, length: u32) -> Pending<Bytes>;
}

/// Content that is being written. Dropping it discards what was written.
pub trait WriteBlob: Send + 'static {
    /// Appends bytes.
    fn append(&mut self, data: Bytes) -> Pending<()>;

    /// Seals and offers the content.
    fn finish(self: Box<Self>) -> Pending<Digest>;
}

/// A blob that a guest has opened.
pub struct OpenBlob {
    pub(crate) digest: Digest,
    pub(crate) content: Arc<dyn ReadBlob>,
}

/// A writer that a guest has opened.
pub struct OpenWriter {
    /// None while a failed append has left it useless.
    pub(crate) content: Option<Box<dyn WriteBlob>>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_taken_never_exceeds_the_room(room in any::<u64>(), sizes in prop::collection::vec(any::<u64>(), 0..20)) {
            let allowance = Allowance::new(room);
            let mut taken = 0_u64;
            for size in sizes {
                match allowance.take(size) {
                    Ok(()) => taken += size,
                    Err(error) => {
                        prop_assert_eq!(error, BlobError::TooLarge { size, room: room - taken });
                        prop_assert!(size > room - taken);
                    }
                }
                prop_assert_eq!(allowance.taken(), taken);
            }
        }
    }
}
