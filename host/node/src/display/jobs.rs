//! Jobs and credits as a person sees them.

use skep_evidence::Credits;

use super::hardware;
use crate::moment::moment;
use crate::requests::jobs::{
    AccountAnswer, AuditLine, AuditState, Checked, FindingName, JobState, JobTerms, JobView,
    Judged, MissingLine, ShardLine,
};

/// Prints a job with its shards.
pub fn print_job(job: &JobView) {
    tell!("{}", headline(job));
    tell!("  package   {}", job.package);
    if let Some(adapter) = &job.adapter {
        tell!("  adapter   {adapter}");
    }
    if let Some(package) = &job.begun_by {
        tell!("  begun by  {package}");
    }
    match &job.output {
        Some(output) => tell!("  output    {}", output.display()),
        None => tell!("  output    with the job; `skep job result` writes it to a file"),
    }
    let most = Credits::from_micro(job.budget_micro);
    match job.state {
        // What it has cost so far is not known.
        JobState::Elsewhere => tell!("  cost      at most {most} credits"),
        _ => tell!(
            "  cost      {} of at most {most} credits",
            Credits::from_micro(job.spent_micro)
        ),
    }
    if let Some(reason) = &job.reason {
        tell!("  reason    {reason}");
    }
    if let Some(next) = next(job) {
        tell!("  next      {next}");
    }
    for file in &job.evidence {
        tell!("  evidence  {}", file.display());
    }
    for line in &job.providers {
        if let Some(label) = hardware::told(&line.hardware) {
            tell!("  attested  {}: {label}", short(&line.account));
        }
    }
    for line in &job.shards {
        let providers = line.providers.iter();
        let providers = providers.map(|account| format!(" {}", named(line, account)));
        let providers: Vec<String> = providers.collect();
        let leases = match line.leases {
            0 | 1 => String::new(),
            leases => format!(", {leases} leases"),
        };
        let outvoted: Vec<&str> = line.outvoted.iter().map(|account| short(account)).collect();
        let outvoted = match outvoted.is_empty() {
            true => String::new(),
            false => format!(", outvoted: {}", outvoted.join(" ")),
        };
        let audits: String = line.audits.iter().map(audit).collect();
        tell!(
            "  shard {:<4}{:<8} {}/{} records{}{leases}{outvoted}{audits}",
            line.shard,
            line.state,
            line.records_done,
            line.records,
            providers.concat()
        );
    }
}

/// What can be done about a job that is not over.
fn next(job: &JobView) -> Option<String> {
    let watched = match job.state {
        JobState::Running => "follows it",
        JobState::Paused => "goes on with it, on which nobody works now",
        JobState::Elsewhere | JobState::Done | JobState::Failed => return None,
    };
    let name = short(&job.job);
    Some(format!(
        "`skep job watch {name}` {watched}; `skep job cancel {name}` stops it"
    ))
}

fn audit(audit: &AuditLine) -> String {
    let found = match audit.state {
        AuditState::Open => "is being audited",
        AuditState::Passed => "passed its audit",
        AuditState::Wrong => "was found wrong by its audit",
        AuditState::Undecided => "has an audit without a majority",
    };
    let how = match audit.followed {
        true => " by following",
        false => "",
    };
    format!(", {} {found}{how}", short(&audit.provider))
}

/// Prints what came of an accusation.
pub fn print_judged(judged: &Judged) {
    let (accuser, accused) = (&judged.accuser, &judged.accused);
    match (&judged.lease, &judged.reason) {
        (Some(lease), _) => tell!("{accused} cheated under lease {lease}"),
        (None, reason) => {
            let reason = reason.as_deref().unwrap_or_default();
            tell!("{accuser} accuses falsely: {reason}");
        }
    }
    match &judged.spared {
        Some(why) => tell!("  nothing is taken here: {why}"),
        None => tell!("  fined     {}", Credits::from_micro(judged.fined_micro)),
    }
}

/// Prints what a verifier says.
pub fn print_checked(checked: &Checked) {
    tell!("job {} by verifier {}", checked.job, checked.verifier);
    if checked.verdicts.is_empty() {
        tell!("  there is no output that counts or was found different, and so nothing to judge");
    }
    for line in &checked.verdicts {
        let finding = match line.finding {
            FindingName::Right => "right",
            FindingName::Wrong => "wrong",
            FindingName::Undecided => "undecided",
        };
        tell!(
            "  shard {:<4}{finding:<10}{} {}: {}",
            line.shard,
            short(&line.provider),
            short(&line.output),
            line.evidence
        );
    }
    for line in &checked.reports {
        tell!(
            "  shard {:<4}reported  {}: {}",
            line.shard,
            short(&line.output),
            line.evidence
        );
    }
}

/// Prints the jobs, a line each.
pub fn print_jobs(jobs: &[JobView]) {
    if jobs.is_empty() {
        tell!("there are no jobs here; `skep job submit` begins one");
    }
    for job in jobs {
        tell!("{}, of {}", headline(job), job.package);
    }
}

/// A job and how far it is.
fn headline(job: &JobView) -> String {
    let state = match job.state {
        JobState::Running => "running",
        JobState::Paused => "paused",
        JobState::Done => "done",
        JobState::Failed => "failed",
        JobState::Elsewhere => return format!("job {} open elsewhere in this home", job.job),
    };
    format!(
        "job {} {state}, {} of {} shards done",
        job.job, job.finished, job.total
    )
}

/// Prints the credits of a node, and the receipts that it lacks if it has asked for them.
pub fn print_account(answer: &AccountAnswer) {
    let account = &answer.account;
    let credits = Credits::from_micro;
    tell!("account {}", account.account);
    tell!("  to spend  {}", credits(account.available_micro));
    tell!("  in escrow {}", credits(account.escrowed_micro));
    let stays = |until: Option<u64>| {
        until.map_or_else(String::new, |until| format!(", until {}", moment(until)))
    };
    tell!(
        "  at stake  {}{}",
        credits(account.staked_micro),
        stays(account.staked_until)
    );
    tell!(
        "  earned    {} ({})",
        credits(account.earned_micro),
        counted(account.receipts, "receipt")
    );
    // Whole, for whoever is to give them something, or put it at stake for them.
    for line in &account.balances {
        tell!("  balance   {} of {}", credits(line.micro), line.account);
    }
    for line in &account.stakes {
        tell!(
            "  at stake  {} of {}{}",
            credits(line.micro),
            line.account,
            stays(line.until)
        );
    }
    match answer.missing.as_deref() {
        None => {}
        Some([]) => tell!("  missing   no receipts"),
        Some(missing) => missing
            .iter()
            .for_each(|line| tell!("  missing   {}", lacking(line))),
    }
}

/// Which receipts are missing, from whom, and why they may be.
fn lacking(line: &MissingLine) -> String {
    let receipts = counted(line.receipts, "receipt");
    let why = match line.reached {
        true => "its node was asked, and did not give all of them",
        false => "its node was not reached; the next round asks again",
    };
    format!(
        "{receipts} of {} over {} credits, since {}: {why}",
        short(&line.account),
        Credits::from_micro(line.micro),
        moment(line.since)
    )
}

/// So many of something, whose name has an `s` where there is not one of it.
pub(super) fn counted(number: u64, name: &str) -> String {
    match number {
        1 => format!("1 {name}"),
        number => format!("{number} {name}s"),
    }
}

/// What of others' jobs a node takes, and what it asks for that.
pub(super) fn taken(terms: &JobTerms) -> String {
    if !terms.accept {
        return "takes none of others; `accept = true` in [jobs] of config.toml has it take them from its next start"
            .to_owned();
    }
    if terms.at_once == 0 {
        return "takes none of others, since `at-once` in [jobs] of config.toml is 0".to_owned();
    }
    format!(
        "takes {} at once, for {} credits per 10^12 operations, {} per 10^9 bytes, {} per hour kept ready",
        counted(terms.at_once.into(), "shard"),
        Credits::from_micro(terms.teraflop_micro),
        Credits::from_micro(terms.gigabyte_micro),
        Credits::from_micro(terms.hour_micro)
    )
}

/// Who has a shard, and whether it is attested.
pub(super) fn named(line: &ShardLine, account: &String) -> String {
    match line.attested.contains(account) {
        true => format!("{} (attested)", short(account)),
        false => short(account).to_owned(),
    }
}

/// As much of an account's or a job's name as tells it from others.
pub(super) fn short(account: &str) -> &str {
    account.get(..10).unwrap_or(account)
}
