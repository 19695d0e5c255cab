//! What a command can ask about jobs and credits, and what it is answered.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::hardware::Hardware;

/// One thing asked about jobs or credits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "kebab-case")]
pub enum JobRequest {
    /// Begin a job, and see it through unless it is left to the node.
    Submit(Box<Submission>),
    /// Show one job, or all.
    Status {
        /// Its name, or the beginning of it.
        job: Option<String>,
    },
    /// Follow a job to its end, and go on with it if nobody does.
    Watch {
        /// Its name, or the beginning of it.
        job: String,
    },
    /// Stop a job.
    Cancel {
        /// Its name, or the beginning of it.
        job: String,
    },
    /// Have a verifier judge the outputs of a job's shards.
    Check {
        /// Its name, or the beginning of it.
        job: String,
        /// The verifier: a path, a reference, a digest or a ticket.
        verifier: String,
        /// Only this shard.
        shard: Option<u32>,
    },
    /// Write the result of a job that is done.
    Result {
        /// Its name, or the beginning of it.
        job: String,
        /// Where to.
        output: PathBuf,
    },
    /// Show the credits of this node.
    Account,
    /// Put credits into this node's own ledger.
    Credit {
        /// How much, in micro-credits.
        micro: u64,
        /// Whose; none is this node's.
        #[serde(default)]
        account: Option<String>,
    },
    /// Put credits at stake in this node's own ledger.
    Stake {
        /// How much, in micro-credits.
        micro: u64,
        /// Whose; none is this node's.
        account: Option<String>,
    },
    /// Take credits out of what is at stake in this node's own ledger.
    Unstake {
        /// How much, in micro-credits.
        micro: u64,
        /// Whose; none is this node's.
        account: Option<String>,
    },
    /// Ask for receipts that are owed to this node.
    Collect,
    /// Judge an accusation.
    Judge {
        /// The file that it is in.
        accusation: PathBuf,
    },
    /// Write the receipts that this node has to a file.
    Receipts {
        /// Where to.
        output: PathBuf,
    },
    /// Add up the receipts in files.
    Recompute {
        /// The files.
        files: Vec<PathBuf>,
    },
    /// Settle the receipts in files in this node's own ledger.
    Settle {
        /// The files.
        files: Vec<PathBuf>,
    },
}

/// A job to begin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Submission {
    /// A reference, a digest or a ticket.
    pub package: String,
    /// The folder of a workload's sources that has this very name where it was asked for, and is not meant.
    #[serde(default)]
    pub project: Option<PathBuf>,
    /// The input file.
    pub input: PathBuf,
    /// `jsonl` or `csv`; none is by the input file's ending.
    #[serde(default)]
    pub format: Option<String>,
    /// Where the result goes; none leaves it with the job.
    pub output: Option<PathBuf>,
    /// The labels file of a batch classifier.
    pub labels: Option<PathBuf>,
    /// Arguments of a task.
    pub arguments: Vec<String>,
    /// How many shards; none is by the number of providers.
    pub shards: Option<u32>,
    /// How many providers have to agree on each.
    pub replicas: u32,
    /// The adapter with which its texts are written: a name, a digest, a ticket or a PEFT folder.
    #[serde(default)]
    pub adapter: Option<String>,
    /// For how many seconds each provider keeps things ready; none is only for as long as it works.
    #[serde(default)]
    pub warm: u64,
    /// Whether only nodes get a shard that show hardware which is believed.
    #[serde(default)]
    pub attested: bool,
    /// How many of a million results are audited.
    pub audit: u32,
    /// What a provider has to have at stake here, in micro-credits.
    pub min_stake: u64,
    /// Tickets of providers, beside those that the node knows.
    pub providers: Vec<String>,
    /// Whether nobody else gets a shard. A ticket without an address is then of a node that is asked
    /// where it is known to be.
    #[serde(default)]
    pub only: bool,
    /// All that it may cost, in micro-credits.
    pub max_price: u64,
    /// How long it may take, in milliseconds.
    pub deadline: u64,
    /// Whether it is not begun where too few nodes take it for its price now, and otherwise waits for them.
    #[serde(default)]
    pub at_once: bool,
    /// Whether to return at once and leave the job to the node that runs here.
    pub detach: bool,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// A process works on it.
    Running,
    /// It is not at its end, and nobody works on it at this moment.
    Paused,
    /// Another process has it open, most likely to work on it, so that nothing of how far it is can be told.
    Elsewhere,
    /// The whole result is there.
    Done,
    /// It ended without its result.
    Failed,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Its name.
    pub job: String,
    /// The package.
    pub package: String,
    /// The package whose run began it, if none of its owner's commands did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_by: Option<String>,
    /// The adapter that it runs with, if it does with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Where it stands.
    pub state: JobState,
    /// Why it failed, what keeps it, or why its result is not where it was to go.
    pub reason: Option<String>,
    /// How many shards are done.
    pub finished: u32,
    /// How many there are.
    #[serde(default)]
    pub total: u32,
    /// The shards.
    pub shards: Vec<ShardLine>,
    /// Everyone who ever had one of them.
    #[serde(default)]
    pub providers: Vec<ProviderLine>,
    /// Files with accusations of those whose results audits found wrong, which everybody can
    /// judge.
    pub evidence: Vec<PathBuf>,
    /// What it has cost, in micro-credits.
    pub spent_micro: u64,
    /// What it may cost.
    pub budget_micro: u64,
    /// How many bytes of the result there are so far.
    #[serde(default)]
    pub result_bytes: u64,
    /// Where the result goes; none is that it stays with the job.
    pub output: Option<PathBuf>,
}

/// A shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardLine {
    /// Its number, from 0.
    pub shard: u32,
    /// `waiting`, `running`, `audited` or `done`.
    pub state: String,
    /// Accounts of those that have it, or whose output counts.
    pub providers: Vec<String>,
    /// Those of them that carry the label "attested".
    #[serde(default)]
    pub attested: Vec<String>,
    /// Accounts of those whose output was another than the one that counts.
    pub outvoted: Vec<String>,
    /// The audits of its results.
    pub audits: Vec<AuditLine>,
    /// How many leases it has had.
    pub leases: u32,
    /// How many records it has.
    pub records: u64,
    /// How many of them are done, as its provider says.
    pub records_done: u64,
}

/// What became of a shard: what a job that is followed tells, one after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStep {
    /// The job's name.
    pub job: String,
    /// The shard as it is now.
    #[serde(flatten)]
    pub line: ShardLine,
    /// What keeps the job, if nobody works on any of its shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

/// Someone who has, or had, shards of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderLine {
    /// Its account.
    pub account: String,
    /// What it was found to run on.
    #[serde(flatten)]
    pub hardware: Hardware,
}

/// Where an audit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditState {
    /// Nobody else's result is there yet.
    Open,
    /// Others got the same.
    Passed,
    /// Most others got something else.
    Wrong,
    /// Others got something else, and too few of them the same.
    Undecided,
}

/// An audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// The account whose result was drawn, or is another than enough replicas.
    pub provider: String,
    /// Where it stands.
    pub state: AuditState,
    /// Accounts that were asked for the same work because of it.
    pub auditors: Vec<String>,
    /// Whether they follow its texts, and do not write texts of their own.
    #[serde(default)]
    pub followed: bool,
}

/// The answer about one job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobAnswer {
    /// The job.
    pub job: JobView,
}

/// The answer about all.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobList {
    /// The jobs, newest first, without their shards and providers.
    pub jobs: Vec<JobView>,
}

/// The credits of a node, in micro-credits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccountView {
    /// The account: the public half of the key in `account.key`.
    pub account: String,
    /// To spend.
    pub available_micro: u64,
    /// Held for jobs that are not over.
    pub escrowed_micro: u64,
    /// Held against cheating.
    pub staked_micro: u64,
    /// Until when that stays there, in milliseconds since 1970, if it cannot be taken back yet.
    #[serde(default)]
    pub staked_until: Option<u64>,
    /// Earned with work for others, by receipts that both sides signed.
    pub earned_micro: u64,
    /// How many receipts these are.
    pub receipts: u64,
    /// The balances of others in this node's ledger, by account: what each has to spend there.
    pub balances: Vec<AvailableLine>,
    /// What others have at stake in this node's ledger, by account.
    pub stakes: Vec<StakeLine>,
    /// All credits of the ledger, which never changes.
    pub supply_micro: u64,
}

/// The balance of another account in this node's ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AvailableLine {
    /// The account.
    pub account: String,
    /// How much, in micro-credits.
    pub micro: u64,
}

/// What another account has at stake in this node's ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StakeLine {
    /// The account.
    pub account: String,
    /// How much, in micro-credits.
    pub micro: u64,
    /// Until when it stays there, in milliseconds since 1970, if it cannot be taken back yet.
    #[serde(default)]
    pub until: Option<u64>,
}

/// What of others' jobs a node takes, and for how much, as its owner has set it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobTerms {
    /// Whether it takes any.
    pub accept: bool,
    /// How many shards run there at once.
    pub at_once: u32,
    /// What it asks for 10¹² operations, in micro-credits.
    pub teraflop_micro: u64,
    /// What it asks for 10⁹ bytes of input and output, in micro-credits.
    pub gigabyte_micro: u64,
    /// What it asks for an hour in which something is kept ready, in micro-credits.
    pub hour_micro: u64,
}

/// What a verifier says of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checked {
    /// The job.
    pub job: String,
    /// The digest of the verifier's component.
    pub verifier: String,
    /// What it says of each output.
    pub verdicts: Vec<VerdictLine>,
    /// What it reported of outputs.
    pub reports: Vec<ReportLine>,
}

/// What a verifier finds of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingName {
    /// It is what the work gives.
    Right,
    /// It is not.
    Wrong,
    /// It cannot tell.
    Undecided,
}

/// What a verifier says of one output of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictLine {
    /// The shard, from 0.
    pub shard: u32,
    /// The account that delivered it.
    pub provider: String,
    /// The digest of the output.
    pub output: String,
    /// What it finds.
    pub finding: FindingName,
    /// Why, in its own words.
    pub evidence: String,
}

/// What a verifier reported of one output of one shard, whoever delivered it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportLine {
    /// The shard, from 0.
    pub shard: u32,
    /// The digest of the output.
    pub output: String,
    /// Why it is not what it should be, in the verifier's words.
    pub evidence: String,
}

/// What came of an accusation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Judged {
    /// Who brought it.
    pub accuser: String,
    /// Whom it was brought against.
    pub accused: String,
    /// Whether it is true.
    pub guilty: bool,
    /// Why it is not, if it is not.
    pub reason: Option<String>,
    /// The lease under which the fraud was, if there was one.
    pub lease: Option<String>,
    /// What whoever is in the wrong lost of its stake in this node's ledger, in micro-credits.
    pub fined_micro: u64,
    /// Why nothing was taken, if nothing was.
    pub spared: Option<String>,
}

/// The answer about credits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccountAnswer {
    /// The account.
    pub account: AccountView,
    /// After receipts were asked for, those that are still missing: who owes most first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Vec<MissingLine>>,
}

/// Receipts of one account that are owed to this node: it did the work, and has no countersignature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingLine {
    /// Whose work it was, who is to countersign.
    pub account: String,
    /// How many receipts.
    pub receipts: u64,
    /// What they come to, in micro-credits.
    pub micro: u64,
    /// When the first of that work was done, in milliseconds since 1970.
    pub since: u64,
    /// Whether a node of that account could be asked just now.
    pub reached: bool,
}
