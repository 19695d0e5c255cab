//! The command line: every command, flag and help text, in one table.
//!
//! Nothing here acts. `main` turns what is parsed into requests, and the help, the completions
//! and the documentation all follow from these definitions.

mod account;
mod find;
mod jobs;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

pub use account::{Account, AccountCommand};
pub use find::Find;
pub use jobs::{Job, Submit};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: the message says what happened, why, and what to do
  2  the command line itself is wrong
  3  refused: a signature, a digest, a history or a grant does not hold
  4  a limit of the run was reached; the message names it
  5  not found: no such package, model, key or file, or no node is running
  6  busy: another process or the node's owner holds what is needed; try again later

The home folder holds keys, packages, blobs and the configuration. It is --home, or SKEP_HOME, or
~/.skep.";

/// Publish a component once; run it anywhere on the swarm, with nothing it was not granted.
#[derive(Debug, Parser)]
#[command(name = "skep", version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// The folder that holds keys, packages and blobs.
    #[arg(long, global = true, env = "SKEP_HOME", value_hint = ValueHint::DirPath)]
    pub home: Option<PathBuf>,

    /// Print the result as one JSON object on the last line of standard output.
    #[arg(long, global = true)]
    pub json: bool,

    /// Say more on standard error; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a new workload, ready to build, into a folder of its own.
    New(New),
    /// Build the workload in a folder into a component, and check it against its manifest.
    Build(Build),
    /// Run a component in the sandbox, over an input.
    Run(Box<Run>),
    /// Walk through a village and talk to its people, whose words a language model writes.
    Play(Box<Play>),
    /// Train an adapter of a language model on examples, on this machine or with other nodes.
    Finetune(Box<Finetune>),
    /// Sign a package and offer it to the swarm.
    Publish(Publish),
    /// Fetch a package, verify it and keep it.
    Install(Install),
    /// Show what a package is, wants and imports.
    Inspect(Inspect),
    /// List what is installed and published here.
    List,
    /// Make and list publisher keys.
    #[command(subcommand)]
    Key(Key),
    /// Add and list models.
    #[command(subcommand)]
    Model(Model),
    /// Add, list and remove adapters of language models and encoders.
    #[command(subcommand)]
    Adapter(Adapter),
    /// Have an input processed by other nodes, in parts, and follow how far they are.
    #[command(subcommand)]
    Job(Job),
    /// Show the credits of this node: to spend, held for jobs, earned.
    Account(Account),
    /// Serve what is installed here to the swarm, until interrupted; or ask the node that does.
    Node(Node),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub struct New {
    /// The name of the workload and of its folder: lower-case letters, digits and hyphens.
    pub name: String,
    /// What to start from.
    #[arg(long, value_enum, default_value_t = Template::BatchClassifierRust)]
    pub template: Template,
}

/// What `skep new` can start from.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Template {
    /// A task in Rust: bytes in, bytes out.
    TaskRust,
    /// A task in Rust that writes with a language model.
    TextRust,
    /// A batch classifier in Rust.
    BatchClassifierRust,
    /// A batch classifier in Python.
    BatchClassifierPython,
    /// A batch classifier in JavaScript.
    BatchClassifierJs,
}

#[derive(Debug, Args)]
pub struct Build {
    /// The folder with the skep.toml.
    #[arg(default_value = ".", value_hint = ValueHint::DirPath)]
    pub path: PathBuf,
}

#[derive(Debug, Args)]
pub struct Run {
    /// A folder with a skep.toml, a .wasm file, an installed name, a digest or a ticket.
    pub package: String,
    /// The input; `-` is standard input.
    #[arg(short, long, value_hint = ValueHint::FilePath)]
    pub input: Option<PathBuf>,
    /// Where the output goes; `-` is standard output.
    #[arg(short, long, default_value = "-", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// The form of a batch classifier's input; by default its file's ending says.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// The labels of a batch classifier, as JSON.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub labels: Option<PathBuf>,
    /// The model that the component gets under the name `default`: an installed model, a folder,
    /// or a GGUF file. Once for an encoder and once for a language model; without them, the small
    /// ones that come with skep.
    #[arg(short, long)]
    pub model: Vec<String>,
    /// An adapter that a .wasm file may open, by its name or digest; may be given several times.
    /// What a package may open its manifest says. A batch classifier, file or package, does
    /// everything with one.
    #[arg(short, long)]
    pub adapter: Vec<String>,
    /// Nodes to ask for blobs that the component opens, as tickets, beside those found nearby.
    #[arg(long)]
    pub from: Vec<String>,
    #[command(flatten)]
    pub limits: Limits,
    /// Arguments for a task.
    #[arg(last = true)]
    pub arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Play {
    /// What the village is drawn from: the same seed gives the same village.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The language model that writes, instead of the one that comes with skep: an installed
    /// model, a folder, or a GGUF file.
    #[arg(short, long)]
    pub model: Option<String>,
    /// An installed adapter for a voice, instead of the one that comes with skep: a person whose
    /// voice is gruff speaks with `voice-gruff`. May be given more than once.
    #[arg(long)]
    pub adapter: Vec<String>,
    /// Let nobody speak with an adapter that comes with skep. Another model than the one that does
    /// has none of them anyway.
    #[arg(long)]
    pub without_voices: bool,
    /// Read what to do from this file, line by line, instead of from the terminal.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub script: Option<PathBuf>,
    /// Write the game into this file after everything that happened.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub save: Option<PathBuf>,
    /// Take up the game in this file.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub load: Option<PathBuf>,
    /// Add what the village refused to this file, as evidence: one JSON object a line, signed, with
    /// the games that lead there beside it. By default `evidence/village.jsonl` in the home folder.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub evidence: Option<PathBuf>,
    /// Play nothing, and judge such a file: each of its games is played to its moment, and what was
    /// refused there is put before the village again.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath,
          conflicts_with_all = ["script", "save", "load", "evidence", "model", "adapter",
                                "without_voices"])]
    pub judge: Option<PathBuf>,
    /// Let the model write what it likes, and only then see what the village refuses.
    #[arg(long)]
    pub without_grammar: bool,
    /// How freely the model chooses its words, from 0, which is not at all, to 2.
    #[arg(long, default_value_t = 0.2)]
    pub temperature: f32,
    /// The village: a folder with a skep.toml, a .wasm file, an installed name or a digest.
    #[arg(long, default_value = "village")]
    pub village: String,
    /// Who gives the people their words, in the same forms.
    #[arg(long, default_value = "npc-renderer")]
    pub renderer: String,
}

#[derive(Debug, Args)]
pub struct Finetune {
    /// The examples, one JSON object a line: `prompt` and `completion`, `messages`, or `text` with
    /// or without `label`.
    #[arg(short, long, value_hint = ValueHint::FilePath)]
    pub data: PathBuf,
    /// The language model to adapt, instead of the one that comes with skep: an installed model, a
    /// folder, or a GGUF file.
    #[arg(short, long)]
    pub base: Option<String>,
    /// How to train, instead of by the recipe `fine-tune` that comes with skep: a folder with a
    /// skep.toml, a .wasm file, an installed name or a digest.
    #[arg(long)]
    pub recipe: Option<String>,
    /// An installed adapter of the same model to go on from.
    #[arg(long)]
    pub from: Option<String>,
    /// What to call the adapter; by default as the file of examples is called.
    #[arg(short, long)]
    pub out: Option<String>,
    /// How much you ask for of the price of every use of the adapter, and of every adapter that
    /// goes on from it, in percent. It is signed, and cannot be changed afterwards.
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = millionths)]
    pub share: u32,
    /// Throw away what an unfinished training of this name has kept, instead of going on with it.
    #[arg(long)]
    pub fresh: bool,
    /// How many nodes train together, this one included. The examples are divided among them, so
    /// the others see their part of them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub nodes: u16,
    /// How many nodes are enough to begin with, this one included; all of them if not said. Others
    /// that are named join later, between two rounds, while there are parts of the examples left.
    #[arg(long, value_name = "NODES", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub at_least: Option<u16>,
    /// A node to train with, by its ticket, before those that the configuration names; may be given
    /// several times.
    #[arg(long, value_name = "TICKET")]
    pub provider: Vec<String>,
    /// What nodes tell each other: diloco now and then how far a node's weights have moved, demo at
    /// every step the largest frequencies of its momentum, all-reduce at every step every gradient.
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = Method::Diloco)]
    pub method: Method,
    /// With diloco, how many steps each node makes between two of its contributions to the same
    /// weights; 50 if not said.
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub every: Option<u32>,
    /// With diloco, in how many parts the weights are sent, one after the other within those steps;
    /// 4 if not said.
    #[arg(long, value_name = "PARTS", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub fragments: Option<u16>,
    /// With diloco, how many steps are made while a part is on its way, for links that take their
    /// time; a tenth of the steps between two contributions if not said.
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u32).range(0..100_000))]
    pub overlap: Option<u32>,
    /// With diloco, how far the weights are moved along the mean of how far the nodes have moved;
    /// 0.85 if not said.
    #[arg(long, value_name = "RATE", value_parser = positive)]
    pub outer_rate: Option<f32>,
    /// With diloco, how much of one such move is made again in the next, as Nesterov does; 0.2
    /// if not said.
    #[arg(long, value_name = "SHARE", value_parser = below_one)]
    pub outer_momentum: Option<f32>,
    /// How many seconds the others wait for a node that does not say what it has learned.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub patience: u64,
    /// In how many of a hundred turns another node, drawn by chance, has to show something that it
    /// did, which is then done again here; one that comes to something else is left out. With 0
    /// nobody has to.
    #[arg(long, value_name = "PERCENT", default_value = "10", value_parser = millionths)]
    pub audit: u32,
    /// The key to sign with.
    #[arg(long, default_value = "default")]
    pub key: String,
    #[command(flatten)]
    pub limits: Limits,
    /// Settings of the recipe, as name=value.
    #[arg(last = true)]
    pub settings: Vec<String>,
}

/// The form of a batch classifier's input.
/// In which way nodes train together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Now and then what a node's weights have moved by, in 4 bits.
    Diloco,
    /// At every step the largest frequencies of a node's momentum.
    Demo,
    /// At every step every gradient, in 16 bits.
    AllReduce,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Format {
    /// One JSON object a line, with `text` and perhaps `id`.
    Jsonl,
    /// A header row, with a column `text` and perhaps `id`.
    Csv,
}

impl Format {
    /// What it is called in requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
        }
    }
}

/// Limits of one run. Each can only lower what the manifest asks and the node's owner allows.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// The guest's linear memory, such as `256 MiB`.
    #[arg(long)]
    pub memory: Option<String>,
    /// Wall time, host calls included, such as `10 min`.
    #[arg(long)]
    pub time: Option<String>,
    /// The guest's own time on the processor, such as `30 s`.
    #[arg(long)]
    pub cpu_time: Option<String>,
    /// Tensors and activations on the device at one moment, such as `1 GiB`.
    #[arg(long)]
    pub device_memory: Option<String>,
    /// Floating-point operations in all, such as `10 TFLOP`.
    #[arg(long)]
    pub device_work: Option<String>,
    /// Bytes of output, such as `1 GiB`.
    #[arg(long = "max-output")]
    pub output_size: Option<String>,
}

#[derive(Debug, Args)]
pub struct Publish {
    /// The folder with the skep.toml.
    #[arg(default_value = ".", value_hint = ValueHint::DirPath)]
    pub path: PathBuf,
    /// The key to sign with.
    #[arg(long, default_value = "default")]
    pub key: String,
}

#[derive(Debug, Args)]
pub struct Install {
    /// A ticket, `publisher/name`, `publisher/name@1.2`, or the digest of a release.
    pub package: String,
    /// Nodes to ask, as tickets; by default those in the ticket, and those found nearby.
    #[arg(long)]
    pub from: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// A folder with a skep.toml, a .wasm file, an installed name, or a digest.
    pub package: String,
}

#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a new publisher key.
    New {
        /// What to call it here.
        #[arg(default_value = "default")]
        name: String,
    },
    /// List the publisher keys in the home folder.
    List,
}

#[derive(Debug, Subcommand)]
pub enum Model {
    /// Publish an encoder or a language model on this node, ready for `skep run --model`.
    Add {
        /// A folder with config.json, tokenizer.json and model.safetensors, or a GGUF file.
        #[arg(value_hint = ValueHint::AnyPath)]
        path: PathBuf,
        /// What to call it; by default as its folder or file is called.
        #[arg(long)]
        name: Option<String>,
        /// Its version.
        #[arg(long, default_value = "0.1.0")]
        version: String,
        /// The key to sign with.
        #[arg(long, default_value = "default")]
        key: String,
    },
    /// List the models that are here.
    List,
}

#[derive(Debug, Subcommand)]
pub enum Adapter {
    /// Publish a LoRA adapter on this node, or a new version of one, ready for guests to open.
    Add {
        /// A PEFT folder, with adapter_config.json and adapter_model.safetensors.
        #[arg(value_hint = ValueHint::DirPath)]
        path: PathBuf,
        /// The model that it changes: an installed model, a folder or a GGUF file; by default the
        /// one of the name that its own configuration has.
        #[arg(long)]
        base: Option<String>,
        /// What to call it; by default as its folder is called.
        #[arg(long)]
        name: Option<String>,
        /// Its version. Runs that have an older one open keep it until they are done.
        #[arg(long, default_value = "0.1.0")]
        version: String,
        /// The key to sign with.
        #[arg(long, default_value = "default")]
        key: String,
    },
    /// List the adapters that are here.
    List,
    /// Take an adapter away from this node, in all its versions. Runs that have it open keep it
    /// until they are done.
    Remove {
        /// Its name, or publisher/name.
        package: String,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Node {
    #[command(subcommand)]
    pub command: Option<NodeCommand>,
    /// The address to listen on, whatever the configuration says; port 0 takes the one that the node had
    /// before, or any free one.
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// Neither announce this node on the local network nor look for others there.
    #[arg(long)]
    pub no_mdns: bool,
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Show the node that runs in this home: its identity, addresses, packages and runs.
    Status,
    /// Find nodes that take jobs of others by what they can do, and show what they ask for it.
    ///
    /// All of it is what they say of themselves, and nobody has checked it.
    Find(Box<Find>),
}

/// A part of a price in millionths, from a text in percent.
fn positive(text: &str) -> Result<f32, String> {
    let number: f32 = text.parse().unwrap_or(f32::NAN);
    match number > 0.0 && number.is_finite() {
        true => Ok(number),
        false => Err("it must be a number above 0".to_owned()),
    }
}

fn below_one(text: &str) -> Result<f32, String> {
    let number: f32 = text.parse().unwrap_or(f32::NAN);
    match (0.0..1.0).contains(&number) {
        true => Ok(number),
        false => Err("it must be a number of at least 0 and below 1".to_owned()),
    }
}

fn millionths(text: &str) -> Result<u32, String> {
    let percent: f64 = text.trim_end_matches('%').parse().unwrap_or(f64::NAN);
    match (0.0..=100.0).contains(&percent) {
        true => Ok((percent * 1e4).round() as u32),
        false => Err("it must be a number from 0 to 100".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
