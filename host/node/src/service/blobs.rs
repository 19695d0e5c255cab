//! The blob store of a node and the peers behind it, as guests see them.
//!
//! What a guest opens and the node lacks is fetched by the node's own threads, not by the
//! guest's, and is kept while somebody has it open. Nobody else is served with it.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use skep_registry::Digest;
use skep_sandbox::{Allowance, BlobError, Blobs, Pending, ReadBlob, WriteBlob};
use skep_swarm::{Blob, ProviderAddr, Swarm};
use tempfile::NamedTempFile;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The blobs of a node, for one run.
pub struct NodeBlobs {
    /// The node's store and its peers.
    pub swarm: Swarm,
    /// Where content lies while it is being written.
    pub drafts: PathBuf,
    /// Nodes to ask, beside those that are found nearby.
    pub peers: Vec<ProviderAddr>,
    /// Where transfers run.
    pub runtime: Handle,
}

impl Blobs for NodeBlobs {
    fn open(&self, digest: Digest, allowance: Arc<Allowance>) -> Pending<Arc<dyn ReadBlob>> {
        let (swarm, peers) = (self.swarm.clone(), self.peers.clone());
        let opening = self
            .runtime
            .spawn(async move { open(&swarm, digest, &peers, &allowance).await });
        let mut opening = EndsWithCaller(opening);
        Box::pin(async move {
            let blob = (&mut opening.0)
                .await
                .map_err(|error| BlobError::Failed(error.to_string()))??;
            Ok(Arc::new(Open(blob)) as Arc<dyn ReadBlob>)
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

/// Something that the node's own threads do, which stops when whoever waits for it does.
pub(super) struct EndsWithCaller<T>(pub(super) JoinHandle<T>);

impl<T> Drop for EndsWithCaller<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn open(
    swarm: &Swarm,
    digest: Digest,
    peers: &[ProviderAddr],
    allowance: &Allowance,
) -> Result<Blob, BlobError> {
    match swarm.open_blob(&digest).await {
        Err(skep_swarm::BlobError::NotHere { .. } | skep_swarm::BlobError::Partial { .. }) => {}
        here => return here.map_err(|error| BlobError::Failed(error.to_string())),
    }
    let found = swarm.find_blob(&digest, peers).await.map_err(|error| {
        tracing::info!(%error, "a guest asked for a blob that was not found");
        BlobError::NotFound(digest)
    })?;
    allowance.take(found.size)?;
    let (blob, report) = swarm
        .fetch_blob(&digest, found.size, &found.providers, None)
        .await
        .map_err(|error| BlobError::Failed(error.to_string()))?;
    tracing::info!(%digest, bytes = report.bytes_fetched, "fetched a blob for a guest");
    Ok(blob)
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
