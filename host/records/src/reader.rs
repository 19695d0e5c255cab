//! The reader: an iterator over what stands in an input, line by line.

use std::fmt;
use std::io::BufRead;
use std::path::Path;
use std::str::FromStr;

use crate::csv::Csv;
use crate::error::RecordError;
use crate::json;
use crate::lines::Lines;

/// How the records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Jsonl,
    /// Comma-separated columns, whose names are the first record.
    Csv,
}

impl Format {
    /// The format that a file's name says, if it says one: `.jsonl` or `.ndjson`, and `.csv`.
    #[must_use]
    pub fn guess(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }

    /// How it is written on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "jsonl" => Ok(Self::Jsonl),
            "csv" => Ok(Self::Csv),
            _ => Err(UnknownFormat {
                text: text.chars().take(40).collect(),
            }),
        }
    }
}

/// A text is not a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a format of records; write `jsonl` or `csv`")]
pub struct UnknownFormat {
    text: String,
}

/// One text to do something with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its identifier in the input, or else the number of its line.
    pub id: String,
    /// The text.
    pub text: String,
    /// The label that it has in the input, when the reader was asked for labels and there is one.
    pub label: Option<String>,
}

/// A record, or what stands in its place.
#[derive(Debug)]
pub struct Line {
    /// The number of the physical line where it begins, from 1.
    pub number: u64,
    /// The record, or why there is none.
    pub result: Result<Record, RecordError>,
}

/// Reads an input record by record, keeping no more than one in memory.
///
/// Empty lines are skipped, a byte-order mark at the beginning and `\r\n` line endings are
/// tolerated. Line numbers rise from item to item. After an error of which
/// [`RecordError::is_fatal`] is true nothing follows; after any other, the next record does.
pub struct Reader<R> {
    lines: Lines<R>,
    records: Records,
    labels: bool,
}

enum Records {
    Jsonl { buffer: Vec<u8> },
    Csv(Box<Csv>),
    Ended,
}

impl<R: BufRead> Reader<R> {
    /// The number of bytes that a record may have unless [`Reader::max_record_bytes`] says
    /// otherwise: 1 MiB.
    pub const DEFAULT_MAX_RECORD_BYTES: usize = 1 << 20;

    /// A reader of `input`.
    pub fn new(input: R, format: Format) -> Self {
        let records = match format {
            Format::Jsonl => Records::Jsonl { buffer: Vec::new() },
            Format::Csv => Records::Csv(Box::default()),
        };
        Self {
            lines: Lines::new(input, Self::DEFAULT_MAX_RECORD_BYTES),
            records,
            labels: false,
        }
    }

    /// Sets how many bytes a record may have. A longer line is skipped without being kept; the
    /// memory that the reader needs is a small multiple of this.
    #[must_use]
    pub fn max_record_bytes(mut self, max: usize) -> Self {
        self.lines.set_max(max.max(1));
        self
    }

    /// Also reads the field `label` of each record that has one.
    #[must_use]
    pub fn with_labels(mut self) -> Self {
        self.labels = true;
        self
    }

    /// Says that the input is a part of a larger one, which begins at this line of it, from 1.
    /// Errors, and records without an identifier, are named by the lines of the larger one.
    #[must_use]
    pub fn starting_at(mut self, line: u64) -> Self {
        self.lines.start_at(line);
        self
    }

    /// How many bytes of the input have been read so far, for showing progress.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.lines.position()
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        let next = match &mut self.records {
            Records::Jsonl { buffer } => next_json(&mut self.lines, buffer, self.labels),
            Records::Csv(csv) => csv.next(&mut self.lines, self.labels),
            Records::Ended => None,
        };
        let line = next.map(|(number, result)| Line { number, result });
        if line
            .as_ref()
            .is_none_or(|line| line.result.as_ref().is_err_and(RecordError::is_fatal))
        {
            self.records = Records::Ended;
        }
        line
    }
}

fn next_json<R: BufRead>(
    lines: &mut Lines<R>,
    buffer: &mut Vec<u8>,
    labels: bool,
) -> Option<(u64, Result<Record, RecordError>)> {
    loop {
        buffer.clear();
        return match lines.next(buffer) {
            Err(error) => Some((lines.number() + 1, Err(RecordError::Io(error)))),
            Ok(None) => None,
            Ok(Some(info)) if info.too_long => {
                Some((info.number, Err(RecordError::TooLong { max: lines.max() })))
            }
            Ok(Some(_)) if buffer.trim_ascii().is_empty() => continue,
            Ok(Some(info)) => Some((info.number, json::parse(buffer, info.number, labels))),
        };
    }
}

#[cfg(test)]
mod tests;
