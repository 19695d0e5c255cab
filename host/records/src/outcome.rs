//! What became of each record: one JSON object per line, the same bytes for the same outcome.

use std::io::{self, Write};

use serde::Serialize;

/// What became of one record.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Outcome<'a> {
    /// `{"id":…,"label":…,"score":…}`
    Labelled {
        /// The record's identifier.
        id: &'a str,
        /// The label that it was given.
        label: &'a str,
        /// How sure that is, written with six significant digits; `null` if it is no number.
        #[serde(serialize_with = "six_digits")]
        score: f32,
    },
    /// `{"line":…,"id":…,"error":…}`, without the identifier where there is none.
    Failed {
        /// The line where the record begins, from 1.
        line: u64,
        /// The record's identifier, if it could be read.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        /// What is wrong, for a person.
        error: &'a str,
    },
}

fn six_digits<S: serde::Serializer>(score: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    // Through text, because that is what is rounded: 0.1_f32 is 0.1, not 0.10000000149.
    let rounded = format!("{score:.5e}").parse::<f64>().unwrap_or(f64::NAN);
    serializer.serialize_f64(rounded)
}

/// Writes outcomes, and counts them.
pub struct OutcomeWriter<W> {
    output: W,
    line: Vec<u8>,
    labelled: u64,
    failed: u64,
}

impl<W: Write> OutcomeWriter<W> {
    /// A writer to `output`, which should be buffered: there is one write per outcome.
    pub fn new(output: W) -> Self {
        Self {
            output,
            line: Vec::new(),
            labelled: 0,
            failed: 0,
        }
    }

    /// Writes one outcome and a newline, in one write.
    ///
    /// # Errors
    ///
    /// When the output cannot be written to. What was not written is not counted.
    pub fn write(&mut self, outcome: &Outcome<'_>) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, outcome)?;
        self.line.push(b'\n');
        self.output.write_all(&self.line)?;
        match outcome {
            Outcome::Labelled { .. } => self.labelled += 1,
            Outcome::Failed { .. } => self.failed += 1,
        }
        Ok(())
    }

    /// How many records were labelled.
    pub fn labelled(&self) -> u64 {
        self.labelled
    }

    /// How many were not.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Flushes and gives the output back.
    ///
    /// # Errors
    ///
    /// When what is buffered cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(outcome: Outcome<'_>) -> String {
        let mut writer = OutcomeWriter::new(Vec::new());
        writer.write(&outcome).unwrap();
        String::from_utf8(writer.finish().unwrap()).unwrap()
    }

    #[test]
    fn each_outcome_is_one_line_in_one_order() {
        insta::assert_snapshot!(written(Outcome::Labelled { id: "a\n", label: "x", score: 0.5 }).trim_end(), @r#"{"id":"a\n","label":"x","score":0.5}"#);
        insta::assert_snapshot!(written(Outcome::Failed { line: 3, id: None, error: "bad" }).trim_end(), @r#"{"line":3,"error":"bad"}"#);
        insta::assert_snapshot!(written(Outcome::Failed { line: 3, id: Some("a"), error: "bad" }).trim_end(), @r#"{"line":3,"id":"a","error":"bad"}"#);
    }

    #[test]
    fn scores_have_six_significant_digits() {
        let score = |score| {
            let line = written(Outcome::Labelled {
                id: "",
                label: "",
                score,
            });
            line.trim_end()
                .rsplit(':')
                .next()
                .unwrap()
                .trim_end_matches('}')
                .to_owned()
        };
        assert_eq!(score(0.123_456_78), "0.123457");
        assert_eq!(score(0.1), "0.1");
        assert_eq!(score(1.0), "1.0");
        assert_eq!(score(0.999_999_9), "1.0");
        assert_eq!(score(0.000_012_345_67), "0.0000123457");
        assert_eq!(score(f32::NAN), "null");
        assert_eq!(score(f32::INFINITY), "null");
    }

    #[test]
    fn outcomes_are_counted_when_they_are_written() {
        let mut room = [0; 40];
        let mut writer = OutcomeWriter::new(&mut room[..]);
        writer
            .write(&Outcome::Labelled {
                id: "a",
                label: "x",
                score: 0.5,
            })
            .unwrap();
        assert!(
            writer
                .write(&Outcome::Failed {
                    line: 1,
                    id: None,
                    error: "bad"
                })
                .is_err()
        );
        assert_eq!((writer.labelled(), writer.failed()), (1, 0));
    }
}
