//! One request to one provider: some ranges of one blob, verified as they arrive and stored.
//!
//! Each group of 16 KiB is checked against the blob's BLAKE3 tree before it is handed to the
//! store, and the size that the provider announces is compared with the signed one before
//! anything is stored at all. The store keeps every verified group, so whatever interrupts the
//! request, the next one asks only for the rest.

use std::num::NonZeroU64;
use std::time::Duration;

use bao_tree::io::BaoContentItem;
use iroh::endpoint::{Connection, VarInt};
use iroh_blobs::api::Store;
use iroh_blobs::get::fsm::{
    self, AtBlobHeaderNextError, BlobContentNext, ConnectedNext, DecodeError,
};
use iroh_blobs::protocol::{ChunkRanges, ERR_LIMIT, ERR_PERMISSION, GetRequest};
use skep_registry::Digest;
use tokio::time::Instant;

use crate::fault::{ProviderFault, explain};
use crate::ids::to_hash;

/// The size of the groups in which a blob is verified, in bytes.
pub(crate) const GROUP: u64 = 16 * 1024;

/// How many verified items may wait for the store: 8 MiB of them, so that the network and the
/// disk need not take turns.
const QUEUE: usize = 512;

/// Some ranges of one blob.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) digest: Digest,
    /// The size of the whole blob, in bytes, as signed by the publisher.
    pub(crate) size: u64,
    pub(crate) ranges: ChunkRanges,
}

/// Why a piece did not arrive.
#[derive(Debug)]
pub(crate) enum PieceError {
    /// The provider's fault: ask another.
    Provider(ProviderFault),
    /// Our own store failed: no provider can help.
    Local(String),
}

impl From<ProviderFault> for PieceError {
    fn from(fault: ProviderFault) -> Self {
        Self::Provider(fault)
    }
}

/// Where verified content goes.
pub(crate) trait Sink: Send {
    /// Takes one verified item: a pair of hashes or a group of data.
    fn put(&mut self, item: BaoContentItem) -> impl Future<Output = Result<(), String>> + Send;
    /// Everything has been put; waits until it is stored.
    fn finish(self) -> impl Future<Output = Result<(), String>> + Send;
}

/// Stores verified content in the blob store.
pub(crate) struct StoreSink {
    handle: iroh_blobs::api::blobs::ImportBaoHandle,
}

impl StoreSink {
    async fn open(store: &Store, digest: &Digest, size: NonZeroU64) -> Result<Self, String> {
        let handle = store
            .import_bao(to_hash(digest), size, QUEUE)
            .await
            .map_err(|e| explain(&e))?;
        Ok(Self { handle })
    }
}

impl Sink for StoreSink {
    async fn put(&mut self, item: BaoContentItem) -> Result<(), String> {
        self.handle.tx.send(item).await.map_err(|e| explain(&e))
    }

    async fn finish(self) -> Result<(), String> {
        drop(self.handle.tx);
        match self.handle.rx.await {
            Ok(stored) => stored.map_err(|e| explain(&e)),
            Err(e) => Err(explain(&e)),
        }
    }
}

/// Fetches `piece` over `connection` into `store`. `arrived` hears the length of every verified
/// group, in bytes.
pub(crate) async fn get_piece(
    connection: &Connection,
    store: &Store,
    piece: &Piece,
    stall: Duration,
    arrived: impl FnMut(u64) + Send,
) -> Result<(), PieceError> {
    let Some(size) = NonZeroU64::new(piece.size) else {
        return Ok(()); // the empty blob is everywhere
    };
    get_into(
        connection,
        piece,
        stall,
        || StoreSink::open(store, &piece.digest, size),
        arrived,
    )
    .await
}

/// Fetches `piece` over `connection` into the sink that `open` makes once the announced size has
/// been accepted.
pub(crate) async fn get_into<S, O, F>(
    connection: &Connection,
    piece: &Piece,
    stall: Duration,
    open: O,
    mut arrived: impl FnMut(u64) + Send,
) -> Result<(), PieceError>
where
    S: Sink,
    O: FnOnce() -> F + Send,
    F: Future<Output = Result<S, String>> + Send,
{
    let digest = piece.digest;
    let stalled = || ProviderFault::Stalled {
        digest,
        after: stall,
    };
    let request = GetRequest::blob_ranges(to_hash(&digest), piece.ranges.clone());
    let start = async {
        let connected = fsm::start(connection.clone(), request, Default::default())
            .next()
            .await
            .map_err(|e| ProviderFault::Closed {
                reason: explain(&e),
            })?;
        let next = connected.next().await.map_err(|e| ProviderFault::Closed {
            reason: explain(&e),
        })?;
        match next {
            ConnectedNext::StartRoot(root) => root
                .next()
                .next()
                .await
                .map(Some)
                .map_err(|e| header_fault(digest, &e)),
            ConnectedNext::StartChild(_) | ConnectedNext::Closing(_) => Ok(None),
        }
    };
    let started = tokio::time::timeout(stall, start)
        .await
        .map_err(|_| stalled())??;
    let Some((mut content, claimed)) = started else {
        return Ok(()); // nothing was asked for
    };
    if claimed != piece.size {
        return Err(ProviderFault::WrongSize {
            digest,
            claimed,
            signed: piece.size,
        }
        .into());
    }
    let mut sink = open().await.map_err(PieceError::Local)?;

    // One timer for the whole piece, pushed back when it fires, instead of one for each group.
    let deadline = tokio::time::sleep(stall);
    tokio::pin!(deadline);
    let mut last = Instant::now();
    let mut received = 0;
    let outcome = loop {
        let next = {
            // Not cancellation safe, so it is kept while the timer is pushed back.
            let next = content.next();
            tokio::pin!(next);
            loop {
                tokio::select! {
                    biased;
                    next = &mut next => break Some(next),
                    () = &mut deadline => {
                        if last.elapsed() >= stall {
                            break None;
                        }
                        deadline.as_mut().reset(last + stall);
                    }
                }
            }
        };
        match next {
            None => break Err(stalled().into()),
            Some(BlobContentNext::Done(end)) => break Ok(end),
            Some(BlobContentNext::More((_, Err(e)))) => {
                break Err(content_fault(digest, received, &e).into());
            }
            Some(BlobContentNext::More((rest, Ok(item)))) => {
                if let BaoContentItem::Leaf(leaf) = &item {
                    let len = leaf.data.len() as u64;
                    received += len;
                    arrived(len);
                }
                if let Err(reason) = sink.put(item).await {
                    break Err(PieceError::Local(reason));
                }
                // After the store took it: a slow disk is not the provider's fault.
                last = Instant::now();
                content = rest;
            }
        }
    };
    // Also after a fault: what was verified is stored before anybody asks what is missing.
    sink.finish().await.map_err(PieceError::Local)?;
    // Everything asked for is here and verified; how and when the stream ends changes nothing.
    outcome.map(drop)
}

pub(crate) fn header_fault(digest: Digest, error: &AtBlobHeaderNextError) -> ProviderFault {
    match error {
        AtBlobHeaderNextError::NotFound { .. } => ProviderFault::NotThere { digest },
        AtBlobHeaderNextError::Read { source, .. } => match reset_code(source) {
            Some(code) if code == ERR_PERMISSION => ProviderFault::NotOffered { digest },
            Some(code) if code == ERR_LIMIT => ProviderFault::Busy,
            // A provider that cannot read the blob, or has none, resets the stream.
            Some(_) => ProviderFault::NotThere { digest },
            None => ProviderFault::Closed {
                reason: explain(source),
            },
        },
    }
}

pub(crate) fn content_fault(digest: Digest, received: u64, error: &DecodeError) -> ProviderFault {
    match error {
        DecodeError::ParentHashMismatch { .. } | DecodeError::LeafHashMismatch { .. } => {
            ProviderFault::WrongContent { digest }
        }
        DecodeError::ChunkNotFound { .. }
        | DecodeError::ParentNotFound { .. }
        | DecodeError::LeafNotFound { .. } => ProviderFault::Truncated { digest, received },
        DecodeError::Read { source, .. } => {
            use std::io::ErrorKind::{InvalidData, UnexpectedEof};
            let ended = matches!(source.kind(), UnexpectedEof | InvalidData);
            if ended || reset_code(source).is_some() {
                ProviderFault::Truncated { digest, received }
            } else {
                ProviderFault::Closed {
                    reason: explain(source),
                }
            }
        }
        other => ProviderFault::Closed {
            reason: explain(other),
        },
    }
}

/// The code with which the other side reset the stream, if that is what happened.
fn reset_code(error: &std::io::Error) -> Option<VarInt> {
    use iroh::endpoint::ReadError;
    match error.get_ref()?.downcast_ref::<ReadError>()? {
        ReadError::Reset(code) => Some(*code),
        _ => None,
    }
}
