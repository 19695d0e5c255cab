//! Fine-tuning: runs a recipe on somebody's examples, and makes a package of what it saves.
//!
//! The recipe sees the examples, its base and nothing else; the room in the home folder is where
//! the training goes on from when it was interrupted. Whoever stops waiting for the answer stops
//! the training, which then keeps a checkpoint.

pub mod device;
mod plot;
mod rehearsal;
mod room;
mod shared;
pub mod trainings;

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_registry::{Digest, ModelGrant, ModelTask, PackageName, PublisherId};
use skep_sandbox::{Program, RunReport, RunSpec, SavedAdapter, TrainingRoom};
use skep_tensor::Device;
use tokio::runtime::Handle;

use self::room::{Begun, Room};
use self::trainings::{Entered, StopOnDrop};
use super::defaults::{BaseModel, any_base};
use super::limits::SetBy;
use super::models::{Adapters, DefaultLanguage, RunModels};
use super::run::{self, Subject};
use super::{ProgressSender, Service, lineage, locate, publish};
use crate::embedded;
use crate::failure::{Failure, FailureKind};
use crate::keys;
use crate::requests::{FineTuneRequest, FineTuned, Response};

pub use room::CARD;
pub use shared::{Visit, visit};

/// Trains what is asked, and publishes the adapter on this node.
pub async fn finetune(
    service: &Service,
    request: FineTuneRequest,
    progress: ProgressSender,
) -> Result<Response, Failure> {
    let listed = request.recipe.as_deref().unwrap_or(embedded::RECIPE.name);
    let _listed = service.running.enter(listed);
    // What can be wrong is found out before anything is learned.
    let key = keys::load(&service.home, &request.key)?;
    let name: PackageName = request
        .name
        .parse()
        .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
    let entered = service.trainings.enter(&request.name).await?;
    let base = request.base.as_deref().unwrap_or(embedded::LANGUAGE.name);
    let base = any_base(service, base).await?;
    check_family(service, &request, key.id()).await?;
    let (subject, set_by) = recipe(service, &request, &progress).await?;
    let program = run::load(service, subject.component.clone()).await?;
    let begun = Begun {
        base: base.base.digest.to_string(),
        data: digest_of(request.data.clone()).await?,
        recipe: program.digest().to_string(),
    };
    let folder = service.home.path().join("trainings").join(&request.name);
    let (fresh, stop) = (request.fresh, Arc::clone(&entered.stop));
    let mut room = Room::open(folder.clone(), begun, fresh, stop, progress)?;
    room.share = request.share;
    let kept = room.steps_kept();
    let kept = kept.map_err(|error| Failure::of(FailureKind::Failed, &error))?;
    let led = shared::lead(service, &request, &base, (&subject, &program), kept).await?;
    let (lead, own) = led.unzip();
    room.others = lead.as_ref().map(|lead| lead.others());
    // A step that others judge has to come to the same on their processors.
    if room.others.is_none() {
        room.device = device::open(service.config.trainings.device)?;
    }
    let room = Arc::new(room);
    let inside = Arc::clone(&room) as Arc<dyn TrainingRoom>;
    let spec = spec(service, subject, &base, inside, request.from.is_some()).await?;
    let sandbox = service.sandbox()?;

    let on_drop = StopOnDrop(Arc::clone(&entered.stop));
    let work = Work {
        program,
        spec,
        entered,
        room: Arc::clone(&room),
        settings: request.settings,
        data: request.data,
        own,
    };
    let ran = tokio::task::spawn_blocking(move || work.run(&sandbox))
        .await
        .map_err(|error| Failure::of(FailureKind::Failed, &error))?;
    let done = ran.map_err(|failure| set_by.told(failure))?;
    drop(on_drop);
    let published = publish::trained(service, &done.saved.folder, base, &name, &key).await?;
    room.close().map_err(|error| {
        let text = format!("cannot clear {}: {error}", folder.display());
        Failure::new(FailureKind::Failed, text)
    })?;
    let together = match lead {
        Some(lead) => Some(lead.report().await),
        None => None,
    };
    Ok(Response::FineTuned(Box::new(FineTuned {
        together,
        finetuned: published.published,
        releases: published.releases,
        ticket: published.ticket,
        adapter: published.adapter,
        steps: done.saved.steps,
        metrics: done.saved.metrics.into_iter().collect(),
        seconds: done.report.seconds,
        report: serde_json::to_value(&done.report)
            .map_err(|error| Failure::of(FailureKind::Failed, &error))?,
        losses: room.losses(),
        plot: done.plot,
        card: done.saved.folder.join(CARD),
    })))
}

/// A training that is done.
struct Done {
    saved: SavedAdapter,
    report: RunReport,
    plot: PathBuf,
}

/// What runs on a thread of its own, whether or not anybody still waits for it.
struct Work {
    program: Arc<Program>,
    spec: RunSpec,
    entered: Entered,
    room: Arc<Room>,
    settings: Vec<(String, String)>,
    data: PathBuf,
    /// The part of the data that is learned here, if others learn the rest.
    own: Option<Vec<u8>>,
}

impl Work {
    fn run(self, sandbox: &skep_sandbox::Sandbox) -> Result<Done, Failure> {
        let input: Box<dyn Read> = match self.own {
            Some(own) => Box::new(Cursor::new(own)),
            None => {
                let file = File::open(&self.data);
                let file = file.map_err(|error| run::cannot_read(&self.data, &error))?;
                Box::new(BufReader::new(file))
            }
        };
        let folder = self.room.folder().to_owned();
        let output = run::create(&folder.join("output"))?;
        let ran = sandbox.train(
            &self.program,
            &self.spec,
            &self.settings,
            input,
            output,
            &self.entered.cancel,
        );
        let steps = self.room.steps();
        // A picture of a training that failed shows where.
        let plot = folder.join("loss.png");
        let drawn = plot::draw(&steps, &plot);
        let report = ran.map_err(run::explain)?;
        self.room.check()?;
        drawn.map_err(|error| {
            let text = format!("cannot write {}: {error}", plot.display());
            Failure::new(FailureKind::Failed, text)
        })?;
        match self.room.saved() {
            Some(saved) => Ok(Done {
                saved,
                report,
                plot,
            }),
            None if self.room.is_to_stop() => Err(Failure::new(
                FailureKind::Failed,
                format!(
                    "the training was stopped after step {}; the same command goes on from there",
                    steps.last().map_or(0, |last| last.step)
                ),
            )),
            None => Err(Failure::new(
                FailureKind::Failed,
                "the recipe ended without having saved an adapter",
            )),
        }
    }
}

/// Whether the adapter that is gone on from is what it says, and what its family asks for leaves
/// room for what this one's author does.
async fn check_family(
    service: &Service,
    request: &FineTuneRequest,
    author: PublisherId,
) -> Result<(), Failure> {
    let Some(parent) = &request.from else {
        return Ok(());
    };
    let parent = locate::installed(service, parent).await?;
    let family = lineage::family_of(service, &parent).await?;
    let split = family.and_then(|family| family.split_of_child(author, request.share));
    match split {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::of(FailureKind::Refused, &error)),
    }
}

/// The recipe, with what it asks for, and who set its limits.
async fn recipe(
    service: &Service,
    request: &FineTuneRequest,
    progress: &ProgressSender,
) -> Result<(Subject, SetBy), Failure> {
    let package = match &request.recipe {
        Some(package) => package.clone(),
        None => {
            let folder = embedded::RECIPE.folder(&service.home);
            let folder = folder.map_err(|error| Failure::of(FailureKind::Failed, &error))?;
            folder.display().to_string()
        }
    };
    let found = run::subject(service, &package, &[], progress).await;
    let mut subject = found.map_err(|failure| {
        match failure.kind == FailureKind::NotFound && !Path::new(&package).exists() {
            true => Failure::new(
                failure.kind,
                format!("{failure}. Without --recipe it is the one that comes with skep"),
            ),
            false => failure,
        }
    })?;
    let set_by = SetBy::lower(&mut subject, &request.limits, &service.config.limits)?;
    if let Some(parent) = &request.from {
        let parent: ModelGrant = parent
            .parse()
            .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
        subject.grants.adapters.insert(parent);
    }
    Ok((subject, set_by))
}

/// What the recipe is given. Its base is the only model that it gets.
async fn spec(
    service: &Service,
    subject: Subject,
    base: &BaseModel,
    room: Arc<dyn TrainingRoom>,
    goes_on: bool,
) -> Result<RunSpec, Failure> {
    let BaseModel { base, task, path } = base;
    service.models.add(base.name.as_str(), base.digest, path)?;
    let adapters = match goes_on {
        true => Some(Adapters {
            swarm: service.swarm().await?.clone(),
            runtime: Handle::current(),
        }),
        false => None,
    };
    Ok(RunSpec {
        device: Device::cpu(),
        models: Some(Arc::new(RunModels {
            node: Arc::clone(&service.models),
            encoder: String::new(),
            language: DefaultLanguage::Chosen(base.digest.to_string()),
            trained_encoder: (*task == ModelTask::SentenceEncoder).then_some(base.digest),
            adapters,
            voices: Vec::new(),
            applied: None,
            home: service.home.clone(),
        })),
        training: Some(room),
        grants: subject.grants,
        limits: subject.limits,
        ..RunSpec::default()
    })
}

/// The digest of a file.
async fn digest_of(path: PathBuf) -> Result<String, Failure> {
    let hashing = tokio::task::spawn_blocking(move || {
        let mut hasher = blake3::Hasher::new();
        let hashed = hasher
            .update_reader(File::open(&path).map_err(|error| run::cannot_read(&path, &error))?);
        hashed.map_err(|error: io::Error| run::cannot_read(&path, &error))?;
        Ok(Digest::from_bytes(*hasher.finalize().as_bytes()).to_string())
    });
    hashing
        .await
        .map_err(|error| Failure::of(FailureKind::Failed, &error))?
}
