//! Tickets and labels as files.

use crate::{Label, Ticket};
use serde::Serialize;
use std::io::{self, Write};

/// How a file of tickets is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object on each line: `{"id": …, "text": …}`.
    Jsonl,
    /// Comma-separated values with a header line, as in RFC 4180.
    Csv,
}

/// What else goes between the tickets: after every so many of them, a line that is no record.
/// `None` leaves the file clean.
pub type Malformed = Option<usize>;

/// Lines that no reader of records may accept as JSON.
const BAD_JSON: [&str; 5] = [
    "{\"id\": \"broken\", \"text\": \"never closed",
    "not a record at all",
    "{\"id\": \"no-text\"}",
    "[1, 2, 3]",
    "{\"id\": \"number\", \"text\": 12}",
];

/// Lines with the wrong number of fields.
const BAD_CSV: [&str; 2] = ["one-field-only", "four,fields,are,too many"];

/// Writes tickets, with the label in a third field if `with_label` is set. Returns the numbers
/// of the malformed lines, counted from 1.
///
/// # Errors
/// Whatever the writer returns.
pub fn write_tickets(
    mut to: impl Write,
    tickets: &[Ticket],
    format: Format,
    with_label: bool,
    malformed: Malformed,
) -> io::Result<Vec<u64>> {
    #[derive(Serialize)]
    struct Bare<'a> {
        id: &'a str,
        text: &'a str,
    }

    let mut bad_lines = Vec::new();
    let mut line = 0;
    if format == Format::Csv {
        writeln!(
            to,
            "{}",
            if with_label {
                "id,text,label"
            } else {
                "id,text"
            }
        )?;
        line += 1;
    }
    for (index, ticket) in tickets.iter().enumerate() {
        match format {
            Format::Jsonl if with_label => serde_json::to_writer(&mut to, ticket)?,
            Format::Jsonl => {
                serde_json::to_writer(
                    &mut to,
                    &Bare {
                        id: &ticket.id,
                        text: &ticket.text,
                    },
                )?;
            }
            Format::Csv if with_label => {
                write!(
                    to,
                    "{},{},{}",
                    field(&ticket.id),
                    field(&ticket.text),
                    field(&ticket.label)
                )?;
            }
            Format::Csv => write!(to, "{},{}", field(&ticket.id), field(&ticket.text))?,
        }
        writeln!(to)?;
        line += 1;
        if malformed.is_some_and(|every| every > 0 && (index + 1) % every == 0) {
            let nth = bad_lines.len();
            let text = match format {
                Format::Jsonl => BAD_JSON[nth % BAD_JSON.len()],
                Format::Csv => BAD_CSV[nth % BAD_CSV.len()],
            };
            writeln!(to, "{text}")?;
            line += 1;
            bad_lines.push(line);
        }
    }
    Ok(bad_lines)
}

/// Writes labels in the form that `skep run --labels` reads:
/// `{"labels": [{"name": …, "description": …, "examples": […]}, …]}`.
///
/// # Errors
/// Whatever the writer returns.
pub fn write_labels(mut to: impl Write, labels: &[Label]) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut to, &serde_json::json!({ "labels": labels }))?;
    writeln!(to)
}

/// Tickets as JSON lines, without their labels.
pub fn to_jsonl(tickets: &[Ticket]) -> String {
    text_of(|to| write_tickets(to, tickets, Format::Jsonl, false, None).map(drop))
}

/// Labels as [`write_labels`] writes them.
pub fn labels_to_json(labels: &[Label]) -> String {
    text_of(|to| write_labels(to, labels))
}

/// What is written into memory, which cannot fail.
fn text_of(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
    let mut bytes = Vec::new();
    let written = write(&mut bytes);
    debug_assert!(written.is_ok());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A field of a CSV line.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format, with_label: bool, malformed: Malformed) -> (Vec<String>, Vec<u64>) {
        let mut file = Vec::new();
        let tickets = crate::tickets(5, 20);
        let bad = write_tickets(&mut file, &tickets, format, with_label, malformed).unwrap();
        (
            String::from_utf8(file)
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect(),
            bad,
        )
    }

    #[test]
    fn jsonl_is_a_record_a_line() {
        let (lines, bad) = written(Format::Jsonl, false, None);
        assert!(bad.is_empty());
        assert_eq!(lines.len(), 20);
        for (line, ticket) in lines.iter().zip(crate::tickets(5, 20)) {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(record["id"], ticket.id);
            assert_eq!(record["text"], ticket.text);
            assert!(record.get("label").is_none());
        }
    }

    #[test]
    fn malformed_lines_stand_where_it_says() {
        let (lines, bad) = written(Format::Jsonl, true, Some(4));
        assert_eq!(lines.len(), 25);
        assert_eq!(bad, [5, 10, 15, 20, 25]);
        for (number, line) in (1..).zip(&lines) {
            let record = serde_json::from_str::<serde_json::Value>(line).ok();
            let good = record.is_some_and(|record| record["text"].is_string());
            assert_eq!(good, !bad.contains(&number), "line {number}: {line}");
        }
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(field("plain"), "plain");
        assert_eq!(field("a, \"b\""), "\"a, \"\"b\"\"\"");
        let (lines, bad) = written(Format::Csv, true, Some(10));
        assert_eq!(lines[0], "id,text,label");
        assert_eq!(bad, [12, 23]);
    }
}
