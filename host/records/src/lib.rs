//! Input files into records, and outcomes into lines: one at a time, in bounded memory.
//!
//! A file comes from anywhere and may be broken in any way. Whatever is wrong with one record
//! costs that record only: it is reported under the number of the line where it begins, and the
//! next ones are found again. Nothing here knows what is done with a record.
//!
//! ```
//! use skep_records::{Format, Reader};
//!
//! let input = "{\"text\": \"The printer is on fire\"}\n{oops}\n{\"id\": 7, \"text\": \"Hello\"}\n";
//! let lines: Vec<_> = Reader::new(input.as_bytes(), Format::Jsonl).collect();
//! assert_eq!(lines[0].result.as_ref().unwrap().id, "1");
//! assert!(lines[1].result.is_err());
//! assert_eq!(lines[2].result.as_ref().unwrap().id, "7");
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod csv;
mod error;
mod extents;
mod json;
mod labels;
mod lines;
mod outcome;
mod reader;

pub use error::RecordError;
pub use extents::{CsvExtents, Extent};
pub use labels::{Label, Labels, LabelsError};
pub use outcome::{Outcome, OutcomeWriter};
pub use reader::{Format, Line, Reader, Record, UnknownFormat};
