//! Blobs on disk: taking content in, reading it back verified, writing it out.
//!
//! Whatever leaves the store is checked against its BLAKE3 tree on the way, so a bit that flipped
//! on the disk is reported and never passed on. Damage is also remembered, so that the next fetch
//! mends it (`repair`).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bao_tree::io::EncodeError;
use bao_tree::{ChunkNum, ChunkRanges};
use bytes::{Bytes, BytesMut};
use iroh_blobs::api::blobs::{AddPathOptions, BlobStatus, EncodedItem, ImportMode};
use iroh_blobs::api::{Store, TempTag};
use iroh_blobs::store::GcConfig;
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::store::fs::options::{BatchOptions, InlineOptions, Options, PathOptions};
use iroh_blobs::{BlobFormat, HashAndFormat};
use n0_future::StreamExt;
use skep_registry::Digest;

use crate::disk::Layout;
use crate::error::{BlobError, ExportError, ImportError, OpenError};
use crate::fault::explain;
use crate::ids::to_hash;
use crate::transfer::GROUP;

/// How many chunks of 1 KiB make a group of 16 KiB.
const GROUP_CHUNKS: u64 = GROUP / 1024;

/// How much of a blob is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nothing.
    Absent,
    /// A part of it, which a fetch goes on from.
    Partial,
    /// All of it.
    Complete {
        /// Its size, in bytes.
        size: u64,
    },
}

/// The blob store.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    pub(crate) store: Store,
    paths: PathOptions,
    damage_dir: PathBuf,
    damaged: Arc<Mutex<HashSet<Digest>>>,
}

impl Blobs {
    pub(crate) async fn open(
        layout: &Layout,
        sweep: std::time::Duration,
    ) -> Result<Self, OpenError> {
        let paths = PathOptions::new(&layout.blobs);
        let options = Options {
            path: paths.clone(),
            // Everything in files of its own: then whatever is damaged can be mended in place.
            inline: InlineOptions::NO_INLINE,
            batch: BatchOptions::default(),
            gc: Some(GcConfig {
                interval: sweep,
                add_protected: None,
            }),
        };
        let store = FsStore::load_with_opts(layout.blobs.join("blobs.db"), options)
            .await
            .map_err(|e| OpenError::Store {
                dir: layout.blobs.clone(),
                reason: explain(&e),
            })?;
        let mut damaged = HashSet::new();
        let listing = fs::read_dir(&layout.damaged).map_err(|source| OpenError::Folder {
            path: layout.damaged.clone(),
            source,
        })?;
        for entry in listing.flatten() {
            if let Some(digest) = entry.file_name().to_str().and_then(|n| n.parse().ok()) {
                damaged.insert(digest);
            }
        }
        Ok(Self {
            store: store.into(),
            paths,
            damage_dir: layout.damaged.clone(),
            damaged: Arc::new(Mutex::new(damaged)),
        })
    }

    /// Takes in a copy of the file and keeps it until [`forget`](Self::forget).
    pub(crate) async fn import_path(&self, path: &Path) -> Result<(Digest, u64), ImportError> {
        let read = |source| ImportError::Read {
            path: path.to_owned(),
            source,
        };
        let path = path.canonicalize().map_err(read)?;
        let meta = fs::metadata(&path).map_err(read)?;
        if !meta.is_file() {
            return Err(ImportError::NotAFile { path });
        }
        let options = AddPathOptions {
            path,
            format: BlobFormat::Raw,
            mode: ImportMode::Copy,
        };
        let tag = self
            .store
            .blobs()
            .add_path_with_opts(options)
            .temp_tag()
            .await;
        self.keep_import(tag.map_err(|e| explain(&e))).await
    }

    /// As [`import_path`](Self::import_path), from memory.
    pub(crate) async fn import_bytes(&self, bytes: Bytes) -> Result<(Digest, u64), ImportError> {
        let tag = self.store.blobs().add_bytes(bytes).temp_tag().await;
        self.keep_import(tag.map_err(|e| explain(&e))).await
    }

    async fn keep_import(
        &self,
        tag: Result<TempTag, String>,
    ) -> Result<(Digest, u64), ImportError> {
        let tag = tag.map_err(|reason| ImportError::Store { reason })?;
        let digest = crate::ids::to_digest(&tag.hash());
        self.keep("import", &digest)
            .await
            .map_err(|reason| ImportError::Store { reason })?;
        if self.is_damaged(&digest) {
            self.recheck(&digest).await?;
        }
        match self.presence(&digest).await? {
            Presence::Complete { size } => Ok((digest, size)),
            Presence::Absent | Presence::Partial => Err(ImportError::Store {
                reason: format!("blob {digest} was stored and is not there"),
            }),
        }
    }

    /// Keeps a blob, whole or in part, for `owner`, until it is released.
    pub(crate) async fn keep(&self, owner: &str, digest: &Digest) -> Result<(), String> {
        let value = HashAndFormat::raw(to_hash(digest));
        self.store
            .tags()
            .set(format!("{owner}/{digest}"), value)
            .await
            .map_err(|e| explain(&e))
    }

    /// Ends what [`keep`](Self::keep) began. The next sweep removes a blob that nobody keeps.
    pub(crate) async fn release(&self, owner: &str, digest: &Digest) -> Result<(), String> {
        self.store
            .tags()
            .delete(format!("{owner}/{digest}"))
            .await
            .map(|_| ())
            .map_err(|e| explain(&e))
    }

    /// Keeps a blob, whole or in part, for as long as what this returns is there.
    pub(crate) async fn hold(&self, digest: &Digest) -> Result<TempTag, String> {
        let value = HashAndFormat::raw(to_hash(digest));
        let tag = self.store.tags().temp_tag(value).await;
        tag.map_err(|e| explain(&e))
    }

    pub(crate) async fn presence(&self, digest: &Digest) -> Result<Presence, BlobError> {
        match self.store.blobs().status(to_hash(digest)).await {
            Ok(BlobStatus::NotFound) => Ok(Presence::Absent),
            Ok(BlobStatus::Partial { .. }) => Ok(Presence::Partial),
            Ok(BlobStatus::Complete { size }) => Ok(Presence::Complete { size }),
            Err(e) => Err(BlobError::Store {
                digest: *digest,
                reason: explain(&e),
            }),
        }
    }

    /// The size of a blob that is wholly here.
    pub(crate) async fn size(&self, digest: &Digest) -> Result<u64, BlobError> {
        match self.presence(digest).await? {
            Presence::Complete { size } => Ok(size),
            Presence::Partial => Err(BlobError::Partial { digest: *digest }),
            Presence::Absent => Err(BlobError::NotHere { digest: *digest }),
        }
    }

    /// The chunks of a blob that are here and those of `size` bytes that are not, and the number
    /// of bytes that are here.
    pub(crate) async fn missing(
        &self,
        digest: &Digest,
        size: u64,
    ) -> Result<(ChunkRanges, u64), BlobError> {
        let all = ChunkRanges::from(..ChunkNum::chunks(size));
        let here = match self.presence(digest).await? {
            Presence::Absent => return Ok((all, 0)),
            Presence::Complete { .. } => return Ok((ChunkRanges::empty(), size)),
            Presence::Partial => self.store.blobs().observe(to_hash(digest)).await,
        };
        let here = here.map_err(|e| BlobError::Store {
            digest: *digest,
            reason: explain(&e),
        })?;
        Ok((&all - &here.ranges, here.total_bytes().min(size)))
    }

    /// Reads and verifies `len` bytes from `offset` on.
    pub(crate) async fn read_at(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, BlobError> {
        let end = offset.saturating_add(len as u64);
        if end > size {
            return Err(BlobError::Range {
                digest: *digest,
                offset,
                end,
                size,
            });
        }
        if len == 0 {
            return Ok(Bytes::new());
        }
        let first = offset / GROUP * GROUP_CHUNKS;
        let last = end.div_ceil(GROUP) * GROUP_CHUNKS;
        let ranges = ChunkRanges::from(ChunkNum(first)..ChunkNum(last));
        let mut out = BytesMut::with_capacity(len);
        let mut stream = self
            .store
            .blobs()
            .export_bao(to_hash(digest), ranges)
            .stream();
        while let Some(item) = stream.next().await {
            match item {
                EncodedItem::Leaf(leaf) => {
                    let data = &leaf.data;
                    let from = offset.saturating_sub(leaf.offset).min(data.len() as u64);
                    let to = end.saturating_sub(leaf.offset).min(data.len() as u64);
                    // Both are at most the length of the leaf.
                    out.extend_from_slice(&data[from as usize..to as usize]);
                }
                EncodedItem::Error(e) => return Err(self.read_error(digest, &e, offset).await),
                EncodedItem::Size(_) | EncodedItem::Parent(_) | EncodedItem::Done => {}
            }
        }
        if out.len() == len {
            Ok(out.freeze())
        } else {
            Err(self.damage(digest, offset).await)
        }
    }

    async fn read_error(&self, digest: &Digest, error: &EncodeError, near: u64) -> BlobError {
        match self.size(digest).await {
            Ok(_) => {}
            Err(e) => return e,
        }
        match error {
            EncodeError::LeafHashMismatch(chunk) => self.damage(digest, chunk.to_bytes()).await,
            EncodeError::Io(e) if !is_short(e) => BlobError::Store {
                digest: *digest,
                reason: explain(&e),
            },
            _ => self.damage(digest, near / GROUP * GROUP).await,
        }
    }

    /// Remembers that a blob is damaged.
    pub(crate) async fn damage(&self, digest: &Digest, offset: u64) -> BlobError {
        self.lock_damaged().insert(*digest);
        // When the marker cannot be written, the damage is found again after the next start.
        if let Err(e) = File::create(self.damage_dir.join(digest.to_string())) {
            tracing::warn!(%digest, "cannot note the damage: {e}");
        }
        tracing::warn!(%digest, offset, "blob is damaged on disk");
        BlobError::Corrupt {
            digest: *digest,
            offset,
        }
    }

    pub(crate) fn is_damaged(&self, digest: &Digest) -> bool {
        self.lock_damaged().contains(digest)
    }

    fn lock_damaged(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the whole blob and compares it with its digest; forgets earlier damage if all is well.
    pub(crate) async fn recheck(&self, digest: &Digest) -> Result<(), BlobError> {
        let bad = self.find_damage(digest).await?;
        if let Some(first) = bad.boundaries().first() {
            return Err(self.damage(digest, first.to_bytes()).await);
        }
        if self.lock_damaged().remove(digest) {
            let _ = fs::remove_file(self.damage_dir.join(digest.to_string()));
        }
        Ok(())
    }

    /// The chunks of a blob that are not what the digest says.
    pub(crate) async fn find_damage(&self, digest: &Digest) -> Result<ChunkRanges, BlobError> {
        let size = self.size(digest).await?;
        let total = ChunkNum::chunks(size);
        let mut bad = ChunkRanges::empty();
        let mut at = ChunkNum(0);
        'rest: while at < total && size > 0 {
            let rest = ChunkRanges::from(at..total);
            let mut stream = self
                .store
                .blobs()
                .export_bao(to_hash(digest), rest)
                .stream();
            while let Some(item) = stream.next().await {
                match item {
                    EncodedItem::Leaf(leaf) => {
                        at = ChunkNum::chunks(leaf.offset + leaf.data.len() as u64);
                    }
                    EncodedItem::Error(EncodeError::LeafHashMismatch(chunk)) => {
                        let end = ChunkNum((chunk.0 / GROUP_CHUNKS + 1) * GROUP_CHUNKS);
                        bad |= ChunkRanges::from(chunk..end.min(total));
                        at = end;
                        continue 'rest;
                    }
                    EncodedItem::Error(EncodeError::ParentHashMismatch(node)) => {
                        let below = node.chunk_range();
                        let start = below.start.max(at);
                        bad |= ChunkRanges::from(start..below.end.min(total));
                        at = below.end;
                        continue 'rest;
                    }
                    EncodedItem::Error(EncodeError::Io(e)) if !is_short(&e) => {
                        return Err(BlobError::Store {
                            digest: *digest,
                            reason: explain(&e),
                        });
                    }
                    EncodedItem::Error(_) => {
                        bad |= ChunkRanges::from(at..total);
                        return Ok(bad);
                    }
                    EncodedItem::Size(_) | EncodedItem::Parent(_) | EncodedItem::Done => {}
                }
            }
            if at < total {
                bad |= ChunkRanges::from(at..total);
                break;
            }
        }
        Ok(bad)
    }

    /// Writes a blob to a new file, as a copy of its own, and checks the copy.
    pub(crate) async fn export(&self, digest: &Digest, path: &Path) -> Result<u64, ExportError> {
        let write = |source| ExportError::Write {
            path: path.to_owned(),
            source,
        };
        let target = std::path::absolute(path).map_err(write)?;
        if target.try_exists().map_err(write)? {
            return Err(ExportError::Exists { path: target });
        }
        let size = self.size(digest).await?;
        let mut beside = target.clone().into_os_string();
        beside.push(format!(".{}.part", digest.fmt_short()));
        let beside = PathBuf::from(beside);
        let written = self
            .store
            .blobs()
            .export(to_hash(digest), &beside)
            .finish()
            .await;
        let checked = match written {
            Ok(_) => {
                let file = beside.clone();
                tokio::task::spawn_blocking(move || hash_and_flush(&file))
                    .await
                    .unwrap_or_else(|e| Err(io::Error::other(e)))
                    .map_err(write)
            }
            Err(e) => Err(write(io::Error::other(explain(&e)))),
        };
        let found = match checked {
            Ok(found) => found,
            Err(e) => {
                let _ = fs::remove_file(&beside);
                // A data file that was cut short fails here already.
                return match self.recheck(digest).await {
                    Err(damage @ BlobError::Corrupt { .. }) => Err(damage.into()),
                    Ok(()) | Err(_) => Err(e),
                };
            }
        };
        if found != *digest {
            let _ = fs::remove_file(&beside);
            return match self.recheck(digest).await {
                Err(e) => Err(e.into()),
                Ok(()) => Err(write(io::Error::other("the copy differs from the blob"))),
            };
        }
        // A hard link fails where a rename would silently replace what came to be there meanwhile.
        let placed = fs::hard_link(&beside, &target).or_else(|_| fs::rename(&beside, &target));
        let _ = fs::remove_file(&beside);
        match placed {
            Ok(()) => Ok(size),
            Err(e) => Err(write(e)),
        }
    }

    /// The files in which the store keeps a blob and its hash tree.
    pub(crate) fn files(&self, digest: &Digest) -> (PathBuf, PathBuf) {
        let hash = to_hash(digest);
        (self.paths.data_path(&hash), self.paths.outboard_path(&hash))
    }
}

/// A file that ends too early, as opposed to one that cannot be read.
fn is_short(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound | io::ErrorKind::InvalidData
    )
}

/// The digest of a file, which is on disk afterwards.
fn hash_and_flush(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        };
    }
    file.sync_all()?;
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}
