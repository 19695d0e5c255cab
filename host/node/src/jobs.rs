//! From the command line of jobs and credits to requests.

use std::path::Path;

use skep_evidence::Credits;
use skep_registry::units;

use crate::cli::{Account, AccountCommand, Job, Submit};
use crate::failure::{Failure, FailureKind};
use crate::requests::Request;
use crate::requests::jobs::{JobRequest, Submission};
use crate::{absolute, place_of};

/// What a command about a job asks.
pub fn request_of(job: Job) -> Result<Request, Failure> {
    let request = match job {
        Job::Submit(submit) => JobRequest::Submit(Box::new(submission_of(*submit)?)),
        Job::Status { job } => JobRequest::Status { job },
        Job::Watch { job } => JobRequest::Watch { job },
        Job::Cancel { job } => JobRequest::Cancel { job },
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
        Some(AccountCommand::Add { credits }) => JobRequest::Credit {
            micro: micro(&credits)?,
        },
    };
    Ok(Request::Job(Box::new(request)))
}

fn submission_of(submit: Submit) -> Result<Submission, Failure> {
    let deadline = units::parse_duration(&submit.deadline)
        .map_err(|error| Failure::new(FailureKind::Usage, format!("--deadline: {error}")))?;
    Ok(Submission {
        package: place_of(&submit.package)?,
        input: file(&submit.input)?,
        output: file(&submit.output)?,
        labels: submit.labels.as_deref().map(absolute).transpose()?,
        arguments: submit.arguments,
        shards: submit.shards,
        replicas: submit.replicas,
        attested: submit.attested,
        providers: submit.provider,
        max_price: micro(&submit.max_price)?,
        deadline: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        detach: submit.detach,
    })
}

fn micro(text: &str) -> Result<u64, Failure> {
    text.parse()
        .map(Credits::micro)
        .map_err(|error| Failure::of(FailureKind::Usage, &error))
}

/// The path of a file. A job can be gone on with by another process, which has not this one's
/// standard streams.
fn file(path: &Path) -> Result<std::path::PathBuf, Failure> {
    if path == Path::new("-") {
        return Err(Failure::new(
            FailureKind::Usage,
            "a job reads and writes files, since it can outlive the command; name one instead of -",
        ));
    }
    absolute(path)
}
