//! `skep:jobs/jobs`: work for other nodes, as far as the run may spend its owner's credits.
//!
//! What a plan says is held to the contract's bounds, and what a run may spend, store and hold is
//! counted, before the node hears of a job.

use std::sync::Arc;
use std::time::Duration;

use skep_registry::{Digest, JobsGrant, units};
use wasmtime::component::Resource;

use super::types::HostError;
use crate::bindings::task::skep::jobs::jobs::{
    Host, HostJob, Options, Plan, State as Stands, Status,
};
use crate::bindings::task::skep::types::types::Error;
use crate::error::{Quota, QuotaExcess};
use crate::jobs::{Doing, Job, JobError, JobOrder, JobState, JobStatus, Jobs, OpenJob};
use crate::state::State;

/// How often one run may try to begin a job.
const JOBS: u32 = 64;
/// Records in the input of a job.
const RECORDS: usize = 1_000_000;
const SHARDS: u32 = 100_000;
const REPLICAS: u32 = 7;
/// The whole of what may be audited, in millionths.
const ALL: u32 = 1_000_000;
const DEADLINE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The most nodes that a job may be for.
const NODES: usize = 64;
/// Bytes of a node's ticket.
const TICKET: usize = 4096;
/// The longest that nodes are asked to keep things ready.
const WARM: Duration = DEADLINE;
/// The most bytes that one read hands over.
const CHUNK: u32 = 4 << 20;

/// What a job has beside its plan if nothing is said.
const NO_OPTIONS: Options = Options {
    adapter: None,
    nodes: Vec::new(),
    attested: false,
    warm: None,
};

impl Host for State {
    async fn submit(&mut self, plan: Plan) -> Result<Resource<OpenJob>, HostError> {
        self.begin_job(plan, NO_OPTIONS).await
    }

    async fn submit_with(
        &mut self,
        plan: Plan,
        options: Options,
    ) -> Result<Resource<OpenJob>, HostError> {
        self.begin_job(plan, options).await
    }

    async fn find(&mut self, name: String) -> Result<Resource<OpenJob>, HostError> {
        self.host_calls += 1;
        let (jobs, _) = self.jobs()?;
        let name = digest(&name)?;
        let place = self.table.push(OpenJob::default())?;
        let (handle, _) = self.keep(place, jobs.find(name)).await?;
        Ok(handle)
    }
}

impl HostJob for State {
    fn name(&mut self, this: Resource<OpenJob>) -> wasmtime::Result<String> {
        self.host_calls += 1;
        Ok(self.held(&this)?.name().to_string())
    }

    async fn status(&mut self, this: Resource<OpenJob>) -> Result<Status, HostError> {
        self.host_calls += 1;
        let job = self.held(&this).map_err(HostError::Trap)?;
        let status = job.status().await?;
        self.told(&this, status)
    }

    async fn wait(
        &mut self,
        this: Resource<OpenJob>,
        milliseconds: u32,
    ) -> Result<Status, HostError> {
        self.host_calls += 1;
        let job = self.held(&this).map_err(HostError::Trap)?;
        let status = match self.table.get(&this)?.seen.clone() {
            None => job.status().await?,
            Some(seen) if seen.state == JobState::Running => {
                let limit = Duration::from_millis(milliseconds.into());
                match tokio::time::timeout(limit, job.changed(seen.clone())).await {
                    Ok(changed) => changed?,
                    Err(_) => seen,
                }
            }
            Some(over) => over,
        };
        self.told(&this, status)
    }

    async fn cancel(&mut self, this: Resource<OpenJob>) -> Result<(), HostError> {
        self.host_calls += 1;
        let job = self.held(&this).map_err(HostError::Trap)?;
        Ok(job.cancel().await?)
    }

    async fn read(
        &mut self,
        this: Resource<OpenJob>,
        offset: u64,
        length: u32,
    ) -> Result<Vec<u8>, HostError> {
        self.host_calls += 1;
        let job = self.held(&this).map_err(HostError::Trap)?;
        let carried = u32::try_from(self.limits.call_bytes).unwrap_or(u32::MAX);
        let length = length.min(CHUNK).min(carried);
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::from(job.read(offset, length).await?);
        bytes.truncate(length as usize);
        Ok(bytes)
    }

    fn drop(&mut self, this: Resource<OpenJob>) -> wasmtime::Result<()> {
        self.host_calls += 1;
        self.table.delete(this)?;
        Ok(())
    }
}

impl State {
    /// Begins a job, if the run may.
    async fn begin_job(
        &mut self,
        plan: Plan,
        options: Options,
    ) -> Result<Resource<OpenJob>, HostError> {
        self.host_calls += 1;
        let (jobs, granted) = self.jobs()?;
        let order = checked(plan, options)?;
        let price = self.begun.price.saturating_add(order.max_price);
        if price > granted.max_price {
            return Err(HostError::denied(format!(
                "grants.jobs: max-price is {} credits for all jobs of a run, and this would come to {}",
                units::format_credits(granted.max_price),
                units::format_credits(price)
            )));
        }
        if self.begun.tried >= JOBS {
            return Err(HostError::denied(format!(
                "grants.jobs: a run begins at most {JOBS} jobs, those among them that could not be begun"
            )));
        }
        let arguments = order.arguments.iter().map(String::len).sum::<usize>();
        let labels = order.labels.as_ref().map_or(0, Vec::len);
        let bytes = order.input.len().saturating_add(labels + arguments) as u64;
        let stored = self.stored.saturating_add(bytes);
        if stored > self.limits.storage {
            return Err(HostError::Quota(QuotaExcess {
                quota: Quota::Storage,
                limit: self.limits.storage,
                asked: stored,
            }));
        }
        // First a place for it: whoever has no handle for a job cannot stop it either.
        let place = self.table.push(OpenJob::default())?;
        self.begun.tried += 1;
        let (handle, job) = self.keep(place, jobs.submit(order)).await?;
        self.begun.price = price;
        self.begun.names.push(job.name().to_string());
        self.stored = stored;
        Ok(handle)
    }

    /// The jobs of a run that may spend something.
    fn jobs(&self) -> Result<(Arc<dyn Jobs>, JobsGrant), HostError> {
        match (&self.spec.jobs, self.spec.grants.jobs) {
            (_, None) => Err(HostError::denied("grants.jobs")),
            (None, Some(_)) => Err(HostError::denied(
                "grants.jobs: only a run that the node's owner started begins jobs",
            )),
            (Some(jobs), Some(granted)) => Ok((Arc::clone(jobs), granted)),
        }
    }

    /// Puts a job into the place that was taken for it, and gives the place back if there is none.
    async fn keep(
        &mut self,
        place: Resource<OpenJob>,
        doing: Doing<Arc<dyn Job>>,
    ) -> Result<(Resource<OpenJob>, Arc<dyn Job>), HostError> {
        let job = match doing.await {
            Ok(job) => job,
            Err(error) => {
                self.table.delete(place)?;
                return Err(error.into());
            }
        };
        let seen = job.status().await.ok();
        *self.table.get_mut(&place)? = OpenJob {
            job: Some(Arc::clone(&job)),
            seen,
        };
        Ok((place, job))
    }

    fn held(&self, this: &Resource<OpenJob>) -> wasmtime::Result<Arc<dyn Job>> {
        let job = self.table.get(this)?.job.clone();
        job.ok_or_else(|| wasmtime::format_err!("a handle for a job that was never begun"))
    }

    /// What the guest is told, and that it was.
    fn told(&mut self, this: &Resource<OpenJob>, status: JobStatus) -> Result<Status, HostError> {
        self.table.get_mut(this)?.seen = Some(status.clone());
        Ok(Status {
            state: match status.state {
                JobState::Running => Stands::Running,
                JobState::Done => Stands::Done,
                JobState::Failed => Stands::Failed,
            },
            reason: status.reason,
            shards: status.shards,
            finished: status.finished,
            spent: status.spent,
        })
    }
}

fn digest(text: &str) -> Result<Digest, HostError> {
    text.parse()
        .map_err(|_| HostError::invalid("a digest is 64 lower-case hexadecimal digits"))
}

/// A plan and options within the contract's bounds.
fn checked(plan: Plan, options: Options) -> Result<JobOrder, HostError> {
    let invalid = |reason: String| Err(HostError::invalid(reason));
    let package = digest(&plan.package)?;
    let adapter = options.adapter.as_deref().map(digest).transpose()?;
    if let Some(shards) = plan.shards
        && !(1..=SHARDS).contains(&shards)
    {
        return invalid(format!("shards: {shards} is not from 1 to {SHARDS}"));
    }
    if !(1..=REPLICAS).contains(&plan.replicas) {
        let replicas = plan.replicas;
        return invalid(format!("replicas: {replicas} is not from 1 to {REPLICAS}"));
    }
    if plan.audit > ALL {
        return invalid(format!(
            "audit: {} of a million is more than all",
            plan.audit
        ));
    }
    if plan.min_stake > units::MAX_CREDITS {
        return invalid("min-stake: there are not so many credits".to_owned());
    }
    let deadline = Duration::from_millis(plan.deadline);
    if deadline.is_zero() || deadline > DEADLINE {
        let longest = DEADLINE.as_millis();
        return invalid(format!(
            "deadline: {} is not from 1 to {longest}",
            plan.deadline
        ));
    }
    if options.nodes.len() > NODES {
        let nodes = options.nodes.len();
        return invalid(format!("nodes: {nodes} are more than {NODES}"));
    }
    if let Some(long) = options.nodes.iter().find(|node| node.len() > TICKET) {
        let bytes = long.len();
        return invalid(format!(
            "nodes: a ticket has at most {TICKET} bytes, and this has {bytes}"
        ));
    }
    let warm = options.warm.map(Duration::from_millis);
    if let Some(warm) = warm
        && (warm.is_zero() || warm > WARM)
    {
        let (asked, longest) = (warm.as_millis(), WARM.as_millis());
        return invalid(format!("warm: {asked} is not from 1 to {longest}"));
    }
    // Where each line lies is kept in memory, whatever its length.
    let ends = plan.input.iter().filter(|&&byte| byte == b'\n').count();
    let records = ends + usize::from(plan.input.last().is_some_and(|&last| last != b'\n'));
    if records > RECORDS {
        return invalid(format!(
            "input: it has {records} records, and that of a job has at most {RECORDS}; begin several"
        ));
    }
    Ok(JobOrder {
        package,
        input: plan.input,
        labels: plan.labels,
        arguments: plan.arguments,
        shards: plan.shards,
        replicas: plan.replicas,
        audit: plan.audit,
        min_stake: plan.min_stake,
        max_price: plan.max_price,
        deadline,
        adapter,
        nodes: options.nodes,
        attested: options.attested,
        warm,
    })
}

impl From<JobError> for HostError {
    fn from(error: JobError) -> Self {
        match error {
            JobError::NotFound(what) => HostError::Typed(Error::NotFound(what)),
            JobError::Invalid(reason) => HostError::invalid(reason),
            JobError::Busy => HostError::Typed(Error::Busy),
            JobError::Failed(reason) => HostError::failed(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            package: Digest::of(b"a package").to_string(),
            input: b"one\ntwo\n".to_vec(),
            labels: None,
            arguments: Vec::new(),
            shards: Some(2),
            replicas: 1,
            audit: 0,
            min_stake: 0,
            max_price: 1,
            deadline: 60_000,
        }
    }

    fn refused(change: impl FnOnce(&mut Plan)) -> String {
        refused_with(|plan, _| change(plan))
    }

    fn refused_with(change: impl FnOnce(&mut Plan, &mut Options)) -> String {
        let (mut plan, mut options) = (plan(), NO_OPTIONS);
        change(&mut plan, &mut options);
        match checked(plan, options) {
            Err(HostError::Typed(Error::Invalid(reason))) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_plan_within_its_bounds_is_taken_as_it_is() {
        let order = checked(plan(), NO_OPTIONS).unwrap();
        assert_eq!(order.package, Digest::of(b"a package"));
        assert_eq!((order.shards, order.replicas), (Some(2), 1));
        assert_eq!(order.deadline, Duration::from_secs(60));
        assert_eq!((order.adapter, order.nodes.len()), (None, 0));
        assert_eq!((order.attested, order.warm), (false, None));
        let whole = Plan {
            input: vec![b'\n'; RECORDS],
            shards: None,
            replicas: REPLICAS,
            audit: ALL,
            min_stake: units::MAX_CREDITS,
            max_price: u64::MAX,
            deadline: 30 * 24 * 60 * 60 * 1000,
            ..plan()
        };
        let options = Options {
            adapter: Some(Digest::of(b"an adapter").to_string()),
            nodes: vec!["x".repeat(TICKET); NODES],
            attested: true,
            warm: Some(30 * 24 * 60 * 60 * 1000),
        };
        let order = checked(whole, options).unwrap();
        assert_eq!(order.adapter, Some(Digest::of(b"an adapter")));
        assert_eq!(order.nodes, vec!["x".repeat(TICKET); NODES]);
        assert_eq!((order.attested, order.warm), (true, Some(WARM)));
    }

    #[test]
    fn whatever_is_out_of_bounds_is_named() {
        assert!(refused(|plan| plan.package = "batch-classifier".to_owned()).contains("digest"));
        assert!(refused(|plan| plan.shards = Some(0)).starts_with("shards: 0"));
        assert!(refused(|plan| plan.shards = Some(u32::MAX)).starts_with("shards: "));
        assert!(refused(|plan| plan.replicas = 0).starts_with("replicas: 0"));
        assert!(refused(|plan| plan.replicas = 8).starts_with("replicas: 8"));
        assert!(refused(|plan| plan.audit = ALL + 1).starts_with("audit: "));
        assert!(refused(|plan| plan.min_stake = u64::MAX).starts_with("min-stake: "));
        assert!(refused(|plan| plan.deadline = 0).starts_with("deadline: 0"));
        assert!(refused(|plan| plan.deadline = u64::MAX).starts_with("deadline: "));
        let options = |change: fn(&mut Options)| refused_with(|_, options| change(options));
        assert!(options(|options| options.adapter = Some("shop".to_owned())).contains("digest"));
        let reason = options(|options| options.nodes = vec![String::new(); NODES + 1]);
        assert_eq!(reason, "nodes: 65 are more than 64");
        let reason = options(|options| options.nodes = vec!["x".repeat(TICKET + 1)]);
        assert!(reason.ends_with("this has 4097"), "{reason}");
        assert!(options(|options| options.warm = Some(0)).starts_with("warm: 0"));
        assert!(options(|options| options.warm = Some(u64::MAX)).starts_with("warm: 1844"));
        let reason = refused(|plan| {
            plan.input = vec![b'\n'; RECORDS];
            plan.input.push(b'x');
        });
        assert!(reason.contains("1000001 records"), "{reason}");
    }
}
