//! Evidence: what a node produced that did not stand, in a form that another can judge again.
//!
//! The village says it first: no record is written but of an output that it refused and reported
//! (`skep:verify/reports`). A record names everything that the verdict rests on by digest: the
//! village and the renderer, the model, the prompt, the log before the talk. Its writer signs it,
//! and the log lies beside it under its digest, so that whoever has the village's component can
//! play to the same moment and put the same output before the same judge (`judging`).

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skep_evidence::{AccountId, AccountKey, Keys, Report, Signed, Statement as _};
use skep_registry::Digest;

use super::{PlayError, save};
use crate::beside::folder_of;

/// Bytes of a line that are read at most: several times what a record can have.
const LINE: u64 = 1 << 20;

/// A reply that did not stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The form of this record: [`KIND`].
    pub kind: String,
    /// What was wrong: `unreadable`, `unchecked`, `contradiction`, `leak` or `illegal`.
    pub fault: String,
    /// The same in the words of the village's report.
    pub reason: String,
    /// The node that produced it.
    pub node: String,
    /// The digest of the model that was asked; none if the renderer asked none.
    pub model: Option<String>,
    /// The digest of the adapter that the renderer says it wrote with.
    pub adapter: Option<String>,
    /// The BLAKE3 of the prompt's text.
    pub prompt: Option<String>,
    /// Whether the model could write only what the scene's grammar admits.
    pub constrained: bool,
    /// What the renderer handed on, and the village refused.
    pub output: String,
    /// What the model wrote: where it is not the output, the renderer made the difference.
    pub written: Option<String>,
    /// The digest of the renderer's component.
    pub renderer: String,
    /// The digest of the village's component.
    pub village: String,
    /// Who was to speak.
    pub person: String,
    /// What they were told.
    pub words: String,
    /// The hash of the village's state at that moment.
    pub state: String,
    /// The BLAKE3 of the log that leads to it.
    pub log: String,
    /// Which talk of the log it would have been, counted from 0.
    pub talk: u32,
}

/// The form of records that are written now.
pub const KIND: &str = "skep village violation 2";

/// A record with its writer's name to it. One JSON object, on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// The record.
    #[serde(flatten)]
    pub record: Record,
    /// The account of who wrote it down.
    pub reporter: String,
    /// The signed [`Report`] of it, in hexadecimal digits.
    pub report: String,
}

/// Why a line is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum Unsound {
    /// It is no record.
    #[error("the line is no record of a violation: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// It is a record of another form.
    #[error("the record has the form {0:?}, and {KIND:?} is read; use the skep that wrote it")]
    Form(String),
    /// Its signature does not hold.
    #[error("the report is not signed: {0}")]
    Unsigned(#[from] skep_evidence::StatementError),
    /// The report's digits are none.
    #[error("the report is not in hexadecimal digits")]
    Digits,
    /// The signature is of something else.
    #[error("the report that was signed is of another {0}; the record was altered")]
    Altered(&'static str),
}

impl Record {
    /// What is signed of it.
    fn report(&self, reporter: AccountId) -> serde_json::Result<Report> {
        Ok(Report {
            reporter,
            output: Digest::of(self.output.as_bytes()),
            record: Digest::of(&serde_json::to_vec(self)?),
        })
    }
}

impl Reported {
    /// Reads a line, and checks what it alone can show: that its reporter signed this record.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(line: &[u8]) -> Result<Self, Unsound> {
        let reported: Self = serde_json::from_slice(line)?;
        if reported.record.kind != KIND {
            return Err(Unsound::Form(
                reported.record.kind.chars().take(64).collect(),
            ));
        }
        let bytes = hex::decode(&reported.report).map_err(|_| Unsound::Digits)?;
        let signed = Signed::<Report>::decode(&bytes, &mut Keys::default())?;
        let report = reported.record.report(signed.body().reporter)?;
        match signed.body() {
            body if body.reporter.to_string() != reported.reporter => {
                Err(Unsound::Altered("reporter"))
            }
            body if body.output != report.output => Err(Unsound::Altered("output")),
            body if body.record != report.record => Err(Unsound::Altered("record")),
            _ => Ok(reported),
        }
    }
}

/// Where evidence is kept: records are added to a file, and none is ever taken out.
pub struct Evidence {
    file: File,
    folder: PathBuf,
    key: Arc<AccountKey>,
}

impl Evidence {
    /// Opens the file, or makes it. What is written is signed with the key.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn open(path: &Path, key: Arc<AccountKey>) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            file,
            folder: folder_of(path).to_owned(),
            key,
        })
    }

    /// Adds a record, as one write, and before it the log that leads to it.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn add(&mut self, record: Record, log: &[u8]) -> Result<(), PlayError> {
        let failed = |error: &dyn std::fmt::Display| {
            PlayError::Failed(format!("the evidence could not be written down: {error}"))
        };
        let path = log_of(&self.folder, &record.log);
        save(&path, log).map_err(|error| failed(&error))?;
        let report = record
            .report(self.key.id())
            .map_err(|error| failed(&error))?;
        let signed = report.sign(&self.key).map_err(|error| failed(&error))?;
        let reported = Reported {
            record,
            reporter: self.key.id().to_string(),
            report: hex::encode(signed.encode()),
        };
        let mut line = serde_json::to_vec(&reported).map_err(|error| failed(&error))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|error| failed(&error))
    }
}

/// Where the log with this digest lies, beside the records.
pub fn log_of(folder: &Path, digest: &str) -> PathBuf {
    folder.join(format!("{digest}.game"))
}

/// Reads the lines of a file, each whole or cut where no record is as long.
///
/// # Errors
/// When it cannot be read.
pub fn lines(path: &Path) -> std::io::Result<impl Iterator<Item = std::io::Result<Vec<u8>>>> {
    let mut reader = BufReader::new(File::open(path)?);
    Ok(std::iter::from_fn(move || {
        let mut line = Vec::new();
        let read = reader.by_ref().take(LINE).read_until(b'\n', &mut line);
        match read {
            Ok(0) => None,
            Ok(_) => Some(Ok(line)),
            Err(error) => Some(Err(error)),
        }
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn record(log: &[u8]) -> Record {
        Record {
            kind: KIND.to_owned(),
            fault: "leak".to_owned(),
            reason: "it is a secret".to_owned(),
            node: "a node".to_owned(),
            model: None,
            adapter: None,
            prompt: None,
            constrained: true,
            output: "The map is at the mill. | nothing".to_owned(),
            written: None,
            renderer: "r".to_owned(),
            village: "v".to_owned(),
            person: "Bram".to_owned(),
            words: "Where is the map?".to_owned(),
            state: "s".to_owned(),
            log: Digest::of(log).to_string(),
            talk: 3,
        }
    }

    #[test]
    fn what_is_written_down_is_signed_and_no_word_of_it_can_be_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evidence.jsonl");
        let key = Arc::new(AccountKey::from_seed(&[7; 32]));
        let mut evidence = Evidence::open(&path, key).unwrap();
        evidence.add(record(b"a log"), b"a log").unwrap();
        evidence.add(record(b"another"), b"another").unwrap();
        let written: Vec<Vec<u8>> = lines(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(written.len(), 2);
        let read = Reported::read(&written[0]).unwrap();
        assert_eq!(read.record, record(b"a log"));
        let log = log_of(folder.path(), &read.record.log);
        assert_eq!(std::fs::read(log).unwrap(), b"a log");

        let text = String::from_utf8(written[0].clone()).unwrap();
        for (from, to) in [
            ("\"talk\":3", "\"talk\":4"),
            ("at the mill", "at the keep"),
            ("a node", "b node"),
            ("Bram", "Cole"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            let error = Reported::read(changed.as_bytes()).unwrap_err();
            assert!(matches!(error, Unsound::Altered(_)), "{error}");
        }
        let other = AccountKey::from_seed(&[8; 32]).id().to_string();
        let changed = text.replace(&read.reporter, &other);
        assert!(Reported::read(changed.as_bytes()).is_err());
        assert!(Reported::read(b"{}").is_err());
        assert!(Reported::read(&text.as_bytes()[..text.len() / 2]).is_err());
    }
}
