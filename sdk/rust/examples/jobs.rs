//! Has other nodes work on its input. `whole`, with a package's digest, what it may cost in millionths
//! of a credit, how many shards to make, and the labels if the package is a batch classifier, waits for
//! the result and writes it; `begin`, with the same, writes the job's name at once; `find`, with
//! such a name, waits for the result of that job, and `cancel` stops it and writes why it ended.
//!
//! A job that is begun may have more, each as an argument of its own behind the number of shards:
//!
//! - `adapter=digest`: write or embed with this adapter;
//! - `node=ticket`, several times: give the work to these nodes only;
//! - `attested`: give it only to nodes that show their hardware;
//! - `warm=milliseconds`: have each node keep things ready for so long.

use skep_sdk::{Error, Job, JobOptions, JobPlan, JobState, Output, Result, input, output};
use std::io::{Read, Write, copy};
use std::time::Duration;

fn jobs(arguments: Vec<String>) -> Result<()> {
    let mut output = output();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["whole", package, price, shards, ref more @ ..] => {
            write_result(&begin(package, price, shards, more)?, &mut output)?;
        }
        ["begin", package, price, shards, ref more @ ..] => {
            let job = begin(package, price, shards, more)?;
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
                 perhaps labels and options, or `find` or `cancel` with a job's name",
            ));
        }
    }
    output.finish()
}

fn begin(package: &str, price: &str, shards: &str, more: &[&str]) -> Result<Job> {
    let mut records = Vec::new();
    input().read_to_end(&mut records)?;
    let mut plan = JobPlan::new(package, records, price.parse().map_err(Error::invalid)?);
    plan.shards = Some(shards.parse().map_err(Error::invalid)?);
    let mut options = JobOptions::default();
    for word in more {
        match word.split_once('=') {
            Some(("adapter", digest)) => options.adapter = Some(digest.to_owned()),
            Some(("node", ticket)) => options.nodes.push(ticket.to_owned()),
            Some(("warm", milliseconds)) => {
                let milliseconds = milliseconds.parse().map_err(Error::invalid)?;
                options.warm = Some(Duration::from_millis(milliseconds));
            }
            _ if *word == "attested" => options.attested = true,
            _ => plan.labels = Some(word.as_bytes().to_vec()),
        }
    }
    match options == JobOptions::default() {
        true => Job::submit(&plan),
        false => Job::submit_with(&plan, &options),
    }
}

fn write_result(job: &Job, output: &mut Output) -> Result<()> {
    job.wait_for_result()?;
    copy(&mut job.result(), output)?;
    Ok(())
}

skep_sdk::export_task!(jobs);
