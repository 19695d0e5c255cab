//! The content of a blob as it is read, in a task that does something else meanwhile.

use crate::bindings::async_task::skep::swarm::blob_streams::read_via_stream;
use crate::bindings::imports::skep::types::types as wit;
use crate::{Blob, Result};
use wit_bindgen::{FutureReader, StreamReader, StreamResult};

/// The content of a [`Blob`] from some offset to its end. The node reads it when the task does,
/// and no more than the task has room for. Dropping it gives back its two handles.
pub struct BlobStream {
    bytes: StreamReader<u8>,
    /// Whether the content's end was reached; none once that is known.
    ended: Option<FutureReader<core::result::Result<(), wit::Error>>>,
}

impl Blob {
    /// The content from `offset` on; from beyond its end there is nothing. The stream goes on
    /// when the blob is dropped.
    ///
    /// # Errors
    /// [`Error::OverQuota`](crate::Error::OverQuota) where the run has as many handles as it may.
    pub fn stream(&self, offset: u64) -> Result<BlobStream> {
        let (bytes, ended) = read_via_stream(self.handle(), offset)?;
        Ok(BlobStream {
            bytes,
            ended: Some(ended),
        })
    }
}

impl BlobStream {
    /// The next bytes, at least one and at most `most`; none at the end of the content.
    ///
    /// # Errors
    /// Where the node cannot read the content to its end. After that there are no more bytes.
    pub async fn next(&mut self, most: usize) -> Result<Option<Vec<u8>>> {
        loop {
            let room = Vec::with_capacity(most.max(1));
            let (result, bytes) = self.bytes.read(room).await;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
            if !matches!(result, StreamResult::Complete(_)) {
                break;
            }
        }
        if let Some(ended) = self.ended.take() {
            ended.await?;
        }
        Ok(None)
    }
}
