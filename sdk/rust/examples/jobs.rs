//! Has other nodes work on its input. `whole`, with a package's digest, what it may cost in millionths
//! of a credit, how many shards to make, and the labels if the package is a batch classifier, waits for
//! the result and writes it; `begin`, with the same, writes the job's name at once; `find`, with
//! such a name, waits for the result of that job, and `cancel` stops it and writes why it ended.

use skep_sdk::{Error, Job, JobPlan, JobState, Output, Result, input, output};
use std::io::{Read, Write, copy};
use std::time::Duration;

fn jobs(arguments: Vec<String>) -> Result<()> {
    let mut output = output();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["whole", package, price, shards, ref labels @ ..] => {
            write_result(&begin(package, price, shards, labels)?, &mut output)?;
        }
        ["begin", package, price, shards, ref labels @ ..] => {
            let job = begin(package, price, shards, labels)?;
            writeln!(output, "{}", job.name())?;
        }
        ["find", name] => write_result(&Job::find(name)?, &mut output)?,
        ["cancel", name] => {
            let job = Job::find(name)?;
            job.cancel()?;
            let ended = loop {
                let status = job.wait(Duration::from_secs(10))?;
                if status.state != JobState::Running {
                    break status;
                }
            };
            writeln!(output, "{}", ended.reason)?;
        }
        _ => {
            return Err(Error::invalid(
                "the arguments are `whole` or `begin` with a package, a price, a number of shards and \
                 perhaps labels, or `find` or `cancel` with a job's name",
            ));
        }
    }
    output.finish()
}

fn begin(package: &str, price: &str, shards: &str, labels: &[&str]) -> Result<Job> {
    let mut records = Vec::new();
    input().read_to_end(&mut records)?;
    let mut plan = JobPlan::new(package, records, price.parse().map_err(Error::invalid)?);
    plan.shards = Some(shards.parse().map_err(Error::invalid)?);
    plan.labels = labels.first().map(|labels| labels.as_bytes().to_vec());
    Job::submit(&plan)
}

fn write_result(job: &Job, output: &mut Output) -> Result<()> {
    job.wait_for_result()?;
    copy(&mut job.result(), output)?;
    Ok(())
}

skep_sdk::export_task!(jobs);
