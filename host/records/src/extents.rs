//! Where the records of a CSV file lie, so that it can be cut between them: a record may span lines, and
//! a stray quote makes the reader go back over some.

use std::io::BufRead;

use crate::csv::Csv;
use crate::error::RecordError;
use crate::lines::Lines;
use crate::reader::Reader;

/// A part of a CSV file that can be read by itself, if the header is put in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first byte.
    pub start: u64,
    /// How many bytes it has, blank lines included.
    pub bytes: u64,
    /// The number of its first line, from 1.
    pub line: u64,
    /// How many records it has, those included in which something is wrong: one, unless a quote led
    /// astray.
    pub records: u64,
}

/// Where a CSV file can be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvExtents {
    /// The first byte of the header. A byte order mark before it is left out.
    pub header_start: u64,
    /// How many bytes the header has, its line ending included.
    pub header_bytes: u64,
    /// How many lines it has, with blank ones before it.
    pub header_lines: u64,
    /// Everything after the header, in order and without gaps.
    pub extents: Vec<Extent>,
}

impl CsvExtents {
    /// Finds them. One record is in memory at a time.
    ///
    /// Reading the header and an extent as one file, with [`Reader::starting_at`] the extent's line
    /// less the header's lines, gives what reading the whole file gives there.
    ///
    /// # Errors
    ///
    /// When the input cannot be read, or has no header with a column `text`.
    pub fn find(input: impl BufRead) -> Result<Self, RecordError> {
        let mut lines = Lines::new(input, Reader::<&[u8]>::DEFAULT_MAX_RECORD_BYTES);
        let mut csv = Csv::default();
        if let Some((_, Err(error))) = csv.read_header(&mut lines) {
            return Err(error);
        }
        let mut found = Self {
            header_start: lines.mark(),
            header_bytes: lines.position() - lines.mark(),
            header_lines: lines.number(),
            extents: Vec::new(),
        };
        let (mut start, mut line, mut records) = (lines.position(), lines.number() + 1, 0);
        while let Some((_, record)) = csv.next(&mut lines, false) {
            match record {
                Err(error) if error.is_fatal() => return Err(error),
                _ => records += 1,
            }
            if lines.is_clean() {
                found.extents.push(Extent {
                    start,
                    bytes: lines.position() - start,
                    line,
                    records,
                });
                (start, line, records) = (lines.position(), lines.number() + 1, 0);
            }
        }
        let bytes = lines.position() - start;
        match found.extents.last_mut() {
            // Blank lines at the end are nobody's record.
            Some(last) if records == 0 => last.bytes += bytes,
            None if records == 0 => {}
            // Behind the last one only blank lines were read a second time.
            _ => found.extents.push(Extent {
                start,
                bytes,
                line,
                records,
            }),
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reader::{Format, Line};

    fn shown(lines: impl Iterator<Item = Line>) -> Vec<String> {
        let line = |line: Line| match line.result {
            Ok(record) => format!("{} {}={}", line.number, record.id, record.text),
            Err(error) => format!("{} ! {error}", line.number),
        };
        lines.map(line).collect()
    }

    /// Reads a file in parts of so many extents each.
    fn in_parts(file: &[u8], each: usize) -> Vec<String> {
        let found = CsvExtents::find(file).unwrap();
        let range = |start: u64, bytes: u64| &file[start as usize..(start + bytes) as usize];
        let header = range(found.header_start, found.header_bytes);
        let mut all = Vec::new();
        for part in found.extents.chunks(each) {
            let bytes = part.iter().map(|extent| extent.bytes).sum();
            let text = [header, range(part[0].start, bytes)].concat();
            let reader = Reader::new(&text[..], Format::Csv);
            let lines = shown(reader.starting_at(part[0].line - found.header_lines));
            let records: u64 = part.iter().map(|extent| extent.records).sum();
            assert_eq!(lines.len() as u64, records);
            all.extend(lines);
        }
        all
    }

    #[test]
    fn a_file_is_cut_between_records_and_not_within_one() {
        let file = b"\xef\xbb\xbf\nid,text\n1,\"two\nlines\"\n\n2,one\n3,\"never closed\n4,\"x\"y\n5,z\n\n";
        let found = CsvExtents::find(&file[..]).unwrap();
        assert_eq!(found.header_start, 3);
        assert_eq!(found.header_lines, 2);
        let places = found
            .extents
            .iter()
            .map(|extent| (extent.line, extent.records));
        assert_eq!(places.collect::<Vec<_>>()[..2], [(3, 1), (5, 1)]);
        let end = found.extents.last().map(|last| last.start + last.bytes);
        assert_eq!(end, Some(file.len() as u64));
        let whole = shown(Reader::new(&file[..], Format::Csv));
        for each in 1..4 {
            assert_eq!(in_parts(file, each), whole);
        }
        assert!(CsvExtents::find(&b"id,label\n1,a\n"[..]).is_err());
        let none = CsvExtents::find(&b""[..]).unwrap();
        assert_eq!((none.header_bytes, none.extents), (0, Vec::new()));
    }

    proptest! {
        #[test]
        fn parts_give_what_the_whole_gives(
            pieces in prop::collection::vec(
                prop_oneof![
                    Just("\n"), Just("\""), Just(","), Just("a"), Just("\r\n"), Just("1,x\n"),
                    Just("2,\"a\nb\"\n"),
                ],
                0..40,
            ),
            each in 1..4_usize,
        ) {
            let file = format!("id,text\n{}", pieces.concat());
            let whole = shown(Reader::new(file.as_bytes(), Format::Csv));
            prop_assert_eq!(in_parts(file.as_bytes(), each), whole);
        }
    }
}
