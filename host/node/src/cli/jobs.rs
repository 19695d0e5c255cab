//! The command line of jobs.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::Format;

#[derive(Debug, Subcommand)]
pub enum Job {
    /// Split an input over other nodes, have each part done there, and put the results together.
    Submit(Box<Submit>),
    /// Show a job and its shards, or all jobs.
    Status {
        /// The job's name, or the beginning of it.
        job: Option<String>,
    },
    /// Follow a job to its end. Where no node runs, this goes on with a job that was interrupted.
    Watch {
        /// The job's name, or the beginning of it.
        job: String,
    },
    /// Stop a job. What was delivered is paid; what is left of its credits comes back.
    Cancel {
        /// The job's name, or the beginning of it.
        job: String,
    },
    /// Have a verifier judge the outputs that there are of a job's shards: those that count, and
    /// those that were found different. What it says costs nobody anything.
    Check {
        /// The job's name, or the beginning of it.
        job: String,
        /// The verifier: a package of the world `verifier`, by its folder, file, name, digest or
        /// ticket.
        #[arg(long, value_name = "PACKAGE")]
        verifier: String,
        /// Only this shard, from 0.
        #[arg(long)]
        shard: Option<u32>,
    },
    /// Write the result of a job that is done.
    Result {
        /// The job's name, or the beginning of it.
        job: String,
        /// Where to.
        #[arg(short, long, value_hint = ValueHint::FilePath)]
        output: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Submit {
    /// An installed name, a digest or a ticket. Nodes fetch it from this one.
    pub package: String,
    /// The input: one record a line, or comma-separated with a header.
    #[arg(short, long, value_hint = ValueHint::FilePath)]
    pub input: PathBuf,
    /// The form of a batch classifier's input; by default it is told from the file's name.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Where the result goes.
    #[arg(short, long, value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// The labels of a batch classifier, as JSON.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub labels: Option<PathBuf>,
    /// How many parts the input is cut into; by default two for each shard that nodes take at once.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub shards: Option<u32>,
    /// How many nodes have to agree on the output of each shard. Where two differ, a third decides.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=7))]
    pub replicas: u32,
    /// How much of the work is done once more by others and compared, such as `5%` or `0.05`. Whoever
    /// is found to have made something up is not paid, and accused with a proof. It takes three
    /// nodes, on machines of one kind unless texts are all that differs, and a package whose work can
    /// be repeated.
    #[arg(long, value_name = "PART", default_value = "0")]
    pub audit: String,
    /// Ask only accounts that have at least so much at stake in this node's ledger (`skep account
    /// stake`), so that making something up costs more than it brings. By default 10 with --audit, and
    /// nothing without, where most is not looked at.
    #[arg(long, value_name = "CREDITS")]
    pub min_stake: Option<String>,
    /// A node to ask, by its ticket, beside those that the configuration names and those found
    /// nearby; may be given several times.
    #[arg(long, value_name = "TICKET")]
    pub provider: Vec<String>,
    /// Give shards to no other nodes than those that --provider names.
    #[arg(long, requires = "provider")]
    pub only: bool,
    /// Write all texts with this adapter of the language model that comes with skep: an installed
    /// name, a digest, a ticket, or a PEFT folder, which is published first. Nodes fetch it from this
    /// one, and the authors of it and of those that it went on from get the shares of the price that
    /// they ask for.
    #[arg(long, value_name = "ADAPTER")]
    pub adapter: Option<String>,
    /// Have each node that works on the job keep package, models and adapter ready for so long, such
    /// as `1 h`, and pay for that.
    #[arg(long, value_name = "TIME")]
    pub warm: Option<String>,
    /// Give shards only to nodes whose processor signs what they run, as `[attestation]` of the
    /// configuration asks for.
    #[arg(long)]
    pub attested: bool,
    /// The most that the whole job may cost, in credits.
    #[arg(long, value_name = "CREDITS", default_value = "1")]
    pub max_price: String,
    /// How long the job may take, such as `30 min`.
    #[arg(long, value_name = "TIME", default_value = "1 h")]
    pub deadline: String,
    /// Do not begin the job where too few nodes take it for that price now. Without this it waits for
    /// them until its deadline.
    #[arg(long)]
    pub now: bool,
    /// Leave the job to the node that runs in this home, and return at once.
    #[arg(long)]
    pub detach: bool,
    /// Arguments for a task.
    #[arg(last = true)]
    pub arguments: Vec<String>,
}
