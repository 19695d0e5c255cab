//! The blob store of a node and the peers behind it, as guests see them.
//!
//! What a guest opens and the node lacks is fetched by the node's own threads, not by the
//! guest's, and is kept while somebody has it open. Nobody else is served with it.
//!
//! # What it must never do
//!
//! - Store anything for a guest that is run for somebody else, or show it what the owner keeps and offers
//!   to nobody.
//! - Tell such a guest, and with it whoever it is run for, what this node's store says of its disk.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use skep_registry::Digest;
use skep_sandbox::{Allowance, BlobError, Blobs, Pending, ReadBlob, WriteBlob};
use skep_swarm::{Blob, FetchError, ProviderAddr, Swarm};
use tempfile::NamedTempFile;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// What is told of a fault of the store to whoever is no owner of it.
const FAULT: &str = "the node's blob store failed; its owner can see why";

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
        let broke = move |reason: String| failed_here(reach, &digest, &reason);
        let opening = self
            .runtime
            .spawn(async move { open(&swarm, digest, &peers, &allowance, reach, &fetched).await });
        let mut opening = EndsWithCaller(opening);
        Box::pin(async move {
            let opened = (&mut opening.0).await;
            let blob = opened.map_err(|error| broke(error.to_string()))??;
            Ok(Arc::new(Open { blob, reach }) as Arc<dyn ReadBlob>)
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
    if may_read && let Some(blob) = open_here(swarm, digest, reach).await? {
        return Ok(blob);
    }
    // To a run that may not read what is here it is as if it were not: somebody else has to serve it.
    let blob = fetch(swarm, digest, peers, allowance, reach).await?;
    fetched.note(digest);
    Ok(blob)
}

/// A blob that is wholly here.
async fn open_here(swarm: &Swarm, digest: Digest, reach: Reach) -> Result<Option<Blob>, BlobError> {
    match swarm.open_blob(&digest).await {
        Err(skep_swarm::BlobError::NotHere { .. } | skep_swarm::BlobError::Partial { .. }) => {
            Ok(None)
        }
        Err(error) => Err(unread(reach, &digest, &error)),
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
        .map_err(|error| unfetched(reach, &digest, &error))?;
    let bytes = report.bytes_fetched;
    match is_told {
        true => tracing::info!(%digest, bytes, "fetched a blob for a guest"),
        false => tracing::info!(bytes, "fetched a blob for a job's guest"),
    }
    Ok(blob)
}

/// What a guest is told of a blob that cannot be fetched.
fn unfetched(reach: Reach, digest: &Digest, error: &FetchError) -> BlobError {
    match error {
        FetchError::Store { .. } => failed_here(reach, digest, &error.to_string()),
        FetchError::Blob(error) => unread(reach, digest, error),
        _ => BlobError::Failed(error.to_string()),
    }
}

/// What a guest is told of a blob that cannot be read.
fn unread(reach: Reach, digest: &Digest, error: &skep_swarm::BlobError) -> BlobError {
    use skep_swarm::BlobError as Unread;
    match error {
        Unread::Store { .. } | Unread::Corrupt { .. } => {
            failed_here(reach, digest, &error.to_string())
        }
        _ => BlobError::Failed(error.to_string()),
    }
}

/// What a guest is told of a fault of this node. Where it is run for somebody else that is no more than that there is
/// one, and the log of this node's owner has the rest.
fn failed_here(reach: Reach, digest: &Digest, reason: &str) -> BlobError {
    if reach == Reach::Everything {
        return BlobError::Failed(reason.to_owned());
    }
    let reason = without(digest, reason);
    tracing::warn!(reason, "the blob store failed under a job's guest");
    BlobError::Failed(FAULT.to_owned())
}

/// The reason without the blob that was asked for, which a job's guest may have made of its input.
fn without(digest: &Digest, reason: &str) -> String {
    reason.replace(&digest.to_string(), "(not named)")
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

struct Open {
    blob: Blob,
    reach: Reach,
}

impl ReadBlob for Open {
    fn size(&self) -> u64 {
        self.blob.size()
    }

    fn read(&self, offset: u64, length: u32) -> Pending<Bytes> {
        let (blob, reach) = (self.blob.clone(), self.reach);
        let left = blob.size().saturating_sub(offset);
        let length = usize::try_from(left.min(u64::from(length))).unwrap_or(usize::MAX);
        Box::pin(async move {
            let read = blob.read_at(offset, length).await;
            read.map_err(|error| unread(reach, &blob.digest(), &error))
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
    #[test]
    fn a_stranger_s_guest_hears_that_the_store_failed_and_only_the_owner_s_why() {
        let digest = Digest::of(b"made of somebody's input");
        let reason = format!("/home/somebody/.skep/swarm/blobs/data/{digest}.data: I/O error");
        let fetch = FetchError::Store {
            reason: reason.clone(),
        };
        let read = skep_swarm::BlobError::Store { digest, reason };
        let damaged = skep_swarm::BlobError::Corrupt { digest, offset: 0 };
        let told = |reach| {
            [
                unfetched(reach, &digest, &fetch),
                unread(reach, &digest, &read),
                unread(reach, &digest, &damaged),
            ]
            .map(|error| error.to_string())
        };
        assert_eq!(told(Reach::Offered), [FAULT; 3]);
        let owner = told(Reach::Everything);
        assert_eq!(
            owner,
            [fetch.to_string(), read.to_string(), damaged.to_string()]
        );
        assert!(owner[0].contains("/home/somebody"), "{owner:?}");
        // The log says where it lies, and nothing of what was asked for.
        let logged = without(&digest, &read.to_string());
        assert!(logged.contains("/home/somebody"), "{logged}");
        assert!(!logged.contains(&digest.to_string()), "{logged}");
        // What others' nodes did is no secret of this one.
        let nobody = FetchError::NoProviders { missing: 7 };
        let told = unfetched(Reach::Offered, &digest, &nobody).to_string();
        assert_eq!(told, nobody.to_string());
    }
}
