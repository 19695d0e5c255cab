//! What is found of outputs, whatever they are read from.
//!
//! It must never find an output wrong that most got, unless it is none of this kind of work at all,
//! or right one that most did not.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// Bytes that are read piece by piece.
pub trait Bytes {
    /// A reading that failed.
    type Error;

    /// Their digest.
    fn digest(&self) -> String;

    /// Those from `offset` on: at most `length`, and none only at the end.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, Self::Error>;
}

/// What was to be done.
pub struct Asked<'a, B> {
    /// Whether the same work gives the same bytes, whoever does it.
    pub exact: bool,
    /// Whether every line of an output has the form that those of a classifier have.
    pub is_classifier: bool,
    /// Whether the input has a record in each line that is not blank, for each of which a classifier
    /// writes a line.
    pub has_lines: bool,
    /// The labels file, if there is one.
    pub labels: Option<&'a B>,
}

/// What is found of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is right.
    Right(String),
    /// It is not: most others got something else.
    Wrong(String),
    /// It has not even the form that such outputs have, whatever others got.
    Malformed(String),
    /// There is no telling.
    Undecided(String),
}

/// What is read at once.
const PIECE: u32 = 256 << 10;
/// No line of a classifier's output is as long: it has an identifier, which a record's size bounds.
const LONGEST: usize = 1 << 20;
/// The largest labels file that is read.
const LABELS: usize = 4 << 20;

/// Judges outputs.
///
/// # Errors
///
/// When something cannot be read.
pub fn judge<B: Bytes>(
    asked: &Asked<'_, B>,
    input: &B,
    outputs: &[B],
) -> Result<Vec<Found>, B::Error> {
    let form = match asked.is_classifier {
        true => Some(Form {
            lines: asked.has_lines.then(|| records(input)).transpose()?,
            labels: asked.labels.map(labels).transpose()?.flatten(),
        }),
        false => None,
    };
    let mut votes: BTreeMap<String, usize> = BTreeMap::new();
    for output in outputs {
        *votes.entry(output.digest()).or_default() += 1;
    }
    let majority = votes.iter().find(|(_, votes)| 2 * **votes > outputs.len());
    let majority = majority.filter(|_| asked.exact && outputs.len() > 1);
    let model = majority.and_then(|(right, votes)| {
        let output = outputs.iter().find(|output| output.digest() == *right)?;
        Some((output, *votes))
    });
    let found = outputs.iter().map(|output| {
        if let Some(form) = &form
            && let Some(why) = form.fault(output)?
        {
            return Ok(Found::Malformed(why));
        }
        let of = outputs.len();
        let Some((model, votes)) = model else {
            // Where other bytes are no fault, that the same ones came is worth knowing, and proves nothing.
            let same = votes.get(&output.digest()).copied().unwrap_or_default();
            let why = match (asked.exact, of) {
                (true, 1) => "there is no other to compare it with".to_owned(),
                (true, _) => format!("no output of the {of} has a majority"),
                (false, 1) => "there is no other, and the work may give other bytes".to_owned(),
                (false, _) => format!(
                    "{same} of {of} replicas gave the same bytes, and the work may give others"
                ),
            };
            return Ok(Found::Undecided(why));
        };
        Ok(match difference(model, output)? {
            None => Found::Right(format!("{votes} of {of} got it")),
            Some((byte, line)) => Found::Wrong(format!(
                "it differs from what {votes} of {of} got, first in byte {byte}, in line {line}"
            )),
        })
    });
    found.collect()
}

/// What the output of a classifier looks like.
struct Form {
    /// How many lines it has, if that is known.
    lines: Option<u64>,
    /// The labels that there are, if the file of them was readable.
    labels: Option<BTreeSet<String>>,
}

/// A line of a classifier's output: a label, or what is wrong with the record.
#[derive(Deserialize)]
struct Line {
    label: Option<String>,
    error: Option<String>,
}

impl Form {
    /// What is wrong with an output, if it does not have the form.
    fn fault<B: Bytes>(&self, output: &B) -> Result<Option<String>, B::Error> {
        let mut number = 0;
        let mut fault = None;
        each_line(output, |line| {
            number += 1;
            fault = self
                .fault_of(line)
                .map(|why| format!("line {number} {why}"));
            fault.is_none()
        })?;
        if let Some(expected) = self.lines {
            let lines = count(output)?;
            if lines != expected {
                let why = format!("it has {lines} lines, and the input has {expected} records");
                return Ok(Some(why));
            }
        }
        Ok(fault)
    }

    fn fault_of(&self, line: Option<&[u8]>) -> Option<String> {
        let line = line.and_then(|line| serde_json::from_slice::<Line>(line).ok());
        match line {
            Some(Line {
                label: Some(label),
                error: None,
            }) => match &self.labels {
                Some(labels) if !labels.contains(&label) => {
                    Some("has a label that was not asked for".to_owned())
                }
                _ => None,
            },
            Some(Line {
                label: None,
                error: Some(_),
            }) => None,
            _ => Some("is neither a label nor an error".to_owned()),
        }
    }
}

/// The names in a labels file; `None` if it is none, or too large: then any label will do.
fn labels<B: Bytes>(file: &B) -> Result<Option<BTreeSet<String>>, B::Error> {
    #[derive(Deserialize)]
    struct File {
        labels: Vec<Label>,
    }
    #[derive(Deserialize)]
    struct Label {
        name: String,
    }
    let mut bytes = Vec::new();
    loop {
        let piece = file.read(bytes.len() as u64, PIECE)?;
        if piece.is_empty() {
            break;
        }
        bytes.extend(piece);
        if bytes.len() > LABELS {
            return Ok(None);
        }
    }
    let file: Option<File> = serde_json::from_slice(&bytes).ok();
    Ok(file.map(|file| file.labels.into_iter().map(|label| label.name).collect()))
}

/// Gives each line without its end, until `look` has seen enough; `None` for one that is too long to
/// be kept.
fn each_line<B: Bytes>(
    bytes: &B,
    mut look: impl FnMut(Option<&[u8]>) -> bool,
) -> Result<(), B::Error> {
    let (mut offset, mut line, mut too_long) = (0, Vec::new(), false);
    loop {
        let piece = bytes.read(offset, PIECE)?;
        if piece.is_empty() {
            if too_long || !line.is_empty() {
                look((!too_long).then_some(&line));
            }
            return Ok(());
        }
        offset += piece.len() as u64;
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let ends = part.last() == Some(&b'\n');
            too_long = too_long || line.len() + part.len() > LONGEST;
            if !too_long {
                line.extend_from_slice(&part[..part.len() - usize::from(ends)]);
            }
            if ends {
                if !look((!too_long).then_some(&line)) {
                    return Ok(());
                }
                line.clear();
                too_long = false;
            }
        }
    }
}

/// How many lines are not blank. A mark of the byte order in front of all is no letter.
fn records<B: Bytes>(input: &B) -> Result<u64, B::Error> {
    let (mut records, mut is_first) = (0, true);
    each_line(input, |line| {
        let line = line.map(|line| match is_first {
            true => line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line),
            false => line,
        });
        records += u64::from(line.is_none_or(|line| !line.trim_ascii().is_empty()));
        is_first = false;
        true
    })?;
    Ok(records)
}

/// How many lines there are; one that does not end is one too.
fn count<B: Bytes>(bytes: &B) -> Result<u64, B::Error> {
    let (mut lines, mut last) = (0, b'\n');
    let mut offset = 0;
    loop {
        let piece = bytes.read(offset, PIECE)?;
        let Some(end) = piece.last() else {
            return Ok(lines + u64::from(last != b'\n'));
        };
        last = *end;
        lines += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
        offset += piece.len() as u64;
    }
}

/// The first byte in which two differ, from 0, and its line, from 1.
fn difference<B: Bytes>(one: &B, other: &B) -> Result<Option<(u64, u64)>, B::Error> {
    if one.digest() == other.digest() {
        return Ok(None);
    }
    let (mut offset, mut line) = (0, 1);
    loop {
        let (a, b) = (one.read(offset, PIECE)?, other.read(offset, PIECE)?);
        let common = a.len().min(b.len());
        let place = a.iter().zip(&b).position(|(a, b)| a != b);
        let same = &a[..place.unwrap_or(common)];
        line += same.iter().filter(|byte| **byte == b'\n').count() as u64;
        offset += same.len() as u64;
        // A piece may be shorter than was asked for; only where one has ended they differ in length.
        if place.is_some() || common == 0 {
            return Ok(Some((offset, line)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    /// Bytes in memory, in pieces of at most three.
    struct Memory(&'static str);

    impl Bytes for Memory {
        type Error = ();

        fn digest(&self) -> String {
            self.0.to_owned()
        }

        fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, ()> {
            let rest = self.0.as_bytes().get(offset as usize..).unwrap_or_default();
            Ok(rest[..rest.len().min(length as usize).min(3)].to_vec())
        }
    }

    fn found(outputs: &[&'static str], exact: bool) -> Vec<Found> {
        let outputs: Vec<Memory> = outputs.iter().map(|text| Memory(text)).collect();
        let asked = Asked {
            exact,
            is_classifier: false,
            has_lines: false,
            labels: None,
        };
        judge(&asked, &Memory("1\n2\n3\n"), &outputs).unwrap()
    }

    fn classified(outputs: &[&'static str], labels: Option<&'static str>) -> Vec<Found> {
        let outputs: Vec<Memory> = outputs.iter().map(|text| Memory(text)).collect();
        let labels = labels.map(Memory);
        let asked = Asked {
            exact: true,
            is_classifier: true,
            has_lines: true,
            labels: labels.as_ref(),
        };
        judge(&asked, &Memory("1\n \n2\n\n"), &outputs).unwrap()
    }

    #[test]
    fn what_most_got_is_right_and_the_difference_is_named() {
        let outputs = ["a\nbcd\ne\n", "a\nbXd\ne\n", "a\nbcd\ne\n"];
        let judged = found(&outputs, true);
        let right = Found::Right("2 of 3 got it".to_owned());
        let wrong = "it differs from what 2 of 3 got, first in byte 3, in line 2";
        assert_eq!(
            judged,
            [right.clone(), Found::Wrong(wrong.to_owned()), right]
        );
    }

    #[test]
    fn without_a_majority_nobody_is_wrong() {
        let is_undecided = |found: &Found| matches!(found, Found::Undecided(_));
        for outputs in [&["a", "b"][..], &["a", "b", "c"], &["a"], &[]] {
            let judged = found(outputs, true);
            assert_eq!(judged.len(), outputs.len());
            assert!(judged.iter().all(is_undecided));
        }
    }

    #[test]
    fn where_other_bytes_are_no_fault_it_is_said_how_many_are_the_same() {
        let told = |outputs: &[&'static str]| {
            let found = found(outputs, false).into_iter();
            let told = found.map(|found| match found {
                Found::Undecided(why) => why,
                other => panic!("{other:?}"),
            });
            told.collect::<Vec<_>>()
        };
        let same = |same: u32, of: u32| {
            format!("{same} of {of} replicas gave the same bytes, and the work may give others")
        };
        assert_eq!(told(&["a", "a"]), [same(2, 2), same(2, 2)]);
        assert_eq!(told(&["a", "b", "a"]), [same(2, 3), same(1, 3), same(2, 3)]);
        let alone = "there is no other, and the work may give other bytes";
        assert_eq!(told(&["a"]), [alone]);
    }

    #[test]
    fn an_output_of_a_classifier_has_a_line_for_each_with_a_label_that_there_is() {
        let good = "{\"id\":\"1\",\"label\":\"a\",\"score\":0.5}\n{\"line\":2,\"error\":\"x\"}\n";
        let other = "{\"id\":\"1\",\"label\":\"b\",\"score\":0.5}\n{\"line\":2,\"error\":\"x\"}\n";
        let labels = Some("{\"labels\":[{\"name\":\"a\",\"examples\":[]}]}");
        let malformed = |found: &Found| match found {
            Found::Malformed(why) => why.clone(),
            other => panic!("{other:?}"),
        };
        let judged = classified(&[good, "{}\n", good], labels);
        assert_eq!(judged[0], Found::Right("2 of 3 got it".to_owned()));
        assert_eq!(
            malformed(&judged[1]),
            "it has 1 lines, and the input has 2 records"
        );
        let judged = classified(&[other], labels);
        assert_eq!(
            malformed(&judged[0]),
            "line 1 has a label that was not asked for"
        );
        // Whatever cannot be read as labels rules nothing out.
        for labels in [None, Some("no labels")] {
            let judged = classified(&[other], labels);
            assert!(matches!(&judged[0], Found::Undecided(_)), "{judged:?}");
        }
        let judged = classified(&["{\"label\":\"a\"}\nno line"], labels);
        assert_eq!(
            malformed(&judged[0]),
            "line 2 is neither a label nor an error"
        );
    }

    #[test]
    fn one_that_ends_early_differs_where_it_ends() {
        let judged = found(&["ab\ncd", "ab\n", "ab\ncd"], true);
        let wrong = "it differs from what 2 of 3 got, first in byte 3, in line 2";
        assert_eq!(judged[1], Found::Wrong(wrong.to_owned()));
    }
}
