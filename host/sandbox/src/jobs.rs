//! The jobs that guests may begin, as the sandbox sees them.
//!
//! What a job is and who pays for it is the node's to know. It stands behind two small traits, which
//! only a run of the owner's own is given: a run without them is denied every job.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skep_registry::Digest;
use thiserror::Error;

/// A future that goes on whichever thread it is awaited on.
pub type Doing<T> = Pin<Box<dyn Future<Output = Result<T, JobError>> + Send>>;

/// Why nothing came of what was asked of a job.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JobError {
    /// There is no such package here, or no such job of this package's.
    #[error("there is no {0} here")]
    NotFound(String),
    /// What is to be done does not fit together.
    #[error("{0}")]
    Invalid(String),
    /// Somebody else is at it at this moment.
    #[error("the job is being worked on by another process")]
    Busy,
    /// It cannot be done now, through no fault of the guest's.
    #[error("{0}")]
    Failed(String),
}

/// What is to be done: within the bounds of the contract, and within what the run may spend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOrder {
    /// The release of the package that does it.
    pub package: Digest,
    /// The input, one record a line.
    pub input: Vec<u8>,
    /// The labels file of a batch classifier.
    pub labels: Option<Vec<u8>>,
    /// Arguments of a task.
    pub arguments: Vec<String>,
    /// How many shards; none is for the node to say.
    pub shards: Option<u32>,
    /// How many nodes have to agree on the output of each.
    pub replicas: u32,
    /// How many of a million results are audited.
    pub audit: u32,
    /// What a node has to have at stake, in millionths of a credit.
    pub min_stake: u64,
    /// All that it may cost, in millionths of a credit.
    pub max_price: u64,
    /// How long it may take.
    pub deadline: Duration,
    /// The release of the adapter that it runs with.
    pub adapter: Option<Digest>,
    /// The nodes that are given work, each by its ticket as the guest has it; none is whoever is found.
    pub nodes: Vec<String>,
    /// Whether only nodes are given work that show hardware which is believed.
    pub attested: bool,
    /// For how long each node keeps things ready.
    pub warm: Option<Duration>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It is not at its end.
    Running,
    /// The whole result is there.
    Done,
    /// It ended without its result.
    Failed,
}

/// What became of a job so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStatus {
    /// Where it stands.
    pub state: JobState,
    /// Why it failed, or what keeps it; empty if nothing does.
    pub reason: String,
    /// How many shards it has.
    pub shards: u32,
    /// How many of them are done.
    pub finished: u32,
    /// What it has cost, in millionths of a credit.
    pub spent: u64,
}

/// The jobs of one package, which one run of it may begin and find.
pub trait Jobs: Send + Sync + 'static {
    /// Begins a job. It is on disk when this is done, and goes on by itself; if the future is
    /// dropped before, it may have begun or not.
    fn submit(&self, order: JobOrder) -> Doing<Arc<dyn Job>>;

    /// A job that the package began before. [`JobError::NotFound`] for all others.
    fn find(&self, name: Digest) -> Doing<Arc<dyn Job>>;
}

/// A job.
pub trait Job: Send + Sync + 'static {
    /// Its name.
    fn name(&self) -> Digest;

    /// Where it stands.
    fn status(&self) -> Doing<JobStatus>;

    /// Where it stands, once that is another than what was `seen`.
    fn changed(&self, seen: JobStatus) -> Doing<JobStatus>;

    /// Stops it. What it has cost so far is known when this is done.
    fn cancel(&self) -> Doing<()>;

    /// At most `length` bytes of the result from `offset`; none at its end or beyond.
    fn read(&self, offset: u64, length: u32) -> Doing<Bytes>;
}

/// A job that a guest holds.
#[derive(Default)]
pub struct OpenJob {
    /// None while it is being begun or looked for.
    pub(crate) job: Option<Arc<dyn Job>>,
    /// What the guest was last told of it.
    pub(crate) seen: Option<JobStatus>,
}

/// What a run has begun.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    /// How often it tried.
    pub tried: u32,
    /// All that its jobs may cost, in millionths of a credit.
    pub price: u64,
    /// Their names.
    pub names: Vec<String>,
}
