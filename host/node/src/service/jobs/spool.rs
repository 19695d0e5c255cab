//! What comes back of a shard, as it comes: small ones are kept in memory, and all others in files, so that a
//! provider that says much, or says it slowly, takes no memory here.
//!
//! Files lie with the job's other outputs, under names that are no digests, and are gone with whoever
//! gathers them.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use skep_registry::Digest;
use tempfile::TempPath;

/// What has up to this size stays in memory, and goes to disk with the events of its delivery.
pub const INLINE: u64 = 64 << 10;

/// Where bytes are.
#[derive(Debug)]
pub enum Stored {
    /// Here.
    Memory(Vec<u8>),
    /// In a file, which goes when this is dropped.
    File(TempPath),
}

impl Stored {
    /// A place for so many bytes, of which none is there yet.
    fn room(folder: &Path, bytes: u64) -> io::Result<Self> {
        Ok(match bytes <= INLINE {
            true => Self::Memory(Vec::new()),
            false => {
                let file = tempfile::NamedTempFile::new_in(folder)?;
                Self::File(file.into_temp_path())
            }
        })
    }

    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            _ if bytes.is_empty() => Ok(()),
            Self::Memory(there) => {
                there.extend_from_slice(bytes);
                Ok(())
            }
            // Opened each time: thousands may be gathered, and a process may have fewer files open.
            Self::File(path) => File::options().append(true).open(path)?.write_all(bytes),
        }
    }

    fn read(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Memory(bytes) => Ok(bytes),
            Self::File(path) => fs::read(&path),
        }
    }
}

/// An output that came whole.
#[derive(Debug)]
pub struct Output {
    /// Its digest.
    pub digest: Digest,
    /// How many bytes it has.
    pub bytes: u64,
    /// Where they are.
    pub kept: Stored,
}

/// An output that is coming, and behind it what is shown of it.
pub struct Spool {
    output: Stored,
    shown: Stored,
    hasher: blake3::Hasher,
    bytes: u64,
    /// How many bytes of the output have not come yet.
    left: u64,
}

impl Spool {
    /// Nothing yet of so many bytes of both, for which there is a folder.
    pub fn new(folder: &Path, output_bytes: u64, shown_bytes: u64) -> io::Result<Self> {
        Ok(Self {
            output: Stored::room(folder, output_bytes)?,
            shown: Stored::room(folder, shown_bytes)?,
            hasher: blake3::Hasher::new(),
            bytes: output_bytes,
            left: output_bytes,
        })
    }

    /// Takes in what comes next. Whoever calls has seen to it that all together are no more than was said.
    pub fn add(&mut self, piece: &[u8]) -> io::Result<()> {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let (output, shown) = piece.split_at(piece.len().min(left));
        self.left -= output.len() as u64;
        self.hasher.update(output);
        self.output.add(output)?;
        self.shown.add(shown)
    }

    /// How many bytes [`Spool::end`] has in memory, if what is shown has so many.
    pub fn in_memory(&self, shown_bytes: u64) -> u64 {
        let output = match self.output {
            Stored::Memory(_) => self.bytes,
            Stored::File(_) => 0,
        };
        output.saturating_add(shown_bytes)
    }

    /// The output, and what is shown of it, once all of both has come.
    pub fn end(self) -> io::Result<(Output, Vec<u8>)> {
        let output = Output {
            digest: Digest::from_bytes(*self.hasher.finalize().as_bytes()),
            bytes: self.bytes,
            kept: self.output,
        };
        Ok((output, self.shown.read()?))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bytes(length: u64, from: u8) -> Vec<u8> {
        (0..length).map(|n| from.wrapping_add(n as u8)).collect()
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn what_comes_is_kept_whole_wherever_it_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        for (output, shown) in [
            (0, 0),
            (5, 0),
            (0, 7),
            (INLINE, INLINE),
            (INLINE + 1, 3),
            (9, INLINE + 1),
            (3 * INLINE, 2 * INLINE),
        ] {
            let whole = [bytes(output, 0), bytes(shown, 100)].concat();
            for piece in [7_000, INLINE as usize, usize::MAX] {
                let mut spool = Spool::new(folder.path(), output, shown).unwrap();
                whole
                    .chunks(piece)
                    .for_each(|piece| spool.add(piece).unwrap());
                let is_inline = output <= INLINE;
                let in_memory = if is_inline { output } else { 0 };
                assert_eq!(spool.in_memory(shown), in_memory + shown);
                let (came, said) = spool.end().unwrap();
                assert_eq!(came.digest, Digest::of(&bytes(output, 0)));
                assert_eq!(came.bytes, output);
                assert_eq!(matches!(came.kept, Stored::Memory(_)), is_inline);
                // Of what is shown no file is left.
                assert_eq!(files(folder.path()), usize::from(!is_inline));
                assert_eq!(came.kept.read().unwrap(), bytes(output, 0));
                assert_eq!(said, bytes(shown, 100));
            }
        }
    }

    #[test]
    fn files_go_with_whoever_drops_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(folder.path(), 2 * INLINE, 2 * INLINE).unwrap();
        spool.add(&bytes(3 * INLINE, 0)).unwrap();
        assert_eq!(files(folder.path()), 2);
        drop(spool);
        assert_eq!(files(folder.path()), 0);
    }
}
