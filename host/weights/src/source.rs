//! Where the bytes of weights lie: a mapped file, or memory.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

/// Bytes at either side that come into memory with what is read, because systems map a page together
/// with those around it.
#[cfg(unix)]
const AROUND: usize = 64 << 10;

/// A read-only run of bytes that tensors share.
#[derive(Clone)]
pub(crate) struct Source {
    path: Arc<Path>,
    bytes: Arc<Bytes>,
}

enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Source {
    /// Maps the regular file at `path`.
    pub fn map(path: &Path) -> std::io::Result<Self> {
        let file = open_regular(path)?;
        // SAFETY: the map is only ever read as bytes, any of which are valid. Somebody who
        // truncates the file while it is mapped can stop the process; model files lie in the
        // node's own store, where nothing is changed in place.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Self {
            path: path.into(),
            bytes: Arc::new(Bytes::Mapped(map)),
        })
    }

    /// Bytes in memory, which errors call `name`.
    pub fn owned(name: &str, bytes: Vec<u8>) -> Self {
        Self {
            path: PathBuf::from(name).into(),
            bytes: Arc::new(Bytes::Owned(bytes)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn bytes(&self) -> &[u8] {
        match &*self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// Gives the memory that pages of `range` take back to the system, where a file backs them: who
    /// has made something else of these bytes needs them no more. They are read from the file again
    /// by whoever asks for them after all.
    pub fn release(&self, range: &Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &*self.bytes {
            let start = range.start.saturating_sub(AROUND);
            let end = range.end.saturating_add(AROUND).min(map.len());
            // SAFETY: the map is of a file and shared, so that a page that is dropped, a neighbour's
            // too, is read from there again with the bytes that it had.
            let advised = unsafe {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                map.unchecked_advise_range(advice, start, end.saturating_sub(start))
            };
            // A system that does not take advice keeps the pages, which costs only memory.
            drop(advised);
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// The bytes in `range`, which the parsers have checked to lie inside.
    pub fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.bytes().get(range.clone()).unwrap_or_default()
    }
}

/// Reads a whole regular file, unless it has more than `limit` bytes, of which one is read
/// beyond the limit: the caller sees a result longer than it asked for.
pub(crate) fn read_up_to(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open_regular(path)?
        .take(limit + 1)
        .read_to_end(&mut content)?;
    Ok(content)
}

/// Opening a pipe would wait for somebody to write to it, so look first.
fn open_regular(path: &Path) -> std::io::Result<File> {
    let refused = || std::io::Error::other("it is not a regular file");
    if !std::fs::metadata(path)?.is_file() {
        return Err(refused());
    }
    let file = File::open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(refused()),
    }
}
