//! Jobs: an input that is cut into shards, which other nodes do for credits of whoever runs this.

use std::io;
use std::time::Duration;

use crate::bindings::imports::skep::jobs::jobs as wit;
use crate::{Error, Result};

pub use wit::{State as JobState, Status as JobStatus};

/// How much is asked for in one call when everything is read.
const PIECE: u32 = 256 * 1024;
/// How long one call waits where a job is waited for to its end.
const LONG: Duration = Duration::from_secs(60);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobPlan {
    /// The digest of the release of the package that does it: a batch classifier or a task that is
    /// installed on this node.
    pub package: String,
    /// The input, one record a line.
    pub input: Vec<u8>,
    /// The labels file of a batch classifier, as JSON.
    pub labels: Option<Vec<u8>>,
    /// Arguments of a task.
    pub arguments: Vec<String>,
    /// How many shards; none is by how many nodes take such work.
    pub shards: Option<u32>,
    /// How many nodes have to agree on the output of each shard.
    pub replicas: u32,
    /// How many of a million results are done once more by others and compared.
    pub audit: u32,
    /// What a node has to have at stake to be given work, in millionths of a credit.
    pub min_stake: u64,
    /// All that the job may cost, in millionths of a credit.
    pub max_price: u64,
    /// How long it may take.
    pub deadline: Duration,
}

impl JobPlan {
    /// A package, its input, and what the job may cost, in millionths of a credit. It may take an
    /// hour, and each shard is done once, by whoever takes it.
    pub fn new(package: &str, input: impl Into<Vec<u8>>, max_price: u64) -> Self {
        JobPlan {
            package: package.to_owned(),
            input: input.into(),
            labels: None,
            arguments: Vec::new(),
            shards: None,
            replicas: 1,
            audit: 0,
            min_stake: 0,
            max_price,
            deadline: Duration::from_secs(60 * 60),
        }
    }
}

/// What a job may have beside its plan. By default it is whoever is found that works on it, with no
/// adapter, and keeps nothing ready for longer than that takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobOptions {
    /// The digest of the release of an adapter, with which all texts of the job are written or all
    /// embeddings made: one that is installed on this node, of a model that comes with skep and that the
    /// package uses.
    pub adapter: Option<String>,
    /// The tickets of the only nodes that are given work, of those that this node knows: at most 64.
    pub nodes: Vec<String>,
    /// Whether only nodes are given work whose processor signs what they run.
    pub attested: bool,
    /// For how long each node that works on the job keeps ready what it takes, and is paid for that: at
    /// most 30 days.
    pub warm: Option<Duration>,
}

/// A job of this package's. Dropping it does not end the job.
pub struct Job(wit::Job);

impl Job {
    /// Begins a job, which goes on without this run.
    ///
    /// # Errors
    /// [`Error::Denied`] beyond the grant `jobs`, and in a run that its node's owner did not start;
    /// [`Error::NotFound`] for a package that is not installed here; [`Error::OverQuota`] where its
    /// input is more than the run may store; [`Error::Failed`] where nobody takes it.
    pub fn submit(plan: &JobPlan) -> Result<Self> {
        let arguments = borrowed(&plan.arguments);
        Ok(Job(wit::submit(wit_plan(plan, &arguments))?))
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Job::submit`]; besides, [`Error::NotFound`] for an adapter that is not installed here,
    /// [`Error::Invalid`] for one that changes nothing of what the package does and for what is no
    /// ticket of a node, and [`Error::Failed`] where none of the nodes takes it.
    pub fn submit_with(plan: &JobPlan, options: &JobOptions) -> Result<Self> {
        let arguments = borrowed(&plan.arguments);
        let nodes = borrowed(&options.nodes);
        let options = wit::Options {
            adapter: options.adapter.as_deref(),
            nodes: &nodes,
            attested: options.attested,
            warm: options.warm.map(milliseconds),
        };
        Ok(Job(wit::submit_with(wit_plan(plan, &arguments), options)?))
    }

    /// A job that this package began before, in this run or another, by its [`Job::name`].
    ///
    /// # Errors
    /// [`Error::NotFound`] for every other.
    pub fn find(name: &str) -> Result<Self> {
        Ok(Job(wit::find(name)?))
    }

    /// Its name: 64 lower-case hexadecimal digits.
    pub fn name(&self) -> String {
        self.0.name()
    }

    /// Where it stands.
    pub fn status(&self) -> Result<JobStatus> {
        Ok(self.0.status()?)
    }

    /// Waits until its status is another than was told last, for at most `time`; not at all once the
    /// job is over.
    pub fn wait(&self, time: Duration) -> Result<JobStatus> {
        let milliseconds = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        Ok(self.0.wait(milliseconds)?)
    }

    /// Waits for its whole result.
    ///
    /// # Errors
    /// [`Error::Failed`] with the reason if it ends without one.
    pub fn wait_for_result(&self) -> Result<JobStatus> {
        loop {
            let status = self.wait(LONG)?;
            match status.state {
                JobState::Running => {}
                JobState::Done => return Ok(status),
                JobState::Failed => return Err(Error::failed(status.reason)),
            }
        }
    }

    /// Stops it. What was delivered is paid, and the rest of its credits comes back.
    pub fn cancel(&self) -> Result<()> {
        Ok(self.0.cancel()?)
    }

    /// The bytes of the result from `offset` on: at most `length`, and none at its end or beyond.
    pub fn read_at(&self, offset: u64, length: u32) -> Result<Vec<u8>> {
        Ok(self.0.read(offset, length)?)
    }

    /// The result as far as it goes, from its beginning.
    pub fn result(&self) -> JobResult<'_> {
        JobResult {
            job: self,
            position: 0,
        }
    }
}

fn wit_plan<'a>(plan: &'a JobPlan, arguments: &'a [&'a str]) -> wit::Plan<'a> {
    wit::Plan {
        package: &plan.package,
        input: &plan.input,
        labels: plan.labels.as_deref(),
        arguments,
        shards: plan.shards,
        replicas: plan.replicas,
        audit: plan.audit,
        min_stake: plan.min_stake,
        max_price: plan.max_price,
        deadline: milliseconds(plan.deadline),
    }
}

fn borrowed(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The result of a job, to be read. It ends where the result does: while the job runs, at the first
/// shard that is not done.
pub struct JobResult<'a> {
    job: &'a Job,
    position: u64,
}

impl io::Read for JobResult<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX).min(PIECE);
        let data = self.job.read_at(self.position, length)?;
        let count = data.len().min(buffer.len());
        buffer[..count].copy_from_slice(&data[..count]);
        self.position += count as u64;
        Ok(count)
    }
}
