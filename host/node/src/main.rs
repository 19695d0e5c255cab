//! The `skep` command: parses, asks the node, prints. All work is behind [`service`].

#[macro_use]
mod streams;

mod beside;
mod building;
mod cli;
mod config;
mod control;
mod daemon;
mod display;
mod embedded;
mod failure;
mod find;
mod finetune;
mod home;
mod jobs;
mod keys;
mod moment;
mod play;
mod requests;
mod service;
mod templates;

use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser};
use serde::Serialize;
use tokio::sync::mpsc;

use cli::{Adapter, Cli, Command, Key, Model, NodeCommand};
use config::Config;
use display::Bars;
use failure::{Failure, FailureKind};
use home::Home;
use requests::jobs::JobRequest;
use requests::{Progress, Request, Response, RunRequest};
use service::Service;

/// What a person is told who gave up.
const INTERRUPTED: &str = "interrupted";
/// The argument that makes this binary a compiler. It is no command for people.
pub const COMPILER: &str = "compile-component";

fn main() -> ExitCode {
    // The sandbox compiles strangers' components in a process of this binary, which it can end.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == COMPILER)
    {
        return skep_sandbox::compile_process();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misread(&error),
    };
    let json = cli.json;
    set_up_log(cli.verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(json, &Failure::of(FailureKind::Failed, &error)),
    };
    match runtime.block_on(act(cli)) {
        Ok(()) => match streams::unwritten() {
            None => ExitCode::SUCCESS,
            Some(error) => {
                let told = format!("cannot write standard output: {error}");
                fail(json, &Failure::new(FailureKind::Failed, told))
            }
        },
        Err(failure) => fail(json, &failure),
    }
}

/// Tells a failure: in words on standard error, and as an object on standard output if a script
/// is reading.
fn fail(json: bool, failure: &Failure) -> ExitCode {
    if json {
        print_json(&serde_json::json!({ "error": failure }));
    }
    tell_error!("error: {failure}");
    ExitCode::from(failure.kind.exit_code())
}

/// Tells what is wrong with a command line, or the help that it asks for.
fn misread(error: &clap::Error) -> ExitCode {
    let mut own = std::env::args_os().take_while(|argument| argument != "--");
    if error.use_stderr() && own.any(|argument| argument == "--json") {
        let told = error.to_string();
        let told = told.trim().trim_start_matches("error: ");
        let failure = Failure::new(FailureKind::Usage, told);
        print_json(&serde_json::json!({ "error": failure }));
    }
    // Whoever closed its end does not want to know.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(FailureKind::Usage.exit_code()))
}

async fn act(cli: Cli) -> Result<(), Failure> {
    let json = cli.json;
    let home = cli.home;
    match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "skep", &mut script);
            tell!("{}", String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
        Command::New(new) => templates::write(&new).map(|folder| {
            show(json, &serde_json::json!({ "folder": folder }), || {
                tell!("wrote {}", folder.display());
                tell!("Next: cd {} && skep build", folder.display());
                tell!("Its README.md says how to run it.");
            });
        }),
        Command::Build(build) => {
            let home = Home::open(home)?;
            let folder = absolute(&build.path)?;
            let component = building::build(&folder)?;
            let request = Request::Inspect {
                package: text_of(&component)?,
            };
            ask(home, request, json).await
        }
        Command::Key(Key::New { name }) => {
            let line = keys::create(&Home::open(home)?, &name)?;
            show(json, &line, || {
                tell!("made the key {}\n  publisher {}", line.name, line.publisher);
                tell!("Whoever has its file can publish in your name; keep a copy of it safe.");
            });
            Ok(())
        }
        Command::Key(Key::List) => {
            let lines = keys::list(&Home::open(home)?)?;
            show(json, &serde_json::json!({ "keys": lines }), || {
                for line in &lines {
                    tell!("{:<16} {}", line.name, line.publisher);
                }
                if lines.is_empty() {
                    tell!("there are no keys here; `skep key new` makes one");
                }
            });
            Ok(())
        }
        Command::Node(node) => match node.command {
            None => daemon::run(Home::open(home)?, &node, json).await,
            Some(NodeCommand::Status) => status(&Home::open(home)?, json).await,
            Some(NodeCommand::Find(options)) => {
                ask(Home::open(home)?, find::request_of(*options)?, json).await
            }
        },
        Command::Run(run) => {
            let run = *run;
            let home = Home::open(home)?;
            let streams = Streams::new(&home, run.input.as_deref(), &run.output)?;
            let request = Request::Run(Box::new(RunRequest {
                package: place_of(&run.package)?,
                input: streams.input.clone(),
                output: streams.output.clone(),
                output_name: match streams.prints {
                    true => run.output,
                    false => streams.output.clone(),
                },
                format: run.format.map(|format| format.name().to_owned()),
                labels: run.labels.as_deref().map(absolute).transpose()?,
                models: run
                    .model
                    .iter()
                    .map(|model| place_of(model))
                    .collect::<Result<_, _>>()?,
                adapters: run.adapter,
                from: run.from,
                limits: limits_of(run.limits),
                arguments: run.arguments,
            }));
            ask(home, request, json && !streams.prints).await?;
            streams.finish()
        }
        Command::Publish(publish) => {
            let request = Request::Publish {
                path: absolute(&publish.path)?,
                key: publish.key,
            };
            ask(Home::open(home)?, request, json).await
        }
        Command::Model(Model::Add {
            path,
            name,
            version,
            key,
        }) => {
            let path = absolute(&path)?;
            let name = name.unwrap_or_else(|| model_name(&path));
            let request = Request::ModelAdd {
                path,
                name,
                version,
                key,
            };
            ask(Home::open(home)?, request, json).await
        }
        Command::Model(Model::List) => ask(Home::open(home)?, Request::ModelList, json).await,
        Command::Adapter(Adapter::Add {
            path,
            base,
            name,
            version,
            key,
        }) => {
            let path = absolute(&path)?;
            let name = name.unwrap_or_else(|| model_name(&path));
            let request = Request::AdapterAdd {
                path,
                base: base.as_deref().map(place_of).transpose()?,
                name,
                version,
                key,
            };
            ask(Home::open(home)?, request, json).await
        }
        Command::Adapter(Adapter::List) => ask(Home::open(home)?, Request::AdapterList, json).await,
        Command::Adapter(Adapter::Remove { package }) => {
            ask(Home::open(home)?, Request::AdapterRemove { package }, json).await
        }
        Command::Install(install) => {
            let request = Request::Install {
                package: install.package,
                from: install.from,
            };
            ask(Home::open(home)?, request, json).await
        }
        Command::Inspect(inspect) => {
            let request = Request::Inspect {
                package: place_of(&inspect.package)?,
            };
            ask(Home::open(home)?, request, json).await
        }
        Command::Finetune(options) => {
            let request = finetune::request(*options)?;
            let asked = ask(Home::open(home)?, request, json).await;
            asked.map_err(finetune::told)
        }
        Command::Play(options) => play_village(Home::open(home)?, *options, json).await,
        Command::Job(job) => {
            let asked = ask(Home::open(home)?, jobs::request_of(job)?, json).await;
            asked.map_err(jobs::told)
        }
        Command::Account(account) => {
            ask(Home::open(home)?, jobs::request_of_account(account)?, json).await
        }
        Command::List => ask(Home::open(home)?, Request::List, json).await,
    }
}

/// Asks the node that runs in this home, or does the work here if none does.
async fn ask(home: Home, request: Request, json: bool) -> Result<(), Failure> {
    let mut bars = Bars::default();
    let follows =
        matches!(&request, Request::Job(job) if matches!(**job, JobRequest::Watch { .. }));
    let manner = Manner { json, follows };
    let outcome = match control::connect(home.path()).await {
        Some(stream) => {
            let mut show = |step| watch(&mut bars, &step, manner);
            interruptible(control::ask(stream, &request, &mut show)).await
        }
        None => {
            let config = Config::load(&home)?;
            let service = Arc::new(Service::new(home, config)?);
            let (sender, mut steps) = mpsc::channel(control::STEPS);
            let work = async {
                let answer = service.answer(request, sender);
                tokio::pin!(answer);
                let outcome = loop {
                    tokio::select! {
                        outcome = &mut answer => break outcome,
                        Some(step) = steps.recv() => watch(&mut bars, &step, manner),
                    }
                };
                // What it told last is still on its way when the outcome is there.
                while let Ok(step) = steps.try_recv() {
                    watch(&mut bars, &step, manner);
                }
                outcome
            };
            let outcome = interruptible(work).await;
            service.shutdown().await;
            outcome
        }
    };
    bars.finish();
    let response = outcome?;
    show(json, &response, || display::print(&response));
    Ok(())
}

/// How the progress of a command is shown.
#[derive(Clone, Copy)]
struct Manner {
    /// A script reads.
    json: bool,
    /// The command is there to follow a job.
    follows: bool,
}

/// Shows how far a request has come; to a script, what each step of a training came to, and what
/// becomes of the shards of a job that it follows.
fn watch(bars: &mut Bars, step: &Progress, manner: Manner) {
    match (&step.training, &step.shard) {
        (Some(training), _) if manner.json => print_json(training),
        (_, Some(shard)) if manner.json && manner.follows => {
            print_json(shard);
            // What is drawn in place would be torn by these lines.
            if !io::stderr().is_terminal() {
                bars.show(step);
            }
        }
        _ => bars.show(step),
    }
}

/// Plays a village in this process: a player's lines and what comes of them are nobody else's.
async fn play_village(home: Home, options: cli::Play, json: bool) -> Result<(), Failure> {
    let config = Config::load(&home)?;
    let service = Service::new(home, config)?;
    if let Some(path) = options.judge {
        return judge_evidence(service, &options.village, path, json).await;
    }
    let script = match &options.script {
        Some(path) => Some(std::fs::File::open(path).map_err(|error| {
            let kind = FailureKind::NotFound;
            Failure::new(kind, format!("cannot read {}: {error}", path.display()))
        })?),
        None => None,
    };
    let mut game = match service::play::open(&service, options).await {
        Ok(game) => game,
        Err(failure) => {
            service.shutdown().await;
            return Err(failure);
        }
    };
    let manner = play::Manner {
        json,
        echo: script.is_some(),
    };
    let played = tokio::task::spawn_blocking(move || {
        let mut output = io::stdout().lock();
        match script {
            Some(file) => play::play(
                &mut game,
                &mut io::BufReader::new(file),
                &mut output,
                manner,
            ),
            None => play::play(&mut game, &mut io::stdin().lock(), &mut output, manner),
        }
    });
    let played = played
        .await
        .map_err(|error| Failure::of(FailureKind::Failed, &error))?;
    service.shutdown().await;
    match played {
        // Whoever was reading has had enough.
        Err(play::PlayError::Terminal(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(())
        }
        Err(error) => Err(Failure::of(FailureKind::Failed, &error)),
        Ok(_) => Ok(()),
    }
}

/// Shows what each record of a file of evidence is worth. It is a failure if not all of them hold.
async fn judge_evidence(
    service: Service,
    village: &str,
    path: PathBuf,
    json: bool,
) -> Result<(), Failure> {
    let (sender, mut judged) = tokio::sync::mpsc::unbounded_channel();
    let told = move |one| drop(sender.send(one));
    let judged_all = service::play::judge(&service, village, path, told).await;
    service.shutdown().await;
    judged_all?;
    let mut worths = Vec::new();
    while let Ok(one) = judged.try_recv() {
        show(json, &one, || display::print_evidence(&one));
        worths.push(one.worth);
    }
    let count = |worth| worths.iter().filter(|one| **one == worth).count();
    let wrong = count(play::Worth::False) + count(play::Worth::Unsound);
    let unknown = count(play::Worth::Unknown);
    match (wrong, unknown) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::new(
            FailureKind::NotFound,
            format!("{unknown} of {} records could not be judged", worths.len()),
        )),
        _ => Err(Failure::new(
            FailureKind::Refused,
            format!(
                "{wrong} of {} records do not hold; trust none of who reported them",
                worths.len()
            ),
        )),
    }
}

/// Shows the node that runs in this home. There has to be one: nothing is opened here instead.
async fn status(home: &Home, json: bool) -> Result<(), Failure> {
    let stream = control::connect(home.path()).await.ok_or_else(|| {
        Failure::new(
            FailureKind::NotFound,
            format!(
                "no node is running in {}; `skep node` starts one",
                home.path().display()
            ),
        )
    })?;
    let response = interruptible(control::ask(stream, &Request::Status, &mut |_| {})).await?;
    show(json, &response, || display::print(&response));
    Ok(())
}

/// Gives up when the person does, so that what was begun is cleaned up.
async fn interruptible(
    work: impl Future<Output = Result<Response, Failure>>,
) -> Result<Response, Failure> {
    tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(FailureKind::Failed, INTERRUPTED)),
    }
}

fn show(json: bool, value: &impl Serialize, words: impl FnOnce()) {
    match json {
        true => print_json(value),
        false => words(),
    }
}

fn print_json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => tell!("{text}"),
        Err(error) => tell_error!("error: this result cannot be written as JSON: {error}"),
    }
}

fn set_up_log(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("SKEP_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

/// What stands for a package or a model: an absolute path if there is something at it, for the
/// node may run in another folder; otherwise the text as it is.
fn place_of(text: &str) -> Result<String, Failure> {
    match Path::new(text).exists() {
        true => text_of(&absolute(Path::new(text))?),
        false => Ok(text.to_owned()),
    }
}

/// What a model or an adapter is called by default: its folder's or file's name, of a model in
/// parts without the part.
fn model_name(path: &Path) -> String {
    if let Some((name, ..)) = service::kind::split_name(path) {
        return package_name(name);
    }
    let name = match path.is_dir() {
        true => path.file_name(),
        false => path.file_stem(),
    };
    package_name(&name.unwrap_or_default().to_string_lossy())
}

/// A name as far as names of packages have the letters.
fn package_name(name: &str) -> String {
    let name = name.to_lowercase();
    let words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join("-")
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::of(FailureKind::Usage, &error))
}

fn text_of(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Failure::new(
            FailureKind::Usage,
            format!("the path {} is not valid UTF-8", path.display()),
        )
    })
}

fn limits_of(limits: cli::Limits) -> Vec<(String, String)> {
    [
        ("memory", limits.memory),
        ("time", limits.time),
        ("cpu-time", limits.cpu_time),
        ("device-memory", limits.device_memory),
        ("device-work", limits.device_work),
        ("output", limits.output_size),
    ]
    .into_iter()
    .filter_map(|(key, text)| Some((key.to_owned(), text?)))
    .collect()
}

/// The input and output of a run as files, which is what a node can reach. Standard input is
/// copied to one first, and standard output from one afterwards.
struct Streams {
    input: Option<PathBuf>,
    output: PathBuf,
    /// Whether the output goes to standard output.
    prints: bool,
    _spooled: Option<tempfile::TempDir>,
}

impl Streams {
    fn new(home: &Home, input: Option<&Path>, output: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::of(FailureKind::Failed, &error);
        let (reads, prints) = (input == Some(Path::new("-")), output == Path::new("-"));
        let spooled = match reads || prints {
            true => Some(tempfile::tempdir_in(home.path()).map_err(failed)?),
            false => None,
        };
        let spool = |name: &str| {
            spooled
                .as_ref()
                .map(|folder| folder.path().join(name))
                .unwrap_or_default()
        };
        let input = match input {
            Some(_) if reads => {
                let path = spool("input");
                let mut file = std::fs::File::create(&path).map_err(failed)?;
                io::copy(&mut io::stdin().lock(), &mut file).map_err(failed)?;
                Some(path)
            }
            Some(path) => Some(absolute(path)?),
            None => None,
        };
        let output = match prints {
            true => spool("output"),
            false => absolute(output)?,
        };
        Ok(Self {
            input,
            output,
            prints,
            _spooled: spooled,
        })
    }

    /// Prints the output if that is where it goes.
    fn finish(self) -> Result<(), Failure> {
        if !self.prints {
            return Ok(());
        }
        let print = || {
            let mut file = std::fs::File::open(&self.output)?.take(u64::MAX);
            let mut out = io::stdout().lock();
            io::copy(&mut file, &mut out)?;
            out.flush()
        };
        match print() {
            // Whoever was reading has had enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|error| Failure::of(FailureKind::Failed, &error)),
        }
    }
}
