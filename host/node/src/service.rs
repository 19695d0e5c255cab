//! What a node can be asked, in one place: the same work whether a command does it in its own
//! process or asks the node that is running.
//!
//! This wires the floors below together. Each answer is a module of its own; what is right and
//! wrong is decided further down.

mod adapters;
mod blobs;
mod defaults;
mod find;
mod finetune;
mod inspect;
mod install;
pub mod jobs;
pub mod kind;
mod language;
mod limits;
pub mod lineage;
mod locate;
mod models;
pub mod play;
mod publish;
mod remove;
mod run;
mod running;
mod together;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use skep_kernels::Isa;
use skep_sandbox::{CompileIn, Sandbox, SandboxConfig};
use skep_swarm::{Swarm, SwarmConfig, TicketDiscovery};
use skep_tensor::Device;
use tokio::sync::{OnceCell, mpsc};

use crate::config::{Config, Instructions};
use crate::failure::{Failure, FailureKind};
use crate::home::Home;
use crate::requests::{Listed, Progress, Request, Response, Status, TimeForJobs};

/// Where an answer reports how far it has come.
pub type ProgressSender = mpsc::Sender<Progress>;

/// A node: its home, and what of it is open. Parts open when they are first needed, so that a
/// command pays only for what it uses.
pub struct Service {
    home: Home,
    config: Config,
    swarm_config: SwarmConfig,
    swarm: OnceCell<Swarm>,
    sandbox: OnceLock<Arc<Sandbox>>,
    models: Arc<models::NodeModels>,
    running: running::Running,
    trainings: Arc<finetune::trainings::Trainings>,
    jobs: jobs::Jobs,
    /// Whether this process is a node that goes on when a command has its answer.
    node: OnceLock<()>,
    since: Instant,
}

impl Service {
    /// A node in this home. Nothing is opened yet.
    pub fn new(home: Home, config: Config) -> Result<Self, Failure> {
        if let Some(Instructions(isa)) = config.engine.instructions
            && !isa.settle_on()
        {
            return Err(Failure::new(
                FailureKind::Failed,
                format!(
                    "instructions in [engine] of config.toml: this process computes with {} already",
                    Isa::best().name()
                ),
            ));
        }
        let swarm_config = config.swarm(&home);
        let percent = config.jobs.device_percent();
        let models = models::NodeModels::new(Device::cpu(), config.engine, percent);
        let models = Arc::new(models);
        Ok(Self {
            home,
            config,
            swarm_config,
            swarm: OnceCell::new(),
            sandbox: OnceLock::new(),
            models,
            running: running::Running::default(),
            trainings: Arc::default(),
            jobs: jobs::Jobs::default(),
            node: OnceLock::new(),
            since: Instant::now(),
        })
    }

    /// Whether this program has a way to the devices that the owner has named. Whether they are there is found out when
    /// something is computed on them.
    pub fn has_ways(&self) -> Result<(), Failure> {
        skep_devices::is_built(self.config.engine.device).map_err(|error| {
            let text = format!("device in [engine] of config.toml: {error}");
            Failure::new(FailureKind::Failed, text)
        })?;
        finetune::device::open(self.config.trainings.device)?;
        Ok(())
    }

    /// Does what is asked.
    pub async fn answer(
        self: &Arc<Self>,
        request: Request,
        progress: ProgressSender,
    ) -> Result<Response, Failure> {
        match request {
            Request::Publish { path, key } => publish::package(self, &path, &key).await,
            Request::ModelAdd {
                path,
                name,
                version,
                key,
            } => publish::model(self, &path, &name, &version, &key).await,
            Request::AdapterAdd {
                path,
                base,
                name,
                version,
                key,
            } => publish::adapter(self, &path, base.as_deref(), &name, &version, &key).await,
            Request::AdapterList => self.list(Some("adapter")).await,
            Request::AdapterRemove { package } => remove::adapter(self, &package).await,
            Request::Install { package, from } => {
                install::install(self, &package, &from, progress).await
            }
            Request::Run(request) => run::run(self, *request, progress).await,
            Request::FineTune(request) => finetune::finetune(self, *request, progress).await,
            Request::Inspect { package } => inspect::inspect(self, &package).await,
            Request::List => self.list(None).await,
            Request::ModelList => self.list(Some("model")).await,
            Request::Status => self.status().await,
            Request::Find(request) => find::find(self, &request, &progress).await,
            Request::Job(request) => jobs::answer(self, *request, progress).await,
        }
    }

    /// Takes the jobs of others as far as the owner lets them in, and goes on with this home's own.
    pub async fn serve_jobs(self: &Arc<Self>) -> Result<(), Failure> {
        let _ = self.node.set(());
        jobs::provide(self).await?;
        together::member::take_part(self).await?;
        self.swarm().await?.gossip();
        jobs::resume(self);
        Ok(())
    }

    fn is_node(&self) -> bool {
        self.node.get().is_some()
    }

    /// The swarm side of the node, opened on first use. Only one process can have it open.
    pub async fn swarm(&self) -> Result<&Swarm, Failure> {
        self.swarm.get_or_try_init(|| self.open_swarm()).await
    }

    async fn open_swarm(&self) -> Result<Swarm, Failure> {
        let peers = install::nodes_of(&self.config.network.peers)?;
        let swarm = Swarm::open(self.swarm_config.clone())
            .await
            .map_err(|error| {
                let failure = Failure::of(FailureKind::Failed, &error);
                match error {
                    skep_swarm::OpenError::Locked { .. } => Failure::new(
                        FailureKind::Busy,
                        format!(
                            "{failure}; where `skep node` runs in a home, commands ask it and need not wait for each \
                             other"
                        ),
                    ),
                    _ => failure,
                }
            })?;
        // Nobody else can have drafts now that the home is this process's, which has none yet.
        if let Err(error) = blobs::clear_drafts(&self.home.drafts()) {
            tracing::warn!(%error, "what runs were writing when the node was ended is still there");
        }
        if !peers.is_empty() {
            swarm.add_discovery(Arc::new(TicketDiscovery::new(peers)));
        }
        Ok(swarm)
    }

    /// Closes what is open. Trainings keep a checkpoint first, and jobs stay where they are.
    pub async fn shutdown(&self) {
        self.trainings.end().await;
        self.jobs.stop().await;
        if let Some(swarm) = self.swarm.get() {
            swarm.shutdown().await;
        }
    }

    fn sandbox(&self) -> Result<Arc<Sandbox>, Failure> {
        if let Some(sandbox) = self.sandbox.get() {
            return Ok(Arc::clone(sandbox));
        }
        let defaults = SandboxConfig::default();
        let program =
            std::env::current_exe().map_err(|error| Failure::of(FailureKind::Failed, &error))?;
        let opened = Sandbox::new(SandboxConfig {
            cache_dir: Some(self.home.compiled()),
            owner: self.config.limits.clone(),
            guests: self.config.guests.unwrap_or(defaults.guests),
            compile_in: CompileIn::Process {
                program,
                arguments: vec![crate::COMPILER.to_owned()],
            },
            ..defaults
        })
        .map_err(|error| Failure::of(FailureKind::Failed, &error))?;
        let sandbox = self.sandbox.get_or_init(|| Arc::new(opened));
        let computing = sandbox.guests_computing();
        self.models.languages.give_way_to(computing.clone());
        skep_model::Workers::shared()
            .map_err(|error| Failure::of(FailureKind::Failed, &error))?
            .give_way_to(move || computing.any());
        Ok(Arc::clone(sandbox))
    }

    async fn list(&self, kind: Option<&str>) -> Result<Response, Failure> {
        let packages = locate::releases(self.swarm().await?)?
            .iter()
            .map(inspect::line_of)
            .filter(|line| kind.is_none_or(|kind| line.kind == kind))
            .collect();
        Ok(Response::Listed(Listed { packages }))
    }

    async fn status(&self) -> Result<Response, Failure> {
        let swarm = self.swarm().await?;
        let packages = locate::releases(swarm)?;
        let time = self.models.languages.background_time();
        Ok(Response::Status(Status {
            node: swarm.id().to_string(),
            addresses: swarm.addr().addrs.iter().map(ToString::to_string).collect(),
            ticket: swarm.ticket().to_string(),
            pid: std::process::id(),
            seconds: self.since.elapsed().as_secs_f64(),
            packages: packages.len() as u64,
            models: packages
                .iter()
                .filter(|release| release.model().is_some())
                .count() as u64,
            heard_of: swarm.acquaintances().len() as u64,
            account: jobs::account(self)?.id().to_string(),
            jobs: jobs::terms(&self.config.jobs),
            closed: self.jobs.closed().filter(|_| self.config.jobs.accept),
            running: self.running.lines(),
            loaded: self.models.loaded(),
            kept: self.jobs.kept(),
            kept_damaged: jobs::kept_damaged(&self.home),
            time_for_jobs: TimeForJobs {
                computed_seconds: time.computed.as_secs_f64(),
                rested_seconds: time.rested.as_secs_f64(),
            },
            interrupted: jobs::interruptions(self)?,
            hardware: self.jobs.hardware(self).await,
        }))
    }
}
