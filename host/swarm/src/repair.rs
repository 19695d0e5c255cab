//! Mending a blob whose bits changed on the disk.
//!
//! The store believes that a complete blob is complete, and ignores what is written to it. So the
//! damaged groups, and the hash pairs above them, are fetched again from a provider, verified like
//! any other transfer, and written in place into the store's own files, which it reads at once.
//! Nothing is written that was not verified, so mending can never make a blob worse.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::time::Duration;

use bao_tree::io::BaoContentItem;
use bao_tree::{BaoTree, BlockSize};
use iroh::endpoint::Connection;
use skep_registry::Digest;

use crate::blobs::Blobs;
use crate::transfer::{Piece, PieceError, Sink, get_into};

/// The store's groups: 2⁴ chunks of 1 KiB.
const BLOCK: BlockSize = BlockSize::from_chunk_log(4);

/// Fetches what is `damaged` of a blob over `connection` and puts it in its place. `arrived` hears the length of every
/// verified group, in bytes. That all of the blob is right now is for whoever reads it once more to say.
pub(crate) async fn mend(
    blobs: &Blobs,
    connection: &Connection,
    damaged: &Piece,
    stall: Duration,
    arrived: impl FnMut(u64) + Send,
) -> Result<(), PieceError> {
    if damaged.ranges.is_empty() {
        return Ok(());
    }
    let open = || async { InPlace::open(blobs, &damaged.digest, damaged.size) };
    get_into(connection, damaged, stall, open, arrived).await
}

/// Writes verified items into the store's files.
struct InPlace {
    tree: BaoTree,
    data: File,
    outboard: Option<File>,
}

impl InPlace {
    fn open(blobs: &Blobs, digest: &Digest, size: u64) -> Result<Self, String> {
        let tree = BaoTree::new(size, BLOCK);
        let (data, outboard) = blobs.files(digest);
        let open = |path| {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map_err(|e| e.to_string())
        };
        Ok(Self {
            tree,
            data: open(data)?,
            outboard: (tree.outboard_size() > 0)
                .then(|| open(outboard))
                .transpose()?,
        })
    }

    fn write(&mut self, item: &BaoContentItem) -> std::io::Result<()> {
        match item {
            BaoContentItem::Parent(parent) => {
                let at = self.tree.pre_order_offset(parent.node);
                if let (Some(at), Some(file)) = (at, self.outboard.as_mut()) {
                    let mut pair = [0; 64];
                    pair[..32].copy_from_slice(parent.pair.0.as_bytes());
                    pair[32..].copy_from_slice(parent.pair.1.as_bytes());
                    file.seek(SeekFrom::Start(at * 64))?;
                    file.write_all(&pair)?;
                }
                Ok(())
            }
            BaoContentItem::Leaf(leaf) => {
                self.data.seek(SeekFrom::Start(leaf.offset))?;
                self.data.write_all(&leaf.data)
            }
        }
    }
}

impl Sink for InPlace {
    async fn put(&mut self, item: BaoContentItem) -> Result<(), String> {
        self.write(&item).map_err(|e| e.to_string())
    }

    async fn finish(self) -> Result<(), String> {
        let sync = |file: &File| file.sync_all().map_err(|e| e.to_string());
        self.outboard.as_ref().map_or(Ok(()), sync)?;
        sync(&self.data)
    }
}
