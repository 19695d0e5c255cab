//! What a command can ask of a node, how the node says how far it has come, and what it
//! answers. All of it crosses the control socket as JSON, and the answers are what `--json`
//! prints: their fields are an interface that scripts rely on.

pub mod found;
pub mod hardware;
pub mod jobs;
pub mod receipts;
mod together;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use together::{
    LeftOut, TogetherMethod, TogetherNode, TogetherReport, TogetherRequest, usual_fragments,
};

/// One thing asked of a node. Paths are absolute.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// Sign the package in a folder and offer it.
    Publish {
        /// The folder with the skep.toml.
        path: PathBuf,
        /// The name of the key to sign with.
        key: String,
    },
    /// Publish a model.
    ModelAdd {
        /// Its folder, or its GGUF file.
        path: PathBuf,
        /// What to call it.
        name: String,
        /// Its version.
        version: String,
        /// The name of the key to sign with.
        key: String,
    },
    /// Publish an adapter.
    AdapterAdd {
        /// Its PEFT folder.
        path: PathBuf,
        /// The model that it changes: a reference, a digest or a path; none is the one that its
        /// own configuration names.
        base: Option<String>,
        /// What to call it.
        name: String,
        /// Its version.
        version: String,
        /// The name of the key to sign with.
        key: String,
    },
    /// List the adapters that are here.
    AdapterList,
    /// Take an adapter away from this node, in all its versions.
    AdapterRemove {
        /// A reference or a digest.
        package: String,
    },
    /// Fetch, verify and keep a package.
    Install {
        /// A ticket, a reference or a digest.
        package: String,
        /// Tickets of nodes to ask.
        from: Vec<String>,
    },
    /// Run a component.
    Run(Box<RunRequest>),
    /// Train an adapter and publish it.
    FineTune(Box<FineTuneRequest>),
    /// Say what a package is.
    Inspect {
        /// A path, a reference or a digest.
        package: String,
    },
    /// List what is here.
    List,
    /// List the models that are here.
    ModelList,
    /// How the node can be reached and what it is doing.
    Status,
    /// Find nodes by what they can do.
    Find(Box<found::FindRequest>),
    /// Something about jobs or credits.
    Job(Box<jobs::JobRequest>),
}

/// A run: of what, over what, within what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunRequest {
    /// A path, a reference, a digest or a ticket.
    pub package: String,
    /// The input file; none is an empty input.
    pub input: Option<PathBuf>,
    /// The output file.
    pub output: PathBuf,
    /// What to call the output in the answer: `-` if it is copied to standard output.
    pub output_name: PathBuf,
    /// `jsonl` or `csv`; none is by the input file's ending.
    pub format: Option<String>,
    /// The labels file of a batch classifier.
    pub labels: Option<PathBuf>,
    /// What the component gets as `default`: at most one encoder and one language model.
    pub models: Vec<String>,
    /// Adapters that a component without a manifest may open.
    pub adapters: Vec<String>,
    /// Tickets of nodes to ask for blobs that the component opens.
    pub from: Vec<String>,
    /// Limits from the command line, in the text form of skep.toml.
    pub limits: Vec<(String, String)>,
    /// Arguments of a task.
    pub arguments: Vec<String>,
}

/// A training: of what, on what, how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FineTuneRequest {
    /// The file of examples.
    pub data: PathBuf,
    /// The model to adapt: a reference, a digest or a path; none is the one that comes with skep.
    pub base: Option<String>,
    /// The recipe: a path, a reference or a digest; none is the one that comes with skep.
    pub recipe: Option<String>,
    /// The adapter to go on from: a reference or a digest.
    pub from: Option<String>,
    /// How many millionths of the price of every use of the adapter and of its descendants its
    /// author asks for.
    pub share: u32,
    /// What to call the adapter.
    pub name: String,
    /// Whether to begin anew where a training of this name was not finished.
    pub fresh: bool,
    /// The name of the key to sign with.
    pub key: String,
    /// Limits from the command line, in the text form of skep.toml.
    pub limits: Vec<(String, String)>,
    /// The recipe's settings.
    pub settings: Vec<(String, String)>,
    /// With whom, if not alone.
    #[serde(default)]
    pub together: Option<TogetherRequest>,
}

/// How far a request has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, in a few words.
    pub stage: String,
    /// How much of it is done.
    pub done: u64,
    /// How much there is; none if that is not known.
    pub total: Option<u64>,
    /// What is counted.
    pub unit: Unit,
    /// Of a training, what its last step came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingStep>,
    /// Of a job, what became of one of its shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Box<jobs::ShardStep>>,
}

/// What a step of a training came to: a line of its losses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingStep {
    /// Steps that were made; 0 is before the first.
    pub step: u64,
    /// Steps that there will be at most.
    pub steps: u64,
    /// The loss of the step's batch.
    pub loss: Option<f64>,
    /// The loss on what is held out, where it was looked at.
    pub held_out_loss: Option<f64>,
    /// The learning rate of the step.
    pub learning_rate: f32,
    /// Tokens that were learned from so far.
    pub tokens: u64,
    /// Of them by second, since this run began. It differs from run to run, so that no file has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<f64>,
}

/// What a progress counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Records of a batch.
    Records,
    /// Steps of a training.
    Steps,
    /// Records of one shard among others, each of which has a stage of its own.
    Shards,
    /// Nodes.
    Nodes,
}

/// The answer to a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// To `Publish`, `ModelAdd` and `AdapterAdd`.
    Published(Published),
    /// To `Install`.
    Installed(Installed),
    /// To `FineTune`.
    FineTuned(Box<FineTuned>),
    /// To `Run`.
    Ran(Box<Ran>),
    /// To `Inspect`.
    Inspected(Box<Inspected>),
    /// To `List`, `ModelList` and `AdapterList`.
    Listed(Listed),
    /// To `AdapterRemove`.
    Removed(Removed),
    /// To `Status`.
    Status(Status),
    /// To `Job`, about one job.
    Job(Box<jobs::JobAnswer>),
    /// To `Job`, about all jobs.
    Jobs(jobs::JobList),
    /// To `Job`, about credits.
    Account(Box<jobs::AccountAnswer>),
    /// To `Job`, about an accusation.
    Judged(Box<jobs::Judged>),
    /// To `Job`, about what a verifier says.
    Checked(Box<jobs::Checked>),
    /// To `Job`, about receipts that were written.
    WroteReceipts(receipts::WroteReceipts),
    /// To `Job`, about what receipts come to.
    Recomputed(receipts::Recomputed),
    /// To `Job`, about receipts that were settled.
    Settled(receipts::SettledAnswer),
    /// To `Find`.
    Found(found::Found),
}

/// A package as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageLine {
    /// `publisher/name@version`.
    pub reference: String,
    /// The digest of the signed release.
    pub digest: String,
    /// `component`, `model` or `adapter`.
    pub kind: String,
    /// What a model does: `sentence-encoder` or `language-model`.
    pub task: Option<String>,
    /// The model that an adapter changes: its name, and its digest in brackets.
    pub base: Option<String>,
    /// The sizes of its files, added up.
    pub bytes: u64,
    /// One line about it.
    pub description: Option<String>,
}

/// What was published, and how others get it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Published {
    /// The package.
    pub published: PackageLine,
    /// How many releases of it there are now, this one included.
    pub releases: u64,
    /// Text that lets another node find and verify exactly this release.
    pub ticket: String,
    /// What it is, if it is a model that was added.
    pub model: Option<ModelLine>,
    /// What it is, if it is an adapter that was added.
    pub adapter: Option<AdapterLine>,
}

/// What an adapter was found to be when it was read for its base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterLine {
    /// The model's name.
    pub base: String,
    /// The model's digest.
    pub base_digest: String,
    /// The largest rank of its matrices.
    pub rank: u64,
    /// Bytes that it takes while it is used.
    pub bytes: u64,
}

/// What was taken away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Removed {
    /// The releases, oldest first.
    pub removed: Vec<PackageLine>,
}

/// What a model was found to be when it was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelLine {
    /// `sentence-encoder` or `language-model`.
    pub task: String,
    /// The architecture, such as `llama`.
    pub architecture: String,
    /// Tokens that it can look at together.
    pub context: u32,
    /// Elements of an embedding.
    pub dimensions: u32,
    /// Bytes that its weights take.
    pub weights_bytes: u64,
}

/// What was fetched and verified.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Installed {
    /// The package.
    pub installed: PackageLine,
    /// Files of the package.
    pub files: u64,
    /// Bytes that came from other nodes.
    pub bytes_fetched: u64,
    /// Bytes that were here already.
    pub bytes_present: u64,
    /// Chunks whose place in the BLAKE3 tree was checked on arrival.
    pub chunks_verified: u64,
    /// Wall time.
    pub seconds: f64,
    /// The nodes that sent something.
    pub providers: Vec<String>,
}

/// What a run did, allowed and used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ran {
    /// The digest of the component that ran.
    pub digest: String,
    /// The encoder that it got as `default`: a reference or a path.
    pub model: Option<String>,
    /// The language model that it got as `default`.
    pub text_model: Option<String>,
    /// What the sandbox measured; its fields stand beside those of this record.
    #[serde(flatten)]
    pub report: serde_json::Value,
    /// What the run was allowed.
    pub limits: serde_json::Value,
    /// What the run was granted.
    pub grants: Vec<String>,
    /// Where the output is.
    pub output: PathBuf,
}

/// What was trained and published.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FineTuned {
    /// The adapter's package.
    pub finetuned: PackageLine,
    /// How many releases of it there are now, this one included.
    pub releases: u64,
    /// Text that lets another node find and verify exactly this release.
    pub ticket: String,
    /// What the adapter is for.
    pub adapter: Option<AdapterLine>,
    /// Steps that it was trained for.
    pub steps: u64,
    /// What the recipe says that it came to.
    pub metrics: std::collections::BTreeMap<String, f64>,
    /// What came of the other nodes, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<TogetherReport>,
    /// Wall time of this run.
    pub seconds: f64,
    /// What the sandbox measured of this run.
    pub report: serde_json::Value,
    /// The file with what every step came to.
    pub losses: PathBuf,
    /// The same as a picture.
    pub plot: PathBuf,
    /// The model card.
    pub card: PathBuf,
}

/// What a package is, wants and imports.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Inspected {
    /// Where it was found: `folder`, `component`, `installed` or `published`.
    pub found: String,
    /// The package, unless it is a bare component.
    pub package: Option<PackageLine>,
    /// The digest of the component.
    pub component: Option<String>,
    /// The world that its manifest names.
    pub world: Option<String>,
    /// The interfaces that it imports.
    pub imports: Vec<String>,
    /// The interfaces and functions that it exports.
    pub exports: Vec<String>,
    /// What its manifest asks to be granted.
    pub grants: Vec<String>,
    /// What its manifest asks for as limits.
    pub limits: serde_json::Value,
    /// Its files with sizes and digests.
    pub files: Vec<FileLine>,
    /// Its earlier releases, newest first, as digests.
    pub history: Vec<String>,
    /// Where it comes from, if it is an adapter.
    pub family: Option<FamilyTree>,
}

/// An adapter's ancestors, itself, and those here that went on from it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FamilyTree {
    /// The model that all of them change.
    pub base: String,
    /// The oldest first, the adapter itself last.
    pub members: Vec<FamilyLine>,
    /// The release of an ancestor that is not here.
    pub missing: Option<String>,
    /// What cannot be believed of it, and why.
    pub refused: Option<String>,
    /// The adapters here that say that they went on from it.
    pub children: Vec<String>,
    /// What each author gets of the price of a use; nothing is known where an ancestor is missing.
    pub shares: Vec<ShareLine>,
}

/// An adapter of a family.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FamilyLine {
    /// The text that means exactly this release.
    pub reference: String,
    /// Its digest.
    pub digest: String,
    /// What its author asks for of every use, its own and its descendants', in percent.
    pub percent: f64,
    /// The digest of the examples that it learned from.
    pub data: Option<String>,
    /// The digest of the component that trained it.
    pub recipe: Option<String>,
    /// Steps that it was trained for.
    pub steps: Option<u64>,
}

/// A part of a price.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShareLine {
    /// Who gets it.
    pub account: String,
    /// How much of the price, in percent.
    pub percent: f64,
}

/// A file of a package.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileLine {
    /// Its path in the package.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its BLAKE3 digest.
    pub digest: String,
}

/// What is here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listed {
    /// The packages, by reference.
    pub packages: Vec<PackageLine>,
}

/// A running node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The node's identity on the network.
    pub node: String,
    /// The addresses that it is bound to.
    pub addresses: Vec<String>,
    /// Text by which other nodes can ask this one.
    pub ticket: String,
    /// The process.
    pub pid: u32,
    /// How long it has been running.
    pub seconds: f64,
    /// How many packages it serves, models among them.
    pub packages: u64,
    /// How many of them are models.
    pub models: u64,
    /// How many other nodes it has heard of by gossip.
    pub heard_of: u64,
    /// The account that it works for.
    #[serde(default)]
    pub account: String,
    /// What of others' jobs it takes, and for how much.
    #[serde(default)]
    pub jobs: jobs::JobTerms,
    /// Why no shard of others begins at this moment, if it is for its owner's sake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// What it is running.
    pub running: Vec<RunningLine>,
    /// The models that are in its memory, by name.
    #[serde(default)]
    pub loaded: Vec<String>,
    /// What it keeps ready for others who pay for it.
    #[serde(default)]
    pub kept: Vec<KeptLine>,
    /// Where the list is of what it was to keep ready, if that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_damaged: Option<String>,
    /// What language models computed for others' jobs.
    #[serde(default)]
    pub time_for_jobs: TimeForJobs,
    /// Shards of others in the middle of which it was ended.
    #[serde(default)]
    pub interrupted: Interrupted,
    /// What it shows of its hardware.
    #[serde(flatten)]
    pub hardware: hardware::Hardware,
}

/// How a node's language models kept texts of others' jobs to their part of the time.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct TimeForJobs {
    /// For how many seconds they computed such texts.
    pub computed_seconds: f64,
    /// For how many they stood still after these, for the sake of `device-share`.
    pub rested_seconds: f64,
}

/// Shards of others' jobs in the middle of which a node was ended.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Interrupted {
    /// How many there ever were.
    pub shards: u64,
    /// Of how many those who wait for them are still to be told.
    pub untold: u64,
}

/// Something that is kept ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptLine {
    /// The release of the package.
    pub package: String,
    /// The release of the adapter, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// For how much longer.
    pub seconds: f64,
}

/// A run that is not over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunningLine {
    /// The component, as whoever started the run named it.
    pub package: String,
    /// For how long it has been running, from the request on.
    pub seconds: f64,
}
