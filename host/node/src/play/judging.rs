//! Judging evidence again: whether what others wrote down of a village's violations is so.
//!
//! Nothing in a record is believed but its digests. The log is played to the moment that it names,
//! by the component that the record names, and the same output is put before the same judge. It
//! must never take a record that it could not play for one that is false.

use std::path::Path;

use serde::Serialize;
use skep_sandbox::{Beginning, CallError, Cancel, Sandbox};

use super::evidence::{Record, Reported, lines, log_of};
use super::sandboxed::{Part, open_village};
use super::told;
use crate::beside::folder_of;

/// What a record is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Worth {
    /// The village refuses this output at this moment, for this fault.
    Holds,
    /// It does not: the village takes the output, or the moment never was.
    False,
    /// It is no record, or nobody's who signed it.
    Unsound,
    /// What it takes to judge it is not there.
    Unknown,
}

/// What came of one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// Which line, from 1.
    pub line: usize,
    /// What the record is worth.
    pub worth: Worth,
    /// Why, in words.
    pub why: String,
    /// Who reported it, if the line is sound.
    pub reporter: Option<String>,
    /// Against whom, if the line is sound.
    pub node: Option<String>,
}

/// What records are judged with.
pub struct Bench<'a> {
    /// Where the village runs.
    pub sandbox: &'a Sandbox,
    /// The village.
    pub village: &'a Part,
    /// Bytes that a log may have.
    pub log: u64,
}

impl Bench<'_> {
    /// Judges every record of a file; `told` is handed each as it is done.
    ///
    /// # Errors
    /// When the file cannot be read. A record that is wrong is no error.
    pub fn judge(&self, path: &Path, told: &mut impl FnMut(Judged)) -> std::io::Result<()> {
        for (number, line) in lines(path)?.enumerate() {
            let judged = |worth, why| Judged {
                line: number + 1,
                worth,
                why,
                reporter: None,
                node: None,
            };
            told(match Reported::read(&line?) {
                Err(error) => judged(Worth::Unsound, told::shown(&error.to_string())),
                Ok(reported) => {
                    let (worth, why) = self.worth(folder_of(path), &reported.record);
                    Judged {
                        reporter: Some(reported.reporter),
                        node: Some(told::shown(&reported.record.node)),
                        ..judged(worth, told::shown(&why))
                    }
                }
            });
        }
        Ok(())
    }

    /// What a record is worth, whose log lies in the folder.
    fn worth(&self, folder: &Path, record: &Record) -> (Worth, String) {
        let digest = self.village.program.digest().to_string();
        if record.village != digest {
            let why = format!(
                "it is of the village {}, and this is {digest}; name that one with --village",
                record.village
            );
            return (Worth::Unknown, why);
        }
        let log = match self.log(folder, &record.log) {
            Ok(log) => log,
            Err(why) => return (Worth::Unknown, why),
        };
        match self.replay(record, log) {
            Ok(verdict) => verdict,
            Err(CallError::Refused(why)) => (Worth::False, format!("this moment never was: {why}")),
            Err(CallError::Over(failed)) => {
                (Worth::Unknown, format!("the village failed: {failed}"))
            }
        }
    }

    fn log(&self, folder: &Path, digest: &str) -> Result<Vec<u8>, String> {
        // Whoever wrote the record chose this name.
        if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("it does not name the log by its digest".to_owned());
        }
        let path = log_of(folder, digest);
        let size = std::fs::metadata(&path).map_err(|error| {
            format!(
                "the log that leads to it is not there ({}: {error}); it was written beside the \
                 records, get it from who has them",
                path.display()
            )
        })?;
        if size.len() > self.log {
            return Err(format!("{} is too large for a log", path.display()));
        }
        let log = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        match blake3::hash(&log).to_hex().as_str() == digest {
            true => Ok(log),
            false => Err(format!("{} is another log", path.display())),
        }
    }

    fn replay(&self, record: &Record, log: Vec<u8>) -> Result<(Worth, String), CallError> {
        let beginning = Beginning::Log(log);
        let mut village = open_village(self.sandbox, self.village, beginning, &Cancel::new())?;
        if village.hash()? != record.state || village.talks()? != record.talk {
            let why = "the log leads to another moment than the record says".to_owned();
            return Ok((Worth::False, why));
        }
        village.talk(&record.person, &record.words)?;
        let outcome = village.commit(&record.output, &record.node)?;
        Ok(match outcome.refused {
            None => (
                Worth::False,
                "the village takes this output: it stands".to_owned(),
            ),
            Some((violation, why)) => match told::fault(violation.fault) {
                fault if fault == record.fault => (Worth::Holds, why),
                fault => (
                    Worth::False,
                    format!("the output is {fault}, and not {}: {why}", record.fault),
                ),
            },
        })
    }
}
