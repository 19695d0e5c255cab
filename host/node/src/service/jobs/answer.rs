//! What is answered about jobs and credits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skep_evidence::AccountId;
use skep_market::{
    AttemptId, AttemptState, Event, Finding, GaveUp, Job, Journal, JournalError, ShardView,
};

use super::folder::{self, Folder, Spec};
use super::{check, collect, drive, failed, money, now, receipts, submit};
use crate::failure::{Failure, FailureKind};
use crate::requests::hardware::Hardware;
use crate::requests::jobs::{
    AccountAnswer, AccountView, AuditLine, AuditState, JobAnswer, JobList, JobRequest, JobState,
    JobView, ProviderLine, ShardLine, ShardStep,
};
use crate::requests::receipts::{SettledAnswer, WroteReceipts};
use crate::requests::{Progress, Response, Unit};
use crate::service::{ProgressSender, Service};

/// What is told of a job that somebody else has open, who may be at work on it or only look.
const ELSEWHERE: &str = "it is open elsewhere in this home, mostly where it is worked on, which shows how far it is; \
                         once that has ended, by itself or with Ctrl-C, `skep job watch` goes on with it and \
                         `skep job cancel` stops it. Where `skep node` runs in a home other commands can do so at any \
                         time";

/// Does what is asked.
pub async fn answer(
    service: &Arc<Service>,
    request: JobRequest,
    progress: ProgressSender,
) -> Result<Response, Failure> {
    match request {
        JobRequest::Submit(submission) => {
            if submission.detach && !service.is_node() {
                return Err(Failure::new(
                    FailureKind::NotFound,
                    "no node is running in this home to leave the job to; start one with \
                     `skep node`, or leave --detach out",
                ));
            }
            let (folder, quotes) = submit::submit(service, &submission, None, &progress).await?;
            let running = drive::begin(service, &folder, Some(quotes))?;
            if submission.detach {
                let job = running.view().borrow().clone();
                return Ok(Response::Job(Box::new(JobAnswer { job })));
            }
            follow(&running, &progress).await
        }
        JobRequest::Watch { job } => {
            let folder = folder::find(&service.home, &job)?;
            // One that is over may still be written down, and then nobody else reads it.
            let worked_on = service.jobs.running().get(&folder.id).map(Arc::clone);
            let running = match worked_on {
                Some(running) => running,
                None if folder.is_over() => return ended(over(&folder)?),
                None => drive::begin(service, &folder, None)?,
            };
            follow(&running, &progress).await
        }
        JobRequest::Status { job: Some(job) } => {
            let folder = folder::find(&service.home, &job)?;
            let job = seen(service, &folder)?;
            Ok(Response::Job(Box::new(JobAnswer { job })))
        }
        JobRequest::Status { job: None } => {
            let all = folder::all(&service.home);
            let jobs = all.iter().map(|folder| {
                let job = seen(service, folder)?;
                Ok(JobView {
                    shards: Vec::new(),
                    providers: Vec::new(),
                    ..job
                })
            });
            let jobs = jobs.collect::<Result<_, Failure>>()?;
            Ok(Response::Jobs(JobList { jobs }))
        }
        JobRequest::Cancel { job } => {
            let folder = folder::find(&service.home, &job)?;
            let job = cancel(service, &folder).await?;
            Ok(Response::Job(Box::new(JobAnswer { job })))
        }
        JobRequest::Check {
            job,
            verifier,
            shard,
        } => {
            let folder = folder::find(&service.home, &job)?;
            let checked = check::check(service, &folder, &verifier, shard, &progress).await?;
            Ok(Response::Checked(Box::new(checked)))
        }
        JobRequest::Result { job, output } => {
            let folder = folder::find(&service.home, &job)?;
            let job = seen(service, &folder)?;
            if job.state == JobState::Elsewhere {
                return Err(unseen(&folder));
            }
            if job.state != JobState::Done {
                let total = job.shards.len();
                let next = match (job.state, &job.reason) {
                    (JobState::Failed, Some(reason)) => format!("it has failed: {reason}"),
                    (JobState::Running, _) => "`skep job watch` follows it".to_owned(),
                    _ => "`skep job watch` goes on with it".to_owned(),
                };
                return Err(Failure::new(
                    FailureKind::NotFound,
                    format!(
                        "the job has no whole result: {} of {total} shards are done; {next}",
                        job.finished
                    ),
                ));
            }
            let written = match job.output.as_ref() == Some(&output) {
                true => folder.deliver_as(&folder.spec()?),
                false => folder.deliver(&output),
            };
            written.map_err(elsewhere)?;
            let (output, reason) = (Some(output), None);
            let job = JobView {
                output,
                reason,
                ..job
            };
            Ok(Response::Job(Box::new(JobAnswer { job })))
        }
        JobRequest::Account => {
            let account = money::view(service)?;
            Ok(of_account(account))
        }
        JobRequest::Credit { micro, account } => {
            let account = money::credit(service, micro, account.as_deref())?;
            Ok(of_account(account))
        }
        JobRequest::Stake { micro, account } => {
            let account = money::stake(service, micro, account.as_deref())?;
            Ok(of_account(account))
        }
        JobRequest::Unstake { micro, account } => {
            let account = money::unstake(service, micro, account.as_deref())?;
            Ok(of_account(account))
        }
        JobRequest::Collect => {
            let missing = collect::collect(service).await?;
            let account = money::view(service)?;
            let missing = Some(missing);
            Ok(Response::Account(Box::new(AccountAnswer {
                account,
                missing,
            })))
        }
        JobRequest::Judge { accusation } => {
            let judged = money::judged(service, &accusation)?;
            Ok(Response::Judged(Box::new(judged)))
        }
        JobRequest::Receipts { output } => {
            let wrote = receipts::write(service, &output)?;
            Ok(Response::WroteReceipts(WroteReceipts { wrote }))
        }
        JobRequest::Recompute { files } => {
            let recomputed = receipts::recomputed(&files)?;
            Ok(Response::Recomputed(recomputed))
        }
        JobRequest::Settle { files } => {
            let settled = receipts::settled(service, &files)?;
            Ok(Response::Settled(SettledAnswer { settled }))
        }
    }
}

/// What an account has, where no receipts were asked for.
fn of_account(account: AccountView) -> Response {
    Response::Account(Box::new(AccountAnswer {
        account,
        missing: None,
    }))
}

/// A failure to write a result, with what to do.
pub(super) fn elsewhere(failure: Failure) -> Failure {
    Failure::new(
        failure.kind,
        format!("{failure}; name another file with --output"),
    )
}

/// Waits for a job's end, and tells what happens to its shards, and what it waits for once nobody works on them.
async fn follow(running: &drive::Running, progress: &ProgressSender) -> Result<Response, Failure> {
    let mut watched = running.view();
    let mut told: Vec<Progress> = Vec::new();
    let mut waited = None;
    loop {
        let view = watched.borrow_and_update().clone();
        let waits = what_for(&view);
        let steps: Vec<Progress> = view
            .shards
            .iter()
            .map(|line| step(&view.job, line))
            .collect();
        for (number, step) in steps.iter().enumerate() {
            let before = told.get(number);
            let is_new =
                before.is_none_or(|told| (&told.stage, told.done) != (&step.stage, step.done));
            // What all of them wait for is told with the first.
            let is_told = number == 0 && waits != waited;
            if !is_new && !is_told {
                continue;
            }
            let (job, line) = (view.job.clone(), view.shards[number].clone());
            let waits = waits.clone();
            let step = Progress {
                shard: Some(Box::new(ShardStep { job, line, waits })),
                ..step.clone()
            };
            // Whoever watches has gone if this fails, and then this future with it.
            if progress.send(step).await.is_err() {
                tracing::debug!("nobody watches the job any more");
            }
        }
        (told, waited) = (steps, waits);
        if view.state != JobState::Running {
            return ended(view);
        }
        if watched.changed().await.is_err() {
            // Its last view was shown before.
            return ended(watched.borrow().clone());
        }
    }
}

/// What keeps a job of which shards are left and nobody works on any, if that is known.
pub(super) fn what_for(job: &JobView) -> Option<String> {
    let has = |state: &str| job.shards.iter().any(|line| line.state == state);
    let is_idle = has("waiting") && !has("running") && !has("audited");
    let reason = job.reason.as_ref();
    reason
        .filter(|_| is_idle && job.state == JobState::Running)
        .cloned()
}

fn step(job: &str, line: &ShardLine) -> Progress {
    let name = |account: &String| {
        let name = account.get(..10).unwrap_or(account);
        match line.attested.contains(account) {
            true => format!("{name} (attested)"),
            false => name.to_owned(),
        }
    };
    let who: Vec<String> = line.providers.iter().map(name).collect();
    let by = match who.is_empty() {
        true => String::new(),
        false => format!(" by {}", who.join(" and ")),
    };
    let job = job.get(..10).unwrap_or(job);
    Progress {
        stage: format!("job {job} shard {}: {}{by}", line.shard, line.state),
        done: line.records_done,
        total: Some(line.records),
        unit: Unit::Shards,
        training: None,
        shard: None,
    }
}

/// A job that is not worked on any more: its view, or why it has no result.
fn ended(job: JobView) -> Result<Response, Failure> {
    match (job.state, &job.reason) {
        // One that is done has a reason if its result is not where it was to go.
        (JobState::Failed | JobState::Paused, _) | (JobState::Done, Some(_)) => Err(Failure::new(
            FailureKind::Failed,
            format!(
                "job {}: {}",
                job.job.get(..10).unwrap_or(&job.job),
                job.reason
                    .as_deref()
                    .unwrap_or("it did not come to its end")
            ),
        )),
        (JobState::Done, None) | (JobState::Running | JobState::Elsewhere, _) => {
            Ok(Response::Job(Box::new(JobAnswer { job })))
        }
    }
}

/// A job as it is now, worked on or not.
fn seen(service: &Arc<Service>, folder: &Folder) -> Result<JobView, Failure> {
    if let Some(running) = service.jobs.running().get(&folder.id) {
        return Ok(running.view().borrow().clone());
    }
    at_rest(folder)
}

/// A job that is over. What could not be written to where it goes is written there, if it can be now.
fn over(folder: &Folder) -> Result<JobView, Failure> {
    if folder.undelivered().is_some()
        && let Err(failure) = folder.deliver_as(&folder.spec()?)
    {
        tracing::info!(job = %folder.id, %failure, "a result is still not where it was to go");
    }
    at_rest(folder)
}

/// A job that this process does not work on.
pub(super) fn at_rest(folder: &Folder) -> Result<JobView, Failure> {
    let spec = folder.spec()?;
    let Some((_, job)) = open_if_free(folder, &spec)? else {
        // Nothing of how far it is can be seen from here.
        let (none, reason) = (Job::resume(spec.plan(), &[]).map_err(failed)?, ELSEWHERE);
        let state = JobState::Elsewhere;
        let view = view(folder, &spec, &none, state, Some(reason.to_owned()), |_| 0);
        return Ok(JobView {
            shards: Vec::new(),
            ..view
        });
    };
    let state = match (folder.is_over(), job.is_complete()) {
        (true, true) => JobState::Done,
        (true, false) => JobState::Failed,
        (false, _) => JobState::Paused,
    };
    let reason = match job.gave_up() {
        Some(why) => Some(why.to_string()),
        None => folder.undelivered(),
    };
    Ok(view(folder, &spec, &job, state, reason, |_| 0))
}

pub(super) fn open(folder: &Folder, spec: &Spec) -> Result<(Journal, Job), Failure> {
    open_if_free(folder, spec)?.ok_or_else(|| unseen(folder))
}

/// A job's journal and how far it is by that, or nothing while somebody else has it open.
fn open_if_free(folder: &Folder, spec: &Spec) -> Result<Option<(Journal, Job)>, Failure> {
    match Journal::open(&folder.journal(), spec.job) {
        Ok((journal, events)) => {
            let job = Job::resume(spec.plan(), &events).map_err(failed)?;
            Ok(Some((journal, job)))
        }
        Err(error) if error.is_in_use() => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Why a journal does not open, with what to do while somebody else has it.
pub(super) fn unopened(folder: &Folder, error: JournalError) -> Failure {
    match error.is_in_use() {
        true => unseen(folder),
        false => failed(error),
    }
}

fn unseen(folder: &Folder) -> Failure {
    let name = folder.id.to_string();
    let name = name.get(..10).unwrap_or(&name);
    Failure::new(FailureKind::Busy, format!("job {name}: {ELSEWHERE}"))
}

/// Stops a job, whether anyone works on it or not.
pub(super) async fn cancel(service: &Arc<Service>, folder: &Folder) -> Result<JobView, Failure> {
    let running = service.jobs.running().get(&folder.id).map(Arc::clone);
    if let Some(running) = running {
        running.cancel();
        let mut watched = running.view();
        while watched.borrow_and_update().state == JobState::Running {
            if watched.changed().await.is_err() {
                break;
            }
        }
        let job = watched.borrow().clone();
        return Ok(job);
    }
    if folder.is_over() {
        return at_rest(folder);
    }
    call_off(service, folder)?;
    // What was delivered is paid, and the rest comes back, as at every other end.
    let running = drive::begin(service, folder, None)?;
    let mut watched = running.view();
    while watched.borrow_and_update().state == JobState::Running {
        if watched.changed().await.is_err() {
            break;
        }
    }
    let job = watched.borrow().clone();
    Ok(job)
}

/// Writes down that a job is called off which nobody works on. What enough agreed on counts with that, and what follows
/// of those who were compared is remembered before, as where it is worked on.
pub(super) fn call_off(service: &Service, folder: &Folder) -> Result<(), Failure> {
    let spec = folder.spec()?;
    let (mut journal, job) = open(folder, &spec)?;
    // Whoever gave it up has remembered it then, and a doubt may have been lifted since.
    if job.gave_up().is_some() {
        return Ok(());
    }
    let (at, why) = (now(), GaveUp::Cancelled);
    let cancelled = [Event::GaveUp { at, why }];
    let all = 0..job.plan().shards;
    let undecided: BTreeSet<u32> = all.filter(|shard| job.accepted(*shard).is_none()).collect();
    let dealings = money::dealings(service)?;
    tokio::task::block_in_place(|| {
        let seen = job.conducts_after(&cancelled, &undecided);
        dealings.note(&seen).map_err(failed)?;
        journal.append(&cancelled).map_err(failed)
    })
}

/// A job as it is shown.
pub fn view(
    folder: &Folder,
    spec: &Spec,
    job: &Job,
    state: JobState,
    reason: Option<String>,
    records: impl Fn(AttemptId) -> u64,
) -> JobView {
    let (shards, hardware) = (job.view(), folder.hardware());
    let is_attested = |account: &&String| {
        let known = hardware.get(*account);
        known.is_some_and(|hardware| hardware.attested.is_some())
    };
    let lines = (0..).zip(&shards).zip(&spec.shards);
    let lines = lines.map(|((number, shard), piece)| {
        let attempts = || (0..).zip(&shard.attempts);
        let those = |is: fn(&AttemptState) -> bool| {
            attempts()
                .filter(|(_, lease)| is(&lease.state))
                .map(|(_, lease)| lease.provider.to_string())
                .collect::<Vec<_>>()
        };
        let open = those(|state| matches!(state, AttemptState::Open));
        let delivered = those(|state| matches!(state, AttemptState::Delivered(_)));
        let audited = those(|state| matches!(state, AttemptState::Audited));
        let (state, providers) = match (shard.finished, open.is_empty(), audited.is_empty()) {
            (true, ..) => ("done", delivered),
            (false, _, false) => ("audited", audited),
            (false, false, true) => ("running", open),
            (false, true, true) => ("waiting", Vec::new()),
        };
        let done = attempts().map(|(attempt, _)| {
            records(AttemptId {
                shard: number,
                attempt,
            })
        });
        ShardLine {
            shard: number,
            state: state.to_owned(),
            attested: providers.iter().filter(is_attested).cloned().collect(),
            providers,
            outvoted: those(|state| matches!(state, AttemptState::Outvoted)),
            audits: audits(shard, spec.followed),
            leases: u32::try_from(shard.attempts.len()).unwrap_or(u32::MAX),
            records: piece.lines,
            records_done: match shard.finished {
                true => piece.lines,
                false => done.max().unwrap_or(0),
            },
        }
    });
    JobView {
        job: spec.job.to_string(),
        package: spec.package.clone(),
        begun_by: spec.begun_by.clone(),
        adapter: spec
            .adapter
            .as_ref()
            .map(|adapter| adapter.reference.clone()),
        state,
        reason,
        finished: job.finished(),
        total: u32::try_from(spec.shards.len()).unwrap_or(u32::MAX),
        shards: lines.collect(),
        providers: providers(&shards, &hardware),
        evidence: folder.evidence(),
        spent_micro: job.spent().micro(),
        budget_micro: spec.budget,
        result_bytes: job.assembled_bytes(),
        output: spec.output.clone(),
    }
}

/// Everyone who ever had a shard, and what it was found to run on.
fn providers(shards: &[ShardView], hardware: &BTreeMap<String, Hardware>) -> Vec<ProviderLine> {
    let leases = shards.iter().flat_map(|shard| &shard.attempts);
    let accounts: BTreeSet<AccountId> = leases.map(|lease| lease.provider).collect();
    let line = |account: AccountId| {
        let account = account.to_string();
        let hardware = hardware.get(&account).cloned().unwrap_or_default();
        ProviderLine { account, hardware }
    };
    accounts.into_iter().map(line).collect()
}

/// The audits of a shard: whose result was drawn or odd, who was asked to look, and what came of it.
fn audits(shard: &ShardView, followed: bool) -> Vec<AuditLine> {
    let drawn = (0..).zip(&shard.attempts);
    drawn
        .filter_map(|(attempt, lease)| {
            let auditors = shard.attempts.iter();
            let auditors = auditors.filter(|other| other.audits == Some(attempt));
            Some(AuditLine {
                provider: lease.provider.to_string(),
                state: match lease.audit? {
                    None => AuditState::Open,
                    Some(Finding::Passed) => AuditState::Passed,
                    Some(Finding::Wrong) => AuditState::Wrong,
                    Some(Finding::Undecided) => AuditState::Undecided,
                },
                auditors: auditors.map(|other| other.provider.to_string()).collect(),
                followed,
            })
        })
        .collect()
}
