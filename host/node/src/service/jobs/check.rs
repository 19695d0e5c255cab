//! Asking a verifier about a job: a component of the world `verifier`, whoever published it, is given
//! each shard's input and every output of it that is here, and says what it finds and what it has
//! to report.
//!
//! It must never do more with what a verifier says than show it: a stake is lost by what the accused
//! signed, and by nobody's word.

use std::collections::BTreeSet;
use std::sync::Arc;

use skep_evidence::AccountId;
use skep_market::{Job, Journal};
use skep_registry::{Digest, SignedRelease};
use skep_sandbox::{
    CallError, CallLimits, Cancel, Content, Finding, Program, Reported, RunError, RunSpec, Sandbox,
    Verdict, VerifiedWork,
};

use super::folder::{Folder, Spec};
use super::{answer, failed};
use crate::failure::{Failure, FailureKind};
use crate::requests::jobs::{Checked, FindingName, ReportLine, VerdictLine};
use crate::requests::{Progress, Unit};
use crate::service::blobs::Reach;
use crate::service::run::{self, CancelOnDrop};
use crate::service::{ProgressSender, Service};

/// Bytes of a report's evidence that are told at most: as many as of a verdict's.
const EVIDENCE: usize = 2_000;

/// What a verifier says of the shards of a job, or of one of them.
pub async fn check(
    service: &Arc<Service>,
    folder: &Folder,
    verifier: &str,
    only: Option<u32>,
    progress: &ProgressSender,
) -> Result<Checked, Failure> {
    let spec = folder.spec()?;
    let count = u32::try_from(spec.shards.len()).unwrap_or(u32::MAX);
    if let Some(shard) = only.filter(|shard| *shard >= count) {
        return Err(Failure::new(
            FailureKind::NotFound,
            format!("the job has {count} shards, counted from 0, and none is {shard}"),
        ));
    }
    let subject = run::subject(service, verifier, &[], progress).await?;
    let prepared = run::prepare(service, subject, &[], Vec::new(), Reach::Everything).await?;
    let (program, mut run) = (prepared.program, prepared.spec);
    if program.world() != Some("verifier") {
        return Err(Failure::new(
            FailureKind::Usage,
            format!("{verifier} is not a component of the world `verifier`"),
        ));
    }
    if !program.is_repeatable() {
        return Err(Failure::new(
            FailureKind::Refused,
            "a verifier has to say the same of the same outputs wherever it is asked, and this one \
             writes texts, reads other nodes' blobs or is asynchronous",
        ));
    }
    run.seed = Some(0);
    let release = service.swarm().await?.release(&spec.release);
    let work = work(folder, &spec, release.as_ref())?;
    let cancel = Cancel::new();
    let _on_drop = CancelOnDrop(cancel.clone());
    let judge = Judge {
        work,
        sandbox: service.sandbox()?,
        digest: program.digest().to_string(),
        program,
        run,
        cancel,
    };
    let (folder, progress) = (folder.clone(), progress.clone());
    let judging = tokio::task::spawn_blocking(move || {
        let (journal, job) = answer::open(&folder, &spec)?;
        let places = job.places();
        let (mut verdicts, mut reports) = (Vec::new(), Vec::new());
        for shard in only.map_or(0..count, |shard| shard..shard + 1) {
            // A full channel means that nobody can keep up with watching; the next step will do.
            let _ = progress.try_send(Progress {
                stage: "judging".to_owned(),
                done: u64::from(shard),
                total: Some(u64::from(count)),
                unit: Unit::Shards,
                training: None,
                shard: None,
            });
            let outputs = gather(&folder, &journal, &job, &places, shard)?;
            if !outputs.is_empty() {
                let input = folder.records(&spec, shard)?;
                let (judged, reported) = judge.ask(shard, input, outputs)?;
                verdicts.extend(judged);
                reports.extend(reported);
            }
        }
        Ok(Checked {
            job: spec.job.to_string(),
            verifier: judge.digest,
            verdicts,
            reports,
        })
    });
    let checked = judging.await;
    checked.map_err(|error| Failure::of(FailureKind::Failed, &error))?
}

/// What a job's shards are, in the words of the contract.
fn work(
    folder: &Folder,
    spec: &Spec,
    release: Option<&SignedRelease>,
) -> Result<VerifiedWork, Failure> {
    let world = release.and_then(|release| release.component());
    let world = world.map(|component| component.world.as_str().to_owned());
    let world = world.ok_or_else(|| {
        Failure::new(
            FailureKind::NotFound,
            format!("{} is not known here any more", spec.package),
        )
    })?;
    Ok(VerifiedWork {
        package: spec.release,
        format: match world.as_str() {
            "batch-classifier" if spec.header.is_some() => "csv".to_owned(),
            "batch-classifier" => "jsonl".to_owned(),
            _ => String::new(),
        },
        world,
        model: spec.model,
        adapter: None,
        seed: 0,
        // Only for audited jobs was it made sure, and what is followed gives the same bytes on
        // machines of one kind alone.
        exact: spec.audit > 0 && !spec.followed,
        labels: folder.labels()?.map(Content::from),
        arguments: spec.arguments.clone(),
    })
}

/// What was delivered for a shard, as far as it is here: whose, its digest, and its bytes.
type Outputs = Vec<(AccountId, Digest, Vec<u8>)>;

fn gather(
    folder: &Folder,
    journal: &Journal,
    job: &Job,
    places: &[(u64, u64)],
    shard: u32,
) -> Result<Outputs, Failure> {
    let mut found = Vec::new();
    for (provider, digest) in job.outputs(shard) {
        let place = places.get(shard as usize);
        let bytes = match place.filter(|_| job.accepted(shard) == Some(digest)) {
            Some((start, bytes)) => Some(folder.part(*start, *bytes)?),
            None => match journal.output(digest).map_err(failed)? {
                Some(bytes) => Some(bytes),
                None => folder.kept(digest)?,
            },
        };
        if let Some(bytes) = bytes {
            if Digest::of(&bytes) != digest {
                return Err(Failure::new(
                    FailureKind::Failed,
                    format!("the output of shard {shard} was damaged on disk"),
                ));
            }
            found.push((provider, digest, bytes));
        }
    }
    Ok(found)
}

/// A verifier, and what it is told of the work.
struct Judge {
    sandbox: Arc<Sandbox>,
    program: Arc<Program>,
    digest: String,
    run: RunSpec,
    work: VerifiedWork,
    cancel: Cancel,
}

impl Judge {
    /// Asks about one shard. A guest of its own is asked about each, so that what it says depends on
    /// nothing else.
    fn ask(
        &self,
        shard: u32,
        input: Vec<u8>,
        outputs: Outputs,
    ) -> Result<(Vec<VerdictLine>, Vec<ReportLine>), Failure> {
        let limits = CallLimits::default();
        let opened = self
            .sandbox
            .open_verifier(&self.program, &self.run, limits, &self.cancel);
        let mut verifier = opened.map_err(|error| told(shard, &error))?;
        let names: Vec<(String, Digest)> = outputs
            .iter()
            .map(|(provider, digest, _)| (provider.to_string(), *digest))
            .collect();
        let claims = outputs.into_iter().map(|(provider, digest, bytes)| {
            let bytes = bytes.into();
            (provider.to_string(), Content { digest, bytes })
        });
        let said = verifier
            .verify(self.work.clone(), input.into(), claims.collect())
            .map_err(|error| told(shard, &error))?;
        let reports = verifier.reports().map_err(|error| told(shard, &error))?;
        let given = names.iter().map(|(_, output)| output.to_string());
        let reports = reported(shard, given.collect(), reports);
        let lines = names.into_iter().zip(said);
        let line = |((provider, output), verdict): ((String, Digest), Verdict)| VerdictLine {
            shard,
            provider,
            output: output.to_string(),
            finding: match verdict.finding {
                Finding::Right => FindingName::Right,
                Finding::Wrong => FindingName::Wrong,
                Finding::Undecided => FindingName::Undecided,
            },
            evidence: verdict.evidence,
        };
        Ok((lines.map(line).collect(), reports))
    }
}

/// The first report of each output that the verifier was given. What it reports of others is of
/// nothing that anybody could look at here.
fn reported(shard: u32, mut given: BTreeSet<String>, reports: Vec<Reported>) -> Vec<ReportLine> {
    let first = reports
        .into_iter()
        .filter(|report| given.remove(&report.output));
    let line = |report: Reported| {
        let mut evidence = report.evidence;
        evidence.truncate(evidence.floor_char_boundary(EVIDENCE));
        ReportLine {
            shard,
            output: report.output,
            evidence,
        }
    };
    first.map(line).collect()
}

/// Why a verifier has no answer.
fn told(shard: u32, error: &CallError) -> Failure {
    let kind = match error {
        CallError::Over(failed) => match &failed.error {
            error if error.limit().is_some() => FailureKind::Limit,
            RunError::Busy { .. } => FailureKind::Busy,
            RunError::Refused(_) => FailureKind::Refused,
            _ => FailureKind::Failed,
        },
        CallError::Refused(_) => FailureKind::Failed,
    };
    Failure::new(
        kind,
        format!("the verifier has no verdict on shard {shard}: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_output_that_was_given_the_first_report_is_told_and_of_others_none() {
        let report = |output: &str, evidence: &str| Reported {
            output: output.to_owned(),
            evidence: evidence.to_owned(),
        };
        let long = "é".repeat(EVIDENCE);
        let reports = vec![
            report("elsewhere", "nobody has it"),
            report("a", "first"),
            report("a", "again"),
            report("b", &long),
        ];
        let given = ["a", "b", "c"].map(str::to_owned).into();
        let line = |output: &str, evidence: &str| ReportLine {
            shard: 3,
            output: output.to_owned(),
            evidence: evidence.to_owned(),
        };
        let cut = "é".repeat(EVIDENCE / 2);
        assert_eq!(
            reported(3, given, reports),
            [line("a", "first"), line("b", &cut)]
        );
    }
}
