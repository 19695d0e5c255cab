//! Comma-separated records (RFC 4180), found again after a broken one.
//!
//! A quoted column may contain newlines, so a single stray quote can swallow the rest of a file.
//! Ordinary parsers let it. Here a record that does not come out well is given up at its first
//! line, and its other lines are read once more, each on its own: every byte is looked at twice
//! at most, and what was good among them is found.

use std::io::BufRead;

use crate::error::RecordError;
use crate::lines::{Lines, split_ending};
use crate::reader::Record;

/// Which columns there are, once the first record has named them.
#[derive(Default)]
pub(crate) struct Csv {
    header: Option<Header>,
    fields: Fields,
    /// The lines of the record being read.
    buffer: Vec<u8>,
}

struct Header {
    columns: usize,
    text: usize,
    id: Option<usize>,
    label: Option<usize>,
}

impl Csv {
    /// The next record, or what is there instead; `None` is the end.
    pub(crate) fn next<R: BufRead>(
        &mut self,
        lines: &mut Lines<R>,
        labels: bool,
    ) -> Option<(u64, Result<Record, RecordError>)> {
        if self.header.is_none()
            && let (number, Err(error)) = self.read_header(lines)?
        {
            return Some((number, Err(error)));
        }
        // Taken out for the closure's sake; nothing in between can fail to put it back.
        let header = self.header.take()?;
        let record = self.next_record(lines, |fields| header.record(fields, labels));
        self.header = Some(header);
        let (number, record) = record?;
        let record = record.map(|mut record| {
            if record.id.is_empty() {
                record.id = number.to_string();
            }
            record
        });
        Some((number, record))
    }

    /// Reads the record that names the columns; `None` if there is none.
    pub(crate) fn read_header<R: BufRead>(
        &mut self,
        lines: &mut Lines<R>,
    ) -> Option<(u64, Result<(), RecordError>)> {
        let (number, header) = self.next_record(lines, Header::read)?;
        let read = match header {
            Ok(header) => {
                self.header = Some(header);
                Ok(())
            }
            Err(error @ (RecordError::Io(_) | RecordError::Header { .. })) => Err(error),
            Err(error) => {
                let reason = format!("it cannot be read: {error}");
                Err(RecordError::Header { reason })
            }
        };
        Some((number, read))
    }

    /// Reads the lines of one record and turns its columns into something.
    fn next_record<R: BufRead, T>(
        &mut self,
        lines: &mut Lines<R>,
        read: impl FnOnce(&Fields) -> Result<T, RecordError>,
    ) -> Option<(u64, Result<T, RecordError>)> {
        let first = loop {
            self.buffer.clear();
            match lines.next(&mut self.buffer) {
                Err(error) => return Some((lines.number() + 1, Err(RecordError::Io(error)))),
                Ok(None) => return None,
                Ok(Some(info)) if info.too_long => {
                    return Some((info.number, Err(RecordError::TooLong { max: lines.max() })));
                }
                Ok(Some(info)) if !split_ending(&self.buffer).0.is_empty() => break info,
                Ok(Some(_)) => {}
            }
        };
        self.fields.clear();
        let second = self.buffer.len();
        let mut ended = self.fields.take_line(&self.buffer);
        let mut too_long = false;
        // A line that is read again stands for itself.
        while ended == Ended::InQuotes && !first.again {
            let start = self.buffer.len();
            match lines.next(&mut self.buffer) {
                Err(error) => return Some((lines.number() + 1, Err(RecordError::Io(error)))),
                Ok(None) => break,
                Ok(Some(info)) if info.too_long => {
                    too_long = true;
                    break;
                }
                Ok(Some(_)) if self.buffer.len() > lines.max() => break,
                Ok(Some(_)) => ended = self.fields.take_line(&self.buffer[start..]),
            }
        }
        let result = match ended {
            Ended::Record => read(&self.fields),
            Ended::AfterQuote => Err(RecordError::AfterQuote),
            Ended::InQuotes => Err(RecordError::OpenQuote { max: lines.max() }),
        };
        // A quote may have led astray: the lines after the first may be records themselves.
        if result.is_err() && (self.buffer.len() > second || too_long) {
            lines.again(
                std::mem::take(&mut self.buffer),
                second,
                first.number + 1,
                too_long,
            );
        }
        Some((first.number, result))
    }
}

impl Header {
    fn read(fields: &Fields) -> Result<Self, RecordError> {
        let names = (0..fields.count())
            .map(|index| fields.text(index).map(|name| name.trim().to_lowercase()))
            .collect::<Result<Vec<_>, _>>()?;
        let find = |wanted: &str| {
            let mut found = names
                .iter()
                .enumerate()
                .filter(|(_, name)| *name == wanted)
                .map(|(index, _)| index);
            match (found.next(), found.next()) {
                (_, Some(_)) => Err(RecordError::Header {
                    reason: format!("it names `{wanted}` twice"),
                }),
                (index, None) => Ok(index),
            }
        };
        let Some(text) = find("text")? else {
            let mut found = names.join(", ");
            if let Some((end, _)) = found.char_indices().nth(100) {
                found.truncate(end);
                found.push('…');
            }
            return Err(RecordError::Header {
                reason: format!("it names: {found}"),
            });
        };
        Ok(Self {
            columns: names.len(),
            text,
            id: find("id")?,
            label: find("label")?,
        })
    }

    fn record(&self, fields: &Fields, labels: bool) -> Result<Record, RecordError> {
        if fields.count() != self.columns {
            return Err(RecordError::Columns {
                expected: self.columns,
                found: fields.count(),
            });
        }
        let get = |index: Option<usize>| {
            index
                .map(|index| fields.text(index).map(str::to_owned))
                .transpose()
        };
        Ok(Record {
            text: fields.text(self.text)?.to_owned(),
            // The caller puts the line's number where there is none.
            id: get(self.id)?.unwrap_or_default(),
            label: if labels {
                get(self.label)?.filter(|label| !label.is_empty())
            } else {
                None
            },
        })
    }
}

/// The columns of one record.
#[derive(Default)]
struct Fields {
    /// Their contents, one after another.
    bytes: Vec<u8>,
    /// Where each one ends.
    ends: Vec<usize>,
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Before the first byte of a column.
    #[default]
    Start,
    /// In a column without quotes.
    Plain,
    /// Between the quotes.
    Quoted,
    /// After a quote within quotes: the closing one, or the first of two.
    Quote,
}

/// How a line ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The record is complete.
    Record,
    /// In the middle of a quoted column.
    InQuotes,
    /// At something that cannot stand after a closing quote.
    AfterQuote,
}

impl Fields {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.state = State::Start;
    }

    fn count(&self) -> usize {
        self.ends.len()
    }

    fn text(&self, index: usize) -> Result<&str, RecordError> {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        std::str::from_utf8(&self.bytes[start..self.ends[index]]).map_err(|_| RecordError::NotUtf8)
    }

    /// Takes one physical line in. A quote within a column that has none around it is a letter
    /// like any other, as everyone reads it.
    fn take_line(&mut self, line: &[u8]) -> Ended {
        let (content, ending) = split_ending(line);
        for &byte in content {
            self.state = match (self.state, byte) {
                (State::Start, b'"') => State::Quoted,
                (State::Quoted, b'"') => State::Quote,
                (State::Start | State::Plain | State::Quote, b',') => {
                    self.ends.push(self.bytes.len());
                    State::Start
                }
                (State::Quote, b'"') | (State::Quoted, _) => {
                    self.bytes.push(byte);
                    State::Quoted
                }
                (State::Quote, _) => return Ended::AfterQuote,
                (State::Start | State::Plain, _) => {
                    self.bytes.push(byte);
                    State::Plain
                }
            };
        }
        if self.state == State::Quoted {
            self.bytes.extend_from_slice(ending);
            return Ended::InQuotes;
        }
        self.ends.push(self.bytes.len());
        Ended::Record
    }
}
