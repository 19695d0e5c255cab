//! The blob store of a node, as guests see it.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use skep_registry::Digest;
use skep_sandbox::{BlobError, Blobs, Pending, ReadBlob, WriteBlob};
use skep_swarm::{Blob, Swarm};
use tempfile::NamedTempFile;

/// The blobs of a node, for one run.
pub struct NodeBlobs {
    /// The node's store and its peers.
    pub swarm: Swarm,
    /// Where content lies while it is being written.
    pub drafts: PathBuf,
}

impl Blobs for NodeBlobs {
    fn open(&self, digest: Digest) -> Pending<Arc<dyn ReadBlob>> {
        let swarm = self.swarm.clone();
        Box::pin(async move {
            match swarm.open_blob(&digest).await {
                Ok(blob) => Ok(Arc::new(Open(blob)) as Arc<dyn ReadBlob>),
                Err(
                    skep_swarm::BlobError::NotHere { .. } | skep_swarm::BlobError::Partial { .. },
                ) => Err(BlobError::NotFound(digest)),
                Err(error) => Err(BlobError::Failed(error.to_string())),
            }
        })
    }

    fn create(&self) -> Pending<Box<dyn WriteBlob>> {
        let swarm = self.swarm.clone();
        let draft = NamedTempFile::new_in(&self.drafts);
        Box::pin(async move {
            let draft = draft.map_err(failed)?;
            Ok(Box::new(Draft {
                swarm,
                draft: Some(draft),
            }) as Box<dyn WriteBlob>)
        })
    }
}

struct Open(Blob);

impl ReadBlob for Open {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read(&self, offset: u64, length: u32) -> Pending<Bytes> {
        let blob = self.0.clone();
        let left = blob.size().saturating_sub(offset);
        let length = usize::try_from(left.min(u64::from(length))).unwrap_or(usize::MAX);
        Box::pin(async move {
            blob.read_at(offset, length)
                .await
                .map_err(|error| BlobError::Failed(error.to_string()))
        })
    }
}

/// Content being written, in a file that vanishes unless it is finished.
struct Draft {
    swarm: Swarm,
    /// None once a write has failed and left it useless.
    draft: Option<NamedTempFile>,
}

impl WriteBlob for Draft {
    fn append(&mut self, data: Bytes) -> Pending<()> {
        let result = match &mut self.draft {
            Some(draft) => draft.write_all(&data).map_err(failed),
            None => Err(BlobError::Failed(
                "an earlier write to this blob failed".to_owned(),
            )),
        };
        if result.is_err() {
            self.draft = None;
        }
        Box::pin(async move { result })
    }

    fn finish(self: Box<Self>) -> Pending<Digest> {
        Box::pin(async move {
            let draft = self.draft.ok_or_else(|| {
                BlobError::Failed("an earlier write to this blob failed".to_owned())
            })?;
            let (digest, _) = self
                .swarm
                .import_path(draft.path())
                .await
                .map_err(|error| BlobError::Failed(error.to_string()))?;
            self.swarm
                .share(&digest)
                .await
                .map_err(|error| BlobError::Failed(error.to_string()))?;
            Ok(digest)
        })
    }
}

fn failed(error: std::io::Error) -> BlobError {
    BlobError::Failed(format!("the node's disk: {error}"))
}
