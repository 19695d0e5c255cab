//! The journal of a job: its events on disk, in order, each written before it is acted upon; and with
//! them what is too small for files of its own.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::Deserialize;
use skep_registry::Digest;

use super::event::{AttemptId, Event};

const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
/// Outputs that came with the events, by digest.
const OUTPUTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("outputs");
/// What was signed for results that came: by shard and attempt, the lease and the commitment.
const TRAILS: TableDefinition<'_, (u32, u32), TwoTexts<'_>> = TableDefinition::new("trails");

/// Two encoded statements.
type TwoTexts<'a> = (&'a [u8], &'a [u8]);
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const JOB: &str = "job";

/// A journal on disk. One process has it open at a time.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    database: Database,
    next: u64,
    /// Set while a write is under way, and stays if it fails.
    broken: bool,
}

/// What is kept with events: on disk exactly if they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Outputs, each with its digest.
    pub outputs: Vec<(Digest, Vec<u8>)>,
    /// What was signed for results, each with the lease of which the result came.
    pub trails: Vec<(AttemptId, Trail)>,
}

/// What a provider signed for a result that it delivered, in its encoding.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Trail {
    /// The lease, with both signatures.
    pub lease: Vec<u8>,
    /// The commitment to the result.
    pub commitment: Vec<u8>,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error(
        "the journal {} cannot be read or written: {}; see that the disk has room and nothing \
         else uses the file",
        path.display(),
        crate::stored::reason(.error)
    )]
    Storage {
        /// Where it is.
        path: PathBuf,
        /// What the store says.
        error: Box<redb::Error>,
    },
    /// An event in it cannot be read.
    #[error("the journal {} is damaged: event {number}: {reason}", path.display())]
    Damaged {
        /// Where it is.
        path: PathBuf,
        /// Which event.
        number: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// It is another job's.
    #[error("the journal {} is that of another job, {job}", path.display())]
    OtherJob {
        /// Where it is.
        path: PathBuf,
        /// Whose it is.
        job: String,
    },
    /// An earlier write failed.
    #[error("an earlier write to the journal failed; open it again")]
    Broken,
}

impl JournalError {
    /// Whether somebody else has the journal open.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        let Self::Storage { error, .. } = self else {
            return false;
        };
        matches!(**error, redb::Error::DatabaseAlreadyOpen)
    }
}

impl Journal {
    /// Opens the journal of `job` at `path`, or makes it, and reads what is in it.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is another job's.
    pub fn open(path: &Path, job: Digest) -> Result<(Self, Vec<Event>), JournalError> {
        let fail = |error| JournalError::Storage {
            path: path.to_owned(),
            error: Box::new(error),
        };
        let database = Database::create(path).map_err(|e| fail(e.into()))?;
        let transaction = database.begin_write().map_err(|e| fail(e.into()))?;
        {
            transaction.open_table(EVENTS).map_err(|e| fail(e.into()))?;
            transaction
                .open_table(OUTPUTS)
                .map_err(|e| fail(e.into()))?;
            transaction.open_table(TRAILS).map_err(|e| fail(e.into()))?;
            let mut meta = transaction.open_table(META).map_err(|e| fail(e.into()))?;
            let found = meta.get(JOB).map_err(|e| fail(e.into()))?;
            let found = found.map(|found| found.value().to_vec());
            match found {
                None => {
                    meta.insert(JOB, job.as_bytes().as_slice())
                        .map_err(|e| fail(e.into()))?;
                }
                Some(found) if found == job.as_bytes() => {}
                Some(found) => {
                    let other = found.try_into().map(Digest::from_bytes);
                    return Err(JournalError::OtherJob {
                        path: path.to_owned(),
                        job: other.map_or_else(|_| "of no name".to_owned(), |job| job.to_string()),
                    });
                }
            }
        }
        transaction.commit().map_err(|e| fail(e.into()))?;
        let transaction = database.begin_read().map_err(|e| fail(e.into()))?;
        let table = transaction.open_table(EVENTS).map_err(|e| fail(e.into()))?;
        let mut events = Vec::new();
        for (expected, row) in (0..).zip(table.iter().map_err(|e| fail(e.into()))?) {
            let (number, bytes) = row.map_err(|e| fail(e.into()))?;
            let damaged = |reason| JournalError::Damaged {
                path: path.to_owned(),
                number: expected,
                reason,
            };
            if number.value() != expected {
                return Err(damaged("it is missing".to_owned()));
            }
            events.push(Event::decode(bytes.value()).map_err(damaged)?);
        }
        let journal = Self {
            path: path.to_owned(),
            next: events.len() as u64,
            database,
            broken: false,
        };
        Ok((journal, events))
    }

    /// Writes events behind the others. When this returns they are on disk, all of them; after an
    /// error or a crash, all of them or none.
    ///
    /// # Errors
    ///
    /// When the file cannot be written. The journal has to be opened again then.
    pub fn append(&mut self, events: &[Event]) -> Result<(), JournalError> {
        self.append_with(events, &Kept::default())
    }

    /// Writes events with what came with them, in one go: however much it is, it waits for the disk once.
    ///
    /// # Errors
    ///
    /// As [`Self::append`].
    pub fn append_with(&mut self, events: &[Event], kept: &Kept) -> Result<(), JournalError> {
        if self.broken {
            return Err(JournalError::Broken);
        }
        if events.is_empty() {
            return Ok(());
        }
        self.broken = true;
        self.write(events, kept)
            .map_err(|error| JournalError::Storage {
                path: self.path.clone(),
                error: Box::new(error),
            })?;
        self.next += events.len() as u64;
        self.broken = false;
        Ok(())
    }

    /// An output that came with an event.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn output(&self, digest: Digest) -> Result<Option<Vec<u8>>, JournalError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(OUTPUTS)?;
            let found = table.get(digest.as_bytes())?;
            Ok(found.map(|found| found.value().to_vec()))
        };
        read().map_err(|error| JournalError::Storage {
            path: self.path.clone(),
            error: Box::new(error),
        })
    }

    /// What was signed for a result that came, if that was kept with it.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn trail(&self, id: AttemptId) -> Result<Option<Trail>, JournalError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(TRAILS)?;
            let found = table.get((id.shard, id.attempt))?;
            Ok(found.map(|found| {
                let (lease, commitment) = found.value();
                Trail {
                    lease: lease.to_vec(),
                    commitment: commitment.to_vec(),
                }
            }))
        };
        read().map_err(|error| JournalError::Storage {
            path: self.path.clone(),
            error: Box::new(error),
        })
    }

    /// Takes the outputs away: the job is over, and what counts is in its result. What was signed stays.
    ///
    /// # Errors
    ///
    /// When the file cannot be written. The journal has to be opened again then.
    pub fn forget_outputs(&mut self) -> Result<(), JournalError> {
        if self.broken {
            return Err(JournalError::Broken);
        }
        self.broken = true;
        let forget = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            transaction.delete_table(OUTPUTS)?;
            transaction.open_table(OUTPUTS)?;
            transaction.commit()?;
            Ok(())
        };
        forget().map_err(|error| JournalError::Storage {
            path: self.path.clone(),
            error: Box::new(error),
        })?;
        self.broken = false;
        Ok(())
    }

    fn write(&self, events: &[Event], kept: &Kept) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(EVENTS)?;
            for (number, event) in (self.next..).zip(events) {
                table.insert(number, event.encode().as_slice())?;
            }
            if !kept.outputs.is_empty() {
                let mut table = transaction.open_table(OUTPUTS)?;
                for (digest, output) in &kept.outputs {
                    table.insert(digest.as_bytes(), output.as_slice())?;
                }
            }
            if !kept.trails.is_empty() {
                let mut table = transaction.open_table(TRAILS)?;
                for (id, trail) in &kept.trails {
                    let signed = (trail.lease.as_slice(), trail.commitment.as_slice());
                    table.insert((id.shard, id.attempt), signed)?;
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// How many events there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.next
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next == 0
    }
}
