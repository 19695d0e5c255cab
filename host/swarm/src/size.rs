//! How large a blob is, as a provider proves it.
//!
//! The provider announces a size and sends the blob's last group with the hashes above it. The
//! hash tree of another size has another shape, in which these do not lead to the digest, so a
//! size that verifies is the blob's. The answer is one group and a few dozen hashes, whatever
//! size is claimed.

use std::time::Duration;

use bao_tree::io::BaoContentItem;
use iroh::endpoint::Connection;
use iroh_blobs::get::fsm::{self, BlobContentNext, ConnectedNext, DecodeError};
use iroh_blobs::protocol::{ChunkRanges, ChunkRangesExt, GetRequest};
use skep_registry::Digest;

use crate::fault::{ProviderFault, explain};
use crate::ids::to_hash;
use crate::transfer::{content_fault, header_fault};

/// A size beyond this is false without a look at its proof: no disk holds so much.
const LARGEST: u64 = 1 << 56;

/// Asks for the size of a blob, in bytes, and checks the answer, waiting no longer than `patience`.
pub(crate) async fn proved_size(
    connection: &Connection,
    digest: Digest,
    patience: Duration,
) -> Result<u64, ProviderFault> {
    tokio::time::timeout(patience, ask(connection, digest))
        .await
        .map_err(|_| ProviderFault::Stalled {
            digest,
            after: patience,
        })?
}

async fn ask(connection: &Connection, digest: Digest) -> Result<u64, ProviderFault> {
    let closed = |reason: String| ProviderFault::Closed { reason };
    let request = GetRequest::blob_ranges(to_hash(&digest), ChunkRanges::last_chunk());
    let next = fsm::start(connection.clone(), request, Default::default())
        .next()
        .await
        .map_err(|e| closed(explain(&e)))?
        .next()
        .await
        .map_err(|e| closed(explain(&e)))?;
    let ConnectedNext::StartRoot(root) = next else {
        return Err(closed("nothing was asked for".to_owned()));
    };
    let (mut content, claimed) = root
        .next()
        .next()
        .await
        .map_err(|e| header_fault(digest, &e))?;
    let lie = ProviderFault::FalseSize { digest, claimed };
    if claimed > LARGEST || (claimed == 0) != (digest == Digest::of(b"")) {
        return Err(lie);
    }
    let mut end = 0;
    loop {
        match content.next().await {
            BlobContentNext::More((rest, Ok(item))) => {
                if let BaoContentItem::Leaf(leaf) = item {
                    end = leaf.offset + leaf.data.len() as u64;
                }
                content = rest;
            }
            BlobContentNext::More((
                _,
                Err(DecodeError::ParentHashMismatch { .. } | DecodeError::LeafHashMismatch { .. }),
            )) => return Err(lie),
            BlobContentNext::More((_, Err(e))) => return Err(content_fault(digest, end, &e)),
            BlobContentNext::Done(_) if end == claimed => return Ok(claimed),
            BlobContentNext::Done(_) => return Err(lie),
        }
    }
}
