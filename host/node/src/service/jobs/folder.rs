//! A job on the requester's disk: what it is, its input, its journal, and what has come of it.
//!
//! ```text
//! jobs/<job>/spec.json    what the job is; never changed
//! jobs/<job>/input        the records, copied: the file that was given may change
//! jobs/<job>/labels       the labels file, if there is one
//! jobs/<job>/journal.redb what happened
//! jobs/<job>/outputs/     outputs of shards that are not in the result, by digest: not yet, or because
//!                         others delivered another; and those that are coming, under other names
//! jobs/<job>/result       the outputs that are, one behind the other
//! jobs/<job>/candidates/  lists of those who may audit, by digest
//! jobs/<job>/trail/       what was signed for results before journals held that, as earlier versions did
//! jobs/<job>/shown/        what is shown of the texts of results that are followed
//! jobs/<job>/evidence/    accusations of those whose results were found wrong
//! jobs/<job>/hardware.json what those who worked on it were found to run on, if any showed it
//! jobs/<job>/undelivered  why the result could not be written to where it goes, until it is there
//! jobs/<job>/over         there once the job has ended and everything is paid
//! ```

mod delivery;
mod input;
#[cfg(test)]
pub(super) mod testing;

pub use delivery::{can_be_written, with_the_job};
pub use input::Input;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skep_evidence::{AccountId, Candidates, Credits, Split};
use skep_market::{AttemptId, JobPlan, Trail};
use skep_registry::Digest;
use tempfile::{NamedTempFile, TempPath};

use super::{adapters, failed};
use crate::failure::{Failure, FailureKind};
use crate::home::Home;
use crate::requests::hardware::Hardware;

/// What a job is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Its name.
    pub job: Digest,
    /// The package, for people.
    pub package: String,
    /// The release of it.
    pub release: Digest,
    /// The models that it gets, if it gets any.
    pub model: Option<Digest>,
    /// The adapter that it runs with, if it does with one.
    #[serde(default)]
    pub adapter: Option<Adapter>,
    /// For how many seconds each provider keeps things ready.
    #[serde(default)]
    pub warm: u64,
    /// Where each shard lies in the input.
    pub shards: Vec<Piece>,
    /// If the input is comma-separated: where its header lies, which goes with each shard.
    #[serde(default)]
    pub header: Option<Piece>,
    /// The most bytes that the input of a shard has.
    pub largest: u64,
    /// Arguments of a task.
    pub arguments: Vec<String>,
    /// How many providers have to agree on each shard.
    pub replicas: u32,
    /// Whether its work gives the same bytes, and takes as much, wherever it is done.
    #[serde(default)]
    pub exact: bool,
    /// Whether only nodes get a shard that show hardware which is believed.
    #[serde(default)]
    pub attested: bool,
    /// How many of a million results are audited.
    #[serde(default)]
    pub audit: u32,
    /// Whether auditors follow the texts of a result, so that they may be on machines of other kinds.
    #[serde(default)]
    pub followed: bool,
    /// Whether of replicas one that is another than enough others is looked at: where they have to be the
    /// same, and enough have something to lose to have a say.
    #[serde(default)]
    pub looks_at_odd: bool,
    /// What a provider has to have at stake here, in micro-credits.
    #[serde(default)]
    pub min_stake: u64,
    /// All that it may cost, in micro-credits.
    pub budget: u64,
    /// Until when, in milliseconds since 1970.
    pub deadline: u64,
    /// When it began.
    pub began: u64,
    /// Tickets of providers that were named.
    pub providers: Vec<String>,
    /// Whether nobody else gets a shard.
    #[serde(default)]
    pub only: bool,
    /// Where the result goes; none is that it stays here.
    pub output: Option<PathBuf>,
    /// The package whose run began it, if none of its owner's commands did.
    #[serde(default)]
    pub begun_by: Option<String>,
    /// What the secrets of its leases grow from.
    pub root: [u8; 32],
}

/// An adapter that a job runs with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Adapter {
    /// Its release.
    pub release: Digest,
    /// What it is called, for people.
    pub reference: String,
    /// What each account of its family gets of every price, in millionths.
    pub shares: Vec<(String, u32)>,
}

/// A shard's part of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Its first byte.
    pub start: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// The number of its first line, from 1.
    pub first_line: u64,
    /// How many lines it has.
    pub lines: u64,
}

/// No lease waits longer for its result, in milliseconds.
const PATIENCE: u64 = 10 * 60 * 1000;
/// As long as fewer than three results are there, or none of half of the providers, a shard gets a second lease after so
/// long, or after a quarter of the time that the job has.
const FIRST_PATIENCE: u64 = 30 * 1000;

impl Spec {
    /// Who gets a part of every price beside its provider.
    pub fn split(&self) -> Result<Split, Failure> {
        let shares = self.adapter.as_ref().map(|adapter| &*adapter.shares);
        adapters::read(shares.unwrap_or_default())
    }

    /// Whether somebody may be charged by what others got, so that what is signed is kept.
    pub fn charges(&self) -> bool {
        self.audit > 0 || self.looks_at_odd
    }

    /// How many leases it takes if nothing goes wrong, each of which may cost the same part of all.
    pub fn leases(&self) -> u64 {
        let results = self.shards.len() as u64 * u64::from(self.replicas);
        results + (results * u64::from(self.audit)).div_ceil(1_000_000)
    }

    /// What the state machine has to know.
    pub fn plan(&self) -> JobPlan {
        let shards = u32::try_from(self.shards.len()).unwrap_or(u32::MAX);
        JobPlan {
            job: self.job,
            shards,
            replicas: self.replicas,
            exact: self.exact,
            followed: self.followed,
            looks_at_odd: self.looks_at_odd,
            budget: Credits::from_micro(self.budget),
            lease_limit: Credits::from_micro(self.budget / self.leases().max(1)),
            deadline: self.deadline,
            patience: PATIENCE,
            first_patience: FIRST_PATIENCE.min(self.deadline.saturating_sub(self.began) / 4),
            max_attempts: 5 + 3 * self.replicas,
            // Of two texts that differ both may be right, and then one would have been made for nothing.
            hedges: u32::from(!self.followed),
        }
    }
}

/// The folder of a job.
#[derive(Debug, Clone)]
pub struct Folder {
    /// The job's name.
    pub id: Digest,
    path: PathBuf,
}

/// Every job in a home, newest first. What is no job's folder is left out.
pub fn all(home: &Home) -> Vec<Folder> {
    let entries = fs::read_dir(home.jobs()).into_iter().flatten().flatten();
    let mut found: Vec<(u64, Folder)> = entries
        .filter_map(|entry| {
            let id: Digest = entry.file_name().to_str()?.parse().ok()?;
            let folder = Folder {
                id,
                path: entry.path(),
            };
            let began = folder.spec().ok()?.began;
            Some((began, folder))
        })
        .collect();
    found.sort_by_key(|(began, folder)| (std::cmp::Reverse(*began), folder.id));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// The one job whose name begins so.
pub fn find(home: &Home, name: &str) -> Result<Folder, Failure> {
    let matches = |folder: &Folder| !name.is_empty() && folder.id.to_string().starts_with(name);
    let mut found = all(home).into_iter().filter(matches);
    match (found.next(), found.next()) {
        (Some(folder), None) => Ok(folder),
        (Some(_), Some(_)) => Err(Failure::new(
            FailureKind::Usage,
            format!("several jobs begin with {name:?}; give more of the name"),
        )),
        (None, _) => Err(Failure::new(
            FailureKind::NotFound,
            format!("there is no job {name:?} here; `skep job status` lists those that are"),
        )),
    }
}

/// The job of exactly this name.
pub fn named(home: &Home, id: Digest) -> Option<Folder> {
    let path = home.jobs().join(id.to_string());
    path.is_dir().then_some(Folder { id, path })
}

/// A new job: all of it is on disk when this returns, or nothing.
pub fn create(
    home: &Home,
    spec: &Spec,
    input: &Path,
    labels: Option<&[u8]>,
) -> Result<Folder, Failure> {
    crate::home::make_private(&home.jobs()).map_err(failed)?;
    let write = || -> io::Result<Folder> {
        let draft = tempfile::Builder::new()
            .prefix(".draft-")
            .tempdir_in(home.jobs())?;
        fs::copy(input, draft.path().join("input"))?;
        File::open(draft.path().join("input"))?.sync_all()?;
        if let Some(labels) = labels {
            put(&draft.path().join("labels"), labels)?;
        }
        fs::create_dir(draft.path().join("outputs"))?;
        put(&draft.path().join("spec.json"), &serde_json::to_vec(spec)?)?;
        let path = home.jobs().join(spec.job.to_string());
        fs::rename(draft.path(), &path)?;
        // There is nothing at the old place to be cleaned up.
        let _ = draft.keep();
        File::open(home.jobs())?.sync_all()?;
        Ok(Folder { id: spec.job, path })
    };
    write().map_err(failed)
}

impl Folder {
    /// What the job is.
    pub fn spec(&self) -> Result<Spec, Failure> {
        let path = self.path.join("spec.json");
        let bytes = fs::read(&path).map_err(failed)?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(
                FailureKind::Failed,
                format!("{} is damaged: {error}", path.display()),
            )
        })
    }

    /// Where the journal is.
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal.redb")
    }

    /// Where the result is.
    pub fn result(&self) -> PathBuf {
        self.path.join("result")
    }

    /// Whether nothing is left to be done.
    pub fn is_over(&self) -> bool {
        self.path.join("over").exists()
    }

    /// Says that nothing is left to be done. Of the outputs only `kept` are not taken away.
    pub fn set_over(&self, kept: &BTreeSet<Digest>) -> Result<(), Failure> {
        let cleared = self.clear(|digest| kept.contains(&digest));
        let over = cleared.and_then(|()| put(&self.path.join("over"), b""));
        over.map_err(failed)
    }

    /// Takes away what is left of outputs that were coming when a process was killed.
    pub fn forget_coming(&self) -> Result<(), Failure> {
        self.clear(|_| true).map_err(failed)
    }

    /// Takes away the outputs that are not to stay, and all files that are none.
    fn clear(&self, stays: impl Fn(Digest) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(self.outputs())? {
            let entry = entry?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| name.parse::<Digest>().ok());
            if digest.is_some_and(&stays) {
                continue;
            }
            match fs::remove_file(entry.path()) {
                // Whoever gathered it was called off and has just taken it away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        Ok(())
    }

    /// An output that is kept beside the result, if it is.
    pub fn kept(&self, digest: Digest) -> Result<Option<Vec<u8>>, Failure> {
        match fs::read(self.output(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            bytes => bytes.map(Some).map_err(failed),
        }
    }

    /// At most so many bytes of what there is of the result, from `start` on.
    pub fn result_from(&self, start: u64, bytes: u64) -> Result<Vec<u8>, Failure> {
        match fs::metadata(self.result()) {
            // No shard is done.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Ok(there) if there.len() <= start => Ok(Vec::new()),
            _ => self.part(start, bytes),
        }
    }

    /// A part of the result.
    pub fn part(&self, start: u64, bytes: u64) -> Result<Vec<u8>, Failure> {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(self.result())?;
            file.seek(SeekFrom::Start(start))?;
            let mut part = Vec::new();
            file.take(bytes).read_to_end(&mut part)?;
            Ok(part)
        };
        read().map_err(failed)
    }

    /// The records of a shard, behind the header if they are comma-separated.
    pub fn records(&self, spec: &Spec, number: u32) -> Result<Vec<u8>, Failure> {
        let piece = piece(spec, number)?;
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(self.path.join("input"))?;
            let mut records = Vec::new();
            for piece in spec.header.iter().chain([piece]) {
                file.seek(SeekFrom::Start(piece.start))?;
                let before = records.len();
                let bytes = usize::try_from(piece.bytes).map_err(io::Error::other)?;
                records.resize(before + bytes, 0);
                file.read_exact(&mut records[before..])?;
            }
            Ok(records)
        };
        read().map_err(failed)
    }

    /// The labels file, if there is one.
    pub fn labels(&self) -> Result<Option<Vec<u8>>, Failure> {
        match fs::read(self.path.join("labels")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            labels => labels.map(Some).map_err(failed),
        }
    }

    /// Keeps an output. It is on disk when this returns.
    pub fn keep(&self, digest: Digest, output: &[u8]) -> Result<(), Failure> {
        put(&self.output(digest), output).map_err(failed)
    }

    /// Keeps an output that has come into a file of [`Folder::outputs`]. It is on disk when this returns.
    pub fn keep_file(&self, digest: Digest, output: TempPath) -> Result<(), Failure> {
        let keep = || -> io::Result<()> {
            File::options().append(true).open(&output)?.sync_all()?;
            let kept = output.persist(self.output(digest));
            kept.map_err(|error| error.error)?;
            File::open(self.outputs())?.sync_all()
        };
        keep().map_err(failed)
    }

    /// Keeps a list of those who may audit. It is on disk when this returns.
    pub fn keep_candidates(&self, candidates: &Candidates) -> Result<(), Failure> {
        if candidates.list().is_empty() {
            return Ok(());
        }
        let path = self.path.join("candidates");
        let file = path.join(candidates.digest().to_string());
        if file.exists() {
            return Ok(());
        }
        fs::create_dir_all(&path)
            .and_then(|()| put(&file, &candidates.encode()))
            .map_err(failed)
    }

    /// The list of those who may audit that has this digest.
    pub fn candidates(&self, digest: Digest) -> Result<Vec<u8>, Failure> {
        fs::read(self.path.join("candidates").join(digest.to_string())).map_err(failed)
    }

    /// What was signed for a result, as earlier versions kept it: the journal has it now.
    pub fn trail(&self, id: AttemptId) -> Result<Trail, Failure> {
        let name = format!("{}-{}", id.shard, id.attempt);
        let bytes = fs::read(self.path.join("trail").join(name)).map_err(failed)?;
        serde_json::from_slice(&bytes).map_err(failed)
    }

    /// Keeps what is shown of a result's texts. It is on disk when this returns.
    pub fn keep_shown(&self, id: AttemptId, shown: &[u8]) -> Result<(), Failure> {
        let file = self.shown_of(id);
        fs::create_dir_all(self.path.join("shown"))
            .and_then(|()| put(&file, shown))
            .map_err(failed)
    }

    /// What is shown of a result's texts.
    pub fn shown(&self, id: AttemptId) -> Result<Vec<u8>, Failure> {
        fs::read(self.shown_of(id)).map_err(failed)
    }

    fn shown_of(&self, id: AttemptId) -> PathBuf {
        let name = format!("{}-{}", id.shard, id.attempt);
        self.path.join("shown").join(name)
    }

    /// Keeps an accusation of who delivered a result.
    pub fn keep_evidence(
        &self,
        accused: AccountId,
        id: AttemptId,
        accusation: &[u8],
    ) -> Result<(), Failure> {
        let folder = self.path.join("evidence");
        let name = format!("{}-{}-{accused}", id.shard, id.attempt);
        fs::create_dir_all(&folder)
            .and_then(|()| put(&folder.join(name), accusation))
            .map_err(failed)
    }

    /// The files of all accusations.
    pub fn evidence(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path.join("evidence"));
        let mut files: Vec<PathBuf> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        files
    }

    /// Keeps what the job's providers were found to run on, by account. It is on disk when this returns.
    pub fn keep_hardware(&self, hardware: &BTreeMap<String, Hardware>) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(hardware).map_err(failed)?;
        put(&self.path.join("hardware.json"), &bytes).map_err(failed)
    }

    /// What the job's providers were found to run on, by account. It is only shown, so what cannot be
    /// read is as if it had never been found.
    pub fn hardware(&self) -> BTreeMap<String, Hardware> {
        let bytes = fs::read(self.path.join("hardware.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Where outputs are, and come to be.
    pub fn outputs(&self) -> PathBuf {
        self.path.join("outputs")
    }

    fn output(&self, digest: Digest) -> PathBuf {
        self.outputs().join(digest.to_string())
    }

    /// Puts outputs behind the first `length` bytes of the result, and cuts off what else was there.
    /// They are on disk when this returns.
    pub fn append(&self, length: u64, outputs: &[Vec<u8>]) -> Result<(), Failure> {
        let append = || -> io::Result<()> {
            let mut file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(self.result())?;
            if file.metadata()?.len() < length {
                return Err(io::Error::other("a part of the result was lost on disk"));
            }
            file.set_len(length)?;
            file.seek(SeekFrom::End(0))?;
            for output in outputs {
                file.write_all(output)?;
            }
            file.sync_all()
        };
        append().map_err(failed)
    }
}

/// Where a shard lies in the input.
fn piece(spec: &Spec, number: u32) -> Result<&Piece, Failure> {
    spec.shards.get(number as usize).ok_or_else(|| {
        let reason = format!("the job has no shard {number}");
        Failure::new(FailureKind::Failed, reason)
    })
}

/// Writes a file whole, or not at all.
pub(super) fn put(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}
