//! The blob store of a node and the peers behind it, as guests see them.
//!
//! What a guest opens and the node lacks is fetched by the node's own threads, not by the
//! guest's, and is kept while somebody has it open. Nobody else is served with it.
//!
//! # What it must never do
//!
//! - Store anything for a guest that is run for somebody else, or show it what the owner keeps and offers
//!   to nobody.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use skep_registry::Digest;
use skep_sandbox::{Allowance, BlobError, Blobs, Pending, ReadBlob, WriteBlob};
use skep_swarm::{Blob, ProviderAddr, Swarm};
use tempfile::NamedTempFile;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// How far a run reaches into the node's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Reads all that is there, and stores: it is a run of the owner's own.
    Everything,
    /// Reads what is served to everybody, and stores nothing: it is run for somebody else.
    Offered,
}

/// The blobs of a node, for one run.
pub struct NodeBlobs {
    /// The node's store and its peers.
    pub swarm: Swarm,
    /// How far the run reaches into it.
    pub reach: Reach,
    /// What was fetched for this run.
    pub fetched: Fetched,
    /// Where content lies while it is being written.
    pub drafts: PathBuf,
    /// Nodes to ask, beside those that are found nearby.
    pub peers: Vec<ProviderAddr>,
    /// Where transfers run.
    pub runtime: Handle,
}

/// The digests of what was fetched for a run, which it opens again without another transfer.
#[derive(Clone, Default)]
pub struct Fetched(Arc<Mutex<BTreeSet<Digest>>>);

impl Fetched {
    fn has(&self, digest: &Digest) -> bool {
        self.lock().contains(digest)
    }

    fn note(&self, digest: Digest) {
        self.lock().insert(digest);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        // A digest is there whole or not at all, so a poisoned lock is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blobs for NodeBlobs {
    fn open(&self, digest: Digest, allowance: Arc<Allowance>) -> Pending<Arc<dyn ReadBlob>> {
        let (swarm, peers) = (self.swarm.clone(), self.peers.clone());
        let (reach, fetched) = (self.reach, self.fetched.clone());
        let opening = self
            .runtime
            .spawn(async move { open(&swarm, digest, &peers, &allowance, reach, &fetched).await });
        let mut opening = EndsWithCaller(opening);
        Box::pin(async move {
            let blob = (&mut opening.0)
                .await
                .map_err(|error| BlobError::Failed(error.to_string()))??;
            Ok(Arc::new(Open(blob)) as Arc<dyn ReadBlob>)
        })
    }

    fn create(&self) -> Pending<Box<dyn WriteBlob>> {
        if self.reach == Reach::Offered {
            let reason = "what is run for somebody else stores no blobs".to_owned();
            return Box::pin(async move { Err(BlobError::Failed(reason)) });
        }
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
    reach: Reach,
    fetched: &Fetched,
) -> Result<Blob, BlobError> {
    let may_read = match reach {
        Reach::Everything => true,
        Reach::Offered => swarm.serves(&digest) || fetched.has(&digest),
    };
    if may_read && let Some(blob) = open_here(swarm, digest).await? {
        return Ok(blob);
    }
    // To a run that may not read what is here it is as if it were not: somebody else has to serve it.
    let blob = fetch(swarm, digest, peers, allowance, reach).await?;
    fetched.note(digest);
    Ok(blob)
}

/// A blob that is wholly here.
async fn open_here(swarm: &Swarm, digest: Digest) -> Result<Option<Blob>, BlobError> {
    match swarm.open_blob(&digest).await {
        Err(skep_swarm::BlobError::NotHere { .. } | skep_swarm::BlobError::Partial { .. }) => {
            Ok(None)
        }
        Err(error) => Err(BlobError::Failed(error.to_string())),
        Ok(blob) => Ok(Some(blob)),
    }
}

/// A blob that some other node has proved to have, with what was lacking of it fetched.
async fn fetch(
    swarm: &Swarm,
    digest: Digest,
    peers: &[ProviderAddr],
    allowance: &Allowance,
    reach: Reach,
) -> Result<Blob, BlobError> {
    // What a guest asks for it may have made of its input, and of a job's nothing is in the log.
    let is_told = reach == Reach::Everything;
    let found = swarm.find_blob(&digest, peers).await.map_err(|error| {
        match is_told {
            true => tracing::info!(%error, "a guest asked for a blob that was not found"),
            false => tracing::info!("a job's guest asked for a blob that was not found"),
        }
        BlobError::NotFound(digest)
    })?;
    allowance.take(found.size)?;
    let (blob, report) = swarm
        .fetch_blob(&digest, found.size, &found.providers, None)
        .await
        .map_err(|error| BlobError::Failed(error.to_string()))?;
    let bytes = report.bytes_fetched;
    match is_told {
        true => tracing::info!(%digest, bytes, "fetched a blob for a guest"),
        false => tracing::info!(bytes, "fetched a blob for a job's guest"),
    }
    Ok(blob)
}

/// Removes what was being written in this folder when a process before this one was ended. Nobody may be
/// writing there yet.
pub fn clear_drafts(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
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

fn failed(error: io::Error) -> BlobError {
    BlobError::Failed(format!("the node's disk: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn of_drafts_nothing_is_left_but_their_folder() {
        let home = tempfile::tempdir().unwrap();
        let drafts = home.path().join("drafts");
        clear_drafts(&drafts).unwrap();
        assert!(!drafts.exists());
        fs::create_dir_all(drafts.join("of a job")).unwrap();
        fs::write(drafts.join("of a job").join("input"), "a record").unwrap();
        fs::write(drafts.join("blob"), "half of it").unwrap();
        clear_drafts(&drafts).unwrap();
        assert_eq!(fs::read_dir(&drafts).unwrap().count(), 0);
    }
}
