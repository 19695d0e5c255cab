//! What is found of outputs, whatever they are read from.
//!
//! It must never find an output wrong that most got, or right one that they did not.

use std::collections::BTreeMap;

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

/// What is found of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is right.
    Right(String),
    /// It is not.
    Wrong(String),
    /// There is no telling.
    Undecided(String),
}

/// What is read at once.
const PIECE: u32 = 256 << 10;

/// Judges outputs. `exact` is whether the same work gives the same bytes, `lines` whether an output
/// has as many lines as the input.
///
/// # Errors
///
/// When something cannot be read.
pub fn judge<B: Bytes>(
    input: &B,
    outputs: &[B],
    exact: bool,
    lines: bool,
) -> Result<Vec<Found>, B::Error> {
    let expected = if lines { Some(count(input)?) } else { None };
    let mut votes: BTreeMap<String, usize> = BTreeMap::new();
    for output in outputs {
        *votes.entry(output.digest()).or_default() += 1;
    }
    let majority = votes.iter().find(|(_, votes)| 2 * **votes > outputs.len());
    let majority = majority.filter(|_| exact && outputs.len() > 1);
    let model = majority.and_then(|(right, votes)| {
        let output = outputs.iter().find(|output| output.digest() == *right)?;
        Some((output, *votes))
    });
    let found = outputs.iter().map(|output| {
        if let Some(expected) = expected {
            let lines = count(output)?;
            if lines != expected {
                let why = format!("it has {lines} lines, and the input has {expected}");
                return Ok(Found::Wrong(why));
            }
        }
        let of = outputs.len();
        let Some((model, votes)) = model else {
            let why = match exact {
                true => format!("no output of the {of} has a majority"),
                false => "the work may give other bytes elsewhere".to_owned(),
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

    fn found(outputs: &[&'static str], exact: bool, lines: bool) -> Vec<Found> {
        let outputs: Vec<Memory> = outputs.iter().map(|text| Memory(text)).collect();
        judge(&Memory("1\n2\n3\n"), &outputs, exact, lines).unwrap()
    }

    #[test]
    fn what_most_got_is_right_and_the_difference_is_named() {
        let outputs = ["a\nbcd\ne\n", "a\nbXd\ne\n", "a\nbcd\ne\n"];
        let judged = found(&outputs, true, true);
        let right = Found::Right("2 of 3 got it".to_owned());
        let wrong = "it differs from what 2 of 3 got, first in byte 3, in line 2";
        assert_eq!(
            judged,
            [right.clone(), Found::Wrong(wrong.to_owned()), right]
        );
    }

    #[test]
    fn without_a_majority_nobody_is_wrong() {
        for outputs in [&["a", "b"][..], &["a", "b", "c"], &["a"], &[]] {
            let judged = found(outputs, true, false);
            assert_eq!(judged.len(), outputs.len());
            assert!(
                judged
                    .iter()
                    .all(|found| matches!(found, Found::Undecided(_)))
            );
        }
        let judged = found(&["a", "a", "b"], false, false);
        assert!(
            judged
                .iter()
                .all(|found| matches!(found, Found::Undecided(_)))
        );
    }

    #[test]
    fn an_output_has_as_many_lines_as_the_input() {
        let judged = found(&["a\nb\nc", "a\nb\n", "a\nb\nc"], true, true);
        assert!(
            matches!(&judged[..], [Found::Right(_), Found::Wrong(why), Found::Right(_)]
            if why == "it has 2 lines, and the input has 3")
        );
    }

    #[test]
    fn one_that_ends_early_differs_where_it_ends() {
        let judged = found(&["ab\ncd", "ab\n", "ab\ncd"], true, false);
        let wrong = "it differs from what 2 of 3 got, first in byte 3, in line 2";
        assert_eq!(judged[1], Found::Wrong(wrong.to_owned()));
    }
}
