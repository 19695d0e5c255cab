//! What is wrong with one record, or with a whole input.

use std::io;

/// Why there is no record where one was expected.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The input could not be read on. Nothing follows.
    #[error("the input could not be read: {0}")]
    Io(io::Error),
    /// The first record of a CSV file does not name the columns. Nothing follows.
    #[error("the first line has to name the columns, one of them `text`, and {reason}")]
    Header {
        /// What is wrong with it.
        reason: String,
    },
    /// More bytes than a record may have.
    #[error("the line is longer than {max} bytes; shorten it, or cut it into several")]
    TooLong {
        /// The greatest number of bytes.
        max: usize,
    },
    /// Not UTF-8.
    #[error("the text is not UTF-8; convert the file, for example with `iconv -t UTF-8`")]
    NotUtf8,
    /// Not JSON.
    #[error("this is not a JSON object (column {column}): {reason}")]
    Json {
        /// Where reading it stopped, in bytes from 1.
        column: usize,
        /// What was wrong there.
        reason: String,
    },
    /// A field that has to be there is not.
    #[error("there is no field `{field}`")]
    MissingField {
        /// The field.
        field: &'static str,
    },
    /// A field has another type.
    #[error("the field `{field}` has to be {expected}, and is {found}")]
    WrongType {
        /// The field.
        field: &'static str,
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// More or fewer columns than the first line names.
    #[error("there are {found} columns here, and the first line names {expected}")]
    Columns {
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// Something other than a comma after a closing quote.
    #[error(
        "a quoted column goes on after its closing quote; write a quote within a column as two quotes"
    )]
    AfterQuote,
    /// A quote without its counterpart.
    #[error("a quote is opened here and never closed, or not within {max} bytes")]
    OpenQuote {
        /// The greatest number of bytes of a record.
        max: usize,
    },
}

impl RecordError {
    /// Whether this ends the input, rather than costing one record.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Header { .. })
    }
}
