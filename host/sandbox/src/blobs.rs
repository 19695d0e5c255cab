//! The blobs that guests may read and write, as the sandbox sees them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

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
    /// The host could not do it.
    #[error("{0}")]
    Failed(String),
}

/// The node's blob store and the peers behind it.
pub trait Blobs: Send + Sync + 'static {
    /// Opens content; what the node lacks it fetches, checking every chunk.
    fn open(&self, digest: Digest) -> Pending<Arc<dyn ReadBlob>>;

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
