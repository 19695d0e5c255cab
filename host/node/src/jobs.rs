//! From the command line of jobs and credits to requests.

use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_evidence::Credits;
use skep_registry::{PackageRef, units};

use crate::cli::{Account, AccountCommand, Job, Submit};
use crate::failure::{Failure, FailureKind};
use crate::requests::Request;
use crate::requests::jobs::{JobRequest, Submission};
use crate::{absolute, place_of};

/// What a provider has to have at stake for a job whose results are audited, unless the job says
/// otherwise: as much as one proven fraud costs. Who makes something up at 5 % audits gets away with
/// fewer than 20 shards before it is caught, so that it loses by it wherever a shard costs less than
/// half a credit.
const DEFAULT_STAKE: Credits = Credits::from_micro(10 * Credits::ONE);

/// What a command about a job asks.
pub fn request_of(job: Job) -> Result<Request, Failure> {
    let request = match job {
        Job::Submit(submit) => JobRequest::Submit(Box::new(submission_of(*submit)?)),
        Job::Status { job } => JobRequest::Status { job },
        Job::Watch { job } => JobRequest::Watch { job },
        Job::Cancel { job } => JobRequest::Cancel { job },
        Job::Check {
            job,
            verifier,
            shard,
        } => JobRequest::Check {
            job,
            verifier: place_of(&verifier)?,
            shard,
        },
        Job::Result { job, output } => JobRequest::Result {
            job,
            output: file(&output)?,
        },
    };
    Ok(Request::Job(Box::new(request)))
}

/// What a command about credits asks.
pub fn request_of_account(account: Account) -> Result<Request, Failure> {
    let request = match account.command {
        None => JobRequest::Account,
        Some(AccountCommand::Add { credits, account }) => JobRequest::Credit {
            micro: micro(&credits)?,
            account,
        },
        Some(AccountCommand::Stake { credits, account }) => JobRequest::Stake {
            micro: micro(&credits)?,
            account,
        },
        Some(AccountCommand::Unstake { credits, account }) => JobRequest::Unstake {
            micro: micro(&credits)?,
            account,
        },
        Some(AccountCommand::Collect) => JobRequest::Collect,
        Some(AccountCommand::Judge { accusation }) => JobRequest::Judge {
            accusation: absolute(&accusation)?,
        },
        Some(AccountCommand::Receipts { output }) => JobRequest::Receipts {
            output: file(&output)?,
        },
        Some(AccountCommand::Recompute { files }) => JobRequest::Recompute {
            files: all(&files)?,
        },
        Some(AccountCommand::Settle { files }) => JobRequest::Settle {
            files: all(&files)?,
        },
    };
    Ok(Request::Job(Box::new(request)))
}

/// A failure as it is told of a job: one that was begun goes on without the command.
pub fn told(failure: Failure) -> Failure {
    match failure.message == crate::INTERRUPTED {
        true => Failure::new(
            failure.kind,
            "interrupted; a job that was begun goes on in the node of this home, or with `skep job watch` where \
             none runs, and `skep job cancel` stops it",
        ),
        false => failure,
    }
}

/// The paths of files that a node reads, which may run in another folder.
fn all(files: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    files.iter().map(|file| absolute(file)).collect()
}

fn submission_of(submit: Submit) -> Result<Submission, Failure> {
    let deadline = units::parse_duration(&submit.deadline)
        .map_err(|error| Failure::new(FailureKind::Usage, format!("--deadline: {error}")))?;
    if deadline.is_zero() {
        return Err(Failure::new(
            FailureKind::Usage,
            "--deadline: a job that may take no time can only fail; write for example `30 min`",
        ));
    }
    let warm = match &submit.warm {
        None => Duration::ZERO,
        Some(text) => units::parse_duration(text)
            .map_err(|error| Failure::new(FailureKind::Usage, format!("--warm: {error}")))?,
    };
    let audit = part(&submit.audit)
        .map_err(|error| Failure::new(FailureKind::Usage, format!("--audit: {error}")))?;
    let is_name = submit.package.parse::<PackageRef>().is_ok();
    let project = match is_name && is_project(Path::new(&submit.package)) {
        true => Some(absolute(Path::new(&submit.package))?),
        false => None,
    };
    Ok(Submission {
        project,
        package: match is_name {
            true => submit.package,
            false => place_of(&submit.package)?,
        },
        input: file(&submit.input)?,
        format: submit.format.map(|format| format.name().to_owned()),
        output: Some(file(&submit.output)?),
        labels: submit.labels.as_deref().map(absolute).transpose()?,
        arguments: submit.arguments,
        shards: submit.shards,
        replicas: submit.replicas,
        adapter: submit.adapter.as_deref().map(place_of).transpose()?,
        // A second that is begun is paid whole.
        warm: warm.as_secs() + u64::from(warm.subsec_nanos() > 0),
        attested: submit.attested,
        audit,
        min_stake: match submit.min_stake {
            Some(credits) => micro(&credits)?,
            None if audit > 0 => DEFAULT_STAKE.micro(),
            None => 0,
        },
        providers: submit.provider,
        only: submit.only,
        max_price: micro(&submit.max_price)?,
        deadline: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        at_once: submit.now,
        detach: submit.detach,
    })
}

/// Whether there are the sources of a workload.
fn is_project(folder: &Path) -> bool {
    folder.join("skep.toml").is_file()
}

/// A part of all, as `5%` or `0.05`, in millionths.
fn part(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no part of all, such as 5% or 0.05");
    let (number, whole) = match text.strip_suffix('%') {
        Some(percent) => (percent, 100.0),
        None => (text, 1.0),
    };
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    if !(0.0..=whole).contains(&number) {
        return Err(format!("{}, and not more than all", wrong()));
    }
    // Between 0 and a million, by the line above.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok((number / whole * 1_000_000.0).round() as u32)
}

fn micro(text: &str) -> Result<u64, Failure> {
    text.parse()
        .map(Credits::micro)
        .map_err(|error| Failure::of(FailureKind::Usage, &error))
}

/// The path of a file. A job can be gone on with by another process, which has not this one's
/// standard streams.
fn file(path: &Path) -> Result<PathBuf, Failure> {
    if path == Path::new("-") {
        return Err(Failure::new(
            FailureKind::Usage,
            "jobs and receipts are read from files and written to them, since a node does it that can outlive \
             the command; name one instead of -",
        ));
    }
    absolute(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::{is_project, part};

    #[test]
    fn a_part_is_a_percentage_or_a_fraction() {
        for (text, millionths) in [
            ("0", 0),
            ("5%", 50_000),
            ("0.05", 50_000),
            ("100%", 1_000_000),
            ("1", 1_000_000),
            ("0.5 %", 5_000),
        ] {
            assert_eq!(part(text), Ok(millionths), "{text}");
        }
        for text in ["", "%", "5", "-1%", "101%", "NaN", "inf", "a"] {
            assert!(part(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_folder_with_a_manifest_is_a_project_and_no_other_is() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_project(folder.path()));
        std::fs::write(folder.path().join("skep.toml"), "").unwrap();
        assert!(is_project(folder.path()));
        assert!(!is_project(&folder.path().join("skep.toml")));
    }
}
