//! What is kept ready, as it is written down in `kept.json` in the home folder.
//!
//! A file that cannot be read keeps nobody from anything: it is set aside, the log and `skep node status`
//! say so, and it counts as empty.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skep_registry::Digest;

use super::super::{failed, folder};
use super::{MOST, What};
use crate::failure::{Failure, FailureKind};

/// Something that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The release of the package.
    pub package: Digest,
    /// That of the adapter.
    pub adapter: Option<Digest>,
    /// Until when, in milliseconds since 1970.
    pub until: u64,
}

impl Note {
    /// What is kept.
    pub fn what(&self) -> What {
        (self.package, self.adapter)
    }
}

/// Where a file goes that cannot be read.
pub fn aside(path: &Path) -> PathBuf {
    path.with_extension("json.damaged")
}

/// What was written down last and has not had its time.
pub fn read(path: &Path, now: u64) -> Result<Vec<Note>, Failure> {
    let read = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read,
    };
    let notes = read
        .map_err(|error| error.to_string())
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
    let mut notes: Vec<Note> = match notes {
        Ok(notes) => notes,
        Err(reason) => {
            set_aside(path, &reason)?;
            Vec::new()
        }
    };
    notes.retain(|note| note.until > now);
    Ok(notes)
}

/// Writes down what is kept, and behind that what of the notes before is still to be got ready.
pub fn write(path: &Path, kept: Vec<Note>, now: u64) -> Result<(), Failure> {
    let mut notes = kept;
    for earlier in read(path, now)? {
        if !notes.iter().any(|note| note.what() == earlier.what()) {
            notes.push(earlier);
        }
    }
    // What is kept stands in front, and there is never more of it.
    notes.truncate(MOST);
    let notes = serde_json::to_vec(&notes).map_err(failed)?;
    folder::put(path, &notes).map_err(failed)
}

fn set_aside(path: &Path, reason: &str) -> Result<(), Failure> {
    let aside = aside(path);
    fs::rename(path, &aside).map_err(|error| {
        Failure::new(
            FailureKind::Failed,
            format!(
                "{}, which says what this node keeps ready for others, cannot be read ({reason}), \
                 nor set aside ({error}); remove it, and what it says is kept no more",
                path.display()
            ),
        )
    })?;
    tracing::warn!(
        reason,
        "{}, which says what this node keeps ready for others, cannot be read and is now {}; what was to be \
         kept from before the last start is not. Remove that file once you have seen it",
        path.display(),
        aside.display()
    );
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn note(name: u64, until: u64) -> Note {
        Note {
            package: Digest::of(&name.to_le_bytes()),
            adapter: None,
            until,
        }
    }

    #[test]
    fn what_is_written_down_is_read_until_its_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept.json");
        assert_eq!(read(&path, 0).unwrap(), []);
        write(&path, vec![note(1, 10), note(2, 20)], 0).unwrap();
        // What is not here yet stays written down, behind what is.
        write(&path, vec![note(3, 30)], 0).unwrap();
        let all = [note(3, 30), note(1, 10), note(2, 20)];
        assert_eq!(read(&path, 0).unwrap(), all);
        assert_eq!(read(&path, 10).unwrap(), [note(3, 30), note(2, 20)]);
        // What is here is written as it is now.
        write(&path, vec![note(2, 25)], 15).unwrap();
        assert_eq!(read(&path, 15).unwrap(), [note(2, 25), note(3, 30)]);
        let many = (0..MOST as u64).map(|name| note(100 + name, 50));
        write(&path, many.clone().collect(), 15).unwrap();
        assert_eq!(read(&path, 15).unwrap(), many.collect::<Vec<_>>());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_set_aside_and_counts_as_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept.json");
        for damaged in [&b"[{\"package\":"[..], b"{}", b"\xff\xfe", b""] {
            fs::write(&path, damaged).unwrap();
            write(&path, vec![note(1, 10)], 0).unwrap();
            assert_eq!(read(&path, 0).unwrap(), [note(1, 10)]);
            assert_eq!(fs::read(aside(&path)).unwrap(), damaged);
        }
        // Where it cannot be set aside either, what to do is said.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let refused = read(&path, 0).unwrap_err().message;
        assert!(refused.contains("kept.json"), "{refused}");
        assert!(refused.contains("remove it"), "{refused}");
    }
}
