//! Physical lines of bounded length, with the possibility to go back over some of them.

use std::io::{self, BufRead, Read as _};

/// A source of lines.
pub(crate) struct Lines<R> {
    input: R,
    /// The number of the last line that was taken from the input, from 1.
    number: u64,
    max: usize,
    position: u64,
    /// How many bytes the byte order mark has that was left out.
    mark: u64,
    again: Again,
}

/// Lines that were read, and turned out not to belong to the record that they were read for.
#[derive(Default)]
struct Again {
    bytes: Vec<u8>,
    offset: usize,
    /// The number of the line at `offset`.
    number: u64,
    /// Whether a line that was too long to keep follows.
    too_long: bool,
}

/// What is known of a line besides its bytes.
#[derive(Clone, Copy)]
pub(crate) struct Info {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// It is longer than a record may be, and was skipped.
    pub(crate) too_long: bool,
    /// It is given for the second time.
    pub(crate) again: bool,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(input: R, max: usize) -> Self {
        Self {
            input,
            number: 0,
            max,
            position: 0,
            mark: 0,
            again: Again::default(),
        }
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Says that the first line has this number, from 1.
    pub(crate) fn start_at(&mut self, number: u64) {
        self.number = number.saturating_sub(1);
    }

    /// The number of the last line that was taken from the input, from 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// How many bytes of the input have been read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// How many bytes the byte order mark has that was left out.
    pub(crate) fn mark(&self) -> u64 {
        self.mark
    }

    /// Whether no line is to be given a second time.
    pub(crate) fn is_clean(&self) -> bool {
        self.again.bytes.is_empty() && !self.again.too_long
    }

    /// Appends the next line to `buffer`, with its newline if it has one; `None` is the end.
    /// Nothing is appended of a line that is too long.
    pub(crate) fn next(&mut self, buffer: &mut Vec<u8>) -> io::Result<Option<Info>> {
        if let Some(info) = self.again.next(buffer) {
            return Ok(Some(info));
        }
        let start = buffer.len();
        // The newline does not count, and one byte more shows that the line goes on.
        let most = self.max as u64 + 1;
        let mut read = (&mut self.input).take(most).read_until(b'\n', buffer)? as u64;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        let too_long = read == most && buffer.last() != Some(&b'\n');
        if too_long {
            buffer.truncate(start);
            read += self.input.skip_until(b'\n')? as u64;
        } else if self.number == 1 && buffer[start..].starts_with(BYTE_ORDER_MARK) {
            buffer.drain(start..start + BYTE_ORDER_MARK.len());
            self.mark = BYTE_ORDER_MARK.len() as u64;
        }
        self.position += read;
        Ok(Some(Info {
            number: self.number,
            too_long,
            again: false,
        }))
    }

    /// Gives the lines in `bytes` once more, of which the first has this number, and after them
    /// one that was too long to keep if there was one.
    pub(crate) fn again(&mut self, bytes: Vec<u8>, offset: usize, number: u64, too_long: bool) {
        self.again = Again {
            bytes,
            offset,
            number,
            too_long,
        };
    }
}

impl Again {
    fn next(&mut self, buffer: &mut Vec<u8>) -> Option<Info> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let info = Info {
            number: self.number,
            too_long: rest.is_empty(),
            again: true,
        };
        if rest.is_empty() {
            if !self.too_long {
                return None;
            }
            *self = Self::default();
            return Some(info);
        }
        let length = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(rest.len(), |newline| newline + 1);
        buffer.extend_from_slice(&rest[..length]);
        self.offset += length;
        self.number += 1;
        if self.offset == self.bytes.len() && !self.too_long {
            *self = Self::default();
        }
        Some(info)
    }
}

/// A line without its ending, and the ending.
pub(crate) fn split_ending(line: &[u8]) -> (&[u8], &[u8]) {
    let content = line
        .strip_suffix(b"\n")
        .map_or(line, |rest| rest.strip_suffix(b"\r").unwrap_or(rest));
    line.split_at(content.len())
}
