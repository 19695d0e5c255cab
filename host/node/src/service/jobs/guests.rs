//! The jobs of guests: what a run of the owner's own begins, waits for and reads, as the sandbox has it.
//!
//! Everything is done by the node's own threads. A guest hears of its own package's jobs and of no
//! other, and of this node's faults only that there are some.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skep_records::Labels;
use skep_registry::Digest;
use skep_sandbox::{Doing, Job, JobError, JobOrder, JobState, JobStatus, Jobs};
use skep_swarm::{NodeTicket, ProviderAddr};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::around::Quotes;
use super::folder::{self, Folder};
use super::{OWN_FAULT, answer, drive, submit};
use crate::failure::{Failure, FailureKind};
use crate::home::make_private;
use crate::requests::jobs::{self as told, JobView, Submission};
use crate::service::Service;
use crate::service::blobs::EndsWithCaller;
use crate::service::run::Subject;

/// How often a job is looked at that nobody works on.
const LOOK: Duration = Duration::from_secs(1);

/// The jobs of one package.
pub struct GuestJobs {
    service: Arc<Service>,
    /// By what the package is known.
    package: String,
    /// Where jobs are worked on.
    runtime: Handle,
}

impl GuestJobs {
    /// The jobs of a component about to run, if it is granted any and is one that can be told from
    /// others.
    pub(in crate::service) fn of(
        service: &Arc<Service>,
        subject: &Subject,
    ) -> Option<Arc<dyn Jobs>> {
        subject.grants.jobs?;
        let package = subject.known_as.clone()?;
        Some(Arc::new(Self {
            service: Arc::clone(service),
            package,
            runtime: Handle::current(),
        }))
    }
}

impl Jobs for GuestJobs {
    fn submit(&self, order: JobOrder) -> Doing<Arc<dyn Job>> {
        let (service, package) = (Arc::clone(&self.service), self.package.clone());
        // To its end, whatever becomes of the guest meanwhile: half a job is nothing.
        let beginning = self
            .runtime
            .spawn(async move { begin(service, package, order).await });
        Box::pin(async move {
            let job = beginning.await.map_err(lost)??;
            Ok(Arc::new(job) as Arc<dyn Job>)
        })
    }

    fn find(&self, name: Digest) -> Doing<Arc<dyn Job>> {
        let (service, package) = (Arc::clone(&self.service), self.package.clone());
        let finding = async move { find(service, &package, name) };
        let found = on(&self.runtime, finding);
        Box::pin(async move { Ok(Arc::new(found.await?) as Arc<dyn Job>) })
    }
}

/// Has the node do something, for as long as somebody waits for it.
fn on<T: Send + 'static>(
    runtime: &Handle,
    doing: impl Future<Output = Result<T, JobError>> + Send + 'static,
) -> Doing<T> {
    let mut doing = EndsWithCaller(runtime.spawn(doing));
    Box::pin(async move { (&mut doing.0).await.map_err(lost)? })
}

/// A job of the package's.
#[derive(Clone)]
struct GuestJob {
    service: Arc<Service>,
    folder: Folder,
    runtime: Handle,
}

async fn begin(
    service: Arc<Service>,
    package: String,
    order: JobOrder,
) -> Result<GuestJob, JobError> {
    if !service.is_node() {
        return Err(JobError::Failed(
            "no node is running in this home to go on with a job; start one with `skep node`"
                .to_owned(),
        ));
    }
    let swarm = service.swarm().await.map_err(explain)?;
    // What is not here a guest does not have fetched. What is here anybody gets who asks for it by its
    // digest, so that no more is open to a guest that knows one than to everybody else.
    for release in [order.package].into_iter().chain(order.adapter) {
        if swarm.installed(&release).is_err() && !swarm.is_offered(&release) {
            return Err(JobError::NotFound(release.to_string()));
        }
    }
    let providers = named(&order.nodes)?;
    if let Some(labels) = &order.labels {
        let labels = Labels::parse(labels);
        labels.map_err(|error| JobError::Invalid(format!("labels: {error}")))?;
    }
    let drafts = service.home.drafts();
    let (input, labels) = (order.input, order.labels);
    let draft = tokio::task::block_in_place(|| Draft::new(&drafts, &input, labels.as_deref()));
    let draft = draft.map_err(|error| explain(super::failed(error)))?;
    let submission = Submission {
        package: order.package.to_string(),
        project: None,
        input: draft.input.clone(),
        format: Some("jsonl".to_owned()),
        output: None,
        labels: draft.labels.clone(),
        arguments: order.arguments,
        shards: order.shards,
        replicas: order.replicas,
        adapter: order.adapter.map(|adapter| adapter.to_string()),
        // A second that is begun is paid whole.
        warm: order.warm.map_or(0, |warm| {
            warm.as_secs() + u64::from(warm.subsec_nanos() > 0)
        }),
        attested: order.attested,
        audit: order.audit,
        min_stake: order.min_stake,
        only: !providers.is_empty(),
        providers,
        max_price: order.max_price,
        deadline: u64::try_from(order.deadline.as_millis()).unwrap_or(u64::MAX),
        // A guest has no time to wait, and can ask for more itself.
        at_once: true,
        detach: true,
    };
    // Nothing is fetched, so that there is nothing to watch.
    let (progress, _) = mpsc::channel(1);
    let submitted = submit::submit(&service, &submission, Some(package), &progress).await;
    let (folder, quotes) = submitted.map_err(explain)?;
    let job = GuestJob::of(service, folder);
    job.go_on(Some(quotes));
    Ok(job)
}

/// The nodes that a guest names, each as a ticket without an address. Which of those that are known here
/// are to work is for a guest to say, and where this node sends anything is not: neither to whom nobody here
/// has heard of, nor to a machine that is no node.
fn named(tickets: &[String]) -> Result<Vec<String>, JobError> {
    let bare = tickets.iter().enumerate().map(|(number, ticket)| {
        let parsed: Result<NodeTicket, _> = ticket.parse();
        let id = parsed.map(|ticket| ticket.node.id).map_err(|error| {
            let what = format!("nodes: number {} is no ticket of a node", number + 1);
            JobError::Invalid(format!("{what}: {error}"))
        })?;
        let addrs = Vec::new();
        let node = ProviderAddr { id, addrs };
        Ok(NodeTicket { node }.to_string())
    });
    // Who is named twice is one node.
    let nodes = bare.collect::<Result<BTreeSet<_>, JobError>>()?;
    Ok(nodes.into_iter().collect())
}

fn find(service: Arc<Service>, package: &str, name: Digest) -> Result<GuestJob, JobError> {
    let foreign = || JobError::NotFound(name.to_string());
    let folder = folder::named(&service.home, name).ok_or_else(foreign)?;
    let spec = tokio::task::block_in_place(|| folder.spec()).map_err(explain)?;
    if spec.begun_by.as_deref() != Some(package) {
        return Err(foreign());
    }
    let job = GuestJob::of(service, folder);
    if job.service.is_node() && !job.folder.is_over() {
        job.go_on(None);
    }
    Ok(job)
}

impl GuestJob {
    fn of(service: Arc<Service>, folder: Folder) -> Self {
        Self {
            service,
            folder,
            runtime: Handle::current(),
        }
    }

    /// Has this process work on it from here on, if it can.
    fn go_on(&self, quotes: Option<Quotes>) {
        if let Err(failure) = drive::begin(&self.service, &self.folder, quotes) {
            // It is on disk, and gone on with at the node's next start or when it is looked for.
            tracing::warn!(job = %self.folder.id, %failure, "a guest's job cannot be gone on with");
        }
    }

    /// What can be seen of it, if this process works on it.
    fn watched(&self) -> Option<watch::Receiver<JobView>> {
        let running = self.service.jobs.running();
        running.get(&self.folder.id).map(|running| running.view())
    }

    fn seen(&self) -> Result<(JobStatus, u64), JobError> {
        if let Some(watched) = self.watched() {
            let view = watched.borrow();
            return Ok((status_of(&view), view.result_bytes));
        }
        let view = tokio::task::block_in_place(|| answer::at_rest(&self.folder));
        let view = view.map_err(explain)?;
        Ok((status_of(&view), view.result_bytes))
    }

    async fn wait_for_change(self, seen: JobStatus) -> Result<JobStatus, JobError> {
        loop {
            let Some(mut watched) = self.watched() else {
                let (status, _) = self.seen()?;
                if status != seen {
                    return Ok(status);
                }
                tokio::time::sleep(LOOK).await;
                continue;
            };
            let is_new = |view: &JobView| status_of(view) != seen;
            // The last view is shown before the end.
            if let Ok(view) = watched.wait_for(is_new).await {
                return Ok(status_of(&view));
            }
        }
    }
}

impl Job for GuestJob {
    fn name(&self) -> Digest {
        self.folder.id
    }

    fn status(&self) -> Doing<JobStatus> {
        let job = self.clone();
        on(&self.runtime, async move {
            job.seen().map(|(status, _)| status)
        })
    }

    fn changed(&self, seen: JobStatus) -> Doing<JobStatus> {
        on(&self.runtime, self.clone().wait_for_change(seen))
    }

    fn cancel(&self) -> Doing<()> {
        let job = self.clone();
        on(&self.runtime, async move {
            answer::cancel(&job.service, &job.folder)
                .await
                .map(drop)
                .map_err(explain)
        })
    }

    fn read(&self, offset: u64, length: u32) -> Doing<Bytes> {
        let job = self.clone();
        on(&self.runtime, async move {
            // Whole shards alone: of the next one some bytes may be in the file.
            let (_, there) = job.seen()?;
            let bytes = there.saturating_sub(offset).min(length.into());
            let read = tokio::task::block_in_place(|| job.folder.result_from(offset, bytes));
            read.map(Bytes::from).map_err(explain)
        })
    }
}

fn status_of(view: &JobView) -> JobStatus {
    JobStatus {
        state: match view.state {
            told::JobState::Running | told::JobState::Paused | told::JobState::Elsewhere => {
                JobState::Running
            }
            told::JobState::Done => JobState::Done,
            told::JobState::Failed => JobState::Failed,
        },
        reason: view.reason.clone().unwrap_or_default(),
        shards: u32::try_from(view.shards.len()).unwrap_or(u32::MAX),
        finished: view.finished,
        spent: view.spent_micro,
    }
}

/// What a guest gave to a job, in files, until the job has copies of its own.
struct Draft {
    input: PathBuf,
    labels: Option<PathBuf>,
    _folder: TempDir,
}

impl Draft {
    fn new(drafts: &Path, input: &[u8], labels: Option<&[u8]>) -> io::Result<Self> {
        make_private(drafts)?;
        let folder = tempfile::tempdir_in(drafts)?;
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).map(|()| path)
        };
        Ok(Self {
            input: put("input", input)?,
            labels: labels.map(|labels| put("labels", labels)).transpose()?,
            _folder: folder,
        })
    }
}

/// What a guest is told of a failure. What is this node's own business stays in its log.
fn explain(failure: Failure) -> JobError {
    match failure.kind {
        FailureKind::Usage => JobError::Invalid(failure.message),
        FailureKind::Busy => JobError::Busy,
        FailureKind::Refused | FailureKind::NotFound | FailureKind::Limit => {
            JobError::Failed(failure.message)
        }
        FailureKind::Failed => {
            tracing::warn!(%failure, "a guest's job met a fault of this node's own");
            JobError::Failed(OWN_FAULT.to_owned())
        }
    }
}

fn lost(error: tokio::task::JoinError) -> JobError {
    tracing::warn!(%error, "what a guest waited for broke off");
    JobError::Failed(OWN_FAULT.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use skep_evidence::AccountKey;
    use skep_swarm::NodeId;

    use super::*;

    fn ticket(seed: u8, addrs: &[&str]) -> String {
        let key = AccountKey::from_seed(&[seed; 32]).id();
        let node = ProviderAddr {
            id: NodeId::from_bytes(key.as_bytes()).unwrap(),
            addrs: addrs.iter().map(|addr| addr.parse().unwrap()).collect(),
        };
        NodeTicket { node }.to_string()
    }

    #[test]
    fn of_a_ticket_that_a_guest_has_only_the_node_counts() {
        assert_eq!(named(&[]), Ok(Vec::new()));
        let [one, other] = [1, 2].map(|seed| ticket(seed, &[]));
        let mut both = vec![one.clone(), other];
        both.sort();
        let tickets = [
            ticket(2, &["10.0.0.1:25"]),
            ticket(1, &["127.0.0.1:80", "[::1]:9"]),
            ticket(2, &["10.0.0.2:25"]),
        ];
        assert_eq!(named(&tickets), Ok(both));

        let wrong = named(&[one, "next door".to_owned()]);
        assert!(
            matches!(&wrong, Err(JobError::Invalid(reason)) if reason.starts_with("nodes: number 2 is")),
            "{wrong:?}"
        );
    }
}
