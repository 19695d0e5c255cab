//! The input of a shard as its provider gets it, read from disk piece by piece: a shard may be as large as its
//! longest line, and many are sent at once.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use skep_market::ShardInput;
use skep_registry::Digest;
use zeroize::Zeroizing;

use super::{Folder, Spec, piece};
use crate::failure::{Failure, FailureKind};

/// How many bytes are read at once to tell what all of them are.
const READ: usize = 1 << 20;

/// The input of one shard.
#[derive(Debug)]
pub struct Input {
    head: Vec<u8>,
    /// What comes behind the head, in this order.
    parts: Vec<Part>,
}

/// Bytes of a file.
#[derive(Debug)]
struct Part {
    file: PathBuf,
    start: u64,
    bytes: u64,
}

impl Folder {
    /// The input of a shard, as its provider gets it.
    pub fn input(&self, spec: &Spec, number: u32) -> Result<Input, Failure> {
        let records = piece(spec, number)?;
        let labels = self.labels()?.unwrap_or_default();
        let input = ShardInput {
            // The header's lines come before the first of the records, and are counted too.
            first_line: records
                .first_line
                .saturating_sub(spec.header.map_or(0, |header| header.lines)),
            arguments: spec.arguments.clone(),
            labels: &labels,
            is_csv: spec.header.is_some(),
            records: &[],
        };
        let head = input.head();
        let of_labels = Part {
            file: self.path.join("labels"),
            start: 0,
            bytes: labels.len() as u64,
        };
        let of_input = spec.header.iter().chain([records]).map(|piece| Part {
            file: self.path.join("input"),
            start: piece.start,
            bytes: piece.bytes,
        });
        Ok(Input {
            head: head.map_err(|error| Failure::of(FailureKind::Usage, &error))?,
            parts: [of_labels].into_iter().chain(of_input).collect(),
        })
    }
}

impl Input {
    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        let parts = self.parts.iter().map(|part| part.bytes);
        self.head.len() as u64 + parts.sum::<u64>()
    }

    /// The bytes from `start` on: `most` of them, or as many as there are.
    pub fn read(&self, start: u64, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        let skipped = usize::try_from(start).unwrap_or(usize::MAX);
        let head = self.head.get(skipped..).unwrap_or_default();
        let head = &head[..head.len().min(most)];
        let rest = self.bytes().saturating_sub(start);
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(most);
        let mut read = Zeroizing::new(Vec::with_capacity(length));
        read.extend_from_slice(head);
        let mut skip = start.saturating_sub(self.head.len() as u64);
        for part in &self.parts {
            let before = read.len();
            let there = part.bytes.saturating_sub(skip);
            let wanted =
                usize::try_from(there).map_or(length - before, |there| there.min(length - before));
            if wanted > 0 {
                let mut file = File::open(&part.file)?;
                file.seek(SeekFrom::Start(part.start + skip))?;
                read.resize(before + wanted, 0);
                file.read_exact(&mut read[before..])?;
            }
            skip = skip.saturating_sub(part.bytes);
        }
        Ok(read)
    }

    /// The digest of all its bytes.
    pub fn digest(&self) -> io::Result<Digest> {
        let (mut hasher, mut start) = (blake3::Hasher::new(), 0);
        while start < self.bytes() {
            let read = self.read(start, READ)?;
            hasher.update(&read);
            start += read.len() as u64;
        }
        Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Piece, testing};
    use super::*;

    fn spec(header: Option<Piece>, shards: Vec<Piece>) -> Spec {
        Spec {
            header,
            arguments: vec!["--quick".to_owned()],
            ..testing::spec(shards)
        }
    }

    #[test]
    fn read_in_pieces_of_any_size_it_is_the_input_of_its_shard() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder {
            id: Digest::of(b"job"),
            path: place.path().to_owned(),
        };
        let text = b"name,age\nada,36\ngrace,85\nalan,41\n";
        std::fs::write(place.path().join("input"), text).unwrap();
        let line = |start, bytes, first_line| Piece {
            start,
            bytes,
            first_line,
            lines: 1,
        };
        let (header, second) = (line(0, 9, 1), line(16, 9, 3));
        let plain = spec(None, vec![line(0, 9, 1), line(9, 7, 2)]);
        let csv = spec(Some(header), vec![line(9, 7, 2), second]);
        for labels in [&b""[..], b"[\"young\",\"old\"]"] {
            if !labels.is_empty() {
                std::fs::write(place.path().join("labels"), labels).unwrap();
            }
            let expected = |is_csv: bool, first_line: u64, records: &[u8]| {
                let input = ShardInput {
                    first_line,
                    arguments: vec!["--quick".to_owned()],
                    labels,
                    is_csv,
                    records,
                };
                input.encode().unwrap()
            };
            for (spec, whole) in [
                (&plain, expected(false, 2, b"ada,36\n")),
                (&csv, expected(true, 2, b"name,age\ngrace,85\n")),
            ] {
                let input = folder.input(spec, 1).unwrap();
                assert_eq!(input.bytes(), whole.len() as u64);
                assert_eq!(input.digest().unwrap(), Digest::of(&whole));
                for most in 1..whole.len() + 2 {
                    let mut read = Vec::new();
                    while read.len() < whole.len() {
                        let piece = input.read(read.len() as u64, most).unwrap();
                        let expected = most.min(whole.len() - read.len());
                        assert_eq!(piece.len(), expected, "pieces of {most}");
                        read.extend_from_slice(&piece);
                    }
                    assert_eq!(read, whole, "pieces of {most}");
                }
                let behind = input.read(whole.len() as u64, 9).unwrap();
                assert!(behind.is_empty());
            }
        }
        assert!(folder.input(&plain, 2).is_err(), "there is no third shard");
        // What was lost on disk is told, and never filled with something else.
        let cut = text.len() as u64 - 20;
        let file = File::options().write(true).open(place.path().join("input"));
        file.unwrap().set_len(cut).unwrap();
        let input = folder.input(&csv, 1).unwrap();
        assert!(input.digest().is_err());
    }

    #[test]
    fn outputs_that_were_coming_are_forgotten_and_those_that_came_are_not() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder {
            id: Digest::of(b"job"),
            path: place.path().to_owned(),
        };
        std::fs::create_dir(folder.outputs()).unwrap();
        let came = tempfile::NamedTempFile::new_in(folder.outputs()).unwrap();
        std::fs::write(came.path(), b"whole").unwrap();
        let digest = Digest::of(b"whole");
        folder.keep_file(digest, came.into_temp_path()).unwrap();
        // As it is left where a process is killed.
        std::fs::write(folder.outputs().join(".tmpA1b2C3"), b"half").unwrap();
        folder.forget_coming().unwrap();
        assert_eq!(folder.kept(digest).unwrap().as_deref(), Some(&b"whole"[..]));
        assert_eq!(std::fs::read_dir(folder.outputs()).unwrap().count(), 1);
    }
}
