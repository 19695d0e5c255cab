//! Sets up a game: finds the village, the renderer and its model, and opens a session of each.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_registry::{Grants, ModelGrant};
use skep_sandbox::{Beginning, RunSpec};
use skep_tensor::Device;
use tokio::sync::mpsc;

use super::defaults::{self, bind_models};
use super::jobs::account;
use super::models::{Adapters, DefaultLanguage, RunModels};
use super::{Service, run};
use crate::cli;
use crate::control;
use crate::embedded::{self, Embedded};
use crate::failure::{Failure, FailureKind};
use crate::home::make_private;
use crate::play::{Bench, Evidence, Judged, Part, Sandboxed, Setting, Witness, Witnessed};
use crate::requests::{Request, Response};

/// Bytes that a saved game may have.
const LOG: u64 = 32 << 20;

/// Opens the game that was asked for.
pub async fn open(service: &Service, options: cli::Play) -> Result<Sandboxed, Failure> {
    if !(0.0..=2.0).contains(&options.temperature) {
        return Err(Failure::new(
            FailureKind::Usage,
            "--temperature goes from 0 to 2",
        ));
    }
    let beginning = match &options.load {
        Some(path) => Beginning::Log(read(path)?),
        None => Beginning::Seed(options.seed),
    };
    let witness = Witness::default();
    let village = part(service, &options.village, None, &witness).await?;
    let adapters = options.adapter.iter().map(|adapter| adapter.parse());
    let chosen = Chosen {
        models: options.model.as_slice(),
        adapters: adapters
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::of(FailureKind::Usage, &error))?,
        voices: !options.without_voices,
    };
    let renderer = part(service, &options.renderer, Some(chosen), &witness).await?;
    let evidence = evidence(service, options.evidence)?;
    let setting = Setting {
        sandbox: service.sandbox()?,
        village,
        renderer,
        witness,
        beginning,
        constrained: !options.without_grammar,
        temperature: options.temperature,
        seed: options.seed,
        node: node_of(service).await?,
        save: options.save,
        evidence,
    };
    // Sessions wait for their guests, which an event loop must not.
    tokio::task::spawn_blocking(move || Sandboxed::open(setting))
        .await
        .map_err(|error| Failure::of(FailureKind::Failed, &error))?
        .map_err(|error| Failure::of(FailureKind::Failed, &error))
}

/// Judges the evidence in a file: what each of its records is worth, as it is found.
pub async fn judge(
    service: &Service,
    village: &str,
    path: PathBuf,
    mut told: impl FnMut(Judged) + Send + 'static,
) -> Result<(), Failure> {
    let village = part(service, village, None, &Witness::default()).await?;
    let sandbox = service.sandbox()?;
    let judging = move || {
        let bench = Bench {
            sandbox: &sandbox,
            village: &village,
            log: LOG,
        };
        bench.judge(&path, &mut told).map_err(|error| {
            let kind = FailureKind::NotFound;
            Failure::new(kind, format!("cannot read {}: {error}", path.display()))
        })
    };
    tokio::task::spawn_blocking(judging)
        .await
        .map_err(|error| Failure::of(FailureKind::Failed, &error))?
}

/// Where evidence is written: the file that was asked for, or the one of this home.
fn evidence(service: &Service, asked: Option<PathBuf>) -> Result<Evidence, Failure> {
    let path = match asked {
        Some(path) => path,
        None => {
            let folder = service.home.evidence();
            make_private(&folder).map_err(|error| Failure::of(FailureKind::Failed, &error))?;
            folder.join("village.jsonl")
        }
    };
    Evidence::open(&path, account(service)?).map_err(|error| {
        let kind = FailureKind::Failed;
        Failure::new(kind, format!("cannot write {}: {error}", path.display()))
    })
}

/// What a player chose for the renderer.
struct Chosen<'a> {
    models: &'a [String],
    adapters: Vec<ModelGrant>,
    /// Whether people speak with the adapters that come with skep.
    voices: bool,
}

/// Finds and loads a component. One that is given models gets what it asks to be granted, and its
/// models are watched; a village has nothing to do with anything outside, and is granted nothing.
async fn part(
    service: &Service,
    package: &str,
    chosen: Option<Chosen<'_>>,
    witness: &Witness,
) -> Result<Part, Failure> {
    let (progress, _) = mpsc::channel(1);
    let mut subject = run::subject(service, package, &[], &progress).await.map_err(|failure| {
        // The names that are looked for without a word are a surprise to who has never heard of
        // them.
        let missing = failure.kind == FailureKind::NotFound || failure.kind == FailureKind::Usage;
        match missing && !Path::new(package).exists() {
            true => Failure::new(
                failure.kind,
                format!(
                    "{failure}. A game needs the packages `village` and `npc-renderer`: install \
                     them, or name their folders with --village and --renderer; in the \
                     repository, `cargo xtask play` builds and plays them"
                ),
            ),
            false => failure,
        }
    })?;
    let program = run::load(service, subject.component).await?;
    let mut spec = RunSpec {
        limits: subject.limits,
        device: Device::cpu(),
        ..RunSpec::default()
    };
    if let Some(chosen) = chosen {
        subject.grants.adapters.extend(chosen.adapters);
        let bound = bind_models(service, chosen.models, &subject.grants).await?;
        let adapters = match subject.grants.adapters.is_empty() {
            true => None,
            false => Some(Adapters {
                swarm: service.swarm().await?.clone(),
                runtime: tokio::runtime::Handle::current(),
            }),
        };
        let voices = match chosen.voices {
            true => voices_for(bound.language.as_ref(), &mut subject.grants)?,
            false => Vec::new(),
        };
        spec.grants = subject.grants;
        spec.models = Some(Arc::new(Witnessed {
            models: RunModels {
                node: Arc::clone(&service.models),
                encoder: bound.encoder.digest.to_string(),
                language: match &bound.language {
                    Some(chosen) => DefaultLanguage::Chosen(chosen.digest.to_string()),
                    None => DefaultLanguage::Embedded,
                },
                trained_encoder: None,
                adapters,
                voices,
                applied: None,
                home: service.home.clone(),
            },
            witness: witness.clone(),
        }));
    }
    Ok(Part { program, spec })
}

/// The voices that come with skep, granted: those that nobody gave another adapter for, and none of
/// them to another model than theirs.
fn voices_for(
    language: Option<&defaults::Default>,
    grants: &mut Grants,
) -> Result<Vec<&'static Embedded>, Failure> {
    if language.is_some_and(|chosen| chosen.digest != embedded::LANGUAGE.digest()) {
        return Ok(Vec::new());
    }
    let voices = embedded::VOICES.iter();
    let voices: Vec<&Embedded> = voices
        .filter(|voice| !grants.allows_adapter(voice.name))
        .collect();
    for voice in &voices {
        let grant = voice.name.parse::<ModelGrant>();
        let grant = grant.map_err(|error| Failure::of(FailureKind::Failed, &error))?;
        grants.adapters.insert(grant);
    }
    Ok(voices)
}

/// What this node is called among others: of the one that runs in this home, or of this process.
async fn node_of(service: &Service) -> Result<String, Failure> {
    let Some(stream) = control::connect(service.home.path()).await else {
        return Ok(service.swarm().await?.id().to_string());
    };
    match control::ask(stream, &Request::Status, &mut |_| {}).await? {
        Response::Status(status) => Ok(status.node),
        _ => Err(Failure::new(
            FailureKind::Failed,
            "the node that runs in this home does not say what it is called",
        )),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let said = |kind, reason: &dyn std::fmt::Display| {
        Failure::new(kind, format!("cannot take up {}: {reason}", path.display()))
    };
    let size = std::fs::metadata(path)
        .map_err(|error| said(FailureKind::NotFound, &error))?
        .len();
    if size > LOG {
        return Err(said(
            FailureKind::Usage,
            &"it is too large for a saved game",
        ));
    }
    std::fs::read(path).map_err(|error| said(FailureKind::Failed, &error))
}
