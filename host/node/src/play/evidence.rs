//! Evidence: what a node produced that did not stand, in a form that another can judge again.
//!
//! A record names everything that the verdict rests on by digest: the village and the renderer,
//! the model, the prompt, the log before the talk. Whoever has the log and the village's
//! component can play to the same moment and put the same output before the same judge.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::PlayError;

/// A reply that did not stand. One JSON object, on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// The form of this record: `skep village violation 1`.
    pub kind: &'static str,
    /// What was wrong: `unreadable`, `unchecked`, `contradiction`, `leak` or `illegal`.
    pub fault: &'static str,
    /// The same in words.
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
pub const KIND: &str = "skep village violation 1";

/// Where evidence is kept: records are added to a file, and none is ever taken out.
pub struct Evidence(File);

impl Evidence {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self(file))
    }

    /// Adds a record, as one write.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn add(&mut self, record: &Record) -> Result<(), PlayError> {
        let failed = |error: std::io::Error| {
            PlayError::Failed(format!("the evidence could not be written down: {error}"))
        };
        let mut line = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        self.0.write_all(&line).map_err(failed)
    }
}
