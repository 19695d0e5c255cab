//! Content of the swarm, named by its digest.

use crate::bindings::imports::skep::swarm::blobs as wit;
use crate::{Error, Result};
use std::io;

/// How much is asked for in one call when everything is read.
const PIECE: u32 = 256 * 1024;

/// Content that is on this node and has been checked against its digest.
///
/// [`io::Read`] and [`io::Seek`] read it from the beginning; [`Blob::read_at`] anywhere.
pub struct Blob {
    handle: wit::Blob,
    position: u64,
}

impl Blob {
    /// Opens the content with this digest, fetching it from peers where the node lacks it.
    ///
    /// # Errors
    /// [`Error::Denied`] without the grant `swarm-read`; [`Error::NotFound`] where no peer that
    /// was asked has it; [`Error::OverQuota`] where it is larger than what the run may still
    /// store.
    pub fn open(digest: &str) -> Result<Self> {
        Ok(Blob {
            handle: wit::Blob::open(digest)?,
            position: 0,
        })
    }

    #[cfg(feature = "async")]
    pub(crate) fn handle(&self) -> &wit::Blob {
        &self.handle
    }

    /// The digest it was opened by.
    pub fn digest(&self) -> String {
        self.handle.digest()
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.handle.size()
    }

    /// At most `length` bytes from `offset`; fewer at the end, and none beyond it.
    pub fn read_at(&self, offset: u64, length: u32) -> Result<Vec<u8>> {
        Ok(self.handle.read(offset, length)?)
    }
}

impl io::Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX).min(PIECE);
        let data = self.read_at(self.position, length)?;
        let count = data.len().min(buffer.len());
        buffer[..count].copy_from_slice(&data[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl io::Seek for Blob {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let position = match to {
            io::SeekFrom::Start(offset) => Some(offset),
            io::SeekFrom::End(offset) => self.size().checked_add_signed(offset),
            io::SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position =
            position.ok_or_else(|| Error::invalid("seek to before the start of a blob"))?;
        Ok(self.position)
    }
}

/// Content being written. Until [`BlobWriter::finish`] it exists for nobody.
pub struct BlobWriter(wit::BlobWriter);

impl BlobWriter {
    /// Begins a new, empty blob.
    ///
    /// # Errors
    /// [`Error::Denied`] without the grant `swarm-write`.
    pub fn create() -> Result<Self> {
        Ok(BlobWriter(wit::BlobWriter::create()?))
    }

    /// Seals the content, offers it to the swarm and returns its digest. Dropping the writer
    /// instead discards what was written.
    pub fn finish(self) -> Result<String> {
        Ok(wit::BlobWriter::finish(self.0)?)
    }
}

impl io::Write for BlobWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let piece = &data[..data.len().min(PIECE as usize)];
        self.0.append(piece).map_err(Error::from)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
