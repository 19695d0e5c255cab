//! Runs a component in the sandbox: finds it, its model and its input, and says what it did. `ready` loads it.

mod ready;

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_records::{Format, Labels, Reader};
use skep_registry::{Component, Digest, Grants, Limits, ModelGrant, Source};
use skep_sandbox::{Cancel, FailedRun, Models, Program, RunError, RunReport, RunSpec, Texts, Used};
use skep_swarm::{InUse, Installed, ProviderAddr, Ticket};
use skep_tensor::Device;
use tokio::runtime::Handle;

pub(super) use self::ready::Unready;
pub use self::ready::load;
use self::ready::loaded;
use super::adapters::{Applied, has_to_change};
use super::blobs::{Fetched, NodeBlobs, Reach};
use super::defaults::{Defaults, bind_models};
use super::inspect::grants_of;
use super::jobs::GuestJobs;
use super::limits::SetBy;
use super::locate::{self, Located};
use super::models::{Adapters, DefaultLanguage, ForOthers, RunModels};
use super::{ProgressSender, Service, inspect, install};
use crate::embedded;
use crate::failure::{Failure, FailureKind};
use crate::home::make_private;
use crate::requests::{Progress, Ran, Response, RunRequest, Unit};

/// What is said of arguments that nobody would read.
pub(super) const NO_ARGUMENTS: &str =
    "arguments are for tasks, and a batch classifier has none; leave out what stands behind `--`";
/// What stands between a failure and what the guest printed.
pub(super) const LOG: &str = "\nThe guest's log:\n";

/// A component about to run, with what its manifest says.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) component: PathBuf,
    /// The digest that its publisher signed for it. One that is not of a release has none.
    pub(super) signed: Option<Digest>,
    pub(super) grants: Grants,
    pub(super) limits: Limits,
    /// The adapter with which the default model that is its base does everything, if there is one.
    pub(super) adapter: Option<Installed>,
    /// By what its jobs are known to be its own, whatever its version: its publisher and its name, or
    /// the folder that it was found in. A component without a manifest has none.
    pub(super) known_as: Option<String>,
    /// What stays here for the owner's run of it, though jobs have brought it. What runs for others is kept by them.
    pub(super) held: Vec<InUse>,
}

impl Subject {
    /// What an installed package is as a component, if it is one.
    pub(super) fn of(installed: &Installed, adapter: Option<Installed>) -> Option<Self> {
        let component = installed.release.component()?;
        Some(Self {
            adapter,
            component: installed.path(component.entry.as_str())?,
            signed: signed_for(installed, component),
            grants: component.grants.clone(),
            limits: component.limits.clone(),
            known_as: Some(known_as(installed)),
            held: Vec::new(),
        })
    }
}

fn whole_path(folder: &Path) -> Option<String> {
    let path = folder.canonicalize().ok()?;
    path.to_str().map(str::to_owned)
}

/// The digest of a package's component, as its release says it.
fn signed_for(installed: &Installed, component: &Component) -> Option<Digest> {
    let entry = installed.release.file(component.entry.as_str());
    entry.map(|entry| entry.digest)
}

fn known_as(installed: &Installed) -> String {
    let release = &installed.release;
    format!("{}/{}", release.publisher(), release.name())
}

/// Runs what is asked.
pub async fn run(
    service: &Arc<Service>,
    request: RunRequest,
    progress: ProgressSender,
) -> Result<Response, Failure> {
    let _listed = service.running.enter(&request.package);
    let mut peers = install::nodes_of(&request.from)?;
    if let Ok(ticket) = request.package.parse::<Ticket>() {
        peers.push(ticket.node().clone());
    }
    let mut subject = subject(service, &request.package, &request.adapters, &progress).await?;
    let set_by = SetBy::lower(&mut subject, &request.limits, &service.config.limits)?;
    subject.grants = service.config.grants.cap(subject.grants);
    let jobs = GuestJobs::of(service, &subject);
    let _held = subject.held.clone();
    let Prepared {
        program,
        mut spec,
        bound,
    } = prepare(service, subject, &request.models, peers, Reach::Everything).await?;
    // Here and nowhere else: what is run for others spends nothing.
    spec.jobs = jobs;
    let sandbox = service.sandbox()?;
    let limits = sandbox.limits_of(&spec);
    let grants = grants_of(&spec.grants);
    let digest = program.digest().to_string();
    let output = request.output_name.clone();

    // Dropping this future, as a lost connection or Ctrl-C does, calls the run off.
    let cancel = Cancel::new();
    let on_drop = CancelOnDrop(cancel.clone());
    let report = tokio::task::spawn_blocking(move || match program.world() {
        Some("batch-classifier") => {
            classify(&sandbox, &program, &spec, &request, &progress, &cancel)
        }
        _ => task(&sandbox, &program, &spec, &request, &cancel),
    })
    .await
    .map_err(|error| Failure::of(FailureKind::Failed, &error))?;
    let report = report.map_err(|failure| set_by.told(failure))?;
    drop(on_drop);
    Ok(Response::Ran(Box::new(Ran {
        digest,
        model: Some(bound.encoder.called),
        text_model: Some(match bound.language {
            Some(chosen) => chosen.called,
            None => embedded::LANGUAGE.name.to_owned(),
        }),
        report: serde_json::to_value(&report)
            .map_err(|error| Failure::of(FailureKind::Failed, &error))?,
        limits: serde_json::to_value(limits)
            .map_err(|error| Failure::of(FailureKind::Failed, &error))?,
        grants,
        output,
    })))
}

/// A component that is loaded, and all that its run is given.
pub(super) struct Prepared {
    pub(super) program: Arc<Program>,
    pub(super) spec: RunSpec,
    pub(super) bound: Defaults,
}

/// Loads a component, and the models that it gets. `reach` is how far it is let into the blob store, and whether a
/// guest may see where this node's files lie.
pub(super) async fn prepare(
    service: &Service,
    subject: Subject,
    models: &[String],
    peers: Vec<ProviderAddr>,
    reach: Reach,
) -> Result<Prepared, Unready> {
    let program = loaded(service, subject.component, subject.signed).await?;
    let bound = bind_models(service, models, &subject.grants).await?;
    if let Some(adapter) = &subject.adapter {
        let language = bound.language.as_ref().map(|chosen| chosen.digest);
        let language = language.unwrap_or_else(|| embedded::LANGUAGE.digest());
        let imports = program.imports();
        has_to_change(&adapter.release, imports, &bound.encoder.digest, &language)
            .map_err(Unready::Unfit)?;
    }
    let models = RunModels {
        node: Arc::clone(&service.models),
        encoder: bound.encoder.digest.to_string(),
        language: match &bound.language {
            Some(chosen) => DefaultLanguage::Chosen(chosen.digest.to_string()),
            None => DefaultLanguage::Embedded,
        },
        trained_encoder: None,
        adapters: match subject.grants.adapters.is_empty() {
            true => None,
            false => Some(Adapters {
                swarm: service.swarm().await?.clone(),
                runtime: Handle::current(),
            }),
        },
        voices: Vec::new(),
        applied: subject.adapter.map(Applied::new),
        home: service.home.clone(),
    };
    let models: Arc<dyn Models> = match reach {
        Reach::Everything => Arc::new(models),
        Reach::Offered => Arc::new(ForOthers::new(models)),
    };
    let spec = RunSpec {
        device: Device::cpu(),
        models: Some(models),
        blobs: blobs(service, &subject.grants, peers, reach).await?,
        jobs: None,
        training: None,
        seed: None,
        texts: Texts::Kept,
        grants: subject.grants,
        limits: subject.limits,
        waits_for_others: false,
        used: Used::default(),
    };
    Ok(Prepared {
        program,
        spec,
        bound,
    })
}

pub(super) struct CancelOnDrop(pub(super) Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

pub(super) async fn subject(
    service: &Service,
    package: &str,
    adapters: &[String],
    progress: &ProgressSender,
) -> Result<Subject, Failure> {
    let located = locate::locate(service, package, progress).await?;
    let has_manifest = !matches!(located, Located::File(_));
    let held = match &located {
        Located::Installed(installed) => {
            let digest = installed.release.digest();
            locate::hold(service.swarm().await?, &[digest]).await
        }
        Located::Folder { .. } | Located::File(_) => Vec::new(),
    };
    let mut subject = located_subject(package, located)?;
    subject.held = held;
    if adapters.is_empty() {
        return Ok(subject);
    }
    let usage = |reason: String| Err(Failure::new(FailureKind::Usage, reason));
    let program = load(service, subject.component.clone()).await?;
    if program.world() == Some("batch-classifier") {
        // It is told of no adapter, so it gets a model that has it.
        let [adapter] = adapters else {
            let given = adapters.len();
            return usage(format!(
                "a batch classifier does everything with one adapter, and --adapter names {given}"
            ));
        };
        let adapter = locate::installed(service, adapter).await?;
        let digest = adapter.release.digest();
        let held = locate::hold(service.swarm().await?, &[digest]).await;
        subject.held.extend(held);
        subject.adapter = Some(adapter);
        return Ok(subject);
    }
    if has_manifest {
        return usage(format!(
            "{package} has a manifest, and opens the adapters that its grants.adapters name; \
             --adapter is for a .wasm file, and for batch classifiers"
        ));
    }
    let adapters = adapters.iter().map(|adapter| adapter.parse::<ModelGrant>());
    subject.grants.adapters = adapters
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
    Ok(subject)
}

/// A component that was found, without adapters.
fn located_subject(package: &str, located: Located) -> Result<Subject, Failure> {
    match located {
        Located::Folder { folder, manifest } => match manifest.source {
            Source::Component {
                path,
                grants,
                limits,
                ..
            } => Ok(Subject {
                component: folder.join(path.as_str()),
                signed: None,
                grants,
                limits,
                adapter: None,
                known_as: whole_path(&folder),
                held: Vec::new(),
            }),
            Source::Model { .. } => Err(not_a_component(package, "model")),
            Source::Adapter { .. } => Err(not_a_component(package, "adapter")),
        },
        // A bare component has no manifest, so whoever runs it by hand grants what does not
        // reach beyond the run: tensors, the model and the adapters of their choice.
        Located::File(component) => Ok(Subject {
            component,
            signed: None,
            grants: Grants {
                tensor: true,
                models: [ModelGrant::Default].into(),
                ..Grants::default()
            },
            limits: Limits::default(),
            adapter: None,
            known_as: None,
            held: Vec::new(),
        }),
        Located::Installed(installed) => {
            let kind = inspect::kind_of(installed.release.content());
            let component = installed
                .release
                .component()
                .ok_or_else(|| not_a_component(package, kind))?;
            let path = installed
                .path(component.entry.as_str())
                .ok_or_else(|| not_a_component(package, kind))?;
            Ok(Subject {
                component: path,
                signed: signed_for(&installed, component),
                grants: component.grants.clone(),
                limits: component.limits.clone(),
                adapter: None,
                known_as: Some(known_as(&installed)),
                held: Vec::new(),
            })
        }
    }
}

fn not_a_component(package: &str, kind: &str) -> Failure {
    Failure::new(
        FailureKind::Usage,
        match kind {
            "adapter" => format!("{package} is an adapter; a component opens it by its name"),
            _ => format!("{package} is a {kind}; give it to a component with --model"),
        },
    )
}

/// The blob store, opened only for a component that may use it.
async fn blobs(
    service: &Service,
    grants: &Grants,
    peers: Vec<ProviderAddr>,
    reach: Reach,
) -> Result<Option<Arc<dyn skep_sandbox::Blobs>>, Failure> {
    if !grants.swarm_write && grants.swarm_read == skep_registry::SwarmRead::default() {
        return Ok(None);
    }
    let drafts = service.home.drafts();
    make_private(&drafts).map_err(|error| Failure::of(FailureKind::Failed, &error))?;
    let swarm = service.swarm().await?.clone();
    Ok(Some(Arc::new(NodeBlobs {
        swarm,
        reach,
        fetched: Fetched::default(),
        drafts,
        peers,
        runtime: Handle::current(),
    })))
}

fn classify(
    sandbox: &skep_sandbox::Sandbox,
    program: &Arc<Program>,
    spec: &RunSpec,
    request: &RunRequest,
    progress: &ProgressSender,
    cancel: &Cancel,
) -> Result<RunReport, Failure> {
    if !request.arguments.is_empty() {
        return Err(Failure::new(FailureKind::Usage, NO_ARGUMENTS));
    }
    let input = request
        .input
        .as_deref()
        .ok_or_else(|| Failure::new(FailureKind::Usage, "a batch classifier needs --input"))?;
    let labels = request.labels.as_deref().ok_or_else(|| {
        Failure::new(
            FailureKind::Usage,
            "a batch classifier needs --labels: a JSON file such as \
             {\"labels\": [{\"name\": \"billing\", \"examples\": [\"I was charged twice\"]}]}",
        )
    })?;
    let labels_file = std::fs::read(labels).map_err(|error| cannot_read(labels, &error))?;
    let labels = Labels::parse(&labels_file).map_err(|error| {
        Failure::new(FailureKind::Usage, format!("{}: {error}", labels.display()))
    })?;
    let format = format_of(request, input)?;
    let total = count_lines(input, format).map_err(|error| cannot_read(input, &error))?;
    let file = File::open(input).map_err(|error| cannot_read(input, &error))?;
    let lines = Reader::new(BufReader::with_capacity(1 << 18, file), format);
    let mut sink = create(&request.output)?;
    let mut watch = |step: skep_sandbox::Progress| {
        // A full channel means that nobody can keep up with watching; the next step will do.
        let _ = progress.try_send(Progress {
            stage: "classifying".to_owned(),
            done: step.done,
            total: Some(total),
            unit: Unit::Records,
            training: None,
            shard: None,
        });
    };
    let report = sandbox
        .classify(
            program,
            spec,
            &labels.labels,
            lines,
            &mut sink,
            &mut watch,
            cancel,
        )
        .map_err(explain)?;
    sink.flush()
        .map_err(|error| cannot_write(&request.output, &error))?;
    Ok(report)
}

fn task(
    sandbox: &skep_sandbox::Sandbox,
    program: &Arc<Program>,
    spec: &RunSpec,
    request: &RunRequest,
    cancel: &Cancel,
) -> Result<RunReport, Failure> {
    let input: Box<dyn Read> = match request.input.as_deref() {
        Some(path) => Box::new(BufReader::new(
            File::open(path).map_err(|error| cannot_read(path, &error))?,
        )),
        None => Box::new(io::empty()),
    };
    let mut output = create(&request.output)?;
    let report = sandbox
        .run_task(
            program,
            spec,
            &request.arguments,
            input,
            &mut output,
            cancel,
        )
        .map_err(explain)?;
    output
        .flush()
        .map_err(|error| cannot_write(&request.output, &error))?;
    Ok(report)
}

pub(super) fn create(path: &Path) -> Result<BufWriter<File>, Failure> {
    File::create(path)
        .map(|file| BufWriter::with_capacity(1 << 18, file))
        .map_err(|error| cannot_write(path, &error))
}

fn format_of(request: &RunRequest, input: &Path) -> Result<Format, Failure> {
    match request.format.as_deref() {
        Some("csv") => Ok(Format::Csv),
        Some(_) => Ok(Format::Jsonl),
        None => Format::guess(input).ok_or_else(|| {
            Failure::new(
                FailureKind::Usage,
                format!(
                    "cannot tell the form of {} from its name; say --format jsonl or --format csv",
                    input.display()
                ),
            )
        }),
    }
}

/// About how many records there are, for the progress bar.
fn count_lines(path: &Path, format: Format) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(1 << 18, File::open(path)?);
    let mut lines = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        lines += buffer.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let length = buffer.len();
        reader.consume(length);
    }
    Ok(match format {
        Format::Csv => lines.saturating_sub(1),
        Format::Jsonl => lines,
    })
}

pub(super) fn explain(failed: FailedRun) -> Failure {
    let kind = match &failed.error {
        error if error.limit().is_some() => FailureKind::Limit,
        RunError::Busy { .. } => FailureKind::Busy,
        RunError::Refused(_) | RunError::WrongWorld { .. } => FailureKind::Refused,
        _ => FailureKind::Failed,
    };
    let mut failure = Failure::of(kind, &failed.error);
    if !failed.report.log.is_empty() {
        failure.message.push_str(LOG);
        failure.message.push_str(&failed.report.log);
    }
    failure
}

pub(super) fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => FailureKind::NotFound,
        _ => FailureKind::Failed,
    };
    Failure::new(kind, format!("cannot read {}: {error}", path.display()))
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        FailureKind::Failed,
        format!("cannot write {}: {error}", path.display()),
    )
}
