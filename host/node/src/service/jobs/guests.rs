//! The jobs of guests: what a run of the owner's own begins, waits for and reads, as the sandbox has it.
//!
//! Everything is done by the node's own threads. A guest hears of its own package's jobs and of no
//! other, and of this node's faults only that there are some.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skep_records::Labels;
use skep_registry::Digest;
use skep_sandbox::{Doing, Job, JobError, JobOrder, JobState, JobStatus, Jobs};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::folder::{self, Folder};
use super::{answer, drive, submit};
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
    // What is not here a guest does not have fetched.
    if swarm.installed(&order.package).is_err() && !swarm.is_offered(&order.package) {
        return Err(JobError::NotFound(order.package.to_string()));
    }
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
        input: draft.input.clone(),
        format: Some("jsonl".to_owned()),
        output: None,
        labels: draft.labels.clone(),
        arguments: order.arguments,
        shards: order.shards,
        replicas: order.replicas,
        adapter: None,
        warm: 0,
        attested: false,
        audit: order.audit,
        min_stake: order.min_stake,
        providers: Vec::new(),
        max_price: order.max_price,
        deadline: u64::try_from(order.deadline.as_millis()).unwrap_or(u64::MAX),
        detach: true,
    };
    // Nothing is fetched, so that there is nothing to watch.
    let (progress, _) = mpsc::channel(1);
    let submitted = submit::submit(&service, &submission, Some(package), &progress).await;
    let (folder, quotes) = submitted.map_err(explain)?;
    if let Err(failure) = drive::begin(&service, &folder, Some(quotes)) {
        // It is on disk, and gone on with at the node's next start or when it is looked for.
        tracing::warn!(job = %folder.id, %failure, "a guest's job cannot be gone on with");
    }
    Ok(GuestJob {
        service,
        folder,
        runtime: Handle::current(),
    })
}

fn find(service: Arc<Service>, package: &str, name: Digest) -> Result<GuestJob, JobError> {
    let foreign = || JobError::NotFound(name.to_string());
    let folder = folder::named(&service.home, name).ok_or_else(foreign)?;
    let spec = tokio::task::block_in_place(|| folder.spec()).map_err(explain)?;
    if spec.begun_by.as_deref() != Some(package) {
        return Err(foreign());
    }
    if service.is_node()
        && !folder.is_over()
        && let Err(failure) = drive::begin(&service, &folder, None)
    {
        tracing::warn!(job = %folder.id, %failure, "a guest's job cannot be gone on with");
    }
    Ok(GuestJob {
        service,
        folder,
        runtime: Handle::current(),
    })
}

impl GuestJob {
    /// What can be seen of it, if this process works on it.
    fn watched(service: &Service, folder: &Folder) -> Option<watch::Receiver<JobView>> {
        let running = service.jobs.running();
        running.get(&folder.id).map(|running| running.view())
    }

    fn seen(service: &Service, folder: &Folder) -> Result<(JobStatus, u64), JobError> {
        if let Some(watched) = Self::watched(service, folder) {
            let view = watched.borrow();
            return Ok((status_of(&view), view.result_bytes));
        }
        let view = tokio::task::block_in_place(|| answer::at_rest(folder)).map_err(explain)?;
        Ok((status_of(&view), view.result_bytes))
    }

    async fn wait_for_change(
        service: Arc<Service>,
        folder: Folder,
        seen: JobStatus,
    ) -> Result<JobStatus, JobError> {
        loop {
            let Some(mut watched) = Self::watched(&service, &folder) else {
                let (status, _) = Self::seen(&service, &folder)?;
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
        let (service, folder) = (Arc::clone(&self.service), self.folder.clone());
        on(&self.runtime, async move {
            Self::seen(&service, &folder).map(|(status, _)| status)
        })
    }

    fn changed(&self, seen: JobStatus) -> Doing<JobStatus> {
        let (service, folder) = (Arc::clone(&self.service), self.folder.clone());
        on(&self.runtime, Self::wait_for_change(service, folder, seen))
    }

    fn cancel(&self) -> Doing<()> {
        let (service, folder) = (Arc::clone(&self.service), self.folder.clone());
        on(&self.runtime, async move {
            answer::cancel(&service, &folder)
                .await
                .map(drop)
                .map_err(explain)
        })
    }

    fn read(&self, offset: u64, length: u32) -> Doing<Bytes> {
        let (service, folder) = (Arc::clone(&self.service), self.folder.clone());
        on(&self.runtime, async move {
            // Whole shards alone: of the next one some bytes may be in the file.
            let (_, there) = Self::seen(&service, &folder)?;
            let bytes = there.saturating_sub(offset).min(length.into());
            let read = tokio::task::block_in_place(|| folder.result_from(offset, bytes));
            read.map(Bytes::from).map_err(explain)
        })
    }
}

fn status_of(view: &JobView) -> JobStatus {
    JobStatus {
        state: match view.state {
            told::JobState::Running | told::JobState::Paused => JobState::Running,
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
            JobError::Failed("a fault of the node; its owner can see which".to_owned())
        }
    }
}

fn lost(error: tokio::task::JoinError) -> JobError {
    tracing::warn!(%error, "what a guest waited for broke off");
    JobError::Failed("a fault of the node; its owner can see which".to_owned())
}
